"""SparseSwaps: improves masks by exchanging a kept weight and a removed one while this lowers the error."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import checks, criteria
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.solver import (
    REFIT,
    SOLVER,
    Solver,
    by_criterion,
    statistics_read_by,
)

__all__ = ["swaps"]


@factory
def swaps(*, start: Any = None, most: int = 32, refit: Any = None) -> Solver:
    r"""Returns the solver that improves the masks of another solver by exchanges in each output.

    Kept weights have their old values. Let $G$ be the Gram matrix, $d$ the removed weights, with zeros
    elsewhere, and $c = G d$. The error $d^\top G d$ changes by
    $w_i^2 G_{ii} + 2 w_i c_i + w_j^2 G_{jj} - 2 w_j c_j - 2 w_i w_j G_{ij}$
    if $i$ is removed and $j$ comes back. The best pair is exchanged, within a
    contest, until no exchange lowers the error. Each exchange of an output costs the square of the number of
    inputs in a contest.

    Args:
      start: solver that chooses the first masks; `None`: `by_criterion` with Wanda's criterion.
      most: largest number of exchanges in each output, 0 or above.
      refit: solver of the weights under the masks, such as `least_squares()`; `None`: the old weights stay.

    Returns:
      `(kernels, contests, *, grams, ...) -> list of Solved`; it also reads what `start` and `refit` read.

    Raises:
      ValueError: if `most` is negative.
      TypeError: if `start` is no solver, or `refit` chooses masks of its own.

    References:
      Zimmer et al., "SparseSwaps" (2025), for exchanges of one pair.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.contests import contest
    >>> from jaxprune.posttrain.solvers import by_criterion
    >>> from jaxprune.posttrain.views import Layout
    >>> one_of_two = contest(patterns.groups(), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[9.0, 0.0], [0.0, 1.0]]])
    >>> by_magnitude = by_criterion(criteria.magnitude)  # keeps the 2, whose input is weak
    >>> swaps(start=by_magnitude)([kernel], [one_of_two], grams=gram)[0].kernel.tolist()
    [[[1.0], [0.0]]]
    """
    checks.check(
        "swaps",
        start=(start, checks.optional(SOLVER)),
        most=(most, checks.INTEGER),
        refit=(refit, checks.optional(REFIT)),
    )
    if most < 0:
        raise ValueError(f"swaps(most={most}): a number of exchanges, 0 or above, is needed.")
    first_solver = by_criterion(criteria.wanda) if start is None else start
    refit_names = () if refit is None else statistics_read_by(refit)
    names = tuple(dict.fromkeys((*statistics_read_by(first_solver), "grams", *refit_names)))

    def solve(
        kernels: Sequence[jax.Array],
        contests: Sequence[Contest],
        *,
        grams: jax.Array,
        **statistics: Any,
    ) -> list[Solved]:
        all_statistics = {"grams": grams, **statistics}
        first_statistics = {name: all_statistics[name] for name in statistics_read_by(first_solver)}
        first_results = first_solver(kernels, contests, **first_statistics)
        results: list[Solved] = []
        for kernel, kernel_contest, solved in zip(kernels, contests, first_results, strict=True):
            kernel_contest.one_weight_each("swaps")
            inputs = kernel.shape[1]
            members = kernel_contest.members if kernel_contest.among == "inputs" else inputs
            mask = _exchange_weights(kernel, solved.mask, grams, members, most)
            damp = jnp.zeros(len(kernel), kernel.dtype)
            results.append(Solved(jnp.where(mask, kernel, 0), mask, damp))
        if refit is None:
            return results
        refit_statistics = {name: all_statistics[name] for name in refit_names}
        if "key" in refit_statistics:
            # The first solver has drawn with the key itself.
            refit_statistics["key"] = jax.random.fold_in(refit_statistics["key"], 1)
        masks = [result.mask for result in results]
        return refit(kernels, contests, masks=masks, **refit_statistics)

    return Solver(solve, names)


@functools.partial(jax.jit, static_argnames=("members", "most"))
def _exchange_weights(
    kernel: jax.Array, mask: jax.Array, grams: jax.Array, members: int, most: int
) -> jax.Array:
    """Returns the masks of a kernel after the exchanges, layer by layer and output by output."""

    def one_layer(layer: Any) -> jax.Array:
        weights, kept_mask, gram = layer
        inputs = len(weights)
        gram_blocks = gram.reshape(inputs // members, members, inputs // members, members)
        contest_grams = jnp.moveaxis(jnp.diagonal(gram_blocks, axis1=0, axis2=2), -1, 0)
        improve_output = functools.partial(
            _improve_mask, gram=gram, contest_grams=contest_grams, most=most
        )
        return lax.map(
            lambda weights_and_mask: improve_output(*weights_and_mask), (weights.T, kept_mask.T)
        ).T

    with jax.default_matmul_precision("highest"):
        return lax.map(one_layer, (kernel, mask, grams))


def _improve_mask(
    weights: jax.Array, mask: jax.Array, *, gram: jax.Array, contest_grams: jax.Array, most: int
) -> jax.Array:
    """Returns the mask of one output after its exchanges.

    Args:
      weights: `[inputs]`.
      mask: of the kept ones, at first.
      gram: `[inputs, inputs]`.
      contest_grams: the Gram's diagonal blocks, `[contests, members, members]`.
      most: number of exchanges, at most.
    """
    contests, members, _ = contest_grams.shape
    contest_weights = weights.reshape(contests, members)
    squares = jnp.square(weights) * jnp.diagonal(gram)
    pair_terms = 2 * contest_weights[:, :, None] * contest_weights[:, None, :] * contest_grams

    def unfinished(state: Any) -> jax.Array:
        step_index, _, _, is_better = state
        return (step_index < most) & is_better

    def exchange(state: Any) -> Any:
        step_index, mask, residual_product, _ = state
        change = 2 * weights * residual_product
        removal_cost = jnp.where(mask, squares + change, jnp.inf).reshape(contests, members)
        return_cost = jnp.where(mask, jnp.inf, squares - change).reshape(contests, members)
        exchange_cost = removal_cost[:, :, None] + return_cost[:, None, :] - pair_terms
        best_pair = jnp.argmin(exchange_cost)
        contest = best_pair // members**2
        pair_index = best_pair % members**2
        removed = contest * members + pair_index // members
        returned = contest * members + pair_index % members
        is_better = exchange_cost.reshape(-1)[best_pair] < -1e-6 * jnp.maximum(
            jnp.sum(squares), 1e-30
        )
        new_mask = mask.at[removed].set(False).at[returned].set(True)
        new_product = (
            residual_product
            + gram[:, removed] * weights[removed]
            - gram[:, returned] * weights[returned]
        )
        return (
            step_index + 1,
            jnp.where(is_better, new_mask, mask),
            jnp.where(is_better, new_product, residual_product),
            is_better,
        )

    residual_product = gram @ jnp.where(mask, 0, weights)
    return lax.while_loop(unfinished, exchange, (0, mask, residual_product, jnp.array(True)))[1]
