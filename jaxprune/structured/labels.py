"""Labels on every index of every axis, and what a program says of them.

A program of arrays is followed with one integer per index of each axis instead of numbers. Two indices that
must live and die together have equal labels; an index that several others make up together (a merged axis)
lives as long as all of its factors do; an index that nothing may remove is pinned.
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["Axes", "Labels", "refined"]

Axes = tuple[np.ndarray, ...]  # the labels of a value: one int array per axis


class Labels:
    """Collects labels and what is known of them; `solve` says what follows.

    Attributes:
      count: labels given out.
      equal: pairs of arrays of labels, equal one by one.
      products: (labels of a merged axis, labels of its factors, the slowest first).
      pinned: arrays of labels that stay.
      reasons: of each of these, why.
      reason: why what is pinned next stays: the primitive that is followed.
      turns: arrays of labels that number the turns of loops which can be left out one by one.
      unknown: primitives without a rule, with how often they were met.
    """

    def __init__(self) -> None:
        self.count = 0
        self.equal: list[tuple[np.ndarray, np.ndarray]] = []
        self.products: list[tuple[np.ndarray, list[np.ndarray]]] = []
        self.pinned: list[np.ndarray] = []
        self.reasons: list[str] = []
        self.reason = ""
        self.turns: list[np.ndarray] = []
        self.unknown: dict[str, int] = {}

    def fresh(self, size: int, *, pinned: bool = False) -> np.ndarray:
        """New labels for an axis; one of length 1 stays."""
        found = np.arange(self.count, self.count + size)
        self.count += size
        if pinned:
            self.pin(found)
        elif size == 1:
            before, self.reason = self.reason, "an axis of length 1"
            self.pin(found)
            self.reason = before
        return found

    def fresh_many(self, size: int) -> np.ndarray:
        """New labels that are part of an axis: one alone is none that stays."""
        found = np.arange(self.count, self.count + size)
        self.count += size
        return found

    def fresh_like(self, shape: Sequence[int], *, pinned: bool = False) -> Axes:
        """New labels for a value."""
        return tuple(self.fresh(n, pinned=pinned) for n in shape)

    def pin(self, *axes: np.ndarray) -> None:
        """What these axes index stays."""
        self.pinned.extend(axes)
        self.reasons.extend([self.reason] * len(axes))

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Index by index, both live or both die."""
        if a is not b:
            self.equal.append((a, b))

    def tie_all(self, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> None:
        """The same for all axes of two values."""
        for x, y in zip(a, b, strict=True):
            self.tie(x, y)

    def merge(self, whole: np.ndarray, factors: Sequence[np.ndarray]) -> None:
        """An axis that runs over all combinations of its factors, the last one fastest."""
        factors = [f for f in factors if len(f) > 1]
        if len(factors) == 1:
            self.tie(whole, factors[0])
        elif factors:
            self.products.append((whole, factors))


def refined(a: Sequence[int], b: Sequence[int]) -> list[int] | None:
    """The coarsest sizes of which both lists are merges; `None` if there are none.

    >>> refined([6, 4], [2, 12]), refined([6, 4], [4, 6])
    ([2, 3, 4], None)
    """
    cuts = sorted({*_from_the_right(a), *_from_the_right(b)})
    sizes = []
    for before, after in zip([1, *cuts], cuts, strict=False):
        if after % before:
            return None
        sizes.append(after // before)
    return sizes[::-1]


def _from_the_right(sizes: Sequence[int]) -> list[int]:
    return [math.prod(sizes[i:]) for i in range(len(sizes))]
