"""Values of a program, each with what it holds of the parameters."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxprune.programs import constants
from jaxprune.programs.views import View

__all__ = ["Chain", "Held", "Tracked", "alike", "tracked", "union"]


class Held:
    """An array while the program runs, told from others by identity: tracers are neither compared nor hashed.

    Attributes:
      array: of any kind.
      product: index of the product that it is an elementwise consequence of, for who follows those.
    """

    __slots__ = ("array", "product")

    def __init__(self, array: Any, product: int | None = None) -> None:
        self.array = array
        self.product = product


class Chain(NamedTuple):
    """Products one after the other, with nothing but factors and sums with parameters between them.

    Attributes:
      root: what the first of them multiplies.
      leaves: indices of their kernels.
      widths: how many numbers each sums over, and the number that the last gives, per example.
    """

    root: int
    leaves: tuple[int, ...]
    widths: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A value of the program.

    Attributes:
      views: the parameters of which it is made element by element.
      active: whether it depends on the inputs.
      looked_up: whether it depends on them only as to which elements of a parameter it has.
      indicator: whether it is made of comparisons for equality, as a one-hot vector is.
      echo: of what depends on the inputs, along which of its axes the outputs of kernels lie.
      fact: what is known of it before the program runs.
      name: tells apart values that depend on the inputs; what only looks different has the same.
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
    value: Held | None = None

    @property
    def pure(self) -> bool:
        """Whether parameters alone decide it, and it holds their elements."""
        return bool(self.views) and not self.active


def tracked(value: Any, atom: Any) -> Tracked:
    """A followed value, or a constant of the program."""
    if isinstance(value, Tracked):
        return value
    return Tracked(fact=constants.constant(value, atom.aval), value=Held(value))


def alike(a: Tracked, b: Tracked) -> bool:
    """Whether two values hold the same, and depend on the inputs alike."""
    return (a.active, a.looked_up, a.views) == (b.active, b.looked_up, b.views)


def union(values: Sequence[Tracked]) -> tuple[View, ...]:
    """The views of several values, each once."""
    return tuple(dict.fromkeys(view for value in values for view in value.views))
