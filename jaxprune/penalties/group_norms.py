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
from jaxprune.kernel_axes import AxesTree
from jaxprune.types import Axes, Pattern
from jaxprune.units.coupling import Coupled, Group, Member

__all__ = [
    "Groups",
    "Side",
    "coupling_groups",
    "member_groups",
    "producing_members",
    "shrink_groups",
    "shrink_groups_by_weight",
    "side_fault",
    "side_groups",
    "slice_groups",
    "unit_check",
    "unit_groups",
]

Shapes = dict[str, tuple[int, ...]]
Side = Literal["in", "out"]


class Groups(NamedTuple):
    """Groups of equal size, over the weights of one or several leaves.

    Attributes:
      paths: the leaves.
      size: weights in a group.
      total: arrays like the leaves -> their sums over each group.
      spread: one value per group -> arrays that broadcast against the leaves.
    """

    paths: tuple[str, ...]
    size: float
    total: Callable[[list[jax.Array]], jax.Array]
    spread: Callable[[jax.Array], list[jax.Array]]

    def norm(self, leaves: list[jax.Array]) -> jax.Array:
        """Returns the L2 norm of each group, with a slope of 0 at 0."""
        squares = self.total([leaf**2 for leaf in leaves])
        is_zero = squares == 0
        return jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))


def slice_groups(axes: tuple[int, ...], shapes: Shapes) -> list[Groups]:
    """Returns one set of groups per leaf: the weights along these axes."""
    return [_groups_along(path, axes, shape) for path, shape in shapes.items()]


def _groups_along(path: str, axes: tuple[int, ...], shape: tuple[int, ...]) -> Groups:
    return Groups(
        paths=(path,),
        size=math.prod(shape[axis] for axis in axes),
        total=lambda arrays: arrays[0].sum(axes, keepdims=True),
        spread=lambda group_values: [group_values],
    )


def side_groups(side: Side, shapes: Shapes, axes: AxesTree | None) -> list[Groups]:
    """Returns one set of groups per leaf: the weights along its inputs, or its outputs, and its window.

    Each layer of a stack has groups of its own.
    """
    axes_by_path = _axes_by_path(shapes, axes)

    def groups_of_leaf(path: str, shape: tuple[int, ...]) -> Groups:
        leaf_axes = kernel_axes.resolve_axes(shape, axes_by_path[path])
        apart_axes = (*_group_axes(side, leaf_axes), *leaf_axes.batch_axis)
        return _groups_along(
            path, tuple(axis for axis in range(len(shape)) if axis not in apart_axes), shape
        )

    return [groups_of_leaf(path, shape) for path, shape in shapes.items()]


def side_fault(side: Side, axes: AxesTree | None, shapes: Shapes) -> str | None:
    """Returns what is wrong with leaves for groups along their inputs or outputs; `None` if nothing is."""
    name = f'group_l2(axis="{side}")'
    other_side = "out" if side == "in" else "in"
    axes_by_path = _axes_by_path(shapes, axes)
    for path, shape in shapes.items():
        fault = kernel_axes.direction_fault(name, shape, axes_by_path[path])
        if fault:
            return fault.format(leaf=repr(path))
        if not _group_axes(side, kernel_axes.resolve_axes(shape, axes_by_path[path])):
            return (
                f"{name}: {path!r} has the shape {shape} and no axis of {other_side}puts, each of which "
                "would be a group; exclude it with prunable="
            )
    return None


def _group_axes(side: Side, kernel: Axes) -> tuple[int, ...]:
    """Returns the axes of which each index is a group, if the norm is taken along one side."""
    return kernel.out_axis if side == "in" else kernel.in_axis


def _axes_by_path(shapes: Shapes, axes: AxesTree | None) -> dict[str, Axes | None]:
    leaves = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    return kernel_axes.by_path(axes, leaves)


def unit_groups(pattern: Pattern, shapes: Shapes, axes: AxesTree | None = None) -> list[Groups]:
    """Returns one set of groups per leaf: the units of a pattern."""
    axes_by_path = _axes_by_path(shapes, axes)

    def groups_of_leaf(path: str, shape: tuple[int, ...]) -> Groups:
        leaf_axes = axes_by_path[path]
        return Groups(
            paths=(path,),
            size=math.prod(shape) / math.prod(_units_shape(pattern, shape, leaf_axes)),
            total=lambda arrays: pattern.to_groups(arrays[0], leaf_axes),
            spread=lambda group_values: [pattern.from_groups(group_values, shape, leaf_axes)],
        )

    return [groups_of_leaf(path, shape) for path, shape in shapes.items()]


