"""Molchanov et al. 2019: squares of each batch's sums over a unit, behind BatchNorm too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import structured
from jaxprune.signals.unit_taylor import _Static

RNG = np.random.default_rng(5)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
PARAMS = {
    "a": {"kernel": draw(4, 6), "bias": draw(6)},
    "norm": {"scale": 1 + draw(6), "bias": draw(6)},
    "b": {"kernel": draw(6, 5)},
    "c": {"kernel": draw(5, 2)},
}
BATCHES = [(draw(n, 4), draw(n, 2)) for n in (16, 16, 8)]


def network(params, x, gates=None, training=True):
    """A layer with BatchNorm, its statistics of the batch or constant, and two behind it."""
    h = x @ params["a"]["kernel"] + params["a"]["bias"][None]
    mean, variance = h.mean(0, keepdims=True), h.var(0, keepdims=True)
    if training:
        h = (h - mean) / jnp.sqrt(variance)
    h = h * params["norm"]["scale"][None] + params["norm"]["bias"][None]
    h = h if gates is None else h * gates[None]
    return jax.nn.relu(h) @ params["b"]["kernel"] @ params["c"]["kernel"]


def loss(params, batch, gates=None, training=True):
    return jnp.mean((network(params, batch[0], gates, training) - batch[1]) ** 2)


GRAPH = structured.trace(functools.partial(network, training=False), PARAMS, BATCHES[0][0])
within = lambda over: structured.coupled(GRAPH, only=r"a/kernel\[1\]", over=over)


@pytest.mark.parametrize("training", [True, False])
def test_behind_batchnorm_it_is_the_mean_square_of_the_gates_gradient(training):
    """In evaluation mode the bias in front of the norm has a gradient too, which is not the gate's."""
    own = functools.partial(loss, training=training)
    slope = lambda batch: jax.grad(lambda gates: own(PARAMS, batch, gates))(jnp.ones(6))
    sizes = [len(x) for x, _ in BATCHES]
    expected = sum(n * slope(b) ** 2 for n, b in zip(sizes, BATCHES, strict=True)) / sum(sizes)
    found = jp.signals.unit_taylor(own, PARAMS, BATCHES, within("scales"))
    assert found["a"]["kernel"] is found["a"]["bias"] is found["b"]["kernel"] is None
    np.testing.assert_allclose(found["norm"]["scale"] + found["norm"]["bias"], expected, rtol=1e-4)
    np.testing.assert_allclose(found["norm"]["scale"], found["norm"]["bias"])
    scored = jp.criteria.unit_taylor(PARAMS, unit_taylor=found)
    by_path = dict(zip(jp.masks.paths(PARAMS), jp.masks.beside(PARAMS, scored), strict=True))
    [units] = within("scales").units(by_path)
    np.testing.assert_allclose(units, expected, rtol=1e-4)


def test_in_front_of_batchnorm_it_is_nothing_in_training_mode():
    front = jp.signals.unit_taylor(loss, PARAMS, BATCHES, within("outputs"))["a"]["kernel"]
    behind = jp.signals.unit_taylor(loss, PARAMS, BATCHES, within("scales"))["norm"]["scale"]
    assert float(jnp.abs(front).max()) < 1e-9 < 1e-4 < float(behind.max())


def test_squares_are_taken_before_batches_are_averaged():
    """Unit 0 has +3 and -3 in two batches, unit 1 has 1 in both: 9 and 1, of the mean gradient 0 and 1."""
    fn = lambda p, x: x @ p["w"] @ p["out"]
    params = {"w": jnp.eye(2), "out": jnp.ones((2, 1))}
    batches = [jnp.array([[3.0, 1.0]]), jnp.array([[-3.0, 1.0]])]
    graph = structured.trace(fn, params, batches[0])
    units = structured.coupled(graph, only=r"w\[1\]", over="outputs")
    mean = lambda params, x: jnp.mean(fn(params, x))
    known = jp.signals.gatherers(batches, loss=mean, units=units)
    scores = functools.partial(structured.scores, graph, params, over="outputs")
    importance = known["unit_taylor"](params)
    [found] = scores(criterion=jp.criteria.unit_taylor, unit_taylor=importance).values()
    np.testing.assert_allclose(found, [9, 1], rtol=1e-6)
    signed = functools.partial(jp.criteria.taylor, signed=True)
    [found] = scores(criterion=signed, reduce="absolute", grads=known["grads"](params)).values()
    np.testing.assert_allclose(found, [0, 1], atol=1e-6)
    half = jp.schedules.one_shot(sparsity=0.5)
    method = jp.Method(jp.criteria.unit_taylor, schedule=half, pattern=units)
    _, masks = jp.prune_on(params, method, known)
    assert masks["w"].tolist() == [[True, False], [True, False]]
    masks = structured.prune(
        graph,
        params,
        sparsity=0.5,
        over="outputs",
        criterion=jp.criteria.unit_taylor,
        unit_taylor=importance,
    )
    assert masks["w"].tolist() == [[True, False], [True, False]]


@pytest.mark.parametrize("over", ["outputs", "scales"])
def test_what_is_spread_sums_to_what_it_was(over):
    pattern = structured.coupled(GRAPH, over=over) if over == "outputs" else within(over)
    values = [draw(group.size) for group in pattern.groups]
    leaves = dict.fromkeys(pattern.covered(PARAMS), True)
    found = pattern.units(pattern.spread(values, leaves))
    for value, again in zip(values, found, strict=True):
        np.testing.assert_allclose(value, again, rtol=1e-5)


def test_what_is_refused():
    unit_taylor = jp.signals.unit_taylor
    half = jp.schedules.one_shot(sparsity=0.5)
    method = jp.Method(jp.criteria.unit_taylor, schedule=half)
    unread = iter(BATCHES)
    with pytest.raises(ValueError, match=r"'b/kernel' counts for units of more than one group"):
        unit_taylor(loss, PARAMS, unread, structured.coupled(GRAPH))
    assert list(unread), "nothing was read"
    with pytest.raises(TypeError, match=r"what jaxprune\.structured\.coupled returns"):
        unit_taylor(loss, PARAMS, BATCHES, jp.patterns.channel())
    with pytest.raises(ValueError, match="unit_taylor: coupled: the tree has no leaf"):
        unit_taylor(loss, {"a": PARAMS["a"]}, BATCHES, within("outputs"))
    known = jp.signals.gatherers(BATCHES, loss=loss)
    with pytest.raises(ValueError, match="nobody gathers the signal 'unit_taylor'"):
        jp.prune_on(PARAMS, method, known)


def test_equal_patterns_compile_once():
    traces = []

    def counted(params, batch):
        traces.append(0)
        return loss(params, batch)

    for _ in range(2):
        jp.signals.unit_taylor(counted, PARAMS, BATCHES[:2], within("scales"))
    assert len(traces) == 1
    assert _Static(within("scales")) != _Static(within("outputs"))
