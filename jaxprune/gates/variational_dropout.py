"""Sparse variational dropout: a weight that is small beside its learned noise is removed."""

import jax
import jax.numpy as jnp

from jaxprune.checks import NUMBER
from jaxprune.gates.arguments import Strength, at_step, check_each, check_strength
from jaxprune.gates.gate import Gate, Leaves, Rule, gate_of
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.types import Step

__all__ = ["kl_log_uniform", "variational_dropout"]

_K1 = 0.63576
_K2 = 1.87320
_K3 = 1.48695
_TINY = 1e-16


def kl_log_uniform(log_alpha: jax.Array) -> jax.Array:
    r"""Returns the KL divergence from the log-uniform prior to $N(\theta, \alpha\theta^2)$, up to a constant.

    $k_1 (1 - \sigma(k_2 + k_3 \log\alpha)) + \tfrac12 \log(1 + \alpha^{-1})$ with $k = (0.63576, 1.87320,
    1.48695)$, the fit of Molchanov et al. (2017) with its sign turned; it falls to 0 as $\alpha$ grows.

    Args:
      log_alpha: $\log \alpha$, of any shape.

    Returns:
      An array of the same shape.

    References: Molchanov, Ashukha & Vetrov, "Variational Dropout Sparsifies Deep Neural Networks" (2017).

    >>> [round(float(kl_log_uniform(jnp.float32(a))), 3) for a in (-8.0, 0.0, 8.0)]
    [4.636, 0.431, 0.0]
    """
    return _K1 * jax.nn.sigmoid(-_K2 - _K3 * log_alpha) + 0.5 * jax.nn.softplus(-log_alpha)


def variational_dropout(
    *,
    strength: Strength = 1.0,
    threshold: float = 3.0,
    init: float = -10.0,
    bound: float = 8.0,
    clip_in_training: bool = True,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> Gate:
    r"""Sparse variational dropout: each weight is $N(\theta, \sigma^2)$ and learns its own noise.

    The gate is $\log\sigma^2$, of the shape of the leaf, and $\log\alpha = \log\sigma^2 - \log\theta^2$ is
    clipped to $\pm$`bound`. The penalty is `strength` times the sum of `kl_log_uniform`; `finalize` keeps
    the mean of weights with $\log\alpha <$ `threshold`. `jaxprune.gates.apply` draws noise per example and
    activation, as the paper does (the local reparameterization of Kingma et al., 2015): less variance and
    fewer draws than `sample`, in which the whole batch shares the noise of each weight.

    Args:
      strength: factor of the penalty, a number or a schedule (step -> number). If the loss is a mean over
        examples, give $1/N$ for $N$ training examples; a schedule from 0 introduces the divergence slowly.
      threshold: of $\log\alpha$; at 3, a weight's noise is 4.5 times the weight.
      init: of $\log\sigma^2$.
      bound: of $|\log\alpha|$.
      clip_in_training: the means of weights beyond the threshold are taken as zero in training too; they
        come back if $\log\sigma^2$ falls.
      prunable: which leaves are gated (see `jaxprune.masks.make`).
      axes: what the program does with the leaves, for the default filter: `jaxprune.axes(apply, params,
        *inputs)`.

    Returns:
      A gate.

    Raises:
      ValueError: if `threshold` is not within the bound.

    References: Molchanov, Ashukha & Vetrov, "Variational Dropout Sparsifies Deep Neural Networks"
    (2017), and its released code for `clip_in_training` and the bound.

    >>> gate = variational_dropout()
    >>> theta = gate.init({"w": jnp.array([[1.0, 1.0]])}, jax.random.key(0))
    >>> theta = theta._replace(gates={"w": jnp.array([[-5.0, 5.0]])})
    >>> gate.finalize(theta)[1]
    {'w': Array([[ True, False]], dtype=bool)}
    """

    check_strength("variational_dropout", strength)
    check_each("variational_dropout", NUMBER, threshold=threshold, init=init, bound=bound)
    if not -bound < threshold < bound:
        raise ValueError(
            f"variational_dropout(threshold={threshold}, bound={bound}): log alpha stays within the bound, "
            "and the threshold must lie there too."
        )

    def squares(leaves: Leaves) -> Leaves:
        return {path: jnp.square(leaf.astype(jnp.float32)) + _TINY for path, leaf in leaves.items()}

    def clipped_log_alphas(leaves: Leaves, gates: Leaves) -> Leaves:
        return {
            path: jnp.clip(gates[path] - jnp.log(squared_leaf), -bound, bound)
            for path, squared_leaf in squares(leaves).items()
        }

    def begin(leaves: Leaves, key: jax.Array) -> Leaves:
        return {path: jnp.full(leaf.shape, init, jnp.float32) for path, leaf in leaves.items()}

    def moments(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        log_alphas = clipped_log_alphas(leaves, gates)
        means = {
            path: jnp.where(log_alphas[path] < threshold, leaf, 0.0) if clip_in_training else leaf
            for path, leaf in leaves.items()
        }
        variances = {
            path: jnp.exp(log_alphas[path]) * squared_leaf
            for path, squared_leaf in squares(leaves).items()
        }
        return means, variances

    def sample(leaves: Leaves, gates: Leaves, key: jax.Array | None, step: Step | None) -> Leaves:
        if key is None:
            raise ValueError("variational_dropout: sample(theta, key) draws noise and needs a key.")
        means, variances = moments(leaves, gates, step)
        keys = jax.random.split(key, len(leaves))
        leaf_noise = {
            path: jax.random.normal(leaf_key, leaves[path].shape)
            for path, leaf_key in zip(leaves, keys, strict=True)
        }
        return {path: means[path] + jnp.sqrt(variances[path]) * leaf_noise[path] for path in leaves}

    def kept_masks(leaves: Leaves, gates: Leaves) -> Leaves:
        log_alphas = clipped_log_alphas(leaves, gates)
        return {path: log_alpha < threshold for path, log_alpha in log_alphas.items()}

    def final(leaves: Leaves, gates: Leaves, step: Step | None) -> tuple[Leaves, Leaves]:
        return leaves, kept_masks(leaves, gates)

    def alive(leaves: Leaves, gates: Leaves) -> jax.Array:
        masks = kept_masks(leaves, gates).values()
        return sum((mask.sum(dtype=jnp.float32) for mask in masks), jnp.zeros(()))

    def cost(leaves: Leaves, gates: Leaves, step: Step | None) -> jax.Array:
        log_alphas = clipped_log_alphas(leaves, gates).values()
        divergence = sum((kl_log_uniform(log_alpha).sum() for log_alpha in log_alphas), 0.0)
        return at_step(strength, step, "variational_dropout: strength") * divergence

    return gate_of(Rule(begin, sample, final, alive, cost, moments=moments), prunable, axes=axes)
