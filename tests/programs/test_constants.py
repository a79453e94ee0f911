"""Constant propagation: what is the same number everywhere, told before a program runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.programs.constants import UNKNOWN, Fact, fact_of_zero, propagate

X = jnp.ones((2, 3))
ZERO = fact_of_zero(jax.ShapeDtypeStruct((2, 3), np.float32))
OFF_MASK = Fact(np.float32(0), leaf=0)


def propagated(fn, *facts: Fact) -> Fact:
    (fact,) = propagate(jax.make_jaxpr(fn)(*[X] * len(facts)), facts)
    return fact


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (lambda x: x + 2, 2.0),
        (lambda x: jnp.exp(x).T, 1.0),
        (lambda x: x.sum(0), 0.0),
        (lambda x: jnp.where(x > 0, 5.0, 7.0), 7.0),
        (lambda x: jnp.concatenate([x, x]), 0.0),
        (lambda x: x @ jnp.ones((3, 4)), 0.0),
        (lambda x: jax.lax.cond(True, jnp.cos, lambda y: y + 1, x), 1.0),
    ],
)
def test_zeros_are_followed(fn, value):
    assert propagated(fn, ZERO) == Fact(np.float32(value))


def test_zero_times_the_unknown_is_zero():
    assert propagated(lambda x, y: x * y, UNKNOWN, ZERO).is_zero()
    assert not propagated(lambda x, y: x + y, UNKNOWN, ZERO).known


def test_what_holds_off_a_mask_holds_no_longer_where_elements_move():
    assert propagated(lambda x: 3 * x, OFF_MASK) == OFF_MASK
    assert not propagated(lambda x: x.T, OFF_MASK).known
    assert not propagated(lambda x: x.sum(), OFF_MASK).known


def test_two_masks_have_nothing_in_common():
    assert propagated(lambda x, y: x + y, OFF_MASK, Fact(np.float32(0), leaf=1)) == UNKNOWN
