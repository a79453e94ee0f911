"""Pruning after training in one call, by name of the method."""

from collections.abc import Callable, Iterable
from typing import Any

from jaxprune import criteria
from jaxprune.masks import Prunable
from jaxprune.posttrain import solvers
from jaxprune.posttrain.driver import prune
from jaxprune.posttrain.plan import plan
from jaxprune.types import Masks, Params, Pattern

__all__ = ["admm", "magnitude", "obc", "ria", "sparsegpt", "wanda"]

Pruned = tuple[Params, Masks]


def sparsegpt(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    damp: float = 0.01,
    **options: Any,
) -> Pruned:
    """Prunes a network by SparseGPT: what goes is made up for by the weights behind it.

    Args:
      apply: (params, batch) -> anything; any JAX function, in evaluation mode. Kernels and their inputs
        are found in its program; nothing else is asked of it.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape; more rows than a kernel has inputs are needed
        for it to pay, four times as many are good.
      sparsity: fraction removed; or as `rates` of `jaxprune.posttrain.prune`.
      pattern: who competes: all weights of a kernel, `patterns.groups()` those of an output,
        `patterns.groups(4)` at sparsity 0.5 is 2:4 along the inputs.
      prunable: which parameters are pruned, and
      exclude: which are not (see `jaxprune.posttrain.plan`).
      damp: share of the mean of the Gram's diagonal that is added to it.
      **options: of `jaxprune.posttrain.prune`.

    Returns:
      The parameters with exact zeros, and masks for `jaxprune.fixed`.

    References:
      Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023).

    >>> import jax.numpy as jnp
    >>> from jaxprune.patterns import groups
    >>> apply = lambda params, x: x @ params["w"]
    >>> x = jnp.array([[1.0, 0.5], [0.0, 0.75**0.5]])  # what enters first and second is correlated by 1 / 2
    >>> pruned, _ = sparsegpt(apply, {"w": jnp.array([[1.0], [2.0]])}, [x], pattern=groups(2), damp=0.0)
    >>> pruned["w"].round(4).tolist()
    [[0.0], [2.5]]
    """
    solver = solvers.sparsegpt(damp=damp)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def wanda(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    **options: Any,
) -> Pruned:
    """Prunes a network by the size of weights times the norm of their inputs; arguments as of `sparsegpt`.

    The paper compares within each output: `pattern=patterns.groups()`.

    References:
      Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (2023).
    """
    solver = solvers.by_criterion(criteria.wanda)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def ria(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    **options: Any,
) -> Pruned:
    """Prunes a network by relative importance and activations; arguments as of `sparsegpt`.

    References:
      Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
      Models" (2024).
    """
    solver = solvers.by_criterion(criteria.ria)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def magnitude(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    **options: Any,
) -> Pruned:
    """Prunes a network by the size of its weights, kernel by kernel; arguments as of `sparsegpt`."""
    solver = solvers.by_criterion(criteria.magnitude)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def obc(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    damp: float = 0.01,
    **options: Any,
) -> Pruned:
    """Prunes a small network by Optimal Brain Compression, weight by weight; arguments as of `sparsegpt`.

    References:
      Frantar & Alistarh, "Optimal Brain Compression" (2022).
    """
    solver = solvers.obc(damp=damp)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def admm(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *,
    sparsity: Any = 0.5,
    pattern: Pattern | None = None,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
    damp: float = 0.01,
    **options: Any,
) -> Pruned:
    """Prunes a network by the alternating direction method of multipliers; arguments as of `sparsegpt`.

    References:
      Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models"
      (2024).
    """
    solver = solvers.admm(damp=damp)
    return _pruned(apply, params, batches, solver, sparsity, pattern, prunable, exclude, options)


def _pruned(
    apply: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    solver: Any,
    sparsity: Any,
    pattern: Pattern | None,
    prunable: Prunable,
    exclude: str | Iterable[str],
    options: dict[str, Any],
) -> Pruned:
    batches = list(batches)
    if not batches:
        raise ValueError("posttrain: there are no batches; give a list of at least one.")
    what = plan(apply, params, batches[0], prunable=prunable, exclude=exclude)
    found = prune(what, params, batches, solver=solver, pattern=pattern, rates=sparsity, **options)
    return found.params, found.masks
