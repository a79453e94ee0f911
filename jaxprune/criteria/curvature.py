"""Criteria that estimate the rise of the loss without a weight from its curvature (`jaxprune.signals`)."""

import functools

import jax
import jax.numpy as jnp

from jaxprune import kernel_axes
from jaxprune.arrays.precision import widen
from jaxprune.criteria.known import score_known
from jaxprune.kernel_axes.matrices import check_damp, damped, into_rows
from jaxprune.signals.blocks import check_blocks
from jaxprune.types import Axes, Params, Scores

__all__ = ["adam_second_moment", "fisher", "obd", "obs", "second_order_taylor", "woodfisher"]


def fisher(params: Params, *, fisher: Params, **_) -> Scores:
    r"""Scores a weight by half its Fisher information times its square: $\frac{1}{2} F_{ii} w_i^2$.

    Args:
      params: tree of arrays.
      fisher: diagonal of the empirical Fisher, from `jaxprune.signals.fisher`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Theis, Korshunova, Tejani & Huszár, "Faster gaze prediction with dense networks and Fisher pruning"
      (2018); Molchanov, Mallya, Tyree, Frosio & Kautz, "Importance Estimation for Neural Network Pruning"
      (2019), whose squared first-order score, averaged over examples, is twice this. Departure: single
      weights, where both sum over a unit before they square; a pattern's sum over a unit is of squares, and
      cross terms are missing (`unit_taylor` has them).

    >>> fisher({"w": jnp.array([2.0, -1.0])}, fisher={"w": jnp.array([1.0, 6.0])})
    {'w': Array([2., 3.], dtype=float32)}
    """
    return score_known(_half_square, params, fisher)


def adam_second_moment(params: Params, *, second_moment: Params, **_) -> Scores:
    r"""Scores a weight by its square times half the second moment of its gradients: $\frac{1}{2} \nu w^2$.

    It is `fisher` with what Adam already keeps, at no cost: no batch is read.

    Args:
      params: tree of arrays.
      second_moment: $\nu$, from `jaxprune.signals.second_moment`, which finds it in the optimizer's state.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Li, Dangel, Tam & Raffel, "Fishers for Free? Approximating the Fisher Information Matrix by Recycling
      the Squared Gradient Accumulator" (2025). Its squares are of the mean gradients of batches, not of
      single examples, along the way of the weights, the last $1 / (1 - \beta_2)$ updates; the authors'
      factors for that are the same for all weights.

    >>> adam_second_moment({"w": jnp.array([2.0, -1.0])}, second_moment={"w": jnp.array([1.0, 6.0])})
    {'w': Array([2., 3.], dtype=float32)}
    """
    return score_known(_half_square, params, second_moment)


def obd(params: Params, *, gauss_newton_diagonal: Params, **_) -> Scores:
    r"""Scores a weight by its saliency, $\frac{1}{2} h_i w_i^2$: the rise of the loss at a minimum.

    Args:
      params: tree of arrays.
      gauss_newton_diagonal: $h$, from the signal of that name, which is never negative. The Hessian's own
        (`jaxprune.signals.hessian_diagonal`) will do too, but weights of negative curvature then go first,
        however large they are.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      LeCun, Denker & Solla, "Optimal Brain Damage" (1990), with the Levenberg-Marquardt (Gauss-Newton)
      approximation. Departure: the paper propagates the diagonal backwards and neglects, in each layer, what
      is off it; here it is an unbiased estimate of Gauss-Newton's diagonal itself.

    >>> obd({"w": jnp.array([2.0, -1.0])}, gauss_newton_diagonal={"w": jnp.array([1.0, 6.0])})
    {'w': Array([2., 3.], dtype=float32)}
    """
    return score_known(_half_square, params, gauss_newton_diagonal)


def _half_square(weights: jax.Array, diagonal: jax.Array) -> jax.Array:
    """Scores of weights by their squares and the diagonal of a curvature."""
    return 0.5 * widen(diagonal) * widen(weights) * widen(weights)


def second_order_taylor(params: Params, *, grads: Params, hessian_diagonal: Params, **_) -> Scores:
    r"""Scores a weight by the change of the loss without it: $|g_i w_i - \frac{1}{2} H_{ii} w_i^2|$.

    Args:
      params: tree of arrays.
      grads: their gradients, from `jaxprune.signals.grads`.
      hessian_diagonal: from `jaxprune.signals.hessian_diagonal`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Molchanov, Mallya, Tyree, Frosio & Kautz, "Importance Estimation for Neural Network Pruning" (2019).
      Departures: the diagonal of the Hessian instead of its row times the weights; the size
      instead of the square, in the same order.

    >>> grads, diagonal = {"w": jnp.array([3.0, 1.0])}, {"w": jnp.array([1.0, 4.0])}
    >>> params = {"w": jnp.array([2.0, -1.0])}
    >>> second_order_taylor(params, grads=grads, hessian_diagonal=diagonal)
    {'w': Array([4., 3.], dtype=float32)}
    """

    def score(w: jax.Array, g: jax.Array, h: jax.Array) -> jax.Array:
        wide = widen(w)
        return jnp.abs(widen(g) * wide - 0.5 * widen(h) * wide * wide)

    return score_known(score, params, grads, hessian_diagonal)


