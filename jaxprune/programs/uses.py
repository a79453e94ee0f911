"""Records of what is found in a program: products that a parameter is a factor of, and operations."""

import dataclasses
from collections import Counter
from typing import NamedTuple

from jaxprune.programs.contractions import Role
from jaxprune.programs.views import View

__all__ = ["Operations", "Use"]


class Use(NamedTuple):
    """A product that a parameter is a factor of.

    Attributes:
      view: the factor, as an arrangement of the parameter.
      roles: of the axes of that arrangement.
      groups: of the product (see `contractions`).
      indicator: whether the other factor is a one-hot vector or the like.
      looked_up: whether the inputs have chosen which elements of the parameter these are.
      constant: whether the other factor is a constant, such as the first state of a recurrence.
      operand: index of the factor among the operands of the product.
    """

    view: View
    roles: tuple[Role, ...]
    groups: int
    indicator: bool
    looked_up: bool
    constant: bool
    operand: int


@dataclasses.dataclass
class Operations:
    """Number of operations of products: two for each multiplication and its addition.

    Attributes:
      total: of all products.
      leaves: by index of a leaf, of the products that it is a factor of.
    """

    total: int = 0
    leaves: Counter[int] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Operations", times: int = 1) -> None:
        """Adds the operations of another program that runs `times` times."""
        self.total += times * other.total
        for leaf, count in other.leaves.items():
            self.leaves[leaf] += times * count
