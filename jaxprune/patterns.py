"""Patterns: what dies together, and who competes with whom.

A pattern turns the scores of a leaf into units and the units' fate back into a mask. It speaks of inputs,
outputs and layers; which axes of a leaf these are, `jaxprune.axes` reads from the program, and without it the
shape must tell (`kernel_axes.by_position`). Units keep the layout of the leaf (`groups(4)` along an axis of
length `n` gives `[..., n/4, 4, ...]`) instead of being flattened into a `[contests, members]` matrix: nothing
is transposed, so memory is read in order, and nothing is reshaped across a sharded axis.

Several axes of inputs, as an attention layer's `[heads, head_dim, outputs]` has, count as one, the last
running fastest. They are merged only where a group would straddle them: where the length of the last is no
multiple of `m`. On an explicit mesh, axes that are merged are first brought together on every device, and so
is an axis whose shards would cut through groups; the masks lie as their leaves do.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune import checks
from jaxprune.kernel_axes import direction_fault, told
from jaxprune.parts import factory
from jaxprune.types import Axes, Contests, Pattern

__all__ = ["block", "channel", "groups", "unstructured"]


@factory
def unstructured() -> Pattern:
    """Every weight stands for itself; all weights of a layer are in one contest.

    Without axes each leaf is a layer, stacked layers too.

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
    """Contests among `m` neighbouring weights along the inputs of a kernel (N:M sparsity).

    At sparsity 0.5 `groups(4)` is 2:4, at 0.75 it is 1:4. `groups()` takes all inputs as one contest: the
    weights of each output compete among themselves, the comparison of Wanda (Sun, Liu, Bair & Kolter, "A
    Simple and Effective Pruning Approach for Large Language Models", 2023). Of a convolution the inputs are
    its channels: each place of the window has contests of its own.

    Args:
      m: weights in a contest; `None` for all inputs. Contests have whole survivors: at a sparsity of 0.9,
        those of up to 4 weights keep none, and a leaf of such contests is refused.
      axis: the contests run along this axis of each leaf instead, whatever it is.

    >>> groups(2).to_groups(jnp.arange(8.0).reshape(4, 2)).shape
    (2, 2, 2)
    >>> query = Axes(in_axis=0, out_axis=(1, 2))  # [inputs, heads, head_dim]
    >>> groups(4).to_groups(jnp.ones((8, 2, 3)), query).shape
    (2, 4, 2, 3)
    """
    if m is not None and m < 1:
        raise ValueError(f"groups(m={m}): m must be at least 1.")
    name = _call_of("groups", m=m, axis=axis)

    def inputs(shape: tuple[int, ...], kernel: Axes | None) -> tuple[int, ...]:
        return told(shape, kernel).in_axis if axis is None else (axis % len(shape),)

    def check(shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if axis is not None and not -len(shape) <= axis < len(shape):
            return f"{name}: {{leaf}} has the shape {shape} and no such axis"
        if axis is None and (fault := direction_fault(name, shape, kernel)):
            return fault
        along = inputs(shape, kernel)
        if not along:
            return f"{name}: {{leaf}} has the shape {shape} and no axis of inputs; exclude it with prunable="
        size = math.prod(shape[i] for i in along)
        if m is None or size % m == 0:
            return None
        fits = [str(d) for d in range(2, min(size, 17)) if size % d == 0][:4]
        instead = f" or use m={', '.join(fits)}" if fits else ""
        places = ", ".join(str(i - len(shape)) for i in along)
        axes = f"{'axis' if len(along) == 1 else 'axes'} {places}"
        return (
            f"{name}: {{leaf}} has {size} weights along {axes}, not a multiple of {m}; exclude it with "
            f"prunable={instead}"
        )

    def merged(shape: tuple[int, ...], kernel: Axes | None) -> "_Merged":
        along = inputs(shape, kernel)
        return _merging(shape, [along] if shape[along[-1]] % (m or 1) else [])

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        if m is None:
            return scores
        plan = merged(scores.shape, kernel)
        return _split(plan.merge(scores), plan.place(inputs(scores.shape, kernel)), m)

    def from_groups(
        alive: jax.Array, shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        if m is None:
            return alive
        plan = merged(shape, kernel)
        return plan.unmerge(_joined(alive, plan.place(inputs(shape, kernel))))

    def contests(shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        along = inputs(shape, kernel)
        layers = () if kernel is None else tuple(i for i in kernel.batch_axis if i not in along)
        if m is None:
            return Contests(along, layers)
        plan = merged(shape, kernel)
        place = plan.place(along)
        moved = [plan.place([i]) for i in layers]
        return Contests(place + 1, tuple(i + (i > place) for i in moved))

    return Pattern(to_groups, from_groups, contests, check)


@factory
def block(
    shape: tuple[int, int], *, reduce: Literal["sum", "mean", "max"] = "sum", pad: bool = False
) -> Pattern:
    """Blocks of inputs by outputs live and die together, by the sum of their scores.

    Args:
      shape: rows and columns of a block, `(4, 2)` for 4 neighbouring inputs by 2 neighbouring outputs.
      reduce: what a block is worth of the scores in it: their `"sum"`, `"mean"` or `"max"`.
      pad: whether blocks at the end may be cut off where inputs or outputs are no multiples of its sides;
        weights that are not there count nothing in the sum, the mean and the largest. If not, such leaves
        are refused.

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

    def check(leaf: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if fault := direction_fault(name, leaf, kernel):
            return fault
        own = told(leaf, kernel)
        if not (own.in_axis and own.out_axis):
            return (
                f"{name}: {{leaf}} has the shape {leaf}, which are not both inputs and outputs; exclude it "
                "with prunable="
            )
        sizes = [math.prod(leaf[i] for i in some) for some in (own.in_axis, own.out_axis)]
        if pad or (sizes[0] % rows == 0 and sizes[1] % columns == 0):
            return None
        found = f"{sizes[0]} and {sizes[1]}"
        return (
            f"{name}: {{leaf}} has the shape {leaf}, whose inputs and outputs, {found}, are no multiples of "
            f"{rows} and {columns}; exclude it with prunable=, use another block, or pad=True"
        )

    def merged(leaf: tuple[int, ...], kernel: Axes | None) -> "_Merged":
        own = told(leaf, kernel)
        sides = ((own.in_axis, rows), (own.out_axis, columns))
        return _merging(leaf, [along for along, size in sides if leaf[along[-1]] % size])

    def sides(plan: "_Merged", leaf: tuple[int, ...], kernel: Axes | None) -> list[tuple[int, int]]:
        """The axes of inputs and outputs, merged, with the length of a block along each."""
        own = told(leaf, kernel)
        return [(plan.place(own.in_axis), rows), (plan.place(own.out_axis), columns)]

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        plan = merged(scores.shape, kernel)
        found = plan.merge(scores)
        for axis, size in sides(plan, scores.shape, kernel):
            length = found.shape[axis]
            found = _reduced(found, axis, size, jnp.maximum if reduce == "max" else jnp.add)
            if reduce == "mean":
                present = np.minimum(size, length - size * np.arange(found.shape[axis]))
                others = [i for i in range(found.ndim) if i != axis]
                found = found / np.expand_dims(present, others).astype(found.dtype)
        return found

    def from_groups(
        alive: jax.Array, leaf: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        plan = merged(leaf, kernel)
        for axis, size in sides(plan, leaf, kernel):
            length = math.prod(leaf[i] for i in plan.runs[axis])
            alive = _repeated(alive, axis, size, length)
        return plan.unmerge(alive)

    def contests(leaf: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        plan = merged(leaf, kernel)
        return Contests(
            layers=tuple(plan.place([i]) for i in (kernel.batch_axis if kernel else ()))
        )

    return Pattern(to_groups, from_groups, contests, check)


@factory
def channel(axis: int | Literal["in", "out"] = "out") -> Pattern:
    """Whole slices of a kernel live and die together, by the sum of their scores: its outputs, or its inputs.

    Args:
      axis: `"out"`: what belongs to one output is one unit, as filters of a convolution and units of a dense
        layer do; `"in"`: what belongs to one input. Or an axis of each leaf, whatever it is: each of its
        indices is one unit.

    >>> channel().to_groups(jnp.arange(4.0).reshape(2, 2))
    Array([2., 4.], dtype=float32)
    """
    if axis not in ("in", "out") and (not isinstance(axis, int) or isinstance(axis, bool)):
        raise ValueError(
            f'channel(axis={axis!r}): "in", "out" or an axis, as an integer, is needed.'
        )
    name = f"channel(axis={axis!r})"

    def kept(
        shape: tuple[int, ...], kernel: Axes | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The axes that index units, and those of them that index layers."""
        if isinstance(axis, int):
            named: tuple[int, ...] = (axis % len(shape),)
        else:
            own = told(shape, kernel)
            named = own.out_axis if axis == "out" else own.in_axis
        layers = () if kernel is None else tuple(i for i in kernel.batch_axis if i not in named)
        return tuple(sorted((*named, *layers))), layers

    def check(shape: tuple[int, ...], kernel: Axes | None = None) -> str | None:
        if isinstance(axis, int):
            if -len(shape) <= axis < len(shape):
                return None
            return f"{name}: {{leaf}} has the shape {shape} and no such axis"
        if fault := direction_fault(name, shape, kernel):
            return fault
        own = told(shape, kernel)
        if own.out_axis if axis == "out" else own.in_axis:
            return None
        return f"{name}: {{leaf}} has the shape {shape} and no axis of {axis}puts; exclude it with prunable="

    def to_groups(scores: jax.Array, kernel: Axes | None = None) -> jax.Array:
        units, _ = kept(scores.shape, kernel)
        return scores.sum(tuple(i for i in range(scores.ndim) if i not in units))

    def from_groups(
        alive: jax.Array, shape: tuple[int, ...], kernel: Axes | None = None
    ) -> jax.Array:
        units, _ = kept(shape, kernel)
        others = [i for i in range(len(shape)) if i not in units]
        return jnp.broadcast_to(jnp.expand_dims(alive, others), shape)

    def contests(shape: tuple[int, ...], kernel: Axes | None = None) -> Contests:
        units, layers = kept(shape, kernel)
        return Contests(layers=tuple(units.index(i) for i in layers))

    return Pattern(to_groups, from_groups, contests, check)


def _call_of(name: str, **arguments: Any) -> str:
    given = [f"{key}={value}" for key, value in arguments.items() if value is not None]
    return f"{name}({', '.join(given)})"


class _Merged(NamedTuple):
    """A leaf with some of its axes merged.

    Attributes:
      shape: of the leaf.
      order: its axes, those that are merged beside each other.
      runs: for each axis of the result, the axes of the leaf that it is made of.
    """

    shape: tuple[int, ...]
    order: tuple[int, ...]
    runs: tuple[tuple[int, ...], ...]

    def place(self, axes: Sequence[int]) -> int:
        """The axis of the result that holds the last of these."""
        return next(i for i, run in enumerate(self.runs) if axes[-1] in run)

    def merge(self, x: jax.Array) -> jax.Array:
        """An array like the leaf, merged."""
        if len(self.runs) == len(self.shape):
            return x
        x = _together(x, [run for run in self.runs if len(run) > 1]).transpose(self.order)
        spec = list(jax.typeof(x).sharding.spec)
        places = [self.order.index(run[0]) for run in self.runs]
        shape = [math.prod(self.shape[i] for i in run) for run in self.runs]
        return _reshape(x, tuple(shape), tuple(spec[place] for place in places))

    def unmerge(self, x: jax.Array) -> jax.Array:
        """What is like the result, in the shape of the leaf."""
        if len(self.runs) == len(self.shape):
            return x
        given = jax.typeof(x).sharding.spec
        spec = [
            entry if place == 0 else None
            for run, entry in zip(self.runs, given, strict=True)
            for place in range(len(run))
        ]
        ordered = _reshape(x, tuple(self.shape[i] for i in self.order), tuple(spec))
        return ordered.transpose([self.order.index(i) for i in range(len(self.shape))])


def _merging(shape: tuple[int, ...], groups: Sequence[tuple[int, ...]]) -> _Merged:
    """The plan that merges each of these groups of axes at the place of its first."""
    first = {group[0]: group for group in groups}
    members = {i for group in groups for i in group}
    runs = tuple(first.get(i, (i,)) for i in range(len(shape)) if i in first or i not in members)
    return _Merged(shape, tuple(i for run in runs for i in run), runs)


def _together(x: jax.Array, runs: Sequence[tuple[int, ...]]) -> jax.Array:
    """On an explicit mesh, the array with the axes that are to be merged whole on every device."""
    sharding = jax.typeof(x).sharding
    if not sharding.mesh.explicit_axes:
        return x
    members = {i for run in runs for i in run}
    spec = [None if i in members else entry for i, entry in enumerate(sharding.spec)]
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec(*spec)))


def _with_whole_groups(x: jax.Array, axis: int, m: int) -> jax.Array:
    """On an explicit mesh, the array brought together along an axis whose shards would cut groups of `m`."""
    sharding = jax.typeof(x).sharding
    entry = sharding.spec[axis] if sharding.mesh.explicit_axes else None
    names = (entry,) if isinstance(entry, str) else tuple(entry or ())
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    return x if x.shape[axis] // m % shards == 0 else _together(x, [(axis,)])


def _split(x: jax.Array, axis: int, m: int) -> jax.Array:
    """One axis as two, the second of length `m`."""
    x = _with_whole_groups(x, axis, m)
    shape = x.shape
    spec = tuple(jax.typeof(x).sharding.spec)
    return _reshape(
        x,
        (*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :]),
        (*spec[: axis + 1], None, *spec[axis + 1 :]),
    )


