"""Masks made better by exchanging one kept weight for one that goes, as long as that pays."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import criteria
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.solver import Solver, by_criterion, reads

__all__ = ["swaps"]


@factory
def swaps(*, start: Any = None, most: int = 32, refit: Any = None) -> Solver:
    r"""Returns the solver that starts from another's masks and makes the best exchanges in each output.

    What is kept has its old weight. With $d$ the weights that are gone, zero elsewhere, and $c = G d$, the
    error $d^\top G d$ changes by $w_i^2 G_{ii} + 2 w_i c_i + w_j^2 G_{jj} - 2 w_j c_j - 2 w_i w_j G_{ij}$ if
    $i$ goes and $j$ comes back. The best pair is exchanged, within a contest, until none lowers the error. It
    costs the square of a contest's inputs, per exchange and output.

    Args:
      start: solver of the first masks; `None`: by Wanda's criterion.
      most: exchanges in each output.
      refit: solver of the weights under the masks, such as `least_squares()`; `None`: the old weights stay.

    References:
      Zimmer et al., "SparseSwaps" (2025), for exchanges of one pair.
    """
    first = by_criterion(criteria.wanda) if start is None else start
    more = () if refit is None else reads(refit)
    names = tuple(dict.fromkeys((*reads(first), "grams", *more)))

    def solve(
        kernels: Sequence[jax.Array],
        contests: Sequence[Contest],
        *,
        grams: jax.Array,
        **statistics: Any,
    ) -> list[Solved]:
        known = {"grams": grams, **statistics}
        begun = first(kernels, contests, **{name: known[name] for name in reads(first)})
        found: list[Solved] = []
        for kernel, each, solved in zip(kernels, contests, begun, strict=True):
            each.one_weight_each("swaps")
            inputs = kernel.shape[1]
            members = each.members if each.among == "inputs" else inputs
            mask = _swapped(kernel, solved.mask, grams, members, most)
            damp = jnp.zeros(len(kernel), kernel.dtype)
            found.append(Solved(jnp.where(mask, kernel, 0), mask, damp))
        if refit is None:
            return found
        given = {name: known[name] for name in more}
        if "key" in given:
            given["key"] = jax.random.fold_in(given["key"], 1)  # the start has drawn with the other
        return refit(kernels, contests, masks=[each.mask for each in found], **given)

    return Solver(solve, names)


@functools.partial(jax.jit, static_argnames=("members", "most"))
def _swapped(
    kernel: jax.Array, mask: jax.Array, grams: jax.Array, members: int, most: int
) -> jax.Array:
    def one_layer(layer: Any) -> jax.Array:
        own, kept, gram = layer
        inputs = len(own)
        parts = gram.reshape(inputs // members, members, inputs // members, members)
        within = jnp.moveaxis(jnp.diagonal(parts, axis1=0, axis2=2), -1, 0)
        improve = functools.partial(_improved, gram=gram, within=within, most=most)
        return lax.map(lambda pair: improve(*pair), (own.T, kept.T)).T

    with jax.default_matmul_precision("highest"):
        return lax.map(one_layer, (kernel, mask, grams))


def _improved(
    weights: jax.Array, kept: jax.Array, *, gram: jax.Array, within: jax.Array, most: int
) -> jax.Array:
    """The mask of one output after its exchanges."""
    contests, members, _ = within.shape
    own = weights.reshape(contests, members)
    squares = jnp.square(weights) * jnp.diagonal(gram)
    pairs = 2 * own[:, :, None] * own[:, None, :] * within

    def unfinished(state: Any) -> jax.Array:
        step, _, _, better = state
        return (step < most) & better

    def exchange(state: Any) -> Any:
        step, kept, pull, _ = state
        change = 2 * weights * pull
        goes = jnp.where(kept, squares + change, jnp.inf).reshape(contests, members)
        comes = jnp.where(kept, jnp.inf, squares - change).reshape(contests, members)
        gain = goes[:, :, None] + comes[:, None, :] - pairs
        place = jnp.argmin(gain)
        contest, rest = place // members**2, place % members**2
        out = contest * members + rest // members
        back = contest * members + rest % members
        better = gain.reshape(-1)[place] < -1e-6 * jnp.maximum(jnp.sum(squares), 1e-30)
        new = kept.at[out].set(False).at[back].set(True)
        moved = pull + gram[:, out] * weights[out] - gram[:, back] * weights[back]
        return step + 1, jnp.where(better, new, kept), jnp.where(better, moved, pull), better

    pull = gram @ jnp.where(kept, 0, weights)
    return lax.while_loop(unfinished, exchange, (0, kept, pull, jnp.array(True)))[1]
