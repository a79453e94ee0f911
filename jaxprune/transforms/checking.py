"""What a transform cannot work with is refused here: foreign optimizers, gradients, parameters and states."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune.masks.packing import is_packed
from jaxprune.method import Method, Partition
from jaxprune.transforms.memo import Memo, weak
from jaxprune.trees.alike import check_alike, join_faults, shape_of
from jaxprune.types import Masks, Params
from jaxprune.wording import counted

__all__ = ["check_inner", "check_method", "check_packing", "check_transform", "check_update"]


def check_transform(who: str, inner: Any, **rest: tuple[Any, checks.Kind]) -> None:
    """Refuses what a transform cannot wrap, and other arguments of the wrong kind."""
    checks.check(who, inner=(inner, checks.OPTIMIZER), **rest)


def check_update(who: str, kind: type, grads: Params, state: Any, params: Params | None) -> None:
    """Refuses what `update(grads, state, params)` cannot work with.

    Args:
      who: the transform.
      kind: the class of its states.
      grads: gradients, or updates.
      state: what is taken for the state.
      params: the parameters, or `None` where they were forgotten.
    """
    if params is None:
        raise ValueError(f"{who}: update(grads, state, params) needs the parameters.")
    if not isinstance(state, kind):
        if isinstance(params, kind):
            raise TypeError(
                f"{who}: state and params are swapped; write update(grads, state, params)."
            )
        raise TypeError(
            f"{who}: update(grads, state, params) needs the {kind.__name__} that init(params) returned, or "
            f"the update before, not a {type(state).__name__}."
        )
    check_gradients(who, grads, params)
    if "masks" not in state._fields:
        return
    masks = state.masks
    blended = {str(leaf.dtype) for leaf in jax.tree.leaves(masks)} - {"bool", "uint8"}
    if blended:
        raise ValueError(
            f"{who}: a transform around it has made {blended.pop()} of the masks in its state: optax.contrib."
            "sam calculates with states unless opaque_mode=True, and casts of a state must leave bool arrays "
            f"alone. Put such a transform inside: {who}(sam(...), ...)."
        )
    try:
        masks_lib.validate(params, masks)
    except ValueError as error:
        raise ValueError(
            f"{who}: the parameters are not those that init was given; start with init(params) again. {error}"
        ) from None


def check_gradients(who: str, grads: Params, params: Params) -> None:
    """Refuses gradients of other parameters: another tree, or a shape that would be broadcast."""
    remedy = "give those of all parameters"
    if jax.tree.structure(grads) != jax.tree.structure(params):
        differ = trees.differences(masks_lib.paths(grads), masks_lib.paths(params))
        raise ValueError(
            f"{who}: the gradients are another tree than the parameters ({differ}); {remedy}."
        )
    check_alike(who, "gradients", params, grads, remedy)


def check_inner(
    who: str, inner: optax.GradientTransformation, inner_state: optax.OptState, params: Params
) -> None:
    """Refuses the state of another optimizer, or of parameters of other shapes.

    Args:
      who: the transform.
      inner: the optimizer that it wraps.
      inner_state: what is taken for its state.
      params: tree of arrays.
    """
    leaves, treedef = jax.tree.flatten(params)
    types = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    question = (weak(inner.init), treedef, types)
    expected = _MEMO.answer(question, lambda: _state_like(inner.init, treedef, types))
    if expected is None:
        return
    needed_leaves, needed_treedef = expected
    state_leaves, state_treedef = jax.tree.flatten(inner_state)
    remedy = "start with init(params) again, or give the state that belongs to this optimizer"
    if state_treedef != needed_treedef:
        names = masks_lib.paths(inner_state)
        needed_names = masks_lib.paths(needed_treedef.unflatten(needed_leaves))
        if set(names) == set(needed_names):
            return  # in other containers
        differ = trees.differences(names, needed_names)
        raise ValueError(
            f"{who}: the state is that of another optimizer, or of other parameters ({differ}); {remedy}."
        )
    pairs = zip(state_leaves, needed_leaves, strict=True)
    if all(shape_of(leaf) == needed.shape for leaf, needed in pairs):
        return
    rows = zip(masks_lib.paths(inner_state), state_leaves, needed_leaves, strict=True)
    faults = [
        f"{name!r} has the shape {shape_of(leaf)} in the optimizer's state, {needed.shape} is needed"
        for name, leaf, needed in rows
        if shape_of(leaf) != needed.shape
    ]
    raise ValueError(f"{who}: {join_faults(faults)}; {remedy}.")


_MEMO = Memo()


def _state_like(init: Any, treedef: Any, types: tuple[Any, ...]) -> tuple[list[Any], Any] | None:
    """Shapes and structure of an optimizer's first state; `None` if it cannot be told without numbers."""
    try:
        return jax.tree.flatten(jax.eval_shape(init, treedef.unflatten(types)))
    except Exception:  # of an optimizer that reads numbers, which need not be here
        return None


def check_packing(who: str, masks: Masks, packed: bool) -> None:
    """Refuses a state whose masks are stored in another way than the transform stores them.

    Args:
      who: the transform.
      masks: of its state.
      packed: whether it stores masks in one bit per weight.
    """
    leaves = jax.tree.leaves(masks, is_leaf=is_packed)
    if leaves and is_packed(leaves[0]) != packed:
        change = "unpack" if is_packed(leaves[0]) else "pack"
        raise ValueError(
            f"{who}(packed={packed}): the state was made with packed={not packed}; give it that, or "
            f"change the state: state._replace(masks=jaxprune.masks.{change}(state.masks))."
        )


def check_method(
    who: str, method: Method | Partition, state: Any, memory_rules: Iterable[str], key: Any
) -> None:
    """Refuses a state that was made for another method: it lacks what this one remembers, or its key.

    Args:
      who: the transform.
      method: the method.
      state: of the transform.
      memory_rules: the signals that the method remembers, by keyword.
      key: the transform's PRNG key, if it has one.
    """
    remedy = "start with init(params) again, or give the state that belongs to this method"
    lacking = [name for name in memory_rules if name not in state.memory]
    if lacking:
        raise ValueError(
            f"{who}: the state is that of another method, which does not remember the signal "
            f"{lacking[0]!r}; {remedy}."
        )
    if key is not None and state.key is None:
        raise ValueError(
            f"{who}: this transform has a PRNG key, and the state has none (its key is None); {remedy}."
        )
    pending = getattr(state.overdue, "pending", ())
    if who != "lottery_ticket" and len(pending) != len(method.parts):
        raise ValueError(
            f"{who}: the state is that of {counted(len(pending), 'method')}, but this transform has "
            f"{len(method.parts)}; {remedy}."
        )
