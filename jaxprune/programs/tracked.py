"""Values of a program, each with the views of parameters that it holds."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprune.programs import constants
from jaxprune.programs.views import View

__all__ = ["Chain", "Holder", "TrackedValue", "as_tracked", "hold_same_elements", "union_of_views"]


class Holder:
    """An array while the program runs, told from others by identity: tracers are neither compared nor hashed.

    Attributes:
      array: of any kind.
      product: index of the product that elementwise operations have made it of; `None` if there is none.
    """

    __slots__ = ("array", "product")

    def __init__(self, array: Any, product: int | None = None) -> None:
        self.array = array
        self.product = product


class Chain(NamedTuple):
    """Products one after the other, with nothing but factors and sums with parameters between them.

    Attributes:
      root: name of the value that the first of them multiplies.
      leaves: indices of their kernels.
      widths: number of terms that each sums over, then the number of outputs of the last, per example.
    """

    root: int
    leaves: tuple[int, ...]
    widths: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TrackedValue:
    """A value of the program.

    Attributes:
      views: the parameters that it is made of, element by element.
      active: whether it depends on the inputs.
      looked_up: whether inputs decide only which elements of a parameter it has, as an embedding's.
      indicator: whether it is made of comparisons for equality, as a one-hot vector is.
      echo: of a value that depends on the inputs, along which of its axes the outputs of kernels lie.
      fact: what is known of it before the program runs.
      name: tells apart values that depend on the inputs; rearrangements of one value share its name.
      chain: the products that it is the end of.
      value: holds the array, while the program runs.
    """

    views: tuple[View, ...] = ()
    active: bool = False
    looked_up: bool = False
    indicator: bool = False
    echo: tuple[View, ...] = ()
    fact: constants.Fact = constants.UNKNOWN
    name: int | None = None
    chain: Chain | None = None
    value: Holder | None = None

    @property
    def pure(self) -> bool:
        """Whether it holds elements of parameters and does not depend on the inputs."""
        return bool(self.views) and not self.active


def as_tracked(value: Any, atom: Any) -> TrackedValue:
    """Returns the followed value itself, or one for a constant of the program."""
    if isinstance(value, TrackedValue):
        return value
    return TrackedValue(fact=constants.fact_of_constant(value, atom.aval), value=Holder(value))


def hold_same_elements(a: TrackedValue, b: TrackedValue) -> bool:
    """Whether two values have the same views, and depend on the inputs in the same way."""
    return (a.active, a.looked_up, a.views) == (b.active, b.looked_up, b.views)


def union_of_views(values: Sequence[TrackedValue]) -> tuple[View, ...]:
    """Returns the views of several values, each once."""
    return tuple(dict.fromkeys(view for value in values for view in value.views))
