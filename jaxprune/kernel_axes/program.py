"""Inputs, outputs and layers of each kernel, read from the products that it enters in a program."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import checks
from jaxprune.kernel_axes.given import AxesTree
from jaxprune.programs.kernels import Follower, follow
from jaxprune.programs.uses import Use
from jaxprune.types import Axes, Params

__all__ = ["axes", "of_follower"]


def axes(apply: Callable[..., Any], params: Params, *inputs: Any) -> AxesTree:
    """Returns which axes of each kernel are inputs, outputs and layers, by the program of `apply`.

    Kernels are followed into matrix products and convolutions: through transposes, reshapes, slices, stacks,
    products with masks and scalars, sums with low-rank updates, loops over layers, experts, `jit`, `remat`
    and functions with their own derivatives. Nothing is computed.

    Args:
      apply: any JAX function of the parameters and other inputs; its outputs do not matter.
      params: tree of arrays, or of their shapes (`jax.ShapeDtypeStruct`).
      *inputs: trees of arrays or of shapes, whatever their leading axes.

    Returns:
      A tree like `params` of `jaxprune.Axes`; `None` at a leaf that is in no product. If the program does not
      determine which axes are inputs (both `w` and `w.T` are used), `in_axis` is `None`, and `reason` says
      why. If an ensemble under `vmap`, whose members share their inputs, has only one kernel, its layers are
      not found, because the program is that of one wide kernel.

    >>> import jax.numpy as jnp
    >>> def apply(params, x):  # layers stacked for a scan, then a kernel that is stored [outputs, inputs]
    ...     x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])
    ...     return x @ params["head"].T + params["bias"]
    >>> params = {"layers": jnp.ones((6, 4, 4)), "head": jnp.ones((3, 4)), "bias": jnp.ones(())}
    >>> found = axes(apply, params, jnp.ones((2, 4)))
    >>> found["layers"]
    Axes(in_axis=(1,), out_axis=(2,), batch_axis=(0,))
    >>> found["head"], found["bias"]
    (Axes(in_axis=(1,), out_axis=(0,), batch_axis=()), None)
    """
    checks.check("axes", apply=(apply, checks.FUNCTION), params=(params, checks.TREE))
    leaves, treedef = jax.tree.flatten(params)
    follower = follow(apply, params, *inputs)
    return treedef.unflatten(of_follower(follower, [np.shape(leaf) for leaf in leaves]))


def of_follower(follower: Follower, shapes: Sequence[tuple[int, ...]]) -> list[Axes | None]:
    """Returns the axes of each parameter, from what followed them through a program.

    Args:
      follower: that has run.
      shapes: of the parameters.
    """
    uses: list[list[Use]] = [[] for _ in shapes]
    for use in follower.uses:
        uses[use.view.leaf].append(use)
    return [
        _axes_from_uses(leaf_uses, shape, leaf_index, follower)
        for leaf_index, (shape, leaf_uses) in enumerate(zip(shapes, uses, strict=True))
    ]


def _axes_from_uses(
    uses: Sequence[Use], shape: tuple[int, ...], leaf_index: int, follower: Follower
) -> Axes | None:
    """Returns the axes of one parameter from its uses in products; `None` if it is in none.

    Args:
      uses: of this parameter.
      shape: of it.
      leaf_index: its index among the parameters.
      follower: that has run.
    """
    if not uses:
        if leaf_index not in follower.opaque:
            return None
        primitive_names = ", ".join(sorted(follower.opaque[leaf_index]))
        return Axes(None, None, (), f"it enters {primitive_names}, of which the axes are not known")
    direct_uses = [use for use in uses if use.view.inner is None or use.view.by_constant]
    weight_uses = [use for use in direct_uses if not use.constant] or direct_uses
    use_kind = _use_kind(weight_uses, leaf_index, follower)
    if use_kind == "factor":
        reason = "it is multiplied with other parameters before it meets the inputs"
        return Axes(None, None, (), reason, use_kind)
    if leaf_index in follower.mixed:
        return Axes(None, None, (), "the inputs mix kernels out of it", use_kind)
    layered_axes = follower.layered - follower.summed
    leaf_roles: list[str | None] = [None] * len(shape)
    for use in weight_uses or uses:
        product_roles, fault = _roles_in_product(use, shape, layered_axes)
        for axis, role in enumerate(product_roles):
            if role is None or fault:
                continue
            if {leaf_roles[axis], role} == {"batch", "out"}:
                role = "batch"  # one wide kernel where all members share their inputs
            elif leaf_roles[axis] not in (None, role):
                fault = (
                    f"the program takes axis {axis} for {_WORDS[role]} in one product and for "
                    f"{_WORDS[leaf_roles[axis] or role]} in another"
                )
            leaf_roles[axis] = role
        if fault:
            return Axes(None, None, (), fault, use_kind)
    axes_by_role = {
        role: tuple(axis for axis, met in enumerate(leaf_roles) if (met or "batch") == role)
        for role in ("in", "out", "batch")
    }
    return Axes(axes_by_role["in"], axes_by_role["out"], axes_by_role["batch"], None, use_kind)


_WORDS = {
    "in": "inputs",
    "out": "outputs",
    "batch": "layers",
    "window": "a window",
}


def _use_kind(weight_uses: Sequence[Use], leaf_index: int, follower: Follower) -> str:
    """Returns what a parameter is to the program: a kernel, a table, a factor or an adapter."""
    if leaf_index in follower.adapters:
        return "adapter"
    if not weight_uses:
        return "factor"
    is_multiplied = any(not use.looked_up for use in weight_uses)
    if (leaf_index in follower.tables and is_multiplied) or any(
        use.indicator for use in weight_uses
    ):
        return "table"
    return "kernel"


def _roles_in_product(
    use: Use, shape: tuple[int, ...], layered: Container[tuple[int, int]]
) -> tuple[list[str | None], str | None]:
    """Returns the role of each axis of the leaf in one product, and what is wrong with it.

    An axis of the product may be several axes of the leaf merged (its digits, the last running fastest), and
    an axis of the leaf may stand in several axes of the product: all roles that it has there are collected
    first, and reduced to one at the end.

    Args:
      use: the product.
      shape: of the leaf.
      layered: (leaf index, axis) of axes that index layers.
    """
    view = use.view
    roles_of_axes: list[set[str]] = [set() for _ in shape]
    # Of a depthwise filter each channel is an output, as Flax stores it, not a layer.
    batch_role = "batch" if "out" in use.roles else "out"
    has_several_inputs = any(
        view.extent(axis) > 1 for axis, role in enumerate(use.roles) if role == "in"
    )
    for axis, product_role in enumerate(use.roles):
        role = batch_role if product_role == "batch" else product_role
        digits = list(view.axes[axis])
        group_count = use.groups if role == "out" and has_several_inputs else 1
        for digit in digits:
            digit_size = digit.size
            is_group = group_count > 1 and group_count % digit_size == 0 and len(digits) > 1
            group_count = group_count // digit_size if is_group else 1
            if digit.axis >= 0:
                is_layer = role == "out" and (view.leaf, digit.axis) in layered
                roles_of_axes[digit.axis].add(
                    "group" if is_group else "batch" if is_layer else role
                )
        merged_axes = [digit.axis for digit in digits if digit.axis >= 0]
        if role == "in" and merged_axes != sorted(merged_axes):
            fault = f"its axes {tuple(merged_axes)} are merged in an order other than that they are stored in"
            return [None] * len(shape), fault
    for loop in view.loops:
        roles_of_axes[loop.digit.axis].add("batch")
    for pick in view.picks:
        roles_of_axes[pick.axis].add("batch")
    outer_roles = {role for axis_roles in roles_of_axes for role in axis_roles} & {"in", "out"}
    for axis in view.inner or ():
        roles_of_axes[axis].add(
            "out" if outer_roles == {"in"} else "in" if outer_roles == {"out"} else "open"
        )
    leaf_roles: list[str | None] = []
    fault = None
    for axis, roles in enumerate(roles_of_axes):
        if "open" in roles or {"in", "out"} <= roles:
            fault = f"axis {axis} is both summed over and kept in one product"
        elif "batch" in roles and roles & {"in", "out"}:
            other_side = _WORDS["in" if "in" in roles else "out"]
            fault = f"axis {axis} holds both layers and {other_side}; store layers along an axis of their own"
        if not roles:  # nothing of it is left: one index was picked
            leaf_roles.append("batch" if shape[axis] > 1 else None)
        elif len(roles) == 1:
            role = next(iter(roles))
            leaf_roles.append("batch" if role == "group" else role)
        else:  # a part of it is blocks or places of a window, the rest decides
            leaf_roles.append("in" if "in" in roles else "out" if "out" in roles else "batch")
    return leaf_roles, fault
