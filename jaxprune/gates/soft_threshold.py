"""Soft threshold reparameterisation: each layer learns the magnitude below which its weights are zero."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprune.checks import NUMBER
from jaxprune.gates.gate import (
    Gate,
    Leaves,
    Rule,
    Strength,
    at_step,
    check_each,
    check_strength,
    gate_of,
    layers_beside,
    per_leaf,
)
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.types import Step

__all__ = ["soft_threshold"]


def soft_threshold(
    *,
    strength: Strength | Mapping[str, Strength] = 1e-4,
    init: float = -8.0,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""STR: $\mathrm{sign}(w) \max(0, |w| - \sigma(s))$ with one learned $s$ per layer.

    The penalty is $\tfrac{\lambda}{2} (\sum s^2 + \sum w^2)$, the paper's decay of weights and thresholds
    alike: it pulls $s$ up to 0, where the threshold is a half, against the loss. The larger the `strength`
    $\lambda$, the sparser the network. The wrapped optimizer should decay nothing itself.

    Args:
      strength: $\lambda$, a schedule of it, or either by regular expressions searched in the leaves' paths.
      init: of $s$; at -8 the threshold is 3e-4. From far below, it begins to rise late.
      prunable: which leaves have a threshold (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: their shapes tell, and whatever depends on direction refuses those that do not.

    References: Kusupati et al., "Soft Threshold Weight Reparameterization for Learnable Sparsity" (2020).
    Departure: leaves without a threshold are not decayed here.

    >>> gate = soft_threshold()
    >>> theta = gate.init({"w": jnp.array([[0.3, -0.75]])}, jax.random.key(0))
    >>> gate.sample(theta._replace(gates={"w": jnp.zeros(())}))  # the threshold is a half
    {'w': Array([[ 0.  , -0.25]], dtype=float32)}
    """

    check_strength("soft_threshold", strength)
    check_each("soft_threshold", NUMBER, init=init)

    def begin(leaves: Leaves, key: jax.Array) -> Leaves:
        per_leaf(strength, leaves, "soft_threshold: strength")
        shapes = layers_beside(leaves, axes)
        return {name: jnp.full(shapes[name], init, jnp.float32) for name in leaves}

    def excess(leaves: Leaves, gates: Leaves) -> Leaves:
        """How far each weight is above its threshold."""
        return {n: jnp.abs(w) - jax.nn.sigmoid(gates[n]) for n, w in leaves.items()}

    def sample(
        leaves: Leaves, gates: Leaves, key: jax.Array | None = None, step: Step | None = None
    ) -> Leaves:
        return {n: jnp.sign(leaves[n]) * jax.nn.relu(e) for n, e in excess(leaves, gates).items()}

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        small = sample(leaves, gates)
        return small, {name: w != 0 for name, w in small.items()}

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        kept = final(leaves, gates, None)[1].values()
        return sum((m.sum(dtype=jnp.float32) for m in kept), jnp.zeros(()))

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        total = jnp.zeros(())
        for name, value in per_leaf(strength, leaves, "soft_threshold: strength").items():
            weights = jnp.square(leaves[name].astype(jnp.float32)).sum()
            squares = weights + jnp.square(gates[name]).sum()
            total += 0.5 * at_step(value, step, "soft_threshold: strength") * squares
        return total

    return gate_of(Rule(begin, sample, final, alive, cost), prunable, axes=axes)
