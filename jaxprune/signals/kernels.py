"""What enters and leaves each kernel, read off its products (`jaxprune.programs.evaluation`)."""

import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.programs.contractions import contraction
from jaxprune.programs.readings import Product, Reading

__all__ = ["Mean", "Units", "grams", "input_moments", "units"]


class Mean(NamedTuple):
    """A mean in the making: of a sum, and the weight that it has to be divided by.

    Attributes:
      total: a number for each index of the layers and of the entries.
      weight: a number for each index of the layers.
    """

    total: jax.Array
    weight: jax.Array


class Units(NamedTuple):
    """Which axes of a product are those of the examples and of the units of its kernel.

    Attributes:
      layers: axes of the kernel of which each index has a product of its own.
      unit: axis of the kernel along which the units lie.
      layers_out: the axes of the product that `layers` become.
      unit_out: the axis that `unit` becomes.
      examples: axis of the product.
    """

    layers: tuple[int, ...]
    unit: int
    layers_out: tuple[int, ...]
    unit_out: int
    examples: int


class _Entering(NamedTuple):
    """What a kernel is multiplied with, as the rows of a matrix.

    Attributes:
      key: the same where these are the same numbers.
      layers: axes of the kernel of which each index has rows of its own.
      entries: axes of the kernel that are summed over.
      moments: gives the mean over the rows of the squares, `[*layers, *entries]`.
      gram: gives the mean over the rows of the products, `[*layers, *entries, *entries]`.
    """

    key: Hashable
    layers: tuple[int, ...]
    entries: tuple[int, ...]
    moments: Callable[[], Mean]
    gram: Callable[[], Mean]


def input_moments(product: Product) -> Reading | None:
    """The mean squares of what a kernel is multiplied with."""
    entering = _entering(product)
    if entering is None:
        return None
    return Reading(entering.key, entering.layers, entering.entries, entering.moments)


def grams(product: Product) -> Reading | None:
    """The mean products of what a kernel is multiplied with."""
    entering = _entering(product)
    if entering is None:
        return None
    return Reading(entering.key, entering.layers, entering.entries, entering.gram)


def units(product: Product) -> Units | None:
    """Where the units of a kernel lie in its product; `None` if they are not along exactly one axis.

    The examples are the first axis of the product that is neither a layer nor a unit.
    """
    name = product.equation.primitive.name
    account = contraction(product.equation)
    if account is None:
        return None
    kept = account.axes(product.operand, "out")
    if len(kept) != 1:
        return None
    if name == "conv_general_dilated":
        spec = product.equation.params["dimension_numbers"]
        return Units((), kept[0], (), int(spec.out_spec[1]), int(spec.out_spec[0]))
    if name != "dot_general" or product.operand == 0:  # then the axes of the kernel come first
        return None
    batch = tuple(int(axis) for axis in product.equation.params["dimension_numbers"][1][1])
    last = product.equation.outvars[0].aval.ndim - 1
    if last == len(batch):  # nothing is left for examples
        return None
    return Units(batch, kept[0], tuple(range(len(batch))), last, len(batch))


def _entering(product: Product) -> _Entering | None:
    reader = _READERS.get(product.equation.primitive.name)
    return None if reader is None else reader(product)


def _dot(product: Product) -> _Entering:
    summed, batch = product.equation.params["dimension_numbers"]
    own = product.operand
    # Axes of the input in ascending order, so that kernels that are stored otherwise have the same.
    entries = dict(sorted(zip(summed[1 - own], summed[own], strict=True)))
    layers = dict(sorted(zip(batch[1 - own], batch[own], strict=True)))
    x = product.other.array
    rows = tuple(axis for axis in range(x.ndim) if axis not in entries and axis not in layers)
    count = math.prod(x.shape[axis] for axis in rows)
    weight = lambda: jnp.ones([x.shape[axis] for axis in layers], jnp.float32)

    def moments() -> Mean:
        squares = jnp.mean(jnp.square(x.astype(jnp.float32)), rows)
        left = [axis for axis in range(x.ndim) if axis not in rows]
        order = [left.index(axis) for axis in (*layers, *entries)]
        return Mean(squares.transpose(order), weight())

    def gram() -> Mean:
        wide = x.astype(jnp.float32)
        numbers = ((rows, rows), (tuple(layers), tuple(layers)))
        size = len(layers) + 2 * len(entries)
        found = lax.dot_general(wide, wide, numbers, out_sharding=_everywhere(x, size))
        return Mean(found / count, weight())

    key = (product.other, tuple(entries), tuple(layers))
    return _Entering(key, tuple(layers.values()), tuple(entries.values()), moments, gram)