def _joined(x: jax.Array, axis: int) -> jax.Array:
    """An axis and the one after it as one."""
    shape = x.shape
    spec = tuple(jax.typeof(x).sharding.spec)
    return _reshape(
        x,
        (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]),
        (*spec[: axis + 1], *spec[axis + 2 :]),
    )


def _reduced(
    x: jax.Array, axis: int, size: int, add: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """So many neighbours along an axis as one, by slices: 6 times faster than a reshape and a sum.

    At the end there may be fewer.
    """
    if size == 1:
        return x
    length = x.shape[axis]
    if length % size:
        x = _together(x, [(axis,)])
        fill = 0 if add is jnp.add else -jnp.inf
        missing = [(0, -length % size if i == axis else 0) for i in range(x.ndim)]
        x = jnp.pad(x, missing, constant_values=fill)
    x = _with_whole_groups(x, axis, size)
    parts = (
        jax.lax.slice_in_dim(x, start, x.shape[axis], stride=size, axis=axis)
        for start in range(size)
    )
    return functools.reduce(add, parts)


def _repeated(x: jax.Array, axis: int, size: int, length: int) -> jax.Array:
    """Each index of an axis so many times, up to a length."""
    if length % size:
        x = _together(x, [(axis,)])
    wide = jnp.expand_dims(x, axis + 1)
    spread = jnp.broadcast_to(wide, (*x.shape[: axis + 1], size, *x.shape[axis + 1 :]))
    joined = _joined(spread, axis)
    return jax.lax.slice_in_dim(joined, 0, length, axis=axis) if length % size else joined


def _reshape(x: jax.Array, shape: tuple[int, ...], spec: tuple) -> jax.Array:
    """Reshapes; on an explicit mesh, whose axes a reshape must be told, without moving data."""
    mesh = jax.typeof(x).sharding.mesh
    if not mesh.explicit_axes:
        return x.reshape(shape)
    return jax.lax.reshape(x, shape, out_sharding=NamedSharding(mesh, PartitionSpec(*spec)))


_SIDES = checks.Kind(
    "a pair of integers",
    lambda value: (
        isinstance(value, tuple | list) and len(value) == 2 and all(map(checks.INTEGER.fits, value))
    ),
    lambda _: "such as (4, 2), for rows and columns",
)
