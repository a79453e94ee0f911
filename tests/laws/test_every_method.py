"""What holds for every method, because it is listed here; a published one that is not fails a test.

One compiled run per method on one tree serves all laws: compilation is what takes the time.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp

GROUPS, UNIFORM = jp.patterns.groups(4), jp.allocation.uniform()
GRADUAL = {"sparsity": 0.75, "begin": 2, "end": 13, "every": 4}
MOVING = {"sparsity": 0.75, "every": 4, "end": 13}

MASKED = {
    "none": jp.methods.none(),
    "magnitude": jp.methods.magnitude(sparsity=0.75, at=4),
    "random": jp.methods.random(sparsity=0.75, at=4),
    "gmp": jp.methods.gmp(**GRADUAL),
    "gmp, 1:4": jp.methods.gmp(**GRADUAL, pattern=GROUPS),
    "gmp, channels": jp.methods.gmp(**GRADUAL, pattern=jp.patterns.channel()),
    "gmp, blocks": jp.methods.gmp(**GRADUAL, pattern=jp.patterns.block((2, 2))),
    "global_magnitude": jp.methods.global_magnitude(**GRADUAL),
    "lamp": jp.methods.lamp(**GRADUAL),
    "saliency": jp.methods.saliency(**GRADUAL),
    "iterative": jp.methods.iterative(rate=0.5, every=5, levels=2, begin=3),
    "movement": jp.methods.movement(**GRADUAL),
    "weight_change": jp.methods.weight_change(**GRADUAL),
    "magnitude_increase": jp.methods.magnitude_increase(**GRADUAL),
    "std_threshold": jp.methods.std_threshold(quality=1.0, begin=3, every=5, rounds=2),
    "cyclical": jp.methods.cyclical(sparsity=0.75, begin=1, end=13, every=2, cycles=2),
    "ac_dc": jp.methods.ac_dc(sparsity=0.75, begin=3, end=13, every=5),
    "granet": jp.methods.granet(**GRADUAL),
    "granet, sparse": jp.methods.granet(**GRADUAL, initial=0.5),
    "static": jp.methods.static(sparsity=0.75),
    "set_": jp.methods.set_(**MOVING),
    "rigl": jp.methods.rigl(**MOVING),
    "rigl, summed": jp.methods.rigl(**MOVING, accumulate=True),
    "rigl, 1:4": jp.methods.rigl(**MOVING, pattern=GROUPS, allocation=UNIFORM),
    "itop": jp.methods.itop(**MOVING),
    "snfs": jp.methods.snfs(**MOVING),
    "dsr": jp.methods.dsr(**MOVING),
    "mest": jp.methods.mest(**MOVING),
    "partition": jp.partition(
        {"a/": jp.methods.rigl(**MOVING), "b/": jp.methods.gmp(**GRADUAL, pattern=GROUPS)}
    ),
}
THROUGH = {
    "ste": jp.methods.ste(sparsity=0.75, end=15),
    "ste, channels": jp.methods.ste(sparsity=0.75, end=15, pattern=jp.patterns.channel()),
    "sr_ste": jp.methods.sr_ste(sparsity=0.75, end=15),
    "top_kast": jp.methods.top_kast(sparsity=0.75, backward_sparsity=0.5, end=15, every=3),
    "surgery": jp.methods.surgery(end=15, c=0.5),
    "gmp": MASKED["gmp"],
    "movement": MASKED["movement"],
    "cyclical": MASKED["cyclical"],
    "partition": jp.partition(
        {
            "a/": jp.methods.sr_ste(sparsity=0.75, end=15, decay=0.1),
            "b/": jp.methods.top_kast(sparsity=0.75, backward_sparsity=0.5, end=15),
        }
    ),
}
DECIDED_BY_WEIGHTS = {"std_threshold", "surgery"}  # whose sparsity nobody asks for
STEPS, CUT = 18, 7

X = jax.random.normal(jax.random.key(0), (32, 12))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(1), (12, 8)))


def initial():
    """A tree with much that trees have: two float types, a list, a scalar, an empty leaf, no leaf."""
    keys = jax.random.split(jax.random.key(2), 2)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (12, 16)) / 4, "bias": jnp.zeros(16)},
        "b": [jax.random.normal(keys[1], (16, 8), jnp.bfloat16) / 4, jnp.zeros(8)],
        "odd": {"scalar": jnp.ones(()), "empty": jnp.ones((0, 4))},
        "none": None,
    }


def loss(params):
    h = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"][None])
    out = h @ params["b"][0].astype(jnp.float32) + params["b"][1][None]
    return jnp.mean((out * params["odd"]["scalar"] - Y) ** 2)


def same(a, b):
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


def run(tx):
    """States after each update, and those of a run resumed from a copy at `CUT`; one compilation."""

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(jp.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    def steps(carry, count):
        for _ in range(count):
            carry = step(*carry)
            yield carry

    params = initial()
    whole = list(steps((params, tx.init(params)), STEPS))
    copy = jax.tree.map(jnp.copy, whole[CUT - 1])
    *_, resumed = steps(copy, STEPS - CUT)
    assert step._cache_size() == 1, "one compilation serves the whole run"
    assert same(whole[-1], resumed), "a resumed run gives the same bits"
    return whole


def check_end(name, params, state, seen):
    masks, network = jp.masks_of(state), jp.forward_params(params, state)
    assert jax.tree.structure(params) == jax.tree.structure(initial())
    assert masks["a"]["bias"] is None
    assert masks["odd"] == {"scalar": None, "empty": None}
    assert network["b"][0].dtype == jnp.bfloat16
    assert float(loss(network)) < float(loss(initial()))
    sparsity = float(jp.masks.sparsity(masks))
    asked = 0.0 if name == "none" else 0.75
    assert 0.3 < sparsity < 0.9 if name in DECIDED_BY_WEIGHTS else sparsity == asked
    assert (not same(seen[0], seen[-1])) == (name not in {"static", "none"})


@pytest.mark.parametrize("name", MASKED)
def test_masked_weights_are_zero_and_so_is_what_the_optimizer_knows_of_them(name):
    tx = jp.sparsify(optax.adamw(1e-2, weight_decay=0.1), MASKED[name], key=jax.random.key(3))
    seen = []
    for params, state in run(tx):
        masks = jp.masks_of(state)
        jp.masks.check(params, masks)
        jp.masks.check(state.inner[0].mu, masks)
        jp.masks.check(state.inner[0].nu, masks)
        seen.append(masks)
    check_end(name, params, state, seen)


@pytest.mark.parametrize("name", THROUGH)
def test_straight_through_the_masks_the_network_is_sparse_and_the_weights_stay(name):
    tx = jp.straight_through(optax.adamw(1e-2), THROUGH[name], key=jax.random.key(3))
    seen = []
    for params, state in run(tx):
        masks = jp.masks_of(state)
        jp.masks.check(jp.forward_params(params, state), masks)
        seen.append(masks)
    check_end(name, params, state, seen)
    zeros = [float(jnp.mean(p == 0)) for p in (params["a"]["kernel"], params["b"][0])]
    assert max(zeros) < 0.05, "weights off the masks stay"


def test_every_published_method_is_listed():
    listed = {name.split(",")[0] for name in (*MASKED, *THROUGH)}
    assert set(jp.methods.__all__) <= listed


def test_the_laws_see_a_leak():
    """Without enforcement the same run leaves weights off the masks: the laws above can fail."""
    _, masks = jp.prune(initial(), jp.methods.magnitude(sparsity=0.75))
    params, tx = jp.masks.apply(initial(), masks), optax.adamw(1e-2)
    updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
    with pytest.raises(ValueError, match="not zero"):
        jp.masks.check(optax.apply_updates(params, updates), masks)
