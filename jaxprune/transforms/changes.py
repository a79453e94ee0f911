"""When masks change in training, and what becomes of a change that cannot be made.

An order needs numbers. A change of masks that is due is held where a gradient is not finite or a unit that
must be ranked has the score NaN: masks and memories stay as they were, and the change is made at the next
update that allows it, after the schedule's end too. Where an `optax.MultiSteps` inside gathers gradients, a
change waits in the same way for the call in which the optimizer moves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from jaxprune import masks as masks_lib
from jaxprune.calls import is_traced
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.method import Method, Partition, by_index, memory_rules_of
from jaxprune.pruning.by_method import change
from jaxprune.pruning.missing_scores import MissingScores, missing_count
from jaxprune.pruning.shards import (
    Specs,
    check_replicated,
    gather_whole,
    is_true_everywhere,
    slice_own_part,
    specs_of,
)
from jaxprune.signals import Memory
from jaxprune.signals.by_keyword import takes_gradients
from jaxprune.transforms.accumulation import Gathering, gathering_of, this_call
from jaxprune.types import Masks, Params, Step

__all__ = [
    "Changed",
    "ObservedGradients",
    "Overdue",
    "all_finite",
    "change_masks",
    "nothing_overdue",
    "observe_gradients",
    "overdue_of",
    "reads_gradients",
    "remember",
    "restart",
    "start_gathering",
]


class Overdue(NamedTuple):
    """Changes of masks that are due and not made yet.

    Attributes:
      pending: per method (one, or those of a partition in their order) a bool scalar: whether a change waits.
      held: int32 scalar, updates at which masks had to change and did not, as a gradient was not finite or a
        score was NaN; the sum over the methods.
    """

    pending: tuple[Any, ...]
    held: Any


def overdue_of(opt_state: Any) -> list[Overdue]:
    """The changes that are overdue in an optimizer state, chains and wrappers around it included."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Overdue))
    return [node for node in nodes if isinstance(node, Overdue)]


class Changed(NamedTuple):
    """The masks after an update, and what is left to do.

    Attributes:
      masks: in force from now on, in the form in which they are stored.
      made: per method, whether its masks have been chosen anew.
      overdue: what is left to do.
    """

    masks: Masks
    made: list[Any]
    overdue: Overdue

    def made_by(self, only: list[bool]) -> jax.Array | bool:
        """Whether any of these methods has made a change."""
        return any_of([done for done, is_meant in zip(self.made, only, strict=True) if is_meant])

    def made_at(self, method: Method | Partition, params: Params) -> list[Any]:
        """Per leaf, whether its mask has been chosen anew."""
        return [False if owner is None else self.made[owner] for owner in method.owners(params)]


def any_of(flags: list[Any]) -> jax.Array | bool:
    """Whether any of these is true; a Python bool if Python can tell."""
    if any(map(is_traced, flags)):
        return jnp.stack([jnp.asarray(flag) for flag in flags]).any()
    return any(map(bool, flags))


def nothing_overdue(method: Method | Partition) -> Overdue:
    """No change waits, and none has been held."""
    return Overdue(tuple(jnp.zeros((), bool) for _ in method.parts), held=jnp.zeros((), jnp.int32))


class ObservedGradients(NamedTuple):
    """The gradients that an update sees, and what follows from them.

    Attributes:
      gradients: of the loss; where an `optax.MultiSteps` inside gathers them, those gathered.
      finite: says whether they are.
      remembered: the signals that are carried from update to update, with this one in them.
      moves: whether the inner optimizer moves in this call; `None`: it always does.
      gathering: the gradients gathered for the next call; `None` where none need be.
    """

    gradients: Params
    finite: Callable[[], jax.Array]
    remembered: dict[str, Any]
    moves: jax.Array | None = None
    gathering: Gathering | None = None


