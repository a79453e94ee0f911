"""Whole numbers of survivors, exact where float32 is not, and the layers that they are dealt out to."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune import checks
from jaxprune.types import Sparsity, Units

__all__ = [
    "Layers",
    "apportion",
    "at_least_kept",
    "check_floor",
    "each_layer",
    "floored",
    "survivors",
]

_UNIT = 10**7  # a sparsity of one


def survivors(n: jax.Array | int, sparsity: Sparsity) -> jax.Array:
    """Returns `n - round(n * sparsity)`, exact for every `n` below 2**31.

    Args:
      n: units, a Python integer or an int32 scalar.
      sparsity: fraction removed, a Python float or a float32 scalar; read to seven decimals.

    Returns:
      int32 scalar.

    >>> [int(survivors(10**8, s)) for s in (0.9, jnp.float32(0.9), 0.0, 1.0)]
    [10000000, 10000000, 100000000, 0]
    """
    if not isinstance(n, jax.Array):
        checks.check("survivors", n=(n, checks.INTEGER))
    if isinstance(sparsity, float | int) and not 0 <= sparsity <= 1:
        raise ValueError(f"survivors(sparsity={sparsity}): a fraction in [0, 1] is needed.")
    return _rest(n, sparsity, _UNIT // 2)


def at_least_kept(n: jax.Array | int, sparsity: Sparsity) -> jax.Array:
    """Returns the fewest of `n` units that can be left when no more than a fraction is removed, as exactly.

    >>> [int(at_least_kept(3, s)) for s in (0.5, 0.9, 1.0)], int(survivors(3, 0.5))
    ([2, 1, 0], 1)
    """
    return _rest(n, sparsity, 0)


def _rest(n: jax.Array | int, sparsity: Sparsity, half: int) -> jax.Array:
    # 64-bit product out of 32-bit pieces: n = a 10^7 + b 10^4 + c, sparsity 10^7 = d 10^4 + e. None is
    # negative, so that division may truncate: rounding down is ten operations each, for every leaf.
    units = np.asarray(n, np.int32) if isinstance(n, int) else jnp.asarray(n, jnp.int32)
    parts = jnp.round(jnp.asarray(sparsity, jnp.float32) * _UNIT).astype(jnp.int32)
    a, below = _divided(units, _UNIT)
    b, c = _divided(below, 10_000)
    d, e = _divided(parts, 10_000)
    thousands, rest = _divided(b * e + c * d, 1_000)
    removed = a * parts + b * d * 10 + thousands
    return units - (removed + _divided(rest * 10_000 + c * e + half, _UNIT)[0])


def _divided(n: Any, by: int) -> tuple[Any, Any]:
    """Quotient and remainder of what is not negative."""
    if isinstance(n, np.ndarray):
        return np.asarray(n // by), np.asarray(n % by)
    divisor = jnp.full_like(n, by)
    return jax.lax.div(n, divisor), jax.lax.rem(n, divisor)


class Layers:
    """The layers of several leaves side by side: leaf by leaf, and within a leaf in order of index.

    Attributes:
      units: of each leaf.
      sizes: int32 per layer, how many of its units the budget counts.
      contests: per layer, how many contests there are in it.
    """

    def __init__(self, units: Sequence[Units]) -> None:
        self.units = list(units)
        self._numbers = [math.prod(unit.layer_shape) for unit in self.units]
        sizes = [jnp.asarray(unit.budgeted * unit.contests, jnp.int32) for unit in self.units]
        self.sizes = self.joined(sizes)
        self.contests = self.repeated([unit.contests for unit in self.units])

    @property
    def count(self) -> int:
        """How many layers there are."""
        return sum(self._numbers)

    def repeated(self, values: Any) -> np.ndarray:
        """One value per layer, from one per leaf."""
        return np.repeat(np.asarray(values), self._numbers, axis=0)

    def joined(self, values: Sequence[Any]) -> jax.Array:
        """One value per layer in one array, from arrays per leaf: a scalar, or one number per layer."""
        parts = zip(values, self._numbers, strict=True)
        return jnp.concatenate([jnp.broadcast_to(_everywhere(x).ravel(), (n,)) for x, n in parts])

    def split(self, values: jax.Array) -> list[jax.Array]:
        """What `joined` has made one array, by leaf again."""
        ends = np.cumsum(self._numbers)
        parts = jnp.split(values, ends[:-1])
        return [x.reshape(unit.layer_shape) for x, unit in zip(parts, self.units, strict=True)]

    def floors(self, at_least: int, at_most: float = 1.0) -> jax.Array:
        """Per layer, the fewest of its units that may be kept: a whole number in each of its contests.

        Args:
          at_least: so many, or all that there are.
          at_most: and so many that no larger fraction is removed.
        """
        contests = jnp.asarray(self.contests, jnp.int32)
        least = jnp.maximum(at_least_kept(self.sizes, at_most), at_least)
        return jnp.minimum(-(-least // contests) * contests, self.sizes)

    def in_contests(self, counts: jax.Array) -> list[jax.Array]:
        """By leaf, how many survive in each contest, from how many do in each layer: to the nearest."""
        return self.split((counts + self.contests // 2) // self.contests)


def _everywhere(numbers: Any) -> jax.Array:
    """Numbers of layers whose leaf may be sharded by layer, on each device of an explicit mesh."""
    numbers = jnp.asarray(numbers)
    mesh = jax.typeof(numbers).sharding.mesh
    if not mesh.explicit_axes:
        return numbers
    return jax.sharding.reshard(numbers, NamedSharding(mesh, PartitionSpec()))


def each_layer(
    function: Callable[..., Any], layers: Sequence[int], *, numbers: bool = False
) -> Callable[..., Any]:
    """Returns a function of whole leaves that does to each layer what `function` does to one.

    Args:
      function: arrays of one layer -> an array like them, or a number.
      layers: axes of the arguments that index layers; of the result they are the same.
      numbers: whether a number is returned; then the result has one per layer.

    >>> each_layer(jnp.sum, [1], numbers=True)(jnp.ones((3, 2)))
    Array([3., 3.], dtype=float32)
    """
    for place, axis in reversed(list(enumerate(sorted(layers)))):
        moved = axis - place  # as the loops outside take their axes away
        function = jax.vmap(function, in_axes=moved, out_axes=0 if numbers else moved)
    return function


def apportion(density: jax.Array, sizes: jax.Array, total: jax.Array) -> jax.Array:
    """Rounds `density * sizes` to integers that add up to `total` (largest remainders first)."""
    wanted = density * sizes.astype(jnp.float32)
    floor = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), sizes)
    rank = jnp.argsort(jnp.argsort(-(wanted - floor), stable=True), stable=True)
    counts = jnp.minimum(floor + (rank < total - jnp.sum(floor)), sizes)
    # What float32 could not resolve goes where there is room: only leaves beyond 2**24 weights see it.
    left = total - jnp.sum(counts)
    room = jnp.where(left > 0, sizes - counts, counts)
    return counts + jnp.where(jnp.arange(len(sizes)) == jnp.argmax(room), left, 0)


def check_floor(name: str, at_least: int) -> None:
    """Refuses a floor that is no number of units."""
    if at_least < 0:
        raise ValueError(f"{name}(at_least={at_least}): a number of units, 0 or more, is needed.")


@jax.jit
def floored(counts: jax.Array, floors: jax.Array) -> jax.Array:
    """Raises counts to their floors; those furthest above theirs pay for it, so that the total is kept.

    Each unit that is missing somewhere is taken where most lie above the floor at that moment, from the first
    of several. If the floors together are more than the total, they are what is returned.

    >>> floored(jnp.array([0, 7, 9, 0]), jnp.array([1, 1, 1, 2])).tolist()
    [1, 6, 7, 2]
    """
    above = jnp.maximum(counts - floors, 0)
    owed = jnp.minimum(jnp.sum(jnp.maximum(floors - counts, 0)), jnp.sum(above))

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        enough = jnp.sum(jnp.maximum(above - middle, 0)) <= owed
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    # The lowest level to which all that lies above it can be cut without taking too much.
    level, _ = jax.lax.fori_loop(0, 32, halve, (jnp.int32(0), jnp.max(above)))
    left = owed - jnp.sum(jnp.maximum(above - level, 0))
    open_to = (above >= level) & (level > 0)
    last = open_to & (jnp.cumsum(open_to) <= left)
    return jnp.maximum(counts, floors) - jnp.maximum(above - level, 0) - last
