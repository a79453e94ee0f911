"""EfficientNet-Lite0: its shape, PyTorch's names for it, and what is left of it when units go."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.nn import efficientnet_lite0, efficientnet_lite0_from_torch
from jaxprune.nn.efficientnet import EfficientNet, Stage

WIDTHS = [
    16,
    *[24] * 2,
    *[40] * 2,
    *[80] * 3,
    *[112] * 3,
    *[192] * 4,
    320,
]  # of blocks, as published
KERNELS = [3, *[3] * 2, *[5] * 2, *[3] * 3, *[5] * 3, *[5] * 4, 3]


MODEL = efficientnet_lite0()


@cache
def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def tensors():
    """A checkpoint as PyTorch names and shapes it; each number is another one."""
    shapes = {"_conv_stem.weight": (32, 3, 3, 3), "_conv_head.weight": (1280, 320, 1, 1)}
    norms = {"_bn0": 32, "_bn1": 1280}
    width = 32
    for i, (filters, kernel) in enumerate(zip(WIDTHS, KERNELS, strict=True)):
        inner = 6 * width if i else width
        if i:
            shapes[f"_blocks.{i}._expand_conv.weight"] = (inner, width, 1, 1)
            norms[f"_blocks.{i}._bn0"] = inner
        shapes[f"_blocks.{i}._depthwise_conv.weight"] = (inner, 1, kernel, kernel)
        shapes[f"_blocks.{i}._project_conv.weight"] = (filters, inner, 1, 1)
        norms |= {f"_blocks.{i}._bn1": inner, f"_blocks.{i}._bn2": filters}
        width = filters
    for name, n in norms.items():
        shapes |= {f"{name}.{x}": (n,) for x in ("weight", "bias", "running_mean", "running_var")}
        shapes[f"{name}.num_batches_tracked"] = ()
    shapes |= {"_fc.weight": (1000, 1280), "_fc.bias": (1000,)}
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    return {
        name: np.arange(end - int(np.prod(shape)), end).reshape(shape)
        for (name, shape), end in zip(shapes.items(), ends, strict=True)
    }


def test_every_tensor_of_a_checkpoint_has_its_place():
    given = tensors()
    assert len(given) == 296
    found = efficientnet_lite0_from_torch(given)
    wanted = shapes_of(MODEL)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), found, wanted)
    numbers = lambda arrays: np.sort(np.concatenate([np.ravel(x) for x in arrays]))
    parts = [x for name, x in given.items() if not name.endswith("tracked")]
    np.testing.assert_array_equal(numbers(jax.tree.leaves(found)), numbers(parts))
    depthwise = found["params"]["stage3_block2"]["depthwise"]["kernel"]
    assert depthwise[1, 2, 0, 7] == given["_blocks.4._depthwise_conv.weight"][7, 0, 1, 2]
    mean = found["batch_stats"]["stage7_block1"]["project_bn"]["mean"]
    np.testing.assert_array_equal(mean, given["_blocks.15._bn2.running_mean"])


def test_other_checkpoints_are_refused_by_name():
    given = tensors()
    with pytest.raises(ValueError, match=r"1 tensor has no place .*'_blocks\.16\._bn0\.weight'"):
        efficientnet_lite0_from_torch(given | {"_blocks.16._bn0.weight": np.zeros(3)})
    del given["_fc.bias"]
    with pytest.raises(ValueError, match=r"no tensor '_fc\.bias'"):
        efficientnet_lite0_from_torch(given)


def test_blocks_add_to_their_input_where_shapes_allow():
    model = EfficientNet((Stage(2, 3, 2, 6, 8),), 4, 16, 3, None, nn.initializers.zeros)
    x = jnp.ones((1, 8, 8, 3))
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes_of(model))
    bias = jnp.arange(1.0, 9)
    variables["params"]["stage1_block1"]["project_bn"]["bias"] = bias
    variables["params"]["stage1_block2"]["project_bn"]["bias"] = 10 * bias
    _, seen = jax.jit(partial(model.apply, capture_intermediates=True))(variables, x)
    out = lambda j: seen["intermediates"][f"stage1_block{j}"]["__call__"][0]
    assert out(1).shape == out(2).shape == (1, 2, 2, 8)
    np.testing.assert_array_equal(out(1)[0, 0, 0], bias)
    np.testing.assert_array_equal(out(2)[0, 0, 0], 11 * bias)


def drawn(shapes):
    """Variables that pass a signal of about one size, with no bias or mean at zero."""
    rng = np.random.default_rng(0)

    def leaf(path, x):
        name, noise = path[-1].key, rng.standard_normal(x.shape)
        if name == "kernel":
            noise /= np.prod(x.shape[:-1]) ** 0.5
        elif name in ("scale", "var"):
            noise = 1 + 0.3 * np.abs(noise)
        else:
            noise *= 0.3
        return jnp.asarray(noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.slow
def test_a_third_of_all_units_is_removed():
    variables = drawn(shapes_of(MODEL))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 32, 32, 3)), jnp.float32)
    graph = jp.structured.trace(MODEL.apply, variables, x)
    # What the stem and the first block share, the insides of the other 15, what leaves 7 stages, the head.
    sizes = [32, *(6 * w for w in WIDTHS[:-1]), 16, 24, 40, 80, 112, 192, 320, 1280]
    assert sorted(group.size for group in graph.groups) == sorted(sizes)
    size = lambda params, **_: jax.tree.map(
        np.abs, params
    )  # NumPy: a program per shape takes seconds
    masks = jp.structured.prune(graph, variables, sparsity=1 / 3, criterion=size)

    made = []

    @jax.jit  # one program: by themselves all shapes of leaves would be compiled
    def cut(variables):
        made.append(jp.structured.shrink(graph, variables, masks))
        return made[0].params

    small = cut(variables)
    assert small["params"]["stage6_block4"]["depthwise"]["kernel"].shape == (5, 5, 1, 768)
    masked = jax.jit(MODEL.apply)(jp.masks.apply(variables, masks), x)
    assert float(masked.std()) > 0.1  # something came through
    np.testing.assert_allclose(jax.jit(made[0].apply)(small, x), masked, atol=1e-5)
