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
from jaxprune.transforms.memo import Memo, weak
from jaxprune.transforms.mirrored_state import mirrors
from jaxprune.types import Masks, Params

__all__ = ["at_rest"]


_MEMO = Memo()


def at_rest(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    **extra: Any,
) -> list[bool]:
    """Says per leaf of `inner_state` whether an update leaves it, off the masks, as `init` gives it.

    That holds as long as the gradients are zero there and nothing becomes infinite: zero times or over
    a finite number is taken for zero. Leaves that mirror no masked parameter are not at rest. An answer
    depends on the program alone, and is remembered for the next call with arrays of the same types.
    """
    masked = tuple(mask is not None for mask in masks_lib.beside(params, masks))
    leaves, treedef = jax.tree.flatten((inner_state, params, extra))
    question = (weak(inner.init), weak(inner.update), treedef, masked, tuple(map(_type_of, leaves)))
    return _MEMO.answer(question, lambda: _at_rest(inner, inner_state, params, masks, extra))


def _type_of(leaf: Any) -> Any:
    if isinstance(leaf, bool | int | float | complex):
        return type(leaf)  # a number is as good as another, to the program
    return jax.typeof(leaf) if hasattr(leaf, "dtype") else weak(leaf)


def _at_rest(
    inner: optax.GradientTransformationExtraArgs,
    inner_state: optax.OptState,
    params: Params,
    masks: Masks,
    extra: dict[str, Any],
) -> list[bool]:
    """Per leaf of the state, whether what is known of it before an update is known of it after it too."""
    pairs = zip(jax.tree.leaves(params), masks_lib.beside(params, masks), strict=True)
    zeros = [
        facts.UNKNOWN if mask is None else facts.Fact(np.zeros((), jnp.result_type(leaf)), index)
        for index, (leaf, mask) in enumerate(pairs)
    ]
    first_state = facts.propagate(jax.make_jaxpr(inner.init)(params), zeros)
    before = [
        facts.Fact(fact.value, index)
        if index is not None and zeros[index].known and fact.leaf in (None, index)
        else facts.UNKNOWN
        for index, fact in zip(mirrors(params, inner_state), first_state, strict=True)
    ]
    new_state = jax.make_jaxpr(lambda g, s, p: inner.update(g, s, p, **extra)[1])
    after = facts.propagate(new_state(params, inner_state, params), [*zeros, *before, *zeros])
    return [
        old.known and new.known and new.leaf in (None, old.leaf) and bool(new.value == old.value)
        for old, new in zip(before, after, strict=True)
    ]
