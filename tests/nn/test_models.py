import inspect
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune.nn as models
from jaxprune.nn.resnet import Block, ResNet

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)
IMAGES = {
    "lenet_300_100": (MNIST, 266_610),
    "lenet5_caffe": (MNIST, 431_080),
    "conv_2": (CIFAR, 4_301_642),
    "conv_4": (CIFAR, 2_425_930),
    "conv_6": (CIFAR, 2_262_602),
    "resnet20": (CIFAR, 269_722),
    "resnet56": (CIFAR, 853_018),
    "efficientnet_lite0": (CIFAR, 4_652_008),
    "set_mlp": (MNIST, 2_809_010),
    "vit": (CIFAR, 2_693_194),
}


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def shapes_of(model, inputs):
    return jax.eval_shape(model.init, jax.random.key(0), inputs)


def filled(model, inputs):
    """Variables without the seconds that compiling random numbers takes."""
    fill = lambda leaf: np.cos(np.arange(leaf.size, dtype=np.float32) ** 1.5).reshape(leaf.shape)
    shapes = shapes_of(model, inputs)
    return {"params": jax.tree.map(lambda leaf: fill(leaf) / 8, shapes["params"])}


@pytest.fixture(autouse=True)
def strict_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize("name", list(IMAGES))
def test_parameter_counts_are_those_documented(name):
    shape, count = IMAGES[name]
    model = getattr(models, name)()
    assert size(shapes_of(model, jnp.zeros((2, *shape)))["params"]) == count
    assert f"{count:,}" in getattr(models, name).__doc__


def test_gpt_has_the_parameters_documented():
    count = size(shapes_of(models.gpt(), jnp.zeros((2, 8), int))["params"])
    assert count == 3_356_160
    assert f"{count:,}" in models.gpt.__doc__


def test_convolutions_of_conv_6_are_as_many_as_the_paper_says():
    params = shapes_of(models.conv_6(), jnp.zeros((1, *CIFAR)))["params"]
    kernels = sum(size(layer["kernel"]) for name, layer in params.items() if "conv" in name)
    assert round(kernels / 1e6, 1) == 1.1


