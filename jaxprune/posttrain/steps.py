"""Runs segments one after the other: gathers statistics, solves kernels, trains blocks, or restores them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.calls import text
from jaxprune.posttrain.blocks import Block
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.errors import output_error
from jaxprune.posttrain.kernels import Input
from jaxprune.posttrain.passes import Totals, run_segment
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.propagation import Propagation
from jaxprune.posttrain.reconstruct import Recovery, put_block_outputs, recover_block
from jaxprune.posttrain.report import KernelRow, Recovered
from jaxprune.posttrain.solvers.solver import statistics_read_by
from jaxprune.posttrain.statistics import Sums, add_use, mean_of_uses, statistics
from jaxprune.posttrain.streams import Streams
from jaxprune.posttrain.work import PruningState

__all__ = ["Arrays", "SegmentRunner", "StoredStep"]

Arrays = dict[str, np.ndarray]
StoredStep = tuple[Arrays, Any]


class SegmentRunner:
    """Runs a network segment by segment: gathers statistics, solves kernels, trains blocks.

    Attributes:
      plan: segments, cuts and kernels of the network.
      state: parameters and masks as they become.
      streams: activations of all batches.
      solver: makes masks and weights of the kernels of one input.
      contests: which weights compete, for each kernel.
      key: PRNG key, for solvers that draw; or `None`.
      dense: whether statistics are of the network before pruning.
      propagation: runs the dense network beside the pruned one; or `None`.
      statistic_names: names of the statistics that are gathered.
      use_sums: sums of the statistics of kernels with several inputs, by the indices of these inputs.
      last_solved: indices of the kernels that were solved last.
      stores_results: whether the new arrays will be stored.
      held_out_batches: indices of the batches that are held out.
      reads_batches: whether segments are run at all, for statistics or to train blocks; if not, only the
        solver is.
    """

    def __init__(
        self,
        *,
        plan: Plan,
        state: PruningState,
        streams: Streams,
        solver: Callable[..., list[Solved]],
        contests: Sequence[Contest],
        key: jax.Array | None,
        dense: bool,
        stores_results: bool,
        trains_blocks: bool,
        held_out_batches: frozenset[int],
        propagation: Propagation | None,
    ) -> None:
        self.plan = plan
        self.state = state
        self.streams = streams
        self.solver = solver
        self.contests = contests
        self.key = key
        self.dense = dense
        self.propagation = propagation
        self.statistic_names = [name for name in statistics_read_by(solver) if name != "key"]
        if propagation is not None and "grams" not in self.statistic_names:
            self.statistic_names.append("grams")
        self.use_sums: dict[tuple[int, ...], _InputStatistics] = {}
        self.last_solved: list[int] = []
        self.stores_results = stores_results
        self.held_out_batches = held_out_batches
        self.reads_batches = bool(self.statistic_names) or trains_blocks

    def run_segment(self, index: int, stored: StoredStep | None) -> tuple[list[KernelRow], Arrays]:
        """Runs one segment on all batches, and solves the kernels whose last input stands at its end.

        Args:
          index: of the segment.
          stored: arrays and notes of the same step of an earlier run; `None`: the kernels are solved.

        Returns:
          A report row for each kernel, and the arrays to be stored, from which the step can be restored.
        """
        cut = self.plan.cuts[index]
        self.state.release()
        self.last_solved = []
        totals = Totals(None, None)
        if self.reads_batches:
            totals = run_segment(
                self.state,
                self.streams,
                index,
                self.statistic_names,
                dense=self.dense,
                held_out=self.held_out_batches,
            )
        cross_sums = None
        if self.propagation is not None:
            cross_sums = self.propagation.run_segment(
                index, self.streams, self._calibration_batches()
            )
        if cut.input is None:
            return [], {}
        kernel_input = self.plan.inputs[cut.input]
        input_statistics = self._statistics_of(totals, cross_sums, kernel_input)
        del totals, cross_sums  # the solver needs the room
        uses_by_kernel = {
            kernel_index: self.plan.kernels[kernel_index].inputs
            for kernel_index in kernel_input.kernels
        }
        repeated_uses = set(uses_by_kernel.values()) - {(cut.input,)}
        for uses in repeated_uses:
            share = self.plan.use_shares(uses)[uses.index(cut.input)]
            sums_before = self.use_sums.get(uses, (None, None))
            self.use_sums[uses] = _InputStatistics(
                *(
                    add_use(total, use, share)
                    for total, use in zip(sums_before, input_statistics, strict=True)
                )
            )
        ready_kernels = [
            kernel_index for kernel_index, uses in uses_by_kernel.items() if uses[-1] == cut.input
        ]
        rows: list[KernelRow] = []
        new_arrays: Arrays = {}
        if stored is not None:
            self._restore(ready_kernels, stored[0])
            rows = [KernelRow(*row) for row in stored[1]["rows"]]
        else:
            # Kernels with this input alone share its statistics and are solved together.
            used_once = [index for index in ready_kernels if len(uses_by_kernel[index]) == 1]
            kernel_groups = [
                used_once,
                *([index] for index in ready_kernels if index not in used_once),
            ]
            for kernel_group in kernel_groups:
                if kernel_group:
                    uses = uses_by_kernel[kernel_group[0]]
                    group_statistics = input_statistics
                    if uses in self.use_sums:
                        group_statistics = _InputStatistics(*map(mean_of_uses, self.use_sums[uses]))
                    rows += self._solve(kernel_group, group_statistics, new_arrays)
        self.last_solved = ready_kernels
        for uses in repeated_uses:
            if uses[-1] == cut.input:
                del self.use_sums[uses]
        return rows, new_arrays

    def _calibration_batches(self) -> list[int]:
        """Returns the indices of the batches that are calibrated on."""
        return [batch for batch in range(len(self.streams)) if batch not in self.held_out_batches]

    def _statistics_of(
        self, totals: Totals, cross_sums: Sums | None, kernel_input: Input
    ) -> "_InputStatistics":
        """Returns the means of the statistics of one input, from their sums."""
        calibration: dict[str, jax.Array] = {}
        held_out: dict[str, jax.Array] = {}
        examples = self.streams.examples_of(self._calibration_batches())
        for sums in (totals.calibration, cross_sums):
            if sums is not None:
                calibration |= statistics(sums, kernel_input, examples)
        if totals.held_out is not None:
            held_out = statistics(
                totals.held_out, kernel_input, self.streams.examples_of(self.held_out_batches)
            )
            held_out = {name: held_out[name] for name in ("grams", "rows") if name in held_out}
        return _InputStatistics(calibration, held_out)

    def _restore(self, kernel_indices: Sequence[int], arrays: Arrays) -> None:
        """Writes stored matrices and masks into the parameters."""
        for kernel_index in kernel_indices:
            kernel = self.plan.kernels[kernel_index]
            shape = kernel.view.layout.size
            matrices = arrays.get(f"kernel {kernel_index} {kernel.name}")
            if matrices is None or matrices.shape != shape:
                raise ValueError(
                    f"posttrain.prune(folder=): what is stored there is not of {kernel.name!r} "
                    f"{list(shape)}; give another folder."
                )
            new_matrices = jnp.asarray(matrices)
            packed_mask = arrays[f"mask {kernel_index} {kernel.name}"]
            mask = np.unpackbits(packed_mask, count=new_matrices.size).reshape(new_matrices.shape)
            self.state.write(kernel, self.state.read(kernel), new_matrices, jnp.asarray(mask, bool))

    def recover(
        self,
        block: Block,
        recovery: Recovery,
        starts: Streams,
        block_index: int,
        stored: StoredStep | None,
    ) -> tuple[Recovered, Arrays]:
        """Trains a block whose kernels are solved, and puts its new output into the streams.

        Args:
          block: the block.
          recovery: optimizer, updates, and which parameters are trained.
          starts: the streams where the block begins.
          block_index: for the report.
          stored: arrays and notes of the same step of an earlier run; `None`: the block is trained.

        Returns:
          The block's report, and the parameters that have changed, as bytes.
        """
        if stored is None:
            old_leaves = list(self.state.leaves)
            error_before, error_after = recover_block(
                self.state,
                block,
                recovery,
                starts,
                self.streams,
                self.held_out_batches,
                self.propagation,
            )
            outcome = Recovered(block_index, error_before, error_after)
            numbered_leaves = enumerate(zip(old_leaves, self.state.leaves, strict=True))
            new_arrays = {
                f"leaf {leaf_index}": _bytes_of(new_leaf)
                for leaf_index, (old_leaf, new_leaf) in numbered_leaves
                if old_leaf is not new_leaf
            }
        else:
            outcome = Recovered(*stored[1]["recovered"])
            new_arrays = {}
            for name, stored_bytes in stored[0].items():
                leaf_index = int(name.split()[1])
                current_leaf = self.state.leaves[leaf_index]
                # A NumPy leaf may be float64, but was trained in the dtype that JAX makes of it.
                dtype = jax.dtypes.canonicalize_dtype(current_leaf.dtype)
                value = np.asarray(stored_bytes).view(dtype).reshape(np.shape(current_leaf))
                self.state.leaves[leaf_index] = jnp.asarray(value)
            put_block_outputs(self.state, block, starts, self.streams)
        return outcome, new_arrays

    def _solve(
        self,
        kernel_indices: Sequence[int],
        input_statistics: "_InputStatistics",
        new_arrays: Arrays,
    ) -> list[KernelRow]:
        """Solves kernels that share all statistics; writes them into the parameters; returns their rows."""
        start_time = time.perf_counter()
        kernels = [self.plan.kernels[kernel_index] for kernel_index in kernel_indices]
        solver_names = statistics_read_by(self.solver)
        gathered = input_statistics.calibration
        solver_statistics = {name: gathered[name] for name in solver_names if name != "key"}
        if self.key is not None and "key" in solver_names:
            solver_statistics["key"] = jax.random.fold_in(self.key, kernel_indices[0])
        matrices = [self.state.read(kernel) for kernel in kernels]
        targets = matrices
        if self.propagation is not None:
            targets = [self.propagation.corrected(kernel, gathered) for kernel in matrices]
        solutions = self.solver(
            targets,
            [self.contests[kernel_index] for kernel_index in kernel_indices],
            **solver_statistics,
        )
        rows: list[KernelRow] = []
        for kernel_index, kernel, old_matrices, target, solution in zip(
            kernel_indices, kernels, matrices, targets, solutions, strict=True
        ):
            summary = _summarise(old_matrices, target, solution, gathered.get("grams"))
            if not bool(summary.was_finite):
                raise ValueError(
                    f"posttrain.prune: weights of {kernel.name!r} are NaN or infinity, and no weight can be "
                    "chosen beside them; look for NaN in the parameters, or exclude it."
                )
            if not bool(summary.finite):
                raise ValueError(
                    f"posttrain.prune: {text(self.solver)} gives NaN or infinity for {kernel.name!r}; look "
                    "for NaN in the parameters, or give it more damping."
                )
            error = None if summary.error is None else float(summary.error)
            held_error = None
            if self.held_out_batches:
                held_grams = input_statistics.held_out["grams"]
                held_error = float(output_error(target, solution.kernel, held_grams))
            self.state.write(kernel, old_matrices, solution.kernel, solution.mask)
            if self.stores_results:
                new_arrays[f"kernel {kernel_index} {kernel.name}"] = np.asarray(solution.kernel)
                new_arrays[f"mask {kernel_index} {kernel.name}"] = np.packbits(
                    np.asarray(solution.mask)
                )
            damp = float(summary.damp)
            rows.append(
                KernelRow(
                    kernel.name, old_matrices.size, int(summary.kept), error, held_error, damp, 0.0
                )
            )
        seconds = time.perf_counter() - start_time
        return [row._replace(seconds=seconds) for row in rows]


class _InputStatistics(NamedTuple):
    """Statistics of one input, by name.

    Attributes:
      calibration: of the batches that are calibrated on.
      held_out: Gram matrices of those that are held out.
    """

    calibration: dict[str, jax.Array]
    held_out: dict[str, jax.Array]


def _bytes_of(array: Any) -> np.ndarray:
    """Returns the bytes of an array as a uint8 vector."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class _Summary(NamedTuple):
    """Figures of a solved kernel.

    Attributes:
      kept: number of weights kept.
      was_finite: whether all weights were finite before: a solver may drop those that were not.
      finite: whether all weights are finite.
      damp: damping of the layer that needed most.
      error: relative squared error of the outputs; `None` without Gram matrices.
    """

    kept: jax.Array
    was_finite: jax.Array
    finite: jax.Array
    damp: jax.Array
    error: jax.Array | None


@jax.jit
def _summarise(
    old_matrices: jax.Array, target: jax.Array, solution: Solved, grams: jax.Array | None
) -> _Summary:
    kept_count = jnp.sum(solution.mask, dtype=jnp.int32)
    was_finite = jnp.isfinite(old_matrices).all()
    is_finite = jnp.isfinite(solution.kernel).all()
    error = None
    if grams is not None:
        error = output_error(target, solution.kernel, grams)
    return _Summary(kept_count, was_finite, is_finite, jnp.max(solution.damp), error)
