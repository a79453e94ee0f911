"""Gradients that an `optax.MultiSteps` inside gathers before the optimizer moves.

`MultiSteps` adds up the gradients of k calls and lets its own optimizer move in the last of them. A transform
around it is called k times for one step: a change of masks must wait for the call that moves, and what it
reads are the gathered gradients, not those of one micro-batch. `MultiSteps` itself gathers nothing off the
masks, like every optimizer in `sparsify`; a method that reads gradients there has them gathered beside it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune.types import Params

__all__ = ["Gathering", "accumulators", "gathering_of", "moved", "moves_now"]


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
        wide = lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32))
        return cls(jnp.zeros((), jnp.int32), jax.tree.map(wide, params))

    def with_(self, grads: Params) -> "Gathering":
        """With the gradients of one more call."""
        mean = lambda m, g: m + (g.astype(m.dtype) - m) / (self.count + 1)
        return Gathering(self.count + 1, jax.tree.map(mean, self.mean, grads))

    def after(self, moves: jax.Array) -> "Gathering":
        """What is carried on: nothing if the optimizer has moved."""
        return jax.tree.map(lambda x: jnp.where(moves, jnp.zeros_like(x), x), self)


def _nodes(state: optax.OptState) -> list[optax.MultiStepsState]:
    holds = lambda node: isinstance(node, optax.MultiStepsState)
    return [node for node in jax.tree.leaves(state, is_leaf=holds) if holds(node)]


def moved(before: optax.OptState, after: optax.OptState) -> jax.Array | None:
    """Whether the optimizer took a step; `None` if it takes one in every call."""
    pairs = list(zip(_nodes(before), _nodes(after), strict=True))
    if not pairs:
        return None
    return jnp.stack([old.gradient_step != new.gradient_step for old, new in pairs]).any()


def moves_now(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    **extra: Any,
) -> jax.Array | None:
    """Whether the optimizer will take a step in this call; `None` if it takes one in every call."""
    if not _nodes(inner_state):
        return None
    return moved(inner_state, inner.update(grads, inner_state, params, **extra)[1])


def gathering_of(inner_state: optax.OptState) -> list[Params]:
    """What every `MultiSteps` in a state has gathered."""
    return [node.acc_grads for node in _nodes(inner_state)]


def accumulators(state: optax.OptState) -> list[bool]:
    """Per leaf of a state, whether a `MultiSteps` gathers gradients in it."""
    holds = lambda node: isinstance(node, optax.MultiStepsState)

    def marked(node: Any) -> Any:
        unmarked = jax.tree.map(lambda _: False, node)
        if not holds(node):
            return unmarked
        within = jax.tree.map(marked, node.inner_opt_state, is_leaf=holds)
        gathers = jax.tree.map(lambda _: True, node.acc_grads)
        return unmarked._replace(acc_grads=gathers, inner_opt_state=within)

    return jax.tree.leaves(jax.tree.map(marked, state, is_leaf=holds))
