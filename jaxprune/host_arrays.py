"""Large arrays of NumPy, read and cut block by block: nothing as large as they are is made in between."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

__all__ = ["Blockwise", "Total", "by_axis", "taken"]

_BLOCK = 2**16  # numbers, which stay in a core's cache
_ALIGNED = 64  # bytes: JAX on a CPU takes such arrays over as they are

Total = Literal["sum", "squares", "max"]


@dataclasses.dataclass(frozen=True)
class Blockwise:
    """What operations make of an array, number by number, each time that it is read.

    Attributes:
      source: as it is stored.
      operations: functions of arrays that keep shape and dtype, in order.

    >>> absolute = Blockwise(np.array([[-1.0, 2.0]]), (np.abs,))
    >>> np.asarray(absolute), absolute.shape
    (array([[1., 2.]]), (1, 2))
    """

    source: np.ndarray
    operations: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the source."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype:
        """That of the source."""
        return self.source.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.source.ndim

    def then(self, operation: Callable[[np.ndarray], np.ndarray]) -> "Blockwise":
        """This, with one more operation."""
        return Blockwise(self.source, (*self.operations, operation))

    def of(self, part: np.ndarray) -> np.ndarray:
        """What the operations make of a part of the source."""
        for operation in self.operations:
            part = operation(part)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self.of(self.source)
        return whole if dtype is None else whole.astype(dtype)


def by_axis(
    array: np.ndarray | Blockwise, axes: Sequence[int], total: Total
) -> dict[int, np.ndarray]:
    """Returns for each axis one number per index: the total of all that stands there, in float64.

    The array is read once for all axes, in blocks. Slices with the same numbers in the same order have
    the same total, to the last bit.

    Args:
      array: of any real dtype.
      axes: of it, not negative.
      total: the sum, the sum of squares, or the maximum.

    >>> by_axis(np.array([[1.0, 2.0], [3.0, 5.0]]), [0, 1], "sum")
    {0: array([3., 8.]), 1: array([4., 7.])}
    """
    add: np.ufunc = np.maximum if total == "max" else np.add
    nothing = -np.inf if total == "max" else 0.0
    shape = array.shape
    split = _split(shape)
    rows = np.full(math.prod(shape[:split]), nothing)
    columns = np.full(math.prod(shape[split:]), nothing)
    want_rows = any(axis < split for axis in axes)
    want_columns = any(axis >= split for axis in axes)
    for part, block in _blocks(array, len(rows), len(columns)):
        if total == "squares":
            block *= block
        if want_rows:
            rows[part] = add.reduce(block, axis=1, initial=nothing)
        if want_columns:
            add(columns, add.reduce(block, axis=0, initial=nothing), out=columns)
    leading, trailing = rows.reshape(shape[:split]), columns.reshape(shape[split:])

    def one(axis: int) -> np.ndarray:
        own, at = (leading, axis) if axis < split else (trailing, axis - split)
        others = tuple(i for i in range(own.ndim) if i != at)
        return add.reduce(own, axis=others, initial=nothing)

    return {axis: one(axis) for axis in axes}


def _split(shape: tuple[int, ...]) -> int:
    """The axis from which on an array is a row: as many axes as fit into a block, and the last one always."""
    split = max(len(shape) - 1, 0)
    while split > 0 and math.prod(shape[split - 1 :]) <= _BLOCK:
        split -= 1
    return split


def _blocks(
    array: np.ndarray | Blockwise, rows: int, columns: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Some rows of a matrix after others, as float64 arrays that may be written to."""
    if not rows * columns:
        return
    lazy = array if isinstance(array, Blockwise) else Blockwise(array)
    matrix = np.ascontiguousarray(lazy.source).reshape(rows, columns)
    step = max(1, _BLOCK // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        yield part, np.array(lazy.of(matrix[part]), np.float64)


def taken(array: np.ndarray, kept: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Returns a copy of an array at some indices of some axes; it begins where JAX wants arrays to begin.

    >>> taken(np.array([[1, 2, 3], [4, 5, 6]]), {1: [0, 2]})
    array([[1, 3],
           [4, 6]])
    """
    indices = [
        np.asarray(kept[axis], np.int64) if axis in kept else np.arange(size)
        for axis, size in enumerate(array.shape)
    ]
    found = _aligned(tuple(map(len, indices)), array.dtype)
    if found.size:
        _take(array, indices, set(kept), found)
    return found


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size].view(dtype).reshape(shape)


def _take(
    array: np.ndarray, indices: Sequence[np.ndarray], cut_axes: set[int], out: np.ndarray
) -> None:
    """Copies the entries at some indices, block by block."""
    if array.ndim > 1 and array[0].size > _BLOCK:
        below = {axis - 1 for axis in cut_axes if axis > 0}
        for own, at in zip(out, indices[0], strict=True):
            _take(array[at], indices[1:], below, own)
        return
    step = max(1, _BLOCK // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(out), step):
        part = slice(start, start + step)
        block = array[indices[0][part]] if 0 in cut_axes else array[part]
        for axis in sorted(cut_axes - {0}):
            block = np.take(block, indices[axis], axis)
        out[part] = block
