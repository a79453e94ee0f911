"""Checks that a tree lies beside the parameters: the one place where trees are compared.

What must have an entry for each parameter (masks, gradients, signals, averages) is compared with them by the
names of its leaves and by their shapes. Nothing is broadcast: a shape that fits by accident is a mistake.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.trees import beside, differences, names_beside, paths
from jaxprune.types import Params
from jaxprune.wording import counted

__all__ = ["check_alike", "entries_beside", "join_faults", "shape_of"]


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """Returns the shape of an array, a `jax.ShapeDtypeStruct` or a number; `None` for anything else.

    >>> shape_of(np.ones((2, 3))), shape_of(1.0), shape_of("w")
    ((2, 3), (), None)
    """
    if hasattr(leaf, "shape"):
        return tuple(leaf.shape)
    return np.shape(leaf) if isinstance(leaf, bool | int | float | complex) else None


def entries_beside(params: Params, tree: Any, refusal: Callable[[str], str]) -> list[Any]:
    """Returns the entries of a tree at the leaves of the parameters, in order, `None` included.

    Args:
      params: tree of arrays.
      tree: that has an entry for each of them.
      refusal: words for the leaves that differ -> the sentence of the error.

    Raises:
      ValueError: the sentence, if a leaf is missing or one too many.
    """
    try:
        return beside(params, tree)
    except ValueError:
        difference = differences(names_beside(params, tree), paths(params))
        raise ValueError(refusal(difference)) from None


def join_faults(faults: Sequence[str], shown: int = 5) -> str:
    """Returns the faults of several leaves in one sentence: the first of them, and the number of others.

    >>> join_faults(["'a' is wrong", "'b' is wrong"], shown=1)
    "'a' is wrong (and 1 more leaf)"
    """
    hidden_count = len(faults) - shown
    hidden_leaves = counted(hidden_count, "more leaf", "more leaves")
    addition = f" (and {hidden_leaves})" if hidden_count > 0 else ""
    return "; ".join(faults[:shown]) + addition


def check_alike(who: str, what: str, params: Params, tree: Any, remedy: str) -> None:
    """Refuses a tree that has other leaves than the parameters, or one of another shape.

    Args:
      who: the function that was called.
      what: the tree holds, in the plural.
      params: tree of arrays.
      tree: with an array for each of them; `None` where it says nothing of a leaf.
      remedy: what to do.

    Raises:
      ValueError: which leaves are missing or have another shape.

    >>> check_alike("snip", "gradients", {"w": np.ones((8, 4))}, {"w": np.ones(4)}, "give all of them")
    Traceback (most recent call last):
    ValueError: snip: 'w' has gradients of the shape (4,), its parameter (8, 4); give all of them.
    """

    def refusal(difference: str) -> str:
        return f"{who}: the {what} are another tree than the parameters ({difference}); {remedy}."

    entries = entries_beside(params, tree, refusal)
    leaves = jax.tree.leaves(params)
    shapes = [
        (shape_of(entry), shape_of(leaf)) for entry, leaf in zip(entries, leaves, strict=True)
    ]
    pairs = zip(entries, shapes, strict=True)
    if all(
        entry is None or entry_shape == leaf_shape for entry, (entry_shape, leaf_shape) in pairs
    ):
        return
    faults = [
        f"{name!r} has {what} of the shape {entry_shape}, its parameter {leaf_shape}"
        if entry_shape is not None
        else f"{name!r} has a {type(entry).__name__} for its {what}"
        for name, entry, (entry_shape, leaf_shape) in zip(
            paths(params), entries, shapes, strict=True
        )
        if entry is not None and entry_shape != leaf_shape
    ]
    raise ValueError(f"{who}: {join_faults(faults)}; {remedy}.")
