"""What a matrix product or a convolution does with each axis of its operands, and what that costs.

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
      roles: of the axes of each operand: "in" is summed over, "out" is kept, "batch" is kept and has a
        product of its own at each index, "window" is slid along the other operand. `None`: of an operand that
        is no kernel of this product, whatever it is.
      groups: blocks along the channel axes that do not mix, of a grouped convolution or product; 1 otherwise.
    """

    roles: tuple[tuple[Role, ...] | None, tuple[Role, ...] | None]
    groups: int = 1

    def axes(self, operand: int, role: Role) -> tuple[int, ...]:
        """The axes of one operand that have a role, ascending."""
        return tuple(axis for axis, own in enumerate(self.roles[operand] or ()) if own == role)


def contraction(equation: Any) -> Contraction | None:
    """What an equation does with the axes of its first two operands; `None` if it is no product."""
    reader = _READERS.get(equation.primitive.name)
    return None if reader is None else reader(equation)


def multiplications(
    equation: Any, operands: Sequence[tuple[int, ...]], output: tuple[int, ...]
) -> int:
    """How many numbers an equation multiplies; 0 if it is no product.

    Args:
      equation: of a program.
      operands: shapes of its operands, which may be smaller than those that it was traced with.
      output: shape of its result.
    """
    product = contraction(equation)
    if product is None:
        return 0
    if equation.primitive.name == "conv_general_dilated":
        kernel = operands[1]
        summed = (*product.axes(1, "in"), *product.axes(1, "window"))
        return math.prod(output) * math.prod(kernel[axis] for axis in summed)
    summed = product.axes(0, "in")
    return math.prod(output) * math.prod(operands[0][axis] for axis in summed)


def _role(axis: int, summed: Iterable[int], batch: Iterable[int]) -> Role:
    return "in" if axis in summed else "batch" if axis in batch else "out"


def _dot_general(equation: Any) -> Contraction:
    summed, batch = equation.params["dimension_numbers"]
    left = _roles(equation.invars[0].aval.ndim, summed[0], batch[0])
    right = _roles(equation.invars[1].aval.ndim, summed[1], batch[1])
    return Contraction((left, right))


def _ragged_dot(equation: Any) -> Contraction:
    """Rows of the left operand, in runs, times one matrix per run: the experts of a mixture."""
    numbers = equation.params.get("ragged_dot_dimension_numbers")
    left, right = (equation.invars[i].aval.ndim for i in (0, 1))
    if numbers is None:  # the plain form: [rows, k] x [groups, k, n]
        return Contraction((_roles(left, [left - 1], []), _roles(right, [right - 2], [0])))
    summed, batch = numbers.dot_dimension_numbers
    groups = (*batch[1], *numbers.rhs_group_dimensions)
    return Contraction((_roles(left, summed[0], batch[0]), _roles(right, summed[1], groups)))


def _roles(ndim: int, summed: Iterable[int], batch: Iterable[int]) -> tuple[Role, ...]:
    return tuple(_role(axis, tuple(summed), tuple(batch)) for axis in range(ndim))


def _convolution(equation: Any) -> Contraction:
    params = equation.params
    out, entering, *_ = params["dimension_numbers"].rhs_spec
    kernel: list[Role] = ["window"] * equation.invars[1].aval.ndim
    kernel[out] = "out"
    kernel[entering] = "in"
    if params["batch_group_count"] > 1:  # only where JAX differentiates grouped convolutions
        return Contraction((None, tuple(kernel)), params["batch_group_count"])
    return Contraction((None, tuple(kernel)), params["feature_group_count"])


_READERS = {
    "dot_general": _dot_general,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
}
