"""Error propagation: kernels are corrected for what pruning has done to their inputs, then solved."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from jaxprune.posttrain.passes import run_segment
from jaxprune.posttrain.pieces import compiled
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.solvers.cholesky import upper_factor
from jaxprune.posttrain.solvers.factor import damping
from jaxprune.posttrain.statistics import Sums, add, batch_cross_grams
from jaxprune.posttrain.streams import Streams
from jaxprune.posttrain.work import PruningState, Stream, reading_key

__all__ = ["DAMP", "Propagation", "check_propagate"]

# Share of the mean of the Gram's diagonal that is added to it, thirty times that of solvers: with less the
# correction follows the noise of few rows. Chosen on validation windows (results/benchmarks/propagation.md).
DAMP = 0.3


class Propagation:
    r"""The activations of the dense network beside those of the pruned one, and the correction they give.

    With the inputs $\tilde X$ of the pruned network and $X$ of the dense one, $H = \tilde X^\top \tilde X$
    and $C = \tilde X^\top X$, the kernel $W + \alpha H^{-1} (C - H) W$ has outputs on $\tilde X$ closest to
    $(1 - \alpha) \tilde X W + \alpha X W$. It is this kernel that a solver is given.

    References:
      Arai & Ichikawa, "Quantization Error Propagation: Revisiting Layer-Wise Post-Training Quantization"
      (2025).

    Args:
      plan: of the network.
      state: holds its parameters.
      streams: activations of all batches at the beginning of the program.
      weight: $\alpha$, from 0 to 1.
    """

    def __init__(self, plan: Plan, state: PruningState, streams: Streams, weight: float) -> None:
        self._plan = plan
        self._state = state
        self._streams = streams.copy()
        self._weight = weight

    def run_segment(self, index: int, streams: Streams, batches: list[int]) -> Sums | None:
        """Runs a segment of the dense network on all batches.

        Args:
          index: of the segment.
          streams: activations of the pruned network at its end.
          batches: indices of those that are calibrated on.

        Returns:
          Sums of the products of both networks' inputs; `None` if no kernel reads one there.
        """
        run_segment(self._state, self._streams, index, (), dense=True)
        if self._plan.cuts[index].input is None:
            return None
        total: Sums | None = None
        for batch in batches:
            stream, examples = streams[batch]
            total = add(total, self._cross_grams(index, stream, self._streams[batch][0], examples))
        return total

    def _cross_grams(self, index: int, stream: Stream, dense_stream: Stream, examples: int) -> Sums:
        """Returns the sums of one batch."""
        kernel_input = self._plan.inputs[self._plan.cuts[index].input or 0]

        def make() -> Any:
            return lambda *values: batch_cross_grams(kernel_input, *values)

        run = compiled(self._plan.programs, ("cross", reading_key(self._plan, index)), make)
        arrays, dense_arrays = (
            self._state.arrays(kernel_input.variables, values) for values in (stream, dense_stream)
        )
        return run(arrays, dense_arrays, jnp.float32(examples))

    def target(self, output: jax.Array, variable: Any, batch: int) -> jax.Array:
        r"""Returns the target of a block: $(1 - \alpha)$ its output, $\alpha$ that of the dense network.

        Args:
          output: of the dense block on the pruned network's inputs.
          variable: of the program, which holds the block's output.
          batch: index of the batch.
        """
        dense_output = self._streams[batch][0][variable]
        return _mixed(output, dense_output, self._weight)

    def corrected(self, matrices: jax.Array, statistics: dict[str, jax.Array]) -> jax.Array:
        """Returns the kernel that a solver is given in place of the dense one.

        Args:
          matrices: the dense kernel, `[layers, inputs, outputs]`.
          statistics: "grams" and "cross_grams" of its inputs.
        """
        return _corrected(
            matrices, statistics["grams"], statistics["cross_grams"], self._weight, DAMP
        )


def check_propagate(plan: Plan, propagate: float, calibrate: str) -> None:
    """Raises `ValueError` where errors cannot be propagated with such a weight."""
    if not 0 <= propagate <= 1:
        raise ValueError(
            f"posttrain.prune(propagate={propagate}): a weight from 0 to 1 is needed; 0 propagates nothing."
        )
    if propagate and calibrate == "dense":
        raise ValueError(
            'posttrain.prune(propagate=, calibrate="dense"): of the dense network\'s own inputs there is no '
            "error to propagate; leave one of them out."
        )
    for kernel_input in plan.inputs if propagate else ():
        if kernel_input.is_sorted_by_layer:
            raise ValueError(
                f"posttrain.prune(propagate={propagate}): the rows of "
                f"{plan.kernels[kernel_input.kernels[0]].name!r} are sorted by expert, and the dense and the "
                "pruned network sort them differently; leave propagate out, or the parameter with exclude=."
            )


@jax.jit
def _mixed(output: jax.Array, dense_output: jax.Array, weight: Any) -> jax.Array:
    return (output + weight * (dense_output - output)).astype(output.dtype)


@jax.jit
def _corrected(
    matrices: jax.Array, grams: jax.Array, cross_grams: jax.Array, weight: Any, damp: Any
) -> jax.Array:
    def one_layer(layer: Any) -> jax.Array:
        kernel, gram, cross_gram = layer
        factor = upper_factor(gram, damping(gram, damp, len(gram)))
        moved = solve_triangular(factor, (cross_gram - gram) @ kernel)
        return kernel + weight * solve_triangular(factor, moved, trans=1)

    with jax.default_matmul_precision("highest"):
        corrected = lax.map(one_layer, (matrices, grams, cross_grams))
    return corrected.astype(matrices.dtype)
