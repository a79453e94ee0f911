"""Penalties on groups of weights: the group lasso within leaves and across them."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.arrays.precision import widen
from jaxprune.hyperparameters import Scheduled, scheduled
from jaxprune.kernel_axes import AxesTree
from jaxprune.parts import factory
from jaxprune.penalties.group_norms import (
    Groups,
    Shapes,
    Side,
    coupling_groups,
    member_groups,
    producing_members,
    shrink_groups,
    shrink_groups_by_weight,
    side_fault,
    side_groups,
    slice_groups,
    unit_check,
    unit_groups,
)
from jaxprune.penalties.weightwise import Leaves, step_size_of
from jaxprune.types import Pattern, Penalty, Step
from jaxprune.units.coupling import Coupled

__all__ = ["coupled", "group_l2"]


@factory
def group_l2(
    strength: Scheduled,
    *,
    axis: int | Sequence[int] | Side | None = None,
    pattern: Pattern | None = None,
    axes: AxesTree | None = None,
) -> Penalty:
    r"""Returns the group lasso, $\lambda \sum_g \sqrt{p_g} \|w_g\|_2$: groups of $p_g$ weights become zero.

    With one step size $\eta$ for a leaf the proximal step shrinks each norm,
    $w_g = v_g \max(1 - \eta \lambda \sqrt{p_g} / \|v_g\|, 0)$. With one step size per weight,
    $w_i = v_i r / (r + \eta_i \lambda \sqrt{p_g})$, where $r = \|w_g\|$ solves
    $\sum_i v_i^2 / (r + \eta_i \lambda \sqrt{p_g})^2 = 1$; $r = 0$ if the sum is at most 1 at $r = 0$. With
    groups of one weight the penalty is `l1`.

    Args:
      strength: $\lambda$, a number or a schedule (step -> number).
      axis: the axes along which the norm is taken. `"in"`: the inputs of a kernel and its window, so that
        each output is a group. `"out"`: the outputs, so that each input is a group. An index or several:
        these axes of each leaf, so that each index of the other axes is a group: of a dense kernel
        `[inputs, outputs]`, -1 removes inputs and -2 outputs; of a convolution `[h, w, inputs, outputs]`,
        `(0, 1, 2)` removes filters; of an attention kernel `[embed, heads, dim]`, `(0, 2)` removes heads.
      pattern: instead of `axis`, a pattern whose units are the groups: `patterns.block` or
        `patterns.channel`. Its `to_groups` must sum over the weights of a unit.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: two axes are taken for `[inputs, outputs]`, four with a short window for `[h, w, inputs,
        outputs]`; other shapes are refused where direction matters. Each layer has
        groups of its own. Not needed if `axis` is a number.

    Returns:
      A penalty.

    Raises:
      ValueError: if not exactly one of `axis` and `pattern` is given, the pattern only groups competitors
        (`patterns.groups`) or does not sum (`reduce=`), or a word for `axis` is neither "in" nor "out".

    References:
      Yuan & Lin, "Model Selection and Estimation in Regression with Grouped Variables" (2006).

    >>> rows = group_l2(1.0, axis="out")  # of four weights: each norm loses 1.25 * sqrt(4)
    >>> rows.prox({"w": jnp.array([[3.0, 0.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0]])}, 1.25, 0)
    {'w': Array([[1.5, 0. , 2. , 0. ],
           [0. , 0. , 0. , 0. ]], dtype=float32)}
    """
    strength_at = scheduled("group_l2", strength=strength)
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
        if pattern.made_by and pattern.made_by.arguments.get("reduce", "sum") != "sum":
            raise ValueError(
                f"group_l2(pattern={pattern}): a norm is of the sum over a unit; leave reduce= out."
            )
        return _sum_of_group_norms(
            strength_at,
            lambda shapes: unit_groups(pattern, shapes, axes),
            unit_check(pattern, axes),
        )
    if isinstance(axis, str):
        if axis not in ("in", "out"):
            raise ValueError(
                f'group_l2(axis={axis!r}): "in", "out", an axis or several, as integers, are needed.'
            )
        return _sum_of_group_norms(
            strength_at,
            lambda shapes: side_groups(axis, shapes, axes),
            functools.partial(side_fault, axis, axes),
        )
    checks.check("group_l2", axis=(axis, _AXES))
    group_axes = tuple(axis) if isinstance(axis, Sequence) else (int(axis or 0),)

    def check(shapes: Shapes) -> str | None:
        for path, shape in shapes.items():
            exist = all(-len(shape) <= axis_index < len(shape) for axis_index in group_axes)
            if not exist or len({axis_index % len(shape) for axis_index in group_axes}) != max(
                len(group_axes), 1
            ):
                return (
                    f"group_l2(axis={axis}): {path!r} has the shape {shape}, whose axes these are not; "
                    "exclude it with prunable= or name axes that it has, each once"
                )
        return None

    return _sum_of_group_norms(strength_at, lambda shapes: slice_groups(group_axes, shapes), check)


@factory
def coupled(strength: Scheduled, groups: Iterable[Mapping[str, int]] | Coupled) -> Penalty:
    r"""Returns the group lasso over several leaves: slices of a unit become zero in all of them at once.

    $\lambda \sum_i \sqrt{p_i} \|(w^{(1)}_i, w^{(2)}_i, \dots)\|_2$: group $i$ has the slice at index $i$ of
    one axis of each leaf, $p_i$ weights in all. The proximal step is that of `group_l2`; a step size per leaf
    is treated as a step size per weight.

    Args:
      strength: $\lambda$, a number or a schedule (step -> number).
      groups: couplings, each `{path: axis}`; paths as `masks.paths` gives them. The hidden units of a
        perceptron are `{"fc1/kernel": -1, "fc1/bias": 0, "fc2/kernel": 0}`. Or the result of
        `jaxprune.structured.coupled`: a group then has the slices that compute a unit (kernels, biases,
        scales), not those of the layers that read it.

    Returns:
      A penalty.

    Raises:
      ValueError: if no leaf is named, or a leaf is in two couplings: the proximal step of a sum of
        overlapping norms is neither of their proximal steps.

    References:
      Wen, Wu, Wang, Chen & Li, "Learning Structured Sparsity in Deep Neural Networks" (2016), without a
      coupling of layers; Yuan & Lin (2006) for the weights of the groups.

    >>> units = coupled(1.0, [{"in": -1, "out": 0}])  # of four weights: each norm loses 1.25 * sqrt(4)
    >>> v = {"in": jnp.array([[3.0, 1.0]]), "out": jnp.array([[4.0, 0.0, 0.0], [1.0, 1.0, 1.0]])}
    >>> units.prox(v, 1.25, 0)
    {'in': Array([[1.5, 0. ]], dtype=float32), 'out': Array([[2., 0., 0.],
           [0., 0., 0.]], dtype=float32)}
    """
    strength_at = scheduled("coupled", strength=strength)
    if isinstance(groups, Coupled):
        return _coupled_norms(strength_at, groups)
    checks.check("coupled", groups=(groups, _COUPLINGS))
    axis_by_path_of_groups = [dict(axis_by_path) for axis_by_path in groups]
    paths = [path for axis_by_path in axis_by_path_of_groups for path in axis_by_path]
    if not paths:
        raise ValueError("coupled: no leaf is named; give couplings such as [{'fc1/kernel': -1}].")
    _refuse_overlaps(
        paths, "name each leaf once, the kernel that two layers share only with one of them"
    )

    def check(shapes: Shapes) -> str | None:
        missing_paths = [path for path in paths if path not in shapes]
        if missing_paths:
            return f"coupled: {missing_paths[0]!r} is none of the leaves {', '.join(map(repr, shapes))}"
        for axis_by_path in axis_by_path_of_groups:
            lengths = {}
            for path, axis in axis_by_path.items():
                if not -len(shapes[path]) <= axis < len(shapes[path]):
                    return f"coupled: {path!r} has the shape {shapes[path]} and no axis {axis}"
                lengths[path] = shapes[path][axis]
            if len(set(lengths.values())) > 1:
                lengths_text = ", ".join(
                    f"{length} in {path!r}" for path, length in lengths.items()
                )
                return (
                    f"coupled: the axes of one coupling must be of equal length, not {lengths_text}"
                )
        return None

    return _sum_of_group_norms(
        strength_at,
        lambda shapes: coupling_groups(axis_by_path_of_groups, shapes),
        check,
        tuple(paths),
    )


def _coupled_norms(strength_at: Callable[[Step], Any], pattern: Coupled) -> Penalty:
    """Returns the penalty on groups that were found in a program, whose slices must fill whole leaves."""
    read_only = [group.name for group in pattern.groups if not producing_members(group)]
    if read_only:
        raise ValueError(
            f"coupled: the units of {read_only[0]!r} are only read by this part of the tree; leave the group "
            "out by structured.coupled(only=)."
        )
    paths = [member.path for group in pattern.groups for member in producing_members(group)]
    _refuse_overlaps(paths, "restrict structured.coupled(only=)")
    for member in (member for group in pattern.groups for member in producing_members(group)):
        if (
            member.index.size != member.shape[member.axis]
            or len(set(member.index.ravel().tolist())) != member.index.size
        ):
            raise ValueError(
                f"coupled: the units of a group are not all of {member}; leave the group out by "
                "structured.coupled(only=)."
            )
    return _sum_of_group_norms(
        strength_at, lambda shapes: member_groups(pattern, shapes), pattern.check, tuple(paths)
    )


def _refuse_overlaps(paths: Sequence[str], remedy: str) -> None:
    repeated_paths = sorted({path for path in paths if paths.count(path) > 1})
    if repeated_paths:
        raise ValueError(
            f"coupled: {', '.join(map(repr, repeated_paths))} in more than one coupling. Their norms would "
            f"overlap, and there is no exact proximal step for that; {remedy}."
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


def _sum_of_group_norms(
    strength_at: Callable[[Step], Any],
    groups_of: Callable[[Shapes], list[Groups]],
    check: Callable[[Shapes], str | None],
    covers: tuple[str, ...] | None = None,
) -> Penalty:
    """Returns the penalty that sums group norms, each weighed by the square root of the group's size.

    Args:
      strength_at: step -> the strength of the penalty.
      groups_of: shapes by path -> the groups.
      check: shapes by path -> what is wrong with them, or `None`.
      covers: paths of the leaves that it falls on; `None`: all.
    """

    def groups_with_leaves(leaves: Leaves) -> list[tuple[Groups, list[jax.Array]]]:
        groups = groups_of({path: jnp.shape(leaf) for path, leaf in leaves.items()})
        return [(group, [widen(leaves[path]) for path in group.paths]) for group in groups]

    def value(leaves: Leaves, step: Step) -> jax.Array:
        weighted_norms = (
            math.sqrt(group.size) * jnp.sum(group.norm(group_leaves))
            for group, group_leaves in groups_with_leaves(leaves)
        )
        return jnp.asarray(strength_at(step) * sum(weighted_norms, 0.0), jnp.float32)

    def prox(leaves: Leaves, step_sizes: Any, step: Step) -> Leaves:
        new_leaves = {}
        for group, group_leaves in groups_with_leaves(leaves):
            has_one_step_size = (
                not isinstance(step_sizes, Mapping)
                or len({id(step_sizes[path]) for path in group.paths}) == 1
            )
            group_strength = strength_at(step) * math.sqrt(group.size)
            pulls = [group_strength * step_size_of(step_sizes, path) for path in group.paths]
            if has_one_step_size and pulls[0].ndim == 0:
                group_leaves = shrink_groups(group, group_leaves, pulls[0])
            else:
                group_leaves = shrink_groups_by_weight(group, group_leaves, pulls)
            new_leaves |= zip(group.paths, group_leaves, strict=True)
        return leaves | {path: leaf.astype(leaves[path].dtype) for path, leaf in new_leaves.items()}

    def subgradient(leaves: Leaves, step: Step) -> Leaves:
        slopes = {}
        for group, group_leaves in groups_with_leaves(leaves):
            norms = group.norm(group_leaves)
            factors = strength_at(step) * math.sqrt(group.size) / jnp.where(norms == 0, 1.0, norms)
            pairs = zip(group_leaves, group.spread(factors), strict=True)
            slopes |= zip(group.paths, (leaf * factor for leaf, factor in pairs), strict=True)
        return {path: slope.astype(leaves[path].dtype) for path, slope in slopes.items()}

    return Penalty(value, prox, subgradient, check, covers)
