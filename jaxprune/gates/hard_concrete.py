"""L0 regularisation by gates of the hard concrete distribution."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import kernel_axes, patterns
from jaxprune.checks import NUMBER, Kind
from jaxprune.gates.arguments import Strength, at_step, check_each, check_strength, per_leaf
from jaxprune.gates.gate import Gate, Leaves, Rule, gate_of, unit_shapes
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.parts import LEAFWISE
from jaxprune.types import Pattern, Step

__all__ = ["hard_concrete"]

_UNSTRUCTURED = patterns.unstructured()
_PAIR = Kind(
    "a pair of numbers",
    lambda value: np.ndim(value) == 1 and len(value) == 2 and all(map(NUMBER.fits, value)),
    lambda _: "such as (-0.1, 1.1), the lower one first",
)


def hard_concrete(
    *,
    pattern: Pattern | Mapping[str, Pattern] = _UNSTRUCTURED,
    dropout_rate: float | Mapping[str, float] = 0.5,
    strength: Strength | Mapping[str, Strength] = 1.0,
    weight_decay: float = 0.0,
    temperature: float = 2 / 3,
    stretch: tuple[float, float] = (-0.1, 1.1),
    bounds: tuple[float, float] = (math.log(1e-2), math.log(1e2)),
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""L0 regularisation: weights are multiplied by random gates that can be exactly 0 or 1.

    With $u \sim U(0, 1)$, location $\log\alpha$ (the trained gate), temperature $\beta$ and stretch
    $(\gamma, \zeta)$,

    $$s = \sigma((\log u - \log(1-u) + \log\alpha)/\beta),$$
    $$z = \min(1, \max(0, s(\zeta-\gamma)+\gamma)),$$
    $$P(z \ne 0) = \sigma(\log\alpha - \beta \log(-\gamma/\zeta)).$$

    The penalty is $\sum_g P(z_g \ne 0) \sum_{w \in g} (\lambda + \tfrac{\delta}{2} w^2)$ with $\lambda$ the
    `strength` and $\delta$ the `weight_decay`, which thus decays only weights whose gates are open. With
    $\lambda = 1$ and $\delta = 0$ it is `expected_l0`. `finalize` has no noise: $z = \min(1, \max(0,
    \sigma(\log\alpha) (\zeta-\gamma)+\gamma))$. One draw serves the whole batch.

    Where a value may be a mapping, its keys are regular expressions searched in the leaves' paths.

    Args:
      pattern: which weights share a gate: with `channel("in")` those of an input of a dense kernel, with
        `channel()` those of an output map of a convolution, whose bias has no gate.
      dropout_rate: $d$; the gates start at $\log\frac{1-d}{d}$ plus normal noise of 0.01.
      strength: $\lambda$ per weight, or a schedule of it (step -> number). If the loss is a mean over
        examples, give the paper's $\lambda$ divided by the number $N$ of training examples.
      weight_decay: $\delta$.
      temperature: $\beta$.
      stretch: $(\gamma, \zeta)$, $\gamma < 0$ and $\zeta > 1$.
      bounds: where `project` keeps the gates.
      prunable: which leaves are gated (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.

    Returns:
      A gate.

    Raises:
      ValueError: if a number is out of its range, or `bounds` are in another order.

    References: Louizos, Welling & Kingma, "Learning Sparse Neural Networks through L0 Regularization"
    (2018), and its released code for the weight decay and the bounds.

    >>> gate = hard_concrete(pattern=patterns.channel(axis=-2))
    >>> theta = gate.init({"kernel": jnp.ones((2, 3))}, jax.random.key(0))
    >>> theta = theta._replace(gates={"kernel": jnp.array([4.0, -4.0])})
    >>> gate.finalize(theta)[0]
    {'kernel': Array([[1., 1., 1.],
           [0., 0., 0.]], dtype=float32)}
    >>> round(float(gate.expected_l0(theta)), 2)  # 3 of sigmoid(5.6), 3 of sigmoid(-2.4)
    3.24
    """
    check_strength("hard_concrete", strength)
    check_each("hard_concrete", LEAFWISE, pattern=pattern)
    check_each("hard_concrete", NUMBER, dropout_rate=dropout_rate, weight_decay=weight_decay)
    check_each("hard_concrete", NUMBER, temperature=temperature)
    check_each("hard_concrete", _PAIR, stretch=stretch, bounds=bounds)
    lowest, highest = stretch
    if not -math.inf < lowest < 0 < 1 < highest < math.inf:
        raise ValueError(
            f"hard_concrete(stretch={stretch}): a finite number below 0 and one above 1 are needed."
        )
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"hard_concrete(temperature={temperature}): a finite number above 0 is needed."
        )
    if not 0 <= weight_decay < math.inf:
        raise ValueError(
            f"hard_concrete(weight_decay={weight_decay}): a finite number, 0 or above, is needed."
        )
    if not bounds[0] < bounds[1]:
        raise ValueError(
            f"hard_concrete(bounds={bounds}): two numbers are needed, the lower one first."
        )
    dropout_rates = dropout_rate.values() if isinstance(dropout_rate, Mapping) else [dropout_rate]
    if not all(0 < leaf_rate < 1 for leaf_rate in dropout_rates):
        raise ValueError(
            f"hard_concrete(dropout_rate={dropout_rate}): between 0 and 1, both excluded."
        )
    log_odds_shift = temperature * math.log(-lowest / highest)

    def patterns_of(leaves: Leaves) -> dict[str, Pattern]:
        return per_leaf(pattern, leaves, "hard_concrete: pattern")

    def spread(leaves: Leaves, units: Leaves) -> Leaves:
        """Returns the value of each unit, at all weights of it."""
        leaf_patterns = patterns_of(leaves)
        kernels = kernel_axes.by_path(axes, leaves)
        return {
            path: leaf_patterns[path].from_groups(units[path], leaf.shape, kernels[path])
            for path, leaf in leaves.items()
        }

    def init(leaves: Leaves, key: jax.Array) -> Leaves:
        shapes = unit_shapes(leaves, patterns_of(leaves), kernel_axes.by_path(axes, leaves))
        dropout_rates = per_leaf(dropout_rate, leaves, "hard_concrete: dropout_rate")
        per_leaf(strength, leaves, "hard_concrete: strength")
        keys = jax.random.split(key, len(leaves))
        initial_log_odds = {
            path: math.log((1 - leaf_rate) / leaf_rate) for path, leaf_rate in dropout_rates.items()
        }
        noise = {
            path: 0.01 * jax.random.normal(leaf_key, shapes[path], jnp.float32)
            for path, leaf_key in zip(leaves, keys, strict=True)
        }
        return {path: initial_log_odds[path] + noise[path] for path in leaves}

    def multiply(leaves: Leaves, gates: Leaves) -> Leaves:
        gates_of_weights = spread(leaves, gates)
        return {
            path: leaf * gates_of_weights[path].astype(leaf.dtype) for path, leaf in leaves.items()
        }

    def stretch_and_clip(concrete_samples: jax.Array) -> jax.Array:
        return jnp.clip(concrete_samples * (highest - lowest) + lowest, 0.0, 1.0)

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        if key is None:
            raise ValueError("hard_concrete: sample(theta, key) draws gates and needs a key.")
        keys = dict(zip(leaves, jax.random.split(key, len(leaves)), strict=True))

        def draw(path: str) -> jax.Array:
            noise = jax.random.logistic(keys[path], gates[path].shape)  # log u - log(1 - u)
            return stretch_and_clip(jax.nn.sigmoid((noise + gates[path]) / temperature))

        return multiply(leaves, {path: draw(path) for path in leaves})

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        gate_values = {path: stretch_and_clip(jax.nn.sigmoid(gates[path])) for path in leaves}
        kept_units = {path: gate_value > 0 for path, gate_value in gate_values.items()}
        return multiply(leaves, gate_values), spread(leaves, kept_units)

    def expected_cost(leaves: Leaves, gates: Leaves, cost: dict[str, jax.Array]) -> jax.Array:
        """Returns the sum of a cost per weight, each times the probability that its gate is not zero."""
        probabilities = spread(
            leaves, {path: jax.nn.sigmoid(gates[path] - log_odds_shift) for path in leaves}
        )
        return sum(((probabilities[path] * cost[path]).sum() for path in leaves), jnp.zeros(()))

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        cost_of_one = {path: jnp.ones(leaf.shape) for path, leaf in leaves.items()}
        return expected_cost(leaves, gates, cost_of_one)

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        strengths = {
            path: at_step(leaf_strength, step, "hard_concrete: strength")
            for path, leaf_strength in per_leaf(strength, leaves, "hard_concrete: strength").items()
        }
        squared_leaves = {
            path: jnp.square(leaf.astype(jnp.float32)) for path, leaf in leaves.items()
        }
        weight_costs = {
            path: strengths[path] + 0.5 * weight_decay * squared_leaves[path] for path in leaves
        }
        return expected_cost(leaves, gates, weight_costs)

    return gate_of(Rule(init, sample, final, alive, cost, bounds), prunable, axes=axes)
