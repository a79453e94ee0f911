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
from jax.core import Tracer
from jax.sharding import PartitionSpec

from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.method import Method, Partition, by_index, memories_of
from jaxprune.pruning import change
from jaxprune.shards import (
    Specs,
    check_replicated,
    gather_whole,
    is_true_everywhere,
    slice_own_part,
    specs_of,
)
from jaxprune.signals import Memory
from jaxprune.signals.gatherers import takes_gradients
from jaxprune.transforms.accumulation import Gathering, gathering_of, this_call
from jaxprune.types import Masks, Params, Step

__all__ = [
    "Changed",
    "Overdue",
    "Seen",
    "all_finite",
    "change_masks",
    "concrete",
    "nothing_overdue",
    "overdue_of",
    "reads_gradients",
    "remember",
    "restart",
    "see",
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
    holds = lambda node: isinstance(node, Overdue)
    return [node for node in jax.tree.leaves(opt_state, is_leaf=holds) if holds(node)]


class Changed(NamedTuple):
    """What an update makes of the masks.

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
        made = [done for done, meant in zip(self.made, only, strict=True) if meant]
        return any_of(made)

    def made_at(self, method: Method | Partition, params: Params) -> list[Any]:
        """Per leaf, whether its mask has been chosen anew."""
        return [False if owner is None else self.made[owner] for owner in method.owners(params)]


def concrete(x: Any) -> bool:
    """Whether a value is known now, outside of any trace, so that Python can decide by it."""
    return not isinstance(x, Tracer)


def any_of(flags: list[Any]) -> jax.Array | bool:
    """Whether any of these is true; a Python bool if Python can tell."""
    if all(map(concrete, flags)):
        return any(map(bool, flags))
    return jnp.stack([jnp.asarray(flag) for flag in flags]).any()


def nothing_overdue(method: Method | Partition) -> Overdue:
    """No change waits, and none has been held."""
    return Overdue(tuple(jnp.zeros((), bool) for _ in method.parts), held=jnp.zeros((), jnp.int32))


class Seen(NamedTuple):
    """What an update sees of the gradients.

    Attributes:
      gradients: of the loss; where an `optax.MultiSteps` inside gathers them, those gathered.
      finite: says whether they are.
      memory: the signals that are carried from update to update, with this one in them.
      moves: whether the inner optimizer moves in this call; `None`: it always does.
      gathering: the gradients gathered for the next call; `None` where none need be.
    """

    gradients: Params
    finite: Callable[[], jax.Array]
    memory: dict[str, Any]
    moves: jax.Array | None = None
    gathering: Gathering | None = None


def see(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    state: Any,
    params: Params,
    memories: dict[str, Memory],
    given: Callable[[], Params],
    specs: Specs = None,
    **extra: Any,
) -> Seen:
    """Returns what an update sees; memories stay as they were where gradients are not finite.

    Args:
      inner: the wrapped optimizer.
      grads: gradients of this call, off the masks too.
      state: of the transform, with `inner`, `memory` and `gathering`.
      params: tree of arrays.
      memories: how each signal is carried on, by keyword.
      given: says which gradients `inner` will be given.
      specs: how the parameters are split inside a `shard_map`.
      **extra: what `inner` is given besides.
    """
    split = specs_of(specs, params)
    call = this_call(inner, given, state.inner, params, **extra)
    moves = None if call is None else call.moves
    gradients, gathering = grads, state.gathering
    if gathering is not None:
        assert call is not None
        more = gathering.including(grads).where(call.taken, gathering)
        gradients, gathering = more.mean, more.after(call.moves)

    def finite() -> jax.Array:
        known = all_finite((gradients, gathering_of(state.inner)))
        return known if split is None else is_true_everywhere(known, split)

    counts = None
    if any(m.reads_gradients for m in memories.values()):
        known = finite()
        finite = lambda: known
        counts = known if moves is None else known & moves
    carried = remember(memories, state.memory, params, gradients, counts)
    return Seen(gradients, finite, carried, moves, gathering)


def reads_gradients(method: Method | Partition) -> bool:
    """Whether masks depend on gradients, now or by a memory."""
    criteria = [c for part in method.parts for c in (part.criterion, part.update.challengers)]
    memories = memories_of(method).values()
    return any(map(takes_gradients, criteria)) or any(m.reads_gradients for m in memories)


def start_gathering(
    method: Method | Partition, inner_state: optax.OptState, params: Params
) -> Gathering | None:
    """Nothing gathered yet, if the optimizer gathers gradients and the method reads any; else `None`."""
    gathers = bool(gathering_of(inner_state)) and reads_gradients(method)
    return Gathering.start(params) if gathers else None


def all_finite(tree: Params) -> jax.Array:
    """Whether all floating-point numbers of a tree are finite: a bool scalar."""
    floating = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]
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
    seen: Seen,
    stored: Callable[[Masks], Masks] = lambda masks: masks,
    axes: AxesTree | None = None,
    specs: Specs = None,
    dense: bool = False,
) -> Changed:
    """Makes the changes of masks that are due at `step` or overdue.

    Args:
      method: the method.
      params: tree of arrays.
      masks: as they are stored.
      step: updates done.
      signals: what criteria read, by keyword.
      overdue: what earlier updates have left to do.
      seen: what this update sees of the gradients.
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
    pending, held = list(overdue.pending), overdue.held

    def changed(number: int, share: Masks) -> Masks:
        nonlocal held
        part = method.parts[number]
        now = int(step) if concrete(step) else step
        due = part.schedule.due(now)
        if concrete(due) and concrete(pending[number]):
            due = bool(due) or bool(pending[number])
        else:
            due = due | pending[number]
        tried = due if seen.moves is None else due & seen.moves

        def new() -> tuple[Masks, jax.Array]:
            last = jnp.minimum(step, part.schedule.end)
            old = masks_lib.unpack(share)
            if split is None:
                after, unknown = change(
                    part, params, old, last, signals, known_axes, dead_are_zero=not dense
                )
                finite = seen.finite()
            else:
                old, entire = gather_whole(old, split), gather_whole(params, split)
                read = {name: _whole_signal(x, params, split) for name, x in signals.items()}
                after, unknown = change(
                    part, entire, old, last, read, known_axes, dead_are_zero=not dense
                )
                after, finite = slice_own_part(after, split), seen.finite()
            known = finite & (sum(each.count for each in unknown) == 0)
            known = known if split is None else is_true_everywhere(known, split)
            return _if(known, stored(after), share), known

        if concrete(tried):
            after, done = new() if bool(tried) else (share, False)
        else:
            after, done = jax.lax.cond(tried, new, lambda: (share, jnp.zeros((), bool)))
        made[number] = done
        if concrete(due) and not bool(due):
            return after  # nothing was to be done, and nothing is left
        pending[number] = jnp.asarray(due) & ~jnp.asarray(done)
        held = held + (jnp.asarray(tried) & ~jnp.asarray(done))
        return after

    after = by_index(method, params, masks, changed)
    return Changed(after, made, Overdue(tuple(pending), held))


def _whole_signal(signal: Any, params: Params, split: list[PartitionSpec]) -> Any:
    """A signal with one number per weight, of the whole parameters; any other as it is."""
    leaves, treedef = jax.tree.flatten(signal)
    alike = treedef == jax.tree.structure(params) and all(
        jnp.shape(leaf) == jnp.shape(p)
        for leaf, p in zip(leaves, jax.tree.leaves(params), strict=True)
    )
    return gather_whole(signal, split) if alike else signal


def _if(condition: jax.Array, new: Any, old: Any) -> Any:
    """One of two trees of equal structure."""
    if concrete(condition):
        return new if bool(condition) else old
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def remember(
    memories: dict[str, Memory],
    memory: dict[str, Any],
    params: Params,
    grads: Params,
    when: jax.Array | None = None,
) -> dict[str, Any]:
    """Returns the signals with this update in them.

    Args:
      memories: how each signal is carried on, by keyword.
      memory: the signals, by keyword.
      params: tree of arrays.
      grads: gradients of the loss, off the masks too.
      when: whether the gradients count at all; a memory that reads none is carried on in any case. `None`:
        they do.
    """

    def carried(name: str, m: Memory) -> Any:
        if m.reads_gradients and when is not None:
            if concrete(when) and not bool(when):
                return memory[name]
            return _if(when, m.update(memory[name], params, grads), memory[name])
        return m.update(memory[name], params, grads)

    return {name: carried(name, m) for name, m in memories.items()}


def restart(
    memories: dict[str, Memory], memory: dict[str, Any], params: Params, made: list[Any]
) -> dict[str, Any]:
    """Returns the signals for the next update: those that restart begin anew where masks have changed.

    Args:
      memories: how each signal is carried on, by keyword.
      memory: the signals, by keyword.
      params: tree of arrays.
      made: per leaf of `params`, whether its mask has been chosen anew.
    """

    def anew(old: Any, m: Memory) -> Any:
        leaves, treedef = jax.tree.flatten(old)
        trio = zip(made, jax.tree.leaves(m.init(params)), leaves, strict=True)
        return treedef.unflatten(jnp.where(now, fresh, held) for now, fresh, held in trio)

    return {
        name: anew(memory[name], m) if m.restarts else memory[name] for name, m in memories.items()
    }
