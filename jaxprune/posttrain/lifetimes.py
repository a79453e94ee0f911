"""When each parameter is needed: from the first segment that reads it to the last that reads or writes it.

A parameter that is behind its last use is finished: it can be handed on and forgotten. One that is only read
may be read anew from its file wherever it is needed.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxprune.posttrain.blocks import Block
from jaxprune.posttrain.kernels import Kernel
from jaxprune.posttrain.pieces import Flat, Piece
from jaxprune.posttrain.segments import Cut, Segment

__all__ = ["Lifetimes", "find_lifetimes", "last_segment"]


class Lifetimes(NamedTuple):
    """Indices of segments at which parameters are needed; parameters are indices, too.

    Attributes:
      read: by segment, the parameters that it reads.
      trained: by segment, the parameters of the block that ends there and is trained.
      written: by parameter, the first segment behind which it has new values.
      last: by parameter, the last segment at which it is read or written.
    """

    read: list[set[int]]
    trained: list[set[int]]
    written: dict[int, int]
    last: dict[int, int]

    def finished_at(self, index: int) -> list[int]:
        """Returns the parameters that are not needed behind a segment, in order."""
        return sorted(leaf for leaf, last_index in self.last.items() if last_index == index)

    def most_bytes(self, size: Callable[[int], int], new_size: Callable[[int], int]) -> int:
        """Returns the most bytes of parameters at one segment, where they are read when they are needed.

        A block that is trained has five times its parameters: dense, trained, gradients and the optimizer's
        state of twice their size.

        Args:
          size: parameter -> its bytes.
          new_size: parameter -> the bytes of its new values and their mask.
        """
        totals = []
        for index, (read, trained) in enumerate(zip(self.read, self.trained, strict=True)):
            changed = [
                leaf
                for leaf, first_index in self.written.items()
                if first_index <= index <= self.last[leaf]
            ]
            total = sum(map(size, read)) + sum(map(new_size, changed))
            totals.append(total + 5 * sum(map(size, trained)))
        return max(totals)


def last_segment(cuts: Sequence[Cut], blocks: Sequence[Block] = ()) -> int:
    """Returns the index of the last segment that a pruning runs.

    Args:
      cuts: of the program.
      blocks: that are trained.
    """
    solving = [index for index, cut in enumerate(cuts) if cut.input is not None]
    return max([*solving, *(block.last for block in blocks)])


def find_lifetimes(
    flat: Flat,
    segments: Sequence[Segment],
    cuts: Sequence[Cut],
    kernels: Sequence[Kernel],
    blocks: Sequence[Block] = (),
) -> Lifetimes:
    """Returns when the parameters of a program are needed; those that never are have no place in it.

    Args:
      flat: the program.
      segments: the equations before each cut.
      cuts: positions where it is cut.
      kernels: the kernels that are pruned.
      blocks: that are trained.
    """

    def parameters(piece: Piece) -> set[int]:
        return {flat.leaves[variable] for variable in piece.reads if variable in flat.leaves}

    count = last_segment(cuts, blocks) + 1
    read = [parameters(segment.piece) for segment in segments[:count]]
    trained: list[set[int]] = [set() for _ in range(count)]
    written: dict[int, int] = {}
    last = {leaf: index for index, leaves in enumerate(read) for leaf in leaves}
    segment_of_input = {cut.input: index for index, cut in enumerate(cuts)}
    for kernel in kernels:
        index = segment_of_input[kernel.inputs[-1]]
        for leaf in kernel.leaves:
            written[leaf] = min(written.get(leaf, index), index)
        for leaf in parameters(kernel.view.piece):
            last[leaf] = max(last.get(leaf, 0), index)
    for block in blocks:
        trained[block.last] = parameters(block.piece)
        for leaf in trained[block.last]:
            written[leaf] = min(written.get(leaf, block.last), block.last)
            last[leaf] = max(last.get(leaf, 0), block.last)
    return Lifetimes(read, trained, written, last)
