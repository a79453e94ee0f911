"""Where in a parameter belongs what has been read of a kernel that is made of it (`programs.evaluation`).

What is read lies along axes of the kernel, and along the loops around it. Each of these is cut into the
digits of its view; each digit moves the index of one axis of the parameter.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.programs.evaluation import Record
from jaxprune.programs.views import Digit, Pick

__all__ = [
    "Arrangement",
    "Index",
    "Placement",
    "Term",
    "arrangement",
    "beside",
    "indifferent",
    "matrix",
    "positions",
    "put",
]


class Term(NamedTuple):
    """As a dimension of an array is gone through, an index moves by `stride`."""

    dimension: int
    size: int
    stride: int


class Index(NamedTuple):
    """Which indices of one axis the dimensions of an array belong to: a sum of terms.

    Attributes:
      start: where it begins.
      terms: what dimensions add to it.
      picks: what computed numbers add to it; their indices are those of `Observed.emitted`.
    """

    start: int = 0
    terms: tuple[Term, ...] = ()
    picks: tuple[Pick, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether it depends on where in the array one is."""
        return bool(self.terms or self.picks)


class Cut(NamedTuple):
    """What is done to an axis of an array, before it is cut into digits: repeated, then sliced."""

    times: int
    begin: int
    extent: int


class Dimensions(NamedTuple):
    """How the axes of an array become dimensions.

    Attributes:
      loops: number of loops, whose dimensions come first.
      layers: number of the next axes of the array.
      cuts: of these axes, and of those of the entries that follow.
      sizes: of the dimensions that all of them become.
      shared: how many of the dimensions are those of loops and layers.
    """

    loops: int
    layers: int
    cuts: tuple[Cut, ...]
    sizes: tuple[int, ...]
    shared: int


class Arrangement(NamedTuple):
    """What the dimensions of an array are to the axes of a parameter.

    Attributes:
      dimensions: of the array.
      indices: per axis of the parameter.
      doubled: the same for the second copy of the entries of a matrix.
      free: per axis of the parameter, digits that make no difference to the array.
    """

    dimensions: Dimensions
    indices: tuple[Index, ...]
    doubled: tuple[Index, ...]
    free: tuple[tuple[Digit, ...], ...]

    def covered(self, axis: int) -> np.ndarray:
        """The indices of an axis that digits which make no difference run through."""
        covered = np.array([self.indices[axis].start])
        for digit in self.free[axis]:
            covered = np.add.outer(covered, digit.stride * np.arange(digit.size)).ravel()
        return np.unique(covered)

    def but_for(self, axis: int) -> "Arrangement":
        """The same without one axis of the parameter."""
        rest = [a for a in range(len(self.free)) if a != axis]
        return self._replace(
            indices=tuple(self.indices[a] for a in rest),
            doubled=tuple(self.doubled[a] for a in rest),
            free=tuple(self.free[a] for a in rest),
        )


def arrangement(record: Record, *, copies: int = 1) -> Arrangement:
    """Returns to which indices of the parameter belongs what has been read of one of its uses.

    Args:
      record: of the use.
      copies: 2 where a matrix was read, with its entries along two axes each.
    """
    view = record.use.view
    terms: list[list[list[Term]]] = [[[] for _ in view.starts] for _ in range(2)]
    for loop in view.loops:
        terms[0][loop.digit.axis].append(Term(loop.depth, loop.digit.size, loop.digit.stride))
    sizes = list(record.lengths)
    cuts: list[Cut] = []
    free: list[list[Digit]] = [[] for _ in view.starts]
    read = [(axis, 0) for axis in record.layers]
    read += [(axis, copy) for copy in range(copies) for axis in record.entries]
    shared = len(sizes)
    for place, (axis, copy) in enumerate(read):
        cut, digits, rest = _cut(record, axis)
        cuts.append(cut)
        for digit in digits:
            if digit.axis >= 0:
                terms[copy][digit.axis].append(Term(len(sizes), digit.size, digit.stride))
            sizes.append(digit.size)
        for digit in rest:
            free[digit.axis].append(digit)
        shared = len(sizes) if place < len(record.layers) else shared
    indifferent_axes = set(range(len(view.axes))) - {axis for axis, _ in read}
    for digit in (digit for axis in sorted(indifferent_axes) for digit in view.axes[axis]):
        if digit.axis >= 0:
            free[digit.axis].append(digit)
    picks = [tuple(pick for pick in view.picks if pick.axis == axis) for axis in range(len(free))]
    first, second = (
        tuple(
            Index(start, tuple(own), picked)
            for start, own, picked in zip(view.starts, of_copy, picks, strict=True)
        )
        for of_copy in terms
    )
    dimensions = Dimensions(
        len(record.lengths), len(record.layers), tuple(cuts), tuple(sizes), shared
    )
    return Arrangement(dimensions, first, second, tuple(map(tuple, free)))


