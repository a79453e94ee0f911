"""What enters and leaves kernels, found in programs that nobody edits."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.signals.kernels import products


def only(apply, params, *inputs):
    (found,) = products(apply, params, *inputs)
    return found


def test_a_dense_layer():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([[[-5.0, 0.0, 5.0]]])}
    x = jnp.array([[[1.0, -1.0], [2.0, 3.0]]])
    found = only(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), params, x)
    assert found.leaf == "w"
    assert found.axes == (0,)
    assert found.features == (2, 1)
    np.testing.assert_array_equal(found.inputs, x.reshape(-1, 2))
    np.testing.assert_array_equal(found.outputs, jax.nn.relu(x @ params["w"] + params["b"]))


@pytest.mark.parametrize("expression", ["bte,ehd->bthd", "bte,hed->bthd"])
def test_a_kernel_of_heads_knows_which_axes_are_summed(expression):
    w = jax.random.normal(jax.random.key(0), (4, 2, 3) if "ehd" in expression else (2, 4, 3))
    x = jax.random.normal(jax.random.key(1), (5, 6, 4))
    found = only(lambda p, x: jnp.einsum(expression, x, p["w"]), {"w": w}, x)
    assert found.axes == (expression.split(",")[1].index("e"),)
    assert found.features is None, "two axes of the kernel are units"
    np.testing.assert_array_equal(found.inputs, x.reshape(-1, 4))


def test_two_axes_that_are_summed_lie_in_the_kernels_order():
    w = jax.random.normal(jax.random.key(0), (2, 3, 4))
    x = jax.random.normal(jax.random.key(1), (5, 3, 2))  # the other way round
    apply = lambda p, x: jnp.einsum("bdh,hde->be", x, p["w"])
    found = only(apply, {"w": w}, x)
    assert found.axes == (0, 1)
    np.testing.assert_allclose(found.inputs @ w.reshape(6, 4), apply({"w": w}, x), rtol=1e-5)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_a_convolution_is_a_product_with_its_patches(strides, padding):
    model = linen.Conv(5, (3, 2), strides=strides, padding=padding, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (2, 8, 7, 3))
    params = model.init(jax.random.key(1), x)["params"]
    found = only(lambda p, x: model.apply({"params": p}, x), params, x)
    assert found.axes == (0, 1, 2)
    assert found.features == (3, 3)
    again = found.inputs @ params["kernel"].reshape(-1, 5)
    np.testing.assert_allclose(again.reshape(found.outputs.shape), found.outputs, atol=1e-5)


def test_activations_end_where_others_join():
    params = {"a": jnp.eye(2), "b": jnp.eye(2)}

    def apply(p, x):
        y = jax.nn.relu(x @ p["a"])
        z = jnp.tanh(y @ p["b"])
        return jax.nn.relu(y + z)

    x = jnp.array([[1.0, -1.0]])
    a, b = products(apply, params, x)
    np.testing.assert_array_equal(a.outputs, [[1.0, 0.0]])
    np.testing.assert_allclose(b.outputs, np.tanh([[1.0, 0.0]]))


def test_a_side_branch_is_not_followed():
    params = {"w": jnp.eye(2), "v": jnp.eye(2)}

    def apply(p, x):
        y = jax.nn.relu(x @ p["w"])
        z = y @ p["v"]
        return z, jnp.tanh(y - 3), y.mean()

    x = jnp.array([[1.0, -1.0]])
    first, _ = products(apply, params, x)
    np.testing.assert_array_equal(first.outputs, [[1.0, 0.0]])


def test_a_gate_of_itself_is_still_the_unit():
    gelu = only(lambda p, x: jax.nn.gelu(x @ p["w"]), {"w": jnp.eye(2)}, jnp.ones((1, 2)))
    np.testing.assert_allclose(gelu.outputs, jax.nn.gelu(jnp.ones((1, 2))), rtol=1e-6)


def test_calls_are_entered():
    inner = jax.jit(lambda w, x: jax.checkpoint(lambda w, x: jax.nn.relu(x @ w))(w, x))
    found = only(
        lambda p, x: inner(p["w"].astype(jnp.float32), x), {"w": jnp.eye(2)}, jnp.ones((1, 2))
    )
    assert found.leaf == "w"


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5_caffe", "resnet20"])
def test_every_kernel_of_the_models_is_found(name):
    model = getattr(jp.nn, name)()
    x = jnp.zeros((1, 32, 32, 3) if name == "resnet20" else (1, 28, 28, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    rest = {k: v for k, v in variables.items() if k != "params"}
    found = []

    def look(params, rest, x):
        apply = lambda p, x: model.apply({"params": p, **rest}, x, train=False)
        found.extend(p.leaf for p in products(apply, params, x))

    jax.eval_shape(look, variables["params"], rest, x)
    kernels = [path for path in jp.masks.paths(variables["params"]) if path.endswith("kernel")]
    assert sorted(found) == kernels


def test_nnx_models():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    found = only(lambda p, x: nnx.merge(graph, p)(x), params, jnp.ones((1, 2)))
    assert found.leaf == "kernel"


def test_what_is_no_product_of_a_parameter_and_data_is_left_out():
    apply = lambda p, x: (x @ x.T, p["w"] @ p["w"], p["e"][x.astype(int)], x)
    assert products(apply, {"w": jnp.eye(2), "e": jnp.ones((3, 2))}, jnp.ones((1, 2))) == []
