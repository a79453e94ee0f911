"""Iterative pruning with rewinding as one optax transform: a whole lottery ticket in a plain loop."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune.calls import is_traced
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.lottery.plan import PLAN, Plan
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, by_index, by_member, memory_rules_of
from jaxprune.pruning.by_method import change, initial_masks
from jaxprune.pruning.fit import check_rounds
from jaxprune.pruning.missing_scores import MissingScores, missing_count
from jaxprune.pruning.shards import check_replicated
from jaxprune.transforms.changes import Overdue, all_finite, nothing_overdue, remember
from jaxprune.transforms.checking import (
    check_inner,
    check_method,
    check_transform,
    check_update,
)
from jaxprune.transforms.chosen_state import replace_in_place, select
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.frozen import frozen_leaves
from jaxprune.transforms.line_search import forget_evaluations
from jaxprune.transforms.masked_step import key_data, land, masked_step, refresh, signals_at
from jaxprune.transforms.mirrored_state import mirrors
from jaxprune.types import Masks, Params

__all__ = ["LotteryState", "lottery_ticket"]


def __dir__() -> list[str]:
    return sorted(__all__)


class LotteryState(NamedTuple):
    """State of `lottery_ticket`.

    Attributes:
      step: updates of the plan that are done; a round of pruning that is held does not count.
      masks: the current masks.
      key: bits of the criterion's PRNG key, or `None`.
      inner: the wrapped optimizer's state.
      point: the rewinding point: (parameters, inner state), with `None` for what is never rewound; zeros
        until training has reached it.
      memory: signals that the criterion remembers, by keyword; each level starts them anew.
      overdue: whether a round of pruning is held, and how many updates have been lost by waiting.
    """

    step: Any
    masks: Masks
    key: jax.Array | None
    inner: optax.OptState
    point: Any
    memory: Any = ()
    overdue: Any = ()

    __getattr__ = from_inner

    goes_back = True  # its parameters are set back, which no average of them may mix


def lottery_ticket(
    inner: optax.GradientTransformation,
    method: Method | Partition,
    plan: Plan,
    *,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    masks: Masks | None = None,
    axes: AxesTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a transform that trains, prunes and rewinds by `plan`, in `plan.total_updates` updates.

    Args:
      inner: any optax optimizer; its schedules run over one level. The plan counts calls: with an
        `optax.MultiSteps` inside, `round_steps` are micro-batches, and a criterion that reads gradients sees
        one of them; around the ticket, `optax.MultiSteps(lottery_ticket(...), k)`, they are updates.
      method: how each round prunes. Its sparsity is a fraction of the weights that are left, and its schedule
        is read at the index of the round instead of the update: `magnitude(sparsity=0.2)` removes a fifth of
        what is left in each round.
      plan: when to train, prune and rewind.
      key: PRNG key, for criteria that draw.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`). Leaves that `inner` freezes
        (`optax.set_to_zero`, `optax.freeze`) stay as they are.
      masks: masks to start from, so that all levels keep no other weights; `None` at leaves that are never
        pruned; they are copied. `None`: level 0 is dense.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves are taken for `[inputs, outputs]` or `[h, w, inputs, outputs]`, others are refused if
        that matters.

    Returns:
      A gradient transformation. Parameters that are never pruned (biases) rewind as well. A round of pruning
      for which a gradient is not finite, or the score of a living weight is NaN, is held: the update changes
      nothing, and the next one tries again.

    Raises:
      ValueError: if the method starts sparse, brings weights back, or removes nothing in one of the rounds,
        for example because a fraction of the few weights in a contest (N:M) rounds to none.

    References:
      Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks" (2019);
      Frankle, Dziugaite, Roy & Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (2020);
      Renda, Frankle & Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning" (2020).

    >>> from jaxprune import masks_of, methods
    >>> plan = Plan(round_steps=2, rounds=1)
    >>> tx = lottery_ticket(optax.sgd(0.5), methods.magnitude(sparsity=0.5), plan)
    >>> start = params = {"w": jnp.array([[1.0, -3.0]])}
    >>> state = tx.init(params)
    >>> for _ in range(plan.level_start(1)):  # trains twice, prunes, rewinds
    ...     updates, state = tx.update({"w": jnp.ones((1, 2))}, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> params, masks_of(state)  # 1 - 2 * 0.5 is smaller than -3 - 2 * 0.5
    ({'w': Array([[ 0., -3.]], dtype=float32)}, {'w': Array([[False,  True]], dtype=bool)})
    """
    check_transform("lottery_ticket", inner, method=(method, METHOD), plan=(plan, PLAN))
    checks.check("lottery_ticket", masks=(masks, checks.optional(masks_lib.MASKS)))
    checks.check("lottery_ticket", key=(key, checks.optional(checks.KEY)))
    inner = optax.with_extra_args_support(inner)
    memory_rules = memory_rules_of(method)
    if any(member.initial is not None for member in method.parts):
        raise ValueError(
            "lottery_ticket: the method starts sparse, but level 0 is the dense network."
        )
    if method.straight_through:
        raise ValueError(
            "lottery_ticket: the method trains weights off its masks, but those of a ticket are zero; "
            "give one that prunes, such as magnitude(sparsity=0.2)."
        )
    member_updates = [member.update for member in method.parts]
    if any(update.ranks_dead_units or update.grow_criterion for update in member_updates):
        raise ValueError(
            "lottery_ticket: the method brings dead weights back, but each ticket is a part of the one "
            "before; give one that prunes, such as magnitude(sparsity=0.2)."
        )
    with jax.ensure_compile_time_eval():
        sparsities = {
            index: [float(member.schedule.sparsity(index)) for member in method.parts]
            for index in range(plan.rounds)
        }
        idle_rounds = [index for index, of_parts in sparsities.items() if not min(of_parts) > 0]
    if idle_rounds:
        first_rounds = idle_rounds[:5]
        raise ValueError(
            f"lottery_ticket: the method's schedule removes nothing in the rounds {first_rounds}; it is read "
            "at the number of the round, from 0: give one_shot(sparsity=0.2), for example."
        )

    def check_plan(params: Params, member: Method, own_masks: Masks) -> Masks:
        """The masks, if no round of the plan takes nothing, or all, of the contests of a leaf."""
        with jax.ensure_compile_time_eval():
            rates = [float(member.schedule.sparsity(index)) for index in range(plan.rounds)]
        leaf_axes = of_leaves(axes, params)
        is_dense = masks is None
        check_rounds(
            member.pattern, member.allocation, rates, params, own_masks, leaf_axes, dense=is_dense
        )
        return own_masks

    def rewinding_point(params: Params, inner_state: optax.OptState) -> Any:
        """The parameters and inner state that go back to the rewinding point; `None` for what does not."""
        if plan.rewind == "weights":
            return params, inner_state
        if plan.rewind == "learning_rate":
            leaves, treedef = jax.tree.flatten(inner_state, is_leaf=trees.is_box)
            pairs = zip(mirrors(params, inner_state), leaves, strict=True)
            # Moments may have shapes of their own, as factored ones do; counts and rates are single numbers.
            counts = [
                leaf if index is None and jnp.ndim(trees.unboxed(leaf)) == 0 else None
                for index, leaf in pairs
            ]
            return None, treedef.unflatten(counts)
        return None, None

    def init(params: Params) -> LotteryState:
        first_masks = initial_masks(
            method,
            params,
            prunable,
            key,
            axes,
            frozen=frozen_leaves(inner, params),
            given=masks,
            who="lottery_ticket",
        )
        by_member(method, params, first_masks, functools.partial(check_plan, params))
        inner_state = inner.init(params)
        point = jax.tree.map(jnp.zeros_like, rewinding_point(params, inner_state))
        remembered = {name: rule.init(params) for name, rule in memory_rules.items()}
        return LotteryState(
            jnp.zeros((), jnp.int32),
            first_masks,
            key_data(key),
            inner_state,
            point,
            remembered,
            nothing_overdue(method)._replace(pending=(jnp.zeros((), bool),)),
        )

    def update(
        grads: Params, state: LotteryState, params: Params = None, **extra: Any
    ) -> tuple[Params, LotteryState]:
        check_update("lottery_ticket", LotteryState, grads, state, params)
        check_inner("lottery_ticket", inner, state.inner, params)
        check_method("lottery_ticket", method, state, memory_rules, key)
        check_replicated("lottery_ticket", params)
        known_axes = of_leaves(axes, params)
        steps_after_first = state.step - plan.round_steps  # of the first level
        # Rounds of pruning done or begun before.
        level = jnp.where(steps_after_first < 0, 0, steps_after_first // plan.cycle)
        is_training = (steps_after_first < 0) | (level >= plan.rounds)
        phase = jnp.where(is_training, plan.pause, steps_after_first % plan.cycle)
        phase = jnp.minimum(phase, plan.pause)

        reads_gradients = any(rule.reads_gradients for rule in memory_rules.values())
        gradients_count = all_finite(grads) if reads_gradients else None
        remembered = remember(memory_rules, state.memory, params, grads, gradients_count)

        def choose_masks() -> tuple[Masks, jax.Array]:
            """The masks after a round of pruning, and whether they could be chosen."""
            signals = signals_at(level, grads, remembered, extra, state.key, key)
            unknown: list[MissingScores] = []

            def choose(index: int, own_masks: Masks) -> Masks:
                member_masks, missing = change(
                    method.parts[index], params, own_masks, level, signals, known_axes, True
                )
                unknown.extend(missing)
                return member_masks

            chosen = by_index(method, params, state.masks, choose)
            is_known = all_finite(grads) & (missing_count(unknown) == 0)
            new_masks = jax.tree.map(lambda n, o: jnp.where(is_known, n, o), chosen, state.masks)
            return new_masks, is_known

        masks, is_made = _choose_lazily(
            phase == 0, choose_masks, lambda: (state.masks, jnp.ones((), bool))
        )
        point = replace_in_place(
            state.step == plan.rewind_to,
            # Copied: nobody else's arrays.
            lambda: jax.tree.map(jnp.copy, rewinding_point(params, state.inner)),
            state.point,
        )

        def prune() -> tuple[Params, optax.OptState]:
            pruned_state = refresh(inner, state.inner, params, masks)
            if plan.rewind == "weights":
                updates_to_zero = jax.tree.map(
                    lambda p: jnp.where(is_made, _negative(p), jnp.zeros_like(p)), params
                )
                return updates_to_zero, pruned_state
            if plan.rewind == "learning_rate":
                pruned_state = jax.tree.map(
                    lambda rewound, current: jnp.where(is_made, rewound, current),
                    _counts_from(point[1], pruned_state),
                    pruned_state,
                )
                pruned_state = forget_evaluations(pruned_state)  # of the rewinding point
            return land(jax.tree.map(jnp.zeros_like, params), params, masks), pruned_state

        def rewind() -> tuple[Params, optax.OptState]:
            weights, inner_state = point
            updates_from_zero = jax.tree.map(_from_zero, masks_lib.apply(weights, masks))
            return updates_from_zero, refresh(inner, inner_state, weights, masks)

        pauses = [prune, rewind][: plan.pause]
        if not is_traced(phase) and int(phase) < plan.pause:
            updates, inner_state = pauses[int(phase)]()
        else:
            cases = [pause() for pause in pauses] if is_traced(phase) else []

            def choose_state(trained: optax.OptState) -> optax.OptState:
                return select(phase, [*(paused for _, paused in cases), trained])

            updates, inner_state = masked_step(
                inner,
                grads,
                state.inner,
                params,
                masks,
                choose=choose_state if cases else None,
                **extra,
            )
            updates = _in_dtypes_of(params, updates)
            updates = select(phase, [*(paused for paused, _ in cases), updates])
        if memory_rules:
            new_params = optax.apply_updates(params, updates)
            fresh_signals = {name: rule.init(new_params) for name, rule in memory_rules.items()}
            is_level_start = is_made & (phase == plan.pause - 1)
            remembered = jax.tree.map(
                lambda new, old: jnp.where(is_level_start, new, old), fresh_signals, remembered
            )
        overdue = Overdue((~is_made,), state.overdue.held + ~is_made)
        step = jnp.where(is_made, optax.safe_increment(state.step), state.step)
        new_state = LotteryState(step, masks, state.key, inner_state, point, remembered, overdue)
        return updates, new_state

    return at_home(init, update, masks=("masks",))


def _negative(leaf: jax.Array) -> jax.Array:
    """The update that takes a leaf to zero; booleans cannot be added away, and stay."""
    return jnp.zeros_like(leaf) if leaf.dtype == bool else -leaf


def _from_zero(leaf: jax.Array) -> jax.Array:
    """The update that takes zero to a leaf; booleans have stayed."""
    return jnp.zeros_like(leaf) if leaf.dtype == bool else leaf


def _choose_lazily(condition: jax.Array, true: Callable[[], Any], false: Callable[[], Any]) -> Any:
    """One of two trees, decided by Python where it can tell."""
    if is_traced(condition):
        return jax.lax.cond(condition, true, false)
    return true() if bool(condition) else false()


def _counts_from(point: Any, inner_state: Any) -> Any:
    """Takes what `point` holds and the rest, moments and their like, from `inner_state`."""
    return jax.tree.map(
        lambda kept, now: now if kept is None else kept,
        point,
        inner_state,
        is_leaf=lambda x: x is None,
    )


def _in_dtypes_of(params: Params, updates: Params) -> Params:
    """Updates in the parameters' dtypes, which the branches of one step must share."""
    return jax.tree.map(lambda u, p: u.astype(p.dtype), updates, params)