def _units_shape(
    pattern: Pattern, shape: tuple[int, ...], leaf_axes: Axes | None
) -> tuple[int, ...]:
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda leaf: pattern.to_groups(leaf, leaf_axes), leaf).shape


def unit_check(pattern: Pattern, axes: AxesTree | None = None) -> Callable[[Shapes], str | None]:
    """Returns a check: shapes by path -> what is wrong with them for the units of a pattern, or `None`."""

    def check(shapes: Shapes) -> str | None:
        axes_by_path = _axes_by_path(shapes, axes)
        for path, shape in shapes.items():
            leaf_axes = axes_by_path[path]
            fault = pattern.check(shape, leaf_axes)
            if fault:
                return fault.format(leaf=repr(path))
            has_several_axes = len(shape) - len(kernel_axes.layer_axes(leaf_axes)) > 1
            if has_several_axes and _units_shape(pattern, shape, leaf_axes) == shape:
                return (
                    f"group_l2: {path!r} has a unit for each weight in this pattern, and nothing dies "
                    "together; use patterns.block or patterns.channel, or l1 for single weights"
                )
        return None

    return check


def coupling_groups(
    axis_by_path_of_groups: Sequence[dict[str, int]], shapes: Shapes
) -> list[Groups]:
    """Returns one set of groups per coupling `{path: axis}`: the slices at the same index of these axes."""

    def groups_of_coupling(axis_by_path: dict[str, int]) -> Groups:
        summed_axes = {
            path: tuple(
                leaf_axis
                for leaf_axis in range(len(shapes[path]))
                if leaf_axis != axis % len(shapes[path])
            )
            for path, axis in axis_by_path.items()
        }
        return Groups(
            paths=tuple(axis_by_path),
            size=sum(
                math.prod(shapes[path][leaf_axis] for leaf_axis in leaf_axes)
                for path, leaf_axes in summed_axes.items()
            ),
            total=lambda arrays: sum(map(jnp.sum, arrays, summed_axes.values())),  # type: ignore
            spread=lambda group_values: [
                jnp.expand_dims(group_values, leaf_axes) for leaf_axes in summed_axes.values()
            ],
        )

    return [groups_of_coupling(axis_by_path) for axis_by_path in axis_by_path_of_groups]


def member_groups(pattern: Coupled, shapes: Shapes) -> list[Groups]:
    """Returns one set of groups per group of coupled units: their slices in all members that compute them."""

    def spread_along(member: Member, unit_values: jax.Array) -> jax.Array:
        line = jnp.zeros(member.shape[member.axis], unit_values.dtype)
        line = line.at[member.index.ravel()].set(jnp.repeat(unit_values, member.index.shape[1]))
        return line.reshape([-1 if axis == member.axis else 1 for axis in range(len(member.shape))])

    def groups_of_units(group: Group) -> Groups:
        producers = producing_members(group)

        def unit_rows(member: Member, array: jax.Array) -> jax.Array:
            return member.slices(array).reshape(group.size, -1)

        return Groups(
            paths=tuple(member.path for member in producers),
            size=sum(math.prod(member.shape) for member in producers) / group.size,
            total=lambda arrays: sum(  # type: ignore[arg-type, return-value]
                unit_rows(member, array).sum(1)
                for member, array in zip(producers, arrays, strict=True)
            ),
            spread=lambda unit_values: [spread_along(member, unit_values) for member in producers],
        )

    return [groups_of_units(group) for group in pattern.groups]


def producing_members(group: Group) -> list[Member]:
    """Returns the members that compute a group's units, not the kernels that sum over them."""
    return [member for member in group.members if not member.is_input_axis]


def shrink_groups(groups: Groups, leaves: list[jax.Array], pull: jax.Array) -> list[jax.Array]:
    """Returns the proximal step of the norm if all weights of a group have the same pull.

    Args:
      groups: of the weights.
      leaves: the weights, before the step.
      pull: step size times strength, a number.
    """
    norm = groups.norm(leaves)
    shrunken = 1 - pull / jnp.where(norm == 0, 1.0, norm)
    scale = jnp.where(norm <= pull, 0.0, shrunken)
    scale = jnp.where(pull == 0, 1.0, scale)  # unpulled, however small: it stays as it is
    return [
        jnp.where(leaf_scale == 0, 0.0, leaf_scale * leaf)
        for leaf_scale, leaf in zip(groups.spread(scale), leaves, strict=True)
    ]


