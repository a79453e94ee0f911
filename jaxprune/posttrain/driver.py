"""The loop over segments: run all batches, solve the kernels of one input, go on."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprune import checks
from jaxprune.calls import text
from jaxprune.parts import PATTERN
from jaxprune.patterns import unstructured
from jaxprune.posttrain import rates as rates_lib
from jaxprune.posttrain.contests import Solved, contest
from jaxprune.posttrain.handing import FinishedParameters, Sink
from jaxprune.posttrain.identity import UnknownError, identity, object_checksum
from jaxprune.posttrain.lifetimes import last_segment
from jaxprune.posttrain.passes import statistics_of_streams
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.propagation import Propagation, check_propagate
from jaxprune.posttrain.reconstruct import Recovery
from jaxprune.posttrain.report import KernelRow, Progress, Recovered, Report
from jaxprune.posttrain.solvers.solver import SOLVER, statistics_read_by
from jaxprune.posttrain.steps import SegmentRunner
from jaxprune.posttrain.store import Store, work_folder
from jaxprune.posttrain.streams import Streams, checked_leaves
from jaxprune.posttrain.work import PruningState
from jaxprune.programs.contractions import multiplications
from jaxprune.types import Masks, Params, Pattern
from jaxprune.wording import counted

__all__ = ["Result", "prune"]


class Result(NamedTuple):
    """Result of a pruning after training.

    Attributes:
      params: parameters with exact zeros where pruned; `None` if they went to a sink.
      masks: for `jaxprune.fixed`; `None` at leaves that are not pruned.
      report: sparsity and output error of each kernel; `print` shows a table.
    """

    params: Params
    masks: Masks
    report: Report


def prune(
    plan: Plan,
    params: Params,
    batches: Iterable[Any],
    *,
    solver: Callable[..., list[Solved]],
    pattern: Pattern | None = None,
    rates: Any = 0.5,
    calibrate: str = "pruned",
    propagate: float = 0.0,
    recover: Recovery | None = None,
    hold_out: int | None = None,
    streams: str = "device",
    stream_budget: int | None = None,
    sink: Sink | None = None,
    folder: str | Path | None = None,
    key: jax.Array | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> Result:
    """Prunes the kernels of a network one after the other, on the outputs of the kernels pruned before.

    Args:
      plan: from `jaxprune.posttrain.plan`.
      params: tree of arrays of JAX or NumPy, memory maps or `jaxprune.models.LazyLeaf`s. Leaves that are not
        arrays of JAX are moved to the device when a segment needs them.
      batches: trees of arrays with the shapes of the plan; they are read once, one after the other.
      solver: from `jaxprune.posttrain.solvers`, or a function like them.
      pattern: which weights are removed together and which compete, on kernels as matrices of inputs and
        outputs; `None`: all weights of a kernel compete. Stacked layers, experts and the groups of a
        convolution have contests of their own, each with the same number of weights left.
      rates: fraction of the weights removed: a number, numbers by regular expression, a function of the plan
        (`jaxprune.posttrain.rates`).
      calibrate: "pruned": statistics are of the network as pruned so far; "dense": of the network before
        pruning, as in `jaxprune.prune_on`; not with `recover`.
      propagate: from 0 to 1, how strongly a kernel is corrected for the errors that pruning has left in its
        inputs. Before the kernel is solved it is changed, by least squares, so that its outputs come closer
        to those of the dense network; errors in the report are relative to the corrected kernel. Above 0 the
        dense network runs beside the pruned one. With few rows of calibration data the gain may be small:
        compare values on other data. 0: no correction.
      hold_out: n: every n-th batch is held out. It is not used for calibration, recovery or rates; the report
        has the errors of the layers on these batches. `None`: no batch is held out. For solvers that read
        Gram matrices.
      recover: from `jaxprune.posttrain.reconstruct`: how each block is trained once its kernels are solved;
        `None`: blocks are not trained.
      folder: where each finished step is stored; the same call resumes from there, with the same bits. Only
        one process at a time may work in it. `None`: nothing is stored.
      streams: where activations of all batches are kept between segments, on the "device" or the "host".
      stream_budget: bytes that activations may take in that memory between segments; those of further
        batches wait in a temporary file, in `folder` if there is one (`Plan.stream_places` says how many).
        `None`: no limit.
      sink: function that receives path and NumPy array of each parameter once no later segment needs it, such
        as `jaxprune.models.safetensors_sink`; the result then has no parameters. If the parameters come from
        files too, neither the dense nor the pruned network is ever in memory as a whole. When a run is
        resumed, the sink receives all parameters again.
      key: PRNG key, for criteria that draw.
      progress: called after each segment with a `Progress`, which prints as a line.

    Returns:
      Parameters, masks and a report.

    Raises:
      ValueError: if a batch gives NaN or infinity at the inputs of a kernel; if the training of a block
        diverges; if a kernel does not fit the pattern; if parameters or batches have other shapes than the
        plan is for; if options contradict each other.
      TypeError: if the solver draws and `key` is missing.
      BlockingIOError: if another process works in `folder`.

    >>> import jax.numpy as jnp
    >>> from jaxprune.posttrain import plan, solvers
    >>> apply, params, x = (lambda p, x: x @ p["w"]), {"w": jnp.array([[1.0], [2.0]])}, jnp.eye(2)
    >>> result = prune(plan(apply, params, x), params, [x], solver=solvers.sparsegpt(), rates=0.5)
    >>> result.params["w"].tolist(), result.report.sparsity
    ([[0.0], [2.0]], 0.5)
    """
    pattern = unstructured() if pattern is None else pattern
    checks.check(
        "posttrain.prune",
        plan=(plan, _PLAN),
        params=(params, checks.TREE),
        solver=(solver, SOLVER),
        pattern=(pattern, PATTERN),
        rates=(rates, rates_lib.RATES),
        propagate=(propagate, checks.NUMBER),
        recover=(recover, checks.optional(_RECOVERY)),
        hold_out=(hold_out, checks.optional(checks.INTEGER)),
        stream_budget=(stream_budget, checks.optional(checks.NUMBER)),
        sink=(sink, checks.optional(checks.FUNCTION)),
        key=(key, checks.optional(checks.KEY)),
        progress=(progress, checks.optional(checks.FUNCTION)),
    )
    _check_calibrate(calibrate, recover)
    check_propagate(plan, propagate, calibrate)
    statistic_names = [*statistics_read_by(solver), *(["grams"] if propagate else [])]
    if "key" in statistic_names and key is None:
        raise TypeError(
            f"posttrain.prune: {text(solver)} draws by chance; give key=jax.random.key(0)."
        )
    with work_folder(folder) as folder:
        start_time = time.perf_counter()
        state = PruningState(plan, checked_leaves(plan, params))
        blocks = [] if recover is None else plan.trainable_blocks
        streams_per_batch = (1 if recover is None else 3) + (propagate > 0)
        all_streams = Streams(
            plan, state, batches, streams, stream_budget, streams_per_batch, folder
        )
        held_out = _held_out_batches(hold_out, len(all_streams), statistic_names)

        def gather_dense(names: Sequence[str]) -> dict[str, dict[str, jax.Array]]:
            return statistics_of_streams(plan, state, all_streams.copy(), names, held_out)

        sparsities = rates_lib.of_plan(rates, plan, state, gather_dense)
        contests = [
            contest(pattern, kernel.view.layout, sparsity, kernel.name)
            for kernel, sparsity in zip(plan.kernels, sparsities, strict=True)
        ]
        runner = SegmentRunner(
            plan=plan,
            state=state,
            streams=all_streams,
            solver=solver,
            contests=contests,
            key=key,
            dense=calibrate == "dense",
            stores_results=folder is not None,
            trains_blocks=recover is not None,
            held_out_batches=held_out,
            propagation=Propagation(plan, state, all_streams, propagate) if propagate else None,
        )
        costs = _segment_costs(plan, len(all_streams))
        rows: list[KernelRow] = []
        recoveries: list[Recovered] = []
        store = None
        if folder is not None:
            settings = [
                *_part_checksums(solver, pattern),
                str(sparsities),
                calibrate,
                repr(recover),
            ]
            settings += [str(sorted(held_out)), *([f"propagate={propagate}"] if propagate else [])]
            settings += ["recovery to mixed targets"] if propagate and recover is not None else []
            shares = [plan.use_shares(kernel.inputs) for kernel in plan.kernels]
            is_uneven = any(len(set(kernel_shares)) > 1 for kernel_shares in shares)
            settings += ["uses weighed by rows"] if is_uneven else []
            store = Store(folder, _run_identity(plan, settings, state, all_streams, recover, key))
        block_ending_at = {block.last: block for block in blocks}
        block_starts = {block.first for block in blocks}
        starts = all_streams
        last_index = last_segment(plan.cuts, blocks)
        finished = FinishedParameters(state, plan.lifetimes(recover is not None), sink)
        for index in range(last_index + 1):
            if index in block_starts:
                starts = all_streams.copy()
            stored = None if store is None else store.load(index)
            new_rows, new_arrays = runner.run_segment(index, stored)
            rows += new_rows
            if recover is not None and index in block_ending_at:
                recovery_outcome, trained_leaves = runner.recover(
                    block_ending_at[index], recover, starts, len(recoveries), stored
                )
                recoveries.append(recovery_outcome)
                new_arrays |= trained_leaves
            if store is not None and stored is None and (new_arrays or index in block_ending_at):
                notes = {
                    "rows": new_rows,
                    "recovered": recoveries[-1] if index in block_ending_at else None,
                }
                store.save(index, new_arrays, notes)
            finished.after_segment(index)
            if progress is not None:
                elapsed = time.perf_counter() - start_time
                done_cost = sum(costs[: index + 1])
                time_left = elapsed * (sum(costs[: last_index + 1]) - done_cost) / max(done_cost, 1)
                kernel_names = tuple(
                    plan.kernels[kernel_index].name for kernel_index in runner.last_solved
                )
                progress(Progress(index + 1, last_index + 1, kernel_names, elapsed, time_left))
        new_leaves, masks = finished.results()
        new_params = None if sink is not None else jax.tree.structure(params).unflatten(new_leaves)
        calibration_count = len(all_streams) - len(held_out)
        row_notes = _notes_on_rows(plan, calibration_count) if "grams" in statistic_names else ()
        report = Report(tuple(rows), tuple(recoveries), row_notes, time.perf_counter() - start_time)
        return Result(new_params, plan.structure.unflatten(masks), report)


_PLAN = checks.Kind(
    "a plan",
    lambda value: isinstance(value, Plan),
    lambda _: "make one: jaxprune.posttrain.plan(apply, params, batch)",
)
_RECOVERY = checks.Kind(
    "a recovery",
    lambda value: isinstance(value, Recovery),
    lambda _: "such as jaxprune.posttrain.reconstruct(optax.adam(1e-3), steps=100)",
)


def _check_calibrate(calibrate: str, recover: Recovery | None) -> None:
    if calibrate == "dense" and recover is not None:
        raise ValueError(
            'posttrain.prune(calibrate="dense", recover=): recovery trains each block on what comes out of '
            "the pruned and recovered blocks before it, but the statistics would be of the dense network; "
            'leave one of them out, or give calibrate="pruned".'
        )
    if calibrate not in ("pruned", "dense"):
        raise ValueError(
            f'posttrain.prune(calibrate={calibrate!r}): "pruned" or "dense" is needed.'
        )


def _run_identity(
    plan: Plan,
    settings: Sequence[str],
    state: PruningState,
    streams: Streams,
    recover: Recovery | None,
    key: jax.Array | None,
) -> str:
    """Returns a checksum of all that a run depends on: plan, settings, parameters, data, optimizer, key."""
    settings = list(settings)
    # An optimizer of which this cannot be told is known by the probe alone.
    with contextlib.suppress(UnknownError, ValueError):
        settings.append("" if recover is None else object_checksum(recover.optimizer))

    def arrays() -> Iterator[Any]:  # one after the other: they may be in files
        yield from state.leaves
        for batch in range(len(streams)):
            stream, _ = streams[batch]
            yield from [stream[variable] for variable in plan.flat.inputs]
        yield from [] if recover is None else recover.probe()
        yield from [] if key is None else [key]

    return identity(plan, settings, arrays())


def _held_out_batches(every: int | None, batches: int, names: Sequence[str]) -> frozenset[int]:
    """Returns the indices of the batches that are held out."""
    if every is None:
        return frozenset()
    if not 2 <= every <= batches:
        raise ValueError(
            f"posttrain.prune(hold_out={every}): of {batches} batches, every second at most and one at "
            "least can be held out; give a number from 2 to that of the batches."
        )
    if "grams" not in names:
        raise ValueError(
            "posttrain.prune(hold_out=): errors of layers are read off Gram matrices, and this solver "
            "gathers none; leave it out."
        )
    return frozenset(range(every - 1, batches, every))


def _notes_on_rows(plan: Plan, batches: int) -> tuple[str, ...]:
    """Returns a note on the Gram matrix with the fewest rows of data, if these are few; else none."""
    ratios = [batches * kernel_input.rows / kernel_input.size[1] for kernel_input in plan.inputs]
    worst_index = min(range(len(ratios)), key=ratios.__getitem__)
    if ratios[worst_index] >= 4:
        return ()
    kernel_input = plan.inputs[worst_index]
    scarce_count = sum(ratio < 4 for ratio in ratios)
    return (
        f"{plan.kernels[kernel_input.kernels[0]].name!r} has {kernel_input.size[1]:,} inputs and only "
        f"{batches * kernel_input.rows:,} rows of calibration data, and {scarce_count} inputs have "
        "fewer than 4 rows for each; second-order solvers may then do worse than Wanda: give "
        f"{counted(plan.batches_wanted, 'batch', 'batches')} or more to calibrate on.",
    )


def _part_checksums(solver: Callable[..., Any], pattern: Pattern) -> list[str]:
    """Returns texts and checksums of a solver and a pattern, by which a stored run is recognised."""
    checksums: list[str] = []
    for part in (solver, pattern):
        try:
            checksums += [text(part), object_checksum(part)]
        except (UnknownError, ValueError, RecursionError) as error:
            raise ValueError(
                f"posttrain.prune(folder=): {text(part)} holds {error}, of which it cannot be told whether "
                "it is the same when the run goes on; make it of functions, numbers and arrays, or leave out "
                "folder=."
            ) from error
    return checksums


def _segment_costs(plan: Plan, batches: int) -> list[float]:
    """Returns an estimate of the multiplications of each segment on all batches, with statistics and solves.

    A Gram matrix costs rows x inputs^2; a solve a third of inputs^3 to factorise, and 2 x inputs^2 x outputs.
    """
    segment_costs: list[float] = []
    for cut, segment in zip(plan.cuts, plan.segments, strict=True):
        forward_cost = sum(
            multiplications(
                equation,
                [atom.aval.shape for atom in equation.invars],
                equation.outvars[0].aval.shape,
            )
            for equation in segment.piece.equations
        )
        cost = float(forward_cost * batches)
        if cut.input is not None:
            kernel_input = plan.inputs[cut.input]
            layers, inputs = kernel_input.size
            outputs = sum(
                plan.kernels[kernel_index].view.layout.size[2]
                for kernel_index in kernel_input.kernels
            )
            cost += kernel_input.rows * layers * inputs**2 * batches
            cost += layers * (inputs**3 / 3 + 2 * inputs**2 * outputs)
        segment_costs.append(cost + 1)
    return segment_costs
