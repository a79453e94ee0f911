"""Patterns of single leaves: which weights are removed together, and which compete with each other.

A pattern turns the scores of a leaf into scores of units, and the units that are kept into a mask. It is
defined by inputs, outputs and layers. Which axes of a leaf these are is read from the program by
`jaxprune.axes`, or else guessed from the shape (`kernel_axes.by_position`). Units keep the layout of the leaf
(`groups(4)` along an axis of length `n` gives `[..., n/4, 4, ...]`) instead of being flattened into a
`[contests, members]` matrix: nothing is transposed, so memory is read in order, and nothing is reshaped
across a sharded axis.

Several axes of inputs, as an attention layer's `[heads, head_dim, outputs]` has, count as one, the last
running fastest. They are merged only where a group would straddle them: where the length of the last is no
multiple of `m`. On an explicit mesh, axes that are merged are first brought together on every device, and so
is an axis whose shards would cut through groups; the masks lie as their leaves do.
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks
from jaxprune.kernel_axes import direction_fault, resolve_axes
from jaxprune.parts import factory
from jaxprune.patterns.merged_axes import (
    MergedAxes,
    join_axes,
    merge_axes,
    reduce_axis,
    repeat_axis,
    split_axis,
)
from jaxprune.types import Axes, Contests, Pattern

__all__ = ["block", "channel", "groups", "unstructured"]


@factory
def unstructured() -> Pattern:
    """Returns the pattern of single weights; all weights of a layer compete with each other.

    Without `axes=` each leaf is a layer, also if layers are stacked in it.

    Returns:
      A pattern.

    >>> unstructured().to_groups(jnp.ones((2, 3))).shape
    (2, 3)
    """

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        return scores

    def from_groups(
        alive: jax.Array, shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        return alive

    def contests(shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        return Contests(layers=() if kernel is None else kernel.batch_axis)

    def check(shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        return None

    return Pattern(to_groups, from_groups, contests, check)


@factory
def groups(m: int | None = None, *, axis: int | None = None) -> Pattern:
    """Returns the pattern of contests among `m` neighbouring weights along the inputs of a kernel (N:M).

    At sparsity 0.5 `groups(4)` is 2:4, at 0.75 it is 1:4. `groups()` takes all inputs as one contest: the
    weights of each output compete among themselves, the comparison of Wanda (Sun, Liu, Bair & Kolter, "A
    Simple and Effective Pruning Approach for Large Language Models", 2023). In a convolution the inputs are
    its channels: each position of the window has contests of its own.

    Args:
      m: weights in a contest; `None` for all inputs. Each contest keeps a whole number of weights: at a
        sparsity of 0.9, contests of up to 4 weights would keep none, and a leaf of such contests is refused.
      axis: an axis of each leaf, along which the contests run instead of along the inputs.

    Returns:
      A pattern in which single weights compete.

    Raises:
      ValueError: if `m` is below 1.

    >>> groups(2).to_groups(jnp.arange(8.0).reshape(4, 2)).shape
    (2, 2, 2)
    >>> query = Axes(in_axis=0, out_axis=(1, 2))  # [inputs, heads, head_dim]
    >>> groups(4).to_groups(jnp.ones((8, 2, 3)), query).shape
    (2, 4, 2, 3)
    """
    if m is not None and m < 1:
        raise ValueError(f"groups(m={m}): m must be at least 1.")
    name = _call_text("groups", m=m, axis=axis)

    def contest_axes(shape: tuple[int, ...], kernel: Axes | None) -> tuple[int, ...]:
        return resolve_axes(shape, kernel).in_axis if axis is None else (axis % len(shape),)

    def check(shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if axis is not None and not -len(shape) <= axis < len(shape):
            return f"{name}: {{leaf}} has the shape {shape} and no such axis"
        if axis is None and (fault := direction_fault(name, shape, kernel)):
            return fault
        leaf_axes = contest_axes(shape, kernel)
        if not leaf_axes:
            return f"{name}: {{leaf}} has the shape {shape} and no axis of inputs; exclude it with prunable="
        weight_count = math.prod(shape[leaf_axis] for leaf_axis in leaf_axes)
        if m is None or weight_count % m == 0:
            return None
        divisors = [str(d) for d in range(2, min(weight_count, 17)) if weight_count % d == 0][:4]
        alternative = f" or use m={', '.join(divisors)}" if divisors else ""
        axes_from_last = ", ".join(str(leaf_axis - len(shape)) for leaf_axis in leaf_axes)
        axes_text = f"{'axis' if len(leaf_axes) == 1 else 'axes'} {axes_from_last}"
        return (
            f"{name}: {{leaf}} has {weight_count} weights along {axes_text}, not a multiple of {m}; exclude "
            f"it with prunable={alternative}"
        )

    def merge_contest_axes(shape: tuple[int, ...], kernel: Axes | None) -> MergedAxes:
        leaf_axes = contest_axes(shape, kernel)
        return merge_axes(shape, [leaf_axes] if shape[leaf_axes[-1]] % (m or 1) else [])

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        if m is None:
            return scores
        merged = merge_contest_axes(scores.shape, kernel)
        input_axis = merged.axis_of(contest_axes(scores.shape, kernel))
        return split_axis(merged.merge(scores), input_axis, m)

    def from_groups(
        alive: jax.Array, shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        if m is None:
            return alive
        merged = merge_contest_axes(shape, kernel)
        return merged.unmerge(join_axes(alive, merged.axis_of(contest_axes(shape, kernel))))

    def contests(shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        leaf_axes = contest_axes(shape, kernel)
        layer_axes = (
            () if kernel is None else tuple(a for a in kernel.batch_axis if a not in leaf_axes)
        )
        if m is None:
            return Contests(leaf_axes, layer_axes)
        merged = merge_contest_axes(shape, kernel)
        input_axis = merged.axis_of(leaf_axes)
        merged_layers = [merged.axis_of([layer_axis]) for layer_axis in layer_axes]
        # The split puts the members of a contest behind its axis, and what follows one further.
        return Contests(
            input_axis + 1, tuple(layer + (layer > input_axis) for layer in merged_layers)
        )

    return Pattern(to_groups, from_groups, contests, check)


@factory
def block(
    shape: tuple[int, int], *, reduce: Literal["sum", "mean", "max"] = "sum", pad: bool = False
) -> Pattern:
    """Returns the pattern of blocks of inputs by outputs, kept or removed whole by the sum of their scores.

    Args:
      shape: rows and columns of a block, `(4, 2)` for 4 neighbouring inputs by 2 neighbouring outputs.
      reduce: how the scores in a block become the score of the block: `"sum"`, `"mean"` or `"max"`.
      pad: whether the last blocks may be smaller, if inputs or outputs are no multiples of the block's sides;
        missing weights do not count in sum, mean and maximum. If `False`, such leaves are refused.

    Returns:
      A pattern whose units are blocks.

    Raises:
      ValueError: if a side is below 1, or `reduce` is none of the three words.

    >>> block((2, 1)).to_groups(jnp.arange(4.0).reshape(2, 2))
    Array([[2., 4.]], dtype=float32)
    >>> block((2, 2), reduce="mean", pad=True).to_groups(jnp.arange(6.0).reshape(2, 3))
    Array([[2. , 3.5]], dtype=float32)
    """
    checks.check("block", shape=(shape, _SIDES))
    rows, columns = shape
    if rows < 1 or columns < 1:
        raise ValueError(f"block({shape}): both sides must be at least 1.")
    if reduce not in ("sum", "mean", "max"):
        raise ValueError(f"block(reduce={reduce!r}): 'sum', 'mean' or 'max' is needed.")
    name = f"block({shape})"

    def check(leaf_shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if fault := direction_fault(name, leaf_shape, kernel):
            return fault
        leaf_axes = resolve_axes(leaf_shape, kernel)
        if not (leaf_axes.in_axis and leaf_axes.out_axis):
            return (
                f"{name}: {{leaf}} has the shape {leaf_shape}, which are not both inputs and outputs; "
                "exclude it with prunable="
            )
        side_lengths = [
            math.prod(leaf_shape[axis] for axis in side_axes)
            for side_axes in (leaf_axes.in_axis, leaf_axes.out_axis)
        ]
        if pad or (side_lengths[0] % rows == 0 and side_lengths[1] % columns == 0):
            return None
        lengths_text = f"{side_lengths[0]} and {side_lengths[1]}"
        return (
            f"{name}: {{leaf}} has the shape {leaf_shape}, whose inputs and outputs, {lengths_text}, are no "
            f"multiples of {rows} and {columns}; exclude it with prunable=, use another block, or pad=True"
        )

    def merge_sides(leaf_shape: tuple[int, ...], kernel: Axes | None) -> MergedAxes:
        leaf_axes = resolve_axes(leaf_shape, kernel)
        sides = ((leaf_axes.in_axis, rows), (leaf_axes.out_axis, columns))
        return merge_axes(
            leaf_shape, [side_axes for side_axes, size in sides if leaf_shape[side_axes[-1]] % size]
        )

    def merged_sides(
        merged: MergedAxes, leaf_shape: tuple[int, ...], kernel: Axes | None
    ) -> list[tuple[int, int]]:
        """Returns the merged axes of inputs and of outputs, with the length of a block along each."""
        leaf_axes = resolve_axes(leaf_shape, kernel)
        return [
            (merged.axis_of(leaf_axes.in_axis), rows),
            (merged.axis_of(leaf_axes.out_axis), columns),
        ]

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        merged = merge_sides(scores.shape, kernel)
        block_scores = merged.merge(scores)
        combine = jnp.maximum if reduce == "max" else jnp.add
        for axis, size in merged_sides(merged, scores.shape, kernel):
            length = block_scores.shape[axis]
            block_scores = reduce_axis(block_scores, axis, size, combine)
            if reduce == "mean":
                block_indices = np.arange(block_scores.shape[axis])
                weight_counts = np.minimum(size, length - size * block_indices)
                other_axes = [other for other in range(block_scores.ndim) if other != axis]
                divisor = np.expand_dims(weight_counts, other_axes).astype(block_scores.dtype)
                block_scores = block_scores / divisor
        return block_scores

    def from_groups(
        alive: jax.Array, leaf_shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        merged = merge_sides(leaf_shape, kernel)
        for axis, size in merged_sides(merged, leaf_shape, kernel):
            length = math.prod(leaf_shape[leaf_axis] for leaf_axis in merged.runs[axis])
            alive = repeat_axis(alive, axis, size, length)
        return merged.unmerge(alive)

    def contests(leaf_shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        merged = merge_sides(leaf_shape, kernel)
        layer_axes = kernel.batch_axis if kernel else ()
        return Contests(layers=tuple(merged.axis_of([layer_axis]) for layer_axis in layer_axes))

    return Pattern(to_groups, from_groups, contests, check)


@factory
def channel(axis: int | Literal["in", "out"] = "out") -> Pattern:
    """Returns the pattern of whole outputs, or inputs, kept or removed by the sum of their scores.

    Args:
      axis: `"out"`: all weights of one output are a unit, such as a filter of a convolution or a neuron of a
        dense layer; `"in"`: all weights of one input are. Or an axis of each leaf: each of its indices is
        then a unit.

    Returns:
      A pattern whose units are slices.

    Raises:
      ValueError: if `axis` is neither of the two words nor an integer.

    >>> channel().to_groups(jnp.arange(4.0).reshape(2, 2))
    Array([2., 4.], dtype=float32)
    """
    if axis not in ("in", "out") and (not isinstance(axis, int) or isinstance(axis, bool)):
        raise ValueError(
            f'channel(axis={axis!r}): "in", "out" or an axis, as an integer, is needed.'
        )
    name = f"channel(axis={axis!r})"

    def unit_and_layer_axes(
        shape: tuple[int, ...], kernel: Axes | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the axes that index units, and those of them that index layers."""
        if isinstance(axis, int):
            channel_axes: tuple[int, ...] = (axis % len(shape),)
        else:
            leaf_axes = resolve_axes(shape, kernel)
            channel_axes = leaf_axes.out_axis if axis == "out" else leaf_axes.in_axis
        batch_axes = () if kernel is None else kernel.batch_axis
        layer_axes = tuple(a for a in batch_axes if a not in channel_axes)
        return tuple(sorted((*channel_axes, *layer_axes))), layer_axes

    def check(shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if isinstance(axis, int):
            if -len(shape) <= axis < len(shape):
                return None
            return f"{name}: {{leaf}} has the shape {shape} and no such axis"
        if fault := direction_fault(name, shape, kernel):
            return fault
        leaf_axes = resolve_axes(shape, kernel)
        if leaf_axes.out_axis if axis == "out" else leaf_axes.in_axis:
            return None
        return f"{name}: {{leaf}} has the shape {shape} and no axis of {axis}puts; exclude it with prunable="

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        unit_axes, _ = unit_and_layer_axes(scores.shape, kernel)
        return scores.sum(tuple(a for a in range(scores.ndim) if a not in unit_axes))

    def from_groups(
        alive: jax.Array, shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        unit_axes, _ = unit_and_layer_axes(shape, kernel)
        other_axes = [a for a in range(len(shape)) if a not in unit_axes]
        return jnp.broadcast_to(jnp.expand_dims(alive, other_axes), shape)

    def contests(shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        unit_axes, layer_axes = unit_and_layer_axes(shape, kernel)
        return Contests(layers=tuple(unit_axes.index(layer_axis) for layer_axis in layer_axes))

    return Pattern(to_groups, from_groups, contests, check)


def _call_text(name: str, **arguments: Any) -> str:
    given = [f"{key}={value}" for key, value in arguments.items() if value is not None]
    return f"{name}({', '.join(given)})"


_SIDES = checks.Kind(
    "a pair of integers",
    lambda value: (
        isinstance(value, tuple | list) and len(value) == 2 and all(map(checks.INTEGER.fits, value))
    ),
    lambda _: "such as (4, 2), for rows and columns",
)
