"""What every enforcing transform does to updates and optimizer state."""

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import common
from jaxprune.calls import is_traced
from jaxprune.transforms.accumulation import accumulators, cycle_indices
from jaxprune.transforms.chosen_state import update_from_chosen_state
from jaxprune.transforms.line_search import evaluations, forget_evaluations
from jaxprune.transforms.masked_state import masks_of_state
from jaxprune.transforms.resting_state import at_rest
from jaxprune.types import Masks, Params, Step


def key_data(key: jax.Array | None) -> jax.Array | None:
    """The bits of a PRNG key, as states hold it: typed keys would keep jit from its fast dispatch.

    A copy: a step that donates its state must not take the caller's key with it.
    """
    return None if key is None else jnp.copy(jax.random.key_data(key))


def key_at(data: Any, step: Step, like: jax.Array) -> jax.Array:
    """The key of one step, from the bits in the state and a key of the same kind."""
    return jax.random.fold_in(jax.random.wrap_key_data(data, impl=jax.random.key_impl(like)), step)


def signals_at(
    step: Step,
    grads: Params,
    memory: dict[str, Any],
    extra: dict[str, Any],
    bits: jax.Array | None,
    key: jax.Array | None,
) -> dict[str, Any]:
    """What criteria may read at one step, by keyword; there is a key only if the transform has one."""
    step_key = {} if key is None else {"key": key_at(bits, step, key)}
    return {**extra, "grads": grads, **memory, **step_key}


def masked_step(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    *,
    skip: jax.Array | bool = False,
    choose: Callable[[optax.OptState], optax.OptState] | None = None,
    before: Masks | None = None,
    **extra: Any,
) -> tuple[Params, optax.OptState]:
    """Returns one update of `inner` that sees, and leaves, nothing off the masks, and its new state.

    Args:
      inner: the wrapped optimizer.
      grads: gradients of all weights.
      inner_state: its state.
      params: tree of arrays.
      masks: in force.
      skip: the weights stay where they are, as far as they survive, and so does what the optimizer knows of
        gradients; its counts go on.
      choose: new state -> the state that is kept; where that is another one, the updates mean nothing.
      before: the masks until now, where weights that come back may not be zero yet; they start from there.
      **extra: what `inner` is given besides.
    """
    resting = at_rest(inner, inner_state, params, masks, **extra)
    # What the update reads is what it leaves behind: with another refresh of everything after it, the
    # compiler would have to keep the old state beside the new one, and copy it.
    fresh_state = refresh(inner, inner_state, params, masks)
    # Weights that go in this very update must not reach the state either, by decay into momentum say.
    masked_params = masks_lib.apply(params, masks)
    if before is not None:
        masked_params = masks_lib.apply(masked_params, before)
    masked_grads = masks_lib.apply(grads, masks)
    may_skip = is_traced(skip) or bool(skip)
    if may_skip:
        assert choose is None
        choose = functools.partial(_state_without_gradient, skip, fresh_state)
    if choose is None:
        updates, new_state = inner.update(masked_grads, fresh_state, masked_params, **extra)
    else:
        updates, new_state = update_from_chosen_state(
            inner, masked_grads, fresh_state, masked_params, choose, **extra
        )
    if may_skip:
        updates = jax.tree.map(lambda u: jnp.where(skip, jnp.zeros_like(u), u), updates)
    is_evaluation = evaluations(new_state)
    if any(is_evaluation):
        # A line search ends where its own updates take what it was given, if nothing off the masks moves.
        masked_updates = masks_lib.apply(updates, masks)
        lands_elsewhere = _differ(params, masked_params) | _differ(updates, masked_updates)
        new_state = forget_evaluations(new_state, when=lands_elsewhere)
    stays = list(map(operator.or_, resting, is_evaluation))
    new_state = refresh(inner, new_state, params, masks, but=stays)
    if before is not None:  # what is off these masks counts as zero: w + (u - w) is u
        updates = masks_lib.where(before, updates, jax.tree.map(jnp.subtract, updates, params))
    return land(updates, params, masks), new_state


def _differ(tree: Params, other: Params) -> jax.Array:
    """Whether any number of a tree is another in a second one."""
    flags = jax.tree.map(lambda a, b: jnp.any(a != b), tree, other)
    return jnp.stack([*jax.tree.leaves(flags), jnp.zeros((), bool)]).any()


def _state_without_gradient(
    skip: jax.Array | bool, before: optax.OptState, after: optax.OptState
) -> optax.OptState:
    """The state after an update whose gradient is not taken.

    Counts go on, and gathering begins anew; but a cycle of calls begins when a gradient is taken.
    """

    def choose_leaf(
        old: jax.Array, new: jax.Array, is_accumulator: bool, is_cycle_index: bool
    ) -> jax.Array:
        is_count = not jnp.issubdtype(jnp.result_type(new), jnp.inexact)
        goes_on = is_accumulator or (is_count and not is_cycle_index)
        return new if goes_on else jnp.where(skip, old, new)

    old_leaves, treedef = jax.tree.flatten(before)
    kinds = (accumulators(before), cycle_indices(before))
    return treedef.unflatten(map(choose_leaf, old_leaves, jax.tree.leaves(after), *kinds))


def land(updates: Params, params: Params, masks: Masks) -> Params:
    """Returns the updates that put a masked weight on zero: `w + (-w)` is exactly zero."""

    def land_leaf(weights: jax.Array, update: jax.Array, mask: Any) -> jax.Array:
        if mask is None:
            return update
        # A narrower update could not meet the negative weight exactly.
        wide_update = update.astype(common(update.dtype, weights.dtype))
        return masks_lib.where(mask, wide_update, -weights.astype(wide_update.dtype))

    return jax.tree.map(land_leaf, params, updates, masks)


def refresh(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    *,
    but: Sequence[bool] | None = None,
) -> optax.OptState:
    """Returns the optimizer state with its weights' share off the masks as `inner.init` gives it.

    So is all that a line search knows of its last point, which the weights have left where masks change.
    Leaves that `but` marks, one entry per leaf of the state, stay as they are.
    """
    old_leaves, treedef = jax.tree.flatten(inner_state)
    fresh_leaves = jax.tree.leaves(inner.init(masks_lib.apply(params, masks)))
    masks_of_leaves = masks_of_state(inner, inner_state, params, masks)
    keeps = but or [False] * len(old_leaves)

    def choose(old: Any, fresh: Any, mask: Any, keep: bool, is_evaluation: bool) -> Any:
        if keep:
            return old
        return fresh if is_evaluation else masks_lib.where(mask, old, fresh)

    rows = zip(
        old_leaves, fresh_leaves, masks_of_leaves, keeps, evaluations(inner_state), strict=True
    )
    return treedef.unflatten(itertools.starmap(choose, rows))
