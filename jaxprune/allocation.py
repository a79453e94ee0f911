"""Allocations: who gets how much of the budget, `(params, units, sparsity) -> survivors per contest`.

Counts are integers. A sparsity is read to seven decimals, and of `n` units `round(n * sparsity)` are
removed, half up, in integer arithmetic: 0.9 of 10**8 weights is 90,000,000, whether it comes as a Python
float or as a traced float32.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune import selection
from jaxprune.types import Allocation, Keep, Params, Sparsity, Units

__all__ = ["erk", "global_budget", "survivors", "threshold", "uniform", "uniform_plus"]

_UNIT = 10**7  # a sparsity of one
_is_units = lambda x: isinstance(x, Units)


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
    # 64-bit product out of 32-bit pieces: n = a 10^7 + b 10^4 + c, sparsity 10^7 = d 10^4 + e.
    n = jnp.asarray(n, jnp.int32)
    parts = jnp.round(jnp.asarray(sparsity, jnp.float32) * _UNIT).astype(jnp.int32)
    a, b, c = n // _UNIT, n % _UNIT // 10_000, n % 10_000
    d, e = parts // 10_000, parts % 10_000
    cross = b * e + c * d
    rest = cross % 1_000 * 10_000 + c * e
    return n - (a * parts + b * d * 10 + cross // 1_000 + (rest + _UNIT // 2) // _UNIT)


def uniform(rates: Mapping[str, float] | None = None) -> Allocation:
    """Every leaf loses the same fraction.

    Args:
      rates: factors on the sparsity for leaves whose path a regular expression matches, the first
        match counting: `{"fc3/kernel": 0.5}` prunes the output layer at half the rate, as the
        lottery-ticket paper does; 0 leaves a leaf dense.

    >>> units = {"w": Units(jnp.ones(10))}
    >>> int(uniform()({"w": jnp.ones(10)}, units, 0.5)["w"])
    5
    """
    rates = dict(rates or {})
    for pattern, rate in rates.items():
        if not 0 <= rate <= 1:
            raise ValueError(
                f"uniform(rates=): {pattern!r} has the factor {rate}; it lies in [0, 1]."
            )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        names = masks_lib.paths(params)
        for pattern in rates:
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"uniform(rates=): {pattern!r} matches none of the leaves {names}."
                )

        def count(name: str, unit: Units | None) -> jax.Array | None:
            rate = next((r for pattern, r in rates.items() if re.search(pattern, name)), 1.0)
            return None if unit is None else survivors(unit.budgeted, sparsity * rate)

        found = masks_lib.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count, names, found))

    return allocate


def uniform_plus(*, first: str, last: str, most: float = 0.8) -> Allocation:
    """The same fraction everywhere, except that the first leaf stays dense and the last loses less.

    The other leaves lose more in return, so that the tree keeps its budget.

    Args:
      first: regular expression of the leaves that stay dense.
      last: regular expression of the leaves that lose `most` at most. If the two keep more than the whole
        budget, the others keep nothing.
      most: highest sparsity of the last leaves.

    References:
      Gale, Elsen & Hooker, "The State of Sparsity in Deep Neural Networks" (2019): first convolution
      dense, last layer at 80 % at most.

    >>> params = {"a": jnp.ones(10), "b": jnp.ones(80), "c": jnp.ones(10)}
    >>> keep = uniform_plus(first="a", last="c")(params, jax.tree.map(Units, params), 0.85)
    >>> jax.tree.map(int, keep)
    {'a': 10, 'b': 3, 'c': 2}
    """

    if not 0 <= most < 1:
        raise ValueError(f"uniform_plus(most={most}): a fraction removed, in [0, 1), is needed.")

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        names, found = masks_lib.paths(params), masks_lib.beside(params, units)
        for pattern in (first, last):
            if not any(re.search(pattern, name) for name in names):
                raise ValueError(f"uniform_plus: {pattern!r} matches none of the leaves {names}.")
        pruned = [(n, u) for n, u in zip(names, found, strict=True) if u is not None]
        sizes = [jnp.asarray(u.budgeted * u.contests, jnp.int32) for _, u in pruned]
        dense = [bool(re.search(first, name)) for name, _ in pruned]
        tail = [
            bool(re.search(last, name)) and not d
            for (name, _), d in zip(pruned, dense, strict=True)
        ]
        capped = jnp.minimum(jnp.asarray(sparsity, jnp.float32), most)
        fixed = [
            n if d else survivors(n, capped) if t else None
            for n, d, t in zip(sizes, dense, tail, strict=True)
        ]
        total = survivors(sum(sizes), sparsity)
        taken = sum(f for f in fixed if f is not None)
        rest = sum(n for n, f in zip(sizes, fixed, strict=True) if f is None)
        density = jnp.clip((total - taken) / jnp.maximum(rest, 1), 0.0, 1.0)
        open_ = [n if f is None else 0 * n for n, f in zip(sizes, fixed, strict=True)]
        shares = _apportion(
            jnp.full(len(sizes), density), jnp.stack(open_), jnp.maximum(total - taken, 0)
        )
        counts = [s if f is None else f for s, f in zip(shares, fixed, strict=True)]
        kept = iter(
            (c + u.contests // 2) // u.contests for c, (_, u) in zip(counts, pruned, strict=True)
        )
        return jax.tree.structure(params).unflatten(
            None if u is None else next(kept) for u in found
        )

    return allocate


def threshold(quality: float) -> Allocation:
    r"""A unit survives whose score is at least $q$ times the root mean square of its leaf's.

    For weights around zero, scored by magnitude, that is a threshold of $q$ standard deviations. Only
    the living count. How sparse that is, the weights decide: the schedule's sparsity is not read.

    Args:
      quality: $q$.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015), section 3.1.

    >>> params = {"w": jnp.array([3.0, -4.0, 0.1, 0.2])}
    >>> int(threshold(1.0)(params, {"w": Units(jnp.abs(params["w"]))}, 0.0)["w"])
    2
    """
    if not quality > 0:
        raise ValueError(f"threshold(quality={quality}): a number above 0 is needed.")

    def count(unit: Units | None) -> jax.Array | None:
        if unit is None:
            return None
        scores = unit.scores
        known = jnp.isfinite(scores)
        squares = jnp.sum(jnp.where(known, scores, 0) ** 2)
        limit = quality * jnp.sqrt(squares / jnp.maximum(jnp.sum(known), 1))
        total = jnp.sum(known & (scores >= limit), dtype=jnp.int32)
        return (total + unit.contests // 2) // unit.contests

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        found = masks_lib.beside(params, units)
        return jax.tree.structure(params).unflatten(map(count, found))

    return allocate


def erk(power: float = 1.0) -> Allocation:
    r"""Erdős–Rényi-kernel densities: thin layers keep more.

    The density of a leaf is $\min(1, \epsilon \, (\sum_i n_i / \prod_i n_i)^p)$ over its axes $n_i$, with
    $\epsilon$ such that the whole tree keeps its budget. Counts are rounded to the budget exactly where
    a leaf is one contest; where it has many, to the nearest count that all its contests can share.

    Args:
      power: exponent $p$; 0 gives equal densities.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020),
      section 3; Mocanu et al. (2018) for the two-axis form.
    """

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        pairs = zip(jax.tree.leaves(params), masks_lib.beside(params, units), strict=True)
        shapes = [jnp.shape(p) for p, unit in pairs if unit is not None]
        found, treedef = jax.tree.flatten(units, is_leaf=_is_units)
        raw = np.array([(sum(s) / math.prod(s)) ** power for s in shapes], np.float32)
        sizes = jnp.stack([jnp.asarray(u.budgeted * u.contests, jnp.int32) for u in found])
        total = survivors(jnp.sum(sizes), sparsity)
        # The leaves that stay dense are those of the largest raw density: try 0, 1, 2, ... of them.
        order = np.argsort(-raw, kind="stable")
        n, r = sizes[order].astype(jnp.float32), raw[order]
        before = jnp.cumsum(n) - n
        mass = jnp.cumsum((n * r)[::-1])[::-1]
        scale = (total.astype(jnp.float32) - before) / jnp.maximum(mass, 1e-30)
        fits = scale * r <= 1.0
        first = jnp.where(jnp.any(fits), jnp.argmax(fits), len(raw))
        epsilon = scale[jnp.minimum(first, len(raw) - 1)]
        density = jnp.where(jnp.arange(len(raw)) < first, 1.0, jnp.clip(epsilon * r, 0.0, 1.0))
        counts = _apportion(density[np.argsort(order, kind="stable")], sizes, total)
        keep = [(c + u.contests // 2) // u.contests for c, u in zip(counts, found, strict=True)]
        return jax.tree.unflatten(treedef, keep)

    return allocate


def _apportion(density: jax.Array, sizes: jax.Array, total: jax.Array) -> jax.Array:
    """Rounds `density * sizes` to integers that add up to `total` (largest remainders first)."""
    wanted = density * sizes.astype(jnp.float32)
    floor = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), sizes)
    rank = jnp.argsort(jnp.argsort(-(wanted - floor), stable=True), stable=True)
    counts = jnp.minimum(floor + (rank < total - jnp.sum(floor)), sizes)
    # What float32 could not resolve goes where there is room: only leaves beyond 2**24 weights see it.
    left = total - jnp.sum(counts)
    room = jnp.where(left > 0, sizes - counts, counts)
    return counts + jnp.where(jnp.arange(len(sizes)) == jnp.argmax(room), left, 0)


def global_budget(normalize: Literal["lamp", "l2"] | Callable | None = None) -> Allocation:
    """All leaves share one budget: the best units of the whole tree survive.

    Args:
      normalize: how scores of different leaves are made comparable. `None`: they are compared as they
        are. `"lamp"`: $s_u^2$ over the sum of the squares of its leaf's scores that are not smaller
        (sorts each leaf: slow on CPU). `"l2"`: scores over their leaf's norm. Or a function of the
        scores of one leaf that does not change their order.

    Returns:
      Counts, together with the choice that gave them. Where a leaf has many contests, each keeps the
      leaf's count divided by their number, rounded.

    References:
      Lee, Park, Mo, Ahn & Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021) for
      LAMP.

    >>> params = {"a": jnp.array([3.0, 1.0]), "b": jnp.array([2.0, 4.0, 5.0, 0.0])}
    >>> keep = global_budget()(params, jax.tree.map(Units, params), 0.5)
    >>> int(keep["a"].count), int(keep["b"].count)
    (1, 2)
    """
    scale = {None: lambda scores: scores, "lamp": _lamp, "l2": _l2}.get(normalize, normalize)  # type: ignore[arg-type]
    if not callable(scale):
        raise ValueError(
            f"global_budget(normalize={normalize!r}): None, 'lamp', 'l2' or a function."
        )

    def allocate(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del params
        found, treedef = jax.tree.flatten(units, is_leaf=_is_units)
        total = survivors(sum(u.budgeted * u.contests for u in found), sparsity)
        scores: Any = [scale(u.scores) for u in found]
        chosen = selection.top(scores, total)

        def keep(unit: Units, mask: jax.Array) -> Keep:
            count = jnp.sum(mask, dtype=jnp.int32)
            if unit.axis is None:
                return Keep(count, mask)
            return Keep((count + unit.contests // 2) // unit.contests)

        return jax.tree.unflatten(treedef, [keep(u, m) for u, m in zip(found, chosen, strict=True)])

    return allocate


def _l2(scores: jax.Array) -> jax.Array:
    known = jnp.where(jnp.isfinite(scores), scores, 0).astype(jnp.float32)
    return scores / jnp.maximum(jnp.sqrt(jnp.sum(known**2)), 1e-30)


def _lamp(scores: jax.Array) -> jax.Array:
    largest = jnp.finfo(jnp.float32).max ** 0.25  # its square can be summed
    finite = jnp.nan_to_num(scores.astype(jnp.float32), nan=0, posinf=largest, neginf=0)
    flat = finite.reshape(-1) ** 2
    order = jnp.argsort(flat)
    ascending = flat[order]
    tail = jnp.cumsum(ascending[::-1])[::-1]  # the sum over weights that are not smaller
    lamp = jnp.zeros_like(flat).at[order].set(ascending / jnp.maximum(tail, 1e-30))
    return jnp.where(jnp.isnan(scores), jnp.nan, lamp.reshape(scores.shape))
