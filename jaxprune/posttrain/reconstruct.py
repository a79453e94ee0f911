"""Recovery block by block: kept weights are trained to reproduce the outputs of the dense block."""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, trees
from jaxprune.posttrain.blocks import Block
from jaxprune.posttrain.pieces import Piece, compiled
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.propagation import Propagation
from jaxprune.posttrain.streams import Streams
from jaxprune.posttrain.work import PruningState, Stream

__all__ = ["Recovery", "put_block_outputs", "reconstruct", "recover_block"]


@dataclasses.dataclass(frozen=True, repr=False)
class Recovery:
    """How blocks are trained after they were pruned; see `reconstruct`.

    Attributes:
      optimizer: an optax transformation.
      steps: updates per block.
      train: "kept" or "kept+vectors": which parameters are trained.
    """

    optimizer: optax.GradientTransformation
    steps: int
    train: str

    def __repr__(self) -> str:
        return f"reconstruct(steps={self.steps}, train={self.train!r})"

    def probe(self) -> list[Any]:
        """Returns the updates that the optimizer makes of given gradients, by which it can be compared."""
        params = jnp.array([1.0, -0.5])
        optimizer_state = self.optimizer.init(params)
        update = jax.jit(self.optimizer.update)
        all_updates: list[Any] = []
        for step in range(self.steps):
            updates, optimizer_state = update(
                (1.0, 0.1, -2.0)[step % 3] * params, optimizer_state, params
            )
            all_updates.append(updates)
        return [jnp.stack(all_updates)]


def reconstruct(
    optimizer: optax.GradientTransformation, *, steps: int = 64, train: str = "kept+vectors"
) -> Recovery:
    r"""Returns the recovery of a network block by block, with fixed masks.

    When all kernels of a block are solved, its parameters $\theta$ minimise
    $\mathrm{E} \|f_\theta(\tilde x) - t\|^2 / \mathrm{E} \|t\|^2$ on the activations $\tilde x$ that come out
    of the pruned blocks before it. The target is $t = (1 - \alpha) f(\tilde x) + \alpha f(x)$ with the dense
    block $f$, the dense network's activations $x$ and the weight $\alpha$ of `propagate=`, as kernels are
    corrected for; it is $f(\tilde x)$ where errors are not propagated. A block is the part of
    the program between two cut points, where only one activation is needed later. A residual network has a
    cut point behind each branch; branches that repeat together form one block. Kernels behind the last cut
    point stay as they were solved.

    Args:
      optimizer: an optax transformation, such as `optax.adam(1e-4)`; its state is initialised for each block,
        in float32.
      steps: number of updates per block; each uses the next batch, in turn.
      train: "kept": weights of kernels that are kept; "kept+vectors": also biases, scales and all other
        parameters that are in no product.

    Returns:
      A `Recovery`, for `recover=` of `jaxprune.posttrain.prune`.

    Raises:
      ValueError: if `steps` is less than 1, or `train` is neither of the two.

    References:
      "A Free Lunch in LLM Compression: Revisiting Retraining after Pruning" (2025), for blocks with their
      dense outputs as targets.

    >>> reconstruct(optax.adam(1e-4), steps=8)
    reconstruct(steps=8, train='kept+vectors')
    """
    checks.check(
        "posttrain.reconstruct",
        optimizer=(optimizer, checks.OPTIMIZER),
        steps=(steps, checks.INTEGER),
    )
    if train not in ("kept", "kept+vectors") or steps < 1:
        raise ValueError(
            f'posttrain.reconstruct(steps={steps}, train={train!r}): at least 1, and "kept" or '
            '"kept+vectors" are needed.'
        )
    return Recovery(optimizer, steps, train)


