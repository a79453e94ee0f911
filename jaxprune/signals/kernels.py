"""Statistics of the inputs of each kernel, read off its products (`jaxprune.programs.evaluation`)."""

import functools
import math
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.programs.contractions import contraction
from jaxprune.programs.readings import Product, Reading

__all__ = ["Mean", "UnitAxes", "cross_grams", "find_unit_axes", "grams", "input_moments"]


class Mean(NamedTuple):
    """A sum, and the weight to divide it by.

    Attributes:
      total: one element for each index of the layers and of the entries.
      weight: one element for each index of the layers.
    """

    total: jax.Array
    weight: jax.Array


class UnitAxes(NamedTuple):
    """The axes of a product along which the examples and the units of its kernel lie.

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


class _KernelInputs(NamedTuple):
    """The inputs of a kernel, as the rows of a matrix.

    Attributes:
      key: equal for kernels with equal inputs.
      layers: axes of the kernel of which each index has rows of its own.
      entries: axes of the kernel that are summed over.
      moments: gives the mean over the rows of the squares, `[*layers, *entries]`.
      gram: other inputs -> the mean over the rows of the products of these with the others, `[*layers,
        *entries, *entries]`.
    """

    key: Hashable
    layers: tuple[int, ...]
    entries: tuple[int, ...]
    moments: Callable[[], Mean]
    gram: Callable[[jax.Array], Mean]


def input_moments(product: Product) -> Reading | None:
    """Returns how to compute the mean squares of a kernel's inputs; `None` if that is not known."""
    kernel_inputs = _kernel_inputs(product)
    if kernel_inputs is None:
        return None
    return Reading(
        kernel_inputs.key, kernel_inputs.layers, kernel_inputs.entries, kernel_inputs.moments
    )


def grams(product: Product) -> Reading | None:
    """Returns how to compute the mean products of a kernel's inputs; `None` if that is not known."""
    return cross_grams(product, product.other.array)


def cross_grams(product: Product, others: jax.Array) -> Reading | None:
    """Returns how to compute the mean products of a kernel's inputs with others; `None` if that is not known.

    Args:
      product: of the kernel with its inputs.
      others: the inputs of the same product in another run, row by row.
    """
    kernel_inputs = _kernel_inputs(product)
    if kernel_inputs is None:
        return None
    gram = functools.partial(kernel_inputs.gram, others)
    return Reading(kernel_inputs.key, kernel_inputs.layers, kernel_inputs.entries, gram)


def find_unit_axes(product: Product) -> UnitAxes | None:
    """Returns where the units of a kernel lie in its product; `None` if not along exactly one axis.

    The examples are the first axis of the product that is neither a layer nor a unit.
    """
    name = product.equation.primitive.name
    roles = contraction(product.equation)
    if roles is None:
        return None
    output_axes = roles.axes(product.operand, "out")
    if len(output_axes) != 1:
        return None
    if name == "conv_general_dilated":
        spec = product.equation.params["dimension_numbers"]
        return UnitAxes((), output_axes[0], (), int(spec.out_spec[1]), int(spec.out_spec[0]))
    if name != "dot_general" or product.operand == 0:  # then the axes of the kernel come first
        return None
    batch_axes = tuple(int(axis) for axis in product.equation.params["dimension_numbers"][1][1])
    last_axis = product.equation.outvars[0].aval.ndim - 1
    if last_axis == len(batch_axes):  # nothing is left for examples
        return None
    return UnitAxes(
        batch_axes, output_axes[0], tuple(range(len(batch_axes))), last_axis, len(batch_axes)
    )


def _kernel_inputs(product: Product) -> _KernelInputs | None:
    input_reader = _READERS.get(product.equation.primitive.name)
    is_complex = jnp.iscomplexobj(product.other.array)  # their squares are no real numbers
    return None if input_reader is None or is_complex else input_reader(product)


def _inputs_of_dot(product: Product) -> _KernelInputs:
    summed_axes, batch_axes = product.equation.params["dimension_numbers"]
    operand = product.operand
    # Axes of the input in ascending order, so that kernels that are stored otherwise have the same.
    entry_axes = dict(sorted(zip(summed_axes[1 - operand], summed_axes[operand], strict=True)))
    layer_axes = dict(sorted(zip(batch_axes[1 - operand], batch_axes[operand], strict=True)))
    inputs = product.other.array
    row_axes = tuple(
        axis for axis in range(inputs.ndim) if axis not in entry_axes and axis not in layer_axes
    )
    number_of_rows = math.prod(inputs.shape[axis] for axis in row_axes)

    def weight() -> jax.Array:
        return jnp.ones([inputs.shape[axis] for axis in layer_axes], jnp.float32)

    def moments() -> Mean:
        squares = jnp.mean(jnp.square(inputs.astype(jnp.float32)), row_axes)
        remaining_axes = [axis for axis in range(inputs.ndim) if axis not in row_axes]
        axis_order = [remaining_axes.index(axis) for axis in (*layer_axes, *entry_axes)]
        return Mean(squares.transpose(axis_order), weight())

    def gram(others: jax.Array) -> Mean:
        dimension_numbers = ((row_axes, row_axes), (tuple(layer_axes), tuple(layer_axes)))
        result_ndim = len(layer_axes) + 2 * len(entry_axes)
        sums = lax.dot_general(
            inputs.astype(jnp.float32),
            others.astype(jnp.float32),
            dimension_numbers,
            out_sharding=_replicated_sharding(inputs, result_ndim),
        )
        return Mean(sums / number_of_rows, weight())

    key = (product.other, tuple(entry_axes), tuple(layer_axes))
    return _KernelInputs(key, tuple(layer_axes.values()), tuple(entry_axes.values()), moments, gram)


