"""How far the outputs of pruned kernels are from those of the dense network, on any data."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.streams import checked
from jaxprune.posttrain.work import Work
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
      statistics: of `jaxprune.posttrain.gather` with "grams", on data that were not used for pruning.

    >>> from jaxprune.posttrain import gather, plan
    >>> apply, params, x = (lambda p, x: x @ p["w"]), {"w": jnp.eye(2)}, jnp.array([[3.0, 4.0]])
    >>> what = plan(apply, params, x)
    >>> held_out = gather(what, params, [x], ("grams",))
    >>> round(output_errors(what, params, {"w": jnp.diag(jnp.array([1.0, 0.0]))}, held_out)["w"], 4)
    0.64
    """
    before, after = (Work(plan, checked(plan, params)) for params in (dense, pruned))
    found = {}
    for kernel in plan.kernels:
        grams = statistics[kernel.name]["grams"]
        found[kernel.name] = float(output_error(before.read(kernel), after.read(kernel), grams))
    return found


@jax.jit
def output_error(old: jax.Array, new: jax.Array, grams: jax.Array) -> jax.Array:
    """The error of one kernel's outputs, from its matrices and the Gram matrices of its inputs."""
    with jax.default_matmul_precision("highest"):
        change = old - new
        lost = jnp.sum(change * (grams @ change))
        whole = jnp.sum(old * (grams @ old))
    return lost / jnp.maximum(whole, jnp.finfo(whole.dtype).tiny)
