"""Whole numbers of survivors, exact where float32 is not, and the layers that they are dealt out to."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks
from jaxprune.arrays.shardings import whole
from jaxprune.selection.counts_by_leaf import count_by_leaf
from jaxprune.selection.mask_counts import count_true
from jaxprune.types import Params, Sparsity, Units

__all__ = [
    "Layers",
    "apportion",
    "at_least_kept",
    "check_countable",
    "check_floor",
    "each_layer",
    "fill_pruned",
    "raise_to_floors",
    "share_among_contests",
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

    Raises:
      ValueError: if `sparsity`, as a Python number, is not in [0, 1].

    >>> [int(survivors(10**8, s)) for s in (0.9, jnp.float32(0.9), 0.0, 1.0)]
    [10000000, 10000000, 100000000, 0]
    """
    if not isinstance(n, jax.Array):
        checks.check("survivors", n=(n, checks.INTEGER))
    if isinstance(sparsity, float | int) and not 0 <= sparsity <= 1:
        raise ValueError(f"survivors(sparsity={sparsity}): a fraction in [0, 1] is needed.")
    return _exact_rest(n, sparsity, _UNIT // 2)


def at_least_kept(n: jax.Array | int, sparsity: Sparsity) -> jax.Array:
    """Returns the fewest of `n` units that can be left when no more than a fraction is removed, exactly.

    >>> [int(at_least_kept(3, s)) for s in (0.5, 0.9, 1.0)], int(survivors(3, 0.5))
    ([2, 1, 0], 1)
    """
    return _exact_rest(n, sparsity, 0)


def _exact_rest(n: jax.Array | int, sparsity: Sparsity, rounding: int) -> jax.Array:
    """Returns `n - floor(n * sparsity + rounding / 10**7)`, exactly."""
    # A 64-bit product out of 32-bit digits: n = n_high 10^7 + n_middle 10^4 + n_low, and the sparsity times
    # 10^7 = share_high 10^4 + share_low. None is negative, so that division may truncate: rounding down is
    # ten operations each, for every leaf.
    units = np.asarray(n, np.int32) if isinstance(n, int) else jnp.asarray(n, jnp.int32)
    share = _ten_millionths(sparsity)
    n_high, n_rest = _divide(units, _UNIT)
    n_middle, n_low = _divide(n_rest, 10_000)
    share_high, share_low = _divide(share, 10_000)
    carry, cross_rest = _divide(n_middle * share_low + n_low * share_high, 1_000)
    removed = n_high * share + n_middle * share_high * 10 + carry
    return units - (removed + _divide(cross_rest * 10_000 + n_low * share_low + rounding, _UNIT)[0])


def _ten_millionths(fraction: Sparsity) -> jax.Array:
    """Returns the int32 number of ten millionths nearest to the float32 value of a fraction.

    The float32 product alone is off by one at times: that of a third is 3333333.5, where it is 3333333.43.

    >>> int(_ten_millionths(1 / 3)), int(jax.jit(_ten_millionths)(1 / 3))
    (3333333, 3333333)
    """
    if not isinstance(fraction, jax.Array):
        return jnp.asarray(np.rint(np.float64(np.float32(fraction)) * _UNIT), jnp.int32)
    # The rounding error of the product, by Dekker's product: both factors are cut into halves of 12 bits,
    # whose products are exact.
    share = fraction.astype(jnp.float32)
    spread = share * 4097.0
    upper = spread - (spread - share)
    lower = share - upper
    unit_upper = float(_UNIT // 4096 * 4096)
    unit_lower = _UNIT - unit_upper
    product = share * _UNIT
    error = (
        (upper * unit_upper - product) + upper * unit_lower + lower * unit_upper
    ) + lower * unit_lower
    whole = jnp.floor(product)
    rest = (product - whole) + error
    is_odd = whole - 2 * jnp.floor(whole / 2) == 1
    step = (rest > 0.5) | ((rest == 0.5) & is_odd)
    return (whole + jnp.where(step, 1, 0) - jnp.where(rest < -0.5, 1, 0)).astype(jnp.int32)


def _divide(dividend: Any, divisor: int) -> tuple[Any, Any]:
    """Returns the quotient and the remainder of numbers that are not negative."""
    if isinstance(dividend, np.ndarray):
        return np.asarray(dividend // divisor), np.asarray(dividend % divisor)
    divisors = jnp.full_like(dividend, divisor)
    return jax.lax.div(dividend, divisors), jax.lax.rem(dividend, divisors)


def check_countable(what: str, unit_count: int) -> None:
    """Raises `ValueError` if there are more units than int32 counts.

    Args:
      what: has these units.
      unit_count: how many.
    """
    if unit_count >= 2**31:
        raise ValueError(
            f"allocation: {what} has {unit_count:,} units, and int32 counts no more than {2**31 - 1:,}; let "
            "fewer compete: jaxprune.allocation.uniform budgets each leaf by itself, patterns.groups() each "
            "output, and axes= each layer of a stack."
        )


class Layers:
    """The layers of several leaves in one sequence: leaf by leaf, and within a leaf by index.

    Attributes:
      units: of each leaf.
      sizes: int32 per layer, how many of its units the budget counts.
      contests: per layer, how many contests there are in it.
    """

    def __init__(self, units: Sequence[Units]) -> None:
        self.units = list(units)
        for leaf_units in self.units:
            check_countable("a layer", leaf_units.members * leaf_units.contests)
        self._layer_counts = [math.prod(leaf_units.layer_shape) for leaf_units in self.units]
        sizes = [
            jnp.asarray(leaf_units.budgeted * leaf_units.contests, jnp.int32)
            for leaf_units in self.units
        ]
        self.sizes = self.joined(sizes)
        self.contests = self.repeated([leaf_units.contests for leaf_units in self.units])

    @property
    def count(self) -> int:
        """The number of layers."""
        return sum(self._layer_counts)

    @property
    def total(self) -> jax.Array:
        """How many units the budget counts in all layers.

        Raises:
          ValueError: if there are more units than int32 counts.
        """
        unit_count = sum(leaf_units.scores.size for leaf_units in self.units)
        check_countable("one budget for all leaves", unit_count)
        return jnp.sum(self.sizes)

    def repeated(self, values: Any) -> np.ndarray:
        """Returns one value per layer, from one per leaf."""
        return np.repeat(np.asarray(values), self._layer_counts, axis=0)

    def joined(self, values: Sequence[Any]) -> jax.Array:
        """Returns one value per layer in one array, from a scalar per leaf, or one value per layer of it."""
        pairs = zip(values, self._layer_counts, strict=True)
        return jnp.concatenate(
            [jnp.broadcast_to(whole(value).ravel(), (layer_count,)) for value, layer_count in pairs]
        )

    def split(self, values: jax.Array) -> list[jax.Array]:
        """Returns what `joined` has made one array as arrays per leaf again."""
        ends = np.cumsum(self._layer_counts)
        values_of_leaves = jnp.split(values, ends[:-1])
        return [
            leaf_values.reshape(leaf_units.layer_shape)
            for leaf_values, leaf_units in zip(values_of_leaves, self.units, strict=True)
        ]

    def floors(self, at_least: int, at_most: float = 1.0) -> jax.Array:
        """Returns per layer the fewest of its units that may be kept, a whole number in each contest.

        Args:
          at_least: fewest units, or all that there are.
          at_most: largest fraction removed.
        """
        contests = jnp.asarray(self.contests, jnp.int32)
        fewest = jnp.maximum(at_least_kept(self.sizes, at_most), at_least)
        return jnp.minimum(-(-fewest // contests) * contests, self.sizes)

    def marked(self, masks: Sequence[jax.Array]) -> jax.Array:
        """Returns per layer how many of its units are marked, from one mask per leaf."""
        if not any(leaf_units.layers for leaf_units in self.units):
            return count_by_leaf(masks)
        counts = []
        for mask, leaf_units in zip(masks, self.units, strict=True):
            axes_within = tuple(axis for axis in range(mask.ndim) if axis not in leaf_units.layers)
            counts.append(count_true(mask, axes_within))
        return self.joined(counts)

    def in_contests(self, counts: jax.Array) -> list[jax.Array]:
        """Returns by leaf how many survive in each contest, from how many survive in each layer."""
        return self.split(share_among_contests(counts, self.contests))


def share_among_contests(count: Any, contests: Any) -> Any:
    """Returns the count of each contest if they share one equally, to the nearest, half up.

    >>> share_among_contests(7, 2)
    4
    """
    return (count + contests // 2) // contests


def fill_pruned(
    params: Params, units_by_leaf: Sequence[Units | None], values: Iterable[Any]
) -> Any:
    """Returns a tree like `params` of one value per leaf that is pruned, `None` at the others.

    Args:
      params: tree of arrays.
      units_by_leaf: of each leaf, `None` where it is not pruned.
      values: as many as there are units.
    """
    remaining = iter(values)
    return jax.tree.structure(params).unflatten(
        None if leaf_units is None else next(remaining) for leaf_units in units_by_leaf
    )


def each_layer(
    function: Callable[..., Any], layers: Sequence[int], *, numbers: bool = False
) -> Callable[..., Any]:
    """Returns the function of whole leaves that applies `function` to each of their layers.

    Args:
      function: arrays of one layer -> an array like them, or a number.
      layers: axes of the arguments that index layers; of the result they are the same.
      numbers: whether `function` returns a number; then the result has one per layer.

    >>> each_layer(jnp.sum, [1], numbers=True)(jnp.ones((3, 2)))
    Array([3., 3.], dtype=float32)
    """
    for loop_index, axis in reversed(list(enumerate(sorted(layers)))):
        inner_axis = axis - loop_index  # as the loops outside take their axes away
        function = jax.vmap(function, in_axes=inner_axis, out_axes=0 if numbers else inner_axis)
    return function


def apportion(density: jax.Array, sizes: jax.Array, total: jax.Array) -> jax.Array:
    """Returns `density * sizes` rounded to integers that add up to `total` (largest remainders first).

    Args:
      density: fraction kept of each layer, float32.
      sizes: units of each layer, int32.
      total: units kept in all.

    >>> apportion(jnp.array([0.5, 0.5]), jnp.array([3, 3]), jnp.int32(3)).tolist()
    [2, 1]
    """
    wanted = density * sizes.astype(jnp.float32)
    floor = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), sizes)
    rank = jnp.argsort(jnp.argsort(-(wanted - floor), stable=True), stable=True)
    counts = jnp.minimum(floor + (rank < total - jnp.sum(floor)), sizes)
    # What float32 could not resolve goes where there is room: only leaves beyond 2**24 weights see it.
    missing = total - jnp.sum(counts)
    room = jnp.where(missing > 0, sizes - counts, counts)
    return counts + jnp.where(jnp.arange(len(sizes)) == jnp.argmax(room), missing, 0)


def check_floor(name: str, at_least: int) -> None:
    """Raises `ValueError` if a floor is no number of units."""
    if at_least < 0:
        raise ValueError(f"{name}(at_least={at_least}): a number of units, 0 or more, is needed.")


@jax.jit
def raise_to_floors(counts: jax.Array, floors: jax.Array) -> jax.Array:
    """Returns counts raised to their floors, lowered where they are furthest above, with the same total.

    Each unit that is missing somewhere is taken where most lie above the floor at that moment, from the first
    of several. If the floors together are more than the total, they are returned.

    Args:
      counts: int32 per layer.
      floors: int32 per layer.

    >>> raise_to_floors(jnp.array([0, 7, 9, 0]), jnp.array([1, 1, 1, 2])).tolist()
    [1, 6, 7, 2]
    """
    excess = jnp.maximum(counts - floors, 0)
    missing_units = jnp.minimum(jnp.sum(jnp.maximum(floors - counts, 0)), jnp.sum(excess))

    def halve(_: int, bracket: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        lowest, highest = bracket
        middle = lowest + (highest - lowest) // 2
        enough = jnp.sum(jnp.maximum(excess - middle, 0)) <= missing_units
        return jnp.where(enough, lowest, middle + 1), jnp.where(enough, middle, highest)

    # The lowest level to which all that lies above it can be cut without taking too much.
    cut_level, _ = jax.lax.fori_loop(0, 32, halve, (jnp.zeros((), excess.dtype), jnp.max(excess)))
    units_left = missing_units - jnp.sum(jnp.maximum(excess - cut_level, 0))
    can_lose_one = (excess >= cut_level) & (cut_level > 0)
    loses_one = can_lose_one & (jnp.cumsum(can_lose_one) <= units_left)
    return jnp.maximum(counts, floors) - jnp.maximum(excess - cut_level, 0) - loses_one
