"""Operations per parameter agree with the formulas and, in all, with what the compiler counts."""

import jax
import jax.numpy as jnp
import network_zoo
import pytest
from flax import linen as nn

import jaxprune as jp
from jaxprune.metrics import flops, total_flops


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


@pytest.mark.parametrize("name", network_zoo.MODELS)
def test_both_counts_of_operations_agree(name):
    fn, params, x = network_zoo.model(name)
    graph = jp.structured.trace(fn, params, x)
    nothing = jax.tree.map(lambda leaf: None, params)
    assert total_flops(fn, params, x) == jp.structured.flops(graph, params, nothing)


def test_products_of_activations_count_in_all_but_in_no_parameter():
    def attend(p, x):
        query = x @ p["query"]
        return jax.nn.softmax(query @ x.T) @ x

    params, x = {"query": jnp.ones((4, 4))}, jnp.ones((5, 4))
    assert flops(attend, params, x) == {"query": 2 * 5 * 4 * 4}
    assert total_flops(attend, params, x) == 2 * (5 * 4 * 4 + 2 * 5 * 5 * 4)


def test_of_a_condition_the_costliest_branch_counts_for_all():
    def fn(p, x):
        return jax.lax.cond(x.sum() > 0, lambda: x @ p["a"] @ p["b"], lambda: x @ p["b"])

    params, x = {"a": jnp.ones((4, 4)), "b": jnp.ones((4, 4))}, jnp.ones((5, 4))
    assert total_flops(fn, params, x) == 2 * 2 * 5 * 4 * 4
    graph = jp.structured.trace(fn, params, x)
    assert jp.structured.flops(graph, params, {"a": None, "b": None}) == 2 * 2 * 5 * 4 * 4


def test_a_mask_and_the_factors_of_an_update_take_part_in_the_product():
    def fn(p, x):
        return x @ (p["w"] * p["mask"] + p["a"] @ p["b"])

    w = jnp.ones((4, 4))
    params = {"w": w, "mask": w, "a": w[:, :2], "b": w[:2]}
    product, inner = 2 * 5 * 4 * 4, 2 * 4 * 2 * 4
    found = flops(fn, params, jnp.ones((5, 4)))
    assert found == {"w": product, "mask": product, "a": product + inner, "b": product + inner}


def test_what_no_output_needs_is_not_counted():
    def apply(params, x):
        unused = (x @ params["other"]).sum()
        return x @ params["kernel"], unused

    params = {"kernel": jnp.ones((6, 3)), "other": jnp.ones((6, 300))}
    x = jnp.ones((5, 6))
    used = lambda params, x: apply(params, x)[0]
    assert jp.metrics.flops(used, params, x) == {"kernel": 180, "other": 0}
    graph = jp.structured.trace(used, params, x)
    whole = jax.tree.map(lambda _: None, params)
    assert jp.metrics.total_flops(used, params, x) == 180
    assert jp.structured.flops(graph, params, whole) == 180
    assert jp.axes(used, params, x)["other"] == jp.axes(used, params, x)["kernel"]
