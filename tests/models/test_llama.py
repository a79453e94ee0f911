"""The decoder computes what a plain NumPy program computes, from files in either order of rotary pairs."""

import dataclasses

import gguf_bytes as make
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.models import configs, gguf, llama, names, read_leaves, safetensors
from jaxprune.models.leaves import LazyLeaf
from jaxprune.models.sink import safetensors_sink

LLAMA = llama.Config(
    vocabulary=11, width=12, hidden=10, layers=2, heads=6, kv_heads=2, head_dim=4, rotary_base=100.0
)
CONFIGS = {
    "llama": dataclasses.replace(LLAMA, rotary_factors=(1.0, 3.0)),
    "qwen2": dataclasses.replace(LLAMA, attention_bias=True, tied=False, norm_epsilon=1e-2),
    "qwen3": dataclasses.replace(LLAMA, head_norm=True, head_dim=8),
}
TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7]])


def random_tree(config):
    """Nothing in it is 0 or 1, so that whatever is left out is missed."""
    leaves, tree = jax.tree.flatten(llama.shapes(config))
    rng = np.random.default_rng(0)
    draw = lambda x: rng.standard_normal(x.shape, np.float32) / np.float32(x.shape[0] ** 0.5)
    return tree.unflatten([draw(x) + np.float32(x.ndim == 1) for x in leaves])


