"""Paths of the leaves of a tree, and trees that lie beside others: matched by order or by path.

Trees that hold the same leaves under the same names belong together, whatever their containers: parameters as
plain dicts, a `FrozenDict`, an `nnx.State` of variables or Haiku's `FlatMap`, and masks in any of these.
"""

import collections
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from jaxprune.types import Params

__all__ = [
    "beside",
    "check_distinct",
    "check_matches",
    "content",
    "differences",
    "is_box",
    "is_placeholder",
    "layer_names",
    "leaves_with_keys",
    "names_beside",
    "paths",
    "plain",
    "quote_names",
    "unboxed",
]


def _spell(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def leaves_with_keys(
    tree: Any,
    is_leaf: Callable[[tuple[str, ...], Any], bool] = lambda keys, node: False,
    above: tuple[str, ...] = (),
) -> list[tuple[tuple[str, ...], Any]]:
    """Returns the leaves of a tree, each after the names on its path.

    A Flax variable is no level of its own: what it holds has the path of the variable. The fields of other
    nodes have their names, one called `value` too.

    Args:
      tree: any.
      is_leaf: (names on its path, node) -> whether to take a node whole.
      above: names on the path of the tree itself.

    >>> leaves_with_keys({"a": [0, {"b": 1}]}, lambda keys, node: keys == ("a", "1"))
    [(('a', '0'), 0), (('a', '1'), {'b': 1})]
    """

    def is_whole(path: tuple[Any, ...], node: Any) -> bool:
        return _is_flax_box(node) or is_leaf(above + _spell(path), node)

    leaves = []
    for path, node in jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=is_whole, is_leaf_takes_path=True
    ):
        keys = above + _spell(path)
        if _is_flax_box(node) and not is_leaf(keys, node):
            box = node
            contents = jax.tree.leaves(box, is_leaf=lambda inner, box=box: inner is not box)
            for held in contents:
                leaves += leaves_with_keys(held, is_leaf, keys)
        else:
            leaves.append((keys, node))
    return leaves


def paths(tree: Params) -> list[str]:
    """Returns the paths of the leaves, as filters and reports name them.

    Args:
      tree: of arrays, in any containers.

    Returns:
      One string per leaf, its keys joined by slashes, in the order of `jax.tree.leaves`.

    >>> paths({"Dense_0": {"kernel": 1, "bias": 2}})
    ['Dense_0/bias', 'Dense_0/kernel']
    """
    structure = jax.tree.structure(tree)
    # The structures of {1: w} and {True: w} are equal, their paths are not.
    spelled = (str(structure), structure)
    try:
        known_paths = _KNOWN_PATHS.get(spelled)
    except (TypeError, ValueError):  # a node has static data that cannot be hashed or compared
        return _paths_of_leaves(tree)
    if known_paths is None:
        known_paths = _KNOWN_PATHS[spelled] = tuple(_paths_of_leaves(tree))
        if len(_KNOWN_PATHS) > _MOST_STRUCTURES:
            _KNOWN_PATHS.popitem(last=False)
    return list(known_paths)


# A call of `prune` asks for the paths of one tree in many places: criteria, patterns, allocations and checks
# each take the tree alone. The paths depend on its structure only, so it is taken apart once for all of them.
_KNOWN_PATHS: collections.OrderedDict[Any, tuple[str, ...]] = collections.OrderedDict()
_MOST_STRUCTURES = 64


def _paths_of_leaves(tree: Params) -> list[str]:
    return ["/".join(keys) for keys, _ in leaves_with_keys(plain(tree))]


def beside(params: Params, tree: Any) -> list[Any]:
    """Returns the entries of `tree` (masks, units: `None` included) at the leaves of `params`, in order.

    Trees in other containers are matched by the names of the leaves. An entry is taken out of its `nnx`
    variable; the `MaskedNode` that optax leaves where a transform has no part is `None`.

    Args:
      params: tree of arrays.
      tree: with one entry, of any kind, for each leaf of `params`.

    Raises:
      ValueError: if the leaves have other names; it says which.

    >>> beside({"b": 1.0, "w": 2.0}, {"b": None, "w": "mask"})
    [None, 'mask']
    """
    try:
        entries = jax.tree.structure(params).flatten_up_to(tree)
    except ValueError:
        entries = _entries_by_name(params, tree)
        if entries is None:
            difference = differences(names_beside(params, tree), paths(params))
            raise ValueError(
                f"a tree that is to lie beside another has not the same leaves ({difference})."
            ) from None
    return [content(entry) for entry in entries]


def differences(have: Iterable[str], need: Iterable[str]) -> str:
    """Returns the words for leaves that are missing and for those that are too many.

    Args:
      have: paths of the leaves that are there.
      need: paths of the leaves that should be.

    >>> differences(["a", "b"], ["b", "c"]), differences(["a"], ["a"])
    ("missing 'c'; unexpected 'a'", 'the leaves have the same names, in other containers')
    """
    present_paths = set(have)
    needed_paths = set(need)
    clauses = []
    if missing := needed_paths - present_paths:
        clauses.append(f"missing {quote_names(sorted(missing))}")
    if unexpected := present_paths - needed_paths:
        clauses.append(f"unexpected {quote_names(sorted(unexpected))}")
    return "; ".join(clauses) or "the leaves have the same names, in other containers"


def names_beside(params: Params, tree: Any) -> list[str]:
    """Returns the paths of the entries of a tree that is to lie beside the parameters; `None` is one, too."""
    return [path for path, _ in _entries_with_path(set(paths(params)), tree)]


