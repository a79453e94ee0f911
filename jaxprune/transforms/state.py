"""What every enforcing transform does to updates and optimizer state."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.method import Method, Partition, by_part, next_masks
from jaxprune.signals import Memory
from jaxprune.transforms.mirrors import mirrors
from jaxprune.transforms.rest import at_rest
from jaxprune.types import Masks, Params, Step


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
    if jax.tree.structure(grads) != jax.tree.structure(params):
        differ = masks_lib.differences(set(masks_lib.paths(grads)), set(masks_lib.paths(params)))
        raise ValueError(
            f"{who}: the gradients are another tree than the parameters ({differ}); give those of all "
            "parameters."
        )
    for path, g, p in zip(
        masks_lib.paths(params), jax.tree.leaves(grads), jax.tree.leaves(params), strict=True
    ):
        if jnp.shape(g) != jnp.shape(p):
            raise ValueError(
                f"{who}: {path!r} has gradients of the shape {jnp.shape(g)}, its parameter {jnp.shape(p)}."
            )
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
        masks_lib.validate(masks, params)
    except ValueError as error:
        raise ValueError(
            f"{who}: the parameters are not those that init was given; start with init(params) again. {error}"
        ) from None


def key_data(key: jax.Array | None) -> jax.Array | None:
    """The bits of a PRNG key, as states hold it: typed keys would keep jit from its fast dispatch."""
    return None if key is None else jax.random.key_data(key)


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
    drawn = {} if key is None else {"key": key_at(bits, step, key)}
    return {**extra, "grads": grads, **memory, **drawn}


def scheduled_masks(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    step: Step,
    signals: dict[str, Any],
    stored: Callable[[Masks], Masks] = lambda masks: masks,
    axes: AxesTree | None = None,
) -> Masks:
    """The masks after the change that is due at `step`, if one is, in the form in which they are stored."""

    def change(part: Method, share: Masks) -> Masks:
        new = lambda: stored(
            next_masks(part, params, masks_lib.unpack(share), step, axes=axes, **signals)
        )
        due = part.schedule.due(step)
        if isinstance(due, jax.Array):
            return jax.lax.cond(due, new, lambda: share)
        return new() if due else share

    return by_part(method, params, masks, change)


def due_at(
    method: Method | Partition,
    params: Params,
    step: Step,
    only: Callable[[Method], bool] = lambda part: True,
) -> list[jax.Array | bool]:
    """Per leaf, whether its masks change at `step`; false where `only` is not true of its method."""
    due = [only(part) and part.schedule.due(step) for part in method.parts]
    return [False if owner is None else due[owner] for owner in method.owners(params)]


def remember(
    memories: dict[str, Memory], memory: dict[str, Any], params: Params, grads: Params
) -> dict[str, Any]:
    """The signals with this update in them."""
    return {name: m.update(memory[name], params, grads) for name, m in memories.items()}


def restart(
    memories: dict[str, Memory],
    memory: dict[str, Any],
    params: Params,
    due: Sequence[jax.Array | bool],
) -> dict[str, Any]:
    """The signals for the next update: those that restart begin anew where the masks have changed."""

    def anew(old: Any, m: Memory) -> Any:
        leaves, treedef = jax.tree.flatten(old)
        trio = zip(due, jax.tree.leaves(m.init(params)), leaves, strict=True)
        return treedef.unflatten(jnp.where(now, fresh, held) for now, fresh, held in trio)

    return {
        name: anew(memory[name], m) if m.restarts else memory[name] for name, m in memories.items()
    }


def masked_step(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    *,
    skip: Sequence[jax.Array | bool] | None = None,
    **extra: Any,
) -> tuple[Params, optax.OptState]:
    """One update of `inner` that sees, and leaves, nothing off the masks.

    Leaves for which `skip` is true stay where they are, as far as they survive, though `inner` counts
    the step.
    """
    resting = at_rest(inner, inner_state, params, masks, **extra)
    # What the update reads is what it leaves behind: with another refresh of everything after it, the
    # compiler would have to keep the old state beside the new one, and copy it.
    inner_state = refresh(inner, inner_state, params, masks)
    # Weights that go in this very update must not reach the state either, by decay into momentum say.
    alive = masks_lib.apply(params, masks)
    updates, inner_state = inner.update(masks_lib.apply(grads, masks), inner_state, alive, **extra)
    if skip is not None:
        leaves, treedef = jax.tree.flatten(updates)
        pairs = zip(skip, leaves, strict=True)
        updates = treedef.unflatten(jnp.where(s, jnp.zeros_like(u), u) for s, u in pairs)
    inner_state = refresh(inner, inner_state, params, masks, but=resting)
    return land(updates, params, masks), inner_state


def land(updates: Params, params: Params, masks: Masks) -> Params:
    """Returns the updates that put a masked weight on zero: `w + (-w)` is exactly zero."""

    def leaf(p: jax.Array, u: jax.Array, m: Any) -> jax.Array:
        if m is None:
            return u
        u = u.astype(jnp.promote_types(u.dtype, p.dtype))  # a narrower one cannot meet -p exactly
        return masks_lib.where(m, u, -p.astype(u.dtype))

    return jax.tree.map(leaf, params, updates, masks)


def refresh(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    *,
    but: Sequence[bool] | None = None,
) -> optax.OptState:
    """Returns the optimizer state with its weights' share off the masks as `inner.init` gives it.

    Leaves that `but` marks, one entry per leaf of the state, stay as they are.
    """
    old, treedef = jax.tree.flatten(inner_state)
    fresh = jax.tree.leaves(inner.init(masks_lib.apply(params, masks)))
    named = masks_lib.beside(params, masks)
    beside = [None if i is None else named[i] for i in mirrors(params, inner_state)]
    done = but or [False] * len(old)
    leaves = zip(old, fresh, beside, done, strict=True)
    return treedef.unflatten(o if d else masks_lib.where(m, o, f) for o, f, m, d in leaves)
