"""Masks of runs: what is said when they are damaged, and whose they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments.config import UserError
from experiments.runs import mask_files

PARAMS = {"a": {"kernel": jnp.ones((8, 6)), "bias": jnp.zeros(6)}, "b": jnp.ones((0, 5))}
MASKS = {"a": {"kernel": jnp.arange(48).reshape(8, 6) % 3 == 0, "bias": None}, "b": None}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("empty", [None, jnp.ones((0, 5), bool)])
def test_masks_come_back(tmp_path, packed, empty):
    masks = MASKS | {"b": empty}
    mask_files.save(tmp_path / "masks.npz", jp.masks.pack(masks) if packed else masks)
    found = mask_files.load(tmp_path / "masks.npz", PARAMS)
    assert jax.tree.structure(found) == jax.tree.structure(masks)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(masks), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_part_without_masks_is_known_as_one(tmp_path):
    params = {"a": PARAMS["a"], "c": {"x": jnp.ones(2), "y": jnp.ones(3)}}
    mask_files.save(tmp_path / "masks.npz", {"a": MASKS["a"], "c": None})
    found = mask_files.load(tmp_path / "masks.npz", params)
    assert found["c"] == {"x": None, "y": None}
    with pytest.raises(UserError, match="the leaf 'd' is not in it"):
        mask_files.load(tmp_path / "masks.npz", params | {"d": jnp.ones(1)})


@pytest.mark.parametrize(
    ("file", "moved"),
    [
        ("run/seed_3/masks/level_02.npz", "run/seed_3"),
        ("run/SET/sparsity_0.9/seed_0/masks.npz", "run/SET/sparsity_0.9/seed_0"),
        ("seed_of_doubt/masks.npz", "seed_of_doubt"),
    ],
)
@pytest.mark.parametrize("damage", ["cut", "missing", "a folder", "another tree"])
def test_damaged_masks_name_the_folder_to_move_away(tmp_path, file, moved, damage):
    path = tmp_path / file
    mask_files.save(path, MASKS)
    params = PARAMS
    if damage == "another tree":
        params = PARAMS | {"a": {"kernel": jnp.ones((6, 8)), "bias": jnp.zeros(6)}}
    else:
        content = path.read_bytes()
        path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-9])
    if damage == "a folder":
        path.mkdir()
    with pytest.raises(UserError) as error:
        mask_files.load(path, params)
    assert f"move {tmp_path / moved} away and run the same command again" in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
