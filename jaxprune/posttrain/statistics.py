"""Statistics of kernel inputs that solvers read: mean squares and Gram matrices over batches."""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.posttrain.kernels import Input
from jaxprune.signals import kernels as inputs_of
from jaxprune.signals.kernels import Mean
from jaxprune.signals.means import ratio

__all__ = [
    "Sums",
    "add",
    "add_use",
    "batch_cross_grams",
    "batch_statistics",
    "mean_of_uses",
    "statistics",
]


class Sums(NamedTuple):
    """Running sums of the statistics of one input, weighted by examples.

    Attributes:
      means: by name, sums of the batches' means.
      finite: whether all numbers of the last batch are finite.
    """

    means: dict[str, Mean]
    finite: jax.Array


def batch_statistics(
    kernel_input: Input, arrays: Sequence[Any], names: Collection[str], examples: jax.Array
) -> Sums:
    """Returns the statistics of one batch, times its number of examples.

    Args:
      kernel_input: the input.
      arrays: values of `Input.variables`.
      names: of the statistics: "input_moments" are mean squares, "grams" mean products.
      examples: number of examples, a float32 scalar.
    """
    product = kernel_input.product(arrays)
    means: dict[str, Mean] = {}
    with jax.default_matmul_precision("highest"):
        for name in sorted(names):
            read = inputs_of.grams if name == "grams" else inputs_of.input_moments
            reading = read(product)
            assert reading is not None, "the plan has read it before"
            batch_mean = reading.compute()
            means[name] = Mean(batch_mean.total * examples, batch_mean.weight * examples)
    is_finite = jnp.array(True)
    for batch_mean in means.values():
        is_finite &= jnp.isfinite(batch_mean.total).all()
    return Sums(means, is_finite)


def batch_cross_grams(
    kernel_input: Input, arrays: Sequence[Any], dense_arrays: Sequence[Any], examples: jax.Array
) -> Sums:
    """Returns mean products of the inputs of one batch with those of the dense network, times its examples.

    Args:
      kernel_input: the input.
      arrays: values of `Input.variables`.
      dense_arrays: the same of the network before pruning.
      examples: number of examples, a float32 scalar.
    """
    product, dense_product = (kernel_input.product(values) for values in (arrays, dense_arrays))
    with jax.default_matmul_precision("highest"):
        reading = inputs_of.cross_grams(product, dense_product.other.array)
        assert reading is not None, "the plan has read it before"
        batch_mean = reading.compute()
    mean = Mean(batch_mean.total * examples, batch_mean.weight * examples)
    return Sums({"cross_grams": mean}, jnp.isfinite(batch_mean.total).all())


def add(total: Sums | None, addition: Sums) -> Sums:
    """Returns the sum of two; the buffers of the first are reused."""
    return addition if total is None else Sums(_add(total.means, addition.means), addition.finite)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: Any, addition: Any) -> Any:
    return jax.tree.map(jnp.add, total, addition)


def statistics(total: Sums, kernel_input: Input, examples: float) -> dict[str, jax.Array]:
    """Returns the means over all examples, with inputs in the order of the kernels' matrices.

    Args:
      total: sums over batches.
      kernel_input: the input that they are of.
      examples: number of examples in these batches.

    Returns:
      Arrays by name: "input_moments" is `[layers, inputs, 1]`, "grams" and "cross_grams" `[layers, inputs,
      inputs]`; where each row belongs to one layer, "rows" is the share of them that each layer had,
      `[layers, 1, 1]`.
    """
    means = _means(total.means, jnp.float32(examples), kernel_input.order, kernel_input.size)
    if kernel_input.is_sorted_by_layer:
        mean = next(iter(total.means.values()))
        means["rows"] = (mean.weight / examples).reshape(-1, 1, 1)
    return means


def add_use(
    total: dict[str, jax.Array] | None, use: dict[str, jax.Array], share: float
) -> dict[str, jax.Array]:
    """Adds the statistics of one use of a kernel to the sum over its uses; reuses the buffers of `total`.

    Args:
      total: sum over the uses before; `None`: there are none.
      use: what `statistics` returns.
      share: of this use in all rows that the kernel is multiplied with.
    """
    weighted_use = _times_rows(use, share)
    return weighted_use if total is None else _add(total, weighted_use)


@jax.jit
def _times_rows(use: dict[str, jax.Array], share: Any) -> dict[str, jax.Array]:
    weight = share * use["rows"] if "rows" in use else share
    return {name: weight if name == "rows" else value * weight for name, value in use.items()}


def mean_of_uses(total: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns the statistics of a kernel over the rows of all its uses, from what `add_use` has summed."""
    return _over_rows(total) if "rows" in total else total


@jax.jit
def _over_rows(total: dict[str, jax.Array]) -> dict[str, jax.Array]:
    rows = total["rows"]
    return {name: ratio(Mean(value, rows)) for name, value in total.items() if name != "rows"}


@functools.partial(jax.jit, static_argnames=("order", "size"))
def _means(
    means: dict[str, Mean], examples: jax.Array, order: tuple[int, ...], size: tuple[int, int]
) -> dict[str, jax.Array]:
    """Returns the means, with the axes of each input flattened in the order of the matrices."""
    layers, inputs = size
    statistic_arrays: dict[str, jax.Array] = {}
    for name, summed_mean in means.items():
        value = ratio(jax.tree.map(lambda x: x / examples, summed_mean))
        is_gram = name in ("grams", "cross_grams")
        leading_axes = value.ndim - len(order) * (2 if is_gram else 1)
        axes = [
            *range(leading_axes),
            *(leading_axes + axis_index for axis_index in order),
        ]
        if is_gram:
            axes += [leading_axes + len(order) + axis_index for axis_index in order]
            statistic_arrays[name] = value.transpose(axes).reshape(layers, inputs, inputs)
        else:
            statistic_arrays[name] = value.transpose(axes).reshape(layers, inputs, 1)
    return statistic_arrays
