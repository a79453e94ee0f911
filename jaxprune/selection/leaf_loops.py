"""Loops over equal leaves: one body for all of them, into which each leaf is fetched.

XLA works on each call of a function by itself before it finds that some are equal: a pass over hundreds of
leaves took seconds to compile. In a loop nothing is written for each leaf but a branch of a conditional that
fetches its arrays. That copies one leaf at a time, so that a pass over leaves of 4 MB takes up to 1.4 times
as long (over 256 KB, as long as before); so a few leaves of a kind are visited one by one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array, lax

from jaxprune.selection.shared_kernels import stays_called, unseen

__all__ = ["Leaf", "fold_leaves"]

# Leaves of a kind, up to which they are visited one by one: a copy of one of more is below 5 % of them.
_FEW_LEAVES = 20
_MOST_BRANCHES = 64  # of a loop: each is traced with the arrays of all

Visit = Callable[[Any, tuple[Array, ...], tuple[Any, ...], Any], Any]


class Leaf(NamedTuple):
    """One of the leaves that are visited.

    Attributes:
      kind: hashable; the arrays of leaves of one kind have the same types.
      numbers: what differs between them, none of them negative.
      arrays: that are read.
    """

    kind: Any
    numbers: tuple[int, ...]
    arrays: tuple[Any, ...]


def fold_leaves(visit: Visit, carry: Any, leaves: Sequence[Leaf]) -> Any:
    """Returns what is carried from leaf to leaf, kind by kind.

    Args:
      visit: (carry, numbers of one leaf as uint32 scalars, its arrays, its kind) -> carry.
      carry: before the first leaf, a tree of arrays.
      leaves: to be visited.

    >>> import jax.numpy as jnp
    >>> def add(carry, numbers, arrays, kind):
    ...     return carry + numbers[0].astype("int32") * arrays[0].sum()
    >>> leaves = [Leaf(kind="short", numbers=(i,), arrays=(jnp.arange(2),)) for i in range(30)]
    >>> int(fold_leaves(add, jnp.int32(0), leaves))
    435
    """
    by_kind: dict[Any, list[Leaf]] = {}
    for leaf in leaves:
        by_kind.setdefault(leaf.kind, []).append(leaf)
    for kind, group in by_kind.items():
        # On other platforms the host may wait for each choice of a branch.
        if len(group) <= _FEW_LEAVES or not stays_called():
            for leaf, numbers in zip(group, _unseen_rows(group), strict=True):
                carry = visit(carry, numbers, leaf.arrays, kind)
            continue
        for start in range(0, len(group), _MOST_BRANCHES):
            carry = _visit_in_loop(visit, carry, group[start : start + _MOST_BRANCHES])
    return carry


def _unseen_rows(leaves: Sequence[Leaf]) -> list[tuple[Array, ...]]:
    """The numbers of each leaf, as scalars whose values the compiler does not see."""
    columns = [unseen(column) for column in zip(*(leaf.numbers for leaf in leaves), strict=True)]
    return list(zip(*columns, strict=True)) or [()] * len(leaves)


def _visit_in_loop(visit: Visit, carry: Any, leaves: Sequence[Leaf]) -> Any:
    """What is carried through leaves of one kind, by a loop into which their arrays are fetched."""
    table = np.array([leaf.numbers for leaf in leaves], np.uint32)
    arrays_of_leaves = [leaf.arrays for leaf in leaves]
    is_shared = [
        all(array is arrays[0] for array in arrays)
        for arrays in zip(*arrays_of_leaves, strict=True)
    ]
    branches = [
        lambda arrays=arrays: [
            array for array, shared in zip(arrays, is_shared, strict=True) if not shared
        ]
        for arrays in arrays_of_leaves
    ]

    def visit_one(index: Array, carry: Any) -> Any:
        fetched = iter(lax.switch(index, branches))
        arrays = tuple(
            array if shared else next(fetched)
            for array, shared in zip(arrays_of_leaves[0], is_shared, strict=True)
        )
        row = lax.dynamic_index_in_dim(table, index, keepdims=False)
        return visit(carry, tuple(row), arrays, leaves[0].kind)

    return lax.fori_loop(0, len(leaves), visit_one, carry)