@pytest.mark.parametrize(("name", "count"), [("resnet20", 272_474), ("resnet56", 855_770)])
def test_projection_shortcuts_add_their_parameters(name, count):
    model = getattr(models, name)(shortcut="projection")
    assert size(shapes_of(model, jnp.zeros((2, *CIFAR)))["params"]) == count


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("name", list(IMAGES))
def test_logits_have_the_classes_and_the_type_asked_for(name, dtype):
    model = getattr(models, name)(num_classes=7, dtype=dtype)
    inputs = jnp.zeros((3, *IMAGES[name][0]))
    logits, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), inputs, train=False)
    )
    assert logits.shape == (3, 7)
    assert logits.dtype == (dtype or jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("name", [*IMAGES, "gpt"])
def test_every_kernel_and_nothing_else_takes_the_initialiser(name):
    asked = []

    def initialise(key, shape, dtype=jnp.float32):
        asked.append(shape)
        return jnp.zeros(shape, dtype)

    inputs = jnp.zeros((1, 8), int) if name == "gpt" else jnp.zeros((1, *IMAGES[name][0]))
    params = shapes_of(getattr(models, name)(kernel_init=initialise), inputs)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = {"kernel", "embedding", "position"} if name == "gpt" else {"kernel"}
    assert sorted(asked) == sorted(leaf.shape for path, leaf in leaves if path[-1].key in kernels)


def test_lenet_300_100_is_what_its_formula_says():
    model = models.lenet_300_100()
    x = np.random.default_rng(0).standard_normal((4, *MNIST), np.float32)
    params = filled(model, x)["params"]
    h = x.reshape(4, 784)
    for name in ("fc1", "fc2"):
        h = np.maximum(h @ params[name]["kernel"] + params[name]["bias"], 0)
    wanted = h @ params["fc3"]["kernel"] + params["fc3"]["bias"]
    np.testing.assert_allclose(model.apply({"params": params}, x), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", list(IMAGES))
def test_the_default_initialiser_is_that_of_flax_by_its_name(name):
    default = inspect.signature(getattr(models, name)).parameters["kernel_init"].default
    if name.startswith(("resnet", "efficientnet")):
        flax_init = nn.initializers.he_normal
    elif name == "set_mlp":
        flax_init = nn.initializers.glorot_uniform
    else:
        flax_init = nn.initializers.glorot_normal
    kernel = default(jax.random.key(0), (9, 8, 16))
    np.testing.assert_allclose(kernel, flax_init()(jax.random.key(0), (9, 8, 16)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "flax_init"),
    [
        ("lecun_normal", nn.initializers.lecun_normal()),
        ("glorot_uniform", nn.initializers.glorot_uniform()),
        ("he_uniform", nn.initializers.he_uniform()),
        ("fan_in_uniform", nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")),
    ],
)
def test_initialisers_are_those_of_flax(name, flax_init):
    kernel = getattr(models.initializers, name)()(jax.random.key(0), (3, 8, 16))
    np.testing.assert_allclose(kernel, flax_init(jax.random.key(0), (3, 8, 16)), rtol=1e-5)


def test_layers_have_the_names_of_the_literature():
    of = lambda name, shape: set(
        shapes_of(getattr(models, name)(), jnp.zeros((1, *shape)))["params"]
    )
    assert of("lenet_300_100", MNIST) == {"fc1", "fc2", "fc3"}
    assert of("lenet5_caffe", MNIST) == {"conv1", "conv2", "fc1", "fc2"}
    assert of("conv_4", CIFAR) == {f"conv{i}" for i in range(1, 5)} | {"fc1", "fc2", "fc3"}
    blocks = {f"stage{i}_block{j}" for i in (1, 2, 3) for j in (1, 2, 3)}
    assert of("resnet20", CIFAR) == {"conv1", "bn1", "fc"} | blocks


def test_a_resnet_in_training_uses_the_batch_and_updates_averages():
    model = ResNet(1, (4, 8), 10, "pad", None, models.resnet.HE_NORMAL)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3), np.float32) * 3 + 1
    before = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes_of(model, x)["batch_stats"])
    variables = filled(model, x) | {"batch_stats": before}
    tested = jax.jit(model.apply)(variables, x)
    trained, after = jax.jit(
        lambda variables: model.apply(variables, x, train=True, mutable=["batch_stats"])
    )(variables)
    assert not np.allclose(tested, trained)
    conv1 = nn.Conv(4, (3, 3), use_bias=False).apply({"params": variables["params"]["conv1"]}, x)
    np.testing.assert_allclose(
        after["batch_stats"]["bn1"]["mean"], 0.9 + 0.1 * conv1.mean((0, 1, 2)), rtol=1e-4
    )


def test_a_padded_shortcut_carries_every_other_pixel():
    conv = partial(nn.Conv, kernel_size=(3, 3), kernel_init=nn.initializers.zeros)
    norm = partial(nn.BatchNorm, use_running_average=True)
    x = jnp.arange(2 * 6 * 8 * 4.0).reshape(2, 6, 8, 4)
    out, _ = jax.jit(Block(8, 2, "pad", conv, norm).init_with_output)(jax.random.key(0), x)
    assert out.shape == (2, 3, 4, 8)
    np.testing.assert_array_equal(out[..., 2:6], x[:, ::2, ::2])
    assert (out[..., :2] == 0).all()
    assert (out[..., 6:] == 0).all()


def test_gpt_does_not_see_the_future_but_sees_the_past():
    model = models.gpt(vocab_size=11, context=8, width=16, depth=2, heads=2)
    tokens = jnp.arange(8)[None] % 11
    variables = filled(model, tokens)
    apply = jax.jit(model.apply)
    logits = apply(variables, tokens)
    assert logits.shape == (1, 8, 11)
    moved = np.abs(apply(variables, tokens.at[0, 4].set(9)) - logits).max((0, 2))
    assert (moved[:4] == 0).all()
    assert (moved[4:] > 0).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: models.resnet20(shortcut="none"), "'none' must be 'pad' or 'projection'"),
        (lambda: models.vit(width=100, heads=3), "width=100 is not a multiple of heads=3"),
        (lambda: models.gpt(heads=0), "width=256 is not a multiple of heads=0"),
        (lambda: shapes_of(models.vit(patch=0), jnp.zeros((1, *CIFAR))), "32x32 .* 0x0 patches"),
        (lambda: shapes_of(models.vit(patch=5), jnp.zeros((1, *CIFAR))), "32x32 .* 5x5 patches"),
        (lambda: shapes_of(models.gpt(context=4), jnp.zeros((1, 5), int)), "5 tokens exceed"),
    ],
)
def test_impossible_settings_are_refused_in_words(build, message):
    with pytest.raises(ValueError, match=message):
        build()
