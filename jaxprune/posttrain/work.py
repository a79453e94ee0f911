"""The parameters of a pruning in progress: runs segments with them, reads and writes kernels' matrices."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.posttrain.kernels import Kernel
from jaxprune.posttrain.pieces import compiled
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.statistics import Sums, batch_statistics
from jaxprune.posttrain.views import View

__all__ = ["PruningState", "Stream", "reading_key"]

Stream = dict[Any, Any]


class PruningState:
    """Parameters and masks of a pruning in progress, beside the dense parameters.

    Attributes:
      plan: segments, cuts and kernels of the network.
      dense: the parameters before pruning: arrays, or what NumPy reads as such, anew each time.
      leaves: the parameters now; `None` once they are finished and handed on.
      masks: bool arrays of the parameters that have been written to, `None` of others.
    """

    def __init__(self, plan: Plan, leaves: Sequence[Any]) -> None:
        self.plan = plan
        self.dense = list(leaves)
        self.leaves = list(leaves)
        self._placed: dict[int, jax.Array] = {}
        self.masks: list[jax.Array | None] = [None] * len(self.leaves)

    def mask(self, leaf_index: int) -> jax.Array | None:
        """Returns the mask of a parameter: all ones before it is written to, `None` if it is not pruned."""
        if not self.plan.chosen[leaf_index]:
            return None
        mask = self.masks[leaf_index]
        return jnp.ones(np.shape(self.dense[leaf_index]), bool) if mask is None else mask

    def first_stream(self, batch: Any) -> Stream:
        """Returns the values that are alive before the first segment: the batch, by variable."""
        return dict(zip(self.plan.flat.inputs, jax.tree.leaves(batch), strict=True))

    def advance(
        self,
        segment_index: int,
        stream: Stream,
        statistic_names: Collection[str],
        examples: int,
        dense: bool = False,
    ) -> tuple[Stream, Sums | None]:
        """Runs a segment on the live values of one batch.

        Args:
          segment_index: of the segment.
          stream: values that are alive before it, by variable.
          statistic_names: names of the statistics to be taken at its end.
          examples: number of examples in the batch.
          dense: whether the parameters are those before pruning.

        Returns:
          The values that are alive behind it, and sums of the statistics, if there are any.
        """
        plan = self.plan
        segment = plan.segments[segment_index]
        cut = plan.cuts[segment_index]
        kernel_input = None if cut.input is None else plan.inputs[cut.input]
        statistic_names = tuple(sorted(statistic_names)) if kernel_input is not None else ()
        key = (
            "segment",
            segment.piece.key(),
            segment.made,
            statistic_names,
            reading_key(plan, segment_index),
        )

        def make() -> Any:
            piece = segment.piece
            activation_count = segment.made

            def run(arrays: Any, starts: Any, examples: jax.Array) -> Any:
                values = piece.values(arrays, starts)
                written = [values[variable] for variable in piece.writes]
                if kernel_input is None or not statistic_names:
                    return written[:activation_count], None
                return written[:activation_count], batch_statistics(
                    kernel_input, written[activation_count:], statistic_names, examples
                )

            return run

        run = compiled(plan.programs, key, make)
        arrays = self.arrays(segment.piece.reads, stream, dense)
        activations, statistic_sums = run(arrays, segment.piece.starts, jnp.float32(examples))
        next_stream = {
            variable: stream[variable] for variable in segment.alive if variable in stream
        }
        next_stream |= dict(zip(segment.piece.writes[: segment.made], activations, strict=True))
        return next_stream, statistic_sums

    def arrays(
        self, variables: Sequence[Any], stream: Stream, dense: bool = False, kept: bool = True
    ) -> list[Any]:
        """Returns the values of variables: activations of the stream, parameters, or constants.

        Args:
          variables: of the program.
          stream: activations by variable.
          dense: whether the parameters are those before pruning.
          kept: whether parameters that are not on the device stay there until `release`.
        """
        flat = self.plan.flat

        def value(variable: Any) -> Any:
            if variable in flat.active:
                return stream[variable]
            if variable in flat.leaves:
                leaf = flat.leaves[variable]
                return self.on_device((self.dense if dense else self.leaves)[leaf], kept)
            return flat.consts[variable]

        return [value(variable) for variable in variables]

    def on_device(self, leaf: Any, kept: bool = True) -> jax.Array:
        """Returns a parameter on the device.

        Args:
          leaf: an array, or what NumPy reads as one.
          kept: whether it stays there until `release`, so that it is read once for all batches.
        """
        if isinstance(leaf, jax.Array):
            return leaf
        placed_leaf = self._placed.get(id(leaf))
        if placed_leaf is None:
            placed_leaf = jnp.asarray(np.asarray(leaf))
            if kept:
                self._placed[id(leaf)] = placed_leaf
        return placed_leaf

    def release(self) -> None:
        """Drops the device copies of parameters that live elsewhere."""
        self._placed.clear()

    def read(self, kernel: Kernel, dense: bool = False) -> jax.Array:
        """Returns the matrices `[layers, inputs, outputs]` of a kernel, in float32 or wider."""
        view = kernel.view
        read = compiled(self.plan.programs, ("read", view.key()), lambda: view.read)
        return read(self.arrays(view.piece.reads, {}, dense, kept=False), view.piece.starts)

    def write(
        self, kernel: Kernel, old_matrices: jax.Array, matrices: jax.Array, kept_mask: jax.Array
    ) -> None:
        """Writes new matrices and their mask into the parameters that hold a kernel.

        Args:
          kernel: the kernel.
          old_matrices: what `read` gave.
          matrices: new weights; where they equal the old ones, parameters keep their bits.
          kept_mask: bool, True where a weight is kept.

        Raises:
          ValueError: if a weight is not finite in the dtype of the parameter that holds it.
        """
        view = kernel.view
        write = compiled(self.plan.programs, ("write", view.key()), lambda: view.write)
        leaf_indices = _target_leaves(self.plan, view)
        masks = [self.mask(leaf_index) for leaf_index in leaf_indices]
        arrays = self.arrays(view.piece.reads, {}, kept=False)
        leaves, masks, is_finite = write(
            arrays, masks, view.piece.starts, old_matrices, matrices, kept_mask
        )
        if not bool(is_finite):
            dtype_names = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
            raise ValueError(
                f"posttrain.prune: new weights of {kernel.name!r} are NaN or infinity in {dtype_names}, once "
                "they are divided by what the program multiplies the parameter with; let it be larger, or "
                "leave the parameter out with exclude=."
            )
        for leaf_index, new_leaf, mask in zip(leaf_indices, leaves, masks, strict=True):
            self.leaves[leaf_index] = new_leaf
            self.masks[leaf_index] = mask


def _target_leaves(plan: Plan, view: View) -> list[int]:
    """Returns the indices of the parameters that hold the numbers of a kernel."""
    return [view.leaves[operand_index] for operand_index in view.targets]


def reading_key(plan: Plan, cut_index: int) -> str:
    """Returns a text that tells programs of statistics apart, beside the segment before them."""
    cut = plan.cuts[cut_index]
    if cut.input is None:
        return ""
    kernel_input = plan.inputs[cut.input]
    operand_shapes = [atom.aval.str_short() for atom in kernel_input.equation.invars]
    equation_params = sorted(
        (name, str(value)) for name, value in kernel_input.equation.params.items()
    )
    return f"{kernel_input.equation.primitive.name} {kernel_input.operand} {operand_shapes} {equation_params}"
