"""Blocks of a network: stretches of its program between two places where one activation alone is alive."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxprune.posttrain.pieces import Flat, Piece, ancestors, variables
from jaxprune.posttrain.segments import Cut

__all__ = ["Block", "find_blocks"]


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
