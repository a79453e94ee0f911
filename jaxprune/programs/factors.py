"""Finds the operand of a product that is a kernel, and where parameters lie in the product's result."""

import math
from collections.abc import Sequence
from typing import Any

from jaxprune.programs import views
from jaxprune.programs.contractions import Contraction
from jaxprune.programs.primitives import REDUCING
from jaxprune.programs.tracked import Chain, TrackedValue
from jaxprune.programs.views import View

__all__ = [
    "extended_chain",
    "index_of_kernel",
    "layered_outputs",
    "mixed_kernels",
    "parameter_shares",
    "product_echo",
    "product_views",
    "remaining_echo",
    "summed_outputs",
]


def index_of_kernel(
    operands: tuple[TrackedValue, TrackedValue], product: Contraction
) -> int | None:
    """Returns the index of the operand that is a kernel, made of parameters; `None` if none or both are.

    What inputs have looked up in a table is a kernel only if the other operand is none.
    """
    for must_be_pure in (True, False):
        candidates = [
            index
            for index, value in enumerate(operands)
            if value.views and (value.pure if must_be_pure else value.looked_up)
        ]
        if len(candidates) == 1 and (must_be_pure or operands[1 - candidates[0]].active):
            return candidates[0] if product.roles[candidates[0]] is not None else None
        if candidates:
            return None
    return None


def extended_chain(
    equation: Any, product: Contraction, operands: tuple[TrackedValue, TrackedValue], kernel: int
) -> Chain | None:
    """Returns the chain of products that ends with this one; `None` if the product extends none."""
    leaf_indices = {view.leaf for view in operands[kernel].views}
    other_operand = operands[1 - kernel]
    if (
        len(leaf_indices) != 1
        or other_operand.name is None
        or equation.primitive.name != "dot_general"
    ):
        return None
    shape = equation.invars[kernel].aval.shape
    width = math.prod(shape[axis] for axis in product.axes(kernel, "out"))
    if other_operand.chain is not None:
        chain_before = other_operand.chain
        return Chain(
            chain_before.root, (*chain_before.leaves, *leaf_indices), (*chain_before.widths, width)
        )
    summed = math.prod(shape[axis] for axis in product.axes(kernel, "in"))
    return Chain(other_operand.name, tuple(leaf_indices), (summed, width))


def remaining_echo(equation: Any, inputs: list[TrackedValue], output: Any) -> tuple[View, ...]:
    """Returns the echo that a reduction, or an operation that keeps the shape, leaves of its operand."""
    shape = equation.invars[0].aval.shape
    reduced_axes = equation.params.get("axes", ()) if equation.primitive.name in REDUCING else ()
    remaining_shape = tuple(size for axis, size in enumerate(shape) if axis not in reduced_axes)
    if remaining_shape != output.aval.shape:
        return ()
    return tuple(views.squeezed(view, reduced_axes) for view in inputs[0].echo)


def parameter_shares(operand_views: Sequence[View], shape: tuple[int, ...]) -> dict[int, float]:
    """Returns by leaf the fraction of an operand's elements that are the leaf's."""
    share_by_leaf: dict[int, float] = {}
    for view in operand_views:
        covered_fraction = math.prod(map(view.extent, range(len(shape)))) / max(math.prod(shape), 1)
        share = min(covered_fraction, 1.0) if view.exact else 1.0
        share_by_leaf[view.leaf] = max(share, share_by_leaf.get(view.leaf, 0.0))
    return share_by_leaf


def product_echo(
    equation: Any,
    product: Contraction,
    operands: tuple[TrackedValue, TrackedValue],
    shape: tuple[int, ...],
) -> tuple[View, ...]:
    """Returns where in the result of a product the outputs of its kernel lie, and of those before it."""
    # Outputs that are summed over leave nothing: kept, they would be more in each layer.
    if equation.primitive.name == "dot_general":
        operand_views = [
            _views_along(value, (*product.axes(operand, "batch"), *product.axes(operand, "out")))
            for operand, value in enumerate(operands)
        ]
        return product_views(product, operand_views, shape)
    if equation.primitive.name != "conv_general_dilated":
        return ()
    dimension_numbers = equation.params["dimension_numbers"]
    kept_axes: list[list[int | None]] = [[None] * len(shape) for _ in operands]
    kept_axes[0][dimension_numbers.out_spec[0]] = dimension_numbers.lhs_spec[0]
    kept_axes[1][dimension_numbers.out_spec[1]] = dimension_numbers.rhs_spec[0]
    return tuple(
        views.contracted(view, (), kept_axes[operand], shape)
        for operand, value in enumerate(operands)
        for view in _views_along(value, [axis for axis in kept_axes[operand] if axis is not None])
    )


