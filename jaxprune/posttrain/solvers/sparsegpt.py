r"""SparseGPT: masks and weights together, in one sweep over the inputs of a kernel.

With the damped Gram matrix $H = R R^\top$, $R$ upper triangular, the loss of a change $D$ of the weights is
$\|R^\top D\|^2$: input $j$ adds what is left of it after all inputs before it have made up for what they
could. The reference's factor of $H^{-1}$ is $R^{-1}$, so its score $w^2 / [H^{-1}]_{jj}$ is $(w R_{jj})^2$
with the current weight $w$: neither an inverse nor a second factorisation is needed. The sweep looks left: a
block of inputs reads what was changed before it in one matrix product.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import selection
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved, quotas
from jaxprune.posttrain.solvers.factor import Factor, factor, inverses
from jaxprune.posttrain.solvers.solver import Solver

__all__ = ["sparsegpt"]

_BLOCK = 128  # inputs that one matrix product makes ready
_SMALL = 32  # contests up to this length are decided when the sweep is there
_UNROLLED = 8  # contests up to this length are written out
_PARTS = 4  # of the sweep, each over what lies before its end only


@factory
def sparsegpt(*, damp: float = 0.01) -> Solver:
    r"""Returns the solver of SparseGPT.

    Within each block of 128 inputs the weights are chosen by $(w_i R_{ii})^2$ with what they are worth then;
    N:M groups and short contests are chosen when the sweep reaches them. Each weight that goes is made up for
    by those behind it. Kernels of one input share the factor and the sweep; counts are exact, in whole
    kernels and in each output.

    Args:
      damp: share of the mean of the Gram's diagonal that is added to it; ten times as much, up to six times,
        where float32 cannot factorise it, as is reported.

    Returns:
      `(kernels, contests, *, grams) -> list of Solved`; `grams` is `[layers, inputs, inputs]`.

    References:
      Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023).
      Departures: no inverse; counts per block are such that those of the kernel are exact, where the authors'
      threshold may remove more; inputs that are always zero keep their weights as far as the pattern allows.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.views import Layout
    >>> from jaxprune.posttrain.contests import contest
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> who = contest(patterns.groups(2), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> [solved] = sparsegpt(damp=0.0)([kernel], [who], grams=gram)
    >>> solved.kernel.round(4).tolist()  # 2 + 0.5 * 1
    [[[0.0], [2.5]]]
    """
    if not damp >= 0:
        raise ValueError(f"sparsegpt(damp={damp}): a share of at least 0 is needed.")

    def solver(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        for each in contests:
            each.one_weight_each("sparsegpt")
        found: list[Solved | None] = [None] * len(kernels)
        sorts: dict[Any, list[int]] = {}
        for index, each in enumerate(contests):
            sorts.setdefault((each.among, each.among == "inputs" and each.members), []).append(
                index
            )
        for (among, members), own in sorts.items():
            plan = _plan(among, members, grams.shape[1], [contests[i] for i in own], kernels, own)
            solved = _solved(
                [kernels[i] for i in own], grams, damp, plan.quotas, plan._replace(quotas=None)
            )
            for index, each in zip(own, solved, strict=True):
                found[index] = each
        return found  # type: ignore[return-value]

    return Solver(solver)


class _Plan(NamedTuple):
    """How the sweep goes.

    Attributes:
      block: inputs in a block.
      group: inputs in a group, for which one more product is made within the block.
      members: of the contests that are decided when the sweep is there; 0: blocks decide.
      across: whether all outputs of a kernel compete in a block, or each alone.
      quotas: survivors in each block by kernel, int32 `[blocks, kernels]`, or in each contest,
        `[1, kernels]`.
    """

    block: int
    group: int
    members: int
    across: bool
    quotas: Any


def _plan(
    among: Any,
    members: int,
    inputs: int,
    contests: Sequence[Contest],
    kernels: Sequence[jax.Array],
    own: Sequence[int],
) -> _Plan:
    if among == "inputs" and members <= _SMALL:
        group = members * max(1, _SMALL // members)
        block = group * max(1, _BLOCK // group)
        keep = np.array([[each.keep for each in contests]], np.int32)
        return _Plan(block, group, members, False, keep)
    whole = among == "layer" or members == inputs
    block = _BLOCK if whole else _divisor(members)
    group = math.gcd(block, _SMALL) if block % _SMALL == 0 else block
    ends = np.minimum(np.arange(block, inputs + block, block), inputs)
    shares = []
    for each, index in zip(contests, own, strict=True):
        if among == "layer":
            outputs = kernels[index].shape[2]
            shares.append(quotas(each.keep, ends * outputs, inputs * outputs))
        elif whole:
            shares.append(quotas(each.keep, ends, inputs))
        else:
            parts = np.arange(block, members + block, block)
            shares.append(np.tile(quotas(each.keep, parts, members), inputs // members))
    return _Plan(block, group, 0, among == "layer", np.stack(shares, 1))


def _divisor(members: int) -> int:
    """The longest block of at most 128 inputs that contests consist of; a contest if that would be short."""
    fits = [size for size in range(_SMALL, _BLOCK + 1) if members % size == 0]
    return max(fits, default=members)


@functools.partial(jax.jit, static_argnames="plan")
def _solved(
    kernels: Sequence[jax.Array], grams: jax.Array, damp: Any, shares: jax.Array, plan: _Plan
) -> list[Solved]:
    """Layer by layer; kernels side by side."""
    widths = [kernel.shape[2] for kernel in kernels]
    inputs = grams.shape[1]
    missing = -inputs % plan.block

    def one(layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernel, gram = layer
        with jax.default_matmul_precision("highest"):
            found = factor(jnp.pad(gram, (0, missing)), damp, inputs)
            wide = jnp.pad(kernel, ((0, missing), (0, 0)))
            new, kept = _sweep(wide, found, shares, plan, widths, inputs)
        return new[:inputs], kept[:inputs], found.damp

    new, kept, damps = lax.map(one, (jnp.concatenate(kernels, 2), grams))
    ends = np.cumsum(widths)[:-1]
    pieces = zip(jnp.split(new, ends, 2), jnp.split(kept, ends, 2), strict=True)
    return [Solved(jnp.where(mask, kernel, 0), mask, damps) for kernel, mask in pieces]


def _sweep(
    kernel: jax.Array,
    found: Factor,
    shares: jax.Array,
    plan: _Plan,
    widths: Sequence[int],
    inputs: int,
) -> tuple[jax.Array, jax.Array]:
    """The new kernel and which of its weights are kept; both with the inputs that were added at the end."""
    size, outputs = kernel.shape
    block = plan.block
    count = size // block
    inverse = None
    if not plan.members:
        blocks = found.upper.reshape(count, block, count, block)
        inverse = inverses(jnp.moveaxis(jnp.diagonal(blocks, axis1=0, axis2=2), -1, 0))
    change = jnp.zeros_like(kernel)  # old minus new
    kept = jnp.zeros_like(kernel, bool)
    parts = _PARTS if count >= 2 * _PARTS else 1
    ends = [count * (part + 1) // parts for part in range(parts)]
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        upper = found.upper[: end * block, : end * block]

        def one_block(index: Any, state: Any, upper: jax.Array = upper) -> Any:
            change, kept = state
            first = index * block
            columns = lax.dynamic_slice(upper, (0, first), (len(upper), block))
            within = lax.dynamic_slice(columns, (first, 0), (block, block))
            old = lax.dynamic_slice(kernel, (first, 0), (block, outputs))
            scale = lax.dynamic_slice(found.diagonal, (first,), (block,))[:, None]
            made_up = columns.T @ change[: len(upper)]  # 0 from this block on
            ready = _Block(old, made_up, within, scale)
            if inverse is None:
                new, mask = _by_contests(ready, shares[0], plan, widths)
            else:
                worth = jnp.square((old + inverse[index].T @ made_up) * scale)
                real = (first + jnp.arange(block) < inputs)[:, None]
                worth = jnp.where(real, worth, -1)
                mask = _chosen(worth, shares[index], plan.across, widths)
                new = _by_groups(ready, mask, plan.group)
            return (
                lax.dynamic_update_slice(change, new, (first, 0)),
                lax.dynamic_update_slice(kept, mask, (first, 0)),
            )

        change, kept = lax.fori_loop(begin, end, one_block, (change, kept))
    return kernel - change, kept


class _Block(NamedTuple):
    """A block of inputs that the sweep has reached.

    Attributes:
      old: weights, `[block, outputs]`.
      made_up: by how much they have moved to make up for what went before.
      within: the factor, `[block, block]`, with a unit diagonal.
      scale: the factor's diagonal, `[block, 1]`.
    """

    old: jax.Array
    made_up: jax.Array
    within: jax.Array
    scale: jax.Array


def _chosen(worth: jax.Array, count: jax.Array, across: bool, widths: Sequence[int]) -> jax.Array:
    """The best weights of a block, of each kernel over all outputs or in each output."""
    ends = np.cumsum(widths)[:-1]
    own = jnp.split(worth, ends, 1)
    if across:
        masks = selection.top_each(own, [count[k] for k in range(len(own))])
    else:
        masks = [selection.top_along(each, count[k], 0) for k, each in enumerate(own)]
    return jnp.concatenate(masks, 1)


def _by_groups(block: _Block, mask: jax.Array, group: int) -> jax.Array:
    """The change of a block's weights under a mask, group by group and within a group one by one."""

    def one_group(index: Any, change: jax.Array) -> jax.Array:
        begin = index * group
        columns = lax.dynamic_slice(block.within, (0, begin), (len(change), group))
        inner = lax.dynamic_slice(columns, (begin, 0), (group, group))
        rows = lambda array: lax.dynamic_slice_in_dim(array, begin, group, 0)
        old = rows(block.old)
        moved = rows(block.made_up) + columns.T @ change
        new = _one_by_one(old, moved, inner, rows(mask))
        return lax.dynamic_update_slice(change, new, (begin, 0))

    count = block.old.shape[0] // group
    return lax.fori_loop(0, count, one_group, jnp.zeros_like(block.old))


def _one_by_one(old: jax.Array, moved: jax.Array, inner: jax.Array, mask: jax.Array) -> jax.Array:
    """The change of some neighbouring inputs' weights: what goes takes along what it had moved by."""
    if len(old) <= _UNROLLED:
        change: list[jax.Array] = []
        for t in range(len(old)):
            own = moved[t] + sum(inner[u, t] * change[u] for u in range(t))
            change.append(jnp.where(mask[t], -own, old[t]))
        return jnp.stack(change)

    def one(t: Any, change: jax.Array) -> jax.Array:
        own = moved[t] + inner[:, t] @ change  # rows from t on are 0
        return change.at[t].set(jnp.where(mask[t], -own, old[t]))

    return lax.fori_loop(0, len(old), one, jnp.zeros_like(old))


def _by_contests(
    block: _Block, count: jax.Array, plan: _Plan, widths: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """The change of a block's weights, and which are kept, contest by contest."""
    members, group = plan.members, plan.group
    counts = jnp.repeat(count, np.array(widths), total_repeat_length=sum(widths))

    def one_group(index: Any, state: Any) -> Any:
        change, kept = state
        begin = index * group
        columns = lax.dynamic_slice(block.within, (0, begin), (len(change), group))
        rows = lambda array: lax.dynamic_slice_in_dim(array, begin, group, 0)
        square = lambda array: lax.dynamic_slice(array, (begin, begin), (group, group))
        part = _Block(
            rows(block.old),
            rows(block.made_up) + columns.T @ change,
            square(block.within),
            rows(block.scale),
        )

        def one_contest(index: Any, state: Any) -> Any:
            change, kept = state
            begin = index * members
            columns = lax.dynamic_slice(part.within, (0, begin), (group, members))
            rows = lambda array: lax.dynamic_slice_in_dim(array, begin, members, 0)
            square = lambda array: lax.dynamic_slice(array, (begin, begin), (members, members))
            old = rows(part.old)
            moved = rows(part.made_up) + columns.T @ change
            inner = square(part.within)
            free = _one_by_one(old, moved, inner, jnp.ones_like(old, bool))
            mask = _ranks(jnp.square((old - free) * rows(part.scale))) < counts[None]
            new = _one_by_one(old, moved, inner, mask)
            return (
                lax.dynamic_update_slice(change, new, (begin, 0)),
                lax.dynamic_update_slice(kept, mask, (begin, 0)),
            )

        state = jnp.zeros_like(part.old), jnp.zeros_like(part.old, bool)
        new, mask = lax.fori_loop(0, group // members, one_contest, state)
        return (
            lax.dynamic_update_slice(change, new, (begin, 0)),
            lax.dynamic_update_slice(kept, mask, (begin, 0)),
        )

    state = jnp.zeros_like(block.old), jnp.zeros_like(block.old, bool)
    return lax.fori_loop(0, block.old.shape[0] // group, one_group, state)


def _ranks(worth: jax.Array) -> jax.Array:
    """How many of a few rows are better than each, column by column; of equal ones the first is better."""
    ranks = []
    for i, own in enumerate(worth):
        better = [
            (other >= own) if j < i else (other > own) for j, other in enumerate(worth) if j != i
        ]
        ranks.append(
            sum((each.astype(jnp.int32) for each in better), jnp.zeros_like(own, jnp.int32))
        )
    return jnp.stack(ranks)
