"""SparseGPT's sweep over the inputs of kernels, once the Gram matrix is factorised.

The sweep is left-looking: inputs are compensated for the changes of all inputs before them when it reaches
them. Spans of inputs do so by matrix products with the spans before, blocks within their span, groups within
their block: products are large where they can be.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import selection
from jaxprune.posttrain.solvers.block_changes import (
    Block,
    changes_by_contests,
    changes_by_groups,
    diagonal_block,
    rows_from,
)
from jaxprune.posttrain.solvers.factor import Factor, unit_triangular_inverses

__all__ = ["SweepPlan", "sweep"]

_SPAN = 256  # inputs of a span, about


class SweepPlan(NamedTuple):
    """Lengths of the sweep's steps.

    Attributes:
      block: inputs in a block, in which the weights are chosen at once.
      group: inputs in a group, for which one more product is made within the block.
      members: length of the contests that are decided when the sweep reaches them; 0: blocks decide.
      across: whether all outputs of a kernel compete in a block, or each alone.
    """

    block: int
    group: int
    members: int
    across: bool


def sweep(
    kernel: jax.Array,
    gram_factor: Factor,
    keep_quotas: jax.Array,
    plan: SweepPlan,
    widths: Sequence[int],
    inputs: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns the new kernel and the mask of kept weights, both with the inputs of the padding.

    Args:
      kernel: `[inputs with padding, outputs]` of all kernels side by side.
      gram_factor: of the inputs' Gram matrix.
      keep_quotas: survivors in each block by kernel, int32 `[blocks, kernels]`, or in each contest,
        `[1, kernels]`.
      plan: lengths of blocks, groups and contests.
      widths: number of outputs of each kernel.
      inputs: number of inputs without the padding.
    """
    block = plan.block
    block_count = len(kernel) // block
    block_inverses = None if plan.members else _block_inverses(gram_factor.upper, block)
    span_blocks = min(max(1, _SPAN // block), block_count)
    span_count = -(-block_count // span_blocks)
    first_blocks = block_count - (span_count - 1) * span_blocks  # fewer where they do not divide

    def one_span(span_index: Any, state: Any) -> Any:
        changes, kept_mask = state
        end_block = first_blocks + span_index * span_blocks
        begin_block = jnp.maximum(end_block - span_blocks, 0)
        span_input = begin_block * block
        span = span_blocks * block
        span_compensation = _from_spans_before(
            gram_factor.upper, changes, span_index, first_blocks * block, span
        )
        span_factor = diagonal_block(gram_factor.upper, span_input, span)

        def one_block(block_index: Any, state: Any) -> Any:
            span_changes, changes, kept_mask = state
            first_input = block_index * block
            offset = first_input - span_input
            columns = lax.dynamic_slice_in_dim(span_factor, offset, block, 1)
            compensation = rows_from(span_compensation, offset, block)
            compensation += columns.T @ span_changes  # those from this block on are 0
            block_state = Block(
                rows_from(kernel, first_input, block),
                compensation,
                rows_from(columns, offset, block),
                rows_from(gram_factor.diagonal, first_input, block)[:, None],
            )
            if block_inverses is None:
                new_changes, mask = changes_by_contests(
                    block_state, keep_quotas[0], plan.members, plan.group, widths
                )
            else:
                new_weights = block_state.old_weights + block_inverses[block_index].T @ compensation
                is_real = (first_input + jnp.arange(block) < inputs)[:, None]
                importance = jnp.where(is_real, jnp.square(new_weights * block_state.scale), -1)
                mask = _best_in_block(importance, keep_quotas[block_index], plan.across, widths)
                new_changes = changes_by_groups(block_state, mask, plan.group)
            return (
                lax.dynamic_update_slice(span_changes, new_changes, (offset, 0)),
                lax.dynamic_update_slice(changes, new_changes, (first_input, 0)),
                lax.dynamic_update_slice(kept_mask, mask, (first_input, 0)),
            )

        span_state = jnp.zeros_like(span_compensation), changes, kept_mask
        return lax.fori_loop(begin_block, end_block, one_block, span_state)[1:]

    initial_state = jnp.zeros_like(kernel), jnp.zeros_like(kernel, bool)
    changes, kept_mask = lax.fori_loop(0, span_count, one_span, initial_state)
    return kernel - changes, kept_mask


def _from_spans_before(
    upper: jax.Array, changes: jax.Array, span_index: Any, first_span: int, span: int
) -> jax.Array:
    """Returns by how much a span's weights move to make up for all spans before it, `[span, outputs]`.

    Span by span, since a product with all rows up to a place would first copy them.

    Args:
      upper: the factor of the Gram matrix.
      changes: of the kernel, old minus new, `[inputs, outputs]`.
      span_index: of the span.
      first_span: number of inputs in the first span.
      span: number of inputs in each other.
    """

    def begin(index: Any) -> Any:
        return jnp.maximum(first_span + (index - 1) * span, 0)

    def add_span(before: Any, compensation: jax.Array) -> jax.Array:
        factor = lax.dynamic_slice(upper, (begin(before), begin(span_index)), (span, span))
        rows_before = first_span + before * span - begin(before)  # fewer than a span's in the first
        is_before = jnp.arange(span)[:, None] < rows_before
        changes_before = jnp.where(is_before, rows_from(changes, begin(before), span), 0)
        return compensation + factor.T @ changes_before

    no_compensation = jnp.zeros((span, changes.shape[1]), changes.dtype)
    return lax.fori_loop(0, span_index, add_span, no_compensation)


def _block_inverses(upper: jax.Array, block: int) -> jax.Array:
    """Returns the inverses of the blocks on a unit upper triangular matrix's diagonal."""
    block_count = len(upper) // block
    blocks = jnp.diagonal(upper.reshape(block_count, block, block_count, block), axis1=0, axis2=2)
    return unit_triangular_inverses(jnp.moveaxis(blocks, -1, 0))


def _best_in_block(
    importance: jax.Array, keep_counts: jax.Array, across: bool, widths: Sequence[int]
) -> jax.Array:
    """Returns the mask of the most important weights of a block, over all outputs or in each output.

    Args:
      importance: `[block, outputs]` of all kernels side by side.
      keep_counts: survivors by kernel, of all outputs together or of each.
      across: whether the outputs of a kernel compete with each other.
      widths: number of outputs of each kernel.
    """
    ends = np.cumsum(widths)[:-1]
    importance_by_kernel = jnp.split(importance, ends, 1)
    if across:
        counts = [keep_counts[kernel_index] for kernel_index in range(len(widths))]
        masks = selection.top_each(importance_by_kernel, counts)
    else:
        masks = [
            selection.top_along(kernel_importance, keep_counts[kernel_index], 0)
            for kernel_index, kernel_importance in enumerate(importance_by_kernel)
        ]
    return jnp.concatenate(masks, 1)
