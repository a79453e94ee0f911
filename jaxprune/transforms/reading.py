"""Finds this library's states and masks in an optimizer state, whatever chains and wrappers surround them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxprune import masks as masks_lib
from jaxprune import trees
from jaxprune.types import Masks, Params

__all__ = ["held_masks", "masks_of", "nodes_of", "states_of", "united"]


def masks_of(opt_state: Any) -> Masks:
    """Returns the current masks, from the optimizer state of `sparsify` or a similar transform.

    The state may be inside chains and wrappers; the function searches it. If wrappers give different leaves
    to several transforms (`optax.partition`, `optax.masked`), the masks of all of them are returned in one
    tree, with `None` at leaves that no transform has. Masks are taken out of `nnx` variables, so that they
    fit both `nnx.state(model, nnx.Param)` and its `nnx.as_pure`. A transform with masks inside another such
    transform is refused, because each has masks of its own.

    Args:
      opt_state: state of the optimizer, chains and wrappers around it included.

    Returns:
      Bool arrays in the structure of the parameters, `None` at leaves that are never pruned.

    Raises:
      ValueError: if the state holds no masks, or those of several transforms for the same leaf.

    >>> import optax
    >>> from jaxprune import methods, sparsify
    >>> tx = optax.chain(sparsify(optax.sgd(0.1), methods.magnitude(sparsity=0.5)))
    >>> masks_of(tx.init({"w": jax.numpy.ones((1, 2))}))  # before the first update
    {'w': Array([[ True,  True]], dtype=bool)}
    """
    held = held_masks(opt_state)
    if not held:
        raise ValueError(
            "masks_of: no sparse states in this optimizer state, one is needed; give the state that "
            "`sparsify(...).init` made, or the part of it that is meant."
        )
    return masks_lib.unpack(united("masks_of", "sparse states", held))


def held_masks(opt_state: Any, but: tuple[type, ...] = ()) -> list[Masks]:
    """The mask trees of all transforms in an optimizer state, except those with states of the kinds `but`."""

    def holds_masks(node: Any) -> bool:
        return isinstance(node, tuple) and "masks" in getattr(node, "_fields", ())

    return [node.masks for node in nodes_of(opt_state, holds_masks) if not isinstance(node, but)]


def nodes_of(opt_state: Any, holds: Callable[[Any], bool]) -> list[Any]:
    """The nodes of an optimizer state for which `holds` is true, those within others included."""
    nodes = [node for node in jax.tree.leaves(opt_state, is_leaf=holds) if holds(node)]
    return nodes + [inner for node in nodes for field in node for inner in nodes_of(field, holds)]


def united(who: str, what: str, held: Sequence[Any]) -> Any:
    """One tree of several with values at different leaves, `None` or optax's `MaskedNode` elsewhere.

    Args:
      who: asks.
      what: is held, for the message.
      held: the trees.
    """
    plain_trees = [trees.unboxed(tree) for tree in held]
    if len(plain_trees) == 1:
        return plain_trees[0]

    def is_value(node: Any) -> bool:
        return node is None or isinstance(node, masks_lib.PackedMask)

    merged: dict[tuple[str, ...], Any] = {}
    for tree in plain_trees:
        for name, value in trees.leaves_with_keys(tree, lambda _, node: is_value(node)):
            value_before = merged.setdefault(name, value)
            if value_before is not None and value_before is not value and value is not None:
                raise ValueError(
                    f"{who}: {len(held)} {what} in this optimizer state have {'/'.join(name)!r}, one is "
                    "needed; give the part of it that is meant."
                )
            merged[name] = value_before if value is None else value
    structures = {jax.tree.structure(tree, is_leaf=is_value) for tree in plain_trees}
    if len(structures) > 1:
        return _nested_dicts(merged)
    return structures.pop().unflatten(merged.values())


def _nested_dicts(values: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    """Dicts by name; what is `None` may have values below it in another tree."""
    nested: dict[str, Any] = {}
    for name, value in sorted(values.items(), key=lambda item: (item[1] is None, -len(item[0]))):
        *outer_keys, last_key = name
        node = nested
        for key in outer_keys:
            node = node.setdefault(key, {})
        if value is not None or last_key not in node:
            node[last_key] = value
    return nested


def states_of(who: str, kind: type, params: Params, opt_state: Any) -> list[Any]:
    """The states of one kind in an optimizer state; refuses the parameters in its place."""

    def is_of_kind(node: Any) -> bool:
        return isinstance(node, kind)

    if any(map(is_of_kind, jax.tree.leaves(params, is_leaf=is_of_kind))):
        raise TypeError(f"{who}: params and opt_state are swapped; write {who}(params, opt_state).")
    return [trees.unboxed(node) for node in nodes_of(opt_state, is_of_kind)]