def _entries_with_path(known_paths: set[str], tree: Any) -> list[tuple[str, Any]]:
    """Paths and nodes of a tree, cut off at known paths and where there is nothing."""

    def is_entry(keys: tuple[str, ...], node: Any) -> bool:
        return "/".join(keys) in known_paths or _is_nothing(node)

    return [("/".join(keys), node) for keys, node in leaves_with_keys(plain(tree), is_entry)]


def _entries_by_name(params: Params, tree: Any) -> list[Any] | None:
    """The entries at the leaves of `params`, found by path; `None` if there are others, or one is missing."""
    param_paths = paths(params)
    known_paths = set(param_paths)
    pairs = _entries_with_path(known_paths, tree)
    entries = dict(pairs)
    if len(entries) < len(pairs) or len(known_paths) < len(param_paths):
        return None  # a name that several leaves have tells nothing
    # Nothing at a node stands for `None` at each leaf below it, in the tree and in the parameters alike.
    empty_paths = {path for path, entry in entries.items() if _is_nothing(entry)}
    missing = [
        path
        for path in param_paths
        if path not in entries and empty_paths.isdisjoint(_with_ancestors(path))
    ]
    nodes = leaves_with_keys(plain(params), lambda _, node: _is_nothing(node))
    empty_param_paths = {"/".join(keys) for keys, node in nodes if _is_nothing(node)}
    unexpected = [
        path
        for path in set(entries) - known_paths - empty_paths
        if empty_param_paths.isdisjoint(_with_ancestors(path))
    ]
    return None if missing or unexpected else [entries.get(path) for path in param_paths]


def _with_ancestors(path: str) -> list[str]:
    """Returns the paths of all nodes from the root down to one, itself included.

    >>> _with_ancestors("a/b")
    ['a', 'a/b']
    """
    keys = path.split("/")
    return ["/".join(keys[:end]) for end in range(1, len(keys) + 1)]


def _is_nothing(node: Any) -> bool:
    return node is None or isinstance(node, optax.MaskedNode)


def is_box(node: Any) -> bool:
    """Whether a node is a variable of Flax NNX, which holds one leaf and what is known of it."""
    nnx = sys.modules.get("flax.nnx")  # where nobody has imported it, there are none
    return nnx is not None and isinstance(node, nnx.Variable)


def _is_flax_box(node: Any) -> bool:
    """Whether a node is a variable of Flax NNX, or linen's box around a leaf and the names of its axes."""
    linen_boxes = sys.modules.get("flax.core.meta")
    return is_box(node) or (linen_boxes is not None and isinstance(node, linen_boxes.AxisMetadata))


def content(node: Any) -> Any:
    """Returns what a variable holds, anything else itself, and `None` for optax's `MaskedNode`."""
    if isinstance(node, optax.MaskedNode):
        return None
    return node.get_value() if is_box(node) else node


def unboxed(tree: Any) -> Any:
    """Returns the tree with the contents of its variables, and `None` for optax's `MaskedNode`."""

    def is_leaf(node: Any) -> bool:
        return is_box(node) or isinstance(node, optax.MaskedNode)

    return jax.tree.map(content, tree, is_leaf=is_leaf)


def plain(tree: Any) -> Any:
    """Returns the tree, with dicts for mappings that cannot hold `None` in place of a leaf.

    Such is Haiku's `FlatMap`. Leaves keep their order: an `OrderedDict`, which has one of its own, stays.
    """
    if _can_hold_none(tree):
        return tree

    def is_other_mapping(node: Any) -> bool:
        return isinstance(node, Mapping) and type(node) not in (dict, collections.OrderedDict)

    def to_dict(node: Any) -> Any:
        return (
            {key: plain(value) for key, value in node.items()} if is_other_mapping(node) else node
        )

    return jax.tree.map(to_dict, tree, is_leaf=is_other_mapping)


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
    """Returns the names of the layers of a leaf: its path, followed by indices where several are stacked.

    Args:
      path: of the leaf.
      layer_shape: lengths of the axes that index layers.

    >>> layer_names("head", ()), layer_names("layers/kernel", (2,))
    (['head'], ['layers/kernel[0]', 'layers/kernel[1]'])
    """
    indices = np.ndindex(*layer_shape)
    return [path + (f"[{', '.join(map(str, index))}]" if index else "") for index in indices]


def quote_names(names: Sequence[str], shown: int = 5) -> str:
    """Returns names for a message, in quotes, the first of them if there are many.

    >>> quote_names(["a", "b", "c"], shown=2)
    "'a', 'b' and 1 more"
    """
    addition = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + addition


def check_matches(who: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Raises `ValueError` if a regular expression matches none of the names.

    >>> check_matches("uniform(rates=)", ["head"], ["fc1/kernel", "fc2/kernel"])
    Traceback (most recent call last):
    ValueError: uniform(rates=): 'head' matches none of the leaves 'fc1/kernel', 'fc2/kernel'.
    """
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"{who}: {pattern!r} matches none of the leaves {quote_names(names)}.")


def check_distinct(who: str, names: Sequence[str]) -> None:
    """Raises `ValueError` if two leaves have the same path: by path, one would be taken for the other.

    >>> check_distinct("gates", paths({"a/b": 1, "a": {"b": 2}}))
    Traceback (most recent call last):
    ValueError: gates: two leaves have the same path, 'a/b'; rename one of them.
    """
    if len(set(names)) == len(names):
        return
    repeated_name = next(name for name, count in collections.Counter(names).items() if count > 1)
    raise ValueError(
        f"{who}: two leaves have the same path, {repeated_name!r}; rename one of them."
    )
