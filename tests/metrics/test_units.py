import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.metrics import units


def masks_by_hand():
    """A dense kernel with 2 of 4 inputs and 2 of 3 outputs, a convolution with 1 of 2 and 3 of 3."""
    dense = jnp.zeros((4, 3), bool).at[0, 0].set(True).at[3, 0].set(True).at[3, 2].set(True)
    conv = jnp.zeros((2, 2, 2, 3), bool).at[0, 0, 1, :].set(True).at[1, 1, 1, 0].set(True)
    return {"fc": {"kernel": dense, "bias": None}, "conv": [conv], "scale": jnp.ones(5, bool)}


EXPECTED = [
    {"leaf": "conv/0", "inputs": 1, "outputs": 3},
    {"leaf": "fc/kernel", "inputs": 2, "outputs": 2},
]


@pytest.mark.parametrize("packed", [False, True])
def test_units_by_hand(packed):
    masks = masks_by_hand()
    assert units(jp.masks.pack(masks) if packed else masks) == EXPECTED


def test_dead_and_dense_layers():
    found = units({"dead": jnp.zeros((4, 3), bool), "dense": jnp.ones((4, 3), bool)})
    assert [(row["inputs"], row["outputs"]) for row in found] == [(0, 0), (4, 3)]
    assert units({"bias": None}) == []


def test_units_of_gates():
    gate = jp.gates.hard_concrete(pattern=jp.patterns.channel(axis=-2))
    theta = gate.init({"w": jnp.ones((4, 3))}, jax.random.key(0))
    theta = theta._replace(gates={"w": jnp.array([4.0, -4.0, -4.0, 4.0])})
    assert units(gate.finalize(theta)[1]) == [{"leaf": "w", "inputs": 2, "outputs": 3}]


def test_nnx():
    params = nnx.state(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Param)
    assert units(jp.masks.make(params)) == [{"leaf": "kernel", "inputs": 4, "outputs": 3}]


def test_layers_of_a_stack_and_heads_of_attention():
    stack = jnp.zeros((2, 4, 3), bool).at[0, 1, 2].set(True).at[1, :2, :].set(True)
    query = jnp.zeros((4, 2, 3), bool).at[0, 0, 0].set(True).at[0, 1, 2].set(True)
    axes = {"layers": jp.Axes(1, 2, batch_axis=0), "query": jp.Axes(in_axis=0, out_axis=(1, 2))}
    assert units({"layers": stack, "query": query}, axes) == [
        {"leaf": "layers[0]", "inputs": 1, "outputs": 1},
        {"leaf": "layers[1]", "inputs": 2, "outputs": 3},
        {"leaf": "query", "inputs": 1, "outputs": 2},
    ]
    assert units({"query": query.reshape(4, 6)})[0] == {"leaf": "query", "inputs": 1, "outputs": 2}


@pytest.mark.parametrize("shape", [(4, 2, 3), (2, 3, 4, 2, 3), (32, 3, 4, 2)])
def test_leaves_whose_inputs_nobody_can_tell_are_refused(shape):
    with pytest.raises(ValueError, match=r"units: which axes of 'w' are inputs.*axes=jaxprune"):
        units({"w": jnp.ones(shape, bool)})
