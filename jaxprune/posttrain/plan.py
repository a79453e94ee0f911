"""The plan of a pruning after training: segments, kernels, and the memory that they take."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxprune import trees
from jaxprune.posttrain.blocks import Block, find_blocks, repeating_blocks
from jaxprune.posttrain.kernels import Input, Kernel
from jaxprune.posttrain.lifetimes import Lifetimes, find_lifetimes
from jaxprune.posttrain.pieces import Flat
from jaxprune.posttrain.segments import Cut, Segment, bytes_of
from jaxprune.wording import counted

__all__ = ["Plan"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A function of parameters and a batch, cut into segments that are pruned in turn; `print` shows a table.

    Attributes:
      flat: its program, as one list of equations.
      names: paths of the parameters.
      chosen: whether each of them is pruned.
      kernels: the kernels that the pruned parameters are.
      inputs: of the kernels, in the order of the program.
      cuts: positions in the program where it is cut.
      segments: the equations before each cut.
      vectors: whether each parameter is in no product: biases, scales.
      structure: of the parameters, with dicts for containers that cannot hold `None`.
      batch: shapes of the batch.
      programs: compiled functions, by a text that tells what they compute.
    """

    flat: Flat
    names: list[str]
    chosen: list[bool]
    kernels: list[Kernel]
    inputs: list[Input]
    cuts: list[Cut]
    segments: list[Segment]
    vectors: list[bool]
    structure: Any
    batch: Any
    programs: dict[Any, Callable[..., Any]] = dataclasses.field(default_factory=dict)

    @property
    def branch_blocks(self) -> dict[int, int]:
        """The index of the block that each branch is in; branches that repeat as a whole are one block."""
        sizes: dict[int, list[Any]] = {cut.branch: [] for cut in self.cuts}
        for kernel, branch in zip(self.kernels, self._branches(), strict=True):
            sizes[branch].append(kernel.view.layout.size)
        branches = sorted(sizes)
        blocks = repeating_blocks([sizes[branch] for branch in branches])
        return dict(zip(branches, blocks, strict=True))

    @property
    def trainable_blocks(self) -> list[Block]:
        """The blocks that recovery trains, in order."""
        return find_blocks(self.flat, self.cuts, self.branch_blocks)

    def lifetimes(self, recover: bool = False) -> Lifetimes:
        """Returns when each parameter is needed.

        Args:
          recover: whether blocks are trained.
        """
        blocks = self.trainable_blocks if recover else []
        return find_lifetimes(self.flat, self.segments, self.cuts, self.kernels, blocks)

    @property
    def blocks(self) -> list[int]:
        """For each kernel, the index of the block that it is in."""
        block_of_branch = self.branch_blocks
        return [block_of_branch[branch] for branch in self._branches()]

    def _branches(self) -> list[int]:
        """For each kernel, the index of its branch."""
        branch_of_input = {cut.input: cut.branch for cut in self.cuts}
        return [branch_of_input[kernel.inputs[-1]] for kernel in self.kernels]

    def use_shares(self, inputs: Sequence[int]) -> tuple[float, ...]:
        """Returns the share that each use of a kernel has in all rows that it is multiplied with.

        Args:
          inputs: indices of the inputs of these uses.
        """
        row_counts = [self.inputs[input_index].rows for input_index in inputs]
        return tuple(row_count / sum(row_counts) for row_count in row_counts)

    @property
    def batches_wanted(self) -> int:
        """Number of batches that give each kernel four rows of data for each of its inputs.

        With fewer, Gram matrices say little, and second-order solvers may do worse than Wanda.
        """
        return max(
            -(-4 * kernel_input.size[1] // max(kernel_input.rows, 1))
            for kernel_input in self.inputs
        )

    @property
    def stream_bytes(self) -> int:
        """Bytes of the live activations of one batch, at most."""
        return max((segment.size for segment in self.segments), default=0)

    @property
    def slot_bytes(self) -> int:
        """Bytes of the live activations of one batch at most, the batch itself among them."""
        return max(self.stream_bytes, sum(map(bytes_of, self.flat.inputs)))

    def batches_within(self, stream_budget: int, streams_per_batch: int = 1) -> int:
        """Returns how many batches have their streams in memory, if these may take so many bytes.

        Args:
          stream_budget: bytes, at least 0.
          streams_per_batch: how many streams of a batch are kept at the same time.

        Raises:
          ValueError: if the budget is negative or not finite.
        """
        if not 0 <= stream_budget < math.inf:
            raise ValueError(
                f"posttrain.prune(stream_budget={stream_budget}): at least 0 bytes are needed; 0 puts all "
                "activations into a file, and None sets no limit."
            )
        return stream_budget // max(self.slot_bytes * streams_per_batch, 1)

    def stream_places(
        self,
        batches: int,
        stream_budget: int,
        *,
        recover: bool = False,
        propagate: bool = False,
    ) -> str:
        """Returns the sentence that says where activations of the batches are kept.

        Args:
          batches: number of batches.
          stream_budget: bytes of activations that may be in memory between segments.
          recover: whether blocks are trained: streams where a block begins, and its target outputs, are then
            kept as well.
          propagate: whether errors are propagated: streams of the dense network are then kept as well.

        >>> import jax, jax.numpy as jnp
        >>> from jaxprune.posttrain import plan
        >>> apply, shape = (lambda p, x: x @ p["w"]), jax.ShapeDtypeStruct((2, 2), jnp.float32)
        >>> layer_plan = plan(apply, {"w": shape}, shape)  # 16 bytes a batch
        >>> layer_plan.stream_places(8, stream_budget=40)
        'streams: 2 of 8 batches in memory (32 B), 6 in a file (96 B)'
        """
        streams_per_batch = (3 if recover else 1) + propagate
        size = self.slot_bytes * streams_per_batch
        in_memory = min(batches, self.batches_within(stream_budget, streams_per_batch))
        in_file = batches - in_memory
        memory_text = f"{in_memory} of {batches} batches in memory ({_bytes(in_memory * size)})"
        return f"streams: {memory_text}, {in_file} in a file ({_bytes(in_file * size)})"

    def grams_bytes(self, hold_out: bool = False, propagate: bool = False) -> int:
        """Returns the bytes of Gram matrices while kernels are solved, at most, those of solvers included.

        These are, at each input: its own; one for each set of kernels that are used several times, from the
        first of their inputs to the last; the same of the batches that are held out, and of the products with
        the dense network's inputs; and five more in the solver, with inputs rounded up to 128: SparseGPT
        takes four and a half.

        Args:
          hold_out: whether batches are held out.
          propagate: whether errors are propagated.
        """
        gram_sizes = [4 * layers * inputs**2 for layers, inputs in self._input_sizes()]
        repeated_uses = {kernel.inputs for kernel in self.kernels if len(kernel.inputs) > 1}
        live_sizes = [
            gram_size
            + sum(gram_sizes[uses[0]] for uses in repeated_uses if uses[0] <= index <= uses[-1])
            for index, gram_size in enumerate(gram_sizes)
        ]
        padded_sizes = [
            4 * layers * (-(-inputs // 128) * 128) ** 2 for layers, inputs in self._input_sizes()
        ]
        totals = [
            5 * padded_size + (1 + hold_out + propagate) * live_size
            for padded_size, live_size in zip(padded_sizes, live_sizes, strict=True)
        ]
        return max(totals, default=0)

    def _input_sizes(self) -> list[tuple[int, int]]:
        return [kernel_input.size for kernel_input in self.inputs]

    def working_bytes(self, hold_out: bool = False, propagate: bool = False) -> int:
        """Returns the bytes that are needed beside parameters and streams, at most.

        These are the Gram matrices, four times the kernels of one input in float32 (five times, if they are
        corrected), five times the largest parameter that is written to, and all that a segment computes of
        one batch.

        Args:
          hold_out: whether batches are held out, of which there are Gram matrices, too.
          propagate: whether errors are propagated, for which there are products of two networks' inputs.
        """
        weight_counts = [int(np.prod(kernel.view.layout.size)) for kernel in self.kernels]
        kernel_sizes = [
            4 * sum(weight_counts[kernel_index] for kernel_index in kernel_input.kernels)
            for kernel_input in self.inputs
        ]
        temporaries = max((segment.temporaries for segment in self.segments), default=0)
        largest_leaf = max(
            bytes_of(variable)
            for variable, leaf_index in self.flat.leaves.items()
            if self.chosen[leaf_index]
        )
        kernel_bytes = (4 + propagate) * max(kernel_sizes, default=0)
        gram_bytes = self.grams_bytes(hold_out, propagate)
        return gram_bytes + kernel_bytes + 5 * largest_leaf + temporaries

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all parameters, as they are stored."""
        return sum(bytes_of(variable) for variable in self.flat.leaves)

    def bytes_needed(
        self,
        batches: int,
        *,
        streams_on_device: bool = True,
        recover: bool = False,
        hold_out: bool = False,
        propagate: bool = False,
        stream_budget: int | None = None,
        sink: bool = False,
    ) -> int:
        """Returns an upper bound of the bytes of arrays on the device, for solvers of at most five Grams.

        The parameters are there twice, dense and pruned, with masks; each batch has its stream, and one batch
        the next one too. Compiled programs, which may take some hundred megabytes, are not counted.

        Args:
          batches: number of batches.
          streams_on_device: whether streams stay on the device.
          recover: whether blocks are trained: then the streams at the beginning of a block and its target
            outputs are kept as well, and parameters have gradients and an optimizer's state of twice their
            size.
          hold_out: whether batches are held out.
          propagate: whether errors are propagated: each batch then has a stream of the dense network, too.
          stream_budget: as of `prune`: what goes to a file is not counted; `None`: nothing does.
          sink: whether parameters are read when they are needed (lazy leaves, memory maps) and go to a sink
            when they are finished, as of `prune`; what the sink holds back is not counted.
        """
        streams_per_batch = (3 if recover else 1) + propagate
        stream_count = batches
        if stream_budget is not None:
            stream_count = min(batches, self.batches_within(stream_budget, streams_per_batch))
        stream_size = self.slot_bytes * ((stream_count if streams_on_device else 1) + 1)
        stream_size *= 1 + propagate
        if recover:
            stream_size += 2 * self.slot_bytes * stream_count
        if stream_count < batches:  # what is read from the file, and what is written to it
            stream_size += 2 * self.slot_bytes
        working_size = self.working_bytes(hold_out, propagate)
        return stream_size + self._held_parameter_bytes(recover, sink) + working_size

    def _held_parameter_bytes(self, recover: bool, sink: bool) -> int:
        """Returns the bytes of parameters, new parameters, masks and what trains them, at most."""
        variable_of = {leaf: variable for variable, leaf in self.flat.leaves.items()}

        def size(leaf: int) -> int:
            return bytes_of(variable_of[leaf])

        def mask_size(leaf: int) -> int:
            return variable_of[leaf].aval.size if self.chosen[leaf] else 0

        masks = sum(map(mask_size, variable_of))
        if not sink:
            return (7 if recover else 2) * self.parameter_bytes + masks
        at_work = self.lifetimes(recover).most_bytes(
            size, lambda leaf: size(leaf) + mask_size(leaf)
        )
        # A leaf that is read is there twice for a moment; masks of finished leaves take a bit a weight.
        return max(at_work + max(map(size, variable_of)) + masks // 8, masks)

    def __str__(self) -> str:
        lines = [f"{'kernel':44}{'layers x inputs x outputs':>28}{'rows a batch':>14}{'Gram':>10}"]
        blocks = self.blocks
        for index, kernel_input in enumerate(self.inputs):
            layers, inputs = kernel_input.size
            gram_text = _bytes(4 * layers * inputs**2)
            for row_index, kernel_index in enumerate(kernel_input.kernels):
                kernel = self.kernels[kernel_index]
                size_text = " x ".join(map(str, kernel.view.layout.size))
                gram_column = gram_text if row_index == 0 else "same"
                name = f"{index}. {kernel.name} (block {blocks[kernel_index]})"
                lines.append(f"{name:44}{size_text:>28}{kernel_input.rows:>14,}{gram_column:>10}")
        weight_count = sum(int(np.prod(kernel.view.layout.size)) for kernel in self.kernels)
        program_count = len({segment.piece.key() for segment in self.segments})
        lines += [
            f"{counted(len(self.kernels), 'kernel')} with {counted(weight_count, 'weight')}, "
            f"{counted(len(self.inputs), 'input')}, {counted(len(set(blocks)), 'block')}, "
            f"{counted(len(self.segments), 'segment')}, {counted(program_count, 'program')}",
            f"streams: {_bytes(self.stream_bytes)} a batch; parameters: {_bytes(self.parameter_bytes)}; "
            f"at work beside them: {_bytes(self.working_bytes())} at most",
            "second-order solvers want 4 rows for each input: "
            + counted(self.batches_wanted, "batch", "batches"),
        ]
        unpruned_names = [
            name for name, is_pruned in zip(self.names, self.chosen, strict=True) if not is_pruned
        ]
        if unpruned_names:
            lines.append(f"not pruned: {trees.quote_names(unpruned_names)}")
        return "\n".join(lines)


def _bytes(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} TB"
