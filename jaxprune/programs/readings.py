"""Statistics that are read off the products of a program while it runs (`programs.evaluation`)."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax

from jaxprune.programs.kernels import Follower
from jaxprune.programs.tracked import Holder, TrackedValue
from jaxprune.programs.uses import Use
from jaxprune.programs.views import View

__all__ = ["Observations", "Product", "Read", "Reading", "Record"]


@dataclasses.dataclass
class Product:
    """A product of a kernel with what depends on the inputs, while the program runs.

    Attributes:
      equation: of the program.
      operand: index of the kernel among the operands.
      operands: holders of the operands' arrays.
      output: the product, or what elementwise operations on it and on parameters (bias, statistics of
        BatchNorm, nonlinearity) have made of it before other activations joined.
      factors: parameters that these have multiplied it by.
      ended: whether something else has been made of the output.
    """

    equation: Any
    operand: int
    operands: tuple[Holder, ...]
    output: jax.Array
    factors: list[TrackedValue] = dataclasses.field(default_factory=list)
    ended: bool = False

    @property
    def other(self) -> Holder:
        """The holder of what the kernel is multiplied with."""
        return self.operands[1 - self.operand]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel as it enters the product."""
        return self.equation.invars[self.operand].aval.shape


class Reading(NamedTuple):
    """How a statistic of a product is computed, and along which axes of the kernel it lies.

    Attributes:
      key: equal for products with the same statistic, which is then computed once.
      layers: axes of the kernel along the first axes of the arrays; an element for each index.
      entries: axes of the kernel along the next axes.
      compute: gives a tree of arrays.
      views: of other parameters, that are to be kept with it.
    """

    key: Hashable
    layers: tuple[int, ...]
    entries: tuple[int, ...]
    compute: Callable[[], Any]
    views: tuple[View, ...] = ()


class Record(NamedTuple):
    """The statistic of one kernel in one product. Picks of views have indices into `Observations.emitted`.

    Attributes:
      use: of the kernel.
      shape: of the kernel as it entered the product.
      statistic: index into `Observations.emitted` of what was read.
      layers: see `Reading`.
      entries: see `Reading`.
      views: see `Reading`.
      lengths: of the loops around the product, the outermost first: the first axes of what was read.
    """

    use: Use
    shape: tuple[int, ...]
    statistic: int
    layers: tuple[int, ...]
    entries: tuple[int, ...]
    views: tuple[View, ...]
    lengths: tuple[int, ...] = ()


class Observations(NamedTuple):
    """The statistics that have been read off a program.

    Attributes:
      records: one per product and kernel.
      emitted: what was read, and the indices that the program computed.
      lost: indices of the leaves that are kernels of products of which nothing could be read.
      follower: what followed them.
    """

    records: list[Record]
    emitted: list[Any]
    lost: set[int]
    follower: Follower


Read = Callable[[Product], Reading | None]
