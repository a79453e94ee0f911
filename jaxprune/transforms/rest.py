"""Which optimizer state stays as `init` gives it where gradients and weights are zero: a proof.

Off the masks an optimizer meets weights and gradients of zero and a state fresh from `init`. Nearly all
optimizers leave that state as it is (a moment of nothing is nothing), and then it need not be refreshed
after the update, where the second copy of the state would cost memory and time. Some do not: AdaBelief
adds its epsilon to a moment in each step. Which is which is read off the optimizer's own program, with what
is known of the values off the masks (`jaxprune.programs.constants`), and nothing else.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import masks as masks_lib
from jaxprune.programs import constants as facts
from jaxprune.transforms.mirrors import mirrors
from jaxprune.types import Masks, Params

__all__ = ["at_rest"]


def at_rest(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    **extra: Any,
) -> list[bool]:
    """Says per leaf of `inner_state` whether an update leaves it, off the masks, as `init` gives it.

    That holds as long as the gradients are zero there and nothing becomes infinite: zero times or over
    a finite number is taken for zero. Leaves that mirror no masked parameter are not at rest.
    """
    zeros = [
        facts.UNKNOWN if mask is None else facts.Fact(np.zeros((), jnp.result_type(leaf)), i)
        for i, (leaf, mask) in enumerate(
            zip(jax.tree.leaves(params), masks_lib.beside(params, masks), strict=True)
        )
    ]
    born = facts.of(jax.make_jaxpr(inner.init)(params), zeros)
    before = [
        facts.Fact(fact.value, i)
        if i is not None and zeros[i].known and fact.leaf in (None, i)
        else facts.UNKNOWN
        for i, fact in zip(mirrors(params, inner_state), born, strict=True)
    ]
    step = jax.make_jaxpr(lambda g, s, p: inner.update(g, s, p, **extra)[1])
    after = facts.of(step(params, inner_state, params), [*zeros, *before, *zeros])
    return [
        old.known and new.known and new.leaf in (None, old.leaf) and bool(new.value == old.value)
        for old, new in zip(before, after, strict=True)
    ]
