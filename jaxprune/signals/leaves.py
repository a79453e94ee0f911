"""Some leaves of a tree of parameters: which can be differentiated, taking them out, putting them back."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.types import Params

__all__ = [
    "are_floating",
    "chosen_leaves",
    "fill_tree",
    "with_leaves",
]


def are_floating(params: Params) -> tuple[bool, ...]:
    """Returns a Boolean per leaf: it is real and floating, so that it can be differentiated.

    >>> are_floating({"n": jnp.arange(2), "w": jnp.ones(2)})
    (False, True)
    """
    return tuple(
        jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(params)
    )


def chosen_leaves(params: Params, is_chosen: Sequence[bool]) -> list[jax.Array]:
    """Returns the chosen leaves, in order."""
    leaves_and_choices = zip(jax.tree.leaves(params), is_chosen, strict=True)
    return [jnp.asarray(leaf) for leaf, chosen_leaf in leaves_and_choices if chosen_leaf]


def with_leaves(params: Params, is_chosen: Sequence[bool], values: Sequence[Any]) -> Params:
    """Returns the tree with `values` for its chosen leaves; the others stay.

    >>> with_leaves({"n": 1, "w": 2.0}, (False, True), [3.0])
    {'n': 1, 'w': 3.0}
    """
    return fill_tree(params, is_chosen, values, lambda leaf: leaf)


def fill_tree(
    params: Params,
    is_chosen: Sequence[bool],
    values: Sequence[Any],
    elsewhere: Callable[[Any], Any] = lambda leaf: jnp.zeros(jnp.shape(leaf), jnp.float32),
) -> Any:
    """Returns a tree like `params`: `values` at its chosen leaves, what `elsewhere` makes of the others.

    >>> fill_tree({"n": 1, "w": 2.0}, (False, True), [3.0], lambda leaf: None)
    {'n': None, 'w': 3.0}
    """
    leaves, treedef = jax.tree.flatten(params)
    remaining_values = iter(values)
    leaves_and_choices = zip(leaves, is_chosen, strict=True)
    return treedef.unflatten(
        [
            next(remaining_values) if chosen_leaf else elsewhere(leaf)
            for leaf, chosen_leaf in leaves_and_choices
        ]
    )
