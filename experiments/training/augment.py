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
    """Returns what `config.data.augment` names, `None` if it names nothing."""
    name = cfg.data.get("augment", "")
    if name and name not in _KNOWN:
        raise UserError(unknown("config.data.augment: no augmentation", name, _KNOWN, "Known"))
    return _KNOWN[name] if name else None


def crop_flip(images: jax.Array, key: jax.Array, pad: int = 4) -> jax.Array:
    """Pads with zeros, crops anywhere and mirrors every other image: the protocol of CIFAR-10.

    Args:
      images: uint8 `[n, height, width, channels]`.
      key: PRNG key.
      pad: pixels on each side.

    Returns:
      Images of the same shape.

    References:
      He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition" (2016), section 4.2.
    """
    crops, flips = jax.random.split(key)
    at = jax.random.randint(crops, (len(images), 2), 0, 2 * pad + 1)
    wide = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])
    cropped = jax.vmap(crop)(wide, at)
    mirrored = jax.random.bernoulli(flips, shape=(len(images), 1, 1, 1))
    return jnp.where(mirrored, cropped[:, :, ::-1], cropped)


_KNOWN: dict[str, Augment] = {"crop_flip": functools.partial(crop_flip, pad=4)}
