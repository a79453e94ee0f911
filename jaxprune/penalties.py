r"""Penalties: what is added to the loss so that weights become zero, each with its exact proximal step.

A penalty `P` works on `{path: array}`, the leaves that it falls on, and `jaxprune.proximal` trains with it.
Its proximal step looks for zeros near `v`, with a step size $\eta$ for all weights or for each:

$$\mathrm{prox}(v) = \arg\min_w P(w) + \sum_i (w_i - v_i)^2 / 2\eta_i.$$

Every strength $\lambda$ is a number or an optax schedule, step -> number; it must never be negative.
Everything is computed in float32 at least and returned in the leaf's own dtype. A NaN stays a NaN.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.coupling import Coupled
from jaxprune.group_norms import (
    Groups,
    Shapes,
    Side,
    couplings,
    makers,
    members,
    shrink,
    shrink_each,
    sides,
    sides_fault,
    slices,
    units,
    units_fault,
)
from jaxprune.kernel_axes import AxesTree
from jaxprune.parts import factory
from jaxprune.precision import at_least_float32
from jaxprune.schedules import Scheduled, scheduled
from jaxprune.types import Pattern, Penalty, Step

__all__ = ["coupled", "elastic", "group_l2", "l0", "l1"]

Leaves = dict[str, jax.Array]


@factory
def l1(strength: Scheduled, *, leaves: str | None = None) -> Penalty:
    r"""The lasso, $\lambda \sum_i |w_i|$; its proximal step is the soft threshold.

    $w_i = \mathrm{sign}(v_i) \max(|v_i| - \eta_i \lambda, 0)$.

    Args:
      strength: $\lambda$, a number or a schedule.
      leaves: regular expression, searched in the paths of those that it falls on, such as `"scale$"`; `None`:
        all that are prunable.

    References:
      Tibshirani, "Regression Shrinkage and Selection via the Lasso" (1996).

    >>> l1(1.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)
    {'w': Array([2.5, 0. ], dtype=float32)}
    """
    rate = scheduled("l1", strength=strength)
    if leaves is not None:
        checks.expression("l1(leaves=)", leaves)
    penalty = _by_weight(
        value=lambda w, step: rate(step) * jnp.abs(w),
        prox=lambda v, size, step: _soft(v, size * rate(step)),
        subgradient=lambda w, step: rate(step) * jnp.sign(w),
    )
    return dataclasses.replace(penalty, covers=leaves)


@factory
def elastic(strength: Scheduled, *, ridge: Scheduled) -> Penalty:
    r"""The elastic net, $\sum_i \lambda |w_i| + \rho w_i^2 / 2$: weights that are alike stay together.

    $w_i = \mathrm{sign}(v_i) \max(|v_i| - \eta_i \lambda, 0) / (1 + \eta_i \rho)$.

    Args:
      strength: $\lambda$, a number or a schedule.
      ridge: $\rho$, likewise: the usual weight decay.

    References:
      Zou & Hastie, "Regularization and Variable Selection via the Elastic Net" (2005), the naive one of
      section 2, with $\rho / 2$ for its $\lambda_2$.

    >>> elastic(1.0, ridge=2.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)
    {'w': Array([1.25, 0.  ], dtype=float32)}
    """
    rate, decay = scheduled("elastic", strength=strength), scheduled("elastic", ridge=ridge)
    return _by_weight(
        value=lambda w, step: rate(step) * jnp.abs(w) + decay(step) / 2 * w**2,
        prox=lambda v, size, step: _soft(v, size * rate(step)) / (1 + size * decay(step)),
        subgradient=lambda w, step: rate(step) * jnp.sign(w) + decay(step) * w,
    )


@factory
def l0(strength: Scheduled) -> Penalty:
    r"""The number of weights that are not zero, times $\lambda$; its proximal step is the hard threshold.

    $w_i = v_i$ if $v_i^2 > 2 \eta_i \lambda$, otherwise 0: iterative hard thresholding. What survives is
    not shrunk. The penalty is not convex, and it is flat wherever it is smooth: there is no subgradient.

    Args:
      strength: $\lambda$, a number or a schedule: what a weight must save of the loss to stay.

    References:
      Blumensath & Davies, "Iterative Thresholding for Sparse Approximations" (2008). Louizos, Welling &
      Kingma, "Learning Sparse Neural Networks through L0 Regularization" (2018), relax the same penalty by
      random gates instead.

    >>> l0(1.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)  # the threshold is 1
    {'w': Array([3., 0.], dtype=float32)}
    """
    rate = scheduled("l0", strength=strength)

    def prox(v: jax.Array, size: jax.Array, step: Step) -> jax.Array:
        return jnp.where(jnp.abs(v) <= jnp.sqrt(2 * size * rate(step)), 0.0, v)

    return _by_weight(value=lambda w, step: rate(step) * (w != 0), prox=prox, subgradient=None)


@factory
def group_l2(
    strength: Scheduled,
    *,
    axis: int | Sequence[int] | Side | None = None,
    pattern: Pattern | None = None,
    axes: AxesTree | None = None,
) -> Penalty:
    r"""The group lasso, $\lambda \sum_g \sqrt{p_g} \|w_g\|_2$: a group of $p_g$ weights dies as a whole.

    With one step size $\eta$ for a leaf the proximal step shrinks each norm,
    $w_g = v_g \max(1 - \eta \lambda \sqrt{p_g} / \|v_g\|, 0)$. With one per weight,
    $w_i = v_i r / (r + \eta_i \lambda \sqrt{p_g})$, where $r = \|w_g\|$ solves
    $\sum_i v_i^2 / (r + \eta_i \lambda \sqrt{p_g})^2 = 1$, or is 0 if the sum is at most 1 there. Groups of
    one weight make it `l1`.

    Args:
      strength: $\lambda$, a number or a schedule.
      axis: the norm is taken along `"in"`, the inputs of a kernel and its window, so that each output is a
        group, or along `"out"`, so that each input is. Or along an axis or several of each leaf, whatever
        they are, so that each index of the others is a group: of a dense kernel `[inputs, outputs]`, -1
        removes inputs and -2 outputs; of a convolution `[h, w, inputs, outputs]`, `(0, 1, 2)` removes
        filters; of an attention kernel `[embed, heads, dim]`, `(0, 2)` removes heads.
      pattern: or the units of a pattern are the groups, `patterns.block` or `patterns.channel`. Its
        `to_groups` must add up what dies together.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not. Each layer has
        groups of its own. `axis` as a number needs none.

    Raises:
      ValueError: if not exactly one of `axis` and `pattern` is given, the pattern is about contests
        (`patterns.groups`), or a word for `axis` is neither "in" nor "out".

    References:
      Yuan & Lin, "Model Selection and Estimation in Regression with Grouped Variables" (2006).

    >>> rows = group_l2(1.0, axis="out")  # of four weights: each norm loses 1.25 * sqrt(4)
    >>> rows.prox({"w": jnp.array([[3.0, 0.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0]])}, 1.25, 0)
    {'w': Array([[1.5, 0. , 2. , 0. ],
           [0. , 0. , 0. , 0. ]], dtype=float32)}
    """
    rate = scheduled("group_l2", strength=strength)
    if (axis is None) == (pattern is None):
        raise ValueError(
            'group_l2: one of axis= and pattern= is needed; axis="in" makes a group of the weights of each '
            'output of a kernel, axis="out" of each input.'
        )
    if pattern is not None:
        if pattern.contests((1, 1)).axis is not None:
            raise ValueError(
                "group_l2: in this pattern single weights compete in groups, and none die together; use "
                "patterns.block or patterns.channel, or l1 for single weights."
            )
        return _of_groups(
            rate, lambda shapes: units(pattern, shapes, axes), units_fault(pattern, axes)
        )
    if isinstance(axis, str):
        if axis not in ("in", "out"):
            raise ValueError(
                f'group_l2(axis={axis!r}): "in", "out", an axis or several, as integers, are needed.'
            )
        return _of_groups(
            rate,
            lambda shapes: sides(axis, shapes, axes),
            functools.partial(sides_fault, axis, axes),
        )
    checks.check("group_l2", axis=(axis, _AXES))
    along = tuple(axis) if isinstance(axis, Sequence) else (int(axis or 0),)

    def check(shapes: Shapes) -> str | None:
        for path, shape in shapes.items():
            inside = all(-len(shape) <= a < len(shape) for a in along)
            if not inside or len({a % len(shape) for a in along}) != max(len(along), 1):
                return (
                    f"group_l2(axis={axis}): {path!r} has the shape {shape}, whose axes these are not; "
                    "exclude it with prunable= or name axes that it has, each once"
                )
        return None

    return _of_groups(rate, lambda shapes: slices(along, shapes), check)


@factory
def coupled(strength: Scheduled, groups: Iterable[Mapping[str, int]] | Coupled) -> Penalty:
    r"""The group lasso over several leaves: what a unit consists of dies everywhere at once.

    $\lambda \sum_i \sqrt{p_i} \|(w^{(1)}_i, w^{(2)}_i, \dots)\|_2$, one norm over the index $i$ of an axis in
    each leaf, $p_i$ weights in all. Its proximal step is that of `group_l2`; step sizes by leaf count as
    step sizes by weight.

    Args:
      strength: $\lambda$, a number or a schedule.
      groups: couplings, each `{path: axis}`; paths as `masks.paths` gives them. The hidden units of a
        perceptron are `{"fc1/kernel": -1, "fc1/bias": 0, "fc2/kernel": 0}`. Or what
        `jaxprune.structured.coupled` has found in a program: of each unit then the slices count that bring it
        forth (kernels, biases, scales), not those of the layers that read it.

    Raises:
      ValueError: if a leaf stands in two couplings. The norms would overlap, and the proximal step of
        their sum is none of the two.

    References:
      Wen, Wu, Wang, Chen & Li, "Learning Structured Sparsity in Deep Neural Networks" (2016), without a
      coupling of layers; Yuan & Lin (2006) for the weights of the groups.

    >>> units = coupled(1.0, [{"in": -1, "out": 0}])  # of four weights: each norm loses 1.25 * sqrt(4)
    >>> v = {"in": jnp.array([[3.0, 1.0]]), "out": jnp.array([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]])}
    >>> units.prox(v, 1.25, 0)
    {'in': Array([[1.5, 0. ]], dtype=float32), 'out': Array([[2., 0., 0.],
           [0., 0., 0.]], dtype=float32)}
    """
    rate = scheduled("coupled", strength=strength)
    if isinstance(groups, Coupled):
        return _of_coupled(rate, groups)
    checks.check("coupled", groups=(groups, _COUPLINGS))
    named = [dict(group) for group in groups]
    paths = [path for group in named for path in group]
    if not paths:
        raise ValueError("coupled: no leaf is named; give couplings such as [{'fc1/kernel': -1}].")
    _check_apart(
        paths, "name each leaf once, the kernel that two layers share only with one of them"
    )

    def check(shapes: Shapes) -> str | None:
        missing = [path for path in paths if path not in shapes]
        if missing:
            return f"coupled: {missing[0]!r} is none of the leaves {', '.join(map(repr, shapes))}"
        for group in named:
            lengths = {}
            for path, axis in group.items():
                if not -len(shapes[path]) <= axis < len(shapes[path]):
                    return f"coupled: {path!r} has the shape {shapes[path]} and no axis {axis}"
                lengths[path] = shapes[path][axis]
            if len(set(lengths.values())) > 1:
                found = ", ".join(f"{n} in {path!r}" for path, n in lengths.items())
                return f"coupled: the axes of one coupling must be of equal length, not {found}"
        return None

    return _of_groups(rate, lambda shapes: couplings(named, shapes), check, tuple(paths))


def _of_coupled(rate: Callable[[Step], Any], pattern: Coupled) -> Penalty:
    """Groups that were found in a program: their slices must be whole leaves, and lie apart."""
    read_only = [group.name for group in pattern.groups if not makers(group)]
    if read_only:
        raise ValueError(
            f"coupled: the units of {read_only[0]!r} are only read by this part of the tree; leave the group "
            "out by structured.coupled(only=)."
        )
    paths = [m.path for group in pattern.groups for m in makers(group)]
    _check_apart(paths, "restrict structured.coupled(only=)")
    for m in (m for group in pattern.groups for m in makers(group)):
        if m.index.size != m.shape[m.axis] or len(set(m.index.ravel().tolist())) != m.index.size:
            raise ValueError(
                f"coupled: the units of a group are not all of {m}; leave the group out by "
                "structured.coupled(only=)."
            )
    return _of_groups(rate, lambda shapes: members(pattern, shapes), pattern.check, tuple(paths))


def _check_apart(paths: Sequence[str], remedy: str) -> None:
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(
            f"coupled: {', '.join(map(repr, twice))} in more than one coupling. Their norms would overlap, "
            f"and there is no exact proximal step for that; {remedy}."
        )


def _is_coupling(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(checks.INTEGER.fits, value.values()))


_COUPLINGS = checks.Kind(
    "a list of couplings",
    lambda value: isinstance(value, tuple | list) and all(map(_is_coupling, value)),
    lambda _: "such as [{'fc1/kernel': -1, 'fc2/kernel': 0}], axes by path",
)
_AXES = checks.Kind(
    "one axis or several",
    lambda value: all(map(checks.INTEGER.fits, value if isinstance(value, Sequence) else [value])),
    lambda _: "such as axis=-2 or axis=(0, 1, 2)",
)


def _soft(v: jax.Array, threshold: jax.Array) -> jax.Array:
    return v - jnp.clip(v, -threshold, threshold)


def _wide(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def _size(sizes: Any, path: str) -> jax.Array:
    return _wide(sizes[path] if isinstance(sizes, Mapping) else sizes)


def _by_weight(
    value: Callable[[jax.Array, Step], jax.Array],
    prox: Callable[[jax.Array, jax.Array, Step], jax.Array],
    subgradient: Callable[[jax.Array, Step], jax.Array] | None,
) -> Penalty:
    """A penalty that is a sum over single weights, from what it is for those of one leaf."""

    def total(leaves: Leaves, step: Step) -> jax.Array:
        sums = (jnp.sum(value(_wide(w), step)) for w in leaves.values())
        return jnp.asarray(sum(sums, 0.0), jnp.float32)

    def step_of(leaves: Leaves, sizes: Any, step: Step) -> Leaves:
        new = {path: prox(_wide(v), _size(sizes, path), step) for path, v in leaves.items()}
        return {path: w.astype(leaves[path].dtype) for path, w in new.items()}

    def slope(leaves: Leaves, step: Step) -> Leaves:
        assert subgradient is not None
        return {path: subgradient(_wide(w), step).astype(w.dtype) for path, w in leaves.items()}

    return Penalty(total, step_of, subgradient and slope, check=lambda shapes: None)


def _of_groups(
    rate: Callable[[Step], Any],
    groups_of: Callable[[Shapes], list[Groups]],
    check: Callable[[Shapes], str | None],
    covers: tuple[str, ...] | None = None,
) -> Penalty:
    r"""A sum of group norms, each weighed by the square root of the group's size."""

    def each(leaves: Leaves) -> list[tuple[Groups, list[jax.Array]]]:
        groups = groups_of({path: jnp.shape(w) for path, w in leaves.items()})
        return [(group, [_wide(leaves[path]) for path in group.paths]) for group in groups]

    def value(leaves: Leaves, step: Step) -> jax.Array:
        sums = (math.sqrt(g.size) * jnp.sum(g.norm(parts)) for g, parts in each(leaves))
        return jnp.asarray(rate(step) * sum(sums, 0.0), jnp.float32)

    def prox(leaves: Leaves, sizes: Any, step: Step) -> Leaves:
        new = {}
        for group, parts in each(leaves):
            one_size = not isinstance(sizes, Mapping) or len(parts) == 1
            scale = rate(step) * math.sqrt(group.size)
            pull = [scale * _size(sizes, path) for path in group.paths]
            if one_size and pull[0].ndim == 0:
                parts = shrink(group, parts, pull[0])
            else:
                parts = shrink_each(group, parts, pull)
            new |= zip(group.paths, parts, strict=True)
        return leaves | {path: w.astype(leaves[path].dtype) for path, w in new.items()}

    def subgradient(leaves: Leaves, step: Step) -> Leaves:
        new = {}
        for group, parts in each(leaves):
            norm = group.norm(parts)
            slope = rate(step) * math.sqrt(group.size) / jnp.where(norm == 0, 1.0, norm)
            pairs = zip(parts, group.spread(slope), strict=True)
            new |= zip(group.paths, (w * s for w, s in pairs), strict=True)
        return {path: g.astype(leaves[path].dtype) for path, g in new.items()}

    return Penalty(value, prox, subgradient, check, covers)
