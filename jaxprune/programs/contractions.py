"""The role of each axis in a matrix product or a convolution, and the number of its multiplications.

One account for all who ask: `jaxprune.axes`, `metrics.flops`, `structured.flops`, signals.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

__all__ = ["Contraction", "Role", "contraction", "multiplications"]

Role = Literal["in", "out", "batch", "window"]


class Contraction(NamedTuple):
    """A product of two operands.

    Attributes:
      roles: per operand, the role of each axis: "in" is summed over, "out" is kept, "batch" is kept and has a
        product of its own at each index, "window" is slid along the other operand. `None` for an operand that
        cannot be a kernel, such as the images of a convolution.
      groups: number of blocks along the channel axes that do not mix, in a grouped convolution; 1 otherwise.
    """

    roles: tuple[tuple[Role, ...] | None, tuple[Role, ...] | None]
    groups: int = 1

    def axes(self, operand: int, role: Role) -> tuple[int, ...]:
        """Returns the axes of one operand that have a role, ascending."""
        return tuple(
            axis for axis, axis_role in enumerate(self.roles[operand] or ()) if axis_role == role
        )


def contraction(equation: Any) -> Contraction | None:
    """Returns the roles of the axes of an equation's first two operands; `None` if it is no product."""
    contraction_reader = _READERS.get(equation.primitive.name)
    return None if contraction_reader is None else contraction_reader(equation)


def multiplications(
    equation: Any, operands: Sequence[tuple[int, ...]], output: tuple[int, ...]
) -> int:
    """Returns the number of multiplications of an equation; 0 if it is no product.

    Args:
      equation: of a program.
      operands: shapes of its operands, which may be smaller than those that it was traced with.
      output: shape of its result.
    """
    contraction_of_equation = contraction(equation)
    if contraction_of_equation is None:
        return 0
    if equation.primitive.name == "conv_general_dilated":
        kernel_shape = operands[1]
        summed_axes = (
            *contraction_of_equation.axes(1, "in"),
            *contraction_of_equation.axes(1, "window"),
        )
        return math.prod(output) * math.prod(kernel_shape[axis] for axis in summed_axes)
    summed_axes = contraction_of_equation.axes(0, "in")
    return math.prod(output) * math.prod(operands[0][axis] for axis in summed_axes)


def _role(axis: int, summed: Iterable[int], batch: Iterable[int]) -> Role:
    return "in" if axis in summed else "batch" if axis in batch else "out"


def _dot_general(equation: Any) -> Contraction:
    summed_axes, batch_axes = equation.params["dimension_numbers"]
    left_roles = _roles(equation.invars[0].aval.ndim, summed_axes[0], batch_axes[0])
    right_roles = _roles(equation.invars[1].aval.ndim, summed_axes[1], batch_axes[1])
    return Contraction((left_roles, right_roles))


def _ragged_dot(equation: Any) -> Contraction:
    """Returns the roles in a product of runs of rows with one matrix per run: the experts of a mixture."""
    dimension_numbers = equation.params.get("ragged_dot_dimension_numbers")
    left_ndim, right_ndim = (equation.invars[operand].aval.ndim for operand in (0, 1))
    if dimension_numbers is None:  # the plain form: [rows, k] x [groups, k, n]
        return Contraction(
            (_roles(left_ndim, [left_ndim - 1], []), _roles(right_ndim, [right_ndim - 2], [0]))
        )
    summed_axes, batch_axes = dimension_numbers.dot_dimension_numbers
    group_axes = (*batch_axes[1], *dimension_numbers.rhs_group_dimensions)
    return Contraction(
        (
            _roles(left_ndim, summed_axes[0], batch_axes[0]),
            _roles(right_ndim, summed_axes[1], group_axes),
        )
    )


def _roles(ndim: int, summed: Iterable[int], batch: Iterable[int]) -> tuple[Role, ...]:
    return tuple(_role(axis, tuple(summed), tuple(batch)) for axis in range(ndim))


def _convolution(equation: Any) -> Contraction:
    params = equation.params
    output_axis, input_axis, *_ = params["dimension_numbers"].rhs_spec
    kernel_roles: list[Role] = ["window"] * equation.invars[1].aval.ndim
    kernel_roles[output_axis] = "out"
    kernel_roles[input_axis] = "in"
    if params["batch_group_count"] > 1:  # only where JAX differentiates grouped convolutions
        return Contraction((None, tuple(kernel_roles)), params["batch_group_count"])
    return Contraction((None, tuple(kernel_roles)), params["feature_group_count"])


_READERS = {
    "dot_general": _dot_general,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
}
