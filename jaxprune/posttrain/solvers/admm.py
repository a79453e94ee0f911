"""The layer's least squares under a limit on how many weights are kept, by alternating directions."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.factor import damped
from jaxprune.posttrain.solvers.least_squares import refitted
from jaxprune.posttrain.solvers.solver import Solver, best_mask

__all__ = ["admm"]


@factory
def admm(
    *, damp: float = 0.01, iterations: int = 60, penalty: float = 0.1, growth: float = 1.1
) -> Solver:
    r"""Returns the solver by the alternating direction method of multipliers.

    The error of the layer is minimised over $W$, and a copy $Z = W$ keeps as many weights as the contests
    allow: $W \leftarrow (H + \rho I)^{-1} (H W_0 + \rho Z - V)$, $Z \leftarrow$ the best of $W + V / \rho$,
    $V \leftarrow V + \rho (W - Z)$. One eigendecomposition of $H$ serves all $\rho$, which grow until the
    support stands; then the weights are fitted under it by conjugate gradients.

    Args:
      damp: share of the mean of the Gram's diagonal that is added to it.
      iterations: of the method.
      penalty: the first $\rho$, as a share of the mean of $H$'s diagonal.
      growth: of $\rho$ in each iteration.

    References:
      Meng, Behdin, Wang & Mazumder, "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
      Language Models" (2024). Departures: $\rho$ grows at one rate, where theirs depends on the support, and
      inputs are not rescaled.
    """
    if growth < 1 or penalty <= 0 or iterations < 1:
        raise ValueError(
            f"admm(iterations={iterations}, penalty={penalty}, growth={growth}): at least 1, above 0 and at "
            "least 1 are needed."
        )

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        found: list[Solved] = []
        for kernel, each in zip(kernels, contests, strict=True):
            each.one_weight_each("admm")
            how = (each.pattern, each.window, iterations)
            mask = _support(kernel, grams, damp, each.keep, penalty, growth, *how)
            new = refitted(kernel, mask, grams, damp, 64)
            found.append(Solved(new, mask, jnp.full(len(kernel), damp)))
        return found

    return Solver(solve)


@functools.partial(jax.jit, static_argnames=("pattern", "window", "iterations"))
def _support(
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
    with jax.default_matmul_precision("highest"):
        grams = lax.map(lambda gram: damped(gram, damp, len(gram)), grams)
        values, vectors = lax.map(jnp.linalg.eigh, grams)
        mean = jnp.mean(values, 1)[:, None, None]
        wanted = grams @ kernel
        choose = lambda weights: best_mask(pattern, window, jnp.abs(weights), keep)

        def iterate(_: Any, state: Any) -> Any:
            copy, dual, share = state
            force = share * mean
            right = vectors.mT @ (wanted + force * copy - dual)
            weights = vectors @ (right / (values[:, :, None] + force))
            moved = weights + dual / force
            copy = jnp.where(choose(moved), moved, 0)
            return copy, dual + force * (weights - copy), share * growth

        start = jnp.where(choose(kernel), kernel, 0)
        state = start, jnp.zeros_like(kernel), jnp.asarray(penalty, kernel.dtype)
        copy, *_ = lax.fori_loop(0, iterations, iterate, state)
        return choose(copy)
