"""What is done at each cut: statistics over all batches, solving, recovery, or restoring what was stored."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.calls import text
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.errors import output_error
from jaxprune.posttrain.kernels import Input
from jaxprune.posttrain.passes import Totals, through
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.reconstruct import Block, Recovery, block_outputs, recovered
from jaxprune.posttrain.report import Recovered, Row
from jaxprune.posttrain.solvers.solver import reads
from jaxprune.posttrain.statistics import statistics
from jaxprune.posttrain.streams import Streams
from jaxprune.posttrain.work import Stream, Work

__all__ = ["Arrays", "Steps", "Stored"]

Arrays = dict[str, np.ndarray]
Stored = tuple[Arrays, Any]


class Steps:
    """Takes a network through its segments: statistics, solutions, recovery.

    Attributes:
      last: indices of the kernels that were solved last.
      storing: whether what is solved will be stored.
      held: indices of the batches that are held out.
      uses: sums of statistics of kernels that are used several times, by their inputs.
      walking: whether anything is read of the batches.
    """

    def __init__(
        self,
        plan: Plan,
        work: Work,
        streams: Streams,
        solver: Callable[..., list[Solved]],
        contests: Sequence[Contest],
        key: jax.Array | None,
        dense: bool,
        storing: bool,
        held: frozenset[int],
    ) -> None:
        self.plan, self.work, self.streams = plan, work, streams
        self.solver, self.contests, self.key, self.dense = solver, contests, key, dense
        self.names = [name for name in reads(solver) if name != "key"]
        self.uses: dict[tuple[int, ...], _Known] = {}
        self.last: list[int] = []
        self.storing, self.held = storing, held
        self.walking = True

    def segment(self, index: int, stored: Stored | None) -> tuple[list[Row], Arrays]:
        """Runs one segment on all batches, and solves the kernels that stand behind it.

        Args:
          index: of the segment.
          stored: what came of it when it was done before.

        Returns:
          A row for each kernel, and what must be stored for it not to be solved again.
        """
        cut = self.plan.cuts[index]
        self.work.release()
        self.last = []
        totals = Totals(None, None)
        if self.walking:
            work, names = self.work, self.names
            totals = through(work, self.streams, index, names, dense=self.dense, held=self.held)
        if cut.input is None:
            return [], {}
        each = self.plan.inputs[cut.input]
        known = self._known(totals, each)
        del totals  # the solver needs the room
        several = {self.plan.kernels[k].inputs for k in each.kernels} - {(cut.input,)}
        for uses in several:
            self.uses[uses] = _with_use(self.uses.get(uses), known, 1 / len(uses))
        mine = [k for k in each.kernels if self.plan.kernels[k].inputs[-1] == cut.input]
        alone = [k for k in mine if len(self.plan.kernels[k].inputs) == 1]
        rows: list[Row] = []
        made: Arrays = {}
        if stored is not None:
            self._restore(mine, stored[0])
            rows = [Row(*row) for row in stored[1]["rows"]]
        else:
            for group in [alone, *([k] for k in mine if k not in alone)]:
                if group:
                    uses = self.plan.kernels[group[0]].inputs
                    rows += self._solve(group, self.uses.get(uses, known), made)
        self.last = mine
        for uses in several:
            if uses[-1] == cut.input:
                del self.uses[uses]
        return rows, made

    def _known(self, totals: Totals, each: Input) -> "_Known":
        """The statistics of one input."""
        seen: dict[str, jax.Array] = {}
        held: dict[str, jax.Array] = {}
        if totals.seen is not None:
            batches = [b for b in range(len(self.streams)) if b not in self.held]
            seen = statistics(totals.seen, each, self.streams.examples_of(batches))
        if totals.held is not None:
            held = statistics(totals.held, each, self.streams.examples_of(self.held))
            held = {"grams": held["grams"]}
        return _Known(seen, held)

    def _restore(self, kernels: Sequence[int], arrays: Arrays) -> None:
        for k in kernels:
            kernel = self.plan.kernels[k]
            shape = kernel.view.layout.size
            stored = arrays.get(f"kernel {k} {kernel.name}")
            if stored is None or stored.shape != shape:
                raise ValueError(
                    f"posttrain.prune(folder=): what is stored there is not of {kernel.name!r} "
                    f"{list(shape)}; give another folder."
                )
            new = jnp.asarray(stored)
            bits = arrays[f"mask {k} {kernel.name}"]
            mask = np.unpackbits(bits, count=new.size).reshape(new.shape)
            self.work.write(kernel, self.work.read(kernel), new, jnp.asarray(mask, bool))

    def recover(
        self,
        block: Block,
        recovery: Recovery,
        starts: Sequence[Stream],
        number: int,
        stored: Stored | None,
    ) -> tuple[Recovered, Arrays]:
        """Trains a block whose kernels are solved, and goes on with what it gives then."""
        residual = self.plan.cuts[block.last].residual
        if stored is None:
            before = list(self.work.leaves)
            ends, error, after = recovered(self.work, block, recovery, starts, self.held)
            done = Recovered(number, error, after)
            pairs = enumerate(zip(before, self.work.leaves, strict=True))
            made = {f"leaf {i}": _raw(new) for i, (old, new) in pairs if old is not new}
        else:
            done = Recovered(*stored[1]["recovered"])
            made = {}
            for name, raw in stored[0].items():
                leaf = int(name.split()[1])
                like = self.work.leaves[leaf]
                dtype = jax.dtypes.canonicalize_dtype(like.dtype)  # of NumPy's, as it was trained
                value = np.asarray(raw).view(dtype).reshape(np.shape(like))
                self.work.leaves[leaf] = jnp.asarray(value)
            ends = block_outputs(self.work, block, starts)
        for batch, end in enumerate(ends):
            stream, _ = self.streams[batch]
            self.streams[batch] = {**stream, residual: end}
        return done, made

    def _solve(self, group: Sequence[int], statistic: "_Known", made: Arrays) -> list[Row]:
        began = time.perf_counter()
        kernels = [self.plan.kernels[k] for k in group]
        known = statistic.seen
        if self.key is not None and "key" in reads(self.solver):
            known = {**known, "key": jax.random.fold_in(self.key, group[0])}
        matrices = [self.work.read(kernel) for kernel in kernels]
        solved = self.solver(matrices, [self.contests[k] for k in group], **known)
        rows: list[Row] = []
        grams = known.get("grams")
        for k, kernel, old, new in zip(group, kernels, matrices, solved, strict=True):
            summary = _summary(old, new, grams)
            if not bool(summary.finite):
                raise ValueError(
                    f"posttrain.prune: {text(self.solver)} gives NaN or infinity for {kernel.name!r}; look "
                    "for NaN in the parameters, or give it more damping."
                )
            error = None if summary.error is None else float(summary.error)
            held_error = None
            if self.held:
                held_grams = statistic.held["grams"]
                held_error = float(output_error(old, new.kernel, held_grams))
            self.work.write(kernel, old, new.kernel, new.mask)
            if self.storing:
                made[f"kernel {k} {kernel.name}"] = np.asarray(new.kernel)
                made[f"mask {k} {kernel.name}"] = np.packbits(np.asarray(new.mask))
            damp = float(summary.damp)
            rows.append(Row(kernel.name, old.size, int(summary.kept), error, held_error, damp, 0.0))
        seconds = time.perf_counter() - began
        return [row._replace(seconds=seconds) for row in rows]


class _Known(NamedTuple):
    """Statistics by name.

    Attributes:
      seen: of the batches that are calibrated on.
      held: Gram matrices of those that are held out.
    """

    seen: dict[str, jax.Array]
    held: dict[str, jax.Array]


def _with_use(total: _Known | None, more: _Known, share: float) -> _Known:
    """A sum over the uses of a kernel, of which each counts the same; the first is given away."""
    more = _times(more, share)
    return more if total is None else _plus(total, more)


_times = jax.jit(lambda known, share: jax.tree.map(lambda x: x * share, known))
_plus = jax.jit(lambda total, more: jax.tree.map(jnp.add, total, more), donate_argnums=0)


def _raw(array: Any) -> np.ndarray:
    """The bytes of an array."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class _Summary(NamedTuple):
    """Of a solved kernel: weights kept, whether all are finite, the damping, the error."""

    kept: jax.Array
    finite: jax.Array
    damp: jax.Array
    error: jax.Array | None


@jax.jit
def _summary(old: jax.Array, new: Solved, grams: jax.Array | None) -> _Summary:
    kept = jnp.sum(new.mask, dtype=jnp.int32)
    finite = jnp.isfinite(new.kernel).all()
    error = None
    if grams is not None:
        error = output_error(old, new.kernel, grams)
    return _Summary(kept, finite, jnp.max(new.damp), error)
