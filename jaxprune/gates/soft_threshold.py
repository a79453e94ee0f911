"""Soft threshold reparameterisation: each layer learns the magnitude below which its weights are zero."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxprune.checks import NUMBER
from jaxprune.gates.arguments import Strength, at_step, check_each, check_strength, per_leaf
from jaxprune.gates.gate import Gate, Leaves, Rule, gate_of, layer_shapes
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
      strength: $\lambda$, a schedule of it (step -> number), or either by regular expressions searched in the
        leaves' paths.
      init: of $s$; at -8 the threshold is 3e-4. The lower it starts, the later it begins to rise.
      prunable: which leaves have a threshold (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.

    Returns:
      A gate.

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
        shapes = layer_shapes(leaves, axes)
        return {path: jnp.full(shapes[path], init, jnp.float32) for path in leaves}

    def excess(leaves: Leaves, gates: Leaves) -> Leaves:
        """Returns by how much the magnitude of each weight is above its threshold."""
        return {path: jnp.abs(leaf) - jax.nn.sigmoid(gates[path]) for path, leaf in leaves.items()}

    def sample(
        leaves: Leaves, gates: Leaves, key: jax.Array | None = None, step: Step | None = None
    ) -> Leaves:
        return {
            path: jnp.sign(leaves[path]) * jax.nn.relu(leaf_excess)
            for path, leaf_excess in excess(leaves, gates).items()
        }

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        sparse_leaves = sample(leaves, gates)
        return sparse_leaves, {path: leaf != 0 for path, leaf in sparse_leaves.items()}

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        masks = final(leaves, gates, None)[1].values()
        return sum((mask.sum(dtype=jnp.float32) for mask in masks), jnp.zeros(()))

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        total_penalty = jnp.zeros(())
        for path, leaf_strength in per_leaf(strength, leaves, "soft_threshold: strength").items():
            weight_squares = jnp.square(leaves[path].astype(jnp.float32)).sum()
            squares = weight_squares + jnp.square(gates[path]).sum()
            total_penalty += (
                0.5 * at_step(leaf_strength, step, "soft_threshold: strength") * squares
            )
        return total_penalty

    return gate_of(Rule(begin, sample, final, alive, cost), prunable, axes=axes)
