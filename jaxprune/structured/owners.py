"""Which leaves of a tree belong to which planned ones: by their whole paths, behind a common prefix."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import optax

from jaxprune import masks as masks_lib
from jaxprune.trees import plain

__all__ = ["owners_of"]

_FLAX = "params/"  # the part of Flax's variables that optimizers are made for
Shapes = Mapping[str, tuple[int, ...]]


def owners_of(tree: Any, shapes: Shapes, planned: Shapes) -> dict[str, str]:
    """Returns the path of each leaf that belongs to a planned one, and that one's path.

    A planned tree stands behind a prefix if all of its leaves do, or some of them and nothing else, all in
    their shapes. Of two that overlap, the outer one is meant.

    Args:
      tree: any.
      shapes: of its leaves, by path.
      planned: shapes of the planned leaves, by path.

    Raises:
      ValueError: a leaf's path ends as a planned one and it has the same shape, but what stands around it is
        neither the planned tree nor a part of it.
    """
    blanks = list(_blanks(tree))
    fields = {"", *_fields(tree)}
    parts = [("", dict(planned))]
    if inner := {p.removeprefix(_FLAX): s for p, s in planned.items() if p.startswith(_FLAX)}:
        parts.append((_FLAX, inner))
    owners: dict[str, str] = {}
    roots: list[str] = []
    for prefix, behind in _by_prefix(shapes).items():
        blank = {name.removeprefix(prefix) for name in blanks if name.startswith(prefix)}
        for start, wanted in parts:
            there = [name for name in behind if name in wanted]
            whole = all(name in behind or _is_within(name, blank) for name in wanted)
            part = prefix in fields and _is_a_part(prefix, behind, wanted, shapes)
            claimed = any(prefix + name in owners for name in there)
            if there and (whole or part) and not claimed and _is_open(prefix, start, roots, fields):
                owners |= {prefix + name: start + name for name in there}
                roots.append(prefix)
    _check_rest(shapes, planned, owners, roots)
    return owners


def _by_prefix(shapes: Shapes) -> dict[str, dict[str, None]]:
    """What stands behind each prefix, "" or one that ends with a slash; short ones first."""
    found: dict[str, dict[str, None]] = {"": dict.fromkeys(shapes)}
    for path in shapes:
        for end, character in enumerate(path):
            if character == "/":
                found.setdefault(path[: end + 1], {})[path[end + 1 :]] = None
    return dict(sorted(found.items(), key=lambda item: item[0].count("/")))


def _is_a_part(prefix: str, behind: Iterable[str], wanted: Shapes, shapes: Shapes) -> bool:
    """Whether all that stands behind a prefix is planned, in its shape; counts are nobody's."""
    arrays = [name for name in behind if shapes[prefix + name]]
    return bool(arrays) and all(wanted.get(name) == shapes[prefix + name] for name in arrays)


def _is_open(prefix: str, start: str, roots: list[str], fields: set[str]) -> bool:
    """Whether a planned tree may stand here: within another one, only in the state of an optimizer.

    What an outer tree has besides the planned leaves may look like the plan by chance, a head `w`, `b` beside
    the planned `w`, `b`; of a part of Flax's variables it is a copy.
    """
    around = [root for root in roots if prefix != root and prefix.startswith(root)]
    between = lambda root: any(
        field != root and field.startswith(root) and prefix.startswith(field) for field in fields
    )
    return bool(start) or all(between(root) for root in around)


def _is_within(name: str, blanks: set[str]) -> bool:
    """Whether a node without leaves stands in place of a leaf, or above it."""
    return any(name == blank or name.startswith(f"{blank}/") for blank in blanks)


def _check_rest(
    shapes: Shapes, planned: Shapes, owners: Mapping[str, str], roots: list[str]
) -> None:
    """Refuses leaves of which it is open whether they are the plan's."""
    for path, shape in shapes.items():
        if path in owners or not shape or any(path.startswith(root) for root in roots):
            continue
        keys = path.split("/")
        ends = ["/".join(keys[i:]) for i in range(len(keys))]
        own = next((end for end in ends if planned.get(end) == shape), None)
        if own is not None:
            raise ValueError(
                f"Plan.apply: {path!r} has the path and the shape of the plan's {own!r}, but what stands "
                "around it is not the planned tree; give the parts of the tree that are the plan's, one by "
                "one."
            )


def _blanks(tree: Any) -> Iterator[str]:
    """Paths of what stands in place of leaves that an optimizer, or a filter, has left out."""
    stop = lambda node: node is None or isinstance(node, optax.MaskedNode)
    for path, node in jax.tree_util.tree_leaves_with_path(plain(tree), is_leaf=stop):
        if stop(node):
            yield "/".join(masks_lib.keys_of(path))


def _fields(tree: Any) -> Iterator[str]:
    """Prefixes of the fields of named tuples, of which optimizers' states are made."""
    stop = lambda node: isinstance(node, tuple) and hasattr(node, "_fields")
    waiting = [("", plain(tree))]
    while waiting:
        above, node = waiting.pop()
        for path, found in jax.tree_util.tree_leaves_with_path(node, is_leaf=stop):
            before = above + "".join(f"{key}/" for key in masks_lib.keys_of(path))
            for name in getattr(found, "_fields", ()) if stop(found) else ():
                yield f"{before}{name}/"
                waiting.append((f"{before}{name}/", getattr(found, name)))
