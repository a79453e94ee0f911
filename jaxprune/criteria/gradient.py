"""Criteria that read the gradients of the step (or any others given as `grads=`)."""

import jax
import jax.numpy as jnp

from jaxprune.types import Params, Scores


def gradient(params: Params, *, grads: Params, **_) -> Scores:
    r"""Scores a weight by the size of its gradient, $|g|$: what RigL grows.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020).

    >>> gradient({"w": jnp.zeros(2)}, grads={"w": jnp.array([-3.0, 1.0])})
    {'w': Array([3., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda w, g: jnp.abs(g), params, grads)


def taylor(params: Params, *, grads: Params, **_) -> Scores:
    r"""Scores a weight by what the loss would change without it, to first order: $|w g|$.

    With the gradients of one batch; more of them, averaged, are a better signal.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource
      Efficient Inference" (2017), equation 7; Mozer & Smolensky, "Skeletonization" (1989) for units.
      Departure: single weights, where the first paper sums over feature maps.

    >>> taylor({"w": jnp.array([2.0, 0.1])}, grads={"w": jnp.array([-3.0, 10.0])})
    {'w': Array([6., 1.], dtype=float32)}
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), params, grads)
