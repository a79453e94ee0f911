"""Masks in files and masks read off sparse checkpoints."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from flax.core import FrozenDict

import jaxprune as jp

PARAMS = {
    "layers": [{"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}],
    "mlp/linear": {"w": jnp.ones((5, 9)), "b": jnp.ones(9)},
    "x": None,
}
MASKS = jp.masks.shuffle(
    jax.tree.map(lambda m: jnp.arange(m.size).reshape(m.shape) % 3 > 0, jp.masks.make(PARAMS)),
    jax.random.key(0),
)


def same(a, b):
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made" / "masks.safetensors"


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_stored_comes_back(path, packed):
    jp.masks.save(path, jp.masks.pack(MASKS) if packed else MASKS)
    loaded = jp.masks.load(path, PARAMS)
    assert jax.tree.structure(loaded) == jax.tree.structure(MASKS)
    assert same(loaded, MASKS)
    assert same(jp.masks.apply(PARAMS, jp.masks.load(path)), jp.masks.apply(PARAMS, MASKS))
    bits = safetensors.numpy.load_file(path)
    assert {name: array.nbytes for name, array in bits.items()} == {
        "layers/0/kernel": 2,
        "mlp/linear/w": 6,
    }
    assert not list(path.parent.glob(".*")), "nothing partial is left"


def test_a_single_array_has_no_path(path):
    jp.masks.save(path, jnp.array([True, False]))
    assert jp.masks.load(path).tolist() == [True, False]
    assert jp.masks.load(path, jnp.ones(2)).tolist() == [True, False]


def test_masks_fit_the_same_names_in_other_containers(path):
    model = nnx.Linear(3, 5, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    jp.masks.save(path, {"kernel": MASKS["layers"][0]["kernel"], "bias": None})
    for tree in (params, nnx.as_pure(params), FrozenDict(nnx.to_pure_dict(params))):
        loaded = jp.masks.load(path, tree)
        jp.masks.check(jp.masks.apply(tree, loaded), loaded)
        assert float(jp.masks.sparsity(loaded)) == jnp.float32(1 / 3)


def test_a_leaf_may_have_a_name_that_others_begin_with(path):
    masks = {"layer": jnp.array([True, False]), "layer/bias": jnp.array([False, True, True])}
    jp.masks.save(path, masks)
    assert same(jp.masks.load(path, jax.tree.map(jnp.float32, masks)), masks)
    with pytest.raises(ValueError, match=r"'layer' is a leaf and has leaves.*load\(path, params\)"):
        jp.masks.load(path)


def test_a_name_that_the_format_reserves_is_refused_before_anything_is_written(path):
    with pytest.raises(ValueError, match="'__metadata__', which safetensors files reserve"):
        jp.masks.save(path, {"__metadata__": jnp.ones(3, bool)})
    assert not path.exists()


def test_a_file_is_replaced_only_if_asked(path):
    jp.masks.save(path, MASKS)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        jp.masks.save(path, MASKS)
    jp.masks.save(path, {"w": jnp.ones(3, bool)}, overwrite=True)
    assert jp.masks.paths(jp.masks.load(path)) == ["w"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"layers": [{"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)}]}, "unexpected 'mlp/linear"),
        ({**PARAMS, "new": jnp.ones((2, 2))}, "missing 'new'"),
        (
            {**PARAMS, "mlp/linear": {"w": jnp.ones((9, 5)), "b": jnp.ones(9)}},
            r"'mlp/linear/w' has",
        ),
    ],
)
def test_masks_of_another_tree_are_refused_by_name(path, params, words):
    jp.masks.save(path, MASKS)
    with pytest.raises(ValueError, match=words):
        jp.masks.load(path, params)


def test_every_damaged_byte_is_found(path):
    jp.masks.save(path, MASKS)
    whole = path.read_bytes()
    words = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            loaded = jp.masks.load(path, PARAMS)
        except ValueError as error:
            words.append(str(error))
        else:
            assert same(loaded, MASKS), "a change that is none, as of white space"
    assert len(words) > 0.9 * len(whole)
    assert all("masks.load" in sentence for sentence in words)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="damaged"):
        jp.masks.load(path)


def rewritten(path, **changes):
    bits = safetensors.numpy.load_file(path)
    header = path.read_bytes()
    length = int.from_bytes(header[:8], "little")
    metadata = json.loads(header[8 : 8 + length])["__metadata__"]
    safetensors.numpy.save_file(bits, path, metadata | changes)


def test_other_files_are_refused(path):
    jp.masks.save(path, MASKS)
    rewritten(path, version="2")
    with pytest.raises(ValueError, match="version 2 of the format"):
        jp.masks.load(path)
    rewritten(path, format="weights")
    with pytest.raises(ValueError, match="do not say that it holds masks"):
        jp.masks.load(path)
    safetensors.numpy.save_file({"w": np.ones(3)}, path)
    with pytest.raises(ValueError, match="do not say that it holds masks"):
        jp.masks.load(path)
    with pytest.raises(FileNotFoundError):
        jp.masks.load(path.with_name("none"))


def test_without_safetensors_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[share\]'"):
        jp.masks.save(path, MASKS)
    with pytest.raises(TypeError, match=r"masks\.save\(masks="):
        jp.masks.save(path, PARAMS)


def test_masks_are_read_off_the_zeros_of_a_checkpoint():
    sparse = jp.masks.apply(PARAMS, MASKS)
    assert same(jp.masks.of_zeros(sparse), MASKS)
    sparse["layers"][0]["kernel"] = jnp.ones((3, 5))
    assert bool(jp.masks.of_zeros(sparse)["layers"][0]["kernel"].all()), "no zero, all kept"
    only = jp.masks.of_zeros(sparse, "w$")
    assert jp.masks.paths(only) == ["mlp/linear/w"]


def test_checkpoints_that_are_not_sparse_are_refused():
    with pytest.raises(ValueError, match="no weight of 'layers/0/kernel', 'mlp/linear/w' is zero"):
        jp.masks.of_zeros(PARAMS)
    sparse = jp.masks.apply(PARAMS, MASKS)
    sparse["layers"][0]["kernel"] = jnp.zeros((3, 5))
    with pytest.raises(ValueError, match="'layers/0/kernel' are zero throughout"):
        jp.masks.of_zeros(sparse)
