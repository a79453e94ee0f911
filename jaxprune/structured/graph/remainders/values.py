"""Values of a program with their remainders: what they would hold in places that were removed.

A place is a combination of one index of each axis of a value. A region is the set of places that were removed
along certain axes and are left along the others. What a value holds in a region is called its content there.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.calls import is_traced
from jaxprune.structured.graph.labels import AxisLabels
from jaxprune.structured.graph.rules.rule import Kept

__all__ = [
    "EVERYWHERE",
    "Leak",
    "Lost",
    "Places",
    "Region",
    "Remainders",
    "Value",
    "broadcast_content",
    "constant_value",
    "evaluate_or_shape",
    "is_array",
    "is_number",
    "is_zero",
    "is_zero_product",
    "lost_among",
    "regions_of",
]

Region = frozenset[int]  # those of a value's axes along which its places were removed
EVERYWHERE: Region = frozenset()  # the places that are left
Remainders = dict[Region, Any]  # region -> content
# Is told a reason, and labels of the axes whose removed units are owed something.
Leak = Callable[[str, AxisLabels], None]
_FEW_ELEMENTS = 2**16


class Lost(NamedTuple):
    """The content of a region if it is not known.

    Attributes:
      reason: what made it so, in words.
      is_finite: whether it is finite, as far as is known.
    """

    reason: str
    is_finite: bool = True


class Value(NamedTuple):
    """A value of a program.

    Attributes:
      array: what is left of it, or the shape of that.
      remainders: what the whole value holds in the places that were removed, by region: a number of NumPy
        that is the same in all of them, an array that broadcasts to the region, or `Lost`; a region that is
        not there holds zeros. Under `EVERYWHERE`, the number that is in all the places that are left, if it
        is known.
      positive: whether no element of what is left is negative, as far as is known.
    """

    array: Any
    remainders: Mapping[Region, Any] = {}
    positive: bool = False

    def shaped(self) -> "Value":
        """Returns the value with shapes of arrays in their place."""
        remainders = {
            region: _shape(content) if is_array(content) else content
            for region, content in self.remainders.items()
        }
        return Value(_shape(self.array), remainders, self.positive)

    def at(self, region: Region) -> Any:
        """Returns the content of a region."""
        if region in self.remainders:
            return self.remainders[region]
        return np.zeros((), self.array.dtype)[()] if region else self.array


class Places:
    """Tells which indices of labelled axes are left, and so which places of a value.

    Args:
      kept: labels -> which of them are left.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._known: dict[int, tuple[np.ndarray, np.ndarray, bool]] = {}

    def alive(self, axis: np.ndarray) -> np.ndarray:
        """Boolean per index of an axis: it is left."""
        return self._entry(axis)[1]

    __call__ = alive

    def cut(self, axes: AxisLabels) -> Region:
        """Returns the axes of a value along which something was removed."""
        return frozenset(i for i, axis in enumerate(axes) if self._entry(axis)[2])

    def sizes(self, axes: AxisLabels, region: Region) -> tuple[int, ...]:
        """Returns the shape of a region of a value."""
        alive_counts = [int(self.alive(axis).sum()) for axis in axes]
        return tuple(
            len(axis) - alive_count if i in region else alive_count
            for i, (axis, alive_count) in enumerate(zip(axes, alive_counts, strict=True))
        )

    def taken(self, array: Any, axes: AxisLabels, region: Region) -> Any:
        """Returns the part of an array, of which nothing was removed yet, that is in a region."""
        for i, axis in enumerate(axes):
            alive = self.alive(axis)
            if not alive.all():
                indices = np.flatnonzero(~alive if i in region else alive)
                array = array.take(indices, axis=i)
        return array

    def _entry(self, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        """Returns an axis, which of its indices are left, and whether some are not."""
        entry = self._known.get(id(axis))
        if entry is None:
            alive = self._kept(axis)
            entry = (axis, alive, not alive.all())  # the axis is held, so that its id is not reused
            self._known[id(axis)] = entry
        return entry


def regions_of(axes: Iterable[int]) -> Iterator[Region]:
    """Yields the regions of places that were removed along at least one of some axes.

    >>> [sorted(region) for region in regions_of([1, 3])]
    [[1], [3], [1, 3]]
    """
    axes = sorted(axes)
    for count in range(1, len(axes) + 1):
        yield from map(frozenset, itertools.combinations(axes, count))


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)


