"""The plan of a pruning after training, made from shapes alone: segments, kernels, memory."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import kernel_axes, trees
from jaxprune import masks as masks_lib
from jaxprune.checks import expression
from jaxprune.masks import Prunable
from jaxprune.posttrain import kernels as kernels_lib
from jaxprune.posttrain.blocks import Block, find_blocks
from jaxprune.posttrain.flat_program import flat_program
from jaxprune.posttrain.kernels import Input, Kernel
from jaxprune.posttrain.lifetimes import Lifetimes, find_lifetimes
from jaxprune.posttrain.pieces import Flat
from jaxprune.posttrain.segments import Cut, Segment, bytes_of, cuts, segments
from jaxprune.types import Params
from jaxprune.wording import counted

__all__ = ["Plan", "plan"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A function of parameters and a batch, cut into segments; `print` shows a table.

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
        blocks = _in_blocks([sizes[branch] for branch in branches])
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
          ValueError: if the budget is negative.
        """
        if stream_budget < 0:
            raise ValueError(
                f"posttrain.prune(stream_budget={stream_budget}): at least 0 bytes are needed; 0 puts all "
                "activations into a file."
            )
        return stream_budget // max(self.slot_bytes * streams_per_batch, 1)

    def stream_places(self, batches: int, stream_budget: int, *, recover: bool = False) -> str:
        """Returns the sentence that says where activations of the batches are kept.

        Args:
          batches: number of batches.
          stream_budget: bytes of activations that may be in memory between segments.
          recover: whether blocks are trained: streams where a block begins, and its target outputs, are then
            kept as well.

        >>> apply, shape = (lambda p, x: x @ p["w"]), jax.ShapeDtypeStruct((2, 2), jnp.float32)
        >>> layer_plan = plan(apply, {"w": shape}, shape)  # 16 bytes a batch
        >>> layer_plan.stream_places(8, stream_budget=40)
        'streams: 2 of 8 batches in memory (32 B), 6 in a file (96 B)'
        """
        size = self.slot_bytes * (3 if recover else 1)
        in_memory = min(batches, self.batches_within(stream_budget, 3 if recover else 1))
        in_file = batches - in_memory
        memory_text = f"{in_memory} of {batches} batches in memory ({_bytes(in_memory * size)})"
        return f"streams: {memory_text}, {in_file} in a file ({_bytes(in_file * size)})"

    def grams_bytes(self, hold_out: bool = False) -> int:
        """Returns the bytes of Gram matrices while kernels are solved, at most, those of solvers included.

        These are, at each input: its own; one for each set of kernels that are used several times, from the
        first of their inputs to the last; the same of the batches that are held out; and five more in the
        solver, with inputs rounded up to 128: SparseGPT takes four and a half.

        Args:
          hold_out: whether batches are held out.
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
            5 * padded_size + (1 + hold_out) * live_size
            for padded_size, live_size in zip(padded_sizes, live_sizes, strict=True)
        ]
        return max(totals, default=0)

    def _input_sizes(self) -> list[tuple[int, int]]:
        return [kernel_input.size for kernel_input in self.inputs]

    def working_bytes(self, hold_out: bool = False) -> int:
        """Returns the bytes that are needed beside parameters and streams, at most.

        These are the Gram matrices, four times the kernels of one input in float32, five times the largest
        parameter that is written to, and all that a segment computes of one batch.

        Args:
          hold_out: whether batches are held out, of which there are Gram matrices, too.
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
        other_bytes = 4 * max(kernel_sizes, default=0) + 5 * largest_leaf + temporaries
        return self.grams_bytes(hold_out) + other_bytes

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
          stream_budget: as of `prune`: what goes to a file is not counted; `None`: nothing does.
          sink: whether parameters are read when they are needed (lazy leaves, memory maps) and go to a sink
            when they are finished, as of `prune`; what the sink holds back is not counted.
        """
        streams_per_batch = 3 if recover else 1
        stream_count = batches
        if stream_budget is not None:
            stream_count = min(batches, self.batches_within(stream_budget, streams_per_batch))
        stream_size = self.slot_bytes * ((stream_count if streams_on_device else 1) + 1)
        if recover:
            stream_size += 2 * self.slot_bytes * stream_count
        if stream_count < batches:  # what is read from the file, and what is written to it
            stream_size += 2 * self.slot_bytes
        return (
            stream_size + self._held_parameter_bytes(recover, sink) + self.working_bytes(hold_out)
        )

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


def _period(signatures: Sequence[Any]) -> int:
    """Returns after how many branches their signatures repeat; 1 if they do not.

    A branch before the layers of a network and one behind them need not repeat.

    >>> _period(["attention", "mlp", "attention", "mlp", "head"])
    2
    """
    for period in range(1, len(signatures) // 2 + 1):
        pairs = list(zip(signatures, signatures[period:], strict=False))
        equal_count = sum(earlier == later for earlier, later in pairs)
        if equal_count >= max(len(pairs) - 2, 1):
            return period
    return 1


def _in_blocks(signatures: Sequence[Any]) -> list[int]:
    """Returns the index of the block of each branch; blocks begin where most of them repeat as a whole.

    Branches before the first whole block, and behind the last, are blocks of their own.

    >>> _in_blocks(["stem", "attention", "mlp", "attention", "mlp", "head"])
    [0, 1, 1, 2, 2, 3]
    """
    period = _period(signatures)

    def parts(offset: int) -> list[list[Any]]:
        starts = [*([0] if offset else []), *range(offset, len(signatures), period)]
        ends = [*starts[1:], len(signatures)]
        return [list(signatures[start:end]) for start, end in zip(starts, ends, strict=True)]

    def repeats(offset: int) -> int:
        return sum(part == next_part for part, next_part in itertools.pairwise(parts(offset)))

    best_offset = max(range(period), key=repeats)
    return [block for block, part in enumerate(parts(best_offset)) for _ in part]


def plan(
    apply: Callable[..., Any],
    params: Params,
    batch: Any,
    *,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
) -> Plan:
    """Returns the plan by which `apply(params, batch)` is pruned segment by segment.

    Nothing is computed: shapes are enough. Loops over layers are unrolled, kernels are found however they are
    stored, and equal segments are one program, whatever the number of layers.

    Args:
      apply: (params, batch) -> anything; any JAX function, in evaluation mode.
      params: tree of arrays, or of their shapes.
      batch: tree of arrays or of shapes, as all batches will be.
      prunable: which parameters are pruned (see `jaxprune.masks.make`); `None`: kernels of products by their
        use in the program, without tables that are looked up and factors of low-rank updates.
      exclude: regular expressions, searched in the paths, of parameters that are not pruned.

    Returns:
      A `Plan`; `print` shows kernels, blocks and memory.

    Raises:
      ValueError: if one of the parameters that are to be pruned cannot be: it is multiplied within a loop
        without a known end, its elements are looked up, an operation stands between it and its product. Also
        if nothing is to be pruned, or an expression matches nothing.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"].T
    >>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((2, 6))}
    >>> kernels = plan(apply, params, jnp.ones((3, 4))).kernels  # sizes are layers, inputs, outputs
    >>> [(kernel.name, kernel.view.layout.size) for kernel in kernels]
    [('a', (1, 4, 6)), ('b', (1, 6, 2))]
    """
    shapes = jax.tree.map(_shape, trees.plain(params))
    shaped_params = jax.tree.structure(params).unflatten(jax.tree.leaves(shapes))
    batch = jax.tree.map(_shape, batch)
    names = trees.paths(shapes)
    flat = Flat(flat_program(apply, shaped_params, batch), len(names))
    followed_program = kernels_lib.follow_parameters(flat)
    structure = jax.tree.structure(shapes)
    leaf_shapes = [np.shape(leaf) for leaf in jax.tree.leaves(shapes)]
    axes = kernel_axes.of_follower(followed_program.follower, leaf_shapes)
    is_pruned = _choose_pruned(shapes, structure.unflatten(axes), names, prunable, exclude)
    kernels, inputs, reasons = kernels_lib.find_kernels(flat, followed_program, names, is_pruned)
    _check_all_found(names, is_pruned, kernels, reasons)
    cut_points = cuts(flat, kernels, inputs)
    plan_segments = segments(flat, cut_points, inputs)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shapes)]
    is_vector = [
        leaf_axes is None and is_float for leaf_axes, is_float in zip(axes, floating, strict=True)
    ]
    return Plan(
        flat,
        names,
        is_pruned,
        kernels,
        inputs,
        cut_points,
        plan_segments,
        is_vector,
        structure,
        batch,
    )


def _choose_pruned(
    shapes: Params,
    axes: Any,
    names: Sequence[str],
    prunable: Prunable,
    exclude: str | Iterable[str],
) -> list[bool]:
    """Returns whether each parameter is to be pruned, by `prunable` and `exclude` of `plan`."""
    mask_shapes = jax.eval_shape(lambda tree: masks_lib.make(tree, prunable, axes=axes), shapes)
    is_pruned = [mask is not None for mask in trees.beside(shapes, mask_shapes)]
    for pattern in [exclude] if isinstance(exclude, str) else exclude:
        expression("exclude", pattern)
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"exclude: {pattern!r} matches none of {trees.quote_names(names)}.")
        is_pruned = [
            pruned and not re.search(pattern, name)
            for pruned, name in zip(is_pruned, names, strict=True)
        ]
    return is_pruned


def _check_all_found(
    names: Sequence[str],
    is_pruned: Sequence[bool],
    kernels: Sequence[Kernel],
    reasons: dict[int, str],
) -> None:
    """Raises if a parameter that is to be pruned is no kernel, with the reason; or if there is no kernel."""
    reasons = dict(reasons)
    kernel_leaves = {leaf_index for kernel in kernels for leaf_index in kernel.leaves}
    for leaf_index in range(len(names)):
        if is_pruned[leaf_index] and leaf_index not in kernel_leaves and leaf_index not in reasons:
            reasons[leaf_index] = "no product with the inputs was found that it is a factor of"
    if reasons:
        reason_texts = [
            f"{names[leaf_index]!r}: {reason}" for leaf_index, reason in sorted(reasons.items())
        ]
        others_text = f" (and {len(reason_texts) - 3} more)" if len(reason_texts) > 3 else ""
        raise ValueError(
            f"posttrain.plan: {'; '.join(reason_texts[:3])}{others_text}; leave such parameters out with "
            "exclude=, or give prunable= a regular expression of those that are meant."
        )
    if not kernels:
        raise ValueError(
            f"posttrain.plan: nothing is left to prune of {trees.quote_names(names)}; "
            "change prunable= or exclude=."
        )


def _shape(leaf: Any) -> Any:
    """Returns shape and dtype of a leaf, the dtype as JAX makes it of NumPy's or Python's."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        leaf = np.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)
