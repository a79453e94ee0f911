"""Gauss-Newton's diagonal: the curvature that a network's outputs pass on to its weights, never negative."""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import sharded_like, whole
from jaxprune.signals.batches import Progress, mean_over
from jaxprune.signals.leaves import (
    are_floating,
    chosen_leaves,
    fill_tree,
    with_leaves,
)
from jaxprune.signals.losses import Apply, OutputLoss, check_function, scalar
from jaxprune.types import Params

__all__ = ["gauss_newton_diagonal"]

_MOST = 2048  # outputs of an example: the square of it is held for each


def gauss_newton_diagonal(
    apply: Apply,
    output_loss: OutputLoss,
    params: Params,
    batches: Iterable[Any],
    key: jax.Array,
    *,
    samples: int = 10,
    progress: Progress | None = None,
) -> Params:
    r"""Returns a non-negative estimate of the diagonal of Gauss-Newton's $\frac1N \sum_n J_n^\top H_n J_n$.

    $J_n$ is the Jacobian of example $n$'s outputs, $H_n$ the Hessian of its loss with respect to the outputs.
    With $H_n = S_n S_n^\top$ and random signs $z_n$, the expectation of the square of
    $\frac{1}{\sqrt N} \sum_n J_n^\top S_n z_n$ is the diagonal. A draw costs one gradient of the batch. Its
    standard deviation at a weight is at most $\sqrt{2}$ times the entry; of the mean of $k$ draws it is at
    most $\sqrt{2 / k}$ times the entry. For cross-entropy of logits the matrix is the Fisher information with
    labels drawn from the network's own outputs. It is the Hessian without the curvature of the network
    itself; that term makes entries of the Hessian negative.

    Args:
      apply: (params, batch) -> outputs, one array [examples, ...]; logits, not probabilities.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar; twice
        differentiable by JAX. No example may depend on the others. Where it is not convex in the outputs,
        negative eigenvalues of $H_n$ count as 0.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      key: PRNG key.
      samples: draws per batch; at least 1.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. The criterion `obd` reads
      it as `gauss_newton_diagonal`.

    Raises:
      ValueError: if `samples` is below 1, or the outputs are not one floating array, or more than 2,048 for
        an example: all of $H_n$ is held in memory.

    References:
      Schraudolph, "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent" (2002); Martens,
      Sutskever & Swersky, "Estimating the Hessian by Back-propagating Curvature" (2012), for random vectors.

    >>> apply = lambda params, x: x @ params["w"]
    >>> output_loss = lambda outputs, x: 2 * jnp.mean(outputs**2)  # H_n = 4
    >>> params = {"w": jnp.array([[1.0], [5.0]])}
    >>> gauss_newton_diagonal(apply, output_loss, params, [jnp.array([[3.0, 1.0]])], jax.random.key(0))
    {'w': Array([[36.],
           [ 4.]], dtype=float32)}
    """
    check_function("gauss_newton_diagonal", params, apply=apply, output_loss=output_loss)
    checks.check("gauss_newton_diagonal", samples=(samples, checks.INTEGER))
    if samples < 1:
        raise ValueError(f"gauss_newton_diagonal(samples={samples}): at least 1 is needed.")
    static = (apply, output_loss, samples)
    options: Any = {"progress": progress, "who": "gauss_newton_diagonal"}
    return mean_over(_diagonals, params, batches, static=static, key=key, **options)


def _diagonals(
    apply: Apply, output_loss: OutputLoss, samples: int, params: Params, batch: Any, key: jax.Array
) -> Params:
    is_floating = are_floating(params)

    def network(values: list[jax.Array]) -> Any:
        return apply(with_leaves(params, is_floating, values), batch)

    outputs, pull_back = jax.vjp(network, chosen_leaves(params, is_floating))
    roots = _roots(output_loss, outputs, batch)

    def add_draw(total: list[jax.Array], key: jax.Array) -> tuple[list[jax.Array], None]:
        signs = jax.random.rademacher(key, roots.shape[:2], roots.dtype)
        output_vector = jnp.einsum("nij,nj->ni", roots, signs).reshape(outputs.shape)
        (gradients,) = pull_back(sharded_like(output_vector.astype(outputs.dtype), outputs))
        return [
            leaf_total + widen(gradient) ** 2
            for leaf_total, gradient in zip(total, gradients, strict=True)
        ], None

    zeros = [jnp.zeros_like(widen(weights)) for weights in chosen_leaves(params, is_floating)]
    total, _ = jax.lax.scan(add_draw, zeros, jax.random.split(key, samples))
    return fill_tree(params, is_floating, [leaf_total / samples for leaf_total in total])


def _roots(output_loss: OutputLoss, outputs: Any, batch: Any) -> jax.Array:
    """Returns roots S of the Hessians H = S S^T of the loss with respect to each example's outputs."""
    if not isinstance(outputs, jax.Array) or not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise ValueError(
            f"gauss_newton_diagonal: apply gives {jax.tree.map(jnp.shape, outputs)}; one floating array of "
            "outputs [examples, ...] is needed."
        )
    examples, *output_shape = outputs.shape or (0,)
    number_of_outputs = math.prod(output_shape)
    if not examples or number_of_outputs > _MOST:
        raise ValueError(
            f"gauss_newton_diagonal: the outputs have the shape {outputs.shape}; up to {_MOST:,} numbers for "
            "each example along the first axis are needed. jaxprune.signals.fisher has no such limit."
        )
    rows = whole(widen(outputs)).reshape(examples, number_of_outputs)

    def loss_of_rows(rows: jax.Array) -> jax.Array:
        restored = sharded_like(rows.reshape(outputs.shape).astype(outputs.dtype), outputs)
        return scalar(output_loss(restored, batch))

    gradient_of_rows = jax.grad(loss_of_rows)

    def hessian_column(unit: jax.Array) -> jax.Array:
        # Examples do not depend on each other: one product gives a column of each one's Hessian.
        return jax.jvp(gradient_of_rows, (rows,), (jnp.broadcast_to(unit, rows.shape),))[1]

    hessians = jax.lax.map(hessian_column, jnp.eye(number_of_outputs, dtype=rows.dtype)[:, None])
    eigenvalues, eigenvectors = jnp.linalg.eigh(hessians.swapaxes(0, 1))
    return eigenvectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[:, None]
