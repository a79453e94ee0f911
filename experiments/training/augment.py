"""Augmentation of a batch of training images, inside the compiled step."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from experiments.config import UserError, unknown

__all__ = ["Augment", "augment_of", "crop_flip"]

Augment = Callable[[jax.Array, jax.Array], jax.Array]


def augment_of(cfg: ConfigDict) -> Augment | None:
    """Returns the augmentation that `config.data.augment` names; `None` if the field is empty."""
    name = cfg.data.get("augment", "")
    if name and name not in _AUGMENTATIONS:
        raise UserError(
            unknown("config.data.augment: no augmentation", name, _AUGMENTATIONS, "Known")
        )
    return _AUGMENTATIONS[name] if name else None


def crop_flip(images: jax.Array, key: jax.Array, pad: int = 4) -> jax.Array:
    """Returns images padded with zeros, cropped at random and mirrored with probability 1/2.

    This is the usual protocol on CIFAR-10.

    Args:
      images: uint8 `[n, height, width, channels]`.
      key: PRNG key.
      pad: pixels on each side.

    Returns:
      Images of the same shape.

    References:
      He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2.
    """
    crop_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(crop_key, (len(images), 2), 0, 2 * pad + 1)
    padded_images = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def crop_image(image: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    cropped_images = jax.vmap(crop_image)(padded_images, corners)
    is_mirrored = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(is_mirrored, cropped_images[:, :, ::-1], cropped_images)


_AUGMENTATIONS: dict[str, Augment] = {"crop_flip": functools.partial(crop_flip, pad=4)}
