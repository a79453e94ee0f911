"""Relative output errors of pruned kernels against the dense network, on any data."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.streams import checked_leaves
from jaxprune.posttrain.work import PruningState
from jaxprune.types import Params

__all__ = ["output_error", "output_errors"]


def output_errors(
    plan: Plan, dense: Params, pruned: Params, statistics: Mapping[str, Mapping[str, jax.Array]]
) -> dict[str, float]:
    r"""Returns $\|X \hat W - X W\|^2 / \|X W\|^2$ of each kernel, by name.

    The inputs $X$ are those of the dense network on data of the caller's: a lower error on the data that a
    solver has seen need not be a lower one elsewhere.

    Args:
      plan: of both networks.
      dense: parameters before pruning.
      pruned: parameters after it.
      statistics: from `jaxprune.posttrain.gather` with "grams", on data that were not used for pruning.

    Returns:
      Relative squared errors by the name of the kernel: 0 is exact, 1 as far off as outputs of zero.

    >>> from jaxprune.posttrain import gather, plan
    >>> apply, params, x = (lambda p, x: x @ p["w"]), {"w": jnp.eye(2)}, jnp.array([[3.0, 4.0]])
    >>> layer_plan = plan(apply, params, x)
    >>> held_out = gather(layer_plan, params, [x], ("grams",))
    >>> pruned = {"w": jnp.diag(jnp.array([1.0, 0.0]))}  # the output 4 of (3, 4) is lost: 16 / 25
    >>> round(output_errors(layer_plan, params, pruned, held_out)["w"], 4)
    0.64
    """
    dense_work, pruned_work = (
        PruningState(plan, checked_leaves(plan, params)) for params in (dense, pruned)
    )
    errors = {}
    for kernel in plan.kernels:
        grams = statistics[kernel.name]["grams"]
        errors[kernel.name] = float(
            output_error(dense_work.read(kernel), pruned_work.read(kernel), grams)
        )
    return errors


@jax.jit
def output_error(old_matrices: jax.Array, new_matrices: jax.Array, grams: jax.Array) -> jax.Array:
    """Returns the relative squared error of one kernel's outputs, from the Gram matrices of its inputs."""
    with jax.default_matmul_precision("highest"):
        change = old_matrices - new_matrices
        changed_energy = jnp.sum(change * (grams @ change))
        output_energy = jnp.sum(old_matrices * (grams @ old_matrices))
    return changed_energy / jnp.maximum(output_energy, jnp.finfo(output_energy.dtype).tiny)
