"""Signals that read activations: what enters each kernel, and what its units give."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.signals.gather import counted, mean_over
from jaxprune.signals.kernels import Product, products
from jaxprune.types import Params

__all__ = ["Outputs", "grams", "input_moments", "outputs"]

Apply = Callable[[Params, Any], Any]
Progress = Callable[[int], Any] | None


class Outputs(NamedTuple):
    """What the units of each kernel give, trees like the parameters, `None` where nothing is known.

    Attributes:
      mean: of the activation.
      magnitude: mean of its absolute value.
      zeros: share of zeros (APoZ).
      entropy: of the activation's mean over positions, binned over the examples; in nats.
      rank: of the feature maps, mean over the examples; `None` where units have no map.
    """

    mean: Params
    magnitude: Params
    zeros: Params
    entropy: Params
    rank: Params


def input_moments(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns $\mathrm{E}\,x_i^2$ of what each weight is multiplied with, per kernel.

    Kernels are found in the program of `apply`, which is not edited. A kernel that is used several times has
    the mean over its uses; of a convolution each place in the window has a moment of its own.

    Args:
      apply: (params, batch) -> anything.
      params: tree of arrays.
      batches: trees of arrays whose first axis is that of the examples.
      progress: called with the number of batches done.

    Returns:
      A tree like `params`: float32 arrays that broadcast against the kernels, with the length 1 along the
      axes that are not summed over; `None` at leaves that are no factor of a product.

    >>> apply = lambda params, x: x @ params["w"]
    >>> input_moments(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5.],
           [2.]], dtype=float32)}
    """
    found = mean_over(_moments, params, batches, static=(apply,), progress=progress)
    return _tree(params, found)


