"""Values of a program with their remainders: what they would hold in places that were removed."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune.structured.labels import Axes
from jaxprune.structured.rules.rule import Kept

__all__ = [
    "EVERYWHERE",
    "Leak",
    "Lost",
    "Places",
    "Region",
    "Value",
    "evaluated",
    "is_nothing",
    "is_number",
    "is_zero",
    "regions_of",
    "spread",
    "whole",
]

Region = frozenset[int]  # of a value's axes those along which a place was removed
EVERYWHERE: Region = frozenset()  # the places that are left
_FEW = 2**16
Leak = Callable[
    [str, Axes], None
]  # a reason, and labels of the axes whose removed units are owed something


class Lost(NamedTuple):
    """A remainder that cannot be told.

    Attributes:
      reason: what made it so, in words.
    """

    reason: str


class Value(NamedTuple):
    """A value of a program.

    Attributes:
      array: what is left of it, or the shape of that.
      remainders: what the whole value holds in the places that were removed, by region: a number of NumPy
        that is the same in all of them, an array that broadcasts to the region, or `Lost`; without an entry
        it is zero. Under `EVERYWHERE`, the number that is in all the places that are left, if it is known.
      positive: whether no entry of what is left is negative, as far as is known.
    """

    array: Any
    remainders: Mapping[Region, Any] = {}
    positive: bool = False

    def shaped(self) -> "Value":
        """It with shapes of arrays in their place."""
        told = lambda c: is_number(c) or isinstance(c, Lost)
        pairs = self.remainders.items()
        return Value(
            _shape(self.array), {r: c if told(c) else _shape(c) for r, c in pairs}, self.positive
        )

    def at(self, region: Region) -> Any:
        """What it holds in a region."""
        if region in self.remainders:
            return self.remainders[region]
        return np.zeros((), self.array.dtype)[()] if region else self.array


class Places:
    """Which places of labelled axes are left.

    Args:
      kept: labels -> which of them are left.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._known: dict[int, tuple[np.ndarray, np.ndarray, bool]] = {}

    def alive(self, axis: np.ndarray) -> np.ndarray:
        """Of one axis."""
        return self._entry(axis)[1]

    __call__ = alive

    def cut(self, axes: Axes) -> Region:
        """The axes of a value that have lost places."""
        return frozenset(i for i, axis in enumerate(axes) if self._entry(axis)[2])

    def sizes(self, axes: Axes, region: Region) -> tuple[int, ...]:
        """The shape of a region of a value."""
        alive = [int(self.alive(axis).sum()) for axis in axes]
        return tuple(
            len(axis) - n if i in region else n
            for i, (axis, n) in enumerate(zip(axes, alive, strict=True))
        )

    def taken(self, array: Any, axes: Axes, region: Region) -> Any:
        """What a whole array holds in a region."""
        for i, axis in enumerate(axes):
            alive = self.alive(axis)
            if not alive.all():
                index = np.flatnonzero(~alive if i in region else alive)
                array = array.take(index, axis=i)
        return array

    def _entry(self, axis: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        found = self._known.get(id(axis))
        if found is None:
            alive = self._kept(axis)
            found = (axis, alive, not alive.all())  # the axis is held, so that its id stays its own
            self._known[id(axis)] = found
        return found


def regions_of(axes: Iterable[int]) -> Iterator[Region]:
    """The regions in which at least one of some axes is removed.

    >>> [sorted(region) for region in regions_of([1, 3])]
    [[1], [3], [1, 3]]
    """
    axes = sorted(axes)
    for count in range(1, len(axes) + 1):
        yield from map(frozenset, itertools.combinations(axes, count))


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(x), x.dtype)


def is_number(content: Any) -> bool:
    """Whether it is known, and the same everywhere."""
    return isinstance(content, np.generic)


def is_zero(content: Any) -> bool:
    """Whether it is known to be zero."""
    return is_number(content) and bool(content == 0)


def is_nothing(a: Any, b: Any) -> bool:
    """Whether a product of two contents is zero: one of them is, the other is not known to be infinite."""
    infinite = any(is_number(x) and not np.isfinite(x) for x in (a, b))
    return (is_zero(a) or is_zero(b)) and not infinite


def whole(array: Any, aval: Any, axes: Axes, places: Places) -> Value:
    """A constant of the program: it is there in all places."""
    region = places.cut(axes)
    contents: dict[Region, Any] = {}
    positive = False
    if isinstance(aval.dtype, np.dtype) and _on_host(array):
        array = np.asarray(array, aval.dtype)
        positive = array.dtype.kind in "bu" or bool(array.dtype.kind != "c" and (array >= 0).all())
        if array.size and bool((array == array.flat[0]).all()):
            contents = dict.fromkeys([EVERYWHERE, *regions_of(region)], array.flat[0])
    if region and not contents:
        array = jnp.asarray(array)
        contents = {r: places.taken(array, axes, r) for r in regions_of(region)}
    contents = {r: c for r, c in contents.items() if not (r and is_zero(c))}
    return Value(places.taken(array, axes, EVERYWHERE) if region else array, contents, positive)


def _on_host(array: Any) -> bool:
    """Whether its numbers may be looked at: they are known, and few or no device's."""
    if isinstance(array, Tracer):
        return False
    if not isinstance(array, jax.Array):
        return True
    return array.size <= _FEW and array.is_fully_addressable


def evaluated(fn: Callable[..., Any], *operands: Any) -> Any:
    """What a function makes of arrays, or the shape of that if one of them is a shape only."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in operands):
        return jax.eval_shape(fn, *operands)
    return fn(*operands)


def spread(content: Any, sizes: Sequence[int | None], rank: int, dtype: Any) -> Any:
    """A content as an array of some rank, of which some axes are as long as is said.

    Args:
      content: a number, or an array that broadcasts.
      sizes: of each axis; `None`: as it is, which may be 1.
      rank: of the value.
      dtype: of the value.
    """

    def widened(x: Any) -> Any:
        array = jnp.asarray(x, dtype)
        array = array.reshape((1,) * rank) if not array.ndim else array
        shape = [n if want is None else want for n, want in zip(array.shape, sizes, strict=True)]
        return array if tuple(shape) == array.shape else jnp.broadcast_to(array, shape)

    return evaluated(widened, content)
