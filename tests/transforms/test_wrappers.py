"""Every transform in other people's containers, wrappers and tools."""

import functools

import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx, serialization
from flax.core import FrozenDict
from jax.sharding import PartitionSpec as P

import jaxprune as jp

KEY = jax.random.key(0)
PARAMS = {
    "one": {"kernel": jax.random.normal(KEY, (4, 6)), "bias": jnp.ones(6)},
    "two": {"kernel": jax.random.normal(jax.random.key(1), (6, 3)), "bias": jnp.ones(3)},
}
MASKS = jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.5))[1]
GMP = jp.methods.gmp(sparsity=0.5, begin=0, end=2, every=1)
PLAN = {"plan": jp.lottery.Plan(2, 1, rewind_to=1)}
LEARNING_RATE = {"plan": jp.lottery.Plan(2, 1, rewind_to=1, rewind="learning_rate")}


def sparsity_of(method, inner, **how):
    return jp.sparsify(inner, method, key=KEY, **how)


TRANSFORMS = {
    "gmp": functools.partial(sparsity_of, GMP),
    "packed": functools.partial(sparsity_of, GMP, packed=True),
    "partition": functools.partial(sparsity_of, jp.partition({"one": GMP})),
    "rigl": functools.partial(sparsity_of, jp.methods.rigl(sparsity=0.5, every=1, end=2)),
    "movement": functools.partial(
        sparsity_of, jp.methods.movement(sparsity=0.5, begin=1, end=2, every=1)
    ),
    "fixed": lambda inner: jp.fixed(inner, MASKS),
    "fixed, packed": lambda inner: jp.fixed(inner, jp.masks.pack(MASKS)),
    "straight-through": lambda inner: jp.straight_through(
        inner, jp.methods.ste(sparsity=0.5, end=3)
    ),
    "Top-KAST": lambda inner: jp.straight_through(
        inner, jp.methods.top_kast(sparsity=0.5, backward_sparsity=0.25, every=1, end=3)
    ),
    "ticket": lambda inner: jp.lottery_ticket(inner, jp.methods.magnitude(sparsity=0.5), **PLAN),
    "ticket, learning rate": lambda inner: jp.lottery_ticket(
        inner, jp.methods.magnitude(sparsity=0.5), **LEARNING_RATE
    ),
    "proximal": lambda inner: jp.proximal(inner, jp.penalties.l1(3.0), 0.1),
    "growing": lambda inner: jp.growing(inner, MASKS, decay=0.1, until=2),
    "recorded": lambda inner: jp.recorded(sparsity_of(GMP, inner)),
    "averaged": lambda inner: jp.averaged(sparsity_of(GMP, inner), 0.5),
}
INNER = optax.sgd(0.1, momentum=0.9)


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):
        yield


def trained(tx, params, steps=4):
    state = tx.init(params)
    loss = lambda p: sum(jnp.sum((w - 0.3) ** 2) for w in jax.tree.leaves(p))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    assert step._cache_size() == 1, "the state keeps its containers"
    return params, state


@functools.cache
def in_dicts(name):
    return trained(TRANSFORMS[name](INNER), PARAMS)


def same(tree, other):
    return all(
        jnp.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    )


def dense_ones(name):
    """Whether the weights that are stored are dense, by intention."""
    return name in ("straight-through", "Top-KAST")


def module():
    def layer(own):
        made = nnx.Linear(*own["kernel"].shape, rngs=nnx.Rngs(0))
        made.kernel[...], made.bias[...] = own["kernel"], own["bias"]
        return made

    return nnx.Dict({name: layer(own) for name, own in PARAMS.items()})


