"""Calls that are no steps: an `optax.MultiSteps` inside gathers gradients before the optimizer moves.

`MultiSteps` adds up the gradients of k calls and lets its own optimizer move in the last of them. A transform
around it is called k times for one step: a change of masks must wait for the call that moves, and what it
reads are the gathered gradients, not those of one micro-batch. `MultiSteps` itself gathers nothing off the
masks, like every optimizer in `sparsify`; a method that reads gradients there has them gathered beside it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.precision import at_least_float32
from jaxprune.types import Params

__all__ = [
    "Gathering",
    "Outcome",
    "accumulators",
    "gathering_of",
    "moved",
    "places_in_cycles",
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
        wide = lambda p: jnp.zeros(p.shape, at_least_float32(p.dtype))
        return cls(jnp.zeros((), jnp.int32), jax.tree.map(wide, params))

    def including(self, grads: Params) -> "Gathering":
        """What is gathered with the gradients of one more call."""
        mean = lambda m, g: m + (g.astype(m.dtype) - m) / (self.count + 1)
        return Gathering(self.count + 1, jax.tree.map(mean, self.mean, grads))

    def where(self, condition: jax.Array, other: "Gathering") -> "Gathering":
        """This if a condition holds, else the other."""
        return jax.tree.map(lambda mine, its: jnp.where(condition, mine, its), self, other)

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


def _found(state: optax.OptState, kind: type) -> list[Any]:
    holds = lambda node: isinstance(node, kind)
    return [node for node in jax.tree.leaves(state, is_leaf=holds) if holds(node)]


def _gathering(state: optax.OptState) -> list[optax.MultiStepsState]:
    return _found(state, optax.MultiStepsState)


def _turning(state: optax.OptState) -> list[Any]:
    """The states of SAM that goes out and comes back in calls of its own, a cycle of several calls."""
    return [node for node in _found(state, optax.contrib.SAMState) if node.cache is not None]


def moved(before: optax.OptState, after: optax.OptState) -> jax.Array | None:
    """Whether the optimizer took a step; `None` if it takes one in every call."""
    pairs = list(zip(_gathering(before), _gathering(after), strict=True))
    if not pairs:
        return None
    return jnp.stack([old.gradient_step != new.gradient_step for old, new in pairs]).any()


def this_call(
    inner: optax.GradientTransformationExtraArgs,
    given: Callable[[], Params],
    inner_state: optax.OptState,
    params: Params,
    **extra: Any,
) -> Outcome | None:
    """What this call will come to; `None` if each is a step.

    With `optax.contrib.sam` in calls of its own, masks may change in the first call of a cycle alone: in the
    others the weights are where the gradient was to be taken, not where they belong.

    Args:
      inner: the optimizer.
      given: says which gradients it will be given.
      inner_state: its state.
      params: tree of arrays.
      **extra: what it is given besides.
    """
    calls: list[Outcome] = []
    if _gathering(inner_state):
        after = inner.update(given(), inner_state, params, **extra)[1]
        moves = moved(inner_state, after)
        assert moves is not None
        pairs = zip(_gathering(inner_state), _gathering(after), strict=True)
        taken = jnp.stack([old.mini_step != new.mini_step for old, new in pairs]).any()
        calls.append(Outcome(moves, taken | moves))
    for node in _turning(inner_state):
        first = node.steps_since_sync == 0
        calls.append(Outcome(first, jnp.ones_like(first)))
    if not calls:
        return None
    moves, taken = (jnp.stack(flags).all() for flags in zip(*calls, strict=True))
    return Outcome(moves, taken)


def gathering_of(inner_state: optax.OptState) -> list[Params]:
    """What every `MultiSteps` in a state has gathered."""
    return [node.acc_grads for node in _gathering(inner_state)]


def marked(state: optax.OptState, kind: type, fields: tuple[str, ...]) -> list[bool]:
    """Per leaf of a state, whether it is in one of these fields of a node of a kind."""
    holds = lambda node: isinstance(node, kind)

    def mark(node: Any) -> Any:
        if not holds(node):
            return jax.tree.map(lambda _: False, node)
        entries = {
            name: jax.tree.map(lambda _: True, getattr(node, name))
            if name in fields
            else jax.tree.map(mark, getattr(node, name), is_leaf=holds)
            for name in node._fields
        }
        return node._replace(**entries)

    return jax.tree.leaves(jax.tree.map(mark, state, is_leaf=holds))


def accumulators(state: optax.OptState) -> list[bool]:
    """Per leaf of a state, whether a `MultiSteps` gathers gradients in it."""
    return marked(state, optax.MultiStepsState, ("acc_grads",))


def places_in_cycles(state: optax.OptState) -> list[bool]:
    """Per leaf of a state, whether it says where in its cycle a SAM is."""
    return marked(state, optax.contrib.SAMState, ("steps_since_sync",))
