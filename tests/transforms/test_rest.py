"""Which optimizer states are proved to rest off the masks, and that the proof is never wrong."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from jaxprune.transforms.mirrored_state import mirrors
from jaxprune.transforms.resting_state import at_rest

PARAMS = {"a": jnp.ones((2, 3)), "b": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}}
MASKS = {"a": jnp.zeros((2, 3), bool), "b": {"kernel": jnp.zeros((3, 2), bool), "bias": None}}


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # optax relies on it
        yield


def drifting(change):
    """A transform with one copy of the parameters, which each update changes by `change`."""

    def init(params):
        return {"kept": jax.tree.map(jnp.zeros_like, params)}

    def update(grads, state, params=None):
        return grads, {"kept": change(state["kept"], grads, params)}

    return optax.with_extra_args_support(optax.GradientTransformation(init, update))


def resting(inner):
    state = inner.init(PARAMS)
    found = at_rest(optax.with_extra_args_support(inner), state, PARAMS, MASKS)
    owners = mirrors(PARAMS, state)
    return [r for r, i in zip(found, owners, strict=True) if i is not None]  # a, bias, kernel, ...


@pytest.mark.parametrize(
    "inner",
    [
        optax.adam(1e-3),
        optax.sgd(0.1, momentum=0.9, nesterov=True),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        optax.MultiSteps(optax.adam(1e-3), 3),
        optax.contrib.schedule_free_adamw(1e-3),
    ],
    ids=["adam", "nesterov", "clip", "MultiSteps", "schedule_free"],
)
def test_moments_of_nothing_rest_but_only_where_there_is_a_mask(inner):
    found = resting(inner)
    assert found == [True, False, True] * (len(found) // 3)


def test_a_moment_that_grows_by_epsilon_does_not_rest():
    assert resting(optax.adabelief(1e-3)) == [True, False, True, False, False, False]


@pytest.mark.parametrize(
    ("change", "rests"),
    [
        (lambda kept, g, p: jax.tree.map(lambda k, x: k + x, kept, g), True),
        (lambda kept, g, p: jax.tree.map(lambda k, x: k + 1e-30, kept, g), False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: k + jnp.cos(x), kept, g), False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: k + jnp.sum(x), kept, g), False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: x[::-1], kept, g), False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: x.T.reshape(x.shape), kept, g), False),
        (lambda kept, g, p: {**kept, "a": g["b"]["kernel"].T}, False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: jnp.where(x > 0, x, k), kept, g), True),
        (lambda kept, g, p: jax.tree.map(lambda k, x: jnp.where(x > 0, k, 1.0), kept, g), False),
        (lambda kept, g, p: jax.lax.cond(jnp.sum(g["a"]) > 0, lambda: g, lambda: kept), True),
        (lambda kept, g, p: jax.lax.cond(jnp.sum(g["a"]) > 0, lambda: g, lambda: PARAMS), False),
        (lambda kept, g, p: jax.tree.map(lambda k, x: jax.jit(jax.nn.relu)(x), kept, g), True),
    ],
)
def test_the_proof_knows_what_moves_the_state(change, rests):
    assert resting(drifting(change))[0] is rests


def test_other_leaves_of_one_shape_have_other_masks():
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    masks = jax.tree.map(lambda p: jnp.zeros((2, 3), bool), params)
    swap = drifting(lambda kept, g, p: {"a": g["b"], "b": g["a"]})
    assert at_rest(swap, swap.init(params), params, masks) == [False, False]


@pytest.mark.parametrize("steady", [True, False])
def test_state_that_rests_is_not_copied(steady):
    """Donated states are updated in place unless the optimizer itself moves them off the masks."""
    inner = optax.adam(1e-3) if steady else optax.adabelief(1e-3)
    params = {"w": jnp.ones((64, 64))}
    tx = jp.fixed(inner, jp.masks.make(params))

    def step(params, state):
        updates, state = tx.update(jax.tree.map(jnp.sin, params), state, params)
        return optax.apply_updates(params, updates), state

    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, tx.init(params)).compile()
    assert (program.memory_analysis().temp_size_in_bytes < 64 * 64) is steady
