"""Changes of the weights in one block of SparseGPT's sweep: by a given mask, or contest by contest."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

__all__ = ["Block", "changes_by_contests", "changes_by_groups", "diagonal_block", "rows_from"]

_UNROLLED = 8  # loops over up to so many inputs are unrolled


class Block(NamedTuple):
    """A block of inputs that the sweep has reached.

    Attributes:
      old_weights: `[block, outputs]`.
      compensation: by how much they have moved to make up for inputs before the block.
      factor: the Gram factor's diagonal block, `[block, block]`, with a unit diagonal.
      scale: the factor's diagonal, `[block, 1]`.
    """

    old_weights: jax.Array
    compensation: jax.Array
    factor: jax.Array
    scale: jax.Array


def changes_by_groups(block: Block, mask: jax.Array, group: int) -> jax.Array:
    """Returns the change of a block's weights under a mask, group by group and one by one within a group.

    Args:
      block: the block.
      mask: which weights are kept, `[block, outputs]`.
      group: number of inputs in a group; it divides the block.
    """

    def one_group(group_index: Any, changes: jax.Array) -> jax.Array:
        begin = group_index * group
        columns = lax.dynamic_slice(block.factor, (0, begin), (len(changes), group))
        inner_factor = lax.dynamic_slice(columns, (begin, 0), (group, group))
        old_weights = rows_from(block.old_weights, begin, group)
        compensation = rows_from(block.compensation, begin, group) + columns.T @ changes
        group_mask = rows_from(mask, begin, group)
        new_changes = _one_by_one(old_weights, compensation, inner_factor, group_mask)
        return lax.dynamic_update_slice(changes, new_changes, (begin, 0))

    group_count = block.old_weights.shape[0] // group
    return lax.fori_loop(0, group_count, one_group, jnp.zeros_like(block.old_weights))


def rows_from(array: jax.Array, begin: Any, count: int) -> jax.Array:
    """Returns `count` rows of an array from one on that may be traced."""
    return lax.dynamic_slice_in_dim(array, begin, count, 0)


def diagonal_block(array: jax.Array, begin: Any, count: int) -> jax.Array:
    """Returns those rows of a square matrix, and of them those columns."""
    return lax.dynamic_slice(array, (begin, begin), (count, count))


def _one_by_one(
    old_weights: jax.Array, compensation: jax.Array, inner_factor: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the change (old minus new) of the weights of some neighbouring inputs, input by input.

    A weight that is removed changes by all of itself; one that is kept, by minus what it makes up for.

    Args:
      old_weights: `[inputs, outputs]`.
      compensation: by how much each weight has moved for inputs before these.
      inner_factor: the factor among these inputs, with a unit diagonal.
      mask: which weights are kept.
    """
    if len(old_weights) <= _UNROLLED:
        rows: list[jax.Array] = []
        for t in range(len(old_weights)):
            shift = compensation[t] + sum(inner_factor[u, t] * rows[u] for u in range(t))
            rows.append(jnp.where(mask[t], -shift, old_weights[t]))
        return jnp.stack(rows)

    def one_input(t: Any, changes: jax.Array) -> jax.Array:
        shift = compensation[t] + inner_factor[:, t] @ changes  # rows from t on are 0
        return changes.at[t].set(jnp.where(mask[t], -shift, old_weights[t]))

    return lax.fori_loop(0, len(old_weights), one_input, jnp.zeros_like(old_weights))


def changes_by_contests(
    block: Block, keep_counts: jax.Array, members: int, group: int, widths: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
    """Returns the change of a block's weights, and which are kept, decided contest by contest.

    Args:
      block: the block.
      keep_counts: survivors of a contest, by kernel.
      members: number of inputs in a contest.
      group: number of inputs in a group of whole contests.
      widths: number of outputs of each kernel.
    """
    output_counts = jnp.repeat(keep_counts, np.array(widths), total_repeat_length=sum(widths))

    def one_group(group_index: Any, state: Any) -> Any:
        changes, kept_mask = state
        begin = group_index * group
        columns = lax.dynamic_slice(block.factor, (0, begin), (len(changes), group))
        group_block = Block(
            rows_from(block.old_weights, begin, group),
            rows_from(block.compensation, begin, group) + columns.T @ changes,
            diagonal_block(block.factor, begin, group),
            rows_from(block.scale, begin, group),
        )
        no_changes = jnp.zeros_like(group_block.old_weights)
        none_kept = jnp.zeros_like(group_block.old_weights, bool)
        one_contest = functools.partial(_one_contest, group_block, output_counts, members)
        new_changes, mask = lax.fori_loop(0, group // members, one_contest, (no_changes, none_kept))
        return (
            lax.dynamic_update_slice(changes, new_changes, (begin, 0)),
            lax.dynamic_update_slice(kept_mask, mask, (begin, 0)),
        )

    block_state = jnp.zeros_like(block.old_weights), jnp.zeros_like(block.old_weights, bool)
    group_count = block.old_weights.shape[0] // group
    return lax.fori_loop(0, group_count, one_group, block_state)


def _one_contest(
    block: Block, output_counts: jax.Array, members: int, contest_index: Any, state: Any
) -> Any:
    """Decides one contest of a group, by the importance that each weight has when all before it are kept."""
    changes, kept_mask = state
    begin = contest_index * members
    columns = lax.dynamic_slice(block.factor, (0, begin), (len(changes), members))
    old_weights = rows_from(block.old_weights, begin, members)
    compensation = rows_from(block.compensation, begin, members) + columns.T @ changes
    inner_factor = diagonal_block(block.factor, begin, members)
    all_kept = jnp.ones_like(old_weights, bool)
    kept_changes = _one_by_one(old_weights, compensation, inner_factor, all_kept)
    importance = jnp.square((old_weights - kept_changes) * rows_from(block.scale, begin, members))
    mask = _ranks(importance) < output_counts[None]
    new_changes = _one_by_one(old_weights, compensation, inner_factor, mask)
    return (
        lax.dynamic_update_slice(changes, new_changes, (begin, 0)),
        lax.dynamic_update_slice(kept_mask, mask, (begin, 0)),
    )


def _ranks(importance: jax.Array) -> jax.Array:
    """Returns, for each of a few rows and in each column, how many rows are better; ties favour the first."""
    ranks = []
    for row_index, row in enumerate(importance):
        is_better = [
            (other_row >= row) if other_index < row_index else (other_row > row)
            for other_index, other_row in enumerate(importance)
            if other_index != row_index
        ]
        ranks.append(
            sum((flag.astype(jnp.int32) for flag in is_better), jnp.zeros_like(row, jnp.int32))
        )
    return jnp.stack(ranks)
