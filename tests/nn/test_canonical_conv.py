import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.nn import canonical_conv
from jaxprune.nn.canonical_conv import NHWC, conv_for_backend, conv_general_dilated

CASES = [  # image, kernel, strides, padding
    ((8, 8), (3, 3), (1, 1), "SAME"),
    ((8, 7), (5, 5), (1, 1), "VALID"),
    ((8, 9), (3, 3), (2, 2), "SAME"),
    ((9, 8), (3, 3), (2, 2), "VALID"),
    ((8, 8), (3, 3), (2, 2), ((1, 1), (1, 1))),  # a ResNet's
    ((8, 8), (1, 1), (2, 2), "SAME"),  # a projection: pixels that no window reaches
    ((7, 10), (2, 4), (3, 1), ((1, 0), (0, 3))),
    ((5, 8), (2, 2), (1, 1), ((2, 0), (1, 3))),  # padding wider than the kernel
    ((8, 8), (3, 3), (1, 1), ((-1, 0), (0, -2))),  # cropping
]


def operands(size, window):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *size, 3), np.float32)
    return jnp.asarray(image), jnp.asarray(rng.standard_normal((*window, 3, 4), np.float32))


def reference(image, kernel, strides, padding):
    """Autodiff through explicit padding: XLA:CPU reads out of bounds for some implicit ones."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(image.shape[1:3], kernel.shape[:2], strides, padding)
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    image = lax.pad(image, 0.0, config)
    return lax.conv_general_dilated(image, kernel, strides, "VALID", dimension_numbers=NHWC)


def gradients(conv):
    return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(conv(x, w))), argnums=(0, 1)))


@pytest.mark.parametrize(("size", "window", "strides", "padding"), CASES)
def test_values_and_gradients_are_those_of_autodiff(size, window, strides, padding):
    x, w = operands(size, window)
    ours = lambda x, w: conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)
    plain = lambda x, w: reference(x, w, strides, padding)
    both = lambda conv: jax.jit(lambda x, w: (conv(x, w), *gradients(conv)(x, w)))(x, w)
    for got, wanted in zip(both(ours), both(plain), strict=True):
        assert got.shape == wanted.shape
        assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def orders_of(function, *args):
    """Dimension orders of all convolutions in a function, also inside calls and loops."""
    from jax.extend.core import ClosedJaxpr, Jaxpr

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                yield equation.params["dimension_numbers"]
            for value in jax.tree.leaves(
                equation.params, is_leaf=lambda v: isinstance(v, ClosedJaxpr | Jaxpr)
            ):
                if isinstance(value, ClosedJaxpr):
                    yield from walk(value.jaxpr)
                elif isinstance(value, Jaxpr):
                    yield from walk(value)

    return list(walk(jax.make_jaxpr(function)(*args).jaxpr))


@pytest.mark.parametrize(("size", "window", "strides", "padding"), CASES)
def test_every_backward_convolution_is_in_canonical_order(size, window, strides, padding):
    x, w = operands(size, window)
    ours = lambda x, w: conv_general_dilated(x, w, strides, padding, dimension_numbers=NHWC)
    canonical = lax.conv_dimension_numbers(x.shape, w.shape, NHWC)
    assert orders_of(gradients(ours), x, w) == [canonical] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"feature_group_count": 3},
        {"lhs_dilation": (2, 1)},
        {"rhs_dilation": (1, 2)},
        {"preferred_element_type": jnp.float32},
    ],
)
def test_what_is_not_plain_is_left_to_lax(options):
    x, w = operands((8, 8), (3, 3))
    if "feature_group_count" in options:
        w = w[:, :, :1, :3]
    call = lambda conv: (
        lambda x, w: conv(x, w, (1, 1), ((1, 1), (1, 1)), dimension_numbers=NHWC, **options)
    )
    ours, plain = call(conv_general_dilated), call(lax.conv_general_dilated)
    assert str(jax.make_jaxpr(ours)(x, w)) == str(jax.make_jaxpr(plain)(x, w))


@pytest.mark.parametrize(
    ("image", "kernel"),
    [((2, 2, 2, 3), (3, 3, 3, 4)), ((0, 8, 8, 3), (3, 3, 3, 4)), ((2, 8, 8, 0), (3, 3, 0, 4))],
    ids=["image smaller than the window", "no images", "no channels"],
)
def test_gradients_of_nothing_are_zero(image, kernel):
    conv = lambda x, w: conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=NHWC)
    found = gradients(conv)(jnp.ones(image), jnp.ones(kernel))
    assert [gradient.shape for gradient in found] == [image, kernel]
    assert not any(gradient.any() for gradient in found)


def test_other_orders_and_ranks_are_left_to_lax():
    x, w = operands((8, 8), (3, 3))
    images, kernels = x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)
    for x, w in ((images, kernels), (images[..., 0], kernels[..., 0])):
        strides = (1,) * (x.ndim - 2)
        np.testing.assert_array_equal(
            conv_general_dilated(x, w, strides, "SAME"),
            lax.conv_general_dilated(x, w, strides, "SAME"),
        )


def test_a_layer_takes_it_and_second_derivatives_work():
    x, _ = operands((8, 8), (3, 3))
    layers = [nn.Conv(4, (3, 3), conv_general_dilated=conv)
              for conv in (conv_general_dilated, lax.conv_general_dilated)]  # fmt: skip
    kernel = np.cos(np.arange(3 * 3 * 3 * 4.0, dtype=np.float32)).reshape(3, 3, 3, 4)
    params = {"params": {"kernel": kernel, "bias": np.ones(4, np.float32)}}
    losses = [lambda p, layer=layer: jnp.sum(jnp.sin(layer.apply(p, x))) for layer in layers]
    direction = jax.tree.map(np.cos, params)
    ours, plain = (
        jax.jit(lambda loss=loss: jax.jvp(jax.grad(loss), (params,), (direction,)))()
        for loss in losses
    )
    for got, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_inside_a_scan_are_those_outside():
    _, w = operands((8, 8), (3, 3))
    batches = jnp.asarray(np.random.default_rng(1).standard_normal((3, 2, 8, 8, 3), np.float32))
    grad = gradients(
        lambda x, w: conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    )
    _, inside = jax.jit(lambda xs: lax.scan(lambda _, x: (None, grad(x, w)), None, xs))(batches)
    for i, x in enumerate(batches):
        for got, wanted in zip(inside, grad(x, w), strict=True):
            np.testing.assert_allclose(got[i], wanted, rtol=1e-5, atol=1e-5)


def test_vmap_gives_gradients_per_example():
    x, w = operands((6, 6), (3, 3))
    loss = lambda w, x: jnp.sum(
        jnp.sin(conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=NHWC))
    )
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, x)
    for got, example in zip(each, x, strict=True):
        np.testing.assert_allclose(got, jax.grad(loss)(w, example), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backend", "chosen"), [("cpu", "ours"), ("gpu", "lax")])
def test_the_models_convolution_is_chosen_by_backend(backend, chosen, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(canonical_conv, "conv_general_dilated", lambda: "ours")
    monkeypatch.setattr(lax, "conv_general_dilated", lambda: "lax")
    assert conv_for_backend() == chosen
