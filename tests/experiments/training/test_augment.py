import jax
import jax.numpy as jnp
import pytest

from experiments.config import UserError, config, part
from experiments.training.augment import augment_of, crop_flip

IMAGES = jax.random.randint(jax.random.key(0), (64, 6, 6, 2), 1, 255).astype(jnp.uint8)


def test_crops_are_windows_of_the_padded_image_half_of_them_mirrored():
    found = jax.jit(crop_flip)(IMAGES, jax.random.key(1))
    assert (found.shape, found.dtype) == (IMAGES.shape, jnp.uint8)
    wide = jnp.pad(IMAGES, ((0, 0), (4, 4), (4, 4), (0, 0)))
    mirrored = corners = 0
    for image, padded in zip(found, wide, strict=True):
        windows = {
            (i, j, flip): padded[i : i + 6, j : j + 6][:, :: -1 if flip else 1]
            for i in range(9)
            for j in range(9)
            for flip in (False, True)
        }
        same = [at for at, window in windows.items() if jnp.array_equal(window, image)]
        assert same, "every result is a window"
        mirrored += same[0][2]
        corners += same[0][:2] != (4, 4)
    assert 16 < mirrored < 48
    assert corners > 48


def test_the_key_decides():
    first, again, other = (crop_flip(IMAGES, jax.random.key(k)) for k in (1, 1, 2))
    assert jnp.array_equal(first, again)
    assert not jnp.array_equal(first, other)


def test_configs_name_it():
    data = lambda **more: config(data=part("synthetic_mnist", **more))
    assert augment_of(data()) is None
    assert augment_of(data(augment="crop_flip")) is not None
    with pytest.raises(UserError, match="nearest: 'crop_flip'"):
        augment_of(data(augment="crop_flop"))
