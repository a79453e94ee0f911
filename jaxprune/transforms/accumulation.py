"""Calls that are no steps: those in which an optimizer gathers gradients, or skips what it is given.

`MultiSteps` adds up the gradients of k calls and lets its own optimizer move in the last of them. A transform
around it is called k times for one step: a change of masks must wait for the call that moves, and what it
reads are the gathered gradients, not those of one micro-batch. `MultiSteps` itself gathers nothing off the
masks, like every optimizer in `sparsify`; a method that reads gradients there has them gathered beside it.

`apply_if_finite`, `apply_every` and `conditionally_mask` let calls pass in which the weights stay where they
are: what belongs to a step, such as a proximal step, is not taken then.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.arrays.precision import at_least_float32
from jaxprune.programs import evaluate_slice, trace
from jaxprune.transforms.mirrored_state import mirrors
from jaxprune.types import Params

__all__ = [
    "Gathering",
    "Outcome",
    "accumulators",
    "cycle_indices",
    "gathering_of",
    "idle_leaves",
    "this_call",
]


class Gathering(NamedTuple):
    """Gradients gathered since the optimizer moved last, off the masks too.

    Attributes:
      count: int32 scalar, calls since then.
      mean: of their gradients, in float32 at least.
    """

    count: Any
    mean: Params

    @classmethod
    def start(cls, params: Params) -> "Gathering":
        """Nothing is gathered yet."""

        def wide_zeros(weights: jax.Array) -> jax.Array:
            return jnp.zeros(weights.shape, at_least_float32(weights.dtype))

        return cls(jnp.zeros((), jnp.int32), jax.tree.map(wide_zeros, params))

    def including(self, grads: Params) -> "Gathering":
        """What is gathered with the gradients of one more call."""

        def new_mean(mean: jax.Array, grad: jax.Array) -> jax.Array:
            return mean + (grad.astype(mean.dtype) - mean) / (self.count + 1)

        return Gathering(self.count + 1, jax.tree.map(new_mean, self.mean, grads))

    def where(self, condition: jax.Array, other: "Gathering") -> "Gathering":
        """This if a condition holds, else the other."""
        return jax.tree.map(lambda a, b: jnp.where(condition, a, b), self, other)

    def after(self, moves: jax.Array) -> "Gathering":
        """What is carried on: nothing if the optimizer has moved."""
        return jax.tree.map(lambda x: jnp.where(moves, jnp.zeros_like(x), x), self)


class Outcome(NamedTuple):
    """What a call of an optimizer that is not a step every time comes to.

    Attributes:
      moves: bool scalar, whether masks may change: the optimizer moves, from where the weights really are.
      taken: bool scalar, whether its gradients are gathered, and not skipped.
    """

    moves: jax.Array
    taken: jax.Array


def _nodes_of_kind(state: optax.OptState, kind: type) -> list[Any]:
    """The outermost nodes of a state that are of one kind."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def _multi_steps_states(state: optax.OptState) -> list[optax.MultiStepsState]:
    return _nodes_of_kind(state, optax.MultiStepsState)


def _counts(state: optax.OptState) -> list[tuple[Any, Any]]:
    """The steps that each `MultiSteps` in a state has taken, and the calls since then."""
    return [(node.gradient_step, node.mini_step) for node in _multi_steps_states(state)]


def _cyclic_sam_states(state: optax.OptState) -> list[Any]:
    """The states of SAM that goes out and comes back in calls of its own, a cycle of several calls."""
    sam_states = _nodes_of_kind(state, optax.contrib.SAMState)
    return [node for node in sam_states if node.cache is not None]


def idle_leaves(
    before: optax.OptState,
    after: optax.OptState,
    params: Params,
    still: Callable[[], list[jax.Array | None]],
) -> list[Any] | None:
    """Says per leaf whether the optimizer took no step for it; `None` if each call is one for every leaf.

    `MultiSteps`, and `optax.contrib.sam` in calls of its own, step in some calls only, whatever moves the
    weights in the others. With other wrappers, a call that is skipped or in which updates are gathered is a
    step all the same where the weights move, as they do by momentum behind an `apply_every`.

    Args:
      before: state of the optimizer.
      after: its state after the call.
      params: tree of arrays.
      still: gives per leaf whether its update is zero, `None` where nobody asks. Leaves of one scalar here,
        and in the same `MultiSteps`, have one in the answer.
    """
    multi_steps = zip(_multi_steps_states(before), _multi_steps_states(after), strict=True)
    waiting = [(new.acc_grads, old.gradient_step == new.gradient_step) for old, new in multi_steps]
    waiting += [(sam.cache, sam.steps_since_sync != 0) for sam in _cyclic_sam_states(after)]
    passes = _passes(after)
    if not waiting and not passes:
        return None
    reasons: list[list[Any]] = [[] for _ in jax.tree.leaves(params)]
    for tree, waits in waiting:  # an `optax.partition` gives each its own part of the leaves
        indices = {index for index in mirrors(params, tree) if index is not None}
        for index in indices or range(len(reasons)):
            reasons[index].append(waits)
    if passes:
        did_pass = jnp.stack(passes).any()
        are_still = still()
        idle_if_still = {id(flag): did_pass & flag for flag in are_still if flag is not None}
        for leaf_reasons, flag in zip(reasons, are_still, strict=True):
            leaf_reasons += [] if flag is None else [idle_if_still[id(flag)]]
    answers = {
        tuple(map(id, leaf_reasons)): jnp.stack([jnp.zeros((), bool), *leaf_reasons]).any()
        for leaf_reasons in reasons
    }
    return [answers[tuple(map(id, leaf_reasons))] for leaf_reasons in reasons]


