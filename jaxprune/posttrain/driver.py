"""The loop over segments: run all batches, solve the kernels of one input, go on with what is left."""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxprune import checks
from jaxprune.calls import text
from jaxprune.parts import PATTERN
from jaxprune.patterns import unstructured
from jaxprune.posttrain import rates as rates_lib
from jaxprune.posttrain.contests import Solved, contest
from jaxprune.posttrain.identity import UnknownError, described, identity
from jaxprune.posttrain.passes import of_streams
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.reconstruct import Recovery, blocks_of
from jaxprune.posttrain.report import Progress, Recovered, Report, Row
from jaxprune.posttrain.solvers.solver import reads
from jaxprune.posttrain.steps import Steps
from jaxprune.posttrain.store import Store
from jaxprune.posttrain.streams import Streams, checked
from jaxprune.posttrain.work import Stream, Work
from jaxprune.programs.contractions import multiplications
from jaxprune.types import Masks, Params, Pattern

__all__ = ["Result", "prune"]


class Result(NamedTuple):
    """What pruning after training gives.

    Attributes:
      params: with exact zeros where pruned.
      masks: for `jaxprune.fixed`; `None` at leaves that are not pruned.
      report: per kernel.
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
    recover: Recovery | None = None,
    hold_out: int | None = None,
    streams: str = "device",
    folder: str | Path | None = None,
    key: jax.Array | None = None,
    progress: Callable[[Progress], Any] | None = None,
) -> Result:
    """Prunes the kernels of a network one after the other, on what comes out of those before them.

    Args:
      plan: from `jaxprune.posttrain.plan`.
      params: tree of arrays, JAX's or NumPy's.
      batches: trees of arrays, of the shapes that the plan is for; they are read once.
      solver: from `jaxprune.posttrain.solvers`, or a function like them.
      pattern: what dies together, and who competes, on kernels as matrices of inputs and outputs; `None`:
        all weights of a kernel compete.
      rates: fraction of the weights removed: a number, numbers by regular expression, a function of the plan
        (`jaxprune.posttrain.rates`).
      calibrate: "pruned": statistics are of the network as it is pruned so far; "dense": of the network that
        it was, as `jaxprune.prune_on` takes them; without recovery.
      hold_out: of so many batches, the last is not calibrated on, nor trained on, nor are rates set by it;
        errors of the layers on these batches are in the report. `None`: none is. For solvers that read Gram
        matrices.
      recover: from `jaxprune.posttrain.reconstruct`: how each block is trained once its kernels are solved;
        `None`: it is not.
      folder: where each step is stored when it is done; the same call goes on from there, with the same bits.
        `None`: nowhere.
      streams: where activations of all batches are kept between segments, on the "device" or the "host".
      key: PRNG key, for criteria that draw.
      progress: called after each segment, with what prints as a line.

    Returns:
      Parameters, masks and a report.

    Raises:
      ValueError: if a batch gives NaN or infinity at the inputs of a kernel; if a kernel does not fit the
        pattern; if parameters or batches have other shapes than the plan is for.
    """
    pattern = unstructured() if pattern is None else pattern
    checks.check("posttrain.prune", pattern=(pattern, PATTERN), params=(params, checks.TREE))
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
    names = reads(solver)
    if "key" in names and key is None:
        raise TypeError(
            f"posttrain.prune: {text(solver)} draws by chance; give key=jax.random.key(0)."
        )
    began = time.perf_counter()
    work = Work(plan, checked(plan, params))
    kept = Streams(plan, work, batches, streams)
    held = _held_out(hold_out, len(kept), names)
    more = lambda names: of_streams(plan, work, kept.copy(), names, held)
    sparsities = rates_lib.of_plan(rates, plan, work, more)
    contests = [
        contest(pattern, kernel.view.layout, rate, kernel.name)
        for kernel, rate in zip(plan.kernels, sparsities, strict=True)
    ]
    dense = calibrate == "dense"
    run = Steps(plan, work, kept, solver, contests, key, dense, folder is not None, held)
    run.walking = bool(run.names) or recover is not None
    costs = _costs(plan, len(kept))
    rows: list[Row] = []
    recoveries: list[Recovered] = []
    store = None
    if folder is not None:
        settings = [*_described(solver, pattern), str(sparsities), calibrate, repr(recover)]
        settings.append(str(sorted(held)))
        batch_leaves = [kept[batch][0][v] for batch in range(len(kept)) for v in plan.flat.inputs]
        besides = [] if recover is None else recover.probe()
        with contextlib.suppress(UnknownError, ValueError):  # the probe stands for it
            settings.append("" if recover is None else described(recover.optimizer))
        besides += [] if key is None else [key]
        store = Store(folder, identity(plan, settings, [*work.leaves, *batch_leaves, *besides]))
    ends = {} if recover is None else {block.last: block for block in blocks_of(plan)}
    begins = {block.first for block in ends.values()}
    starts: list[Stream] = []
    last = max(index for index, cut in enumerate(plan.cuts) if cut.input is not None)
    last = max([last, *ends])
    for index in range(last + 1):
        if index in begins:
            starts = [kept[batch][0] for batch in range(len(kept))]
        stored = None if store is None else store.load(index)
        solved, made = run.segment(index, stored)
        rows += solved
        if recover is not None and index in ends:
            outcome, trained = run.recover(ends[index], recover, starts, len(recoveries), stored)
            recoveries.append(outcome)
            made |= trained
        if store is not None and stored is None and (made or index in ends):
            notes = {"rows": solved, "recovered": recoveries[-1] if index in ends else None}
            store.save(index, made, notes)
        if progress is not None:
            spent = time.perf_counter() - began
            done = sum(costs[: index + 1])
            left = spent * (sum(costs[: last + 1]) - done) / max(done, 1)
            names = tuple(plan.kernels[k].name for k in run.last)
            progress(Progress(index + 1, last + 1, names, spent, left))
    masks = plan.structure.unflatten(work.masks)
    new = jax.tree.structure(params).unflatten(work.leaves)
    notes = _few_rows(plan, len(kept) - len(held)) if "grams" in reads(solver) else ()
    report = Report(tuple(rows), tuple(recoveries), notes, time.perf_counter() - began)
    return Result(new, masks, report)


def _held_out(every: int | None, batches: int, names: Sequence[str]) -> frozenset[int]:
    """The indices of the batches that are held out."""
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


def _few_rows(plan: Plan, batches: int) -> tuple[str, ...]:
    """Names the kernel for whose Gram matrix there are the fewest rows, if these are few."""
    shares = [batches * each.rows / each.size[1] for each in plan.inputs]
    least = min(range(len(shares)), key=shares.__getitem__)
    if shares[least] >= 4:
        return ()
    each = plan.inputs[least]
    return (
        f"{plan.kernels[each.kernels[0]].name!r} has {each.size[1]:,} inputs and only "
        f"{batches * each.rows:,} rows of calibration data, and {sum(s < 4 for s in shares)} inputs have "
        "fewer than 4 rows for each; second-order solvers may then do worse than Wanda: give more data.",
    )


def _described(solver: Callable[..., Any], pattern: Pattern) -> list[str]:
    """What tells solvers and patterns from others: their texts, and checksums of what they do."""
    found: list[str] = []
    for part in (solver, pattern):
        try:
            found += [text(part), described(part)]
        except (UnknownError, ValueError, RecursionError) as error:
            raise ValueError(
                f"posttrain.prune(folder=): {text(part)} holds {error}, of which it cannot be told whether "
                "it is the same when the run goes on; make it of functions, numbers and arrays, or leave out "
                "folder=."
            ) from error
    return found


def _costs(plan: Plan, batches: int) -> list[float]:
    """Multiplications of each segment on all batches, with statistics and solves."""
    found: list[float] = []
    for cut, segment in zip(plan.cuts, plan.segments, strict=True):
        forward = sum(
            multiplications(e, [a.aval.shape for a in e.invars], e.outvars[0].aval.shape)
            for e in segment.piece.equations
        )
        cost = float(forward * batches)
        if cut.input is not None:
            each = plan.inputs[cut.input]
            layers, inputs = each.size
            outputs = sum(plan.kernels[k].view.layout.size[2] for k in each.kernels)
            cost += each.rows * layers * inputs**2 * batches
            cost += layers * (inputs**3 / 3 + 2 * inputs**2 * outputs)
        found.append(cost + 1)
    return found
