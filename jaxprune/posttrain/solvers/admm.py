"""Least squares of a layer under a limit on the number of kept weights, by ADMM."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.kernel_axes.matrices import check_damp
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.factor import add_damping
from jaxprune.posttrain.solvers.least_squares import refit_kernel
from jaxprune.posttrain.solvers.solver import Solver, best_mask

__all__ = ["admm"]


@factory
def admm(
    *, damp: float = 0.01, iterations: int = 60, penalty: float = 0.1, growth: float = 1.1
) -> Solver:
    r"""Returns the solver by the alternating direction method of multipliers.

    With the damped Gram matrix $H$ and the dense weights $W_0$, the error of the layer is minimised over $W$
    under the constraint $W = Z$, where $Z$ has as many nonzeros as the contests allow. An iteration is
    $W \leftarrow (H + \rho I)^{-1} (H W_0 + \rho Z - V)$, $Z \leftarrow$ the largest of $W + V / \rho$, and
    $V \leftarrow V + \rho (W - Z)$. $\rho$ grows in each iteration, so that the set of kept weights settles;
    one eigendecomposition of $H$ serves all $\rho$. Then the kept weights are refitted by conjugate
    gradients.

    Args:
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.
      iterations: number of iterations, at least 1.
      penalty: the first $\rho$, as a fraction of the mean of $H$'s diagonal, above 0.
      growth: factor by which $\rho$ grows in each iteration, at least 1.

    Returns:
      `(kernels, contests, *, grams) -> list of Solved`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Meng, Behdin, Wang & Mazumder, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
      Language Models" (2024). Departures: $\rho$ grows at one rate; theirs depends on the support. Inputs are
      not rescaled.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.contests import contest
    >>> from jaxprune.posttrain.views import Layout
    >>> one_of_two = contest(patterns.groups(), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> admm(damp=0.0)([kernel], [one_of_two], grams=gram)[0].kernel.round(4).tolist()
    [[[0.0], [2.5]]]
    """
    check_damp("admm", damp)
    if growth < 1 or penalty <= 0 or iterations < 1:
        raise ValueError(
            f"admm(iterations={iterations}, penalty={penalty}, growth={growth}): at least 1, above 0 and at "
            "least 1 are needed."
        )

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        results: list[Solved] = []
        for kernel, kernel_contest in zip(kernels, contests, strict=True):
            kernel_contest.one_weight_each("admm")
            pattern = kernel_contest.pattern
            window = kernel_contest.window
            keep = kernel_contest.keep
            mask = _admm_mask(
                kernel, grams, damp, keep, penalty, growth, pattern, window, iterations
            )
            new_kernel = refit_kernel(kernel, mask, grams, damp, 64)
            results.append(Solved(new_kernel, mask, jnp.full(len(kernel), damp)))
        return results

    return Solver(solve)


@functools.partial(jax.jit, static_argnames=("pattern", "window", "iterations"))
def _admm_mask(
    kernel: jax.Array,
    grams: jax.Array,
    damp: Any,
    keep: Any,
    penalty: Any,
    growth: Any,
    pattern: Any,
    window: int,
    iterations: int,
) -> jax.Array:
    """Returns the mask of kept weights `[layers, inputs, outputs]` after all iterations."""

    def choose(weights: jax.Array) -> jax.Array:
        return best_mask(pattern, window, jnp.abs(weights), keep)

    with jax.default_matmul_precision("highest"):
        grams = lax.map(lambda gram: add_damping(gram, damp, len(gram)), grams)
        eigenvalues, eigenvectors = lax.map(jnp.linalg.eigh, grams)
        mean_eigenvalues = jnp.mean(eigenvalues, 1)[:, None, None]
        targets = grams @ kernel

        def iterate(_: Any, state: Any) -> Any:
            copy, dual, penalty_share = state
            penalties = penalty_share * mean_eigenvalues
            right_side = eigenvectors.mT @ (targets + penalties * copy - dual)
            weights = eigenvectors @ (right_side / (eigenvalues[:, :, None] + penalties))
            shifted = weights + dual / penalties
            copy = jnp.where(choose(shifted), shifted, 0)
            return copy, dual + penalties * (weights - copy), penalty_share * growth

        initial_copy = jnp.where(choose(kernel), kernel, 0)
        initial_dual = jnp.zeros_like(kernel)
        initial_state = (initial_copy, initial_dual, jnp.asarray(penalty, kernel.dtype))
        copy, *_ = lax.fori_loop(0, iterations, iterate, initial_state)
        return choose(copy)
