"""In which order a reshape reads the axes of its operand: it may transpose them on the way."""

from typing import Any

__all__ = ["axes_as_read", "transposes"]


def axes_as_read(equation: Any) -> tuple[int, ...]:
    """Returns the axes of a reshape's operand, the slowest first, in the order in which it reads them.

    NumPy's order "F", and `jax.vmap` of a convolution over kernels, make reshapes that transpose.

    Args:
      equation: a `reshape`.
    """
    order = equation.params["dimensions"]
    return tuple(range(len(equation.invars[0].aval.shape))) if order is None else tuple(order)


def transposes(equation: Any) -> bool:
    """Returns whether a reshape reads the axes of its operand in another order than they stand."""
    return axes_as_read(equation) != tuple(range(len(equation.invars[0].aval.shape)))
