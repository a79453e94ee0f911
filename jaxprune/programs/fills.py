"""Which number a lookup at computed indices gives where an index lies outside of its operand."""

from typing import Any

import numpy as np
from jax.lax import GatherScatterMode

__all__ = ["fill_of_lookup"]


def fill_of_lookup(equation: Any) -> Any:
    """Returns the number that a lookup gives outside of its operand, of the operand's type.

    `None` where there is none: indices are clipped, or promised to lie inside; and where the number is NaN,
    which says that they were promised to.

    Args:
      equation: a `gather`.
    """
    if GatherScatterMode.from_any(equation.params["mode"]) != GatherScatterMode.FILL_OR_DROP:
        return None
    fill = equation.params["fill_value"]
    dtype = equation.outvars[0].aval.dtype
    if fill is None or not isinstance(dtype, np.dtype):
        return None
    number = np.asarray(fill, dtype)[()]
    return None if np.isnan(number) else number
