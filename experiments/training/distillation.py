"""Distillation: a network is trained to the outputs of another one instead of the labels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

__all__ = ["Teacher", "distillation_loss"]


class Teacher(NamedTuple):
    """A trained network whose outputs are the targets.

    Attributes:
      variables: parameters and other variables, of the same model as the one that is trained.
      temperature: by which the logits of both are divided.
    """

    variables: Any
    temperature: float


def distillation_loss(
    logits: jax.Array, teacher_logits: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    r"""Returns how far outputs are from a teacher's, as a mean over the examples.

    With probabilities $p = \mathrm{softmax}(z / T)$ of the teacher and $q$ of the network, it is
    $T^2 \, \mathrm{KL}(p \| q) = T^2 \sum_i p_i (\log p_i - \log q_i)$ nats; by $T^2$ its gradients are of
    one size at all temperatures.

    Args:
      logits: of the network, `[examples, classes]`.
      teacher_logits: of the teacher.
      temperature: $T$, above 0.

    References:
      Hinton, Vinyals & Dean, "Distilling the Knowledge in a Neural Network" (2015).

    >>> logits = jnp.array([[0.0, 0.0]])
    >>> float(distillation_loss(logits, logits, 4.0))
    0.0
    """
    log_p = jax.nn.log_softmax(teacher_logits / temperature)
    log_q = jax.nn.log_softmax(logits / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1))
