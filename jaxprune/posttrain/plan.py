"""What post-training pruning of a function will do, told from shapes: segments, kernels, memory."""

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
from jaxprune.posttrain.flat_program import flat_program
from jaxprune.posttrain.kernels import Input, Kernel
from jaxprune.posttrain.pieces import Flat
from jaxprune.posttrain.segments import Cut, Segment, bytes_of, cuts, segments
from jaxprune.types import Params

__all__ = ["Plan", "plan"]


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A function of parameters and a batch, cut into segments; `print` shows a table.

    Attributes:
      flat: its program.
      names: paths of the parameters.
      chosen: which of them are pruned.
      kernels: that they are.
      inputs: of the kernels, in the order of the program.
      cuts: places in the program.
      segments: that end at them.
      vectors: which parameters are in no product: biases, scales.
      structure: of the parameters, with dicts for containers that cannot hold `None`.
      batch: shapes of the batch.
      programs: functions that have been compiled, by what they do.
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
        """The index of the block that each branch is in: branches that repeat as a whole are one."""
        sizes: dict[int, list[Any]] = {cut.branch: [] for cut in self.cuts}
        for kernel, branch in zip(self.kernels, self._branches(), strict=True):
            sizes[branch].append(kernel.view.layout.size)
        order = sorted(sizes)
        blocks = _in_blocks([sizes[branch] for branch in order])
        return dict(zip(order, blocks, strict=True))

    @property
    def blocks(self) -> list[int]:
        """For each kernel, the index of the block that it is in."""
        block = self.branch_blocks
        return [block[branch] for branch in self._branches()]

    def _branches(self) -> list[int]:
        """For each kernel, the index of its branch."""
        branch = {cut.input: cut.branch for cut in self.cuts}
        return [branch[kernel.inputs[-1]] for kernel in self.kernels]

    @property
    def stream_bytes(self) -> int:
        """The most that is kept of one batch."""
        return max((segment.size for segment in self.segments), default=0)

    def grams_bytes(self, hold_out: bool = False) -> int:
        """What Gram matrices take while kernels are solved, at most, with what solvers make of them.

        At each input, that are its own; one for each set of kernels that are used several times, from the
        first of their inputs to the last; the same of the batches that are held out; and five more in the
        solver, with inputs rounded up to 128: SparseGPT takes four and a half.
        """
        sizes = [4 * each.size[0] * each.size[1] ** 2 for each in self.inputs]
        several = {kernel.inputs for kernel in self.kernels if len(kernel.inputs) > 1}
        kept = [
            size + sum(sizes[uses[0]] for uses in several if uses[0] <= index <= uses[-1])
            for index, size in enumerate(sizes)
        ]
        padded = [4 * each.size[0] * (-(-each.size[1] // 128) * 128) ** 2 for each in self.inputs]
        pairs = zip(padded, kept, strict=True)
        return max((5 * size + (1 + hold_out) * own for size, own in pairs), default=0)

    def working_bytes(self, hold_out: bool = False) -> int:
        """What is needed beside parameters and streams, at most.

        That is what Gram matrices take, four times the kernels of one input in float32, five times the
        largest parameter that is written to, and all that a segment computes of one batch.

        Args:
          hold_out: whether batches are held out, of which there are Gram matrices, too.
        """
        kernels = [
            4 * sum(int(np.prod(self.kernels[k].view.layout.size)) for k in each.kernels)
            for each in self.inputs
        ]
        temporaries = max((segment.temporaries for segment in self.segments), default=0)
        largest = max(bytes_of(v) for v, leaf in self.flat.leaves.items() if self.chosen[leaf])
        others = 4 * max(kernels, default=0) + 5 * largest + temporaries
        return self.grams_bytes(hold_out) + others

    @property
    def parameter_bytes(self) -> int:
        """Of all parameters as they are stored."""
        return sum(bytes_of(variable) for variable in self.flat.leaves)

    def bytes_needed(
        self,
        batches: int,
        *,
        streams_on_device: bool = True,
        recover: bool = False,
        hold_out: bool = False,
    ) -> int:
        """An upper bound of what arrays take on the device, for solvers that take no more than five Grams.

        The parameters are there twice, as they were and as they become, with masks; of each batch there is
        its stream, of one the next one too.

        Args:
          batches: how many there are.
          streams_on_device: whether streams stay there.
          recover: whether blocks are trained: then those at the beginning of a block, and what it should
            give, are kept as well, and parameters have gradients and an optimizer's state of twice their
            size.
          hold_out: whether batches are held out.
        """
        streams = self.stream_bytes * ((batches if streams_on_device else 1) + 1)
        if recover:
            streams += 2 * self.stream_bytes * batches + 5 * self.parameter_bytes
        masks = sum(v.aval.size for v, leaf in self.flat.leaves.items() if self.chosen[leaf])
        return streams + 2 * self.parameter_bytes + masks + self.working_bytes(hold_out)

    def __str__(self) -> str:
        lines = [f"{'kernel':44}{'layers x inputs x outputs':>28}{'rows a batch':>14}{'Gram':>10}"]
        blocks = self.blocks
        for index, each in enumerate(self.inputs):
            gram = _bytes(4 * each.size[0] * each.size[1] ** 2)
            for place, k in enumerate(each.kernels):
                kernel = self.kernels[k]
                size = " x ".join(map(str, kernel.view.layout.size))
                shared = gram if place == 0 else "same"
                name = f"{index}. {kernel.name} (block {blocks[k]})"
                lines.append(f"{name:44}{size:>28}{each.rows:>14,}{shared:>10}")
        weights = sum(int(np.prod(k.view.layout.size)) for k in self.kernels)
        lines += [
            f"{len(self.kernels)} kernels with {weights:,} weights, {len(self.inputs)} inputs, "
            f"{len(set(blocks))} blocks, {len(self.segments)} segments, "
            f"{len({s.piece.key() for s in self.segments})} programs",
            f"streams: {_bytes(self.stream_bytes)} a batch; parameters: {_bytes(self.parameter_bytes)}; "
            f"at work beside them: {_bytes(self.working_bytes())} at most",
        ]
        left = [name for name, mine in zip(self.names, self.chosen, strict=True) if not mine]
        if left:
            lines.append(f"not pruned: {trees.quote_names(left)}")
        return "\n".join(lines)


def _bytes(count: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} TB"


def _period(signatures: Sequence[Any]) -> int:
    """After how many branches they repeat; 1 if they do not.

    What stands before and after the layers of a network may be anything.

    >>> _period(["attention", "mlp", "attention", "mlp", "head"])
    2
    """
    for period in range(1, len(signatures) // 2 + 1):
        pairs = list(zip(signatures, signatures[period:], strict=False))
        if sum(a == b for a, b in pairs) >= max(len(pairs) - 2, 1):
            return period
    return 1


def _in_blocks(signatures: Sequence[Any]) -> list[int]:
    """The block of each branch: they begin where most of them repeat as a whole.

    What stands before the first whole block, and behind the last, are blocks of their own.

    >>> _in_blocks(["stem", "attention", "mlp", "attention", "mlp", "head"])
    [0, 1, 1, 2, 2, 3]
    """
    period = _period(signatures)

    def parts(offset: int) -> list[list[Any]]:
        starts = [*([0] if offset else []), *range(offset, len(signatures), period)]
        ends = [*starts[1:], len(signatures)]
        return [list(signatures[a:b]) for a, b in zip(starts, ends, strict=True)]

    def repeats(offset: int) -> int:
        return sum(a == b for a, b in itertools.pairwise(parts(offset)))

    best = max(range(period), key=repeats)
    return [block for block, part in enumerate(parts(best)) for _ in part]


def plan(
    apply: Callable[..., Any],
    params: Params,
    batch: Any,
    *,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
) -> Plan:
    """Returns how `apply(params, batch)` is cut to be pruned segment by segment.

    Nothing is computed: shapes are enough. Loops over layers are unrolled, kernels are found however they are
    stored, and equal segments are one program, whatever the number of layers.

    Args:
      apply: (params, batch) -> anything; any JAX function, in evaluation mode.
      params: tree of arrays, or of their shapes.
      batch: tree of arrays or of shapes, as all batches will be.
      prunable: which parameters are pruned (see `jaxprune.masks.make`); `None`: kernels of products by their
        use in the program, without tables that are looked up and factors of low-rank updates.
      exclude: regular expressions, searched in the paths, of parameters that are not.

    Raises:
      ValueError: if one of the parameters that are to be pruned cannot be: it is multiplied within a loop
        without a known end, its elements are looked up, an operation stands between it and its product. Also
        if there is none, or an expression matches nothing.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"].T
    >>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((2, 6))}
    >>> [(each.name, each.view.layout.size) for each in plan(apply, params, jnp.ones((3, 4))).kernels]
    [('a', (1, 4, 6)), ('b', (1, 6, 2))]
    """
    shapes = jax.tree.map(_shape, trees.plain(params))
    theirs = jax.tree.structure(params).unflatten(jax.tree.leaves(shapes))
    batch = jax.tree.map(_shape, batch)
    names = trees.paths(shapes)
    flat = Flat(flat_program(apply, theirs, batch), len(names))
    followed = kernels_lib.follow(flat)
    structure = jax.tree.structure(shapes)
    axes = kernel_axes.of_follower(
        followed.follower, [np.shape(leaf) for leaf in jax.tree.leaves(shapes)]
    )
    made = jax.eval_shape(
        lambda tree: masks_lib.make(tree, prunable, axes=structure.unflatten(axes)), shapes
    )
    chosen = [mask is not None for mask in trees.beside(shapes, made)]
    for pattern in [exclude] if isinstance(exclude, str) else exclude:
        expression("exclude", pattern)
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"exclude: {pattern!r} matches none of {trees.quote_names(names)}.")
        chosen = [c and not re.search(pattern, n) for c, n in zip(chosen, names, strict=True)]
    kernels, inputs, lost = kernels_lib.find(flat, followed, names, chosen)
    covered = {leaf for kernel in kernels for leaf in kernel.leaves}
    for leaf in range(len(names)):
        if chosen[leaf] and leaf not in covered and leaf not in lost:
            lost[leaf] = "no product with the inputs was found that it is a factor of"
    if lost:
        described = [f"{names[leaf]!r}: {reason}" for leaf, reason in sorted(lost.items())]
        more = f" (and {len(described) - 3} more)" if len(described) > 3 else ""
        raise ValueError(
            f"posttrain.plan: {'; '.join(described[:3])}{more}; leave such parameters out with exclude=, or "
            "give prunable= a regular expression of those that are meant."
        )
    if not kernels:
        raise ValueError(
            f"posttrain.plan: nothing is left to prune of {trees.quote_names(names)}; "
            "change prunable= or exclude=."
        )
    places = cuts(flat, kernels, inputs)
    found = segments(flat, places, inputs)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shapes)]
    vectors = [own is None and real for own, real in zip(axes, floating, strict=True)]
    return Plan(flat, names, chosen, kernels, inputs, places, found, vectors, structure, batch)


def _shape(leaf: Any) -> Any:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        leaf = np.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)
