"""A pruning in progress: parameters and masks, segments run on streams, matrices read and written."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.posttrain.kernels import Kernel
from jaxprune.posttrain.pieces import compiled
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.statistics import Sums, of_batch
from jaxprune.posttrain.views import View

__all__ = ["Stream", "Work"]

Stream = dict[Any, Any]


class Work:
    """Parameters as they become, beside those that they were.

    Attributes:
      plan: what is done.
      dense: the parameters as they were.
      leaves: as they are.
      masks: of the leaves that are pruned, `None` of others.
    """

    def __init__(self, plan: Plan, leaves: Sequence[Any]) -> None:
        self.plan = plan
        self.dense = list(leaves)
        self.leaves = list(leaves)
        self._placed: dict[int, jax.Array] = {}
        self.masks: list[jax.Array | None] = [
            jnp.ones(np.shape(leaf), bool) if chosen else None
            for leaf, chosen in zip(leaves, plan.chosen, strict=True)
        ]

    def first_stream(self, batch: Any) -> Stream:
        """What is alive before the first segment: a batch."""
        return dict(zip(self.plan.flat.inputs, jax.tree.leaves(batch), strict=True))

    def advance(
        self,
        index: int,
        stream: Stream,
        names: Collection[str],
        examples: int,
        dense: bool = False,
    ) -> tuple[Stream, Sums | None]:
        """Runs a segment on what is alive of a batch.

        Args:
          index: of the segment.
          stream: what is alive before it.
          names: of the statistics to be taken at its end.
          examples: in the batch.
          dense: whether with the parameters as they were.

        Returns:
          What is alive behind it, and the statistics.
        """
        plan = self.plan
        segment, cut = plan.segments[index], plan.cuts[index]
        each = None if cut.input is None else plan.inputs[cut.input]
        names = tuple(sorted(names)) if each is not None else ()
        key = ("segment", segment.piece.key(), segment.made, names, _reading_key(plan, index))

        def make() -> Any:
            piece, made = segment.piece, segment.made

            def run(arrays: Any, starts: Any, examples: jax.Array) -> Any:
                values = piece.values(arrays, starts)
                written = [values[v] for v in piece.writes]
                if each is None or not names:
                    return written[:made], None
                return written[:made], of_batch(each, written[made:], names, examples)

            return run

        run = compiled(plan.programs, key, make)
        arrays = self.arrays(segment.piece.reads, stream, dense)
        made, sums = run(arrays, segment.piece.starts, jnp.float32(examples))
        after = {v: stream[v] for v in segment.alive if v in stream}
        after |= dict(zip(segment.piece.writes[: segment.made], made, strict=True))
        return after, sums

    def arrays(self, variables: Sequence[Any], stream: Stream, dense: bool = False) -> list[Any]:
        """Values of variables: of the stream, parameters, or constants."""
        flat = self.plan.flat

        def value(variable: Any) -> Any:
            if variable in flat.active:
                return stream[variable]
            if variable in flat.leaves:
                leaf = flat.leaves[variable]
                return self._on_device((self.dense if dense else self.leaves)[leaf])
            return flat.consts[variable]

        return [value(variable) for variable in variables]

    def _on_device(self, leaf: Any) -> jax.Array:
        """A parameter; what comes from the host stays on the device until the next segment."""
        if isinstance(leaf, jax.Array):
            return leaf
        if id(leaf) not in self._placed:
            self._placed[id(leaf)] = jnp.asarray(leaf)
        return self._placed[id(leaf)]

    def release(self) -> None:
        """Lets go of parameters that came from the host."""
        self._placed.clear()

    def read(self, kernel: Kernel, dense: bool = False) -> jax.Array:
        """The matrices of a kernel."""
        view = kernel.view
        read = compiled(self.plan.programs, ("read", view.key()), lambda: view.read)
        return read(self.arrays(view.piece.reads, {}, dense), view.piece.starts)

    def write(self, kernel: Kernel, old: jax.Array, matrices: jax.Array, kept: jax.Array) -> None:
        """Puts matrices, and which of their numbers are kept, where the kernel is.

        Args:
          kernel: that they are.
          old: what `read` gave.
          matrices: new numbers; where they are the old ones, parameters keep their bits.
          kept: bool.

        Raises:
          ValueError: if a number is not finite in the parameter that holds it.
        """
        view = kernel.view
        write = compiled(self.plan.programs, ("write", view.key()), lambda: view.write)
        targets = _targets(self.plan, view)
        masks = [self.masks[leaf] for leaf in targets]
        arrays = self.arrays(view.piece.reads, {})
        leaves, masks, finite = write(arrays, masks, view.piece.starts, old, matrices, kept)
        if not bool(finite):
            types = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
            raise ValueError(
                f"posttrain.prune: new weights of {kernel.name!r} are NaN or infinity in {types}, once they "
                "are divided by what the program multiplies the parameter with; let it be larger, or leave "
                "the parameter out with exclude=."
            )
        for leaf, value, mask in zip(targets, leaves, masks, strict=True):
            self.leaves[leaf] = value
            self.masks[leaf] = mask


def _targets(plan: Plan, view: View) -> list[int]:
    return [view.leaves[place] for place in view.targets]


def _reading_key(plan: Plan, index: int) -> str:
    """What the statistics at a cut depend on, beside what the segment gives."""
    cut = plan.cuts[index]
    if cut.input is None:
        return ""
    each = plan.inputs[cut.input]
    shapes = [atom.aval.str_short() for atom in each.equation.invars]
    params = sorted((name, str(value)) for name, value in each.equation.params.items())
    return f"{each.equation.primitive.name} {each.operand} {shapes} {params}"
