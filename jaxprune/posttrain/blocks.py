"""Blocks of a network: stretches of its program between two places where one activation alone is alive."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.posttrain.pieces import Flat, Piece, ancestors, variables
from jaxprune.posttrain.segments import Cut

__all__ = ["Block", "find_blocks", "repeating_blocks"]


class Block(NamedTuple):
    """A stretch of the program between two places where one activation alone is alive.

    Attributes:
      first: index of its first segment.
      last: index of its last.
      piece: all of its equations; its result is the activation at its end.
    """

    first: int
    last: int
    piece: Piece


def find_blocks(flat: Flat, cuts: Sequence[Cut], branch_blocks: Mapping[int, int]) -> list[Block]:
    """Returns the blocks of a program, in order.

    Args:
      flat: the program.
      cuts: positions where it is cut.
      branch_blocks: index of the block that each branch is in.
    """
    end_indices = [index for index, cut in enumerate(cuts) if cut.residual is not None]
    blocks: list[Block] = []
    first_segment = 0
    for rank, index in enumerate(end_indices):
        later_branches = [cuts[later_index].branch for later_index in end_indices[rank + 1 :]]
        if branch_blocks[cuts[index].branch] in {
            branch_blocks[branch] for branch in later_branches
        }:
            continue
        begin_position = cuts[first_segment - 1].position if first_segment else 0
        piece = _block_piece(flat, begin_position, cuts[index].residual)
        blocks.append(Block(first_segment, index, piece))
        first_segment = index + 1
    return blocks


def _block_piece(flat: Flat, begin: int, residual: Any) -> Piece:
    """Returns the equations from index `begin` on that an activation follows from."""
    equations = flat.jaxpr.eqns
    positions = [
        position
        for position in ancestors(flat, [residual], begin)
        if equations[position].outvars[0] in flat.active
    ]
    constant_positions = flat.constant_ancestors(
        [variable for position in positions for variable in variables(equations[position])]
    )
    return Piece.of(flat, sorted({*positions, *constant_positions}), [residual])


def repeating_blocks(signatures: Sequence[Any]) -> list[int]:
    """Returns the index of the block of each branch; blocks begin where most of them repeat as a whole.

    Branches before the first whole block, and behind the last, are blocks of their own.

    >>> repeating_blocks(["stem", "attention", "mlp", "attention", "mlp", "head"])
    [0, 1, 1, 2, 2, 3]
    """
    period = _period(signatures)

    def parts(offset: int) -> list[list[Any]]:
        starts = [*([0] if offset else []), *range(offset, len(signatures), period)]
        ends = [*starts[1:], len(signatures)]
        return [list(signatures[start:end]) for start, end in zip(starts, ends, strict=True)]

    def repeats(offset: int) -> int:
        return sum(part == next_part for part, next_part in itertools.pairwise(parts(offset)))

    best_offset = max(range(period), key=repeats)
    return [block for block, part in enumerate(parts(best_offset)) for _ in part]


def _period(signatures: Sequence[Any]) -> int:
    """Returns after how many branches their signatures repeat; 1 if they do not.

    A branch before the layers of a network and one behind them need not repeat.

    >>> _period(["attention", "mlp", "attention", "mlp", "head"])
    2
    """
    for period in range(1, len(signatures) // 2 + 1):
        pairs = list(zip(signatures, signatures[period:], strict=False))
        equal_count = sum(earlier == later for earlier, later in pairs)
        if equal_count >= max(len(pairs) - 2, 1):
            return period
    return 1