CONTAINERS = {
    "FrozenDict": lambda: FrozenDict(PARAMS),
    "FlatMap": lambda: hk.data_structures.to_immutable_dict(PARAMS),
    "nnx.State": lambda: nnx.state(module(), nnx.Param),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_same_masks_in_every_container(name, container):
    start = CONTAINERS[container]()
    params, state = trained(TRANSFORMS[name](INNER), start)
    expected, plain = in_dicts(name)
    assert jax.tree.structure(params) == jax.tree.structure(start)
    masks = jp.masks_of(state)
    assert same(params, expected)
    assert same(masks, jp.masks_of(plain))
    assert jp.masks.table(masks) == jp.masks.table(jp.masks_of(plain))
    jp.masks.check(jp.forward_params(params, state), masks)
    jp.masks.check(jp.masks.apply(params, jp.masks_of(plain)), masks)
    assert same(jp.average_of(params, state), jp.average_of(expected, plain))
    again = jp.fixed(INNER, jp.masks_of(plain)).init(params)
    assert same(jp.masks_of(again), masks)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_nnx_optimizer(name):
    model = module()
    optimizer = nnx.Optimizer(model, TRANSFORMS[name](INNER), wrt=nnx.Param)
    variables = jax.tree.leaves(optimizer.opt_state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    assert all(v.get_value().dtype for v in variables), "no variable holds None"

    @nnx.jit
    def step(model, optimizer):
        loss = lambda m: sum(jnp.sum((w - 0.3) ** 2) for w in jax.tree.leaves(nnx.state(m)))
        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(4):
        step(model, optimizer)
    params, state = nnx.state(model, nnx.Param), optimizer.opt_state
    expected, plain = in_dicts(name)
    assert same(params, expected)
    masks = jp.masks_of(state)
    assert same(masks, jp.masks_of(plain))
    for tree in (params, nnx.as_pure(params)):
        jp.masks.validate(masks, tree)
        jp.masks.check(jp.forward_params(tree, state), masks)
        assert same(jp.average_of(tree, state), jp.average_of(expected, plain))
    nnx.Optimizer(model, jp.fixed(INNER, masks), wrt=nnx.Param)
    if name == "recorded":
        assert same(jp.record_of(state), jp.record_of(plain))


SPECS = jax.tree.map(lambda p: P("x") if p.ndim > 1 else P(), PARAMS)
NOTHING = lambda leaf: leaf is None or isinstance(leaf, jp.masks.PackedMask)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_tools_find_what_is_like_the_parameters(name):
    tx = TRANSFORMS[name](INNER)
    _, state = in_dicts(name)
    count = lambda tree: len(jax.tree.leaves(tree))
    same_state = optax.tree_map_params(tx, lambda leaf: leaf, state)
    assert jax.tree.structure(same_state) == jax.tree.structure(state)
    specs = optax.tree_map_params(
        tx,
        lambda leaf, spec: None if leaf is None else spec,
        state,
        SPECS,
        transform_non_params=lambda _: "other",
        is_leaf=NOTHING,
    )
    masks = jp.masks_of(state)
    held = specs.inner if name in ("recorded", "averaged") else specs
    reached = [spec for spec in jax.tree.leaves(held.masks) if spec == P("x")]
    assert len(reached) == count(masks)
    traces = optax.tree_utils.tree_get(held.inner, "trace")
    assert jax.tree.leaves(traces) == jax.tree.leaves(SPECS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_flax_checkpoints_hold_every_state(name):
    tx = TRANSFORMS[name](INNER)
    params, state = trained(tx, PARAMS, steps=2)
    stored = serialization.to_bytes((params, state))
    restored = serialization.from_bytes((PARAMS, tx.init(PARAMS)), stored)
    assert jax.tree.structure(restored) == jax.tree.structure((params, state))
    restored = jax.tree.map(jnp.asarray, restored)
    step = jax.jit(lambda p, s: tx.update(p, s, p))
    assert same(step(*restored), step(params, state))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_trainers_read_at_the_top_is_found_inside(name):
    rate = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    state = TRANSFORMS[name](optax.MultiSteps(rate, 2)).init(PARAMS)
    assert state.mini_step == state.gradient_step == 0
    assert state.acc_grads is not None
    assert TRANSFORMS[name](rate).init(PARAMS).hyperparams["learning_rate"] == jnp.float32(0.1)
    assert not hasattr(state, "_private")
    with pytest.raises(AttributeError, match="nor the state that it wraps has 'loss_scale'"):
        _ = state.loss_scale
