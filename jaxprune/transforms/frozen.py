"""Which parameters an optimizer never changes, read off its own program."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import trees
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
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)), params)
    scalar = jnp.float32(0)
    fuller = {"value": scalar, "grad": None, "value_fn": lambda _: scalar}
    for extra in ({}, fuller):

        def update(
            grads: Params, state: Any, params: Params, extra: dict[str, Any] = extra
        ) -> Params:
            known = {**extra, "grad": grads} if extra else extra
            return inner.update(grads, state, params, **known)[0]

        try:
            program = jax.make_jaxpr(update)(shapes, jax.eval_shape(inner.init, shapes), shapes)
        except Exception:  # whatever this optimizer needs, `update` will say it in its own words
            continue
        inputs = [constants.UNKNOWN] * len(program.jaxpr.invars)
        frozen = [fact.is_zero() and fact.leaf is None for fact in constants.of(program, inputs)]
        return [False] * len(frozen) if all(frozen) else frozen
    return [False] * len(jax.tree.leaves(params))