def _passes(state: optax.OptState) -> list[jax.Array]:
    """Whether each wrapper that lets calls pass may have done so in the last one."""
    skipped = [~node.last_finite for node in _nodes_of_kind(state, optax.ApplyIfFiniteState)]
    gathered = [node.count != 0 for node in _nodes_of_kind(state, optax.ApplyEvery)]
    masked = _nodes_of_kind(state, optax.ConditionallyMaskState)  # it does not tell
    return skipped + gathered + [jnp.ones((), bool) for _ in masked]


def this_call(
    inner: optax.GradientTransformationExtraArgs,
    masked_gradients: Callable[[], Params],
    inner_state: optax.OptState,
    params: Params,
    **extra: Any,
) -> Outcome | None:
    """What this call will come to; `None` if each is a step.

    With `optax.contrib.sam` in calls of its own, masks may change in the first call of a cycle alone: in the
    others the weights are where the gradient was to be taken, not where they belong.

    Args:
      inner: the optimizer.
      masked_gradients: returns the gradients that it will be given, on the masks alone.
      inner_state: its state.
      params: tree of arrays.
      **extra: what it is given besides.
    """
    outcomes: list[Outcome] = []
    if _multi_steps_states(inner_state):

        def counts_after(inner_state: optax.OptState, params: Params) -> list[tuple[Any, Any]]:
            state_after = inner.update(masked_gradients(), inner_state, params, **extra)[1]
            return _counts(state_after)

        # The update itself comes later, perhaps with other masks: what it calls must not be called here too.
        program, _ = trace(counts_after, inner_state, params)
        new_counts = evaluate_slice(program, jax.tree.leaves((inner_state, params)))
        old_counts = jax.tree.leaves(_counts(inner_state))
        differs = [old != new for old, new in zip(old_counts, new_counts, strict=True)]
        has_moved = jnp.stack(differs[::2]).any()
        outcomes.append(Outcome(has_moved, jnp.stack(differs).any()))
    for sam_state in _cyclic_sam_states(inner_state):
        is_first_of_cycle = sam_state.steps_since_sync == 0
        outcomes.append(Outcome(is_first_of_cycle, jnp.ones_like(is_first_of_cycle)))
    if not outcomes:
        return None
    moves, taken = (jnp.stack(flags).all() for flags in zip(*outcomes, strict=True))
    return Outcome(moves, taken)


def gathering_of(inner_state: optax.OptState) -> list[Params]:
    """The gradients that each `MultiSteps` in a state has gathered."""
    return [node.acc_grads for node in _multi_steps_states(inner_state)]


def marked(state: optax.OptState, kind: type, fields: tuple[str, ...]) -> list[bool]:
    """Per leaf of a state, whether it is in one of these fields of a node of a kind."""

    def is_of_kind(node: Any) -> bool:
        return isinstance(node, kind)

    def mark(node: Any) -> Any:
        if not is_of_kind(node):
            return jax.tree.map(lambda _: False, node)
        marks = {
            name: jax.tree.map(lambda _: True, getattr(node, name))
            if name in fields
            else jax.tree.map(mark, getattr(node, name), is_leaf=is_of_kind)
            for name in node._fields
        }
        return node._replace(**marks)

    return jax.tree.leaves(jax.tree.map(mark, state, is_leaf=is_of_kind))


def accumulators(state: optax.OptState) -> list[bool]:
    """Per leaf of a state, whether a `MultiSteps` gathers gradients in it."""
    return marked(state, optax.MultiStepsState, ("acc_grads",))


def cycle_indices(state: optax.OptState) -> list[bool]:
    """Per leaf of a state, whether it says where in its cycle a SAM is."""
    return marked(state, optax.contrib.SAMState, ("steps_since_sync",))
