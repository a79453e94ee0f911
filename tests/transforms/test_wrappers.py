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


FEW = ["packed", "Top-KAST", "recorded"]
QUICK = {*FEW, "rigl", "ticket"}


def cases(*containers):
    """Transforms, or transforms and containers; those that are compiled long are slow tests."""
    listed = []
    for name in TRANSFORMS:
        for container in containers or [None]:
            case = (name,) if container is None else (name, container)
            is_quick = name in (FEW if container == "FrozenDict" else QUICK)
            listed.append(pytest.param(*case, marks=() if is_quick else pytest.mark.slow))
    return listed


@pytest.mark.parametrize(("name", "container"), cases(*CONTAINERS))
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


@pytest.mark.parametrize("name", cases())
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
        jp.masks.validate(tree, masks)
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


@pytest.mark.parametrize("name", cases())
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


LABELS = lambda tree: type(tree)({"one": "a", "two": "b"})
BOTH = jp.methods.magnitude(sparsity=0.5)


def parts_of(first, second, labels=LABELS):
    return optax.partition({"a": first, "b": second}, labels)


STE = jp.methods.ste(sparsity=0.5, end=9)
PARTS = {
    "two sparse parts": lambda: parts_of(sparsity_of(BOTH, INNER), jp.fixed(INNER, MASKS)),
    "one sparse part": lambda: parts_of(sparsity_of(BOTH, INNER), optax.adam(1e-2)),
    "packed": lambda: parts_of(
        sparsity_of(BOTH, INNER, packed=True), sparsity_of(BOTH, INNER, packed=True)
    ),
    "by kind of leaf": lambda: parts_of(
        sparsity_of(BOTH, INNER),
        optax.adam(1e-2),
        lambda tree: jax.tree.map(lambda p: "a" if p.ndim > 1 else "b", tree),
    ),
    "masked": lambda: optax.masked(
        sparsity_of(BOTH, INNER), lambda tree: type(tree)({"one": True, "two": False})
    ),
    "multi_transform": lambda: optax.multi_transform(
        {"a": sparsity_of(BOTH, INNER), "b": sparsity_of(BOTH, INNER)}, LABELS
    ),
    "two straight-through parts": lambda: parts_of(
        jp.straight_through(INNER, STE), jp.straight_through(INNER, STE)
    ),
    "averaged around": lambda: jp.averaged(
        parts_of(sparsity_of(BOTH, INNER), sparsity_of(BOTH, INNER)), 0.5
    ),
    "averaged inside": lambda: parts_of(
        jp.averaged(sparsity_of(BOTH, INNER), 0.5), jp.averaged(sparsity_of(BOTH, INNER), 0.5)
    ),
    "recorded inside": lambda: parts_of(jp.recorded(sparsity_of(BOTH, INNER)), INNER),
}


OF_NNX = ["two sparse parts", "packed", "two straight-through parts", "averaged inside"]


@pytest.mark.parametrize(
    ("name", "container"), [*((n, "dict") for n in PARTS), *((n, "nnx.State") for n in OF_NNX)]
)
def test_masks_of_parts_are_one_tree(name, container):
    start = PARAMS if container == "dict" else nnx.as_pure(CONTAINERS[container]())
    params, state = trained(PARTS[name](), start)
    masks = jp.masks_of(state)
    alone = name in ("one sparse part", "masked", "recorded inside")
    named = ["one/kernel"] if alone else ["one/kernel", "two/kernel"]
    assert jp.masks.paths(masks) == named
    assert float(jp.masks.sparsity(masks)) == 0.5
    assert jp.masks.table(masks).count("kernel") == len(named)
    sparse = jp.forward_params(params, state)
    jp.masks.check(sparse, masks)
    dense = [jp.masks.paths(params)[i] for i, w in enumerate(jax.tree.leaves(sparse)) if w.all()]
    assert set(dense) == set(jp.masks.paths(params)) - set(named)
    jp.masks.check(jp.average_of(sparse, state), masks)
    params, state = trained(jp.fixed(INNER, masks), sparse, steps=1)
    jp.masks.check(params, masks)
    if name == "recorded inside":
        assert 0 < float(jp.record_of(PARTS[name]().init(PARAMS)).exploration) <= 1


def test_leaves_with_masks_of_two_transforms_are_refused():
    sparse = sparsity_of(BOTH, INNER)
    twice = optax.chain(parts_of(sparse, INNER), sparse)
    with pytest.raises(ValueError, match=r"2 sparse states .*'one/kernel'"):
        jp.masks_of(twice.init(PARAMS))
    through = jp.straight_through(INNER, STE)
    with pytest.raises(ValueError, match=r"2 straight-through states .*'one/kernel'"):
        jp.forward_params(PARAMS, (through.init(PARAMS), through.init(PARAMS)))


def test_an_average_forgets_what_is_removed():
    tx = TRANSFORMS["averaged"](INNER)
    params, state = in_dicts("averaged")
    masks, average = jp.masks_of(state), jp.average_of(params, state)
    jp.masks.check(average, masks)
    alive = jax.tree.leaves(jp.masks.apply(average, masks))
    assert all((w != 0).any() for w in alive)
    through = jp.averaged(jp.straight_through(INNER, STE), 0.5)
    params, state = trained(through, PARAMS)
    with pytest.raises(ValueError, match="not zero"):
        jp.masks.check(jp.average_of(params, state), jp.masks_of(state))
    assert tx.init(PARAMS).average["one"]["kernel"].shape == (4, 6)


def sam(optimizer, **how):
    return optax.contrib.sam(optimizer, optax.sgd(0.05), sync_period=2, **how)


def loss_of(params):
    return sum(jnp.sum((w - 0.3) ** 2) for w in jax.tree.leaves(params))


@pytest.mark.parametrize("order", ["opaque, outside", "opaque, inside", "inside"])
def test_sharpness_aware_minimization(order):
    opaque = {"opaque_mode": True} if order.startswith("opaque") else {}
    sparse = sparsity_of(GMP, INNER)
    tx = (
        sam(sparse, **opaque)
        if order.endswith("outside")
        else sparsity_of(GMP, sam(INNER, **opaque))
    )
    tx = optax.with_extra_args_support(tx)
    extra = {"grad_fn": jax.grad(lambda p, _: loss_of(p))} if opaque else {}

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss_of)(params), state, params, **extra)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(6):
        params, state = step(params, state)
    masks = jp.masks_of(state)
    assert float(jp.masks.sparsity(masks)) == 0.5
    jp.masks.check(params, masks)


def test_a_state_that_a_wrapper_calculates_with_is_refused():
    tx = sam(sparsity_of(GMP, INNER))
    _, state = jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match=r"made int32 of the masks .*sparsify\(sam\(...\), ...\)"):
        tx.update(PARAMS, state, PARAMS)
    cast = optax.tree_map_params(
        sparsity_of(GMP, INNER),
        lambda w: w.astype(jnp.bfloat16),
        sparsity_of(GMP, INNER).init(PARAMS),
    )
    with pytest.raises(ValueError, match="made bfloat16 of the masks"):
        sparsity_of(GMP, INNER).update(PARAMS, cast, PARAMS)
