"""Dense weights behind a sparse network: gradients pass straight through the masks."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune import updates as updates_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, by_part, initial_masks, remembered
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.reading import states_of, united
from jaxprune.transforms.state import (
    check_transform,
    check_update,
    due_at,
    key_data,
    refresh,
    remember,
    restart,
    scheduled_masks,
    signals_at,
)
from jaxprune.types import Masks, Params, Step

__all__ = ["StraightThroughState", "forward_params", "straight_through"]


class StraightThroughState(NamedTuple):
    """State of `straight_through`.

    Attributes:
      step: updates done.
      masks: of the next forward pass.
      reach: masks of the weights that receive gradients, `None` at leaves where all do.
      key: bits of the PRNG key, or `None`.
      inner: the wrapped optimizer's state.
      memory: signals that the criteria remember, by keyword.
    """

    step: Any
    masks: Masks
    reach: Masks
    key: jax.Array | None
    inner: optax.OptState
    memory: Any

    __getattr__ = from_inner


def straight_through(
    inner: optax.GradientTransformation,
    method: Method | Partition,
    *,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Trains all weights $w$ by the gradients of the sparse network $w \odot m$.

    The loss is taken at `forward_params(params, opt_state)`, and so are its gradients, which pass the
    masks unchanged: $w \leftarrow w - \eta\, \partial L(w \odot m) / \partial (w \odot m)$. A weight off
    the mask goes on learning and comes back when its score says so. What else reaches it, the method's
    `backward` says: a pull towards zero (SR-STE), or no gradient for the least of them (Top-KAST).

        grads = jax.grad(loss)(jp.forward_params(params, opt_state))

    After each update the masks of the next forward pass are chosen from the new weights, if the schedule
    is due at that step; a schedule that ends with the number of updates chooses those of the trained
    network, `forward_params(params, opt_state)`, too. It must be the outermost transform of what changes
    the parameters: put clipping and decay inside.

    Args:
      inner: any optax optimizer; it sees dense weights.
      method: see `jaxprune.methods`: `ste`, `sr_ste`, `surgery`, `top_kast`; or any other that does not
        grow weights from zero.
      key: PRNG key, for criteria that draw.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not.

    Raises:
      ValueError: if the method grows weights from zero; in `update`, if `params` is missing.

    References:
      Bengio, Léonard & Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
      Conditional Computation" (2013); Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural
      Networks From Scratch" (2021).

    >>> from jaxprune import methods
    >>> tx = straight_through(optax.sgd(0.1), methods.ste(sparsity=0.5, end=10))
    >>> params = {"w": jnp.array([[1.0, -3.0]])}
    >>> state = tx.init(params)
    >>> forward_params(params, state)
    {'w': Array([[ 0., -3.]], dtype=float32)}
    >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, state, params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([[ 0.9, -3.1]], dtype=float32)}
    """
    check_transform("straight_through", inner, method=(method, METHOD))
    checks.check("straight_through", key=(key, checks.optional(checks.KEY)))
    inner = optax.with_extra_args_support(inner)
    memories = remembered(method)
    if any(part.update.challengers is not None for part in method.parts):
        raise ValueError(
            "straight_through: this method grows weights from zero (`regrow`), but here weights off the "
            "masks keep their values; use sparsify(inner, method), or the update `reselect`."
        )

    def scheduled(
        params: Params, masks: Masks, reach: Masks, step: Step, signals: dict[str, Any]
    ) -> tuple[Masks, Masks]:
        """Masks and reach of the step."""

        def widen(part: Method, share: Masks) -> Masks:
            schedule = dataclasses.replace(part.schedule, sparsity=lambda step: _least(part))
            wide = dataclasses.replace(part, schedule=schedule, update=updates_lib.reselect())
            return scheduled_masks(wide, params, share, step, signals, axes=axes)

        return (
            scheduled_masks(method, params, masks, step, signals, axes=axes),
            by_part(method, params, reach, widen),
        )

    def init(params: Params) -> StraightThroughState:
        first, run = (None, None) if key is None else jax.random.split(key)
        masks = initial_masks(method, params, prunable, first, axes)
        nobody = jax.tree.map(lambda p: None, params)
        everybody = lambda part, share: nobody if _least(part) is None else share
        reach = by_part(method, params, jax.tree.map(jnp.ones_like, masks), everybody)
        memory = {name: m.init(params) for name, m in memories.items()}
        signals = dict(memory) if first is None else dict(memory, key=first)
        masks, reach = scheduled(params, masks, reach, 0, signals)
        step = jnp.zeros((), jnp.int32)
        return StraightThroughState(step, masks, reach, key_data(run), inner.init(params), memory)

    def update(
        grads: Params, state: StraightThroughState, params: Params = None, **extra: Any
    ) -> tuple[Params, StraightThroughState]:
        check_update("straight_through", StraightThroughState, grads, state, params)
        memory = remember(memories, state.memory, params, grads)
        pulled = _pulled(method, grads, params, state.masks)
        updates, inner_state = _reaching(inner, pulled, state.inner, params, state.reach, **extra)
        step: Any = optax.safe_increment(state.step)
        signals = signals_at(step, grads, memory, extra, state.key, key)
        trained = optax.apply_updates(params, updates)
        masks, reach = scheduled(trained, state.masks, state.reach, step, signals)
        memory = restart(memories, memory, params, due_at(method, params, step))
        return updates, StraightThroughState(step, masks, reach, state.key, inner_state, memory)

    return at_home(init, update, masks=("masks", "reach"))


def forward_params(params: Params, opt_state: Any) -> Params:
    """Returns the parameters of the forward pass: the sparse network.

    Under `straight_through` these are the parameters with zeros off the masks. Under `sparsify` and
    its like they are the parameters themselves, and so they are for an optimizer without masks: a loop
    that calls this serves all of them.

    Args:
      params: tree of arrays.
      opt_state: state of the optimizer, chains and wrappers around it included.
    """
    found = states_of("forward_params", StraightThroughState, params, opt_state)
    if not found:
        return params
    return masks_lib.apply(
        params, united("forward_params", "straight-through states", [s.masks for s in found])
    )


def _least(part: Method) -> float | None:
    return None if part.backward is None else part.backward.sparsity


def _reaching(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    reach: Masks,
    **extra: Any,
) -> tuple[Params, optax.OptState]:
    """One update of `inner`; weights out of reach stand still, and it knows nothing of them."""
    if not jax.tree.leaves(reach):
        return inner.update(grads, inner_state, params, **extra)
    inner_state = refresh(inner, inner_state, params, reach)
    grads, near = masks_lib.apply(grads, reach), masks_lib.apply(params, reach)
    updates, inner_state = inner.update(grads, inner_state, near, **extra)
    return masks_lib.apply(updates, reach), inner_state


def _pulled(method: Method | Partition, grads: Params, params: Params, masks: Masks) -> Params:
    """Gradients with the pull towards zero off the masks."""
    of_part = [0.0 if part.backward is None else part.backward.decay for part in method.parts]
    decays = [0.0 if owner is None else of_part[owner] for owner in method.owners(params)]

    def pull(g: jax.Array, w: jax.Array, mask: Any, decay: float) -> jax.Array:
        if mask is None or not decay:
            return g
        return jnp.where(mask, g, g + decay * w)

    treedef = jax.tree.structure(params)
    return jax.tree.map(pull, grads, params, masks, treedef.unflatten(decays))
