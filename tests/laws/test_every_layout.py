"""The same network gets the same masks however it is laid out: written out or stacked, in heads, transposed.

A layout stores the same matrices in other arrays; `jp.axes` reads from its program what their axes are.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import jaxprune as jp

LAYERS, WIDTH, HEADS = 3, 16, 4
SIZE = WIDTH // HEADS
X = jax.random.normal(jax.random.key(9), (8, WIDTH))


def matrices():
    """The network as matrices [inputs, outputs], by name of the layer; no two numbers are equal."""
    keys = iter(jax.random.split(jax.random.key(0), 9))
    scales = (1.0, 0.3, 0.05)
    layers = {
        f"{name}{layer}": scale * jax.random.normal(next(keys), (WIDTH, WIDTH))
        for layer, scale in enumerate(scales)
        for name in ("q", "o")
    }
    return layers | {"head": jax.random.normal(next(keys), (WIDTH, 8))}


def written_out(layers):
    return {name: {"kernel": w} for name, w in layers.items()}


def stacked(layers, axis=0, shape=lambda name, w: w):
    stack = {
        name: jnp.stack([shape(name, layers[f"{name}{i}"]) for i in range(LAYERS)], axis)
        for name in ("q", "o")
    }
    return {"layers": stack, "head": {"kernel": layers["head"]}}


def in_heads(name, w):
    return w.reshape(WIDTH, HEADS, SIZE) if name == "q" else w.reshape(HEADS, SIZE, WIDTH)


def unstacked(params, axis=0, shape=(WIDTH, WIDTH)):
    layers = {
        f"{name}{i}": jnp.take(params["layers"][name], i, axis).reshape(shape)
        for i in range(LAYERS)
        for name in ("q", "o")
    }
    return layers | {"head": params["head"]["kernel"]}


def run_written_out(p, x):
    for i in range(LAYERS):
        x = jnp.tanh(jnp.tanh(x @ p[f"q{i}"]["kernel"]) @ p[f"o{i}"]["kernel"])
    return x @ p["head"]["kernel"]


def run_transposed(p, x):
    for i in range(LAYERS):
        x = jnp.tanh(jnp.tanh(x @ p[f"q{i}"]["kernel"].T) @ p[f"o{i}"]["kernel"].T)
    return x @ p["head"]["kernel"].T


def run_scanned(p, x, axis=0):
    layers = jax.tree.map(lambda w: jnp.moveaxis(w, axis, 0), p["layers"])
    layer = lambda x, own: (jnp.tanh(jnp.tanh(x @ own["q"]) @ own["o"]), None)
    return lax.scan(layer, x, layers)[0] @ p["head"]["kernel"]


def run_heads(p, x):
    def layer(x, own):
        heads = jnp.tanh(jnp.einsum("bd,dhk->bhk", x, own["q"]))
        return jnp.tanh(jnp.einsum("bhk,hkd->bd", heads, own["o"])), None

    return lax.scan(jax.checkpoint(layer), x, p["layers"])[0] @ p["head"]["kernel"]


# name: (matrices -> parameters, the program, parameters or masks -> matrices)
LAYOUTS = {
    "written out": (
        written_out,
        run_written_out,
        lambda p: {name: own["kernel"] for name, own in p.items()},
    ),
    "transposed": (
        lambda layers: written_out({name: w.T for name, w in layers.items()}),
        run_transposed,
        lambda p: {name: own["kernel"].T for name, own in p.items()},
    ),
    "scan": (stacked, run_scanned, unstacked),
    "scan over axis 1": (
        lambda layers: stacked(layers, 1),
        lambda p, x: run_scanned(p, x, 1),
        lambda p: unstacked(p, 1),
    ),
    "scan, in heads": (
        lambda layers: stacked(layers, 0, in_heads),
        run_heads,
        unstacked,
    ),
}
PLAIN = "written out"


def costs(params):
    return jax.tree.map(lambda w: float(w.size), params)


PATTERNS = {
    "unstructured": jp.patterns.unstructured(),
    "2:4": jp.patterns.groups(4),
    "per output": jp.patterns.groups(),
    "blocks, across heads too": jp.patterns.block((8, 2)),
    "outputs": jp.patterns.channel(),
    "inputs": jp.patterns.channel("in"),
}
ALLOCATIONS = {
    "uniform": lambda params: jp.allocation.uniform(),
    "uniform, head at half": lambda params: jp.allocation.uniform({"head": 0.5}),
    "uniform_plus": lambda params: jp.allocation.uniform_plus(first="q", last="head"),
    "erk": lambda params: jp.allocation.erk(),
    "global": lambda params: jp.allocation.global_budget(),
    "lamp": lambda params: jp.allocation.global_budget(normalize="lamp"),
    "l2": lambda params: jp.allocation.global_budget(normalize="l2"),
    "threshold": lambda params: jp.allocation.threshold(0.8),
    "owl": lambda params: jp.allocation.owl(outlier=2.0),
    "by_path": lambda params: jp.allocation.by_path({"q": 0.9, "o": 0.5}),
    "cost": lambda params: jp.allocation.cost_budget(costs(params)),
    "at cost": lambda params: jp.allocation.at_cost(jp.allocation.erk(), costs(params)),
}
UPDATES = {
    "reselect": jp.updates.reselect(),
    "regrow": jp.updates.regrow(jp.criteria.gradient),
    "redistribute by signal": jp.updates.redistribute(
        jp.criteria.gradient, shares=jp.updates.by_signal
    ),
    "redistribute by survivors": jp.updates.redistribute(
        jp.criteria.gradient, shares=jp.updates.by_survivors, pooled=True
    ),
    "splice": jp.updates.splice(c=0.1),
}


def masks_in(layout, method_of, *, of_remaining=False, start=None):
    """The masks that a method makes in a layout, as matrices."""
    store, run, read = LAYOUTS[layout]
    params = store(matrices())
    axes = jp.axes(run, jax.eval_shape(lambda: params), X)
    grads = store({name: jnp.cos(50 * w) for name, w in matrices().items()})
    masks = jp.masks.make(params, axes=axes)
    if start is not None:
        masks = store(start)
        params = jp.masks.apply(params, masks)
    method = method_of(params)
    masks = jp.next_masks(
        method, params, masks, 0, of_remaining=of_remaining, axes=axes, grads=grads
    )
    return {name: np.asarray(mask) for name, mask in read(masks).items()}


def half():
    """Masks that keep the larger half of each matrix."""
    return {name: jnp.abs(w) > jnp.median(jnp.abs(w)) for name, w in matrices().items()}


FEW = ("scan over axis 1", "scan, in heads")


def same_in(layouts, method_of, **more):
    expected = masks_in(PLAIN, method_of, **more)
    assert 0 < sum(mask.sum() for mask in expected.values()) < sum(map(np.size, expected.values()))
    for layout in layouts:
        found = masks_in(layout, method_of, **more)
        for name, mask in expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=f"{layout}, {name}")


def method(sparsity=0.75, **parts):
    schedule = jp.schedules.one_shot(sparsity=sparsity)
    return jp.Method(jp.criteria.magnitude, schedule=schedule, **parts)


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name):
    same_in(LAYOUTS, lambda params: method(0.5, pattern=PATTERNS[name]))


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_allocations(name):
    same_in(FEW, lambda params: method(0.6, allocation=ALLOCATIONS[name](params)))


@pytest.mark.parametrize("name", UPDATES)
def test_updates(name):
    same_in(FEW, lambda params: method(0.5, update=UPDATES[name]), start=half())


def test_regrowth_in_groups():
    update = jp.updates.regrow(jp.criteria.gradient, fraction=0.5)
    parts = {"pattern": jp.patterns.groups(4), "update": update}
    same_in(FEW, lambda params: method(0.5, **parts))


def test_a_share_of_what_is_left():
    same_in(FEW, lambda params: method(0.2), of_remaining=True, start=half())


EVERY = jp.schedules.every(2, sparsity=0.75, end=6)
TRAINED = {
    "gradual": jp.methods.gmp(sparsity=0.75, begin=1, end=5, every=2),
    "regrown": jp.Method(
        jp.criteria.magnitude,
        schedule=EVERY,
        allocation=jp.allocation.erk(),
        update=jp.updates.regrow(jp.criteria.gradient, skip_gradient=True),
        initial=jp.criteria.magnitude,
    ),
    "movement": jp.methods.movement(sparsity=0.75, begin=1, end=5, every=2),
}


def trained(layout, enforce):
    """The masks after some updates, as matrices."""
    store, run, read = LAYOUTS[layout]
    params = store(matrices())
    tx = enforce(jp.axes(run, params, X))
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: jnp.mean(run(p, X) ** 2))(jp.forward_params(params, state))
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(8):
        params, state = step(params, state)
    return read(jp.masks_of(state))


def same_when_trained(enforce):
    expected = trained(PLAIN, enforce)
    for layout in FEW:
        found = trained(layout, enforce)
        for name, mask in expected.items():
            np.testing.assert_array_equal(found[name], mask, err_msg=f"{layout}, {name}")


@pytest.mark.parametrize(
    "name", ["gradual", *(pytest.param(n, marks=pytest.mark.slow) for n in ("regrown", "movement"))]
)
def test_training(name):
    same_when_trained(lambda axes: jp.sparsify(optax.sgd(0.1), TRAINED[name], axes=axes))


def test_training_straight_through():
    method = jp.methods.sr_ste(sparsity=0.5, end=8)
    same_when_trained(lambda axes: jp.straight_through(optax.sgd(0.1), method, axes=axes))


def test_a_lottery_ticket():
    plan = jp.lottery.Plan(round_steps=2, rounds=2)
    method = jp.methods.magnitude(sparsity=0.3)
    same_when_trained(lambda axes: jp.lottery_ticket(optax.sgd(0.1), method, plan, axes=axes))


def test_the_layouts_are_one_network():
    outputs = [run(store(matrices()), X) for store, run, _ in LAYOUTS.values()]
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=1e-4, atol=1e-5)


def test_without_axes_layouts_differ_or_are_refused():
    """The laws above can fail."""
    stack = stacked(matrices())
    with pytest.raises(ValueError, match=r"'layers/o'.*give axes="):
        jp.prune(stack, method(pattern=jp.patterns.groups(4)))
    with pytest.raises(ValueError, match=r"erk: .*'layers/o'.*give axes="):
        jp.prune(stack, method(allocation=jp.allocation.erk()))
    _, masks = jp.prune(stack, method())
    assert int(masks["layers"]["q"][2].sum()) == 0, "one contest over the stack empties a layer"
