"""Criteria for networks that have not been trained: `jaxprune.at_init` computes what they read."""

import jax
import jax.numpy as jnp

from jaxprune.arrays.precision import widen
from jaxprune.criteria.known import score_known
from jaxprune.types import Params, Scores

__all__ = ["grasp", "snip", "synflow"]


def snip(params: Params, *, grads: Params, **_) -> Scores:
    r"""Scores a connection by its share of the sensitivity: $|g_i w_i| / \sum_j |g_j w_j|$, over the tree.

    $g w$ is the derivative of the loss with respect to a factor on the connection. It is `taylor`, whose
    order it shares; shares can be compared between networks.

    Args:
      params: tree of arrays.
      grads: their gradients, from `jaxprune.signals.grads`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Lee, Ajanthan & Torr, "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (2019).
      Departure: the sum runs over all leaves that have gradients, biases too.

    >>> snip({"w": jnp.array([2.0, 1.0])}, grads={"w": jnp.array([-3.0, 2.0])})
    {'w': Array([0.75, 0.25], dtype=float32)}
    """
    sizes = score_known(lambda w, g: jnp.abs(widen(g) * widen(w)), params, grads)
    total = sum(jnp.sum(s, dtype=jnp.float32) for s in jax.tree.leaves(sizes))
    return jax.tree.map(lambda s: s / jnp.maximum(total, 1e-30), sizes)


def grasp(params: Params, *, hessian_gradient: Params, **_) -> Scores:
    r"""Scores a weight by the loss of gradient flow without it: $w_i (H g)_i$, with its sign.

    To first order, $\|g\|^2$ changes by $-2 w_i (H g)_i$ when weight $i$ is removed. The paper's score is
    $S = -w \odot H g$, and it removes the **highest** $S$, whose removal lets the gradient grow most, or
    shrink least. Here higher is kept, so this is $-S$.

    Args:
      params: tree of arrays.
      hessian_gradient: $H g$, from `jaxprune.signals.hessian_gradient`, which divides the outputs by the
        temperature of the authors' code.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Wang, Zhang & Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow" (2020),
      algorithm 1.

    >>> grasp({"w": jnp.array([2.0, -1.0])}, hessian_gradient={"w": jnp.array([1.0, 3.0])})
    {'w': Array([ 2., -3.], dtype=float32)}
    """
    return score_known(lambda w, hg: widen(w) * widen(hg), params, hessian_gradient)


def synflow(params: Params, *, synaptic_flow: Params, **_) -> Scores:
    r"""Scores a weight by its synaptic flow, $|w\, \partial R / \partial |w||$, which needs no data.

    Args:
      params: tree of arrays.
      synaptic_flow: $\partial R / \partial |w|$, from `jaxprune.signals.synaptic_flow`.

    Returns:
      A tree like `params` of float arrays, higher is better; `None` at leaves without the signal.

    References:
      Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving
      synaptic flow" (2020). It is meant for many rounds: `jaxprune.at_init.synflow`.

    >>> synflow({"w": jnp.array([2.0, -1.0])}, synaptic_flow={"w": jnp.array([1.0, 3.0])})
    {'w': Array([2., 3.], dtype=float32)}
    """
    return score_known(lambda w, r: jnp.abs(widen(w) * widen(r)), params, synaptic_flow)
