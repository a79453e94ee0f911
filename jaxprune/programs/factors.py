"""What a product makes of what its operands hold of the parameters."""

import math
from collections.abc import Sequence
from typing import Any

from jaxprune.programs import views
from jaxprune.programs.contractions import Contraction
from jaxprune.programs.primitives import REDUCING
from jaxprune.programs.tracked import Chain, Tracked
from jaxprune.programs.views import View

__all__ = [
    "echo_of",
    "kernel_of",
    "layered",
    "longer",
    "mixed",
    "of_both",
    "rest",
    "shares",
    "summed_outputs",
]


def kernel_of(operands: tuple[Tracked, Tracked], product: Contraction) -> int | None:
    """Which operand is the kernel: parameters meet what depends on inputs; `None` if neither or both."""
    for pure in (
        True,
        False,
    ):  # what inputs have looked up is a kernel only if the other operand is none
        kernels = [
            index
            for index, value in enumerate(operands)
            if value.views and (value.pure if pure else value.looked_up)
        ]
        if len(kernels) == 1 and (pure or operands[1 - kernels[0]].active):
            return kernels[0] if product.roles[kernels[0]] is not None else None
        if kernels:
            return None
    return None


def longer(
    equation: Any, product: Contraction, operands: tuple[Tracked, Tracked], kernel: int
) -> Chain | None:
    """The chain of products that ends with this one."""
    leaves = {view.leaf for view in operands[kernel].views}
    other = operands[1 - kernel]
    if len(leaves) != 1 or other.name is None or equation.primitive.name != "dot_general":
        return None
    shape = equation.invars[kernel].aval.shape
    width = math.prod(shape[axis] for axis in product.axes(kernel, "out"))
    if other.chain is not None:
        before = other.chain
        return Chain(before.root, (*before.leaves, *leaves), (*before.widths, width))
    summed = math.prod(shape[axis] for axis in product.axes(kernel, "in"))
    return Chain(other.name, tuple(leaves), (summed, width))


def rest(equation: Any, inputs: list[Tracked], output: Any) -> tuple[View, ...]:
    """The echo in what a reduction, or what else keeps the shape, leaves of its first operand."""
    shape = equation.invars[0].aval.shape
    gone = equation.params.get("axes", ()) if equation.primitive.name in REDUCING else ()
    left = tuple(size for axis, size in enumerate(shape) if axis not in gone)
    if left != output.aval.shape:
        return ()
    return tuple(views.squeezed(view, gone) for view in inputs[0].echo)


def shares(own: Sequence[View], shape: tuple[int, ...]) -> dict[int, float]:
    """By leaf, how much of an operand is made of it."""
    shares: dict[int, float] = {}
    for view in own:
        covered = math.prod(map(view.extent, range(len(shape)))) / max(math.prod(shape), 1)
        share = min(covered, 1.0) if view.exact else 1.0
        shares[view.leaf] = max(share, shares.get(view.leaf, 0.0))
    return shares


def echo_of(
    equation: Any,
    product: Contraction,
    operands: tuple[Tracked, Tracked],
    shape: tuple[int, ...],
) -> tuple[View, ...]:
    """Where in the result of a product the outputs of its kernel lie, and of those before it."""
    own = [value.echo if value.active else value.views for value in operands]
    if equation.primitive.name == "dot_general":
        return of_both(product, own, shape)
    if equation.primitive.name != "conv_general_dilated":
        return ()
    spec = equation.params["dimension_numbers"]
    kept: list[list[int | None]] = [[None] * len(shape) for _ in operands]
    kept[0][spec.out_spec[0]] = spec.lhs_spec[0]
    kept[1][spec.out_spec[1]] = spec.rhs_spec[0]
    return tuple(
        views.contracted(view, (), kept[operand], shape)
        for operand in (0, 1)
        for view in own[operand]
    )


def layered(
    equation: Any, product: Contraction, operands: tuple[Tracked, Tracked], kernel: int
) -> set[tuple[int, int]]:
    """(leaf, axis) of the outputs of earlier kernels each index of which meets a kernel of its own here.

    Only whole axes of kernels that have other outputs as well, and only where a kernel follows that has
    inputs and outputs: scales, depthwise filters and routers meet each output apart too.
    """
    other = operands[1 - kernel]
    if equation.primitive.name == "conv_general_dilated":
        spec = equation.params["dimension_numbers"]
        several = equation.invars[1].aval.shape[spec.rhs_spec[1]] > 1
        leading = [view.axes[spec.rhs_spec[0]][:1] for view in operands[kernel].views]
        members = [digit.size for own in leading for digit in own]
        if product.groups == 1 or not several or product.groups not in members:
            return set()
        axes, most = (spec.lhs_spec[1],), 1
    else:
        whole = any(view.inner is None for view in operands[kernel].views)
        if not (whole and product.axes(kernel, "in") and product.axes(kernel, "out")):
            return set()
        axes, most = product.axes(1 - kernel, "batch"), None
    found: set[tuple[int, int]] = set()
    for view in other.echo:
        own = {digit.axis for axis in view.axes for digit in axis if digit.axis >= 0}
        digits = [digit for axis in axes for digit in view.axes[axis][:most]]
        found |= {(view.leaf, d.axis) for d in digits if view.spans(d) and len(own) > 1}
    return found


def summed_outputs(
    equation: Any, product: Contraction, operands: tuple[Tracked, Tracked]
) -> set[tuple[int, int]]:
    """(leaf, axis) of the outputs of earlier kernels that a product sums over, as that of heads does."""
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


def mixed(equation: Any, product: Contraction, operands: tuple[Tracked, Tracked]) -> set[int]:
    """Leaves whose outputs, whole axes of them, are a kernel here themselves: kernels mixed by the inputs."""
    if equation.primitive.name != "dot_general":
        return set()
    found: set[int] = set()
    for operand, value in enumerate(operands):
        inputs, outputs = product.axes(operand, "in"), product.axes(operand, "out")
        for view in value.echo if inputs and outputs else ():
            digits = [view.axes[axis] for axis in (*inputs, *outputs)]
            if all(len(own) == 1 and view.spans(own[0]) for own in digits):
                found.add(view.leaf)
    return found


def of_both(
    product: Contraction, operands: Sequence[Sequence[View]], shape: tuple[int, ...]
) -> tuple[View, ...]:
    """What a matrix product holds of both operands: of two parameters, those of a low-rank update."""
    batch = [product.axes(operand, "batch") for operand in (0, 1)]
    free = [product.axes(operand, "out") for operand in (0, 1)]
    nothing = [(None,) * len(own) for own in free]
    kept = [(*batch[0], *free[0], *nothing[1]), (*batch[1], *nothing[0], *free[1])]
    return tuple(
        views.contracted(view, product.axes(operand, "in"), kept[operand], shape)
        for operand, own in enumerate(operands)
        for view in own
    )