def _cut(record: Record, axis: int) -> tuple[Cut, Sequence[Digit], Sequence[Digit]]:
    """What is done to the array along an axis of the kernel, its digits, and those that do not matter."""
    view = record.use.view
    digits = view.axes[axis]
    groups = record.use.groups
    whole = Cut(1, view.begins[axis], view.extent(axis))
    if groups == 1 or record.use.roles[axis] != "out" or axis in record.entries:
        return whole, digits, ()
    # The array has one index for each group of outputs.
    entire = view.extent(axis) == record.shape[axis]
    for count in range(len(digits) + 1):
        if entire and math.prod(digit.size for digit in digits[:count]) == groups:
            return Cut(1, 0, groups), digits[:count], digits[count:]
    return whole._replace(times=record.shape[axis] // groups), digits, ()


def indifferent(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], shape: Sequence[int]
) -> set[int]:
    """The axes of a parameter along which what was read is the same at each index.

    Args:
      arrangements: of the uses of the parameter.
      statistics: what was read of each.
      shape: of the parameter.
    """
    return {
        axis
        for axis, size in enumerate(shape)
        if not any(own.indices[axis].moves for own in arrangements)
        and _covers(arrangements, statistics, axis, size)
    }


def _covers(
    arrangements: Sequence[Arrangement], statistics: Sequence[int], axis: int, size: int
) -> bool:
    """Whether uses of which the same was read have together the whole of an axis."""
    covered: dict[Any, set[int]] = {}
    for own, statistic in zip(arrangements, statistics, strict=True):
        known = covered.setdefault((statistic, own.but_for(axis)), set())
        known |= set(own.covered(axis).tolist())
    return all(len(own) == size for own in covered.values())


class Placement(NamedTuple):
    """Where the elements of an array belong in another.

    Attributes:
      dimensions: of the array.
      spread: sizes of further dimensions, along which the array is repeated.
      shape: of the other array.
      indices: of its axes.
    """

    dimensions: Dimensions
    spread: tuple[int, ...]
    shape: tuple[int, ...]
    indices: tuple[Index, ...]


def beside(own: Arrangement, shape: Sequence[int], full: Sequence[int]) -> Placement:
    """Where an array belongs in one that broadcasts against a parameter.

    Args:
      own: arrangement of the array.
      shape: of the parameter.
      full: its axes that are at full length; the others have the length 1.
    """
    placed = _along(own, shape, full)
    every = [full.index(axis) if axis in full else None for axis in range(len(shape))]
    sizes = tuple(1 if place is None else placed.shape[place] for place in every)
    indices = tuple(Index() if place is None else placed.indices[place] for place in every)
    return placed._replace(shape=sizes, indices=indices)


def matrix(
    own: Arrangement, shape: Sequence[int], layers: Sequence[int], entries: Sequence[int]
) -> Placement:
    """Where a matrix belongs in `[*layers, *entries, *entries]`, axes of a parameter."""
    placed = _along(own, shape, [*layers, *entries])
    again = tuple(own.doubled[axis] for axis in entries)
    sizes = tuple(shape[axis] for axis in entries)
    return placed._replace(shape=(*placed.shape, *sizes), indices=(*placed.indices, *again))


def _along(own: Arrangement, shape: Sequence[int], axes: Sequence[int]) -> Placement:
    """Where an array belongs in one with some of the axes of a parameter."""
    spread: list[int] = []
    indices: list[Index] = []
    for axis in axes:
        terms = list(own.indices[axis].terms)
        for digit in own.free[axis]:
            dimension = len(own.dimensions.sizes) + len(spread)
            terms.append(Term(dimension, digit.size, digit.stride))
            spread.append(digit.size)
        indices.append(own.indices[axis]._replace(terms=tuple(terms)))
    sizes = tuple(shape[axis] for axis in axes)
    return Placement(own.dimensions, tuple(spread), sizes, tuple(indices))


def put(where: Placement, array: jax.Array, emitted: Sequence[Any]) -> jax.Array:
    """Returns zeros with an array added to where it belongs.

    Args:
      where: it belongs.
      array: its first axes are those of the loops and the layers, then, if it has any more, of the entries.
        Axes behind these stay behind.
      emitted: see `Observed`.
    """
    own = where.dimensions
    array = _in_dimensions(own, array)
    cut = len(own.sizes)
    behind = array.shape[cut:]
    array = array.reshape(*array.shape[:cut], *[1] * len(where.spread), *behind)
    sizes = (*own.sizes, *where.spread, *behind)
    tail = [Index(0, (Term(len(sizes) - len(behind) + i, n, 1),)) for i, n in enumerate(behind)]
    return _added(
        (*where.shape, *behind),
        [*where.indices, *tail],
        jnp.broadcast_to(array, sizes),
        emitted,
        own.loops,
    )