def is_number(content: Any) -> bool:
    """Whether a content is a number that is known, the same in all places."""
    return isinstance(content, np.generic)


def is_array(content: Any) -> bool:
    """Whether a content is an array, or the shape of one: neither a number nor lost."""
    return not (is_number(content) or isinstance(content, Lost))


def is_zero(content: Any) -> bool:
    """Whether a content is known to be zero."""
    return is_number(content) and bool(content == 0)


def is_zero_product(content: Any, other: Any) -> bool:
    """Whether a product of two contents is zero: one of them is, the other is not known to be infinite."""
    return (is_zero(content) or is_zero(other)) and not (
        _is_infinite(content) or _is_infinite(other)
    )


def lost_among(contents: Sequence[Any]) -> Lost | None:
    """Returns one of the contents that are lost, rather one that may be infinite."""
    lost = [content for content in contents if isinstance(content, Lost)]
    return min(lost, key=lambda content: content.is_finite, default=None)


def _is_infinite(content: Any) -> bool:
    """Whether a content is known to be infinite, or NaN."""
    if isinstance(content, Lost):
        return not content.is_finite
    return is_number(content) and not np.isfinite(content)


def constant_value(array: Any, aval: Any, axes: AxisLabels, places: Places) -> Value:
    """Returns the value of a constant of the program, of which all places are known.

    Args:
      array: the constant, of which nothing was removed.
      aval: its shape and type in the program.
      axes: its labels.
      places: which are left.
    """
    cut_axes = places.cut(axes)
    contents: Remainders = {}
    positive = False
    if isinstance(aval.dtype, np.dtype) and _on_host(array):
        array = np.asarray(array, aval.dtype)
        positive = array.dtype.kind in "bu" or bool(array.dtype.kind != "c" and (array >= 0).all())
        if array.size and bool((array == array.flat[0]).all()):
            contents = dict.fromkeys([EVERYWHERE, *regions_of(cut_axes)], array.flat[0])
    if cut_axes and not contents:
        array = jnp.asarray(array)
        contents = {region: places.taken(array, axes, region) for region in regions_of(cut_axes)}
    remainders = {
        region: content for region, content in contents.items() if not (region and is_zero(content))
    }
    left = places.taken(array, axes, EVERYWHERE) if cut_axes else array
    return Value(left, remainders, positive)


def _on_host(array: Any) -> bool:
    """Whether an array's numbers may be looked at: they are known, and few or not on a device."""
    if is_traced(array):
        return False
    if not isinstance(array, jax.Array):
        return True
    return array.size <= _FEW_ELEMENTS and array.is_fully_addressable


def evaluate_or_shape(fn: Callable[..., Any], *operands: Any) -> Any:
    """Returns what a function makes of arrays, or the shape of that if one of them is a shape only."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in operands):
        return jax.eval_shape(fn, *operands)
    return fn(*operands)


def broadcast_content(content: Any, sizes: Sequence[int | None], rank: int, dtype: Any) -> Any:
    """Returns a content as an array, broadcast along some of its axes.

    Args:
      content: a number, or an array that broadcasts.
      sizes: new size of each axis; `None`: as it is, which may be 1.
      rank: of the value.
      dtype: of the value.
    """

    def broadcast(x: Any) -> Any:
        array = jnp.asarray(x, dtype)
        array = array.reshape((1,) * rank) if not array.ndim else array
        shape = [
            old_size if new_size is None else new_size
            for old_size, new_size in zip(array.shape, sizes, strict=True)
        ]
        return array if tuple(shape) == array.shape else jnp.broadcast_to(array, shape)

    return evaluate_or_shape(broadcast, content)
