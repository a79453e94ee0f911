"""What solvers read of the inputs of kernels: means over batches, one for each input."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.posttrain.kernels import Input
from jaxprune.signals import kernels as inputs_of
from jaxprune.signals.kernels import Mean
from jaxprune.signals.means import ratio

__all__ = ["KNOWN", "Sums", "add", "of_batch", "statistics"]

KNOWN = ("inputs", "grams")


class Sums(NamedTuple):
    """Statistics of one input in the making, weighted by examples.

    Attributes:
      means: by name, sums of means.
      finite: whether all numbers of the last batch are.
    """

    means: dict[str, Mean]
    finite: jax.Array


def of_batch(
    each: Input, arrays: Sequence[Any], names: Collection[str], examples: jax.Array
) -> Sums:
    """The statistics of one batch, times its examples.

    Args:
      each: the input.
      arrays: values of `Input.variables`.
      names: of the statistics: "inputs" are mean squares, "grams" mean products.
      examples: float32 scalar.
    """
    product = each.product(arrays)
    found: dict[str, Mean] = {}
    with jax.default_matmul_precision("highest"):
        for name in sorted(names):
            reading = (inputs_of.grams if name == "grams" else inputs_of.input_moments)(product)
            assert reading is not None, "the plan has read it before"
            mean = reading.compute()
            found[name] = Mean(mean.total * examples, mean.weight * examples)
    finite = jnp.array(True)
    for mean in found.values():
        finite &= jnp.isfinite(mean.total).all()
    return Sums(found, finite)


def add(total: Sums | None, more: Sums) -> Sums:
    """The sum of two."""
    if total is None:
        return more
    means = jax.tree.map(jnp.add, total.means, more.means)
    return Sums(means, more.finite)


def statistics(total: Sums, each: Input, examples: float) -> dict[str, jax.Array]:
    """Returns the means, in the order that the kernels' matrices have.

    "inputs" is `[layers, inputs, 1]`, "grams" `[layers, inputs, inputs]`.
    """
    layers, inputs = each.size
    found: dict[str, jax.Array] = {}
    for name, mean in total.means.items():
        value = ratio(jax.tree.map(lambda x: x / examples, mean))
        lead = value.ndim - len(each.order) * (2 if name == "grams" else 1)
        order = [*range(lead), *(lead + place for place in each.order)]
        if name == "grams":
            order += [lead + len(each.order) + place for place in each.order]
            found[name] = value.transpose(order).reshape(layers, inputs, inputs)
        else:
            found[name] = value.transpose(order).reshape(layers, inputs, 1)
    return found