def _in_dimensions(own: Dimensions, array: jax.Array) -> jax.Array:
    """The array with its axes cut into digits."""
    alike = array.ndim == own.loops + own.layers  # the same for all entries
    cuts = own.cuts[: own.layers] if alike else own.cuts
    for axis, cut in enumerate(cuts, own.loops):
        if cut.times != 1:
            array = jnp.repeat(array, cut.times, axis)
        if cut.extent != array.shape[axis]:
            array = jax.lax.slice_in_dim(array, cut.begin, cut.begin + cut.extent, axis=axis)
    behind = array.shape[own.loops + len(cuts) :]
    entries = [1] * (len(own.sizes) - own.shared)
    sizes = (*own.sizes[: own.shared], *entries) if alike else own.sizes
    return array.reshape(*sizes, *behind)


def _added(
    shape: Sequence[int],
    indices: Sequence[Index],
    array: jax.Array,
    emitted: Sequence[Any],
    loops: int,
) -> jax.Array:
    """Zeros of a shape with each element of an array added at the indices of its place.

    Axes along which one dimension runs are slices; along the others there are arrays of indices, which stand
    before the slices.
    """
    picked = any(index.picks for index in indices)
    scattered = [
        axis
        for axis, index in enumerate(indices)
        if not _is_slice(index) or (picked and any(t.dimension < loops for t in index.terms))
    ]
    sliced = [axis for axis in range(len(shape)) if axis not in scattered]
    used = {term.dimension for index in indices for term in index.terms}
    if picked:
        used |= set(range(loops))
    array = array.sum([axis for axis in range(array.ndim) if axis not in used])
    left = sorted(used)
    runs = [indices[axis].terms[0] if indices[axis].terms else None for axis in sliced]
    own = [left.index(term.dimension) for term in runs if term is not None]
    first = [place for place in range(len(left)) if place not in own]
    array = array.transpose(*first, *own)
    lengths = iter(array.shape[len(first) :])
    array = array.reshape(
        *array.shape[: len(first)], *(1 if term is None else next(lengths) for term in runs)
    )
    backwards = [
        len(first) + i for i, term in enumerate(runs) if term is not None and term.stride < 0
    ]
    array = jnp.flip(array, backwards) if backwards else array
    slices = [_slice(indices[axis]) for axis in sliced]
    if not scattered and array.shape == tuple(shape):
        return array
    dimensions = {left[place]: place for place in first}
    places = [
        positions(_renamed(indices[axis], dimensions), array.shape[: len(first)], emitted, loops)
        for axis in scattered
    ]
    order = (*scattered, *sliced)
    target = jnp.zeros([shape[axis] for axis in order], array.dtype)
    target = target.at[(*places, *slices)].add(array)
    return target.transpose([order.index(axis) for axis in range(len(shape))])


def _is_slice(index: Index) -> bool:
    return not index.picks and len(index.terms) <= 1


def _slice(index: Index) -> slice:
    """The indices in ascending order."""
    if not index.terms:
        return slice(index.start, index.start + 1)
    (term,) = index.terms
    last = index.start + term.stride * (term.size - 1)
    return slice(min(index.start, last), max(index.start, last) + 1, abs(term.stride) or 1)


def _renamed(index: Index, dimensions: dict[int, int]) -> Index:
    """The index with other numbers for the dimensions."""
    terms = (term._replace(dimension=dimensions[term.dimension]) for term in index.terms)
    return index._replace(terms=tuple(terms))


def positions(index: Index, sizes: Sequence[int], emitted: Sequence[Any], loops: int) -> jax.Array:
    """Returns the indices of an axis, an array along the dimensions; where it picks, loops come first."""
    found: Any = np.full([1] * len(sizes), index.start)
    for term in index.terms:
        along = [-1 if place == term.dimension else 1 for place in range(len(sizes))]
        found = found + term.stride * np.arange(term.size).reshape(along)
    for pick in index.picks:
        number = jnp.clip(emitted[pick.index], 0, pick.most)
        number = number.reshape(*number.shape, *[1] * (len(sizes) - loops))
        found = found + pick.stride * number
    return jnp.broadcast_to(jnp.asarray(found), sizes)
