r"""Sums of L2 norms over groups of weights, and their proximal steps: what group lassos are made of.

Groups lie in one leaf (slices, units of a pattern) or in several (couplings); their weights may have step
sizes of their own, for which the proximal step has no closed form.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.coupling import Coupled, Group, Member
from jaxprune.kernel_axes import AxesTree
from jaxprune.types import Axes, Pattern

__all__ = [
    "Groups",
    "Side",
    "couplings",
    "makers",
    "members",
    "shrink",
    "shrink_each",
    "sides",
    "sides_fault",
    "slices",
    "units",
    "units_fault",
]

Shapes = dict[str, tuple[int, ...]]
Side = Literal["in", "out"]


class Groups(NamedTuple):
    """Groups of equal size, over the weights of one or several leaves.

    Attributes:
      paths: the leaves.
      size: weights in a group.
      total: arrays like the leaves -> their sums over each group.
      spread: one number per group -> arrays that broadcast against the leaves.
    """

    paths: tuple[str, ...]
    size: float
    total: Callable[[list[jax.Array]], jax.Array]
    spread: Callable[[jax.Array], list[jax.Array]]

    def norm(self, leaves: list[jax.Array]) -> jax.Array:
        """The L2 norm of each group."""
        return jnp.sqrt(self.total([w**2 for w in leaves]))


def slices(axes: tuple[int, ...], shapes: Shapes) -> list[Groups]:
    """Of each leaf: what lies along these axes."""
    return [_along(path, axes, shape) for path, shape in shapes.items()]


def _along(path: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> Groups:
    return Groups(
        paths=(path,),
        size=math.prod(shape[a] for a in axes),
        total=lambda leaves: leaves[0].sum(axes, keepdims=True),
        spread=lambda numbers: [numbers],
    )


def sides(side: Side, shapes: Shapes, axes: AxesTree | None) -> list[Groups]:
    """Of each leaf: what lies along its inputs, or along its outputs, and along a window, in each layer."""
    kernels = _kernels(shapes, axes)

    def of_leaf(path: str, shape: tuple[int, ...]) -> Groups:
        kernel = kernel_axes.told(shape, kernels[path])
        apart = (*_opposite(side, kernel), *kernel.batch_axis)
        return _along(path, tuple(i for i in range(len(shape)) if i not in apart), shape)

    return [of_leaf(path, shape) for path, shape in shapes.items()]


def sides_fault(side: Side, axes: AxesTree | None, shapes: Shapes) -> str | None:
    """What is wrong with leaves for groups along their inputs or their outputs."""
    name, other = f'group_l2(axis="{side}")', "out" if side == "in" else "in"
    kernels = _kernels(shapes, axes)
    for path, shape in shapes.items():
        fault = kernel_axes.direction_fault(name, shape, kernels[path])
        if fault:
            return fault.format(leaf=repr(path))
        if not _opposite(side, kernel_axes.told(shape, kernels[path])):
            return (
                f"{name}: {path!r} has the shape {shape} and no axis of {other}puts, each of which would be "
                "a group; exclude it with prunable="
            )
    return None


def _opposite(side: Side, kernel: Axes) -> tuple[int, ...]:
    """The axes of which each index is a group, if the norm is taken along one side."""
    return kernel.out_axis if side == "in" else kernel.in_axis


def _kernels(shapes: Shapes, axes: AxesTree | None) -> dict[str, Axes | None]:
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    return kernel_axes.by_path(axes, leaves)


def units(pattern: Pattern, shapes: Shapes, axes: AxesTree | None = None) -> list[Groups]:
    """Of each leaf: the units of a pattern."""
    kernels = _kernels(shapes, axes)

    def of_leaf(path: str, shape: tuple[int, ...]) -> Groups:
        kernel = kernels[path]
        return Groups(
            paths=(path,),
            size=math.prod(shape) / math.prod(_units_shape(pattern, shape, kernel)),
            total=lambda leaves: pattern.to_groups(leaves[0], kernel),
            spread=lambda numbers: [pattern.from_groups(numbers, shape, kernel)],
        )

    return [of_leaf(path, shape) for path, shape in shapes.items()]


def _units_shape(pattern: Pattern, shape: tuple[int, ...], kernel: Axes | None) -> tuple[int, ...]:
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda leaf: pattern.to_groups(leaf, kernel), leaf).shape


def units_fault(pattern: Pattern, axes: AxesTree | None = None) -> Callable[[Shapes], str | None]:
    """What is wrong with the shapes of leaves for the units of a pattern, as a function of them."""

    def check(shapes: Shapes) -> str | None:
        kernels = _kernels(shapes, axes)
        for path, shape in shapes.items():
            kernel = kernels[path]
            fault = pattern.check(shape, kernel)
            if fault:
                return fault.format(leaf=repr(path))
            many = len(shape) - len(kernel_axes.layer_axes(kernel)) > 1
            if many and _units_shape(pattern, shape, kernel) == shape:
                return (
                    f"group_l2: {path!r} has a unit for each weight in this pattern, and nothing dies "
                    "together; use patterns.block or patterns.channel, or l1 for single weights"
                )
        return None

    return check


def couplings(named: Sequence[dict[str, int]], shapes: Shapes) -> list[Groups]:
    """One set of groups per coupling `{path: axis}`: what has an index of these axes in common."""

    def of(group: dict[str, int]) -> Groups:
        others = {
            path: tuple(i for i in range(len(shapes[path])) if i != axis % len(shapes[path]))
            for path, axis in group.items()
        }
        return Groups(
            paths=tuple(group),
            size=sum(math.prod(shapes[path][i] for i in rest) for path, rest in others.items()),
            total=lambda leaves: sum(map(jnp.sum, leaves, others.values())),  # type: ignore
            spread=lambda numbers: [jnp.expand_dims(numbers, rest) for rest in others.values()],
        )

    return [of(group) for group in named]


def members(pattern: Coupled, shapes: Shapes) -> list[Groups]:
    """One set of groups per group of coupled units: their slices in all members that bring them forth."""

    def spread(m: Member, numbers: jax.Array) -> jax.Array:
        axis = jnp.zeros(m.shape[m.axis], numbers.dtype)
        axis = axis.at[m.index.ravel()].set(jnp.repeat(numbers, m.index.shape[1]))
        return axis.reshape([-1 if i == m.axis else 1 for i in range(len(m.shape))])

    def of(group: Group) -> Groups:
        own = makers(group)
        slices = lambda m, leaf: m.slices(leaf).reshape(group.size, -1)
        return Groups(
            paths=tuple(m.path for m in own),
            size=sum(math.prod(m.shape) for m in own) / group.size,
            total=lambda leaves: sum(  # type: ignore[arg-type, return-value]
                slices(m, leaf).sum(1) for m, leaf in zip(own, leaves, strict=True)
            ),
            spread=lambda numbers: [spread(m, numbers) for m in own],
        )

    return [of(group) for group in pattern.groups]


def makers(group: Group) -> list[Member]:
    """The members that bring a group's units forth: not the kernels that sum over them."""
    return [m for m in group.members if not m.enters]