def _replicated_sharding(array: jax.Array, ndim: int) -> NamedSharding | None:
    """Returns the sharding of a result that each device of an explicit mesh holds; `None` without one."""
    mesh = jax.typeof(array).sharding.mesh
    return NamedSharding(mesh, PartitionSpec(*[None] * ndim)) if mesh.explicit_axes else None


def _inputs_of_convolution(product: Product) -> _KernelInputs | None:
    params = product.equation.params
    if params["batch_group_count"] != 1:
        return None
    output_axis, input_axis, *window_axes = params["dimension_numbers"].rhs_spec
    number_of_groups = params["feature_group_count"]
    sizes = tuple(product.shape[axis] for axis in (input_axis, *window_axes))
    layer_axes = (output_axis,) if number_of_groups > 1 else ()

    def weight() -> jax.Array:
        return jnp.ones([number_of_groups] if layer_axes else [], jnp.float32)

    def patch_rows(images: jax.Array) -> jax.Array:
        """Returns the patches of images, `[*layers, rows, entries]`."""
        all_patches = lax.conv_general_dilated_patches(
            images,
            sizes[1:],
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            dimension_numbers=params["dimension_numbers"],
        )
        # The entries of a patch are ordered by channel, then by place in the window.
        channels_last = jnp.moveaxis(all_patches, params["dimension_numbers"].out_spec[1], -1)
        channels_last = channels_last.astype(jnp.float32)
        if not layer_axes:
            return channels_last.reshape(-1, math.prod(sizes))
        return jnp.moveaxis(channels_last.reshape(-1, number_of_groups, math.prod(sizes)), 1, 0)

    def moments() -> Mean:
        squares = jnp.mean(jnp.square(patch_rows(product.other.array)), -2)
        return Mean(squares.reshape(*squares.shape[:-1], *sizes), weight())

    def gram(others: jax.Array) -> Mean:
        rows = patch_rows(product.other.array)
        other_rows = rows if others is product.other.array else patch_rows(others)
        products = jnp.swapaxes(rows, -1, -2) @ other_rows / rows.shape[-2]
        return Mean(products.reshape(*products.shape[:-2], *sizes, *sizes), weight())

    compared_params = (
        "window_strides",
        "padding",
        "lhs_dilation",
        "rhs_dilation",
        "dimension_numbers",
    )
    key = (product.other, number_of_groups, sizes, *(str(params[name]) for name in compared_params))
    return _KernelInputs(key, layer_axes, (input_axis, *window_axes), moments, gram)


def _inputs_of_ragged_dot(product: Product) -> _KernelInputs | None:
    """Returns the inputs of each expert of a mixture, whose mean is over its own rows."""
    dimension_numbers = product.equation.params.get("ragged_dot_dimension_numbers")
    inputs = product.other.array
    is_plain = dimension_numbers is None or (
        tuple(dimension_numbers.dot_dimension_numbers) == (((1,), (1,)), ((), ()))
        and tuple(dimension_numbers.lhs_ragged_dimensions) == (0,)
        and tuple(dimension_numbers.rhs_group_dimensions) == (0,)
    )
    if not is_plain or product.operand != 1 or inputs.ndim != 2 or len(product.shape) != 3:
        return None
    run_sizes = product.operands[2].array
    number_of_experts = run_sizes.shape[0]
    run_ends = jnp.cumsum(run_sizes)

    def weight() -> jax.Array:
        return run_sizes.astype(jnp.float32) / len(inputs)

    def moments() -> Mean:
        # Rows behind the last run are nobody's.
        expert_of_row = jnp.searchsorted(run_ends, jnp.arange(len(inputs)), side="right")
        squares = jnp.square(inputs.astype(jnp.float32)) / len(inputs)
        return Mean(jax.ops.segment_sum(squares, expert_of_row, number_of_experts), weight())

    def gram(others: jax.Array) -> Mean:
        row_indices = jnp.arange(len(inputs))

        def expert_gram(run: tuple[jax.Array, jax.Array]) -> jax.Array:
            begin, end = run
            in_run = ((row_indices >= begin) & (row_indices < end))[:, None]
            expert_rows, other_rows = (
                jnp.where(in_run, rows.astype(jnp.float32), 0) for rows in (inputs, others)
            )
            return expert_rows.T @ other_rows / len(inputs)

        return Mean(lax.map(expert_gram, (run_ends - run_sizes, run_ends)), weight())

    key = (product.other, product.operands[2], "runs")
    return _KernelInputs(key, (0,), (1,), moments, gram)


_READERS: dict[str, Any] = {
    "dot_general": _inputs_of_dot,
    "conv_general_dilated": _inputs_of_convolution,
    "ragged_dot": _inputs_of_ragged_dot,
    "ragged_dot_general": _inputs_of_ragged_dot,
}
