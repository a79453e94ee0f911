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
from jaxprune.method import METHOD, Method, Partition, by_index, by_member, memory_rules_of
from jaxprune.pruning.by_method import initial_masks
from jaxprune.pruning.shards import Specs
from jaxprune.transforms.accumulation import Gathering
from jaxprune.transforms.changes import (
    Changed,
    ObservedGradients,
    Overdue,
    change_masks,
    nothing_overdue,
    observe_gradients,
    restart,
    start_gathering,
)
from jaxprune.transforms.checking import (
    check_inner,
    check_method,
    check_transform,
    check_update,
)
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.frozen import frozen_leaves
from jaxprune.transforms.line_search import forget_evaluations
from jaxprune.transforms.masked_step import key_data, refresh, signals_at
from jaxprune.transforms.reading import states_of, united
from jaxprune.types import Masks, Params, Step

__all__ = ["StraightThroughState", "forward_params", "straight_through"]


class StraightThroughState(NamedTuple):
    """State of `straight_through`.

    Attributes:
      step: number of updates done.
      masks: masks of the next forward pass.
      reach: masks of the weights that receive gradients, `None` at leaves where all weights do.
      key: bits of the PRNG key, or `None`.
      inner: the wrapped optimizer's state.
      memory: signals that the criteria remember, by keyword.
      overdue: changes of masks that are due and not made yet.
      gathering: gradients gathered until the inner optimizer moves (see `SparseState`).
    """

    step: Any
    masks: Masks
    reach: Masks
    key: jax.Array | None
    inner: optax.OptState
    memory: Any
    overdue: Overdue
    gathering: Gathering | None = None

    __getattr__ = from_inner


