r"""SparseGPT: masks and weights together, in one sweep over the inputs of a kernel.

With the damped Gram matrix $H = R R^\top$, $R$ upper triangular, the loss of a change $D$ of the weights is
$\|R^\top D\|^2$. The reference's factor of $H^{-1}$ is $R^{-1}$, so its score $w^2 / [H^{-1}]_{jj}$ is
$(w R_{jj})^2$ with the current weight $w$: neither an inverse nor a second factorisation is needed.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.kernel_axes.matrices import check_damp
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved, quotas
from jaxprune.posttrain.solvers.factor import damped_factor
from jaxprune.posttrain.solvers.solver import Solver
from jaxprune.posttrain.solvers.sweep import SweepPlan, sweep

__all__ = ["sparsegpt"]

_BLOCK = 128  # inputs whose weights are chosen at once, where contests are longer
_SMALL = 32  # contests up to this length are decided when the sweep reaches them


@factory
def sparsegpt(*, damp: float = 0.01) -> Solver:
    r"""Returns the solver of SparseGPT.

    The sweep goes through blocks of 128 inputs. In each block the weights with the smallest
    $(w_i R_{ii})^2$ are removed, by the weights' values at that time. N:M groups and short contests are
    decided when the sweep reaches them. The weights of later inputs compensate for each removed weight.
    Kernels that share an input share the factor and the sweep. Counts are exact, in whole kernels and in each
    output.

    Args:
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean. If float32
        cannot factorise the matrix, the damping is multiplied by ten, up to six times; the report says so.

    Returns:
      `(kernels, contests, *, grams) -> list of Solved`; `grams` is `[layers, inputs, inputs]`.

    Raises:
      ValueError: if `damp` is negative or infinite.

    References:
      Frantar & Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot" (2023).
      Departures: no inverse; counts per block are such that those of the kernel are exact, where the authors'
      threshold may remove more; inputs that are always zero keep their weights as far as the pattern allows.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.views import Layout
    >>> from jaxprune.posttrain.contests import contest
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> one_of_two = contest(patterns.groups(2), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> [solved] = sparsegpt(damp=0.0)([kernel], [one_of_two], grams=gram)
    >>> solved.kernel.round(4).tolist()  # 2 + 0.5 * 1
    [[[0.0], [2.5]]]
    """
    check_damp("sparsegpt", damp)

    def solver(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        for kernel_contest in contests:
            kernel_contest.one_weight_each("sparsegpt")
        results: list[Solved | None] = [None] * len(kernels)
        kernels_by_kind: dict[Any, list[int]] = {}
        for kernel_index, kernel_contest in enumerate(contests):
            scope = kernel_contest.among
            kind = (scope, scope == "inputs" and kernel_contest.members)
            kernels_by_kind.setdefault(kind, []).append(kernel_index)
        for (scope, members), group_indices in kernels_by_kind.items():
            group_contests = [contests[kernel_index] for kernel_index in group_indices]
            group_kernels = [kernels[kernel_index] for kernel_index in group_indices]
            plan, keep_quotas = _plan_sweep(
                scope, members, grams.shape[1], group_contests, group_kernels
            )
            group_results = _solve_layers(group_kernels, grams, damp, keep_quotas, plan)
            for kernel_index, result in zip(group_indices, group_results, strict=True):
                results[kernel_index] = result
        return results  # type: ignore[return-value]

    return Solver(solver)


def _plan_sweep(
    scope: Any,
    members: int,
    inputs: int,
    contests: Sequence[Contest],
    kernels: Sequence[jax.Array],
) -> tuple[SweepPlan, np.ndarray]:
    """Returns the plan of the sweep over kernels of one input and one kind of contests, and its quotas.

    Args:
      scope: `Contest.among` of all of them.
      members: of a contest, where it is among inputs.
      inputs: number of inputs.
      contests: of the kernels.
      kernels: `[layers, inputs, outputs]` each.
    """
    if scope == "inputs" and members <= _SMALL:
        group = members * max(1, _SMALL // members)
        block = group * max(1, _BLOCK // group)
        keep_counts = np.array([[kernel_contest.keep for kernel_contest in contests]], np.int32)
        return SweepPlan(block, group, members, False), keep_counts
    is_whole = scope == "layer" or members == inputs
    block = _BLOCK if is_whole else _divisor(members)
    group = math.gcd(block, _SMALL) if block % _SMALL == 0 else block
    ends = np.minimum(np.arange(block, inputs + block, block), inputs)
    quota_columns = []
    for kernel_contest, kernel in zip(contests, kernels, strict=True):
        if scope == "layer":
            outputs = kernel.shape[2]
            quota_columns.append(quotas(kernel_contest.keep, ends * outputs, inputs * outputs))
        elif is_whole:
            quota_columns.append(quotas(kernel_contest.keep, ends, inputs))
        else:
            part_ends = np.arange(block, members + block, block)
            contest_quotas = quotas(kernel_contest.keep, part_ends, members)
            quota_columns.append(np.tile(contest_quotas, inputs // members))
    return SweepPlan(block, group, 0, scope == "layer"), np.stack(quota_columns, 1)


def _divisor(members: int) -> int:
    """Returns the longest divisor of a contest's length from 32 to 128; the length if there is none."""
    fitting_sizes = [size for size in range(_SMALL, _BLOCK + 1) if members % size == 0]
    return max(fitting_sizes, default=members)


@functools.partial(jax.jit, static_argnames="plan")
def _solve_layers(
    kernels: Sequence[jax.Array],
    grams: jax.Array,
    damp: Any,
    keep_quotas: jax.Array,
    plan: SweepPlan,
) -> list[Solved]:
    """Solves kernels of one input and one kind of contests, layer by layer, side by side in each layer."""
    widths = [kernel.shape[2] for kernel in kernels]
    inputs = grams.shape[1]
    padding = -inputs % plan.block

    def one_layer(layer: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        kernel, gram = layer
        with jax.default_matmul_precision("highest"):
            gram_factor = damped_factor(jnp.pad(gram, (0, padding)), damp, inputs)
            padded_kernel = jnp.pad(kernel, ((0, padding), (0, 0)))
            new_weights, kept_mask = sweep(
                padded_kernel, gram_factor, keep_quotas, plan, widths, inputs
            )
        return new_weights[:inputs], kept_mask[:inputs], gram_factor.damp

    new_weights, kept_mask, damps = lax.map(one_layer, (jnp.concatenate(kernels, 2), grams))
    split_points = np.cumsum(widths)[:-1]
    kernels_out = jnp.split(new_weights, split_points, 2)
    masks = jnp.split(kept_mask, split_points, 2)
    return [
        Solved(jnp.where(mask, kernel, 0), mask, damps)
        for kernel, mask in zip(kernels_out, masks, strict=True)
    ]
