"""What reads axes: layers of a stack are scored and fitted as if they were written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import criteria, signals

KEYS = jax.random.split(jax.random.key(0), 3)
STACK = jax.random.normal(KEYS[0], (3, 6, 6))
X = jax.random.normal(KEYS[1], (20, 6))


def scanned(params, x):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, params["w"])[0]


def unrolled(params, x):
    for name in sorted(params):
        x = jnp.tanh(x @ params[name])
    return x


# Where the layers, inputs and outputs of [layers, inputs, outputs] are stored.
ORDERS = [(0, 1, 2), (1, 0, 2), (2, 1, 0)]


def stored(order):
    """A network whose stack is stored in another order, its parameters and axes."""
    apply = lambda p, x: scanned({"w": p["w"].transpose(np.argsort(order))}, x)
    params = {"w": STACK.transpose(order)}
    return apply, params, jp.axes(apply, params, X)


SEPARATE = {f"w{i}": STACK[i] for i in range(3)}
NAMES = ["ria", "obs", "wanda", "fpgm", "normalized_magnitude"]


def known(apply, params):
    return {
        "input_moments": signals.input_moments(apply, params, [X]),
        "grams": signals.grams(apply, params, [X]),
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NAMES)
def test_layers_are_scored_as_if_they_were_written_out(name, order):
    apply, params, axes = stored(order)
    criterion = getattr(criteria, name)
    found = criterion(params, axes=axes, **known(apply, params))["w"]
    expected = criterion(SEPARATE, **known(unrolled, SEPARATE))
    expected = np.stack([expected[leaf] for leaf in sorted(expected)]).transpose(order)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_layers_are_fitted_as_if_they_were_written_out(order):
    apply, params, axes = stored(order)
    kept = jax.random.bernoulli(KEYS[2], 0.5, STACK.shape)
    fit = jp.compensation.layerwise
    found = fit(params, {"w": kept.transpose(order)}, axes=axes, **known(apply, params))["w"]
    masks = {f"w{i}": kept[i] for i in range(3)}
    expected = fit(SEPARATE, masks, **known(unrolled, SEPARATE))
    expected = np.stack([expected[leaf] for leaf in sorted(expected)]).transpose(order)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=1e-3)
    assert not np.asarray(found)[~np.asarray(kept.transpose(order))].any()


@pytest.mark.parametrize("name", [*NAMES, "large_init_large_final", "layerwise"])
def test_axes_may_be_counted_from_the_end_and_given_by_expression(name):
    apply, params, axes = stored((1, 0, 2))
    statistics = known(apply, params) | {"initial_params": {"w": params["w"][::-1]}}
    if name == "layerwise":
        masks = {"w": jax.random.bernoulli(KEYS[2], 0.5, STACK.shape).transpose(1, 0, 2)}
        score = lambda axes: jp.compensation.layerwise(params, masks, axes=axes, **statistics)["w"]
    else:
        score = lambda axes: getattr(criteria, name)(params, axes=axes, **statistics)["w"]
    expected = score(axes)
    for given in ({"w": jp.Axes(-3, -1, batch_axis=-2)}, {"^w$": jp.Axes(0, 2, batch_axis=1)}):
        np.testing.assert_array_equal(score(given), expected)


def test_heads_are_outputs_and_inputs_of_length_one_are_inputs():
    apply = lambda p, x: jnp.einsum("bd,dhk->bhk", x, p["w"])
    heads = {"w": STACK[0].reshape(6, 2, 3)}
    axes = jp.axes(apply, heads, X)
    plain = {"w": STACK[0]}
    for name in NAMES:
        criterion = getattr(criteria, name)
        found = criterion(heads, axes=axes, **known(apply, heads))["w"]
        expected = criterion(plain, **known(lambda p, x: x @ p["w"], plain))["w"]
        np.testing.assert_allclose(found.reshape(6, 6), expected, rtol=1e-4)
    one = {"w": jnp.array([[2.0, 3.0]])}
    statistics = {"input_moments": {"w": jnp.ones((1, 1))}, "grams": {"w": jnp.ones((1, 1))}}
    scores = criteria.obs(one, damp=0.0, **statistics)["w"]
    np.testing.assert_allclose(scores, [[2.0, 4.5]])


def test_a_vector_that_is_multiplied_has_inputs():
    apply = lambda p, x: x @ p["w"]
    vector = {"w": STACK[0, :, 0]}
    found = criteria.obs(vector, **known(apply, vector))["w"]
    matrix = {"w": vector["w"][:, None]}
    expected = criteria.obs(matrix, **known(apply, matrix))["w"][:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    axes = jp.axes(apply, vector, X)
    again = criteria.obs(vector, axes=axes, **known(apply, vector))["w"]
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize("name", ["ria", "obs", "fpgm"])
def test_open_axes_are_refused_with_the_remedy(name):
    params = {"w": STACK}
    message = rf"{name}: it is open which axes of 'w' are inputs, it has 3 axes.*give axes=jaxprune"
    with pytest.raises(ValueError, match=message):
        getattr(criteria, name)(params, **known(scanned, params))


@pytest.mark.parametrize("name", ["ria", "obs"])
def test_moments_that_lie_elsewhere_are_noticed(name):
    apply = lambda p, x: x @ p["w"].T
    params = {"w": STACK[0]}
    with pytest.raises(ValueError, match="its moments lie along others than its shape suggests"):
        getattr(criteria, name)(params, **known(apply, params))
    axes = jp.axes(apply, params, X)
    assert getattr(criteria, name)(params, axes=axes, **known(apply, params))["w"].shape == (6, 6)


def test_what_is_no_kernel_of_the_program_has_no_distances():
    apply = lambda p, x: (x + p["positions"][0]) @ p["w"]
    params = {"w": STACK[0], "positions": STACK[:1, :1]}
    scores = criteria.fpgm(params, axes=jp.axes(apply, params, X))
    assert scores["positions"] is None
    assert scores["w"].shape == (6, 6)
