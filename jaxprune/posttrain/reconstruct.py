"""Recovery block by block: kept weights learn to give what the dense block gives on the same inputs."""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune.posttrain.pieces import Flat, Piece, compiled, leads_to, variables
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.work import Stream, Work

__all__ = ["Block", "Recovery", "block_outputs", "blocks_of", "reconstruct", "recovered"]


@dataclasses.dataclass(frozen=True, repr=False)
class Recovery:
    """How blocks are trained after they were pruned; see `reconstruct`."""

    optimizer: optax.GradientTransformation
    steps: int
    train: str

    def __repr__(self) -> str:
        return f"reconstruct(steps={self.steps}, train={self.train!r})"

    def probe(self) -> list[Any]:
        """What the optimizer does with gradients in all steps: functions cannot be compared, this can."""
        params = jnp.array([1.0, -0.5])
        state = self.optimizer.init(params)
        update = jax.jit(self.optimizer.update)
        found: list[Any] = []
        for step in range(self.steps):
            updates, state = update((1.0, 0.1, -2.0)[step % 3] * params, state, params)
            found.append(updates)
        return [jnp.stack(found)]


def reconstruct(
    optimizer: optax.GradientTransformation, *, steps: int = 64, train: str = "kept+vectors"
) -> Recovery:
    r"""Returns the recovery of a network block by block, with fixed masks.

    When all kernels of a block are solved, its parameters $\theta$ minimise
    $\mathrm{E} \|f_\theta(x) - f(x)\|^2 / \mathrm{E} \|f(x)\|^2$ with the dense block $f$, on what comes out
    of the pruned blocks before it. A block is what lies between two places of the program where one
    activation alone is alive; a residual network has one behind each branch, and branches that repeat as a
    whole are one block. What stands behind the last such place stays as it was solved.

    Args:
      optimizer: such as `optax.adam(1e-4)`; its state is made anew for each block, in float32.
      steps: on one batch each, in turn.
      train: "kept": weights of kernels that are kept; "kept+vectors": also biases, scales and what else is in
        no product.

    References:
      "A Free Lunch in LLM Compression: Revisiting Retraining after Pruning" (2025), for blocks with their
      dense outputs as targets.
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


class Block(NamedTuple):
    """A stretch of the program between two places where one activation alone is alive.

    Attributes:
      first: index of its first segment.
      last: index of its last.
      piece: the whole of it; it writes the activation at its end.
    """

    first: int
    last: int
    piece: Piece


def blocks_of(plan: Plan) -> list[Block]:
    """The blocks of a plan, in order."""
    block_of = plan.branch_blocks
    ends = [index for index, cut in enumerate(plan.cuts) if cut.residual is not None]
    found: list[Block] = []
    first = 0
    for place, index in enumerate(ends):
        branch = plan.cuts[index].branch
        more = [e for e in ends[place + 1 :] if block_of[plan.cuts[e].branch] == block_of[branch]]
        if more:
            continue
        begin = plan.cuts[first - 1].position if first else 0
        found.append(Block(first, index, _piece(plan.flat, begin, plan.cuts[index].residual)))
        first = index + 1
    return found


def _piece(flat: Flat, begin: int, residual: Any) -> Piece:
    equations = flat.jaxpr.eqns
    positions = [
        p for p in leads_to(flat, [residual], begin) if equations[p].outvars[0] in flat.active
    ]
    still = flat.leads_to([v for p in positions for v in variables(equations[p])])
    return Piece.of(flat, sorted({*positions, *still}), [residual])


def recovered(
    work: Work,
    block: Block,
    recovery: Recovery,
    starts: Sequence[Stream],
    held: Collection[int] = (),
) -> tuple[list[jax.Array], float, float]:
    """Trains a block of pruned kernels; the parameters of `work` are changed.

    Args:
      work: with the kernels of the block solved.
      block: that is trained.
      recovery: how.
      starts: what is alive of each batch where the block begins.
      held: indices of the batches that it is not trained on.

    Returns:
      The activation at its end for each batch; the relative error before and after, of those that it is
      trained on.
    """
    plan, piece = work.plan, block.piece
    flat = plan.flat
    leaves = [flat.leaves.get(v, -1) for v in piece.reads]
    mine = [
        place for place, leaf in enumerate(leaves) if leaf >= 0 and _trains(plan, recovery, leaf)
    ]
    key = (piece.key(), tuple(mine))
    run = compiled(plan.programs, ("block", piece.key()), lambda: _forward(piece))
    step = compiled(
        plan.programs, ("train", key, id(recovery)), lambda: _step(piece, mine, recovery)
    )
    arrays = lambda stream, dense: work.arrays(piece.reads, stream, dense)
    own_starts = [stream for batch, stream in enumerate(starts) if batch not in held]
    targets = [run(arrays(stream, True), piece.starts) for stream in own_starts]
    before = _error(block_outputs(work, block, own_starts), targets)
    own = [jnp.asarray(work.leaves[leaves[place]]) for place in mine]
    masks = [work.masks[leaves[place]] for place in mine]
    wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in own]
    state = recovery.optimizer.init(wide)
    seen = [jnp.zeros(leaf.shape, bool) for leaf in own]
    for index in range(recovery.steps):
        batch = index % len(own_starts)
        given = arrays(own_starts[batch], False)
        wide, state, seen = step(wide, state, seen, masks, given, piece.starts, targets[batch])
    for place, old, new, touched in zip(mine, own, wide, seen, strict=True):
        work.leaves[leaves[place]] = jnp.where(touched, new.astype(old.dtype), old)
    ends = block_outputs(work, block, starts)
    own_ends = [end for batch, end in enumerate(ends) if batch not in held]
    return ends, before, _error(own_ends, targets)


def block_outputs(work: Work, block: Block, starts: Sequence[Stream]) -> list[jax.Array]:
    """The activation at the end of a block for each batch, with the parameters as they are."""
    piece = block.piece
    run = compiled(work.plan.programs, ("block", piece.key()), lambda: _forward(piece))
    return [run(work.arrays(piece.reads, stream), piece.starts) for stream in starts]


def _trains(plan: Plan, recovery: Recovery, leaf: int) -> bool:
    return plan.chosen[leaf] or (recovery.train == "kept+vectors" and plan.vectors[leaf])


def _forward(piece: Piece) -> Callable[..., jax.Array]:
    return lambda arrays, starts: piece.values(arrays, starts)[piece.writes[0]]


def _step(piece: Piece, mine: Sequence[int], recovery: Recovery) -> Callable[..., Any]:
    """(parameters, optimizer state, which have had a gradient, masks, all arrays, ...) -> the first three."""
    run = _forward(piece)

    def step(
        own: list[jax.Array],
        state: Any,
        seen: list[jax.Array],
        masks: list[Any],
        arrays: list[Any],
        starts: Any,
        target: jax.Array,
    ) -> Any:
        def loss(own: list[jax.Array]) -> jax.Array:
            given = list(arrays)
            for place, leaf in zip(mine, own, strict=True):
                given[place] = leaf.astype(given[place].dtype)
            return _relative(run(given, starts), target)

        grads = jax.grad(loss)(own)
        grads = [g if m is None else jnp.where(m, g, 0) for g, m in zip(grads, masks, strict=True)]
        seen = [s | (g != 0) for s, g in zip(seen, grads, strict=True)]
        updates, state = recovery.optimizer.update(grads, state, own)
        moved = optax.apply_updates(own, updates)
        own = [jnp.where(s, new, old) for s, new, old in zip(seen, moved, own, strict=True)]  # type: ignore[arg-type]
        return own, state, seen

    return step


def _relative(found: jax.Array, target: jax.Array) -> jax.Array:
    wide = lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32))
    change = jnp.mean(jnp.square(wide(found) - wide(target)))
    return change / jnp.maximum(jnp.mean(jnp.square(wide(target))), 1e-30)


_relative_compiled = jax.jit(_relative)


def _error(found: Sequence[jax.Array], targets: Sequence[jax.Array]) -> float:
    errors = [_relative_compiled(a, b) for a, b in zip(found, targets, strict=True)]
    return sum(map(float, errors)) / len(errors)