def _views_along(value: TrackedValue, axes: Sequence[int]) -> list[View]:
    """Returns the views of an operand, or its echo, in which one of the axes is a parameter's."""
    operand_views = value.echo if value.active else value.views
    return [view for view in operand_views if view.has_leaf_axes(axes)]


def layered_outputs(
    equation: Any, product: Contraction, operands: tuple[TrackedValue, TrackedValue], kernel: int
) -> set[tuple[int, int]]:
    """Returns (leaf, axis) of outputs of earlier kernels each index of which meets a kernel of its own here.

    Only whole axes of kernels that have other outputs as well, and only where a kernel follows that has
    inputs and outputs: scales, depthwise filters and routers meet each output apart too.
    """
    other_operand = operands[1 - kernel]
    if equation.primitive.name == "conv_general_dilated":
        dimension_numbers = equation.params["dimension_numbers"]
        has_several_inputs = equation.invars[1].aval.shape[dimension_numbers.rhs_spec[1]] > 1
        leading_digits = [
            view.axes[dimension_numbers.rhs_spec[0]][:1] for view in operands[kernel].views
        ]
        group_sizes = [digit.size for digits in leading_digits for digit in digits]
        if product.groups == 1 or not has_several_inputs or product.groups not in group_sizes:
            return set()
        echo_axes = (dimension_numbers.lhs_spec[1],)
        number_of_digits = 1
    else:
        has_whole_kernel = any(view.inner is None for view in operands[kernel].views)
        if not (has_whole_kernel and product.axes(kernel, "in") and product.axes(kernel, "out")):
            return set()
        echo_axes = product.axes(1 - kernel, "batch")
        number_of_digits = None
    output_axes: set[tuple[int, int]] = set()
    for view in other_operand.echo:
        leaf_axes = {digit.axis for axis in view.axes for digit in axis if digit.axis >= 0}
        digits = [digit for axis in echo_axes for digit in view.axes[axis][:number_of_digits]]
        output_axes |= {
            (view.leaf, digit.axis) for digit in digits if view.spans(digit) and len(leaf_axes) > 1
        }
    return output_axes


def summed_outputs(
    equation: Any, product: Contraction, operands: tuple[TrackedValue, TrackedValue]
) -> set[tuple[int, int]]:
    """Returns (leaf, axis) of outputs of earlier kernels that a product sums over, as that of heads does."""
    if equation.primitive.name != "dot_general":
        return set()
    return {
        (view.leaf, digit.axis)
        for operand, value in enumerate(operands)
        for view in value.echo
        for axis in product.axes(operand, "in")
        for digit in view.axes[axis]
        if digit.axis >= 0
    }


def mixed_kernels(
    equation: Any, product: Contraction, operands: tuple[TrackedValue, TrackedValue]
) -> set[int]:
    """Returns the leaves whose outputs, in whole axes, are a kernel here: one that inputs have mixed."""
    if equation.primitive.name != "dot_general":
        return set()
    mixed_leaves: set[int] = set()
    for operand, value in enumerate(operands):
        input_axes = product.axes(operand, "in")
        output_axes = product.axes(operand, "out")
        for view in value.echo if input_axes and output_axes else ():
            digits_by_axis = [view.axes[axis] for axis in (*input_axes, *output_axes)]
            if all(
                len(axis_digits) == 1 and view.spans(axis_digits[0])
                for axis_digits in digits_by_axis
            ):
                mixed_leaves.add(view.leaf)
    return mixed_leaves


def product_views(
    product: Contraction, operands: Sequence[Sequence[View]], shape: tuple[int, ...]
) -> tuple[View, ...]:
    """Returns the views of a matrix product onto the parameters of both operands, as of a low-rank update."""
    batch_axes = [product.axes(operand, "batch") for operand in (0, 1)]
    free_axes = [product.axes(operand, "out") for operand in (0, 1)]
    missing_axes = [(None,) * len(axes) for axes in free_axes]
    kept_axes = [
        (*batch_axes[0], *free_axes[0], *missing_axes[1]),
        (*batch_axes[1], *missing_axes[0], *free_axes[1]),
    ]
    return tuple(
        views.contracted(view, product.axes(operand, "in"), kept_axes[operand], shape)
        for operand, operand_views in enumerate(operands)
        for view in operand_views
    )
