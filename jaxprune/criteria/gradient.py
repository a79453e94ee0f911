"""Criteria that read gradients: those of the current step, or sums and averages of earlier ones."""

import jax.numpy as jnp

from jaxprune import signals
from jaxprune.arrays.precision import widen
from jaxprune.criteria.known import score_known
from jaxprune.types import Params, Scores


def gradient(params: Params, *, grads: Params, **_) -> Scores:
    """Scores a weight by the size of its gradient, $|g|$: what RigL grows.

    Args:
      params: tree of arrays.
      grads: their gradients.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020).

    >>> gradient({"w": jnp.zeros(2)}, grads={"w": jnp.array([-3.0, 1.0])})
    {'w': Array([3., 1.], dtype=float32)}
    """
    return score_known(lambda w, g: jnp.abs(g), params, grads)


def taylor(params: Params, *, grads: Params, signed: bool = False, **_) -> Scores:
    r"""Scores a weight by the change of the loss without it, to first order: $|w g|$.

    In training these are the gradients of one batch; gradients averaged over batches are a better signal.

    Args:
      params: tree of arrays.
      grads: their gradients.
      signed: give $w g$, for coupled units that are scored by $|\sum w g|$, what the mean loss changes
        without them (`jaxprune.structured.coupled(reduce="absolute")`); for single weights it has no use.
        Averaged gradients cancel between batches, and in front of a BatchNorm the sum over a filter is 0 in
        training mode: `unit_taylor` squares first, and goes behind it.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource
      Efficient Inference" (2017), equation 7; Mozer & Smolensky, "Skeletonization" (1989) for units.
      Departure: single weights, where the first paper sums over feature maps.

    >>> taylor({"w": jnp.array([2.0, 0.1])}, grads={"w": jnp.array([-3.0, 10.0])})
    {'w': Array([6., 1.], dtype=float32)}
    """
    size = (lambda x: x) if signed else jnp.abs
    return score_known(lambda w, g: size(widen(w) * widen(g)), params, grads)


def unit_taylor(params: Params, *, unit_taylor: Params, **_) -> Scores:
    r"""Scores a unit by the mean over batches of the squared change of the loss without it.

    $\mathrm{E}_b (\sum_i w_i g_{b,i})^2$, evenly over the weights that count for the unit, so that a
    pattern's sum over a unit is the unit's score. With `jaxprune.structured.coupled(over="scales")` the gate
    is behind a BatchNorm.

    Args:
      params: tree of arrays.
      unit_taylor: from `jaxprune.signals.unit_taylor`, of the units that are pruned.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Molchanov, Mallya, Tyree, Frosio & Kautz, "Importance Estimation for Neural Network Pruning" (2019):
      Taylor-FO, and Taylor-FO-BN over "scales".

    >>> unit_taylor({"w": jnp.ones((1, 2))}, unit_taylor={"w": jnp.array([[5.0, 20.0]])})
    {'w': Array([[ 5., 20.]], dtype=float32)}
    """
    return score_known(lambda w, importance: importance, params, unit_taylor)


def magnitude_and_gradient(params: Params, *, grads: Params, weight: float = 1.0, **_) -> Scores:
    r"""Scores a weight by its size and that of its gradient: $|w| + \lambda |g|$.

    Args:
      params: tree of arrays.
      grads: their gradients.
      weight: $\lambda$.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Yuan et al., "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge"
      (2021).

    >>> magnitude_and_gradient({"w": jnp.array([-2.0])}, grads={"w": jnp.array([3.0])})
    {'w': Array([5.], dtype=float32)}
    """
    return score_known(lambda w, g: jnp.abs(widen(w)) + weight * jnp.abs(widen(g)), params, grads)


@signals.needs(momentum=signals.moving_average(lambda w, g: g))
def momentum(params: Params, *, momentum: Params, **_) -> Scores:
    r"""Scores a weight by the size of its averaged gradient, $|m|$, $m \leftarrow 0.9 m + 0.1 g$.

    Args:
      params: tree of arrays.
      momentum: the averaged gradients $m$; the transform accumulates them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance"
      (2019): what SNFS grows, with the momentum of SGD itself.

    >>> momentum({"w": jnp.ones(2)}, momentum={"w": jnp.array([0.5, -1.0])})
    {'w': Array([0.5, 1. ], dtype=float32)}
    """
    return score_known(lambda w, m: jnp.abs(m), params, momentum)


@signals.needs(gradient_sum=signals.running_sum(lambda w, g: g, restarts=True))
def accumulated_gradient(params: Params, *, gradient_sum: Params, **_) -> Scores:
    r"""Scores a weight by its gradients summed since the last change of the masks: $|\sum_t g_t|$.

    It reads the gradients of many batches instead of one; those that change sign from batch to batch cancel.

    Args:
      params: tree of arrays.
      gradient_sum: the summed gradients; the transform accumulates them.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020), whose
      own choice is the gradient of one batch.

    >>> accumulated_gradient({"w": jnp.ones(2)}, gradient_sum={"w": jnp.array([0.5, -1.0])})
    {'w': Array([0.5, 1. ], dtype=float32)}
    """
    return score_known(lambda w, s: jnp.abs(s), params, gradient_sum)
