"""Whether a tree belongs beside the parameters: the one place where trees are compared.

What must have an entry for each parameter (masks, gradients, signals, averages) is compared with them by the
names of its leaves and by their shapes. Nothing is broadcast: a shape that fits by accident is a mistake.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.trees import beside, differences, names_beside, paths
from jaxprune.types import Params

__all__ = ["check_alike", "entries_beside", "shape_of", "told"]


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """The shape of an array, of its shape and dtype, or of a number; `None` of what has none.

    >>> shape_of(np.ones((2, 3))), shape_of(1.0), shape_of("w")
    ((2, 3), (), None)
    """
    if hasattr(leaf, "shape"):
        return tuple(leaf.shape)
    return np.shape(leaf) if isinstance(leaf, bool | int | float | complex) else None


def entries_beside(params: Params, tree: Any, refusal: Callable[[str], str]) -> list[Any]:
    """The entries of a tree at the leaves of the parameters, in order, `None` included.

    Args:
      params: tree of arrays.
      tree: that has an entry for each of them.
      refusal: words for the leaves that differ -> the whole sentence.

    Raises:
      ValueError: the sentence, if a leaf is missing or one too many.
    """
    try:
        return beside(params, tree)
    except ValueError:
        differ = differences(names_beside(params, tree), paths(params))
        raise ValueError(refusal(differ)) from None


def told(wrong: Sequence[str], shown: int = 5) -> str:
    """Faults of several leaves in one sentence: the first of them, and how many there are besides.

    >>> told(["'a' is wrong", "'b' is wrong"], shown=1)
    "'a' is wrong (and 1 more leaf)"
    """
    left = len(wrong) - shown
    more = f" (and {left} more {'leaf' if left == 1 else 'leaves'})" if left > 0 else ""
    return "; ".join(wrong[:shown]) + more


def check_alike(who: str, what: str, params: Params, tree: Any, remedy: str) -> None:
    """Refuses a tree that has other leaves than the parameters, or one of another shape.

    Args:
      who: the function that was called.
      what: the tree holds, in the plural.
      params: tree of arrays.
      tree: with an array for each of them; `None` where it says nothing of a leaf.
      remedy: what to do.

    >>> check_alike("snip", "gradients", {"w": np.ones((8, 4))}, {"w": np.ones(4)}, "give all of them")
    Traceback (most recent call last):
    ValueError: snip: 'w' has gradients of the shape (4,), its parameter (8, 4); give all of them.
    """
    refusal = lambda differ: (
        f"{who}: the {what} are another tree than the parameters ({differ}); {remedy}."
    )
    entries = entries_beside(params, tree, refusal)
    leaves = jax.tree.leaves(params)
    shapes = [
        (shape_of(entry), shape_of(leaf)) for entry, leaf in zip(entries, leaves, strict=True)
    ]
    if all(entry is None or own == its for entry, (own, its) in zip(entries, shapes, strict=True)):
        return
    wrong = [
        f"{name!r} has {what} of the shape {own}, its parameter {its}"
        if own is not None
        else f"{name!r} has a {type(entry).__name__} for its {what}"
        for name, entry, (own, its) in zip(paths(params), entries, shapes, strict=True)
        if entry is not None and own != its
    ]
    raise ValueError(f"{who}: {told(wrong)}; {remedy}.")
