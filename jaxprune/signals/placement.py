"""Scatters the statistics of kernels to the indices of the parameters that the kernels are made of."""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.signals.arrangements import Arrangement, Dimensions, Index, Term

__all__ = ["Placement", "broadcast_placement", "index_array", "matrix_placement", "scatter"]


class Placement(NamedTuple):
    """The places of the elements of one array in another.

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


def broadcast_placement(
    arrangement: Arrangement, shape: Sequence[int], full_axes: Sequence[int]
) -> Placement:
    """Returns where an array belongs in one that broadcasts against a parameter.

    Args:
      arrangement: of the array.
      shape: of the parameter.
      full_axes: its axes that are at full length; the others have the length 1.
    """
    full_placement = _axes_placement(arrangement, shape, full_axes)
    full_positions = [
        full_axes.index(axis) if axis in full_axes else None for axis in range(len(shape))
    ]
    sizes = tuple(
        1 if position is None else full_placement.shape[position] for position in full_positions
    )
    indices = tuple(
        Index() if position is None else full_placement.indices[position]
        for position in full_positions
    )
    return full_placement._replace(shape=sizes, indices=indices)


def matrix_placement(
    arrangement: Arrangement, shape: Sequence[int], layers: Sequence[int], entries: Sequence[int]
) -> Placement:
    """Returns where a matrix belongs in `[*layers, *entries, *entries]`, axes of a parameter."""
    first_copy = _axes_placement(arrangement, shape, [*layers, *entries])
    second_indices = tuple(arrangement.doubled[axis] for axis in entries)
    sizes = tuple(shape[axis] for axis in entries)
    return first_copy._replace(
        shape=(*first_copy.shape, *sizes), indices=(*first_copy.indices, *second_indices)
    )


def _axes_placement(
    arrangement: Arrangement, shape: Sequence[int], axes: Sequence[int]
) -> Placement:
    """Returns where an array belongs in one with some of the axes of a parameter."""
    spread_sizes: list[int] = []
    indices: list[Index] = []
    for axis in axes:
        terms = list(arrangement.indices[axis].terms)
        for digit in arrangement.free[axis]:
            dimension = len(arrangement.dimensions.sizes) + len(spread_sizes)
            terms.append(Term(dimension, digit.size, digit.stride))
            spread_sizes.append(digit.size)
        indices.append(arrangement.indices[axis]._replace(terms=tuple(terms)))
    sizes = tuple(shape[axis] for axis in axes)
    return Placement(arrangement.dimensions, tuple(spread_sizes), sizes, tuple(indices))


def scatter(placement: Placement, array: jax.Array, emitted: Sequence[Any]) -> jax.Array:
    """Returns zeros with an array added to where it belongs.

    Args:
      placement: where that is.
      array: its first axes are those of the loops and the layers, then, if it has any more, of the entries.
        Axes behind these stay behind.
      emitted: see `Observations`.
    """
    dimensions = placement.dimensions
    array = _split_into_dimensions(dimensions, array)
    number_of_dimensions = len(dimensions.sizes)
    trailing_shape = array.shape[number_of_dimensions:]
    array = array.reshape(
        *array.shape[:number_of_dimensions], *[1] * len(placement.spread), *trailing_shape
    )
    sizes = (*dimensions.sizes, *placement.spread, *trailing_shape)
    trailing_indices = [
        Index(0, (Term(len(sizes) - len(trailing_shape) + position, size, 1),))
        for position, size in enumerate(trailing_shape)
    ]
    return _scatter_added(
        (*placement.shape, *trailing_shape),
        [*placement.indices, *trailing_indices],
        jnp.broadcast_to(array, sizes),
        emitted,
        dimensions.loops,
    )


def _split_into_dimensions(dimensions: Dimensions, array: jax.Array) -> jax.Array:
    """Returns the array with its axes cut into digits."""
    has_no_entries = array.ndim == dimensions.loops + dimensions.layers  # the same for all entries
    cuts = dimensions.cuts[: dimensions.layers] if has_no_entries else dimensions.cuts
    for axis, cut in enumerate(cuts, dimensions.loops):
        if cut.times != 1:
            array = jnp.repeat(array, cut.times, axis)
        if cut.extent != array.shape[axis]:
            array = jax.lax.slice_in_dim(array, cut.begin, cut.begin + cut.extent, axis=axis)
    trailing_shape = array.shape[dimensions.loops + len(cuts) :]
    unit_sizes = [1] * (len(dimensions.sizes) - dimensions.shared)
    sizes = (
        (*dimensions.sizes[: dimensions.shared], *unit_sizes)
        if has_no_entries
        else dimensions.sizes
    )
    return array.reshape(*sizes, *trailing_shape)


def _scatter_added(
    shape: Sequence[int],
    indices: Sequence[Index],
    array: jax.Array,
    emitted: Sequence[Any],
    number_of_loops: int,
) -> jax.Array:
    """Returns zeros of a shape with each element of an array added at the indices of its place.

    Axes along which one dimension runs are slices; along the others there are arrays of indices, which stand
    before the slices.
    """
    has_picks = any(index.picks for index in indices)
    # The program computes an index for each iteration: loops are no slices then.
    scattered_dimensions = range(number_of_loops) if has_picks else ()
    scattered_axes = [
        axis for axis, index in enumerate(indices) if not _is_slice(index, scattered_dimensions)
    ]
    sliced_axes = [axis for axis in range(len(shape)) if axis not in scattered_axes]
    used_dimensions = {term.dimension for index in indices for term in index.terms} | set(
        scattered_dimensions
    )
    slice_terms = [indices[axis].terms[0] if indices[axis].terms else None for axis in sliced_axes]
    leading_dimensions = sorted(
        used_dimensions - {term.dimension for term in slice_terms if term is not None}
    )
    array = array.sum([axis for axis in range(array.ndim) if axis not in used_dimensions])
    array = _order_dimensions(array, sorted(used_dimensions), leading_dimensions, slice_terms)
    if not scattered_axes and array.shape == tuple(shape):
        return array
    new_dimensions = {dimension: position for position, dimension in enumerate(leading_dimensions)}
    index_arrays = [
        index_array(
            _renumber_dimensions(indices[axis], new_dimensions),
            array.shape[: len(leading_dimensions)],
            emitted,
            number_of_loops,
        )
        for axis in scattered_axes
    ]
    slices = [_slice(indices[axis]) for axis in sliced_axes]
    axis_order = (*scattered_axes, *sliced_axes)
    target = jnp.zeros([shape[axis] for axis in axis_order], array.dtype)
    target = target.at[(*index_arrays, *slices)].add(array)
    return target.transpose([axis_order.index(axis) for axis in range(len(shape))])


def _order_dimensions(
    array: jax.Array,
    dimensions: Sequence[int],
    leading_dimensions: Sequence[int],
    terms_by_axis: Sequence[Term | None],
) -> jax.Array:
    """Returns the array with scattered dimensions first, then one axis for each slice, ascending."""
    slice_terms = [term for term in terms_by_axis if term is not None]
    axis_order = [dimensions.index(dimension) for dimension in leading_dimensions]
    axis_order += [dimensions.index(term.dimension) for term in slice_terms]
    array = array.transpose(axis_order)
    slice_lengths = (1 if term is None else term.size for term in terms_by_axis)
    array = array.reshape(*array.shape[: len(leading_dimensions)], *slice_lengths)
    reversed_axes = [
        axis
        for axis, term in enumerate(terms_by_axis, len(leading_dimensions))
        if term is not None and term.stride < 0
    ]
    return jnp.flip(array, reversed_axes) if reversed_axes else array


def _is_slice(index: Index, scattered_dimensions: Container[int]) -> bool:
    """Whether one dimension runs along an axis, or none, and it is not a scattered one."""
    is_scattered = any(term.dimension in scattered_dimensions for term in index.terms)
    return not index.picks and len(index.terms) <= 1 and not is_scattered


def _slice(index: Index) -> slice:
    """Returns the slice of the indices in ascending order."""
    if not index.terms:
        return slice(index.start, index.start + 1)
    (term,) = index.terms
    last_index = index.start + term.stride * (term.size - 1)
    return slice(
        min(index.start, last_index), max(index.start, last_index) + 1, abs(term.stride) or 1
    )


def _renumber_dimensions(index: Index, dimensions: dict[int, int]) -> Index:
    """Returns the index with its dimensions renumbered."""
    terms = (term._replace(dimension=dimensions[term.dimension]) for term in index.terms)
    return index._replace(terms=tuple(terms))


def index_array(
    index: Index, sizes: Sequence[int], emitted: Sequence[Any], number_of_loops: int
) -> jax.Array:
    """Returns the indices of an axis, an array along the dimensions; where it picks, loops come first."""
    total: Any = np.full([1] * len(sizes), index.start)
    for term in index.terms:
        term_shape = [-1 if other == term.dimension else 1 for other in range(len(sizes))]
        total = total + term.stride * np.arange(term.size).reshape(term_shape)
    for pick in index.picks:
        picked_index = jnp.clip(emitted[pick.index], 0, pick.most)
        picked_index = picked_index.reshape(
            *picked_index.shape, *[1] * (len(sizes) - number_of_loops)
        )
        total = total + pick.stride * picked_index
    return jnp.broadcast_to(jnp.asarray(total), sizes)
