"""Least squares under given masks: kept weights are refitted to make up for the removed ones."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.kernel_axes.matrices import check_damp, conjugate_gradients
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.factor import add_damping
from jaxprune.posttrain.solvers.solver import Solver

__all__ = ["least_squares", "refit_kernel"]


@factory
def least_squares(*, damp: float = 0.01, iterations: int = 64) -> Solver:
    r"""Returns the solver that refits weights under given masks, for `refit=` of the other solvers.

    It runs conjugate gradients on all outputs at once. An iteration costs one product with the Gram matrix;
    an exact solution would cost a factorisation per output. A lower error of a layer does not always give a
    better network: with few tokens the network may become worse. Compare networks on held-out data.

    Args:
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.
      iterations: largest number of iterations of conjugate gradients, 1 or above.

    Returns:
      `(kernels, contests, *, grams, masks) -> list of Solved`.

    Raises:
      ValueError: if an argument is out of its range.

    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> mask = jnp.array([[[False], [True]]])
    >>> least_squares(damp=0.0)([kernel], [], grams=gram, masks=[mask])[0].kernel.tolist()
    [[[0.0], [2.5]]]
    """
    check_damp("least_squares", damp)
    if iterations < 1:
        raise ValueError(f"least_squares(iterations={iterations}): at least 1 is needed.")

    def solve(
        kernels: Sequence[jax.Array],
        contests: Sequence[Contest],
        *,
        grams: jax.Array,
        masks: Sequence[jax.Array],
        **_,
    ) -> list[Solved]:
        return [
            Solved(
                refit_kernel(kernel, mask, grams, damp, iterations),
                mask,
                jnp.full(len(kernel), damp),
            )
            for kernel, mask in zip(kernels, masks, strict=True)
        ]

    return Solver(solve, ("grams",))


@functools.partial(jax.jit, static_argnames="iterations")
def refit_kernel(
    kernel: jax.Array, mask: jax.Array, grams: jax.Array, damp: Any, iterations: int
) -> jax.Array:
    """Returns a kernel refitted under a mask by conjugate gradients, layer by layer.

    Args:
      kernel: `[layers, inputs, outputs]`.
      mask: bool of the same shape.
      grams: `[layers, inputs, inputs]`.
      damp: share of the mean of the Gram's diagonal.
      iterations: of conjugate gradients, at most.
    """

    def one_layer(layer: Any) -> jax.Array:
        weights, kept_mask, gram = layer
        gram = add_damping(gram, damp, len(gram))
        return conjugate_gradients(weights, kept_mask, gram, iterations=iterations)

    return jnp.where(mask, lax.map(one_layer, (kernel, mask, grams)), 0)
