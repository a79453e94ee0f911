"""Pruning after training in one call: one function per published method."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from jaxprune import criteria
from jaxprune.masks import Prunable
from jaxprune.posttrain import solvers
from jaxprune.posttrain.driver import prune
from jaxprune.posttrain.planning import plan
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
    """Prunes a network by SparseGPT: the later weights of an output compensate for each removed weight.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode. Kernels and their inputs are
        found in its program (its jaxpr).
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape. Together they should have more rows (examples,
        or tokens) than a kernel has inputs; four times as many are good.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights compete. `None`: all weights of a kernel; `patterns.groups()`: the weights of
        each output; `patterns.groups(4)` at sparsity 0.5 is 2:4 along the inputs.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

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
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


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
    """Prunes a network by Wanda: the score of a weight is its absolute value times the norm of its input.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights are removed together and which compete; `None`: all weights of a kernel compete.
        The paper compares within each output: `patterns.groups()`.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

    References:
      Sun, Liu, Bair & Kolter, "A Simple and Effective Pruning Approach for Large Language Models" (2023).

    >>> import jax.numpy as jnp
    >>> apply, params = (lambda p, x: x @ p["w"]), {"w": jnp.array([[3.0], [2.0]])}
    >>> pruned, _ = wanda(apply, params, [jnp.array([[1.0, 2.0]])])  # 3 * 1 against 2 * 2
    >>> pruned["w"].tolist()
    [[0.0], [2.0]]
    """
    solver = solvers.by_criterion(criteria.wanda)
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


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
    """Prunes a network by relative importance and activations (RIA).

    The relative importance of a weight is its absolute value divided by the sum over its row, plus its
    absolute value divided by the sum over its column.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights are removed together and which compete; `None`: all weights of a kernel compete.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

    References:
      Zhang et al., "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language
      Models" (2024).

    >>> import jax.numpy as jnp
    >>> apply, params = (lambda p, x: x @ p["w"]), {"w": jnp.array([[4.0, 4.0], [4.0, 1.0]])}
    >>> _, masks = ria(apply, params, [jnp.ones((1, 2))], sparsity=0.25)
    >>> masks["w"].tolist()  # the 1 has the least share of its row and of its column
    [[True, True], [True, False]]
    """
    solver = solvers.by_criterion(criteria.ria)
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


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
    """Prunes a network by the size of its weights, kernel by kernel: the baseline that needs no statistics.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights are removed together and which compete; `None`: all weights of a kernel compete.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

    >>> import jax.numpy as jnp
    >>> apply, params = (lambda p, x: x @ p["w"]), {"w": jnp.array([[3.0], [-2.0]])}
    >>> pruned, _ = magnitude(apply, params, [jnp.ones((1, 2))])
    >>> pruned["w"].tolist()
    [[3.0], [0.0]]
    """
    solver = solvers.by_criterion(criteria.magnitude)
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


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
    """Prunes a small network by Optimal Brain Compression, weight by weight.

    Kernels may have at most 1024 inputs.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights are removed together and which compete; `None`: all weights of a kernel compete.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

    References:
      Frantar & Alistarh, "Optimal Brain Compression" (2022).

    >>> import jax.numpy as jnp
    >>> apply, params = (lambda p, x: x @ p["w"]), {"w": jnp.array([[1.0], [2.0]])}
    >>> x = jnp.array([[1.0, 0.5], [0.0, 0.75**0.5]])  # what enters first and second is correlated by 1 / 2
    >>> pruned, _ = obc(apply, params, [x], damp=0.0)
    >>> pruned["w"].round(4).tolist()  # 2 + 1 / 2
    [[0.0], [2.5]]
    """
    solver = solvers.obc(damp=damp)
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


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
    """Prunes a network by the alternating direction method of multipliers (ALPS).

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays.
      batches: calibration data, trees of arrays of one shape.
      sparsity: fraction removed of each kernel; or any other value of `rates` of `jaxprune.posttrain.prune`.
      pattern: which weights are removed together and which compete; `None`: all weights of a kernel compete.
      prunable: which parameters are pruned (see `jaxprune.posttrain.plan`).
      exclude: regular expressions; parameters whose paths match one are not pruned.
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.
      **options: further arguments of `jaxprune.posttrain.prune`, such as `key`, `recover`, `folder`.

    Returns:
      (params, masks): the parameters with exact zeros, and bool masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no batches, and in the cases of `jaxprune.posttrain.plan` and
        `jaxprune.posttrain.prune`.

    References:
      Meng et al., "ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large Language Models"
      (2024). Departures: see `jaxprune.posttrain.solvers.admm`.

    >>> import jax.numpy as jnp
    >>> apply, params = (lambda p, x: x @ p["w"]), {"w": jnp.array([[1.0], [2.0]])}
    >>> x = jnp.array([[1.0, 0.5], [0.0, 0.75**0.5]])  # what enters first and second is correlated by 1 / 2
    >>> pruned, _ = admm(apply, params, [x], damp=0.0)
    >>> pruned["w"].round(4).tolist()  # 2 + 1 / 2
    [[0.0], [2.5]]
    """
    solver = solvers.admm(damp=damp)
    return _prune_by_plan(
        apply, params, batches, solver, sparsity, pattern, prunable, exclude, options
    )


def _prune_by_plan(
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
    """Plans by the first batch, prunes, and returns parameters and masks."""
    remaining_batches = iter(batches)
    first_batch = next(remaining_batches, None)
    if first_batch is None:
        raise ValueError("posttrain: there are no batches; give a list of at least one.")
    batches = itertools.chain([first_batch], remaining_batches)
    pruning_plan = plan(apply, params, first_batch, prunable=prunable, exclude=exclude)
    result = prune(
        pruning_plan, params, batches, solver=solver, pattern=pattern, rates=sparsity, **options
    )
    return result.params, result.masks
