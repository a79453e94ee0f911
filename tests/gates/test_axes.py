"""Gates go by inputs, outputs and layers, however a kernel lies in its leaf."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import gates

LAYERS, END = 3, 10
STACKED = {"layers": jp.Axes(in_axis=1, out_axis=2, batch_axis=0)}
SCALES = jnp.array([1.0, 0.3, 0.05])[:, None, None]
STACK = {"layers": jax.random.normal(jax.random.key(0), (LAYERS, 8, 6)) * SCALES}
WRITTEN_OUT = {f"layer_{i}": STACK["layers"][i] for i in range(LAYERS)}
HEADS = {"query": jp.Axes(in_axis=0, out_axis=(1, 2)), "out": jp.Axes(in_axis=(0, 1), out_axis=2)}
ATTENTION = {
    "query": jax.random.normal(jax.random.key(1), (8, 2, 3)),
    "out": jax.random.normal(jax.random.key(2), (2, 3, 8)),
}
MATRICES = {"query": ATTENTION["query"].reshape(8, 6), "out": ATTENTION["out"].reshape(6, 8)}
GATES = {
    "hard_concrete": gates.hard_concrete,
    "hard_concrete, outputs": functools.partial(
        gates.hard_concrete, pattern=jp.patterns.channel("out"), weight_decay=0.1
    ),
    "hard_concrete, groups": functools.partial(gates.hard_concrete, pattern=jp.patterns.groups(2)),
    "variational_dropout": functools.partial(gates.variational_dropout, init=-4.0),
    "soft_threshold": gates.soft_threshold,
    "supermask": gates.supermask,
    "supermask, popup": functools.partial(
        gates.supermask, sparsity=0.75, signed_constant=True, dynamic_scaling=True
    ),
    "movement": functools.partial(gates.movement, sparsity=0.75, end=END),
    "soft_movement": functools.partial(gates.soft_movement, strength=0.1, end=END),
    "continuous": functools.partial(gates.continuous, strength=0.1, end=END),
}
every_gate = pytest.mark.parametrize("name", GATES)


def read(gate, theta):
    """What a gate says of theta without drawing anything."""
    params, masks = gate.finalize(theta, END)
    return params, masks, gate.penalty(theta, END), gate.expected_l0(theta)


def close(a, b):
    np.testing.assert_allclose(np.asarray(a, float), np.asarray(b, float), rtol=1e-5)


@every_gate
def test_scanned_is_written_out(name):
    scanned, separate = GATES[name](axes=STACKED), GATES[name]()
    theta = scanned.init(STACK, jax.random.key(3))
    own = separate.init(WRITTEN_OUT, jax.random.key(3))
    gate = theta.gates["layers"]
    gate = gate + jax.random.normal(jax.random.key(4), gate.shape)
    assert gate.shape[0] == LAYERS
    theta = theta._replace(gates={"layers": gate})
    each = {f"layer_{i}": gate[i].reshape(own.gates[f"layer_{i}"].shape) for i in range(LAYERS)}
    own = own._replace(gates=each)
    found, expected = read(scanned, theta), read(separate, own)
    for stack, layers in zip(found[:2], expected[:2], strict=True):
        for i in range(LAYERS):
            close(stack["layers"][i], layers[f"layer_{i}"])
    close(found[2], expected[2])
    close(found[3], expected[3])
    slopes = jax.grad(lambda theta: scanned.penalty(theta, END))(theta).gates["layers"]
    apart = jax.grad(lambda theta: separate.penalty(theta, END))(own).gates
    for i in range(LAYERS):
        close(slopes[i].ravel(), apart[f"layer_{i}"].ravel())


@every_gate
def test_attention_is_its_matrix(name):
    heads, matrices = GATES[name](axes=HEADS), GATES[name]()
    theta = heads.init(ATTENTION, jax.random.key(3))
    moved = {n: g + jax.random.normal(jax.random.key(4), g.shape) for n, g in theta.gates.items()}
    own = matrices.init(MATRICES, jax.random.key(3))
    merged = {n: moved[n].reshape(g.shape) for n, g in own.gates.items()}
    found = read(heads, theta._replace(gates=moved))
    expected = read(matrices, own._replace(gates=merged))
    for kernels, plain in zip(found[:2], expected[:2], strict=True):
        for n, matrix in plain.items():
            close(kernels[n].reshape(matrix.shape), matrix)
    close(found[2], expected[2])
    close(found[3], expected[3])


@pytest.mark.parametrize(
    "name", ["hard_concrete, outputs", "hard_concrete, groups", "supermask, popup"]
)
def test_three_axes_that_nobody_has_explained_are_refused(name):
    with pytest.raises(ValueError, match=r"which axes of 'query' are inputs is not known.*axes="):
        GATES[name](prunable="query").init(ATTENTION, jax.random.key(0))


def test_each_layer_learns_a_threshold():
    gate = gates.soft_threshold(axes=STACKED)
    assert gate.init(STACK, jax.random.key(0)).gates["layers"].shape == (LAYERS, 1, 1)


def test_scores_begin_as_wide_as_the_inputs_of_a_layer_say():
    gate = gates.supermask(sparsity=0.5, axes={"stack": jp.Axes(2, 1, batch_axis=0), **HEADS})
    params = {
        "stack": jnp.ones((2, 400, 25)),
        "query": jnp.ones((16, 20, 20)),
        "out": jnp.ones((2, 8, 400)),
    }
    found = gate.init(params, jax.random.key(0)).gates
    for name, inputs in {"stack": 25, "query": 16, "out": 16}.items():
        limit, scores = 1 / math.sqrt(inputs), np.asarray(found[name])
        assert 0.99 * limit < np.abs(scores).max() <= limit
        assert scores.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)


def test_the_default_filter_asks_the_program():
    params = {"table": jnp.ones((5, 4)), "kernel": jnp.ones((4, 3))}
    apply = lambda params, ids: params["table"][ids] @ params["kernel"]
    axes = jp.axes(apply, params, jnp.zeros((2,), jnp.int32))
    for make in GATES.values():
        theta = jax.eval_shape(make(axes=axes).init, params, jax.random.key(0))
        assert set(theta.gates) == {"kernel"}


def test_axes_may_be_about_leaves_without_gates_but_not_about_none():
    by_name = {"^lay": STACKED["layers"], "^hea": jp.Axes(0, 1)}
    gate = gates.movement(sparsity=0.5, end=END, axes=by_name, prunable="layers")
    theta = gate.init({**STACK, "head": jnp.ones((6, 2))}, jax.random.key(0))
    assert gate.sample(theta, step=END)["head"].shape == (6, 2)
    with pytest.raises(ValueError, match=r"'\^hea' is no path of the parameters"):
        gate.init(STACK, jax.random.key(0))


def test_a_rule_of_ones_own_goes_by_layers():
    """Weights divided by the largest of their layer."""

    def sample(leaves, own_gates, key, step):
        kernels = jp.kernel_axes.by_path(STACKED, leaves)
        largest = {
            n: jnp.abs(w).max((*kernels[n].in_axis, *kernels[n].out_axis), keepdims=True)
            for n, w in leaves.items()
        }
        return {n: w / largest[n] for n, w in leaves.items()}

    rule = gates.Rule(
        init=lambda leaves, key: {n: jnp.zeros(w.shape) for n, w in leaves.items()},
        sample=sample,
        final=lambda leaves, own_gates, step: (leaves, {n: w != 0 for n, w in leaves.items()}),
        alive=lambda leaves, own_gates: jnp.zeros(()),
        cost=lambda leaves, own_gates, step: 0.0,
    )
    gate = gates.gate_of(rule, axes=STACKED)
    found = gate.sample(gate.init(STACK, jax.random.key(0)))["layers"]
    close(jnp.abs(found).max((1, 2)), jnp.ones(LAYERS))