def shrink(groups: Groups, v: list[jax.Array], pull: jax.Array) -> list[jax.Array]:
    """The proximal step of the norm if all weights of a group are pulled alike."""
    norm = groups.norm(v)
    kept = 1 - pull / jnp.where(norm == 0, 1.0, norm)
    factor = jnp.where(norm <= pull, 0.0, kept)
    factor = jnp.where(pull == 0, 1.0, factor)  # a norm too small for float32 is no reason to die
    return [jnp.where(f == 0, 0.0, f * x) for f, x in zip(groups.spread(factor), v, strict=True)]


# Newton's steps need one pass over the weights each. From `_radius`' start 13 were the most that a search
# among badly scaled groups found; the usual number is 3.
_NEWTON_STEPS = 16
_LEAST_PULL = 1e-10  # beside a norm of 1: below, a pull cannot be told from none in float32


def shrink_each(groups: Groups, v: list[jax.Array], pull: list[jax.Array]) -> list[jax.Array]:
    """The proximal step of the norm if each weight is pulled by a number of its own."""
    norm = groups.norm(v)
    unit = groups.spread(1 / jnp.where(norm == 0, 1.0, norm))
    u = [x * s for x, s in zip(v, unit, strict=True)]
    c = [p * s * jnp.ones_like(x) for p, s, x in zip(pull, unit, v, strict=True)]
    radius = groups.spread(_radius(groups, u, c))

    def leaf(x: jax.Array, c: jax.Array, r: jax.Array) -> jax.Array:
        kept = r / jnp.where(c == 0, 1.0, r + c)
        return jnp.where(c == 0, x, jnp.where(r == 0, 0.0, kept * x))

    return [leaf(*each) for each in zip(v, c, radius, strict=True)]


def _radius(groups: Groups, u: list[jax.Array], c: list[jax.Array]) -> jax.Array:
    r"""The norm $r$ of the proximal step at vectors $u$ of norm 1, pulled by $c$; 0 where they vanish.

    It solves $f(r) = S(r)^{-1/2} - 1 = 0$ with $S(r) = \sum_i u_i^2 / (r + c_i)^2$. As $f$ is concave and
    increasing, Newton's steps $r + (\sqrt S - 1) S / T$ with $T = \sum_i u_i^2 / (r + c_i)^3$ rise to the
    root from below it, and by Jensen's inequality $1 - \sum_i u_i^2 c_i$ is below it. If all $c_i$ are
    equal, that is the root. The floor under $c$ keeps the sums finite at weights that nothing pulls.
    """
    c = [jnp.maximum(x, _LEAST_PULL) for x in c]

    def sums(r: jax.Array) -> tuple[jax.Array, jax.Array]:
        away = [x + s for x, s in zip(c, groups.spread(r), strict=True)]
        ratios = [(x / a) ** 2 for x, a in zip(u, away, strict=True)]
        cubes = [x / a for x, a in zip(ratios, away, strict=True)]
        return groups.total(ratios), groups.total(cubes)

    def newton(_: int, r: jax.Array) -> jax.Array:
        s, t = sums(r)
        return jnp.maximum(r + (jnp.sqrt(s) - 1) * s / jnp.where(t == 0, 1.0, t), 0.0)

    start = groups.total([x**2 * p for x, p in zip(u, c, strict=True)])
    dead = sums(jnp.zeros_like(start))[0] <= 1
    root = jax.lax.fori_loop(0, _NEWTON_STEPS, newton, jnp.maximum(1 - start, 0.0))
    return jnp.where(dead, 0.0, root)
