"""One segment run on all batches, with statistics at its end; and all of them, for the statistics alone."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.statistics import Sums, add, statistics
from jaxprune.posttrain.streams import Streams, checked
from jaxprune.posttrain.work import Work
from jaxprune.types import Params

__all__ = ["Totals", "gather", "of_streams", "through"]

Statistics = dict[str, jax.Array]


class Totals(NamedTuple):
    """Sums of statistics over batches.

    Attributes:
      seen: of the batches that are calibrated on.
      held: of those that are held out; `None` where there are none.
    """

    seen: Sums | None
    held: Sums | None


def through(
    work: Work,
    streams: Streams,
    index: int,
    names: Collection[str],
    *,
    dense: bool = False,
    held: Collection[int] = (),
) -> Totals:
    """Runs a segment on all batches; returns the sums of the statistics at its end, if there are any.

    Args:
      work: with the parameters.
      streams: of all batches; they are changed.
      index: of the segment.
      names: of the statistics.
      dense: whether with the parameters as they were.
      held: indices of the batches that are held out.

    Raises:
      ValueError: if a batch gives NaN or infinity at the inputs of the kernels behind the segment.
    """
    totals: list[Sums | None] = [None, None]
    finite: list[jax.Array] = []
    for batch in range(len(streams)):
        stream, examples = streams[batch]
        stream, sums = work.advance(index, stream, names, examples, dense)
        streams[batch] = stream
        if sums is not None:
            which = int(batch in held)
            totals[which] = add(totals[which], sums)
            finite.append(sums.finite)
            jax.block_until_ready(totals[which])
    bad = [batch for batch, fine in enumerate(finite) if not bool(fine)]
    if bad:
        each = work.plan.inputs[work.plan.cuts[index].input or 0]
        name = work.plan.kernels[each.kernels[0]].name
        others = f", and so do {len(bad) - 1} others" if len(bad) > 1 else ""
        raise ValueError(
            f"posttrain: batch {bad[0]} (counted from 0) gives NaN or infinity at the inputs of {name!r}"
            f"{others}; mend or leave out these batches, or look for NaN in the parameters."
        )
    return Totals(*totals)


def gather(
    plan: Plan, params: Params, batches: Iterable[Any], names: Collection[str] = ("input_moments",)
) -> dict[str, Statistics]:
    """Returns statistics of what enters each kernel of a network as it is, segment by segment.

    All of them are kept: Gram matrices of a large network are many gigabytes.

    Args:
      plan: from `jaxprune.posttrain.plan`.
      params: tree of arrays.
      batches: of the shapes that the plan is for.
      names: "input_moments": mean squares, `[layers, inputs, 1]`; "grams": mean products,
        `[layers, inputs, inputs]`.

    Returns:
      By the name of the kernel, arrays by the name of the statistic; those of kernels that share an input are
      the same arrays. A kernel that is used several times has the mean over its uses.

    >>> import jax.numpy as jnp
    >>> from jaxprune.posttrain import plan
    >>> apply, params, x = (lambda p, x: x @ p["w"]), {"w": jnp.ones((2, 3))}, jnp.array([[1.0, 2.0]])
    >>> gather(plan(apply, params, x), params, [x])["w"]["input_moments"].tolist()
    [[[1.0], [4.0]]]
    """
    wrong = [name for name in names if name not in ("input_moments", "grams")]
    if wrong:
        raise ValueError(
            f'posttrain.gather: there is no statistic {wrong[0]!r}; "input_moments" and "grams" there are.'
        )
    work = Work(plan, checked(plan, params))
    return of_streams(plan, work, Streams(plan, work, batches, "device"), names)


def of_streams(
    plan: Plan,
    work: Work,
    streams: Streams,
    names: Collection[str],
    held: Collection[int] = (),
) -> dict[str, Statistics]:
    """What `gather` returns, of streams that have not begun; they are used up.

    Args:
      plan: of the network.
      work: with the parameters.
      streams: of all batches.
      names: of the statistics.
      held: indices of the batches that do not count.
    """
    examples = streams.examples_of([b for b in range(len(streams)) if b not in held])
    known: list[Statistics] = []
    last = max(index for index, cut in enumerate(plan.cuts) if cut.input is not None)
    for index in range(last + 1):
        work.release()
        total = through(work, streams, index, names, dense=True, held=held).seen
        which = plan.cuts[index].input
        if which is not None and total is not None:
            known.append(statistics(total, plan.inputs[which], examples))
    found: dict[str, Statistics] = {}
    for kernel in plan.kernels:
        found[kernel.name] = _mean_of_uses([known[i] for i in kernel.inputs])
    return found


def _mean_of_uses(uses: Sequence[Statistics]) -> Statistics:
    """Statistics of a kernel that is used several times: each use counts the same."""
    if len(uses) == 1:
        return uses[0]
    return {name: jnp.mean(jnp.stack([use[name] for use in uses]), 0) for name in uses[0]}
