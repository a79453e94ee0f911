"""Signals of what the units of each kernel give."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.programs.readings import Product, Reading
from jaxprune.signals.finite import Watch
from jaxprune.signals.gather import counted, several
from jaxprune.signals.kernels import Mean, units
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import Kernels, ratio, read, spread
from jaxprune.types import Params

__all__ = ["Outputs", "outputs"]

Apply = Callable[[Params, Any], Any]
Progress = Callable[[int], Any] | None


class Outputs(NamedTuple):
    """What the units of each kernel give, trees like the parameters, `None` where nothing is known.

    Attributes:
      unit_means: of the activation.
      unit_magnitudes: mean of its absolute value.
      unit_zeros: share of zeros (APoZ).
      unit_entropies: of the activation's mean over positions, binned over the examples; in nats.
      unit_ranks: of the feature maps, mean over the examples; `None` where units have no map.
    """

    unit_means: Params
    unit_magnitudes: Params
    unit_zeros: Params
    unit_entropies: Params
    unit_ranks: Params


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
      float32 arrays that broadcast against the kernels: length 1 along all axes but those of the units and of
      layers. `None` for kernels with units along two axes, and for ragged products.

    References:
      Hu, Peng, Tai & Tang, "Network Trimming" (2016), for APoZ; Luo & Wu, "An Entropy-based Pruning Method
      for CNN Compression" (2017); Lin et al., "HRank: Filter Pruning using High-Rank Feature Map" (2020).

    >>> apply = lambda params, x: jax.nn.relu(x @ params["w"])
    >>> batch = jnp.array([[1.0], [-1.0]])
    >>> found = outputs(apply, {"w": jnp.array([[1.0, 0.0]])}, [batch])
    >>> found.unit_zeros["w"], found.unit_entropies["w"].round(2)  # ln 2, and nothing
    (Array([[0.5, 1. ]], dtype=float32), Array([[0.69, 0.  ]], dtype=float32))
    """
    check_function("outputs", params, apply=apply)
    total: Any = None
    examples = 0
    pooled: list[dict[int, jax.Array]] = []
    watch = Watch("outputs")
    for batch, n in counted(watch.batches(several(batches)), progress):
        means, by_example = _outputs(apply, ranks, params, batch)
        weighted = jax.tree.map(lambda x, n=n: n * x, means)
        total = weighted if total is None else jax.tree.map(jnp.add, total, weighted)
        examples += n
        pooled.append(jax.block_until_ready(by_example))
        watch.signal((total, by_example))
    watch.check(params)
    known = {
        leaf: {
            name: ratio(jax.tree.map(lambda x: x / examples, mean))
            for name, mean in statistics.items()
        }
        for leaf, statistics in total.items()
    }
    for leaf, statistics in known.items():
        statistics["unit_entropies"] = _entropy(jnp.concatenate([by[leaf] for by in pooled]), bins)
    treedef = jax.tree.structure(params)
    by_leaf = [known.get(leaf, {}) for leaf in range(treedef.num_leaves)]
    return Outputs(
        *(
            treedef.unflatten([statistics.get(name) for statistics in by_leaf])
            for name in Outputs._fields
        )
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(apply: Apply, ranks: bool, params: Params, batch: Any) -> Any:
    """By leaf and statistic: means over the batch, and by leaf the means over positions, by example."""
    with jax.default_matmul_precision("highest"):
        found = read(apply, params, batch, functools.partial(_statistics, ranks))
    means: dict[int, dict[str, Mean]] = {}
    pooled: dict[int, jax.Array] = {}
    for leaf in found.records():
        means[leaf] = {
            name: mean for name in _NAMES if (mean := _spread(found, leaf, name)) is not None
        }
        by_example = _spread(found, leaf, "pooled")
        assert by_example is not None
        pooled[leaf] = jnp.moveaxis(ratio(by_example), -1, 0)
    return means, pooled


_NAMES = ("unit_means", "unit_magnitudes", "unit_zeros", "unit_ranks")


def _spread(found: Kernels, leaf: int, name: str) -> Mean | None:
    """The mean of one statistic over the uses of a leaf that have it."""
    emitted = found.observed.emitted
    having = [record for record in found.records()[leaf] if name in emitted[record.statistic]]
    if not having:
        return None
    if name == "pooled":  # uses with another number of examples cannot join
        examples = lambda record: emitted[record.statistic][name].total.shape[-1]
        having = [record for record in having if examples(record) == examples(having[0])]
    return spread(found, leaf, having, [emitted[record.statistic][name] for record in having])


def _statistics(ranks: bool, product: Product) -> Reading | None:
    """What is known of the units of a product, `[*layers, units]`; `pooled` has the examples behind."""
    where = units(product)
    if where is None:
        return None
    first = (*where.layers_out, where.examples, where.unit_out)

    def compute() -> dict[str, Mean]:
        order = (*first, *(a for a in range(product.output.ndim) if a not in first))
        maps = product.output.astype(jnp.float32).transpose(order)
        layers = len(where.layers)
        behind = tuple(range(layers + 2, maps.ndim))
        every = (layers, *behind)
        weight = jnp.ones(maps.shape[:layers], jnp.float32)
        known = {
            "unit_means": maps.mean(every),
            "unit_magnitudes": jnp.abs(maps).mean(every),
            "unit_zeros": jnp.mean(maps == 0, every, dtype=jnp.float32),
            "pooled": jnp.moveaxis(maps.mean(behind), layers, -1),
        }
        if ranks and len(behind) == 2:
            known["unit_ranks"] = jnp.linalg.matrix_rank(maps).astype(jnp.float32).mean(layers)
        return {name: Mean(total, weight) for name, total in known.items()}

    return Reading(id(product), where.layers, (where.unit,), compute)


def _entropy(values: jax.Array, bins: int) -> jax.Array:
    """Of `[examples, ...]`, of each unit."""
    low = values.min(0, keepdims=True)
    high = values.max(0, keepdims=True)
    width = jnp.where(high > low, high - low, 1.0)
    bin_of = jnp.minimum((values - low) / width * bins, bins - 1).astype(jnp.int32)
    share = jnp.stack([jnp.mean(bin_of == b, 0, dtype=jnp.float32) for b in range(bins)])
    return jax.scipy.special.entr(share).sum(0)
