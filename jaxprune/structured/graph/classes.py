"""Equivalence classes of a program's labels: the units that live and die together."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from jaxprune.structured.graph.labels import Labels, common_refinement

__all__ = ["CONFLICT", "EquivalenceClasses", "find_classes"]

CONFLICT = "reshapes that do not fit together"
_LOOP = "iterations of a loop that are part of a larger axis"


class EquivalenceClasses(NamedTuple):
    """Classes of labels that are equal.

    A product class stands for an index of a merged axis; its factor classes for the indices, one of each
    factor of the axis, that make it up.

    Attributes:
      class_of: label -> class.
      class_count: how many classes there are.
      product_class, factor_class: rows (class of a merged index, class of one of its factors).
      factor_position: a hash per class of the (merge, position among its factors) pairs in which it occurs.
      pinned: boolean per class: it stays.
      iterations: boolean per class: it is an iteration of a loop, and can be left out.
      conflict_count: merges of one axis that do not fit together; what they touch is pinned.
      clashing: boolean per class: it stays because of such a conflict.
      reason_index: per class that stays, index of why among `reasons`; -1: it does not.
      reasons: why something stays.
    """

    class_of: np.ndarray
    class_count: int
    product_class: np.ndarray
    factor_class: np.ndarray
    factor_position: np.ndarray
    pinned: np.ndarray
    iterations: np.ndarray
    conflict_count: int
    clashing: np.ndarray
    reason_index: np.ndarray
    reasons: tuple[str, ...]

    @property
    def is_product(self) -> np.ndarray:
        """Boolean per class: it is made up of others."""
        is_product = np.zeros(self.class_count, bool)
        is_product[self.product_class] = True
        return is_product

    def kept(self, removed: np.ndarray) -> np.ndarray:
        """Boolean per class: it is left when some classes are removed; a product needs all its factors."""
        alive = ~removed
        while True:
            dying = self.product_class[~alive[self.factor_class] & alive[self.product_class]]
            if not len(dying):
                return alive
            alive[dying] = False

    def base_classes(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the classes without factors of which some classes are made.

        Args:
          classes: any classes, products or not.

        Returns:
          Rows (position in `classes`, base class); a class that is no product has itself.
        """
        order = np.argsort(self.product_class, kind="stable")
        product_class = self.product_class[order]
        factor_class = self.factor_class[order]
        is_product = self.is_product
        positions = np.arange(len(classes))
        open_classes = np.asarray(classes)
        done: list[tuple[np.ndarray, np.ndarray]] = []
        while len(open_classes):  # each round replaces the products by their factors
            open_mask = is_product[open_classes]
            done.append((positions[~open_mask], open_classes[~open_mask]))
            positions = positions[open_mask]
            open_classes = open_classes[open_mask]
            first_row = np.searchsorted(product_class, open_classes, side="left")
            factor_count = np.searchsorted(product_class, open_classes, side="right") - first_row
            row_offsets = np.arange(factor_count.sum()) - np.repeat(
                np.cumsum(factor_count) - factor_count, factor_count
            )
            positions = np.repeat(positions, factor_count)
            open_classes = factor_class[np.repeat(first_row, factor_count) + row_offsets]
        position, base_class = (np.concatenate(column) for column in zip(*done, strict=True))
        if len(done) == 1:  # none was a product
            return position, base_class
        # Each row once; `np.unique` hashes, which is slower.
        row_codes = np.sort(position.astype(np.int64) * self.class_count + base_class)
        row_codes = row_codes[np.append(True, row_codes[1:] != row_codes[:-1])]
        return row_codes // self.class_count, row_codes % self.class_count


