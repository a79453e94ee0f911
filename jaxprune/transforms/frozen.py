"""Which parameters an optimizer never changes, read off its own program."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, trees
from jaxprune.programs import constants
from jaxprune.types import Params

__all__ = ["frozen_leaves"]


def frozen_leaves(inner: optax.GradientTransformationExtraArgs, params: Params) -> list[bool]:
    """Says per leaf whether the optimizer's update of it is zero, whatever gradients and state are.

    That is what `optax.set_to_zero`, `optax.freeze` and partitions with one of them make of a leaf.
    One that moves nothing at all (a learning rate of zero) singles nothing out, and freezes nothing here.
    Optimizers that need more arguments than an update has by rule are tried with those that optax's own
    need (`value`, `grad`, `value_fn`); where that is not enough, nothing is known to be frozen.
    """
    if trees.is_placeholder(params):
        return []
    checks.check("init", params=(params, checks.TREE))
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    state = jax.eval_shape(inner.init, shapes)
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    for needs_more in (False, True):

        def update(
            grads: Params, state: Any, params: Params, value: jax.Array, more: bool = needs_more
        ) -> Params:
            extra = {"value": value, "grad": grads, "value_fn": lambda _: value} if more else {}
            return inner.update(grads, state, params, **extra)[0]

        try:
            program_of_update = jax.make_jaxpr(update)(shapes, state, shapes, scalar)
        except Exception:  # whatever this optimizer needs, `update` will say it in its own words
            continue
        inputs = [constants.UNKNOWN] * len(program_of_update.jaxpr.invars)
        frozen = [
            fact.is_zero() and fact.leaf is None
            for fact in constants.propagate(program_of_update, inputs)
        ]
        return [False] * len(frozen) if all(frozen) else frozen
    return [False] * len(jax.tree.leaves(params))
