"""Reshapes that transpose, parts that are not read, units that are treated unlike, lookups that fill."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import structured

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
X = draw(6, 4)
OUTER = {"in": draw(4, 8), "out": draw(8, 3)}


def error(fn, params, *inputs, at=None):
    """The largest difference of the small function from the masked one."""
    graph = structured.trace(fn, params, *inputs)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    masked = jp.masks.apply(params, masks)
    return max(
        float(jnp.abs(small.apply(small.params, *other) - fn(masked, *other)).max())
        for other in at or [inputs]
    )


def convolve(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def member(params, images):
    return jax.nn.relu(convolve(images, params["k"])).mean((1, 2)) @ params["o"]


def ensemble(params, images):
    return jax.vmap(member, (0, None))(params, images).mean(0)


def kernels_of_examples(params, images):
    kernels = (images.mean((1, 2)) @ params["h"]).reshape(-1, 3, 3, 3, 6)
    convolved = jax.vmap(lambda image, kernel: convolve(image[None], kernel)[0])(images, kernels)
    return jax.nn.relu(convolved).mean((1, 2)) @ params["o"]


TRANSPOSING = {
    "order F": (
        lambda p, x: jax.nn.relu(x @ p["in"]).reshape(-1, order="F") @ p["out"],
        {"in": draw(4, 8), "out": draw(48, 3)},
        X,
        {"in[1]": 8},
    ),
    "three members, three inputs": (
        ensemble,
        {"k": draw(3, 3, 3, 3, 6), "o": draw(3, 6, 2)},
        draw(2, 5, 5, 3),
        {"k[0]": 3, "k[4]": 6},
    ),
    "four members": (
        ensemble,
        {"k": draw(4, 3, 3, 3, 6), "o": draw(4, 6, 2)},
        draw(2, 5, 5, 3),
        {"k[0]": 4, "k[4]": 6},
    ),
    "a kernel per example": (
        kernels_of_examples,
        {"h": draw(3, 162), "o": draw(6, 2)},
        draw(3, 5, 5, 3),
        {"h[1]": 6},
    ),
}


@pytest.mark.parametrize("case", TRANSPOSING.values(), ids=TRANSPOSING)
def test_reshapes_that_transpose(case):
    fn, params, x, expected = case
    groups = structured.trace(fn, params, x).groups
    assert {group.name: group.size for group in groups} == expected
    assert error(fn, params, x) < 1e-5


def test_what_is_left_behind_is_transposed_too():
    """Biases of removed units are owed to a sum behind a transposing reshape."""

    def fn(params, x):
        hidden = (x @ params["in"]).at[..., :].add(0.5)  # removed units hold 0.5
        return hidden.reshape(-1, order="F") @ params["out"]

    assert error(fn, {"in": draw(4, 8), "out": draw(48, 3)}, X) < 1e-5


def decoder(params, tokens):
    hidden = params["embed"][tokens] + params["position"][None, : tokens.shape[1]]
    hidden = hidden + jax.nn.relu(hidden @ params["up"]) @ params["down"]
    return hidden @ params["embed"].T


def test_positions_that_a_short_example_does_not_read_stay():
    params = {
        "embed": draw(11, 8),
        "position": draw(16, 8),
        "up": draw(8, 16),
        "down": draw(16, 8),
    }
    tokens = jnp.asarray(RNG.integers(0, 11, (2, 16)))
    graph = structured.trace(decoder, params, tokens[:, :6])
    assert "position[0]" not in [str(m) for group in graph.groups for m in group.members]
    assert structured.pinned(graph)["position[0]"] == "no equation reads it"
    lengths = [(tokens[:, :length],) for length in (6, 8, 16)]
    assert error(decoder, params, tokens[:, :6], at=lengths) < 1e-4


@pytest.mark.parametrize("first", [0, 1])
def test_every_unit_is_asked_whether_its_zeros_are_seen(first):
    def fn(params, x):
        hidden = x @ params["in"]
        seen, other = hidden[:, first::2], hidden[:, 1 - first :: 2]
        scaled = seen * seen.max(-1, keepdims=True)
        return jnp.concatenate([scaled, other], -1) @ params["out"]

    [group] = structured.trace(fn, OUTER, X).groups
    assert not group.exact
    assert "maximum" in group.reason


READERS = {
    "scaled from the right": lambda p: p["read"] * jnp.ones((4, 4)),
    "scaled from the left": lambda p: jnp.ones((4, 4)) * p["read"],
    "reversed": lambda p: p["read"][::-1],
    "padded": lambda p: jnp.pad(p["read"], ((0, 0), (0, 0))),
    "joined": lambda p: jnp.concatenate([p["read"], p["read"]], 1)[:, :4],
    "masked": lambda p: jnp.where(jnp.eye(4) > 0, 0, p["read"]),
    "stacked": lambda p: jnp.stack([p["read"], p["read"]])[0],
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_kernels_that_read_units_are_no_outputs(reader):
    params = {"made": draw(6, 4), "read": draw(4, 4), "last": draw(4, 3)}

    def fn(p, x):
        return jax.nn.relu(jax.nn.relu(x @ p["made"]) @ reader(p)) @ p["last"]

    graph = structured.trace(fn, params, draw(2, 6))
    found = structured.scores(graph, params, over="outputs")["made[1]"]
    np.testing.assert_allclose(found, jnp.abs(params["made"]).sum(0), rtol=1e-6)


def test_the_second_factor_reads_the_units_of_the_first():
    params = {"first": draw(4, 2), "second": draw(2, 4), "last": draw(4, 3)}
    fn = lambda p, x: jax.nn.relu(x @ (p["first"] @ p["second"])) @ p["last"]
    graph = structured.trace(fn, params, X)
    found = structured.scores(graph, params, over="outputs")["first[1]"]
    np.testing.assert_allclose(found, jnp.abs(params["first"]).sum(0), rtol=1e-6)


def test_lookups_outside_of_their_operand_fill_removed_units_too():
    def fn(params, x, fill):
        hidden = (x @ params["in"]).at[jnp.array([0, 2, 9])].get(mode="fill", fill_value=fill)
        return (hidden - hidden.mean(-1, keepdims=True)) @ params["out"]

    def of_constants(params, x):
        filled = jnp.take(jnp.zeros(4), jnp.array([0, 9, 1, 2, 3, 0]), mode="fill", fill_value=2.0)
        hidden = x @ params["in"] + filled[:, None]
        return (hidden - hidden.mean(-1, keepdims=True)) @ params["out"]

    assert error(lambda p, x: fn(p, x, 1.0), OUTER, X) < 1e-4
    assert error(lambda p, x: fn(p, x, 0.0), OUTER, X) < 1e-4
    assert error(of_constants, OUTER, X) < 1e-4


INFINITE = {
    "BatchNorm without epsilon": lambda h, p: (
        (h - h.mean(0, keepdims=True)) / h.std(0, keepdims=True) * p["scale"][None]
    ),
    "logarithm of the gamma function": lambda h, p: jax.scipy.special.gammaln(h),
}


@pytest.mark.parametrize("layer", INFINITE.values(), ids=INFINITE)
def test_what_is_infinite_for_zeros_stays_so_in_products(layer):
    params = {**OUTER, "scale": draw(8)}
    graph = structured.trace(lambda p, x: layer(x @ p["in"], p) @ p["out"], params, X)
    assert not graph.groups[0].exact
    assert "infinite" in graph.groups[0].reason


def test_kernels_that_are_divided_by_their_norm_are_no_number_for_zeros():
    normalised = lambda kernel: kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)
    fn = lambda p, x: jax.nn.relu(x @ normalised(p["in"])) @ p["out"]
    [group] = structured.trace(fn, OUTER, X).groups
    assert not group.exact
    assert "no number" in group.reason


@pytest.mark.parametrize("cost", [structured.parameters, structured.flops])
@pytest.mark.parametrize("shape", [(2, 2), (2, 8)])
def test_costs_refuse_masks_of_another_shape(cost, shape):
    params = {"in": draw(3, 8), "out": draw(8, 2)}
    graph = structured.trace(lambda p, x: x @ p["in"] @ p["out"], params, draw(1, 3))
    with pytest.raises(ValueError, match=r"'in' has the shape"):
        cost(graph, params, {"in": jnp.ones(shape, bool), "out": None})
