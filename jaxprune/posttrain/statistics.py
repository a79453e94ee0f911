"""What solvers read of the inputs of kernels: means over batches, one for each input."""

import functools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.posttrain.kernels import Input
from jaxprune.signals import kernels as inputs_of
from jaxprune.signals.kernels import Mean
from jaxprune.signals.means import ratio

__all__ = ["Sums", "add", "of_batch", "statistics"]


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
      names: of the statistics: "input_moments" are mean squares, "grams" mean products.
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
    """The sum of two; the arrays of the first are given away."""
    return more if total is None else Sums(_add(total.means, more.means), more.finite)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, total, more)


def statistics(total: Sums, each: Input, examples: float) -> dict[str, jax.Array]:
    """Returns the means, in the order that the kernels' matrices have.

    "input_moments" is `[layers, inputs, 1]`, "grams" `[layers, inputs, inputs]`.
    """
    return _means(total.means, jnp.float32(examples), each.order, each.size)


@functools.partial(jax.jit, static_argnames=("order", "size"))
def _means(
    means: dict[str, Mean], examples: jax.Array, order: tuple[int, ...], size: tuple[int, int]
) -> dict[str, jax.Array]:
    layers, inputs = size
    found: dict[str, jax.Array] = {}
    for name, mean in means.items():
        value = ratio(jax.tree.map(lambda x: x / examples, mean))
        lead = value.ndim - len(order) * (2 if name == "grams" else 1)
        axes = [*range(lead), *(lead + place for place in order)]
        if name == "grams":
            axes += [lead + len(order) + place for place in order]
            found[name] = value.transpose(axes).reshape(layers, inputs, inputs)
        else:
            found[name] = value.transpose(axes).reshape(layers, inputs, 1)
    return found
