"""Sparse training around any optax optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, initial_masks, remembered
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.state import (
    check_transform,
    check_update,
    due_at,
    key_data,
    masked_step,
    remember,
    restart,
    scheduled_masks,
    signals_at,
)
from jaxprune.types import Masks, Params

__all__ = ["SparseState", "fixed", "sparsify"]


class SparseState(NamedTuple):
    """State of `sparsify` and `fixed`.

    Attributes:
      step: updates done.
      masks: in force.
      key: bits of the PRNG key, or `None`.
      inner: the wrapped optimizer's state.
      memory: signals that the criteria remember, by keyword.
    """

    step: Any
    masks: Masks
    key: jax.Array | None
    inner: optax.OptState
    memory: Any = ()

    __getattr__ = from_inner


def sparsify(
    inner: optax.GradientTransformation,
    method: Method | Partition,
    *,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    packed: bool = False,
    axes: AxesTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains with `method`: after each update the parameters are exactly zero off the masks.

    Nothing else changes in the training loop. In every update, in this order: if the schedule is due
    the masks change; the gradients are masked; `inner` updates; its updates are replaced off the masks by
    those that land on zero; its state off the masks becomes what `inner.init` gives, so that neither
    momentum nor a regrown weight remembers anything. The learning-rate schedule of `inner` counts
    every update.

    It must be the outermost transform of what changes the parameters: put clipping, decay and
    accumulation inside (`sparsify(optax.MultiSteps(...), ...)`). Extra arguments of `update` reach both
    the criterion, as signals, and `inner`.

    Args:
      inner: any optax optimizer.
      method: see `jaxprune.methods`, or compose a `jaxprune.Method`; `jaxprune.partition` gives
        different leaves different ones.
      key: PRNG key, for methods that draw: random criteria, SET, RigL, static.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      packed: store the masks in one bit per weight.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not.

    Returns:
      A gradient transformation whose `update` needs `params`. Read its masks with `jaxprune.masks_of`.

    Raises:
      ValueError: if the method trains straight through the masks; in `init`, before any tracing, if a
        leaf does not fit the pattern or a filter matches nothing; in `update`, if `params` is missing.
      TypeError: if an argument is of the wrong kind, or the criterion reads a signal that is missing.

    >>> from jaxprune import methods
    >>> tx = sparsify(optax.sgd(0.1), methods.magnitude(sparsity=0.5))
    >>> params = {"w": jnp.array([[1.0, -3.0]])}
    >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([[ 0. , -3.1]], dtype=float32)}
    """
    check_transform("sparsify", inner, method=(method, METHOD))
    checks.check(
        "sparsify", key=(key, checks.optional(checks.KEY)), packed=(packed, checks.BOOLEAN)
    )
    inner = optax.with_extra_args_support(inner)
    stored = masks_lib.pack if packed else lambda masks: masks
    memories = remembered(method)
    if method.straight_through:
        raise ValueError(
            "sparsify: this method trains the weights off its masks too, which `sparsify` would set to zero; "
            "use straight_through(inner, method), with the gradients taken at forward_params(params, state)."
        )

    def init(params: Params) -> SparseState:
        first, run = (None, None) if key is None else jax.random.split(key)
        masks = initial_masks(method, params, prunable, first, axes)
        alive = masks_lib.apply(params, masks)
        return SparseState(
            jnp.zeros((), jnp.int32),
            stored(masks),
            key_data(run),
            inner.init(params),
            {name: memory.init(alive) for name, memory in memories.items()},
        )

    def update(
        grads: Params, state: SparseState, params: Params = None, **extra: Any
    ) -> tuple[Params, SparseState]:
        check_update("sparsify", SparseState, grads, state, params)
        step = state.step
        memory = remember(memories, state.memory, params, grads)
        signals = signals_at(step, grads, memory, extra, state.key, key)
        masks = scheduled_masks(method, params, state.masks, step, signals, stored, axes)
        skips = lambda part: part.update.skip_gradient
        skip = due_at(method, params, step, skips) if any(map(skips, method.parts)) else None
        updates, inner_state = masked_step(
            inner, grads, state.inner, params, masks, skip=skip, **extra
        )
        memory = restart(memories, memory, params, due_at(method, params, step))
        step = optax.safe_increment(step)
        return updates, SparseState(step, masks, state.key, inner_state, memory)

    return at_home(init, update, masks=("masks",))


def fixed(
    inner: optax.GradientTransformation, masks: Masks
) -> optax.GradientTransformationExtraArgs:
    """Trains with masks that never change: those of `jaxprune.prune`, of a ticket, of a file.

    Args:
      inner: any optax optimizer.
      masks: bool arrays, `None` at leaves without a mask; packed masks stay packed.

    >>> tx = fixed(optax.sgd(0.1), {"w": jnp.array([True, False])})
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.9, 0. ], dtype=float32)}
    """
    check_transform("fixed", inner, masks=(masks, masks_lib.MASKS))
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SparseState:
        masks_lib.validate(masks, params)
        return SparseState(jnp.zeros((), jnp.int32), masks, None, inner.init(params))

    def update(
        grads: Params, state: SparseState, params: Params = None, **extra: Any
    ) -> tuple[Params, SparseState]:
        check_update("fixed", SparseState, grads, state, params)
        updates, inner_state = masked_step(inner, grads, state.inner, params, state.masks, **extra)
        step = optax.safe_increment(state.step)
        return updates, SparseState(step, state.masks, None, inner_state)

    return at_home(init, update, masks=("masks",))