def straight_through(
    inner: optax.GradientTransformation,
    method: Method | Partition,
    *,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    masks: Masks | None = None,
    axes: AxesTree | None = None,
    specs: Specs = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that trains all weights $w$ by the gradients of the sparse network $w \odot m$.

    Compute the loss and its gradients at `forward_params(params, opt_state)`. The gradient with respect to
    the sparse weights updates all weights, with plain SGD as
    $w \leftarrow w - \eta\, \partial L(w \odot m) / \partial (w \odot m)$.
    A weight off the mask is trained further, and is used again when its score is high
    enough. The method's `backward` may change its gradient: SR-STE adds a decay towards zero, Top-KAST gives
    the smallest weights no gradient.

        grads = jax.grad(loss)(jp.forward_params(params, opt_state))

    After each update, if the schedule is due at that step, the masks of the next forward pass are chosen from
    the new weights. If the schedule's `end` is the number of updates, this includes the masks of the trained
    network, `forward_params(params, opt_state)`. It must be the outermost of the transforms that change the
    parameters: put clipping and weight decay inside.

    Args:
      inner: any optax optimizer; it sees dense weights.
      method: see `jaxprune.methods`: `ste`, `sr_ste`, `surgery`, `top_kast`; or any other that does not
        grow weights from zero.
      key: PRNG key, for criteria that draw.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`). Leaves that `inner` freezes
        (`optax.set_to_zero`, `optax.freeze`) stay as they are.
      masks: masks to start from, with `None` at leaves that are never pruned. If the schedule begins at step
        0, as that of `ste` does, they only say which leaves may be pruned, and `init` chooses new masks;
        otherwise they are used until the schedule is due. They are copied. `None`: the method's own.
      axes: which axes of the leaves are inputs, outputs and layers, from
        `jaxprune.axes(apply, params, *inputs)`. `None`: a leaf with two axes counts as `[inputs, outputs]`,
        one with four axes and a small window as `[h, w, inputs, outputs]`; other leaves are refused if inputs
        and outputs matter.
      specs: how the parameters are split inside a hand-written `jax.shard_map` (see `sparsify`).

    Returns:
      A gradient transformation whose `update` needs `params`; `forward_params` returns the parameters for the
      loss.

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
    checks.check("straight_through", masks=(masks, checks.optional(masks_lib.MASKS)))
    checks.check("straight_through", key=(key, checks.optional(checks.KEY)))
    inner = optax.with_extra_args_support(inner)
    memory_rules = memory_rules_of(method)
    if any(member.update.grow_criterion is not None for member in method.parts):
        raise ValueError(
            "straight_through: this method grows weights from zero (`regrow`), but here weights off the "
            "masks keep their values; use sparsify(inner, method), or the update `reselect`."
        )

    def change_at_step(
        params: Params,
        masks: Masks,
        reach: Masks,
        step: Step,
        signals: dict[str, Any],
        overdue: Overdue,
        observed: ObservedGradients,
    ) -> tuple[Changed, Masks]:
        """The change of masks at this step, and the reach after it."""

        def change_reach(index: int, own_masks: Masks) -> Masks:
            member = method.parts[index]
            schedule = dataclasses.replace(
                member.schedule, sparsity=lambda step: _backward_sparsity(member)
            )
            wide = dataclasses.replace(member, schedule=schedule, update=updates_lib.reselect())
            pending = overdue._replace(pending=(overdue.pending[index],))
            return change_masks(
                wide,
                params,
                own_masks,
                step,
                signals,
                pending,
                observed=observed,
                axes=axes,
                specs=specs,
                dense=True,
            ).masks

        changed = change_masks(
            method,
            params,
            masks,
            step,
            signals,
            overdue,
            observed=observed,
            axes=axes,
            specs=specs,
            dense=True,
        )
        return changed, by_index(method, params, reach, change_reach)

    def init(params: Params) -> StraightThroughState:
        first_key, run_key = (None, None) if key is None else jax.random.split(key)
        first_masks = initial_masks(
            method,
            params,
            prunable,
            first_key,
            axes,
            frozen=frozen_leaves(inner, params),
            given=masks,
            who="straight_through",
        )
        no_masks = jax.tree.map(lambda p: None, params)

        def first_reach(member: Method, own_masks: Masks) -> Masks:
            # `None`: all weights of this member's leaves receive gradients.
            return no_masks if _backward_sparsity(member) is None else own_masks

        reach = by_member(method, params, jax.tree.map(jnp.ones_like, first_masks), first_reach)
        remembered = {name: rule.init(params) for name, rule in memory_rules.items()}
        signals = dict(remembered) if first_key is None else dict(remembered, key=first_key)
        nothing_observed = ObservedGradients(params, lambda: jnp.ones((), bool), remembered)
        changed, reach = change_at_step(
            params, first_masks, reach, 0, signals, nothing_overdue(method), nothing_observed
        )
        step = jnp.zeros((), jnp.int32)
        inner_state = inner.init(params)
        return StraightThroughState(
            step,
            changed.masks,
            reach,
            key_data(run_key),
            inner_state,
            remembered,
            changed.overdue,
            start_gathering(method, inner_state, params),
        )

    def update(
        grads: Params, state: StraightThroughState, params: Params = None, **extra: Any
    ) -> tuple[Params, StraightThroughState]:
        check_update("straight_through", StraightThroughState, grads, state, params)
        check_inner("straight_through", inner, state.inner, params)
        check_method("straight_through", method, state, memory_rules, key)
        pulled_grads = _pull_to_zero(method, grads, params, state.masks)
        observed = observe_gradients(
            inner,
            grads,
            state,
            params,
            memory_rules,
            lambda: masks_lib.apply(pulled_grads, state.reach),
            specs,
            **extra,
        )
        updates, inner_state = _update_within(
            inner, pulled_grads, state.inner, params, state.reach, **extra
        )
        # A line search has not stopped where the next gradient is taken: at the sparse network.
        inner_state = forget_evaluations(inner_state)
        step: Any = optax.safe_increment(state.step)
        signals = signals_at(step, observed.gradients, observed.remembered, extra, state.key, key)
        new_params = optax.apply_updates(params, updates)
        changed, reach = change_at_step(
            new_params, state.masks, state.reach, step, signals, state.overdue, observed
        )
        remembered = restart(
            memory_rules, observed.remembered, params, changed.made_at(method, params)
        )
        return updates, StraightThroughState(
            step,
            changed.masks,
            reach,
            state.key,
            inner_state,
            remembered,
            changed.overdue,
            observed.gathering,
        )

    return at_home(init, update, masks=("masks", "reach"))


def forward_params(params: Params, opt_state: Any) -> Params:
    """Returns the parameters for the forward pass: the sparse network.

    For a state of `straight_through` these are the parameters with zeros off the masks. For `sparsify`, the
    other transforms and optimizers without masks they are the parameters themselves, so that one loop can
    serve all of them.

    Args:
      params: tree of arrays.
      opt_state: state of the optimizer, chains and wrappers around it included.

    Returns:
      A tree like `params`; it shares their arrays where nothing is masked.

    >>> from jaxprune import methods
    >>> params = {"w": jnp.array([[1.0, -3.0]])}
    >>> tx = straight_through(optax.sgd(0.1), methods.ste(sparsity=0.5, end=10))
    >>> forward_params(params, tx.init(params))
    {'w': Array([[ 0., -3.]], dtype=float32)}
    """
    states = states_of("forward_params", StraightThroughState, params, opt_state)
    if not states:
        return params
    masks = [state.masks for state in states]
    return masks_lib.apply(params, united("forward_params", "straight-through states", masks))


def _backward_sparsity(member: Method) -> float | None:
    """The fraction of the weights that receive no gradient; `None`: all receive theirs."""
    return None if member.backward is None else member.backward.sparsity


def _update_within(
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
    grads_within = masks_lib.apply(grads, reach)
    params_within = masks_lib.apply(params, reach)
    updates, inner_state = inner.update(grads_within, inner_state, params_within, **extra)
    return masks_lib.apply(updates, reach), inner_state


def _pull_to_zero(
    method: Method | Partition, grads: Params, params: Params, masks: Masks
) -> Params:
    """Gradients with the pull towards zero off the masks."""
    member_decays = [
        0.0 if member.backward is None else member.backward.decay for member in method.parts
    ]
    leaf_decays = [
        0.0 if owner is None else member_decays[owner] for owner in method.owners(params)
    ]

    def pull(grad: jax.Array, weights: jax.Array, mask: Any, decay: float) -> jax.Array:
        if mask is None or not decay:
            return grad
        return jnp.where(mask, grad, grad + decay * weights)

    treedef = jax.tree.structure(params)
    return jax.tree.map(pull, grads, params, masks, treedef.unflatten(leaf_decays))
