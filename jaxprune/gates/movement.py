"""Movement pruning with scores of its own: weights that move away from zero in fine-tuning are kept."""

import jax
import jax.numpy as jnp

from jaxprune import schedules
from jaxprune.checks import INTEGER, NUMBER
from jaxprune.gates.arguments import Strength, at_step, check_each, check_strength
from jaxprune.gates.gate import Gate, Leaves, Rule, gate_of
from jaxprune.gates.straight_through import best_masks, count_kept, mask_straight_through
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.types import Sparsity, Step

__all__ = ["movement", "soft_movement"]


def movement(
    *,
    sparsity: float,
    end: int,
    begin: int = 0,
    initial: float = 0.0,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""Keeps the weights with the highest scores; an optimizer trains the scores.

    $w' = w \odot m$ with $m$ the mask of the highest scores $s$, the same fraction in each layer, but at
    least one. Gradients pass straight through $m$ to the scores: $\partial L / \partial s = w\, \partial L /
    \partial w'$. The sparsity rises by a cubic from `initial` at `begin` to `sparsity` at `end`. In
    `jaxprune.methods.movement` there are no trained scores: the transform accumulates the sums that plain
    gradient descent would give them.

    Args:
      sparsity: fraction removed at `end`.
      end: update at which `sparsity` is reached; `sample` needs `step`.
      begin: update at which it begins to rise.
      initial: fraction removed before.
      prunable: which leaves have scores (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.

    Returns:
      A gate.

    References: Sanh, Wolf & Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020).

    >>> gate = movement(sparsity=0.5, end=10)
    >>> theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    >>> gate.sample(theta._replace(gates={"w": jnp.array([[-0.1, 0.2]])}), step=10)
    {'w': Array([[ 0., -1.]], dtype=float32)}
    """
    check_each("movement", NUMBER, sparsity=sparsity, initial=initial)
    check_each("movement", INTEGER, begin=begin, end=end)
    rising_sparsity = schedules.cubic(
        sparsity=sparsity, begin=begin, end=end, initial=initial
    ).sparsity

    def sparsity_at(step: Step | None) -> Sparsity:
        return sparsity if step is None else rising_sparsity(step)

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        masks = best_masks(gates, at_step(rising_sparsity, step, "movement: sample"), axes)
        return {
            path: mask_straight_through(leaf, masks[path], gates[path])
            for path, leaf in leaves.items()
        }

    rule = Rule(
        init=_zeros,
        sample=sample,
        final=lambda leaves, gates, step: (leaves, best_masks(gates, sparsity_at(step), axes)),
        alive=lambda leaves, gates: count_kept(best_masks(gates, sparsity, axes)),
        cost=lambda *_: 0.0,
    )
    return gate_of(rule, prunable, axes=axes)


def soft_movement(
    *,
    strength: Strength,
    end: int,
    begin: int = 0,
    threshold: float = 0.1,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""Keeps the weights whose $\sigma(s)$ is above a threshold; a penalty pushes scores down.

    As `movement`, but the number of removed weights is learned: the threshold rises by a cubic from 0 at
    `begin` to `threshold` at `end`, and the penalty is `strength` times the mean of $\sigma(s)$. Gradients
    pass straight through to $\sigma(s)$.

    Args:
      strength: of the penalty, or a schedule of it (step -> number).
      end: update at which the threshold is reached; `sample` needs `step`.
      begin: update at which it begins to rise.
      threshold: of $\sigma(s)$; scores start at 0, $\sigma(0) = 0.5$, so that a threshold of 0.1 removes
        nothing at first.
      prunable: which leaves have scores (see `jaxprune.masks.make`).
      axes: what the program does with the leaves, for the default filter: `jaxprune.axes(apply, params,
        *inputs)`.

    Returns:
      A gate.

    Raises:
      ValueError: if `threshold` is not between 0 and 1.

    References: Sanh, Wolf & Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020).

    >>> gate = soft_movement(strength=1.0, end=10)
    >>> theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    >>> gate.sample(theta._replace(gates={"w": jnp.array([[-4.0, 0.0]])}), step=10)
    {'w': Array([[ 0., -1.]], dtype=float32)}
    >>> float(gate.penalty(theta))
    0.5
    """
    check_strength("soft_movement", strength)
    check_each("soft_movement", NUMBER, threshold=threshold)
    check_each("soft_movement", INTEGER, begin=begin, end=end)
    if not 0 < threshold < 1:
        raise ValueError(
            f"soft_movement(threshold={threshold}): a number between 0 and 1 is needed."
        )
    rising_threshold = schedules.cubic(sparsity=threshold, begin=begin, end=end).sparsity

    def masks_above(gates: Leaves, least_probability: Sparsity) -> Leaves:
        return {path: jax.nn.sigmoid(scores) > least_probability for path, scores in gates.items()}

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        masks = masks_above(gates, at_step(rising_threshold, step, "soft_movement: sample"))
        return {
            path: mask_straight_through(leaf, masks[path], jax.nn.sigmoid(gates[path]))
            for path, leaf in leaves.items()
        }

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        return leaves, masks_above(gates, threshold if step is None else rising_threshold(step))

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        return count_kept(masks_above(gates, threshold))

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        probability_sum = sum(
            (jax.nn.sigmoid(scores).sum() for scores in gates.values()), jnp.zeros(())
        )
        mean_probability = probability_sum / max(sum(scores.size for scores in gates.values()), 1)
        return at_step(strength, step, "soft_movement: strength") * mean_probability

    return gate_of(Rule(_zeros, sample, final, alive, cost), prunable, axes=axes)


def _zeros(leaves: Leaves, key: jax.Array) -> Leaves:
    return {path: jnp.zeros(leaf.shape, jnp.float32) for path, leaf in leaves.items()}
