"""Runs segments on all batches and sums statistics of kernel inputs: one segment, or all in a row."""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import jax

from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.statistics import Sums, add, add_use, mean_of_uses, statistics
from jaxprune.posttrain.streams import Streams, checked_leaves
from jaxprune.posttrain.work import PruningState
from jaxprune.types import Params
from jaxprune.wording import counted

__all__ = ["Totals", "gather", "run_segment", "statistics_of_streams"]

Statistics = dict[str, jax.Array]


class Totals(NamedTuple):
    """Sums of statistics over batches.

    Attributes:
      calibration: over the batches that are calibrated on.
      held_out: over those that are held out; `None` where there are none.
    """

    calibration: Sums | None
    held_out: Sums | None


def run_segment(
    state: PruningState,
    streams: Streams,
    index: int,
    names: Collection[str],
    *,
    dense: bool = False,
    held_out: Collection[int] = (),
) -> Totals:
    """Runs a segment on all batches; returns the sums of the statistics at its end, if there are any.

    Args:
      state: holds the parameters.
      streams: activations of all batches; they move on to the end of the segment.
      index: of the segment.
      names: of the statistics.
      dense: whether the parameters are those before pruning.
      held_out: indices of the batches that are held out.

    Returns:
      The sums of the calibration batches and of those held out.

    Raises:
      ValueError: if a batch gives NaN or infinity at the inputs of the kernels behind the segment.
    """
    sums_by_role: list[Sums | None] = [None, None]
    finite_flags: list[jax.Array] = []
    for batch in range(len(streams)):
        stream, examples = streams[batch]
        stream, statistic_sums = state.advance(index, stream, names, examples, dense)
        streams[batch] = stream
        if statistic_sums is not None:
            role = int(batch in held_out)
            sums_by_role[role] = add(sums_by_role[role], statistic_sums)
            finite_flags.append(statistic_sums.finite)
            jax.block_until_ready(sums_by_role[role])
    bad_batches = [batch for batch, is_finite in enumerate(finite_flags) if not bool(is_finite)]
    if bad_batches:
        kernel_input = state.plan.inputs[state.plan.cuts[index].input or 0]
        name = state.plan.kernels[kernel_input.kernels[0]].name
        other_count = len(bad_batches) - 1
        others = f", as {counted(other_count, 'other does', 'others do')}" if other_count else ""
        raise ValueError(
            f"posttrain: batch {bad_batches[0]} (counted from 0) gives NaN or infinity at the inputs of "
            f"{name!r}{others}; mend or leave out these batches, or look for NaN in the parameters."
        )
    return Totals(*sums_by_role)


def gather(
    plan: Plan, params: Params, batches: Iterable[Any], names: Collection[str] = ("input_moments",)
) -> dict[str, Statistics]:
    """Returns statistics of the inputs of each kernel of a network, gathered segment by segment.

    The network is taken as it is: nothing is pruned. All statistics are kept in memory: Gram matrices of a
    large network are many gigabytes.

    Args:
      plan: from `jaxprune.posttrain.plan`.
      params: tree of arrays.
      batches: of the shapes that the plan is for.
      names: of the statistics: "input_moments" are mean squares, `[layers, inputs, 1]`; "grams" mean
        products, `[layers, inputs, inputs]`.

    Returns:
      By the name of the kernel, arrays by the name of the statistic; those of kernels that share an input are
      the same arrays. A kernel that is used several times has the mean over the rows of all
      its uses.

    Raises:
      ValueError: if there is no name, or one is neither of the two; if parameters or batches have other
        shapes than the plan is for; if a batch gives NaN or infinity at the inputs of a kernel.

    >>> import jax.numpy as jnp
    >>> from jaxprune.posttrain import plan
    >>> apply, params, x = (lambda p, x: x @ p["w"]), {"w": jnp.ones((2, 3))}, jnp.array([[1.0, 2.0]])
    >>> gather(plan(apply, params, x), params, [x])["w"]["input_moments"].tolist()
    [[[1.0], [4.0]]]
    """
    if isinstance(names, str) or not names:
        raise ValueError(
            f'posttrain.gather(names={names!r}): a list of one or both of "input_moments" and "grams" is '
            "needed."
        )
    unknown_names = [name for name in names if name not in ("input_moments", "grams")]
    if unknown_names:
        raise ValueError(
            f"posttrain.gather: there is no statistic {unknown_names[0]!r}; "
            '"input_moments" and "grams" there are.'
        )
    state = PruningState(plan, checked_leaves(plan, params))
    return statistics_of_streams(plan, state, Streams(plan, state, batches, "device"), names)


def statistics_of_streams(
    plan: Plan,
    state: PruningState,
    streams: Streams,
    names: Collection[str],
    held_out: Collection[int] = (),
) -> dict[str, Statistics]:
    """Returns what `gather` does, from streams at the beginning of the program; they are used up.

    Args:
      plan: of the network.
      state: holds the parameters.
      streams: activations of all batches.
      names: of the statistics.
      held_out: indices of the batches that do not count.
    """
    examples = streams.examples_of(
        [batch for batch in range(len(streams)) if batch not in held_out]
    )
    statistics_of_inputs: list[Statistics] = []
    last_index = max(index for index, cut in enumerate(plan.cuts) if cut.input is not None)
    for index in range(last_index + 1):
        state.release()
        totals = run_segment(state, streams, index, names, dense=True, held_out=held_out)
        calibration_sums = totals.calibration
        input_index = plan.cuts[index].input
        if input_index is not None and calibration_sums is not None:
            statistics_of_inputs.append(
                statistics(calibration_sums, plan.inputs[input_index], examples)
            )
    statistics_of_kernels: dict[str, Statistics] = {}
    for kernel in plan.kernels:
        kernel_statistics = statistics_of_inputs[kernel.inputs[0]]
        if len(kernel.inputs) > 1:
            uses = zip(kernel.inputs, plan.use_shares(kernel.inputs), strict=True)
            first_input, first_share = next(uses)
            total = add_use(None, statistics_of_inputs[first_input], first_share)
            for used_input, share in uses:
                total = add_use(total, statistics_of_inputs[used_input], share)
            kernel_statistics = mean_of_uses(total)
        statistics_of_kernels[kernel.name] = {name: kernel_statistics[name] for name in names}
    return statistics_of_kernels