def recover_block(
    state: PruningState,
    block: Block,
    recovery: Recovery,
    starts: Streams,
    streams: Streams,
    held_out: Collection[int] = (),
    propagation: Propagation | None = None,
) -> tuple[float, float]:
    """Trains a block of pruned kernels, and puts its new outputs into the streams.

    Args:
      state: parameters, with the kernels of the block solved; they are changed.
      block: the block.
      recovery: optimizer, updates, and which parameters are trained.
      starts: the streams where the block begins.
      streams: those at its end, as the solved kernels left them; they are changed.
      held_out: indices of the batches that it is not trained on.
      propagation: runs the dense network beside the pruned one; or `None`.

    Returns:
      The relative error before and after training, on the batches that it is trained on.

    Raises:
      ValueError: if the error is NaN or infinity after the training.
    """
    plan = state.plan
    piece = block.piece
    flat = plan.flat
    end = piece.writes[0]
    leaf_of_operand = [flat.leaves.get(variable, -1) for variable in piece.reads]
    trained_operands = [
        operand_index
        for operand_index, leaf_index in enumerate(leaf_of_operand)
        if leaf_index >= 0 and _is_trained(plan, recovery, leaf_index)
    ]
    step = compiled(
        plan.programs,
        ("train", (piece.key(), tuple(trained_operands)), id(recovery)),
        lambda: _training_step(piece, trained_operands, recovery),
    )
    training_batches = [batch for batch in range(len(starts)) if batch not in held_out]
    training_starts = starts.subset(training_batches)
    targets = training_starts.copy()
    for rank, batch in enumerate(training_batches):
        target = _block_output(state, block, training_starts[rank][0], dense=True)
        if propagation is not None:
            target = propagation.target(target, end, batch)
        targets[rank] = {end: target}

    def errors() -> list[float]:
        return [
            _error(streams[batch][0][end], targets[rank][0][end])
            for rank, batch in enumerate(training_batches)
        ]

    if any(len(kernel.inputs) > 1 for kernel in plan.kernels):
        # A kernel is solved at its last use: where it is used before, the block was run with the dense one.
        put_block_outputs(state, block, starts, streams)
    errors_before = errors()
    leaf_indices = [leaf_of_operand[operand_index] for operand_index in trained_operands]
    old_leaves = [state.on_device(state.leaves[leaf_index]) for leaf_index in leaf_indices]
    masks = [state.mask(leaf_index) for leaf_index in leaf_indices]
    wide_leaves = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in old_leaves]
    optimizer_state = recovery.optimizer.init(wide_leaves)
    has_gradient = [jnp.zeros(leaf.shape, bool) for leaf in old_leaves]
    for step_index in range(recovery.steps):
        rank = step_index % len(targets)
        operand_values = state.arrays(piece.reads, training_starts[rank][0])
        target = targets[rank][0][end]
        wide_leaves, optimizer_state, has_gradient = step(
            wide_leaves, optimizer_state, has_gradient, masks, operand_values, piece.starts, target
        )
    # A weight that never had a gradient keeps its bits: it makes no detour over float32.
    for leaf_index, old_leaf, new_leaf, was_trained in zip(
        leaf_indices, old_leaves, wide_leaves, has_gradient, strict=True
    ):
        state.leaves[leaf_index] = jnp.where(was_trained, new_leaf.astype(old_leaf.dtype), old_leaf)
    put_block_outputs(state, block, starts, streams)
    error_before, error_after = _mean(errors_before), _mean(errors())
    if not math.isfinite(error_after):
        trained_names = trees.quote_names([plan.names[leaf_index] for leaf_index in leaf_indices])
        if not math.isfinite(error_before):
            raise ValueError(
                f"posttrain.prune(recover=): the error at the outputs of the block with {trained_names} is "
                f"{error_before} before it is trained; look for NaN and infinity in parameters and batches."
            )
        raise ValueError(
            f"posttrain.prune(recover=): the training of {trained_names} has diverged: the error was "
            f"{error_before:.3g} before it, and is {error_after} after it; give the optimizer a lower "
            "learning rate."
        )
    return error_before, error_after


def put_block_outputs(state: PruningState, block: Block, starts: Streams, streams: Streams) -> None:
    """Computes the activation at the end of a block with the parameters as they are now, for each batch.

    Args:
      state: holds the parameters.
      block: the block.
      starts: the streams where the block begins.
      streams: those at its end, in which the activation is replaced.
    """
    for batch in range(len(starts)):
        output = _block_output(state, block, starts[batch][0])
        streams[batch] = {**streams[batch][0], block.piece.writes[0]: output}


def _block_output(
    state: PruningState, block: Block, start: Stream, dense: bool = False
) -> jax.Array:
    piece = block.piece
    run = compiled(state.plan.programs, ("block", piece.key()), lambda: _block_function(piece))
    return run(state.arrays(piece.reads, start, dense), piece.starts)


def _is_trained(plan: Plan, recovery: Recovery, leaf: int) -> bool:
    return plan.chosen[leaf] or (recovery.train == "kept+vectors" and plan.vectors[leaf])


def _block_function(piece: Piece) -> Callable[..., jax.Array]:
    return lambda arrays, starts: piece.values(arrays, starts)[piece.writes[0]]


def _training_step(
    piece: Piece, trained_operands: Sequence[int], recovery: Recovery
) -> Callable[..., Any]:
    """Returns one update: (parameters, optimizer state, gradient seen, masks, arrays, ...) -> first three."""
    run = _block_function(piece)

    def step(
        trained_leaves: list[jax.Array],
        optimizer_state: Any,
        has_gradient: list[jax.Array],
        masks: list[Any],
        arrays: list[Any],
        starts: Any,
        target: jax.Array,
    ) -> Any:
        def loss(trained_leaves: list[jax.Array]) -> jax.Array:
            operand_values = list(arrays)
            for operand_index, leaf in zip(trained_operands, trained_leaves, strict=True):
                operand_values[operand_index] = leaf.astype(operand_values[operand_index].dtype)
            return _relative_error(run(operand_values, starts), target)

        grads = jax.grad(loss)(trained_leaves)
        grads = [
            grad if mask is None else jnp.where(mask, grad, 0)
            for grad, mask in zip(grads, masks, strict=True)
        ]
        has_gradient = [seen | (grad != 0) for seen, grad in zip(has_gradient, grads, strict=True)]
        updates, optimizer_state = recovery.optimizer.update(grads, optimizer_state, trained_leaves)
        updated_leaves: Any = optax.apply_updates(trained_leaves, updates)
        trained_leaves = [
            jnp.where(seen, new_leaf, old_leaf)
            for seen, new_leaf, old_leaf in zip(
                has_gradient, updated_leaves, trained_leaves, strict=True
            )
        ]
        return trained_leaves, optimizer_state, has_gradient

    return step


def _relative_error(output: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared error as a share of the target's mean square, in float32 or wider."""
    change = jnp.mean(jnp.square(_widened(output) - _widened(target)))
    return change / jnp.maximum(jnp.mean(jnp.square(_widened(target))), 1e-30)


def _widened(array: jax.Array) -> jax.Array:
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


_compiled_error = jax.jit(_relative_error)


def _error(output: jax.Array, target: jax.Array) -> float:
    return float(_compiled_error(output, target))


def _mean(errors: Sequence[float]) -> float:
    return sum(errors) / len(errors)
