"""What enters and leaves kernels, found in programs that nobody edits."""

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.programs.evaluation import observe
from jaxprune.programs.readings import Reading
from jaxprune.signals import kernels


def products(apply, params, *inputs):
    """(path of the kernel, product, where its units lie), in the program's order."""
    seen = []

    def read(product):
        seen.append(product)
        return Reading(len(seen), (), (), lambda: ())

    observed = observe(apply, params, inputs, read)
    names = jp.masks.paths(params)
    return [
        (names[record.use.view.leaf], product, kernels.find_unit_axes(product))
        for record, product in zip(observed.records, seen, strict=True)
    ]


def only(apply, params, *inputs):
    (found,) = products(apply, params, *inputs)
    return found


def test_a_dense_layer():
    params = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array([[[-5.0, 0.0, 5.0]]])}
    x = jnp.array([[[1.0, -1.0], [2.0, 3.0]]])
    leaf, product, where = only(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), params, x)
    assert leaf == "w"
    assert (where.unit, where.unit_out, where.examples) == (1, 2, 0)
    np.testing.assert_array_equal(product.output, jax.nn.relu(x @ params["w"] + params["b"]))


def test_two_axes_of_a_kernel_are_no_units():
    w = jax.random.normal(jax.random.key(0), (4, 2, 3))
    x = jax.random.normal(jax.random.key(1), (5, 6, 4))
    _, _, where = only(lambda p, x: jnp.einsum("bte,ehd->bthd", x, p["w"]), {"w": w}, x)
    assert where is None


def test_units_of_a_convolution():
    model = linen.Conv(5, (3, 2), strides=2, use_bias=False)
    x = jax.random.normal(jax.random.key(0), (2, 8, 7, 3))
    params = model.init(jax.random.key(1), x)["params"]
    _, product, where = only(lambda p, x: model.apply({"params": p}, x), params, x)
    assert (where.unit, where.unit_out, where.examples) == (3, 3, 0)
    np.testing.assert_array_equal(product.output, model.apply({"params": params}, x))


def test_activations_end_where_others_join():
    params = {"a": jnp.eye(2), "b": jnp.eye(2)}

    def apply(p, x):
        y = jax.nn.relu(x @ p["a"])
        z = jnp.tanh(y @ p["b"])
        return jax.nn.relu(y + z)

    x = jnp.array([[1.0, -1.0]])
    (_, a, _), (_, b, _) = products(apply, params, x)
    np.testing.assert_array_equal(a.output, [[1.0, 0.0]])
    np.testing.assert_allclose(b.output, np.tanh([[1.0, 0.0]]))


def test_a_side_branch_is_not_followed():
    params = {"w": jnp.eye(2), "v": jnp.eye(2)}

    def apply(p, x):
        y = jax.nn.relu(x @ p["w"])
        z = y @ p["v"]
        return z, jnp.tanh(y - 3), y.mean()

    x = jnp.array([[1.0, -1.0]])
    (_, first, _), _ = products(apply, params, x)
    np.testing.assert_array_equal(first.output, [[1.0, 0.0]])


def test_a_gate_of_itself_is_still_the_unit():
    _, gelu, _ = only(lambda p, x: jax.nn.gelu(x @ p["w"]), {"w": jnp.eye(2)}, jnp.ones((1, 2)))
    np.testing.assert_allclose(gelu.output, jax.nn.gelu(jnp.ones((1, 2))), rtol=1e-6)


def test_calls_are_entered():
    inner = jax.jit(lambda w, x: jax.checkpoint(lambda w, x: jax.nn.relu(x @ w))(w, x))
    leaf, product, _ = only(
        lambda p, x: inner(p["w"].astype(jnp.float32), x), {"w": jnp.eye(2)}, jnp.ones((1, 2))
    )
    assert leaf == "w"
    np.testing.assert_array_equal(product.output, jnp.ones((1, 2)))


@pytest.mark.parametrize("name", ["lenet_300_100", "lenet5_caffe", "resnet20"])
def test_every_kernel_of_the_models_is_found(name):
    model = getattr(jp.nn, name)()
    x = jnp.zeros((1, 32, 32, 3) if name == "resnet20" else (1, 28, 28, 1))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    rest = {k: v for k, v in variables.items() if k != "params"}
    found = []

    def look(params, rest, x):
        apply = lambda p, x: model.apply({"params": p, **rest}, x, train=False)
        found.extend(leaf for leaf, *_ in products(apply, params, x))

    jax.eval_shape(look, variables["params"], rest, x)
    kernels = [path for path in jp.masks.paths(variables["params"]) if path.endswith("kernel")]
    assert sorted(found) == kernels


def test_nnx_models():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model)
    leaf, *_ = only(lambda p, x: nnx.merge(graph, p)(x), params, jnp.ones((1, 2)))
    assert leaf == "kernel"


def test_what_is_no_product_of_a_parameter_and_data_is_left_out():
    apply = lambda p, x: (x @ x.T, p["w"] @ p["w"], p["e"][x.astype(int)], x)
    assert products(apply, {"w": jnp.eye(2), "e": jnp.ones((3, 2))}, jnp.ones((1, 2))) == []