def find_classes(labels: Labels) -> EquivalenceClasses:
    """Returns the equivalence classes of labels: ties make them equal, and so do equal merges.

    Args:
      labels: with all constraints of a program; ties and refinements that follow are added to it.
    """
    conflict_count = 0
    while True:  # each round ties or refines something, and there is an end to both
        class_of, class_count = _connected_classes(labels)
        left_factors, right_factors = _congruent_factors(labels, class_of)
        refined_any, new_conflict_count = _refine_merges(labels, class_of)
        conflict_count += new_conflict_count
        if len(left_factors):
            labels.equal.append((left_factors, right_factors))
        elif not refined_any:
            break
    product_class, factor_class = _product_rows(labels, class_of)
    reasons = tuple(dict.fromkeys([*labels.reasons, CONFLICT, _LOOP]))
    index_of_reason = {reason: i for i, reason in enumerate(reasons)}
    reason_index = np.full(class_count, -1)
    for pinned_labels, reason in zip(labels.pinned[::-1], labels.reasons[::-1], strict=True):
        # The reason that was told first is the last to be written.
        reason_index[class_of[pinned_labels]] = index_of_reason[reason]
    ambiguous_classes, factor_position = _factor_positions(labels, class_of, class_count)
    reason_index[ambiguous_classes] = index_of_reason[CONFLICT]
    pinned = reason_index >= 0
    iterations = np.zeros(class_count, bool)
    iterations[class_of[np.concatenate([np.zeros(0, int), *labels.iterations])]] = True
    merged_iterations = product_class[iterations[product_class] & ~pinned[product_class]]
    pinned[merged_iterations] = True  # an iteration can be removed as it is, or not at all
    reason_index[merged_iterations] = index_of_reason[_LOOP]
    conflict_count += len(ambiguous_classes)
    while True:  # the factors of a pinned product stay as well
        inherits = pinned[product_class] & ~pinned[factor_class]
        if not inherits.any():
            break
        pinned[factor_class[inherits]] = True
        reason_index[factor_class[inherits]] = reason_index[product_class[inherits]]
    return EquivalenceClasses(
        class_of=class_of,
        class_count=class_count,
        product_class=product_class,
        factor_class=factor_class,
        factor_position=factor_position,
        pinned=pinned,
        iterations=iterations & ~pinned,
        conflict_count=conflict_count,
        clashing=reason_index == index_of_reason[CONFLICT],
        reason_index=reason_index,
        reasons=reasons,
    )


def _connected_classes(labels: Labels) -> tuple[np.ndarray, int]:
    """Returns label -> class, and the number of classes, where ties alone count (union-find)."""
    left_labels = np.concatenate([np.zeros(0, int), *(left for left, _ in labels.equal)])
    right_labels = np.concatenate([np.zeros(0, int), *(right for _, right in labels.equal)])
    edges = coo_matrix(
        (np.ones(len(left_labels), bool), (left_labels, right_labels)),
        shape=(labels.count, labels.count),
    )
    class_count, class_of = connected_components(edges, directed=False)
    return class_of, class_count


def _factor_indices(sizes: list[int]) -> np.ndarray:
    """Returns the index in each factor of each element of a merged axis: [factors, elements]."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes))


def _product_rows(labels: Labels, class_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows (class of a merged index, class of a factor) of all merges, each once."""
    product_classes = [np.zeros(0, int)]
    factor_classes = [np.zeros(0, int)]
    for product, factors in labels.products:
        indices = _factor_indices([len(factor) for factor in factors])
        for factor, index in zip(factors, indices, strict=True):
            product_classes.append(class_of[product])
            factor_classes.append(class_of[factor[index]])
    rows = np.unique(
        np.stack([np.concatenate(product_classes), np.concatenate(factor_classes)], 1), axis=0
    )
    return rows[:, 0], rows[:, 1]


