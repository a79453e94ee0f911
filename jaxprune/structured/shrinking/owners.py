"""Finds the leaves of a tree that belong to planned ones: by their whole paths, behind a common prefix."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optax

from jaxprune.trees import leaves_with_keys, plain

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
    blank_paths = list(_blank_paths(tree))
    field_prefixes = {"", *_field_prefixes(tree)}
    planned_parts = [("", dict(planned))]
    flax_params = {
        path.removeprefix(_FLAX): shape for path, shape in planned.items() if path.startswith(_FLAX)
    }
    if flax_params:
        planned_parts.append((_FLAX, flax_params))
    owners: dict[str, str] = {}
    roots: list[str] = []
    for prefix, names in _names_by_prefix(shapes).items():
        blank_names = {name.removeprefix(prefix) for name in blank_paths if name.startswith(prefix)}
        for planned_prefix, wanted in planned_parts:
            wanted_names = [name for name in names if name in wanted]
            is_whole = all(name in names or _is_within(name, blank_names) for name in wanted)
            is_part = prefix in field_prefixes and _is_planned_part(prefix, names, wanted, shapes)
            is_claimed = any(prefix + name in owners for name in wanted_names)
            if not wanted_names or not (is_whole or is_part) or is_claimed:
                continue
            if _is_open(prefix, planned_prefix, roots, field_prefixes):
                owners |= {prefix + name: planned_prefix + name for name in wanted_names}
                roots.append(prefix)
    _check_rest(shapes, planned, owners, roots)
    return owners


def _names_by_prefix(shapes: Shapes) -> dict[str, dict[str, None]]:
    """Returns, by prefix ("" or one that ends with a slash, short ones first), the names behind it."""
    names_by_prefix: dict[str, dict[str, None]] = {"": dict.fromkeys(shapes)}
    for path in shapes:
        for end, character in enumerate(path):
            if character == "/":
                names_by_prefix.setdefault(path[: end + 1], {})[path[end + 1 :]] = None
    return dict(sorted(names_by_prefix.items(), key=lambda item: item[0].count("/")))


def _is_planned_part(prefix: str, names: Iterable[str], wanted: Shapes, shapes: Shapes) -> bool:
    """Whether all arrays that stand behind a prefix are planned, in their shapes; scalars are counts."""
    array_names = [name for name in names if shapes[prefix + name]]
    return bool(array_names) and all(
        wanted.get(name) == shapes[prefix + name] for name in array_names
    )


def _is_open(prefix: str, planned_prefix: str, roots: list[str], field_prefixes: set[str]) -> bool:
    """Whether a planned tree may stand here: within another one, only in the state of an optimizer.

    What an outer tree has besides the planned leaves may look like the plan by chance, a head `w`, `b` beside
    the planned `w`, `b`; of a part of Flax's variables it is a copy.
    """
    outer_roots = [root for root in roots if prefix != root and prefix.startswith(root)]

    def has_field_between(root: str) -> bool:
        return any(
            field != root and field.startswith(root) and prefix.startswith(field)
            for field in field_prefixes
        )

    return bool(planned_prefix) or all(has_field_between(root) for root in outer_roots)


def _is_within(name: str, blanks: set[str]) -> bool:
    """Whether a node without leaves stands in place of a leaf, or above it."""
    return any(name == blank or name.startswith(f"{blank}/") for blank in blanks)


def _check_rest(
    shapes: Shapes, planned: Shapes, owners: Mapping[str, str], roots: list[str]
) -> None:
    """Refuses leaves that look planned, but are not part of a planned tree."""
    for path, shape in shapes.items():
        if path in owners or not shape or any(path.startswith(root) for root in roots):
            continue
        keys = path.split("/")
        path_ends = ["/".join(keys[i:]) for i in range(len(keys))]
        planned_path = next((end for end in path_ends if planned.get(end) == shape), None)
        if planned_path is not None:
            raise ValueError(
                f"Plan.apply: {path!r} has the path and the shape of the plan's {planned_path!r}, but what "
                "stands around it is not the planned tree; give the parts of the tree that are the plan's, "
                "one by one."
            )


def _blank_paths(tree: Any) -> Iterator[str]:
    """Yields the paths of what stands in place of leaves that an optimizer, or a filter, has left out."""

    def is_blank(node: Any) -> bool:
        return node is None or isinstance(node, optax.MaskedNode)

    for keys, node in leaves_with_keys(plain(tree), lambda _, node: is_blank(node)):
        if is_blank(node):
            yield "/".join(keys)


def _field_prefixes(tree: Any) -> Iterator[str]:
    """Yields the prefixes of the fields of named tuples, of which optimizers' states are made."""

    def is_named_tuple(node: Any) -> bool:
        return isinstance(node, tuple) and hasattr(node, "_fields")

    open_nodes = [("", plain(tree))]
    while open_nodes:
        outer_prefix, node = open_nodes.pop()
        for keys, inner_node in leaves_with_keys(node, lambda _, inner: is_named_tuple(inner)):
            prefix = outer_prefix + "".join(f"{key}/" for key in keys)
            for name in getattr(inner_node, "_fields", ()) if is_named_tuple(inner_node) else ():
                yield f"{prefix}{name}/"
                open_nodes.append((f"{prefix}{name}/", getattr(inner_node, name)))
