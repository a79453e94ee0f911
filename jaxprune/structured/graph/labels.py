"""Labels on every index of every axis, and what a program says of them.

A program of arrays is followed with one integer label per index of each axis instead of numbers. Two indices
that must live and die together have equal labels; an index that several others make up together (a merged
axis) lives as long as all of its factors do; an index that nothing may remove is pinned.
"""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["AxisLabels", "Labels", "common_refinement"]

AxisLabels = tuple[np.ndarray, ...]  # the labels of a value: one int array per axis


class Labels:
    """Collects labels and the constraints between them; `find_classes` draws the conclusions.

    Attributes:
      count: labels given out.
      equal: pairs of label arrays, equal element by element.
      products: (labels of a merged axis, labels of its factors, the slowest first).
      pinned: arrays of labels that stay.
      reasons: of each of these, why.
      reason: why what is pinned next stays: the primitive that is followed.
      iterations: arrays of labels, one per iteration of a loop, of those that can be left out one by one.
      unknown: primitives without a rule, with how often they were met.
    """

    def __init__(self) -> None:
        self.count = 0
        self.equal: list[tuple[np.ndarray, np.ndarray]] = []
        self.products: list[tuple[np.ndarray, list[np.ndarray]]] = []
        self.pinned: list[np.ndarray] = []
        self.reasons: list[str] = []
        self.reason = ""
        self.iterations: list[np.ndarray] = []
        self.unknown: dict[str, int] = {}

    def fresh(self, size: int, *, pinned: bool = False) -> np.ndarray:
        """Returns new labels for an axis; those of an axis of length 1 are pinned."""
        new_labels = np.arange(self.count, self.count + size)
        self.count += size
        if pinned:
            self.pin(new_labels)
        elif size == 1:
            outer_reason = self.reason
            self.reason = "an axis of length 1"
            self.pin(new_labels)
            self.reason = outer_reason
        return new_labels

    def fresh_many(self, size: int) -> np.ndarray:
        """Returns new labels for a part of an axis; a single one is not pinned."""
        new_labels = np.arange(self.count, self.count + size)
        self.count += size
        return new_labels

    def fresh_like(self, shape: Sequence[int], *, pinned: bool = False) -> AxisLabels:
        """Returns new labels for all axes of a value."""
        return tuple(self.fresh(size, pinned=pinned) for size in shape)

    def pin(self, *axes: np.ndarray) -> None:
        """Records that all indices of these axes stay."""
        self.pinned.extend(axes)
        self.reasons.extend([self.reason] * len(axes))

    def tie(self, axis: np.ndarray, other_axis: np.ndarray) -> None:
        """Records that two axes live and die together, index by index."""
        if axis is not other_axis:
            self.equal.append((axis, other_axis))

    def tie_all(self, axes: Sequence[np.ndarray], other_axes: Sequence[np.ndarray]) -> None:
        """Ties all axes of two values, one by one."""
        for axis, other_axis in zip(axes, other_axes, strict=True):
            self.tie(axis, other_axis)

    def merge(self, product: np.ndarray, factors: Sequence[np.ndarray]) -> None:
        """Records that an axis runs over all combinations of its factors, the last one fastest."""
        long_factors = [factor for factor in factors if len(factor) > 1]
        if len(long_factors) == 1:
            self.tie(product, long_factors[0])
        elif long_factors:
            self.products.append((product, long_factors))


def common_refinement(sizes: Sequence[int], other_sizes: Sequence[int]) -> list[int] | None:
    """Returns the coarsest sizes of which both lists are merges; `None` if there are none.

    >>> common_refinement([6, 4], [2, 12]), common_refinement([6, 4], [4, 6])
    ([2, 3, 4], None)
    """
    cuts = sorted({*_trailing_products(sizes), *_trailing_products(other_sizes)})
    refined_sizes = []
    for inner_cut, outer_cut in zip([1, *cuts], cuts, strict=False):
        if outer_cut % inner_cut:
            return None
        refined_sizes.append(outer_cut // inner_cut)
    return refined_sizes[::-1]


def _trailing_products(sizes: Sequence[int]) -> list[int]:
    """Returns, per axis, how many elements it has together with all axes after it."""
    return [math.prod(sizes[i:]) for i in range(len(sizes))]
