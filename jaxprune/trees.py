"""Leaves of a tree by name and by order: what every filter, report and message names them by.

Trees that hold the same leaves under the same names belong together, whatever their containers: parameters as
plain dicts, a `FrozenDict`, an `nnx.State` of variables or Haiku's `FlatMap`, and masks in any of these.
"""

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxprune.types import Params

__all__ = [
    "beside",
    "check_matches",
    "content",
    "differences",
    "is_box",
    "is_placeholder",
    "keys_of",
    "layer_names",
    "names_beside",
    "paths",
    "plain",
    "some",
    "unboxed",
]


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Plain names of a key path; the wrapper level of `nnx` variables is left out.

    >>> keys_of(jax.tree_util.tree_leaves_with_path({"a": [0, 1]})[1][0])
    ('a', '1')
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def paths(tree: Params) -> list[str]:
    """Paths of the leaves, as filters and reports name them.

    >>> paths({"Dense_0": {"kernel": 1, "bias": 2}})
    ['Dense_0/bias', 'Dense_0/kernel']
    """
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(plain(tree))]


def beside(params: Params, tree: Any) -> list[Any]:
    """The entries of `tree` (masks, units: `None` included) at the leaves of `params`, in order.

    Trees in other containers are matched by the names of the leaves. An entry is taken out of its `nnx`
    variable; the `MaskedNode` that optax leaves where a transform has no part is `None`.

    Raises:
      ValueError: if the leaves have other names; it says which.

    >>> beside({"b": 1.0, "w": 2.0}, {"b": None, "w": "mask"})
    [None, 'mask']
    """
    try:
        entries = jax.tree.structure(params).flatten_up_to(tree)
    except ValueError:
        entries = _by_name(params, tree)
        if entries is None:
            differ = differences(names_beside(params, tree), paths(params))
            raise ValueError(
                f"a tree that is to lie beside another has not the same leaves ({differ})."
            ) from None
    return [content(entry) for entry in entries]


def differences(have: Iterable[str], need: Iterable[str]) -> str:
    """Words for the leaves that are missing and those that are too many, by their paths.

    >>> differences(["a", "b"], ["b", "c"]), differences(["a"], ["a"])
    ("missing 'c'; unexpected 'a'", 'the leaves have the same names, in other containers')
    """
    found, wanted = set(have), set(need)
    sides = {"missing": wanted - found, "unexpected": found - wanted}
    named = [f"{what} {some(sorted(names))}" for what, names in sides.items() if names]
    return "; ".join(named) or "the leaves have the same names, in other containers"


def names_beside(params: Params, tree: Any) -> list[str]:
    """Paths of the entries of a tree that is to lie beside the parameters: `None` is one, too."""
    known = set(paths(params))
    stop = lambda path, node: _name(path) in known or _is_nothing(node)
    named = jax.tree_util.tree_leaves_with_path(plain(tree), is_leaf=stop, is_leaf_takes_path=True)
    return [_name(path) for path, _ in named]


def _by_name(params: Params, tree: Any) -> list[Any] | None:
    """The entries at the leaves of `params` by name; `None` if there are others, or one is missing."""
    names = paths(params)
    known = set(names)
    stop = lambda path, node: _name(path) in known or _is_nothing(node)
    named = jax.tree_util.tree_leaves_with_path(plain(tree), is_leaf=stop, is_leaf_takes_path=True)
    entries = {_name(path): entry for path, entry in named}
    if len(entries) < len(named) or len(known) < len(names):
        return None  # a name that several leaves have tells nothing
    blanks = {name for name, entry in entries.items() if _is_nothing(entry)}
    missing = [name for name in names if name not in entries and blanks.isdisjoint(_above(name))]
    elsewhere = jax.tree_util.tree_leaves_with_path(plain(params), is_leaf=_is_nothing)
    holes = {_name(path) for path, node in elsewhere if _is_nothing(node)}
    unexpected = [name for name in set(entries) - known - blanks if holes.isdisjoint(_above(name))]
    return None if missing or unexpected else [entries.get(name) for name in names]


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(keys_of(path))


def _above(name: str) -> list[str]:
    """The name, and those of the nodes above it.

    >>> _above("a/b")
    ['a', 'a/b']
    """
    keys = name.split("/")
    return ["/".join(keys[:end]) for end in range(1, len(keys) + 1)]


def _is_nothing(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def is_box(node: Any) -> bool:
    """Whether a node is a variable of Flax NNX, which holds one leaf and what is known of it."""
    nnx = sys.modules.get("flax.nnx")  # where nobody has imported it, there are none
    return nnx is not None and isinstance(node, nnx.Variable)


def content(node: Any) -> Any:
    """What a variable holds, anything else itself; `None` for optax's `MaskedNode`."""
    if isinstance(node, optax.MaskedNode):
        return None
    return node.get_value() if is_box(node) else node


def unboxed(tree: Any) -> Any:
    """The tree with the contents of its variables, and `None` for optax's `MaskedNode`."""
    stop = lambda node: is_box(node) or isinstance(node, optax.MaskedNode)
    return jax.tree.map(content, tree, is_leaf=stop)


def plain(tree: Any) -> Any:
    """The tree, with dicts for mappings that cannot hold `None` in place of a leaf (Haiku's `FlatMap`)."""
    if _can_hold_none(tree):
        return tree
    stop = lambda node: isinstance(node, Mapping) and type(node) is not dict
    as_dict = lambda node: {k: plain(v) for k, v in node.items()} if stop(node) else node
    return jax.tree.map(as_dict, tree, is_leaf=stop)


def _can_hold_none(tree: Any) -> bool:
    treedef = jax.tree.structure(tree)
    try:
        treedef.flatten_up_to(treedef.unflatten([None] * treedef.num_leaves))
    except Exception:  # containers of other people may refuse it with any
        return False
    return True


def is_placeholder(tree: Any) -> bool:
    """Whether a tree stands for any other: a node without leaves, such as `optax.tree_map_params` gives.

    >>> is_placeholder({}), is_placeholder(optax.MaskedNode())
    (False, True)
    """
    if isinstance(tree, dict | list | tuple) and not isinstance(tree, optax.MaskedNode):
        return False
    return tree is not None and not isinstance(tree, Mapping) and not jax.tree.leaves(tree)


def layer_names(path: str, layer_shape: Sequence[int]) -> list[str]:
    """Names of the layers of a leaf: its path, or where several are stacked, the path with their indices.

    >>> layer_names("head", ()), layer_names("layers/kernel", (2,))
    (['head'], ['layers/kernel[0]', 'layers/kernel[1]'])
    """
    indices = np.ndindex(*layer_shape)
    return [path + (f"[{', '.join(map(str, index))}]" if index else "") for index in indices]


def some(names: Sequence[str], shown: int = 5) -> str:
    """Names for a message, the first of them if there are many."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


def check_matches(who: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raises `ValueError` if a regular expression matches none of the names.

    >>> check_matches("uniform(rates=)", ["head"], ["fc1/kernel", "fc2/kernel"])
    Traceback (most recent call last):
    ValueError: uniform(rates=): 'head' matches none of the leaves 'fc1/kernel', 'fc2/kernel'.
    """
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"{who}: {pattern!r} matches none of the leaves {some(names)}.")