def woodfisher(params: Params, *, inverse_fisher: Params, **_) -> Scores:
    """Scores a weight by $w_q^2 / 2 [F^{-1}]_{qq}$: the rise of the loss if other weights compensate for it.

    Args:
      params: tree of arrays.
      inverse_fisher: the inverse in blocks, from `jaxprune.signals.inverse_fisher`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    Raises:
      ValueError: if an inverse has another number of weights than its leaf.

    References:
      Singh & Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression"
      (2020); Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain
      Surgeon" (1993). It is the score alone: `jaxprune.compensation.woodfisher` is the update of the weights
      that are kept.

    >>> inverse = jnp.array([[[0.5, 0.1], [0.1, 2.0]]])
    >>> woodfisher({"w": jnp.array([[1.0], [4.0]])}, inverse_fisher={"w": inverse})
    {'w': Array([[1.],
           [4.]], dtype=float32)}
    """

    check_blocks("woodfisher", params, inverse_fisher)

    def score(weights: jax.Array, inverse: jax.Array) -> jax.Array:
        diagonal = jnp.diagonal(widen(inverse), axis1=-2, axis2=-1)
        inverse_diagonal = diagonal.reshape(-1)[: weights.size].reshape(weights.shape)
        return 0.5 * widen(weights) * widen(weights) / inverse_diagonal

    return score_known(score, params, inverse_fisher)


def obs(
    params: Params,
    *,
    input_moments: Params,
    grams: Params,
    axes: kernel_axes.AxesTree | None = None,
    damp: float = 0.01,
    **_,
) -> Scores:
    r"""Scores a weight by the change of its layer's output without it, if its row compensates for it.

    $w_q^2 / 2 [(G + \lambda I)^{-1}]_{qq}$ with the Gram matrix $G = \mathrm{E}\,x x^\top$ of the inputs:
    Optimal Brain Surgeon on the squared error of each layer. `jaxprune.compensation.layerwise` moves the
    weights that are kept accordingly.

    Args:
      params: tree of arrays.
      input_moments: from `jaxprune.signals.input_moments`.
      grams: from `jaxprune.signals.grams`.
      axes: tree of `jaxprune.Axes` beside `params`; where it is `None`, the shape of a leaf tells.
      damp: $\lambda$ as a share of the mean of $G$'s diagonal, 0 or above. Weights of an input that is always
        zero score zero.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon" (1993); Dong,
      Chen & Pan, "Learning to Prune Deep Neural Networks via Layer-wise Optimal Brain Surgeon" (2017).

    >>> moments, grams = {"w": jnp.ones((2, 1))}, {"w": jnp.array([[1.0, 0.5], [0.5, 1.0]])}
    >>> scores = obs({"w": jnp.array([[2.0], [4.0]])}, input_moments=moments, grams=grams, damp=0.0)
    >>> [round(float(s), 3) for s in scores["w"][:, 0]]
    [1.5, 6.0]
    """

    check_damp("obs", damp)
    known_moments = jax.tree.map(
        lambda _, moments, gram: None if gram is None else moments, params, input_moments, grams
    )
    known_axes = kernel_axes.require_axes(axes, params, known_moments, "obs")

    def score(
        weights: jax.Array, leaf_axes: Axes | None, gram: jax.Array | None
    ) -> jax.Array | None:
        if leaf_axes is None or gram is None:
            return None
        rows = into_rows(widen(weights), leaf_axes, widen(gram))
        return rows.back(jax.vmap(functools.partial(_score_rows, damp))(rows.kernel, rows.gram))

    return jax.tree.map(score, params, known_axes, grams)


def _score_rows(damp: float, rows: jax.Array, gram: jax.Array) -> jax.Array:
    """Scores of `[outputs, inputs]`."""
    with jax.default_matmul_precision("highest"):
        inverse_diagonal = jnp.diagonal(jnp.linalg.inv(damped(gram, damp)))
    is_used = jnp.diagonal(gram) > 0  # what nothing enters changes nothing
    return jnp.where(is_used[None], 0.5 * rows * rows / inverse_diagonal[None], 0)
