"""Penalties on single weights: the lasso, the elastic net and the number of weights."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.arrays.precision import widen
from jaxprune.hyperparameters import Scheduled, scheduled
from jaxprune.parts import factory
from jaxprune.types import Penalty, Step

__all__ = ["Leaves", "elastic", "l0", "l1", "step_size_of", "widen"]

Leaves = dict[str, jax.Array]


@factory
def l1(strength: Scheduled, *, leaves: str | None = None) -> Penalty:
    r"""Returns the lasso, $\lambda \sum_i |w_i|$; its proximal step is the soft threshold.

    $w_i = \mathrm{sign}(v_i) \max(|v_i| - \eta_i \lambda, 0)$.

    Args:
      strength: $\lambda$, a number or a schedule (step -> number).
      leaves: regular expression, such as `"scale$"`; leaves are penalised if it is found in their paths.
        `None`: all prunable leaves.

    Returns:
      A penalty.

    References:
      Tibshirani, "Regression Shrinkage and Selection via the Lasso" (1996).

    >>> l1(1.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)
    {'w': Array([2.5, 0. ], dtype=float32)}
    """
    strength_at = scheduled("l1", strength=strength)
    if leaves is not None:
        checks.expression("l1(leaves=)", leaves)
    penalty = _sum_over_weights(
        value=lambda w, step: strength_at(step) * _size(w),
        prox=lambda w, step_size, step: _soft_threshold(w, step_size * strength_at(step)),
        subgradient=lambda w, step: strength_at(step) * jnp.sign(w),
    )
    return dataclasses.replace(penalty, covers=leaves)


@factory
def elastic(strength: Scheduled, *, ridge: Scheduled) -> Penalty:
    r"""Returns the elastic net, $\sum_i \lambda |w_i| + \rho w_i^2 / 2$: correlated weights stay together.

    $w_i = \mathrm{sign}(v_i) \max(|v_i| - \eta_i \lambda, 0) / (1 + \eta_i \rho)$.

    Args:
      strength: $\lambda$, a number or a schedule (step -> number).
      ridge: $\rho$, a number or a schedule: the strength of the usual weight decay.

    Returns:
      A penalty.

    References:
      Zou & Hastie, "Regularization and Variable Selection via the Elastic Net" (2005), the naive elastic net
      of section 2, with $\rho / 2$ for its $\lambda_2$.

    >>> elastic(1.0, ridge=2.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)
    {'w': Array([1.25, 0.  ], dtype=float32)}
    """
    strength_at = scheduled("elastic", strength=strength)
    ridge_at = scheduled("elastic", ridge=ridge)
    return _sum_over_weights(
        value=lambda w, step: strength_at(step) * _size(w) + ridge_at(step) / 2 * w**2,
        prox=lambda w, step_size, step: (
            _soft_threshold(w, step_size * strength_at(step)) / (1 + step_size * ridge_at(step))
        ),
        subgradient=lambda w, step: strength_at(step) * jnp.sign(w) + ridge_at(step) * w,
    )


@factory
def l0(strength: Scheduled) -> Penalty:
    r"""Returns the penalty $\lambda \|w\|_0$ on the number of weights that are not zero.

    Its proximal step is the hard threshold, $w_i = v_i$ if $v_i^2 > 2 \eta_i \lambda$, otherwise 0: iterative
    hard thresholding. Weights that survive are not shrunk. The penalty is not convex, and flat wherever it is
    smooth: there is no subgradient.

    Args:
      strength: $\lambda$, a number or a schedule (step -> number): by how much a weight must lower the loss
        to stay.

    Returns:
      A penalty.

    References:
      Blumensath & Davies, "Iterative Thresholding for Sparse Approximations" (2008). Louizos, Welling &
      Kingma, "Learning Sparse Neural Networks through L0 Regularization" (2018), relax the same penalty by
      random gates instead.

    >>> l0(1.0).prox({"w": jnp.array([3.0, -0.5])}, 0.5, 0)  # the threshold is 1
    {'w': Array([3., 0.], dtype=float32)}
    """
    strength_at = scheduled("l0", strength=strength)

    def prox(leaf: jax.Array, step_size: jax.Array, step: Step) -> jax.Array:
        return jnp.where(jnp.abs(leaf) <= jnp.sqrt(2 * step_size * strength_at(step)), 0.0, leaf)

    return _sum_over_weights(
        value=lambda w, step: strength_at(step) * (w != 0), prox=prox, subgradient=None
    )


def _size(array: jax.Array) -> jax.Array:
    """Returns absolute values with a slope of 0 at 0; that of `jnp.abs` is 1."""
    return jnp.sign(array) * array


def _soft_threshold(array: jax.Array, threshold: jax.Array) -> jax.Array:
    """Returns each element moved towards zero by the threshold, and not beyond."""
    return array - jnp.clip(array, -threshold, threshold)


def step_size_of(step_sizes: Any, path: str) -> jax.Array:
    """Returns the step size of a leaf, from one for all leaves or from those by path."""
    return widen(step_sizes[path] if isinstance(step_sizes, Mapping) else step_sizes)


def _sum_over_weights(
    value: Callable[[jax.Array, Step], jax.Array],
    prox: Callable[[jax.Array, jax.Array, Step], jax.Array],
    subgradient: Callable[[jax.Array, Step], jax.Array] | None,
) -> Penalty:
    """Returns the penalty that sums over single weights, from what it is for those of one leaf.

    Args:
      value: (weights, step) -> the penalty of each.
      prox: (weights, step sizes, step) -> the weights after the proximal step.
      subgradient: (weights, step) -> a subgradient; `None` where there is none.
    """

    def sum_values(leaves: Leaves, step: Step) -> jax.Array:
        values = (jnp.sum(value(widen(leaf), step)) for leaf in leaves.values())
        return jnp.asarray(sum(values, 0.0), jnp.float32)

    def take_prox(leaves: Leaves, step_sizes: Any, step: Step) -> Leaves:
        new_leaves = {
            path: prox(widen(leaf), step_size_of(step_sizes, path), step)
            for path, leaf in leaves.items()
        }
        return {path: leaf.astype(leaves[path].dtype) for path, leaf in new_leaves.items()}

    def take_subgradient(leaves: Leaves, step: Step) -> Leaves:
        assert subgradient is not None
        return {
            path: subgradient(widen(leaf), step).astype(leaf.dtype) for path, leaf in leaves.items()
        }

    return Penalty(
        sum_values, take_prox, subgradient and take_subgradient, check=lambda shapes: None
    )
