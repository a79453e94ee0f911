"""Sparse training around any optax optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, memory_rules_of
from jaxprune.pruning.by_method import initial_masks
from jaxprune.pruning.shards import Specs
from jaxprune.transforms.accumulation import Gathering
from jaxprune.transforms.changes import (
    change_masks,
    nothing_overdue,
    observe_gradients,
    restart,
    start_gathering,
)
from jaxprune.transforms.checking import (
    check_inner,
    check_method,
    check_packing,
    check_transform,
    check_update,
)
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.frozen import frozen_leaves
from jaxprune.transforms.masked_step import key_data, masked_step, signals_at
from jaxprune.types import Masks, Params

__all__ = ["SparseState", "fixed", "sparsify"]


class SparseState(NamedTuple):
    """State of `sparsify` and `fixed`.

    Attributes:
      step: updates done.
      masks: the current masks.
      key: bits of the PRNG key, or `None`.
      inner: the wrapped optimizer's state.
      memory: signals that the criteria remember, by keyword.
      overdue: changes of masks that are due and not made yet; `()` where masks never change.
      gathering: gradients gathered until the inner optimizer moves, where a `MultiSteps` in it makes it wait
        and the method reads gradients: as large as the parameters, in float32. Else `None`.
    """

    step: Any
    masks: Masks
    key: jax.Array | None
    inner: optax.OptState
    memory: Any = ()
    overdue: Any = ()
    gathering: Gathering | None = None

    __getattr__ = from_inner


def sparsify(
    inner: optax.GradientTransformation,
    method: Method | Partition,
    *,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    masks: Masks | None = None,
    packed: bool = False,
    axes: AxesTree | None = None,
    specs: Specs = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a transform that trains with `method`: parameters stay exactly zero off the masks.

    The training loop stays the same. Each update does the following, in this order. If the schedule is due,
    the masks change. The gradients are masked, and `inner` computes its updates. Off the masks these are
    replaced by updates that set the weights to exactly zero, and the state of `inner` is set to what
    `inner.init` gives, so that no momentum remains for weights that return later. The learning-rate schedule
    of `inner` counts every update.

    If a gradient is not finite, or the score of a kept weight is NaN, a change of the masks that is due is
    held: masks and memories stay as they were, and the change is made at the first later update without such
    values (`jaxprune.recorded`, put around it, counts the updates at which a change was held). While
    gradients are accumulated, one that is not finite spoils
    the whole sum.

    A weight that is NaN or infinite when it is removed does not become zero, because `w + (-w)` is NaN then.
    `jaxprune.masks.check` finds such weights, and `params = jaxprune.masks.apply(params, masks)` sets them to
    zero. The wrapped optimizer does not see them: it is given zeros off the masks.

    It must be the outermost of the transforms that change the parameters: put clipping and weight decay
    inside. Gradient accumulation works on either side. In `optax.MultiSteps(sparsify(...), k)` a step is one
    update of the parameters. In `sparsify(optax.MultiSteps(...), ...)` a step is one call of `update`: a
    change of the masks that is due waits for the call in which the optimizer changes the parameters, and the
    criterion and all memories read the accumulated gradients. Extra arguments of `update` are passed to the
    criterion, as signals, and to `inner`.

    Args:
      inner: any optax optimizer.
      method: one of `jaxprune.methods`, or your own `jaxprune.Method`; `jaxprune.partition` gives different
        leaves different methods.
      key: PRNG key, for methods that draw: random criteria, SET, RigL, static.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`). Leaves that `inner` freezes
        (`optax.set_to_zero`, `optax.freeze`) stay as they are.
      masks: masks to start from, with `None` at leaves that are never pruned: those of a sparse checkpoint
        (`jaxprune.masks.of_zeros`), or of an earlier stage. They replace the method's first masks, and are
        copied. `None`: the method's own.
      packed: store the masks in one bit per weight.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.
      specs: in a hand-written `jax.shard_map` whose parameters are split between devices, their
        `PartitionSpec`s: one for all, or a tree like the parameters. Masks are then chosen from the whole
        parameters, which each device gathers for that. Without `specs`, split parameters are refused in a
        `shard_map`. Under `jax.jit` leave it out: arrays know their sharding.

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
    checks.check("sparsify", masks=(masks, checks.optional(masks_lib.MASKS)))
    checks.check(
        "sparsify", key=(key, checks.optional(checks.KEY)), packed=(packed, checks.BOOLEAN)
    )
    if packed and specs is not None:
        raise ValueError(
            "sparsify: packed masks know their own shape and cannot be split by a shard_map; give one of "
            "packed=True and specs=."
        )
    inner = optax.with_extra_args_support(inner)
    stored = masks_lib.pack if packed else lambda masks: masks
    memory_rules = memory_rules_of(method)
    if method.straight_through:
        raise ValueError(
            "sparsify: this method trains the weights off its masks too, which `sparsify` would set to zero; "
            "use straight_through(inner, method), with the gradients taken at forward_params(params, state)."
        )

    # Before the first update the weights off the masks may not be zero: nobody has to mask them.
    first_updates = [member.update for member in method.parts if bool(member.schedule.due(0))]
    may_grow_at_once = any(
        update.ranks_dead_units or update.grow_criterion is not None for update in first_updates
    )

    def init(params: Params) -> SparseState:
        first_key, run_key = (None, None) if key is None else jax.random.split(key)
        first_masks = initial_masks(
            method,
            params,
            prunable,
            first_key,
            axes,
            frozen=frozen_leaves(inner, params),
            given=masks,
        )
        masked_params = masks_lib.apply(params, first_masks)
        inner_state = inner.init(params)
        return SparseState(
            jnp.zeros((), jnp.int32),
            stored(first_masks),
            key_data(run_key),
            inner_state,
            {name: rule.init(masked_params) for name, rule in memory_rules.items()},
            nothing_overdue(method),
            start_gathering(method, inner_state, params),
        )

    def update(
        grads: Params, state: SparseState, params: Params = None, **extra: Any
    ) -> tuple[Params, SparseState]:
        check_update("sparsify", SparseState, grads, state, params)
        check_inner("sparsify", inner, state.inner, params)
        check_method("sparsify", method, state, memory_rules, key)
        check_packing("sparsify", state.masks, packed)
        observed = observe_gradients(
            inner,
            grads,
            state,
            params,
            memory_rules,
            lambda: masks_lib.apply(grads, state.masks),
            specs,
            **extra,
        )
        signals = signals_at(
            state.step, observed.gradients, observed.remembered, extra, state.key, key
        )
        changed = change_masks(
            method,
            params,
            state.masks,
            state.step,
            signals,
            state.overdue,
            observed=observed,
            stored=stored,
            axes=axes,
            specs=specs,
        )
        updates, inner_state = masked_step(
            inner,
            grads,
            state.inner,
            params,
            changed.masks,
            skip=changed.made_by([member.update.skip_gradient for member in method.parts]),
            before=state.masks if may_grow_at_once else None,
            **extra,
        )
        remembered = restart(
            memory_rules, observed.remembered, params, changed.made_at(method, params)
        )
        step = optax.safe_increment(state.step)
        return updates, SparseState(
            step,
            changed.masks,
            state.key,
            inner_state,
            remembered,
            changed.overdue,
            observed.gathering,
        )

    return at_home(init, update, masks=("masks",))


def fixed(
    inner: optax.GradientTransformation, masks: Masks
) -> optax.GradientTransformationExtraArgs:
    """Returns a transform that trains with given masks, which never change: from `jaxprune.prune` or a file.

    Args:
      inner: any optax optimizer.
      masks: bool arrays, `None` at leaves without a mask; packed masks stay packed.

    Returns:
      A gradient transformation whose `update` needs `params`. Read its masks with `jaxprune.masks_of`.

    Raises:
      ValueError: in `init`, if the masks fit other leaves or shapes; in `update`, if `params` is missing.

    >>> tx = fixed(optax.sgd(0.1), {"w": jnp.array([True, False])})
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.9, 0. ], dtype=float32)}
    """
    check_transform("fixed", inner, masks=(masks, masks_lib.MASKS))
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SparseState:
        masks_lib.validate(params, masks)
        # A step may donate these, but not the caller's.
        copied_masks = jax.tree.map(jnp.copy, masks)
        return SparseState(jnp.zeros((), jnp.int32), copied_masks, None, inner.init(params))

    def update(
        grads: Params, state: SparseState, params: Params = None, **extra: Any
    ) -> tuple[Params, SparseState]:
        check_update("fixed", SparseState, grads, state, params)
        check_inner("fixed", inner, state.inner, params)
        updates, inner_state = masked_step(inner, grads, state.inner, params, state.masks, **extra)
        step = optax.safe_increment(state.step)
        return updates, SparseState(step, state.masks, None, inner_state)

    return at_home(init, update, masks=("masks",))