# Newton's steps need one pass over the weights each. From `_shrunken_norm`'s start 13 were the most that a
# search among badly scaled groups found; the usual number is 3.
_NEWTON_STEPS = 16
_LEAST_PULL = 1e-10  # beside a norm of 1: below, a pull cannot be told from none in float32


def shrink_groups_by_weight(
    groups: Groups, leaves: list[jax.Array], pull: list[jax.Array]
) -> list[jax.Array]:
    """Returns the proximal step of the norm if each weight has a pull of its own.

    Args:
      groups: of the weights.
      leaves: the weights, before the step.
      pull: of each leaf, step size times strength: one number, or one per weight.
    """
    norms = groups.norm(leaves)
    inverse_norms = groups.spread(1 / jnp.where(norms == 0, 1.0, norms))
    unit_leaves = [
        leaf * inverse_norm for leaf, inverse_norm in zip(leaves, inverse_norms, strict=True)
    ]
    unit_pulls = [
        leaf_pull * inverse_norm * jnp.ones_like(leaf)
        for leaf_pull, inverse_norm, leaf in zip(pull, inverse_norms, leaves, strict=True)
    ]
    new_norms = groups.spread(_shrunken_norm(groups, unit_leaves, unit_pulls))

    def shrink_leaf(leaf: jax.Array, leaf_pull: jax.Array, new_norm: jax.Array) -> jax.Array:
        scale = new_norm / jnp.where(leaf_pull == 0, 1.0, new_norm + leaf_pull)
        return jnp.where(leaf_pull == 0, leaf, jnp.where(new_norm == 0, 0.0, scale * leaf))

    return [shrink_leaf(*arrays) for arrays in zip(leaves, unit_pulls, new_norms, strict=True)]


def _shrunken_norm(
    groups: Groups, unit_leaves: list[jax.Array], pulls: list[jax.Array]
) -> jax.Array:
    r"""Returns the norm $r$ of the proximal step at $u$ of norm 1, pulled by $c$; 0 where it vanishes.

    It solves $f(r) = S(r)^{-1/2} - 1 = 0$ with $S(r) = \sum_i u_i^2 / (r + c_i)^2$. As $f$ is concave and
    increasing, Newton's steps $r + (\sqrt S - 1) S / T$ with $T = \sum_i u_i^2 / (r + c_i)^3$ rise to the
    root from below it, and by Jensen's inequality $1 - \sum_i u_i^2 c_i$ is below it. If all $c_i$ are
    equal, that is the root. The floor under $c$ keeps the sums finite at weights that nothing pulls.
    """
    floored_pulls = [jnp.maximum(pull, _LEAST_PULL) for pull in pulls]

    def square_and_cube_sums(r: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns S(r) and T(r) of each group."""
        denominators = [
            pull + leaf_r for pull, leaf_r in zip(floored_pulls, groups.spread(r), strict=True)
        ]
        squares = [
            (unit_leaf / denominator) ** 2
            for unit_leaf, denominator in zip(unit_leaves, denominators, strict=True)
        ]
        cubes = [
            square / denominator for square, denominator in zip(squares, denominators, strict=True)
        ]
        return groups.total(squares), groups.total(cubes)

    def newton_step(_: int, r: jax.Array) -> jax.Array:
        square_sum, cube_sum = square_and_cube_sums(r)
        slope = jnp.where(cube_sum == 0, 1.0, cube_sum)
        return jnp.maximum(r + (jnp.sqrt(square_sum) - 1) * square_sum / slope, 0.0)

    mean_pull = groups.total(
        [unit_leaf**2 * pull for unit_leaf, pull in zip(unit_leaves, floored_pulls, strict=True)]
    )
    vanishes = square_and_cube_sums(jnp.zeros_like(mean_pull))[0] <= 1
    start = jnp.maximum(1 - mean_pull, 0.0)
    root = jax.lax.fori_loop(0, _NEWTON_STEPS, newton_step, start)
    return jnp.where(vanishes, 0.0, root)
