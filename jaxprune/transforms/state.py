"""What every enforcing transform does to updates and optimizer state, and where its masks are found."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_lib
from jaxprune.types import Masks, Params

T = TypeVar("T")


def masks_of(opt_state: Any) -> Masks:
    """Returns the masks in force, from an optimizer state that holds a `sparsify` or its like.

    The state is searched, so chains and wrappers may surround it.

    Raises:
      ValueError: if the state holds no masks, or those of several transforms.
    """
    holds = lambda node: isinstance(node, tuple) and "masks" in getattr(node, "_fields", ())
    found = [node for node in jax.tree.leaves(opt_state, is_leaf=holds) if holds(node)]
    if len(found) != 1:
        raise ValueError(
            f"masks_of: {len(found) or 'no'} sparse states in this optimizer state, one is needed; "
            "give the state that `sparsify(...).init` made, or the part of it that is meant."
        )
    return masks_lib.unpack(found[0].masks)


def masked_step(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    *,
    skip: jax.Array | bool | None = None,
    **extra: Any,
) -> tuple[Params, optax.OptState]:
    """One update of `inner` that sees, and leaves, nothing off the masks.

    Where `skip` is true the surviving weights stay where they are, though `inner` counts the step.
    """
    updates, inner_state = inner.update(masks_lib.apply(grads, masks), inner_state, params, **extra)
    if skip is not None:
        updates = jax.tree.map(lambda u: jnp.where(skip, jnp.zeros_like(u), u), updates)
    return land(updates, params, masks), refresh(inner, inner_state, params, masks)


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
) -> optax.OptState:
    """Returns the optimizer state with its weights' share off the masks as `inner.init` gives it."""
    fresh = inner.init(masks_lib.apply(params, masks))
    return map_params(
        lambda m, old, new: masks_lib.where(m, old, new), masks, params, inner_state, fresh
    )


def map_params(f: Any, masks: Masks, params: Params, state: T, *rest: T) -> T:
    """Maps `f(mask, leaf, *leaves)` over the leaves of optimizer states that mirror a parameter.

    A leaf mirrors the parameter whose path is the longest suffix of its own, if the shapes are equal.
    Moments, traces, accumulators and copies are found in this way whatever the optimizer, and there is
    no list of state classes to maintain. Other leaves (counts, factored moments) stay as they are.
    """
    named = jax.tree_util.tree_leaves_with_path(params)
    mirrored = {
        path: (jnp.shape(p), mask)
        for (path, p), mask in zip(named, masks_lib.beside(params, masks), strict=True)
    }

    def leaf(path: Any, old: Any, *others: Any) -> Any:
        suffixes = (path[i:] for i in range(len(path) + 1))
        shape, mask = next((mirrored[s] for s in suffixes if s in mirrored), (None, None))
        if jnp.shape(old) != shape:
            return old
        return f(mask, old, *others)

    return jax.tree_util.tree_map_with_path(leaf, state, *rest)