def _everywhere(x: jax.Array, ndim: int) -> NamedSharding | None:
    """On an explicit mesh, that each device has the whole of a result."""
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec(*[None] * ndim)) if mesh.explicit_axes else None


def _conv(product: Product) -> _Entering | None:
    params = product.equation.params
    if params["batch_group_count"] != 1:
        return None
    out, entering, *window = params["dimension_numbers"].rhs_spec
    groups = params["feature_group_count"]
    sizes = tuple(product.shape[axis] for axis in (entering, *window))
    layers = (out,) if groups > 1 else ()
    weight = lambda: jnp.ones([groups] if layers else [], jnp.float32)

    def rows() -> jax.Array:
        """`[*layers, rows, entries]`."""
        patches = lax.conv_general_dilated_patches(
            product.other.array,
            sizes[1:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            dimension_numbers=params["dimension_numbers"],
        )
        # The entries of a patch are ordered by channel, then by place in the window.
        last = jnp.moveaxis(patches, params["dimension_numbers"].out_spec[1], -1)
        last = last.astype(jnp.float32)
        if not layers:
            return last.reshape(-1, math.prod(sizes))
        return jnp.moveaxis(last.reshape(-1, groups, math.prod(sizes)), 1, 0)

    def moments() -> Mean:
        squares = jnp.mean(jnp.square(rows()), -2)
        return Mean(squares.reshape(*squares.shape[:-1], *sizes), weight())

    def gram() -> Mean:
        patches = rows()
        found = jnp.swapaxes(patches, -1, -2) @ patches / patches.shape[-2]
        return Mean(found.reshape(*found.shape[:-2], *sizes, *sizes), weight())

    how = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    key = (product.other, groups, sizes, *(str(params[name]) for name in how))
    return _Entering(key, layers, (entering, *window), moments, gram)


def _ragged_dot(product: Product) -> _Entering | None:
    """Of an expert the mean is over its own rows."""
    numbers = product.equation.params.get("ragged_dot_dimension_numbers")
    x = product.other.array
    plain = numbers is None or (
        tuple(numbers.dot_dimension_numbers) == (((1,), (1,)), ((), ()))
        and tuple(numbers.lhs_ragged_dimensions) == (0,)
        and tuple(numbers.rhs_group_dimensions) == (0,)
    )
    if not plain or product.operand != 1 or x.ndim != 2 or len(product.shape) != 3:
        return None
    sizes = product.operands[2].array
    experts = sizes.shape[0]
    ends = jnp.cumsum(sizes)
    weight = lambda: sizes.astype(jnp.float32) / len(x)

    def moments() -> Mean:
        # Rows behind the last run are nobody's.
        owner = jnp.searchsorted(ends, jnp.arange(len(x)), side="right")
        squares = jnp.square(x.astype(jnp.float32)) / len(x)
        return Mean(jax.ops.segment_sum(squares, owner, experts), weight())

    def gram() -> Mean:
        row = jnp.arange(len(x))

        def of_expert(run: tuple[jax.Array, jax.Array]) -> jax.Array:
            begin, end = run
            mine = ((row >= begin) & (row < end))[:, None]
            rows = jnp.where(mine, x.astype(jnp.float32), 0)
            return rows.T @ rows / len(x)

        return Mean(lax.map(of_expert, (ends - sizes, ends)), weight())

    key = (product.other, product.operands[2], "runs")
    return _Entering(key, (0,), (1,), moments, gram)


_READERS: dict[str, Any] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
}
