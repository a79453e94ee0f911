"""What the labels of a program come down to: the units that live and die together."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from jaxprune.structured.labels import Labels, refined

__all__ = ["CONFLICT", "Solution", "solve"]

CONFLICT = "reshapes that do not fit together"
_LOOP = "iterations of a loop that are part of a larger axis"


class Solution(NamedTuple):
    """Classes of labels that are equal.

    Attributes:
      of: label -> class.
      classes: how many there are.
      whole, factors: rows (class of a merged index, class of one of its factors).
      roles: per class, a number that tells apart in which places of which merges it is a factor.
      pinned: per class, whether it stays.
      turns: per class, whether it is a turn of a loop, and can be left out.
      conflicts: merges of one axis that do not fit together; what they touch is pinned.
      clashing: per class, whether it stays because of such a conflict.
      reason: per class that stays, index of why among `reasons`; -1: it does not.
      reasons: why something stays.
    """

    of: np.ndarray
    classes: int
    whole: np.ndarray
    factors: np.ndarray
    roles: np.ndarray
    pinned: np.ndarray
    turns: np.ndarray
    conflicts: int
    clashing: np.ndarray
    reason: np.ndarray
    reasons: tuple[str, ...]

    @property
    def merged(self) -> np.ndarray:
        """Per class, whether it is made up of others."""
        found = np.zeros(self.classes, bool)
        found[self.whole] = True
        return found

    def kept(self, removed: np.ndarray) -> np.ndarray:
        """Per class, whether it lives when some classes are removed: a merged one needs all its factors."""
        alive = ~removed
        while True:
            gone = self.whole[~alive[self.factors] & alive[self.whole]]
            if not len(gone):
                return alive
            alive[gone] = False

    def parts(self, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The unmerged classes that some classes are made of: rows (position, class)."""
        order = np.argsort(self.whole, kind="stable")
        whole, factors = self.whole[order], self.factors[order]
        merged = self.merged
        at, current = np.arange(len(classes)), np.asarray(classes)
        done: list[tuple[np.ndarray, np.ndarray]] = []
        while len(current):
            more = merged[current]
            done.append((at[~more], current[~more]))
            at, current = at[more], current[more]
            first = np.searchsorted(whole, current, side="left")
            many = np.searchsorted(whole, current, side="right") - first
            offsets = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
            at, current = np.repeat(at, many), factors[np.repeat(first, many) + offsets]
        position, unit = (np.concatenate(x) for x in zip(*done, strict=True))
        if len(done) == 1:  # nothing was merged
            return position, unit
        pairs = np.sort(position.astype(np.int64) * self.classes + unit)  # np.unique hashes: slower
        pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
        return pairs // self.classes, pairs % self.classes


def solve(labels: Labels) -> Solution:
    """Finds the classes: equal labels, and factors of equal merges."""
    conflicts = 0
    while True:  # each round ties or refines something, and there is an end to both
        of, classes = _components(labels)
        left, right = _congruent(labels, of)
        refined_any, clashes = _refinements(labels, of)
        conflicts += clashes
        if len(left):
            labels.equal.append((left, right))
        elif not refined_any:
            break
    whole, factors = _rows(labels, of)
    reasons = tuple(dict.fromkeys([*labels.reasons, CONFLICT, _LOOP]))
    index = {why: i for i, why in enumerate(reasons)}
    reason = np.full(classes, -1)
    for own, why in zip(labels.pinned[::-1], labels.reasons[::-1], strict=True):
        reason[of[own]] = index[why]  # the first that was told is the last to be written
    clashes, roles = _places(labels, of, classes)
    reason[clashes] = index[CONFLICT]
    pinned = reason >= 0
    turns = np.zeros(classes, bool)
    turns[of[np.concatenate([np.zeros(0, int), *labels.turns])]] = True
    loops = whole[turns[whole] & ~pinned[whole]]
    pinned[loops] = True  # a turn goes as it is, or stays
    reason[loops] = index[_LOOP]
    conflicts += len(clashes)
    while True:  # what a pinned merge is made of stays as well
        down = pinned[whole] & ~pinned[factors]
        if not down.any():
            break
        pinned[factors[down]] = True
        reason[factors[down]] = reason[whole[down]]
    clashing = reason == index[CONFLICT]
    return Solution(
        of,
        classes,
        whole,
        factors,
        roles,
        pinned,
        turns & ~pinned,
        conflicts,
        clashing,
        reason,
        reasons,
    )