def grams(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns $\mathrm{E}\,x x^\top$ of what enters each kernel: the Hessian of its squared error, halved.

    Memory: the square of the entries that are summed over, for each kernel at once.

    Args:
      apply: (params, batch) -> anything.
      params: tree of arrays.
      batches: trees of arrays whose first axis is that of the examples.
      progress: called with the number of batches done.

    Returns:
      A tree like `params`: float32 `[entries, entries]`, in the order of the kernel's own axes; `None` at
      leaves that are no factor of a product.

    >>> apply = lambda params, x: x @ params["w"]
    >>> grams(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5., 1.],
           [1., 2.]], dtype=float32)}
    """

    return _tree(params, mean_over(_grams, params, batches, static=(apply,), progress=progress))


def outputs(
    apply: Apply,
    params: Params,
    batches: Iterable[Any],
    *,
    bins: int = 32,
    ranks: bool = True,
    progress: Progress = None,
) -> Outputs:
    r"""Returns what the units of each kernel give: means, shares of zeros, entropies and ranks.

    A unit's activation is its product after bias, BatchNorm and nonlinearity, up to where other activations
    join (a residual sum) or its shape changes (pooling). Entropy, $-\sum_b p_b \log p_b$, is of the mean over
    the map, binned between the least and the largest that the unit has shown. The batches are gone through
    once; what is kept for the entropy is one number per example and unit.

    Args:
      apply: (params, batch) -> anything, in evaluation mode: statistics of a batch join activations.
        Pass the same function again, and it is not compiled anew.
      params: tree of arrays.
      batches: trees of arrays whose first axis is that of the examples, as is that of the activations.
      bins: of the entropy.
      ranks: whether to compute ranks, one singular value decomposition per example and map.
      progress: called with the number of batches done.

    Returns:
      float32 arrays that broadcast against the kernels: length 1 along all axes but that of the units.

    References:
      Hu, Peng, Tai & Tang, "Network Trimming" (2016), for APoZ; Luo & Wu, "An Entropy-based Pruning Method
      for CNN Compression" (2017); Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020).

    >>> apply = lambda params, x: jax.nn.relu(x @ params["w"])
    >>> batch = jnp.array([[1.0], [-1.0]])
    >>> found = outputs(apply, {"w": jnp.array([[1.0, 0.0]])}, [batch])
    >>> found.zeros["w"], found.entropy["w"].round(2)  # ln 2, and nothing
    (Array([[0.5, 1. ]], dtype=float32), Array([[0.69, 0.  ]], dtype=float32))
    """
    total: Any = None
    examples, pooled = 0, []
    axes: dict[str, tuple[int, int]] = {}
    for batch, n in counted(batches, progress):
        axes = axes or _units(apply, params, batch)
        sums, means = _outputs(apply, ranks, params, batch)
        weighted = jax.tree.map(lambda x, n=n: n * x, sums)
        total = weighted if total is None else jax.tree.map(jnp.add, total, weighted)
        examples += n
        pooled.append(jax.block_until_ready(means))
    found = {leaf: {k: x / examples for k, x in of.items()} for leaf, of in total.items()}
    for leaf in found:
        found[leaf]["entropy"] = _entropy(jnp.concatenate([means[leaf] for means in pooled]), bins)
    shaped = lambda name: {leaf: of.get(name) for leaf, of in found.items()}
    return Outputs(*(_tree(params, _beside(shaped(name), axes)) for name in Outputs._fields))


def _moments(apply: Apply, params: Params, batch: Any) -> dict[str, jax.Array]:
    return _per_leaf(
        products(apply, params, batch),
        lambda p: p.beside(jnp.mean(jnp.square(p.inputs.astype(jnp.float32)), 0)),
    )


def _grams(apply: Apply, params: Params, batch: Any) -> dict[str, jax.Array]:
    def gram(p: Product) -> jax.Array:
        rows = p.inputs.astype(jnp.float32)
        return rows.T @ rows / len(rows)

    return _per_leaf(products(apply, params, batch), gram)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(apply: Apply, ranks: bool, params: Params, batch: Any) -> Any:
    """Means over the batch per leaf and statistic; and per leaf the means over positions, by example."""
    with jax.default_matmul_precision("highest"):
        found = [p for p in products(apply, params, batch) if _has_units(p)]

    def statistics(p: Product) -> dict[str, jax.Array]:
        maps = _maps(p)
        flat = maps.reshape(*maps.shape[:2], -1)
        known = {
            "mean": flat.mean((0, 2)),
            "magnitude": jnp.abs(flat).mean((0, 2)),
            "zeros": jnp.mean(flat == 0, (0, 2), dtype=jnp.float32),
        }
        if ranks and maps.ndim == 4:
            known["rank"] = jnp.linalg.matrix_rank(maps).astype(jnp.float32).mean(0)
        return known

    pooled = lambda p: (maps := _maps(p)).reshape(*maps.shape[:2], -1).mean(-1)
    return _per_leaf(found, statistics), _per_leaf(found, pooled)


def _has_units(p: Product) -> bool:
    return p.features is not None and p.features[0] > 0


def _maps(p: Product) -> jax.Array:
    """The outputs as `[examples, units, ...]`."""
    assert p.features is not None
    return jnp.moveaxis(p.outputs.astype(jnp.float32), p.features[0], 1)


def _per_leaf(found: list[Product], read: Callable[[Product], Any]) -> dict[str, Any]:
    """What is read off the products of each leaf, in the mean over its uses."""
    values: dict[str, list[Any]] = {}
    for p in found:
        values.setdefault(p.leaf, []).append(read(p))
    mean = lambda uses: sum(uses) / len(uses)

    def of(uses: list[Any]) -> Any:
        if not isinstance(uses[0], dict):
            return mean(uses)
        names = dict.fromkeys(name for use in uses for name in use)
        return {name: mean([use[name] for use in uses if name in use]) for name in names}

    return {leaf: of(uses) for leaf, uses in values.items()}


def _entropy(values: jax.Array, bins: int) -> jax.Array:
    """Of `[examples, units]`, per unit."""
    low, high = values.min(0, keepdims=True), values.max(0, keepdims=True)
    width = jnp.where(high > low, high - low, 1.0)
    at = jnp.minimum((values - low) / width * bins, bins - 1).astype(jnp.int32)
    share = jnp.stack([jnp.mean(at == b, 0, dtype=jnp.float32) for b in range(bins)])
    return jax.scipy.special.entr(share).sum(0)


def _units(apply: Apply, params: Params, batch: Any) -> dict[str, tuple[int, int]]:
    """Of each leaf with units: its number of axes, and that of its units."""
    axes: dict[str, tuple[int, int]] = {}

    def look(params: Params, batch: Any) -> None:
        for p in products(apply, params, batch):
            if p.features is not None and _has_units(p):
                axes[p.leaf] = (len(p.shape), p.features[1])

    jax.eval_shape(look, params, batch)
    return axes


def _beside(found: dict[str, Any], axes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """One number per unit, in the shape that broadcasts against the kernel."""

    def shaped(leaf: str, x: Any) -> Any:
        ndim, axis = axes[leaf]
        return None if x is None else x.reshape([-1 if i == axis else 1 for i in range(ndim)])

    return {leaf: shaped(leaf, x) for leaf, x in found.items()}


def _tree(params: Params, found: dict[str, Any]) -> Params:
    """A tree like `params` of what was found by path, `None` elsewhere."""
    named = masks_lib.paths(params)
    return jax.tree.structure(params).unflatten([found.get(name) for name in named])
