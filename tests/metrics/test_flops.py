"""Operations per parameter agree with the formulas and, in all, with what the compiler counts."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.metrics import flops


def test_a_convolution_with_groups_and_strides():
    conv = nn.Conv(8, (3, 3), strides=2, padding="SAME", feature_group_count=2)
    x = jnp.ones((5, 10, 10, 4))
    params = conv.init(jax.random.key(0), x)["params"]
    found = flops(lambda p, x: conv.apply({"params": p}, x), params, x)
    assert found == {"bias": 0, "kernel": 2 * 5 * 5 * 5 * 8 * (3 * 3 * 4 // 2)}


def test_scans_conditions_and_calls_are_entered():
    params = {"stack": jnp.ones((3, 4, 4)), "one": jnp.ones((4, 4)), "other": jnp.ones((4, 2))}

    def fn(p, x):
        x = jax.lax.scan(lambda x, w: (x @ w, None), x, p["stack"])[0]
        x = jax.jit(lambda x, w: jnp.tanh(x @ w.T.astype(jnp.float32)))(x, p["one"])
        large, small = lambda: jnp.sum(x @ p["other"]), lambda: x[0, 0]
        return jax.lax.cond(x[0, 0] > 0, large, small)

    product = 2 * 5 * 4 * 4
    expected = {"stack": 3 * product, "one": product, "other": product // 2}
    assert flops(fn, params, jnp.ones((5, 4))) == expected


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (jp.nn.lenet_300_100(), (28, 28, 1)),
        (jp.nn.lenet5_caffe(), (28, 28, 1)),
        (jp.nn.resnet20(), (32, 32, 3)),
    ],
    ids=["lenet_300_100", "lenet5_caffe", "resnet20"],
)
def test_models_cost_what_the_compiler_says(model, shape):
    x = jnp.zeros((1, *shape))
    variables = model.init(jax.random.key(0), x)
    rest = {k: v for k, v in variables.items() if k != "params"}
    forward = lambda p, x: model.apply({"params": p, **rest}, x, train=False)
    found = sum(jax.tree.leaves(flops(forward, variables["params"], x)))
    compiled = jax.jit(forward).lower(variables["params"], x).compile().cost_analysis()["flops"]
    assert 0.9 * compiled < found < 1.08 * compiled  # it leaves out the padding


def test_the_table_counts_what_is_kept():
    masks = {"a": jnp.array([[True, False], [True, True]]), "b": None}
    *_, row, total = jp.masks.table(masks, {"a": 4000, "b": 0}).splitlines()
    assert row.split()[-2:] == ["4,000", "3,000"] == total.split()[-2:]
