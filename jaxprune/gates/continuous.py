"""Continuous sparsification: sigmoid gates that grow steeper until they are a mask."""

import math

import jax
import jax.numpy as jnp

from jaxprune.checks import INTEGER, NUMBER
from jaxprune.gates.arguments import Strength, at_step, check_each, check_strength
from jaxprune.gates.gate import Gate, Leaves, Rule, gate_of
from jaxprune.gates.straight_through import count_kept
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.types import Step

__all__ = ["continuous"]


def continuous(
    *,
    strength: Strength,
    end: int,
    begin: int = 0,
    steepest: float = 200.0,
    init: float = 0.0,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""Multiplies weights by $\sigma(\beta s)$, where $\beta$ grows from 1 until the gates are nearly a mask.

    $\beta_t = \beta_T^{\tau}$ with $\beta_T$ the `steepest`, $\tau$ running from 0 at `begin` to 1 at `end`.
    The penalty is $\lambda \sum \sigma(\beta_t s)$; `finalize` takes $\beta \to \infty$: a weight with $s >
    0$ is kept unchanged, others are zero.

    Args:
      strength: $\lambda$ per weight, or a schedule of it (step -> number).
      end: update at which $\beta$ is `steepest`; `sample` and `penalty` need `step`.
      begin: update at which $\beta$ leaves 1.
      steepest: the last $\beta$.
      init: of $s$; weights whose $s$ starts below 0 are removed unless the loss raises it.
      prunable: which leaves have gates (see `jaxprune.masks.make`).
      axes: what the program does with the leaves, for the default filter: `jaxprune.axes(apply, params,
        *inputs)`.

    Returns:
      A gate.

    Raises:
      ValueError: if `steepest` is below 1 or infinite, or `end` not after `begin`.

    References: Savarese, Silva & Maire, "Winning the Lottery with Continuous Sparsification" (2020).
    Departure: one round; for its tickets, start again from the masks with `jaxprune.fixed`.

    >>> gate = continuous(strength=1.0, end=10)
    >>> theta = gate.init({"w": jnp.array([[3.0, -1.0]])}, jax.random.key(0))
    >>> gate.sample(theta, step=0)
    {'w': Array([[ 1.5, -0.5]], dtype=float32)}
    >>> gate.finalize(theta._replace(gates={"w": jnp.array([[0.1, -0.1]])}))[0]
    {'w': Array([[3., 0.]], dtype=float32)}
    """
    check_strength("continuous", strength)
    check_each("continuous", INTEGER, begin=begin, end=end)
    check_each("continuous", NUMBER, steepest=steepest, init=init)
    if not 1 <= steepest < math.inf or end <= begin:
        raise ValueError(
            f"continuous(steepest={steepest}, begin={begin}, end={end}): the steepness ends at a finite "
            "number from 1 up, and later than it begins."
        )

    def steepness_at(step: Step) -> jax.Array:
        return steepest ** jnp.clip((step - begin) / (end - begin), 0.0, 1.0)

    def soft_gates(gates: Leaves, step: Step | None) -> Leaves:
        steepness = at_step(steepness_at, step, "continuous")
        return {path: jax.nn.sigmoid(steepness * gate) for path, gate in gates.items()}

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        gate_values = soft_gates(gates, step)
        return {path: leaf * gate_values[path].astype(leaf.dtype) for path, leaf in leaves.items()}

    def hard_masks(gates: Leaves) -> Leaves:
        return {path: gate > 0 for path, gate in gates.items()}

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        gate_sum = sum((gate.sum() for gate in soft_gates(gates, step).values()), jnp.zeros(()))
        return at_step(strength, step, "continuous: strength") * gate_sum

    rule = Rule(
        init=lambda leaves, key: {
            path: jnp.full(leaf.shape, init, jnp.float32) for path, leaf in leaves.items()
        },
        sample=sample,
        final=lambda leaves, gates, step: (leaves, hard_masks(gates)),
        alive=lambda leaves, gates: count_kept(hard_masks(gates)),
        cost=cost,
    )
    return gate_of(rule, prunable, axes=axes)
