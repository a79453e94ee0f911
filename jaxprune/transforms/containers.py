"""What the transforms share at their edges: other people's containers, wrappers and tools.

Within a transform the masks sit in the parameters' own containers. At its edges they take the form in which
others can hold them: no variable of `nnx` holds `None`, and where mappings cannot hold `None` (Haiku's
`FlatMap`) all trees but the updates are plain dicts.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_lib
from jaxprune import trees
from jaxprune.types import Masks, Params

__all__ = ["at_home", "from_inner"]


def at_home(
    init: Callable[[Params], Any],
    update: Callable[..., tuple[Params, Any]],
    *,
    masks: tuple[str, ...],
) -> optax.GradientTransformationExtraArgs:
    """Returns the transform of `init` and `update`, with states that the parameters' containers can hold.

    Args:
      init: params -> state, a named tuple.
      update: (grads, state, params, **extra) -> (updates, state).
      masks: the fields of the state that hold masks.
    """

    def init_there(params: Params) -> Any:
        # optax.tree_map_params asks in this way where trees like the parameters are.
        if trees.is_placeholder(params):
            return init(params)._replace(**dict.fromkeys(masks, params))
        params = trees.plain(params)
        return _owned(_for_others(init(params), params, masks), params)

    def update_there(
        grads: Params, state: Any, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Any]:
        treedef = jax.tree.structure(params)
        grads = trees.plain(grads)
        params = trees.plain(params)
        updates, state = update(grads, _for_us(state, params, masks), params, **extra)
        if jax.tree.structure(params) != treedef:
            updates = treedef.unflatten(jax.tree.leaves(updates))
        return updates, _for_others(state, params, masks)

    return optax.GradientTransformationExtraArgs(init_there, update_there)  # type: ignore


def _owned(state: Any, params: Params) -> Any:
    """The state without arrays of the caller: a step that donates the state would take those with it."""
    ids_of_caller = {id(leaf) for leaf in jax.tree.leaves(params)}
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if id(leaf) in ids_of_caller else leaf, state)


def _for_us(state: Any, params: Params, names: tuple[str, ...]) -> Any:
    """The state with masks in the parameters' containers, as far as they fit; `update` refuses others."""
    treedef = jax.tree.structure(params)
    masks_by_field = {
        field: getattr(state, field) for field in names if field in getattr(state, "_fields", ())
    }
    for field, masks in masks_by_field.items():
        try:
            masks_by_field[field] = treedef.unflatten(
                masks_lib.beside(params, trees.unboxed(masks))
            )
        except ValueError:
            return state
    return state._replace(**masks_by_field) if masks_by_field else state


def _for_others(state: Any, params: Params, names: tuple[str, ...]) -> Any:
    stored = {name: _stored(getattr(state, name), params) for name in names}
    return state._replace(**stored)


def _stored(masks: Masks, params: Params) -> Masks:
    """The masks in the containers of the parameters; only those that are there in variables like theirs."""
    leaf_masks = masks_lib.beside(params, masks)
    boxes, treedef = jax.tree.flatten(params, is_leaf=trees.is_box)
    if len(boxes) != len(leaf_masks):  # variables with several leaves, or none
        return jax.tree.structure(params).unflatten(leaf_masks)
    return treedef.unflatten(map(_in_box, boxes, leaf_masks))


def _in_box(box: Any, mask: Any) -> Any:
    if mask is None or not trees.is_box(box):
        return mask
    box_treedef = jax.tree.structure(box)
    if isinstance(mask, masks_lib.PackedMask):  # what a variable holds must be an array
        return mask._replace(bits=box_treedef.unflatten([mask.bits]))
    return box_treedef.unflatten([mask])


def from_inner(state: Any, name: str) -> Any:
    """Looks an attribute up in the wrapped state: trainers read `hyperparams`, `mini_step` at the top.

    The states of this package have it for their `__getattr__`.
    """
    if name.startswith("_"):
        raise AttributeError(f"{type(state).__name__!r} object has no attribute {name!r}")
    try:
        return getattr(state.inner, name)
    except AttributeError:
        raise AttributeError(
            f"neither {type(state).__name__} nor the state that it wraps has {name!r}"
        ) from None
