"""Distillation: the loss by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training.distillation import distillation_loss


def test_the_loss_is_the_divergence_by_hand():
    """T^2 sum p (log p - log q) with the teacher's probabilities p, as a mean over the examples."""
    teacher = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)) * 2
    logits = np.log(np.array([[0.8, 0.2], [0.6, 0.4]], np.float32)) * 2
    first = 0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)
    second = 0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)
    found = distillation_loss(jnp.asarray(logits), jnp.asarray(teacher), 2.0)
    np.testing.assert_allclose(found, 4 * (first + second) / 2, rtol=1e-5)


def test_its_gradient_is_the_difference_of_probabilities():
    """Times T over the number of examples: that of cross-entropy with soft labels, for T = 1."""
    logits, teacher = jnp.array([[1.0, -2.0, 0.5]]), jnp.array([[0.0, 1.0, 2.0]])
    for temperature in (1.0, 4.0):
        gradient = jax.grad(distillation_loss)(logits, teacher, temperature)
        q, p = (jax.nn.softmax(z / temperature) for z in (logits, teacher))
        np.testing.assert_allclose(gradient, temperature * (q - p), rtol=1e-4, atol=1e-6)