def forward(config, params, tokens):
    """One sequence in float64, head by head and position by position."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, scale):
        return x / np.sqrt((x * x).mean() + config.norm_epsilon) * scale

    def turn(x, position):
        half = config.head_dim // 2
        turned = np.empty_like(x)
        for i in range(half):
            factor = config.rotary_factors[i] if config.rotary_factors else 1
            angle = position * config.rotary_base ** (-2 * i / config.head_dim) / factor
            turned[i] = x[i] * np.cos(angle) - x[half + i] * np.sin(angle)
            turned[half + i] = x[half + i] * np.cos(angle) + x[i] * np.sin(angle)
        return turned

    stream = [params["embedding"][token] for token in tokens]
    for layer in params["layers"]:
        normed = [norm(x, layer["attention_norm"]) for x in stream]

        def heads(name, position, layer=layer, normed=normed):
            projected = normed[position] @ layer[name]
            if config.attention_bias:
                projected = projected + layer[f"{name}_bias"]
            split = np.split(projected, len(projected) // config.head_dim)
            if name == "value":
                return split
            if config.head_norm:
                split = [norm(x, layer[f"{name}_norm"]) for x in split]
            return [turn(x, position) for x in split]

        keys = [heads("key", t) for t in range(len(tokens))]
        values = [heads("value", t) for t in range(len(tokens))]
        for t in range(len(tokens)):
            mixed = []
            for head, query in enumerate(heads("query", t)):
                group = head * config.kv_heads // config.heads
                scores = [query @ keys[s][group] / config.head_dim**0.5 for s in range(t + 1)]
                weights = np.exp(scores) / np.exp(scores).sum()
                mixed.append(sum(weights[s] * values[s][group] for s in range(t + 1)))
            stream[t] = stream[t] + np.concatenate(mixed) @ layer["output"]
            x = norm(stream[t], layer["feed_forward_norm"])
            gate = x @ layer["gate"]
            stream[t] = stream[t] + (gate / (1 + np.exp(-gate)) * (x @ layer["up"])) @ layer["down"]
    head = params["embedding"].T if config.tied else params["head"]
    return np.array([norm(x, params["norm"]) @ head for x in stream])


@pytest.fixture(scope="module", params=CONFIGS)
def case(request):
    config = CONFIGS[request.param]
    params = random_tree(config)
    return request.param, config, params, np.array([forward(config, params, t) for t in TOKENS])


def test_decoder(case):
    _, config, params, expected = case
    logits = jax.jit(llama.decoder(config))(params, TOKENS)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())
    small = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    logits = jax.jit(llama.decoder(config, dtype=jnp.bfloat16))(small, TOKENS)
    assert logits.dtype == jnp.float32
    error = np.abs(np.asarray(logits) - expected)
    assert 1e-4 < error.mean() / np.abs(expected).mean() < 3e-2, "computed in bfloat16, and rightly"


def same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_a_gguf_file_gives_configuration_and_parameters(case, tmp_path):
    architecture, config, params, _ = case
    (tmp_path / "m.gguf").write_bytes(make.model(architecture, config, params))
    file = gguf.read(tmp_path / "m.gguf")
    found = configs.from_gguf(file.metadata, file.tensors)
    assert found.norm_epsilon == pytest.approx(config.norm_epsilon)
    assert dataclasses.replace(found, norm_epsilon=config.norm_epsilon) == config
    lazy = names.from_gguf(file.tensors, found, architecture)
    assert all(isinstance(leaf, LazyLeaf) for leaf in jax.tree.leaves(lazy))
    same(read_leaves(lazy), params)


def test_parameters_go_out_and_come_back_by_hugging_face_names(case, tmp_path):
    _, config, params, _ = case
    with safetensors_sink(tmp_path) as sink:
        for name, array in names.to_hugging_face(params):
            sink(name, array)
    tensors = safetensors.read(tmp_path)
    assert tensors["model.layers.1.mlp.down_proj.weight"].shape == (config.width, config.hidden)
    same(read_leaves(names.from_hugging_face(tensors, config)), params)


def test_kernels_are_found_and_a_tied_embedding_is_no_kernel(case):
    _, config, params, _ = case
    axes = jp.axes(llama.decoder(config), params, TOKENS)
    layer = axes["layers"][1]
    kernels = {name for name, found in layer.items() if found is not None}
    assert kernels == {"query", "key", "value", "output", "gate", "up", "down"}
    assert layer["query"] == layer["down"] == jp.Axes(in_axis=0, out_axis=1)
    if config.tied:
        assert axes["embedding"].use == "table"


HUGGING_FACE = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 12,
    "intermediate_size": 10,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "rope_theta": 100.0,
}


def test_configuration_of_hugging_face():
    config = configs.from_hugging_face(HUGGING_FACE)
    assert config == dataclasses.replace(LLAMA, heads=3, kv_heads=3)
    newer = {key: value for key, value in HUGGING_FACE.items() if key != "rope_theta"}
    newer |= {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}}
    assert configs.from_hugging_face(newer) == config
    assert configs.from_hugging_face({**HUGGING_FACE, "model_type": "qwen2"}).attention_bias
    assert configs.from_hugging_face({**HUGGING_FACE, "model_type": "qwen3"}).head_norm


def test_rotary_scaling():
    """LLaMA 3.2: of 32 pairs the first turn as ever, the last 32 times slower; 500,000^(-i/32)."""
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    asked = HUGGING_FACE | {"rope_scaling": scaling, "rope_theta": 5e5, "head_dim": 64}
    factors = configs.from_hugging_face(asked).rotary_factors
    wave = (
        2 * np.pi * 5e5 ** (17 / 32)
    )  # tokens of a full turn of pair 17, between 8192 / 4 and 8192
    smooth = (8192 / wave - 1) / 3
    assert 0 < smooth < 1
    assert factors[:2] == (1.0, 1.0)
    assert factors[-1] == 32.0
    assert 1 / factors[17] == pytest.approx((1 - smooth) / 32 + smooth)
    linear = asked | {"rope_scaling": {"type": "linear", "factor": 2}}
    assert configs.from_hugging_face(linear).rotary_factors == (2.0,) * 32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "mamba"}, "'mamba' is not known; llama, qwen2, qwen3 are"),
        ({"hidden_size": None}, "lacks 'hidden_size'"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; one positive integer"),
        ({"intermediate_size": [10, 12]}, r"intermediate_size is \[10, 12\]; one positive"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; the decoder computes 'silu' only"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "scaled by 'yarn'"),
        ({"num_key_value_heads": 2}, "3 heads of queries cannot share 2"),
        ({"head_dim": 3}, "rotary positions need an even one"),
        ({"model_type": ["llama"]}, r"\['llama'\] is not known"),
        ({"rope_scaling": "linear"}, "a dict is needed"),
        ({"rope_scaling": {"type": "linear"}}, "factor of rope_scaling is None"),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "a positive number"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "head_dim": 2**33}, "at most 65,536"),
    ],
)
def test_what_the_decoder_does_not_compute_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        configs.from_hugging_face(HUGGING_FACE | change)


def test_metadata_that_the_decoder_cannot_follow_are_refused():
    leaf = LazyLeaf((11, 12), np.dtype("float32"), lambda: np.zeros((11, 12), np.float32))
    tensors = {"token_embd.weight": leaf}
    metadata = {
        "general.architecture": "llama",
        "llama.embedding_length": 12,
        "llama.attention.head_count": 3,
        "llama.feed_forward_length": 10,
        "llama.block_count": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    assert configs.from_gguf(metadata, tensors).head_dim == 4
    for change, reason in [
        ({"llama.expert_count": 8}, "expert_count is 8"),
        ({"llama.rope.scale_linear": 4.0}, "rope.scale_linear is 4.0"),
        ({"llama.attention.causal": False}, "attention.causal is False"),
        ({"llama.rope.dimension_count": 2}, "rope.dimension_count is 2"),
        ({"llama.attention.head_count": np.array([3, 2])}, "one positive integer"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled by 'yarn'"),
        ({"llama.block_count": None}, "lack 'llama.block_count'"),
    ]:
        with pytest.raises(ValueError, match=reason):
            configs.from_gguf(metadata | change, tensors)


def test_tensors_must_be_those_of_the_model(case):
    _, config, params, _ = case
    leaf = lambda x: LazyLeaf(x.shape, x.dtype, lambda: x)
    tensors = {name: leaf(array) for name, array in names.to_hugging_face(params)}
    lacking = {name: leaf for name, leaf in tensors.items() if "1.mlp.up" not in name}
    with pytest.raises(ValueError, match=r"'model.layers.1.mlp.up_proj.weight' is missing"):
        names.from_hugging_face(lacking, config)
    with pytest.raises(ValueError, match="'extra' is none of the model's"):
        names.from_hugging_face({**tensors, "extra": tensors["model.norm.weight"]}, config)
    other = {**tensors, "model.norm.weight": leaf(np.ones(5, np.float32))}
    with pytest.raises(ValueError, match=r"shape \(5,\); its configuration asks for \(12,\)"):
        names.from_hugging_face(other, config)
    with pytest.raises(ValueError, match="1,000,000,000 layers, its files only"):
        names.from_hugging_face(tensors, dataclasses.replace(config, layers=10**9))
    if config.tied:
        again = {**tensors, "lm_head.weight": leaf(np.ones((11, 12), np.float32))}
        same(read_leaves(names.from_hugging_face(again, config)), params)


def test_a_token_outside_the_vocabulary_is_not_taken_for_another():
    config = dataclasses.replace(LLAMA, layers=1)
    tokens = jnp.array([[1, 10], [1, 11], [1, -1]])
    logits = jax.jit(llama.decoder(config))(random_tree(config), tokens)
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1:]).all()


def test_random_parameters():
    config = dataclasses.replace(CONFIGS["qwen2"], layers=1, hidden=1000)
    draw = jax.jit(lambda key: llama.random_params(config, key))
    params = draw(jax.random.key(0))
    same(
        jax.tree.map(lambda x: np.array(x.shape), params),
        jax.tree.map(lambda x: np.array(x.shape), llama.shapes(config)),
    )
    layer = params["layers"][0]
    assert np.std(layer["up"]) == pytest.approx(12**-0.5, rel=0.05)
    assert np.std(layer["down"]) == pytest.approx(1000**-0.5, rel=0.05)
    assert (layer["attention_norm"] == 1).all()
    assert (layer["query_bias"] == 0).all()
