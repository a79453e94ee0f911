"""Putting what has been read of kernels to the indices of the parameters that they are made of."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.signals.arrangements import Arrangement, Dimensions, Index, Term

__all__ = ["Placement", "beside", "matrix", "positions", "put"]


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
    apart = range(loops) if picked else ()  # dimensions along which places are computed
    scattered = [axis for axis, index in enumerate(indices) if not _is_slice(index, apart)]
    sliced = [axis for axis in range(len(shape)) if axis not in scattered]
    used = {term.dimension for index in indices for term in index.terms} | set(apart)
    along = [indices[axis].terms[0] if indices[axis].terms else None for axis in sliced]
    first = sorted(used - {term.dimension for term in along if term is not None})
    array = array.sum([axis for axis in range(array.ndim) if axis not in used])
    array = _before_slices(array, sorted(used), first, along)
    if not scattered and array.shape == tuple(shape):
        return array
    dimensions = {dimension: place for place, dimension in enumerate(first)}
    places = [
        positions(_renamed(indices[axis], dimensions), array.shape[: len(first)], emitted, loops)
        for axis in scattered
    ]
    slices = [_slice(indices[axis]) for axis in sliced]
    order = (*scattered, *sliced)
    target = jnp.zeros([shape[axis] for axis in order], array.dtype)
    target = target.at[(*places, *slices)].add(array)
    return target.transpose([order.index(axis) for axis in range(len(shape))])


def _before_slices(
    array: jax.Array,
    dimensions: Sequence[int],
    first: Sequence[int],
    along: Sequence[Term | None],
) -> jax.Array:
    """The array with the dimensions of scattered places first, then one axis for each slice, ascending."""
    runs = [term for term in along if term is not None]
    order = [dimensions.index(dimension) for dimension in first]
    order += [dimensions.index(term.dimension) for term in runs]
    array = array.transpose(order)
    lengths = (1 if term is None else term.size for term in along)
    array = array.reshape(*array.shape[: len(first)], *lengths)
    backwards = [
        axis for axis, term in enumerate(along, len(first)) if term is not None and term.stride < 0
    ]
    return jnp.flip(array, backwards) if backwards else array


def _is_slice(index: Index, apart: Container[int]) -> bool:
    """Whether one dimension runs along an axis, or none, and it is not one of those apart."""
    computed = any(term.dimension in apart for term in index.terms)
    return not index.picks and len(index.terms) <= 1 and not computed


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