def observe_gradients(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    state: Any,
    params: Params,
    memory_rules: dict[str, Memory],
    masked_gradients: Callable[[], Params],
    specs: Specs = None,
    **extra: Any,
) -> ObservedGradients:
    """Returns the gradients that an update sees; the signals stay as they were where these are not finite.

    Args:
      inner: the wrapped optimizer.
      grads: gradients of this call, off the masks too.
      state: of the transform, with `inner`, `memory` and `gathering`.
      params: tree of arrays.
      memory_rules: how each signal is carried on, by keyword.
      masked_gradients: returns the gradients that `inner` will be given, on the masks alone.
      specs: how the parameters are split inside a `shard_map`.
      **extra: what `inner` is given besides.
    """
    split = specs_of(specs, params)
    call = this_call(inner, masked_gradients, state.inner, params, **extra)
    moves = None if call is None else call.moves
    gradients = grads
    gathering = state.gathering
    if gathering is not None:
        assert call is not None
        gathered = gathering.including(grads).where(call.taken, gathering)
        gradients = gathered.mean
        gathering = gathered.after(call.moves)

    def is_finite() -> jax.Array:
        is_finite_here = all_finite((gradients, gathering_of(state.inner)))
        return is_finite_here if split is None else is_true_everywhere(is_finite_here, split)

    if not any(rule.reads_gradients for rule in memory_rules.values()):
        remembered = remember(memory_rules, state.memory, params, gradients, None)
        return ObservedGradients(gradients, is_finite, remembered, moves, gathering)
    are_finite = is_finite()
    do_count = are_finite if moves is None else are_finite & moves
    remembered = remember(memory_rules, state.memory, params, gradients, do_count)
    return ObservedGradients(gradients, lambda: are_finite, remembered, moves, gathering)


def reads_gradients(method: Method | Partition) -> bool:
    """Whether masks depend on gradients, now or by a memory."""
    criteria = [
        c for member in method.parts for c in (member.criterion, member.update.grow_criterion)
    ]
    memory_rules = memory_rules_of(method).values()
    return any(map(takes_gradients, criteria)) or any(rule.reads_gradients for rule in memory_rules)


def start_gathering(
    method: Method | Partition, inner_state: optax.OptState, params: Params
) -> Gathering | None:
    """Nothing gathered yet, if the optimizer gathers gradients and the method reads any; else `None`."""
    must_gather = bool(gathering_of(inner_state)) and reads_gradients(method)
    return Gathering.start(params) if must_gather else None