def _components(labels: Labels) -> tuple[np.ndarray, int]:
    a = np.concatenate([np.zeros(0, int), *(x for x, _ in labels.equal)])
    b = np.concatenate([np.zeros(0, int), *(y for _, y in labels.equal)])
    edges = coo_matrix((np.ones(len(a), bool), (a, b)), shape=(labels.count, labels.count))
    count, of = connected_components(edges, directed=False)
    return of, count


def _indices(sizes: list[int]) -> np.ndarray:
    """Of a merge, which index of each factor an entry has: [factors, entries]."""
    return np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes))


def _rows(labels: Labels, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(class of a merged index, class of a factor) for all merges."""
    wholes, factors = [np.zeros(0, int)], [np.zeros(0, int)]
    for whole, parts in labels.products:
        at = _indices([len(p) for p in parts])
        for part, index in zip(parts, at, strict=True):
            wholes.append(of[whole])
            factors.append(of[part[index]])
    pairs = np.unique(np.stack([np.concatenate(wholes), np.concatenate(factors)], 1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _congruent(labels: Labels, of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors that must be equal since their merges are: same class, same sizes."""
    by_sizes: dict[tuple[int, ...], list[tuple[np.ndarray, np.ndarray]]] = {}
    for whole, parts in labels.products:
        sizes = tuple(len(p) for p in parts)
        at = _indices(list(sizes))
        rows = np.stack([part[index] for part, index in zip(parts, at, strict=True)])
        by_sizes.setdefault(sizes, []).append((whole, rows))
    left, right = [np.zeros(0, int)], [np.zeros(0, int)]
    for entries in by_sizes.values():
        merged = of[np.concatenate([whole for whole, _ in entries])]
        rows = np.concatenate([rows for _, rows in entries], axis=1)
        order = np.argsort(merged, kind="stable")
        same = merged[order][1:] == merged[order][:-1]
        a, b = rows[:, order[:-1][same]].ravel(), rows[:, order[1:][same]].ravel()
        differ = of[a] != of[b]
        left.append(a[differ])
        right.append(b[differ])
    return np.concatenate(left), np.concatenate(right)


def _places(labels: Labels, of: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that are merged of different factors in different places; and the roles of all."""
    rng = np.random.default_rng(0)
    marks = rng.integers(1, 2**63, size=classes, dtype=np.uint64)
    prints, roles = np.zeros(classes, np.uint64), np.zeros(classes, np.uint64)
    clashing = np.zeros(classes, bool)
    for whole, parts in labels.products:
        at = _indices([len(p) for p in parts])
        own = np.zeros(len(whole), np.uint64)
        for part, index in zip(parts, at, strict=True):
            own += marks[of[part[index]]]
            there = np.unique(of[part])
            roles[there] += rng.integers(1, 2**63, dtype=np.uint64)
        before = prints[of[whole]]
        clashing[of[whole][(before != 0) & (before != own)]] = True
        prints[of[whole]] = own
    return np.flatnonzero(clashing), roles


def _refinements(labels: Labels, of: np.ndarray) -> tuple[bool, int]:
    """Cuts different merges of one axis into their common factors; pins where there are none."""
    first: dict[tuple[int, int, int], int] = {}
    found, conflicts, dropped = False, 0, set()
    changed: set[int] = set()
    for number, (whole, parts) in enumerate(list(labels.products)):
        classes = of[whole]
        key = (len(whole), int(classes[0]), int(classes[-1]))
        other = first.setdefault(key, number)
        if other == number or other in changed:
            continue
        before, theirs = labels.products[other]
        sizes, others = [len(p) for p in parts], [len(p) for p in theirs]
        if others == sizes or not np.array_equal(of[before], classes):
            continue
        found, fine = True, refined(others, sizes)
        changed |= {number, other}
        if fine is None:
            labels.reason = CONFLICT
            labels.pin(whole, *parts, *theirs)
            dropped.add(number)
            conflicts += 1
            continue
        axes = [labels.fresh(n) for n in fine]
        for at, factors in ((other, theirs), (number, parts)):
            left = list(axes)
            for factor in factors:
                own = [left.pop(0)]
                while np.prod([len(x) for x in own]) < len(factor):
                    own.append(left.pop(0))
                labels.merge(factor, own)
            labels.products[at] = (labels.products[at][0], axes)
    labels.products = [p for i, p in enumerate(labels.products) if i not in dropped]
    return found, conflicts
