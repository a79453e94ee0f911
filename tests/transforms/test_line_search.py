"""What a line search keeps for `optax.value_and_grad_from_state` is of the parameters where they are."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp

KEY = jax.random.key(0)
PARAMS = {
    "a": jax.random.normal(KEY, (6, 16)) / 3,
    "b": jax.random.normal(jax.random.key(1), (16, 1)) / 4,
}
X = jax.random.normal(jax.random.key(2), (32, 6))
Y = jnp.sin(X.sum(1, keepdims=True))
EVERY = {"begin": 1, "end": 9, "every": 3}
SEARCHES = {
    "lbfgs": optax.lbfgs,
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15, store_grad=True)
    ),
}
TRANSFORMS = {
    "rigl": lambda inner: jp.sparsify(
        inner, jp.methods.rigl(sparsity=0.8, every=3, end=30), key=KEY
    ),
    "gmp": lambda inner: jp.sparsify(inner, jp.methods.gmp(sparsity=0.8, **EVERY)),
    "ac_dc": lambda inner: jp.sparsify(inner, jp.methods.ac_dc(sparsity=0.5, **EVERY)),
    "fixed": lambda inner: jp.fixed(inner, jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.5))[1]),
    "growing": lambda inner: jp.growing(inner, jp.masks.make(PARAMS), decay=0.1, until=4),
    "proximal": lambda inner: jp.proximal(inner, jp.penalties.l1(1e-3), learning_rate=0.1),
    "straight-through": lambda inner: jp.straight_through(
        inner, jp.methods.ste(sparsity=0.5, end=4)
    ),
    "ticket": lambda inner: jp.lottery_ticket(
        inner, jp.methods.magnitude(sparsity=0.5), jp.lottery.Plan(3, 2, rewind_to=1)
    ),
    "ticket, learning rate": lambda inner: jp.lottery_ticket(
        inner,
        jp.methods.magnitude(sparsity=0.5),
        jp.lottery.Plan(3, 2, rewind_to=1, rewind="learning_rate"),
    ),
}


def loss(params):
    return jnp.mean((jnp.tanh(X @ params["a"]) @ params["b"] - Y) ** 2)


def train(tx, steps=10):
    """The loss and gradient that each update is handed, those of a fresh evaluation, masks, and reuse.

    A lottery ticket holds the search of its rewinding point too, so that of `inner` is asked.
    """
    value_and_grad = optax.value_and_grad_from_state(loss)

    @jax.jit
    def step(params, state):
        sparse = jp.forward_params(params, state)
        handed = value, grad = value_and_grad(sparse, state=state.inner)
        is_kept = jnp.isfinite(optax.tree.get(state.inner, "value"))
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        fresh = jax.value_and_grad(loss)(sparse)
        return optax.apply_updates(params, updates), state, handed, fresh, is_kept

    state = tx.init(PARAMS)
    is_dense = "reach" in state._fields
    params = PARAMS if is_dense else jp.masks.apply(PARAMS, jp.masks_of(state))
    for _ in range(steps):
        params, state, handed, fresh, is_kept = step(params, state)
        yield handed, fresh, jp.masks_of(state), bool(is_kept)


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # optax relies on it
        yield


QUICK = ["gmp", "rigl", "proximal", "straight-through", "ticket"]
CASES = [
    ("rigl", "backtracking"),
    *((name, "lbfgs") for name in QUICK),
    *(
        pytest.param(name, "lbfgs", marks=pytest.mark.slow)
        for name in TRANSFORMS
        if name not in QUICK
    ),
]


@pytest.mark.parametrize(("name", "search"), CASES)
def test_no_update_is_handed_a_loss_or_gradient_of_other_parameters(name, search):
    for handed, fresh, *_ in train(TRANSFORMS[name](SEARCHES[search]())):
        pairs = zip(jax.tree.leaves(handed), jax.tree.leaves(fresh), strict=True)
        assert all(jnp.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs)


def test_rigl_grows_the_largest_gradients_of_a_line_search():
    before, grown = None, 0
    for _, (_, grads), masks, _ in train(TRANSFORMS["rigl"](optax.lbfgs())):
        if before is not None:
            new = masks["a"] & ~before["a"]
            left_out = ~masks["a"] & ~before["a"]
            if new.any():
                sizes = jnp.abs(grads["a"])
                assert sizes[new].min() >= sizes[left_out].max() - 1e-6
                grown += int(new.sum())
        before = masks
    assert grown > 0


def test_where_masks_stay_the_loss_is_not_computed_again():
    kept = [is_kept for *_, is_kept in train(TRANSFORMS["fixed"](optax.lbfgs()))]
    assert kept == [False] + [True] * 9