def all_finite(tree: Params) -> jax.Array:
    """Whether all floating-point numbers of a tree are finite: a bool scalar."""
    leaves = jax.tree.leaves(tree)
    floating = [leaf for leaf in leaves if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return _all_finite(floating)


@jax.jit  # so that who debugs NaN is not stopped at one that is looked for
def _all_finite(arrays: list[jax.Array]) -> jax.Array:
    # A number less itself is zero if it is finite, and NaN if not: a sum is faster than a conjunction.
    return jnp.stack([jnp.sum(x - x) == 0 for x in arrays] or [jnp.ones((), bool)]).all()


def change_masks(
    method: Method | Partition,
    params: Params,
    masks: Masks,
    step: Step,
    signals: dict[str, Any],
    overdue: Overdue,
    *,
    observed: ObservedGradients,
    stored: Callable[[Masks], Masks] = lambda masks: masks,
    axes: AxesTree | None = None,
    specs: Specs = None,
    dense: bool = False,
) -> Changed:
    """Returns the masks after the changes that are due at `step` or overdue.

    Args:
      method: the method.
      params: tree of arrays.
      masks: as they are stored.
      step: updates done.
      signals: what criteria read, by keyword.
      overdue: what earlier updates have left to do.
      observed: what this update sees of the gradients.
      stored: masks -> the form in which they are stored.
      axes: which axes of the leaves are inputs, outputs and layers.
      specs: how the parameters are split inside a `shard_map`.
      dense: whether weights off the masks keep their values; else they count as zero, whatever is there.
    """
    split = specs_of(specs, params)
    if split is None:
        check_replicated("a change of masks", params)
    known_axes = of_leaves(axes, params)
    made: list[Any] = [False] * len(method.parts)
    pending = list(overdue.pending)
    held_count = overdue.held

    def change_member(index: int, own_masks: Masks) -> Masks:
        nonlocal held_count
        member = method.parts[index]
        is_on_schedule = member.schedule.due(step if is_traced(step) else int(step))
        if is_traced(is_on_schedule) or is_traced(pending[index]):
            is_due = is_on_schedule | pending[index]
        else:
            is_due = bool(is_on_schedule) or bool(pending[index])
        is_tried = is_due if observed.moves is None else is_due & observed.moves

        def try_change() -> tuple[Masks, jax.Array]:
            """The masks from now on, and whether they could be chosen."""
            # A change that is made up for after the end of its schedule is the last one that was due.
            last_step = jnp.minimum(step, member.schedule.end)
            schedule_step = jnp.where(is_on_schedule, step, last_step)
            old_masks = masks_lib.unpack(own_masks)
            are_finite = observed.finite()

            def is_possible(unknown: list[MissingScores]) -> jax.Array:
                is_known = are_finite & (missing_count(unknown) == 0)
                return is_known if split is None else is_true_everywhere(is_known, split)

            # Masks that stay are chosen where new ones are computed, which so need no memory of their own.
            if split is None:
                new_masks, unknown = change(
                    member,
                    params,
                    old_masks,
                    schedule_step,
                    signals,
                    known_axes,
                    dead_are_zero=not dense,
                    only_if=is_possible,
                )
                return stored(new_masks), is_possible(unknown)
            new_masks, unknown = change(
                member,
                gather_whole(params, split),
                gather_whole(old_masks, split),
                schedule_step,
                {name: _whole_signal(x, params, split) for name, x in signals.items()},
                known_axes,
                dead_are_zero=not dense,
                only_if=is_possible,
            )
            return stored(slice_own_part(new_masks, split)), is_possible(unknown)

        if is_traced(is_tried):
            after, is_done = jax.lax.cond(
                is_tried, try_change, lambda: (own_masks, jnp.zeros((), bool))
            )
        else:
            after, is_done = try_change() if bool(is_tried) else (own_masks, False)
        made[index] = is_done
        if not is_traced(is_due) and not bool(is_due):
            return after  # nothing was to be done, and nothing is left
        pending[index] = jnp.asarray(is_due) & ~jnp.asarray(is_done)
        held_count = held_count + (jnp.asarray(is_tried) & ~jnp.asarray(is_done))
        return after

    after = by_index(method, params, masks, change_member)
    return Changed(after, made, Overdue(tuple(pending), held_count))


def _whole_signal(signal: Any, params: Params, split: list[PartitionSpec]) -> Any:
    """A signal with one number per weight, of the whole parameters; any other as it is."""
    leaves, treedef = jax.tree.flatten(signal)
    is_like_params = treedef == jax.tree.structure(params) and all(
        jnp.shape(leaf) == jnp.shape(param)
        for leaf, param in zip(leaves, jax.tree.leaves(params), strict=True)
    )
    return gather_whole(signal, split) if is_like_params else signal


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees of equal structure."""
    if is_traced(condition):
        return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
    return new if bool(condition) else old


def remember(
    memory_rules: dict[str, Memory],
    remembered: dict[str, Any],
    params: Params,
    grads: Params,
    when: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns the signals with this update in them.

    Args:
      memory_rules: how each signal is carried on, by keyword.
      remembered: the signals, by keyword.
      params: tree of arrays.
      grads: gradients of the loss, off the masks too.
      when: whether the gradients count at all; a memory that reads none is carried on in any case. `None`:
        they do.
    """

    def new_signal(name: str, rule: Memory) -> Any:
        if rule.reads_gradients and when is not None:
            if not is_traced(when) and not bool(when):
                return remembered[name]
            return _choose(when, rule.update(remembered[name], params, grads), remembered[name])
        return rule.update(remembered[name], params, grads)

    return {name: new_signal(name, rule) for name, rule in memory_rules.items()}


def restart(
    memory_rules: dict[str, Memory], remembered: dict[str, Any], params: Params, made: list[Any]
) -> dict[str, Any]:
    """Returns the signals for the next update: those that restart begin anew where masks have changed.

    Args:
      memory_rules: how each signal is carried on, by keyword.
      remembered: the signals, by keyword.
      params: tree of arrays.
      made: per leaf of `params`, whether its mask has been chosen anew.
    """

    def restart_leaves(signal: Any, rule: Memory) -> Any:
        leaves, treedef = jax.tree.flatten(signal)
        rows = zip(made, jax.tree.leaves(rule.init(params)), leaves, strict=True)
        return treedef.unflatten(
            jnp.where(is_made, fresh, carried) for is_made, fresh, carried in rows
        )

    return {
        name: restart_leaves(remembered[name], rule) if rule.restarts else remembered[name]
        for name, rule in memory_rules.items()
    }
