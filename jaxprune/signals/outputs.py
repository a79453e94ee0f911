"""Signals of the activations of each kernel's units: means, shares of zeros, entropies, ranks."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.programs.readings import Product, Reading, Record
from jaxprune.signals.batches import check_several, with_example_counts
from jaxprune.signals.finite import Watch
from jaxprune.signals.kernels import Mean, find_unit_axes
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import Kernels, mean_over_uses, ratio, read_kernels
from jaxprune.types import Params

__all__ = ["Outputs", "outputs"]

Apply = Callable[[Params, Any], Any]
Progress = Callable[[int], Any] | None


class Outputs(NamedTuple):
    """Statistics of the units of each kernel: trees like the parameters, `None` where nothing is known.

    Attributes:
      unit_means: mean activation.
      unit_magnitudes: mean absolute activation.
      unit_zeros: fraction of activations that are zero (APoZ).
      unit_entropies: entropy, in nats, of the histogram over examples of the mean over positions.
      unit_ranks: rank of the feature map, mean over the examples; `None` where units have no map.
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
    r"""Returns statistics of the units of each kernel: means, shares of zeros, entropies and ranks.

    A unit's activation is its output after bias, BatchNorm and nonlinearity. It is read before other
    activations join (a residual sum) and before its shape changes (pooling). For the entropy,
    $-\sum_b p_b \log p_b$, the activation is averaged over positions; the bins divide the range from the
    smallest to the largest of these means. The batches are read once, and one number per example and unit is
    kept for the entropy.

    Args:
      apply: (params, batch) -> anything, in evaluation mode, as batch statistics mix the activations of
        examples. Pass the same function object again to avoid a second compilation.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; the first axis of activations must be the examples too.
      bins: number of bins of the entropy.
      ranks: whether to compute ranks, one singular value decomposition per example and map.
      progress: called with the number of batches done, after each.

    Returns:
      `Outputs` of float32 arrays that broadcast against the kernels: length 1 along all axes but those of the
      units and of layers. `None` for kernels with units along two axes, and for ragged products.

    Raises:
      ValueError: `bins` is below 1, there are no batches, or one holds NaN.

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
    checks.check("outputs", bins=(bins, checks.INTEGER), ranks=(ranks, checks.BOOLEAN))
    if bins < 1:
        raise ValueError(f"outputs(bins={bins}): at least 1 is needed.")
    total: Any = None
    examples = 0
    means_by_batch: list[dict[int, jax.Array]] = []
    watch = Watch("outputs")
    for batch, number_in_batch in with_example_counts(
        watch.batches(check_several(batches)), progress
    ):
        means, by_example = _outputs(apply, ranks, params, batch)
        weighted_means = jax.tree.map(
            lambda x, number_in_batch=number_in_batch: number_in_batch * x, means
        )
        total = weighted_means if total is None else jax.tree.map(jnp.add, total, weighted_means)
        examples += number_in_batch
        means_by_batch.append(jax.block_until_ready(by_example))
        watch.signal((total, by_example))
    watch.check(params)
    statistics_by_leaf = {
        leaf: {
            name: ratio(jax.tree.map(lambda x: x / examples, mean))
            for name, mean in statistics.items()
        }
        for leaf, statistics in total.items()
    }
    for leaf, statistics in statistics_by_leaf.items():
        statistics["unit_entropies"] = _entropy(
            jnp.concatenate([batch_means[leaf] for batch_means in means_by_batch]), bins
        )
    treedef = jax.tree.structure(params)
    statistics_of_leaves = [statistics_by_leaf.get(leaf, {}) for leaf in range(treedef.num_leaves)]
    return Outputs(
        *(
            treedef.unflatten([statistics.get(name) for statistics in statistics_of_leaves])
            for name in Outputs._fields
        )
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _outputs(apply: Apply, ranks: bool, params: Params, batch: Any) -> Any:
    """Returns by leaf and statistic the means over the batch, and by leaf the activations [examples, ...]."""
    with jax.default_matmul_precision("highest"):
        kernels_read = read_kernels(apply, params, batch, functools.partial(_statistics, ranks))
    means: dict[int, dict[str, Mean]] = {}
    pooled_by_leaf: dict[int, jax.Array] = {}
    for leaf in kernels_read.records():
        means[leaf] = {
            name: mean
            for name in _NAMES
            if (mean := _mean_statistic(kernels_read, leaf, name)) is not None
        }
        by_example = _mean_statistic(kernels_read, leaf, "pooled")
        assert by_example is not None
        pooled_by_leaf[leaf] = jnp.moveaxis(ratio(by_example), -1, 0)
    return means, pooled_by_leaf


_NAMES = ("unit_means", "unit_magnitudes", "unit_zeros", "unit_ranks")


def _mean_statistic(kernels: Kernels, leaf: int, name: str) -> Mean | None:
    """Returns the mean of one statistic over the uses of a leaf that have it; `None` if none has."""
    emitted = kernels.observed.emitted
    records_with_statistic = [
        record for record in kernels.records()[leaf] if name in emitted[record.statistic]
    ]
    if not records_with_statistic:
        return None

    def number_of_examples(record: Record) -> int:
        return emitted[record.statistic][name].total.shape[-1]

    if name == "pooled":  # uses with another number of examples cannot join
        records_with_statistic = [
            record
            for record in records_with_statistic
            if number_of_examples(record) == number_of_examples(records_with_statistic[0])
        ]
    return mean_over_uses(
        kernels,
        leaf,
        records_with_statistic,
        [emitted[record.statistic][name] for record in records_with_statistic],
    )


def _statistics(ranks: bool, product: Product) -> Reading | None:
    """Returns how to compute the statistics of a product's units, `[*layers, units]`.

    `pooled` has the examples along a last axis.
    """
    unit_axes = find_unit_axes(product)
    if unit_axes is None:
        return None
    leading_axes = (*unit_axes.layers_out, unit_axes.examples, unit_axes.unit_out)

    def compute() -> dict[str, Mean]:
        axis_order = (
            *leading_axes,
            *(axis for axis in range(product.output.ndim) if axis not in leading_axes),
        )
        maps = product.output.astype(jnp.float32).transpose(axis_order)
        number_of_layer_axes = len(unit_axes.layers)
        map_axes = tuple(range(number_of_layer_axes + 2, maps.ndim))
        all_but_units = (number_of_layer_axes, *map_axes)
        weight = jnp.ones(maps.shape[:number_of_layer_axes], jnp.float32)
        totals = {
            "unit_means": maps.mean(all_but_units),
            "unit_magnitudes": jnp.abs(maps).mean(all_but_units),
            "unit_zeros": jnp.mean(maps == 0, all_but_units, dtype=jnp.float32),
            "pooled": jnp.moveaxis(maps.mean(map_axes), number_of_layer_axes, -1),
        }
        if ranks and len(map_axes) == 2:
            totals["unit_ranks"] = (
                jnp.linalg.matrix_rank(maps).astype(jnp.float32).mean(number_of_layer_axes)
            )
        return {name: Mean(total, weight) for name, total in totals.items()}

    return Reading(id(product), unit_axes.layers, (unit_axes.unit,), compute)


def _entropy(values: jax.Array, bins: int) -> jax.Array:
    """Returns the entropy of each unit's values `[examples, ...]`, binned between its extremes."""
    lowest = values.min(0, keepdims=True)
    highest = values.max(0, keepdims=True)
    width = jnp.where(highest > lowest, highest - lowest, 1.0)
    bin_indices = jnp.minimum((values - lowest) / width * bins, bins - 1).astype(jnp.int32)
    shares = jnp.stack(
        [jnp.mean(bin_indices == bin_index, 0, dtype=jnp.float32) for bin_index in range(bins)]
    )
    return jax.scipy.special.entr(shares).sum(0)
