"""Axes of the parameters that products sum over: along them a kernel reads units that others have made."""

from collections.abc import Sequence
from typing import Any

from jaxprune.programs.digits import REPEATED
from jaxprune.programs.kernels import follow_program

__all__ = ["summed_axes"]


def summed_axes(program: Any, shapes: Sequence[tuple[int, ...]]) -> set[tuple[int, int]]:
    """Returns the (leaf index, axis) pairs of the parameters' axes that products with activations sum over.

    Args:
      program: whose first inputs are the parameters.
      shapes: of the parameters.
    """
    summed: set[tuple[int, int]] = set()
    for use in follow_program(program, shapes).uses:
        roles_and_axes = [
            (role, digit.axis)
            for role, digits in zip(use.roles, use.view.axes, strict=True)
            for digit in digits
            if digit.axis != REPEATED
        ]
        own_axes = {axis for role, axis in roles_and_axes if role == "in"}
        if not own_axes:  # the second of two factors reads the first
            own_axes = set(use.view.inner or ())
        summed |= {(use.view.leaf, axis) for axis in own_axes}
    return summed
