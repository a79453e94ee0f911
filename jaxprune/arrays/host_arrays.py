"""Totals and slices of large NumPy arrays, computed block by block without intermediate copies."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

__all__ = ["Blockwise", "Total", "take_indices", "totals_by_axis"]

_BLOCK = 2**16  # elements, which stay in a core's cache
_ALIGNMENT = 64  # bytes: JAX on a CPU uses such arrays without a copy

Total = Literal["sum", "squares", "max"]


@dataclasses.dataclass(frozen=True)
class Blockwise:
    """An array to which operations are applied element by element, each time that it is read.

    Attributes:
      source: the array as it is stored.
      operations: functions of arrays that keep shape and dtype, in order.

    >>> absolute = Blockwise(np.array([[-1.0, 2.0]]), (np.abs,))
    >>> np.asarray(absolute), absolute.shape
    (array([[1., 2.]]), (1, 2))
    """

    source: np.ndarray
    operations: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the source."""
        return self.source.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.source.ndim

    def then(self, operation: Callable[[np.ndarray], np.ndarray]) -> "Blockwise":
        """Returns the same array with one more operation."""
        return Blockwise(self.source, (*self.operations, operation))

    def apply_to(self, part: np.ndarray) -> np.ndarray:
        """Applies the operations to a part of the source."""
        for operation in self.operations:
            part = operation(part)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.apply_to(self.source)
        return array if dtype is None else array.astype(dtype)


def totals_by_axis(
    array: np.ndarray | Blockwise, axes: Sequence[int], total: Total
) -> dict[int, np.ndarray]:
    """Returns, for each axis, the total of the slice at each of its indices, in float64.

    The array is read once for all axes, in blocks. Slices with the same elements in the same order have
    the same total, to the last bit.

    Args:
      array: of any real dtype.
      axes: of it, not negative.
      total: the sum, the sum of squares, or the maximum.

    >>> totals_by_axis(np.array([[1.0, 2.0], [3.0, 5.0]]), [0, 1], "sum")
    {0: array([3., 8.]), 1: array([4., 7.])}
    """
    add: np.ufunc = np.maximum if total == "max" else np.add
    neutral = -np.inf if total == "max" else 0.0
    shape = array.shape
    split_axis = _first_row_axis(shape)
    rows = np.full(math.prod(shape[:split_axis]), neutral)
    columns = np.full(math.prod(shape[split_axis:]), neutral)
    needs_rows = any(axis < split_axis for axis in axes)
    needs_columns = any(axis >= split_axis for axis in axes)
    for part, block in _blocks(array, len(rows), len(columns)):
        if total == "squares":
            block *= block
        if needs_rows:
            rows[part] = add.reduce(block, axis=1, initial=neutral)
        if needs_columns:
            add(columns, add.reduce(block, axis=0, initial=neutral), out=columns)
    leading = rows.reshape(shape[:split_axis])
    trailing = columns.reshape(shape[split_axis:])

    def total_along(axis: int) -> np.ndarray:
        totals = leading if axis < split_axis else trailing
        own_axis = axis if axis < split_axis else axis - split_axis
        other_axes = tuple(i for i in range(totals.ndim) if i != own_axis)
        return add.reduce(totals, axis=other_axes, initial=neutral)

    return {axis: total_along(axis) for axis in axes}


def _first_row_axis(shape: tuple[int, ...]) -> int:
    """Returns the axis from which on an array is a row: as many as fit into a block, the last one always."""
    split_axis = max(len(shape) - 1, 0)
    while split_axis > 0 and math.prod(shape[split_axis - 1 :]) <= _BLOCK:
        split_axis -= 1
    return split_axis


def _blocks(
    array: np.ndarray | Blockwise, rows: int, columns: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields some rows of a matrix after others, as float64 arrays that may be written to."""
    if not rows * columns:
        return
    blockwise = array if isinstance(array, Blockwise) else Blockwise(array)
    matrix = np.ascontiguousarray(blockwise.source).reshape(rows, columns)
    block_rows = max(1, _BLOCK // columns)
    for start in range(0, rows, block_rows):
        part = slice(start, start + block_rows)
        yield part, np.array(blockwise.apply_to(matrix[part]), np.float64)


def take_indices(array: np.ndarray, kept: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Returns a copy of an array at some indices of some axes, aligned so that JAX need not copy it.

    Args:
      array: to be sliced.
      kept: the indices by axis; other axes are left as they are.

    >>> take_indices(np.array([[1, 2, 3], [4, 5, 6]]), {1: [0, 2]})
    array([[1, 3],
           [4, 6]])
    """
    indices = [
        np.asarray(kept[axis], np.int64) if axis in kept else np.arange(size)
        for axis, size in enumerate(array.shape)
    ]
    out = _empty_aligned(tuple(map(len, indices)), array.dtype)
    if out.size:
        _take(array, indices, set(kept), out)
    return out


def _empty_aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an array without values that begins at a multiple of `_ALIGNMENT` bytes."""
    byte_count = math.prod(shape) * dtype.itemsize
    memory = np.empty(byte_count + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + byte_count].view(dtype).reshape(shape)


def _take(
    array: np.ndarray, indices: Sequence[np.ndarray], cut_axes: set[int], out: np.ndarray
) -> None:
    """Copies the elements at some indices, block by block."""
    if array.ndim > 1 and array[0].size > _BLOCK:
        inner_cut_axes = {axis - 1 for axis in cut_axes if axis > 0}
        for out_row, index in zip(out, indices[0], strict=True):
            _take(array[index], indices[1:], inner_cut_axes, out_row)
        return
    block_rows = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(out), block_rows):
        part = slice(start, start + block_rows)
        block = array[indices[0][part]] if 0 in cut_axes else array[part]
        for axis in sorted(cut_axes - {0}):
            block = np.take(block, indices[axis], axis)
        out[part] = block