def _congruent_factors(labels: Labels, class_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns pairs of labels of factors that must be equal since their merges are: same class and sizes."""
    merges_by_sizes: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for product, factors in labels.products:
        sizes = tuple(len(factor) for factor in factors)
        indices = _factor_indices(list(sizes))
        factor_labels = np.stack(
            [factor[index] for factor, index in zip(factors, indices, strict=True)]
        )
        merges_by_sizes.setdefault(sizes, []).append((product, factor_labels))
    left_factors = [np.zeros(0, int)]
    right_factors = [np.zeros(0, int)]
    for merges in merges_by_sizes.values():
        product_class = class_of[np.concatenate([product for product, _ in merges])]
        factor_labels = np.concatenate([factor_labels for _, factor_labels in merges], axis=1)
        order = np.argsort(product_class, kind="stable")  # equal products stand side by side
        same_product = product_class[order][1:] == product_class[order][:-1]
        left = factor_labels[:, order[:-1][same_product]].ravel()
        right = factor_labels[:, order[1:][same_product]].ravel()
        differs = class_of[left] != class_of[right]
        left_factors.append(left[differs])
        right_factors.append(right[differs])
    return np.concatenate(left_factors), np.concatenate(right_factors)


def _factor_positions(
    labels: Labels, class_of: np.ndarray, class_count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the classes that are products of different factors in different merges, and positions.

    Returns:
      The ambiguous classes; and per class a hash of the (merge, position among its factors) pairs in which
      it occurs. Both compare sets of things by the sum of one random number for each.
    """
    rng = np.random.default_rng(0)
    class_marks = rng.integers(1, 2**63, size=class_count, dtype=np.uint64)
    factor_hash = np.zeros(class_count, np.uint64)
    factor_position = np.zeros(class_count, np.uint64)
    is_ambiguous = np.zeros(class_count, bool)
    for product, factors in labels.products:
        indices = _factor_indices([len(factor) for factor in factors])
        merge_hash = np.zeros(len(product), np.uint64)
        for factor, index in zip(factors, indices, strict=True):
            merge_hash += class_marks[class_of[factor[index]]]
            occurring_classes = np.unique(class_of[factor])
            factor_position[occurring_classes] += rng.integers(1, 2**63, dtype=np.uint64)
        earlier_hash = factor_hash[class_of[product]]
        differs = (earlier_hash != 0) & (earlier_hash != merge_hash)
        is_ambiguous[class_of[product][differs]] = True
        factor_hash[class_of[product]] = merge_hash
    return np.flatnonzero(is_ambiguous), factor_position


def _refine_merges(labels: Labels, class_of: np.ndarray) -> tuple[bool, int]:
    """Cuts different merges of one axis into their common factors; pins where there are none.

    Returns:
      Whether a merge was changed; and the number of conflicts, pairs of merges without common factors.
    """
    first_merge: dict[tuple[int, int, int], int] = {}
    refined_any = False
    conflict_count = 0
    dropped: set[int] = set()
    changed: set[int] = set()
    for merge_index, (product, factors) in enumerate(list(labels.products)):
        product_class = class_of[product]
        key = (len(product), int(product_class[0]), int(product_class[-1]))
        other_index = first_merge.setdefault(key, merge_index)
        if other_index == merge_index or other_index in changed:
            continue
        other_product, other_factors = labels.products[other_index]
        sizes = [len(factor) for factor in factors]
        other_sizes = [len(factor) for factor in other_factors]
        if other_sizes == sizes or not np.array_equal(class_of[other_product], product_class):
            continue
        refined_any = True
        refined_sizes = common_refinement(other_sizes, sizes)
        changed |= {merge_index, other_index}
        if refined_sizes is None:
            labels.reason = CONFLICT
            labels.pin(product, *factors, *other_factors)
            dropped.add(merge_index)
            conflict_count += 1
            continue
        axes = [labels.fresh(size) for size in refined_sizes]
        for index, old_factors in ((other_index, other_factors), (merge_index, factors)):
            open_axes = list(axes)
            for factor in old_factors:
                new_factors = [open_axes.pop(0)]
                while np.prod([len(axis) for axis in new_factors]) < len(factor):
                    new_factors.append(open_axes.pop(0))
                labels.merge(factor, new_factors)
            labels.products[index] = (labels.products[index][0], axes)
    labels.products = [merge for i, merge in enumerate(labels.products) if i not in dropped]
    return refined_any, conflict_count
