"""The scale by which a normalisation multiplies each unit of a kernel, found in the program of a function."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.programs import views
from jaxprune.programs.readings import Product, Reading, Record
from jaxprune.programs.views import View
from jaxprune.signals.arrangements import Index, Term
from jaxprune.signals.finite import Watch
from jaxprune.signals.kernels import Mean, UnitAxes, find_unit_axes
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import Kernels, mean_over_uses, ratio, read_kernels
from jaxprune.signals.placement import index_array
from jaxprune.types import Params

__all__ = ["batchnorm_scales"]


def batchnorm_scales(apply: Callable[..., Any], params: Params, batch: Any) -> Params:
    """Returns for each kernel the absolute scales by which a BatchNorm after it multiplies its units.

    A scale is a parameter with one number per unit. It multiplies the output of the kernel before other
    activations join. `apply` is traced, not run.

    Args:
      apply: (params, batch) -> anything, in evaluation mode: the statistics of the BatchNorm are constants.
      params: tree of arrays.
      batch: tree of arrays, or of their shapes.

    Returns:
      A tree like `params` of arrays that broadcast against the kernels: length 1 along all axes but that of
      the units; `None` at leaves whose units have no such scale. The criterion `bn_scale` reads it.

    References:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017).

    >>> apply = lambda p, x: jax.nn.relu(x @ p["w"] * p["scale"] + p["bias"])
    >>> params = {"w": jnp.ones((2, 3)), "scale": jnp.array([[1.0, -2.0, 0.0]]), "bias": 1.0}
    >>> batchnorm_scales(apply, params, jnp.ones((1, 2)))
    {'bias': None, 'scale': None, 'w': Array([[1., 2., 0.]], dtype=float32)}
    """
    check_function("batchnorm_scales", params, apply=apply)
    watch = Watch("batchnorm_scales")
    [batch] = watch.batches([jax.tree.map(_zeros_if_shape, batch)])
    scales_by_leaf = jax.jit(functools.partial(_scales, apply))(params, batch)
    watch.signal(scales_by_leaf)
    watch.check(params)
    treedef = jax.tree.structure(params)
    return treedef.unflatten([scales_by_leaf.get(leaf) for leaf in range(treedef.num_leaves)])


def _zeros_if_shape(leaf: Any) -> Any:
    is_shape = isinstance(leaf, jax.ShapeDtypeStruct)
    return jnp.zeros(leaf.shape, leaf.dtype) if is_shape else leaf


def _scales(apply: Callable[..., Any], params: Params, batch: Any) -> dict[int, jax.Array]:
    """Returns absolute scales by index of the leaf.

    Only indices that the program computes depend on the batch; all else is dropped by `jit`.
    """
    kernels = read_kernels(apply, params, batch, _read_scale)
    leaves = jax.tree.leaves(params)
    scales_by_leaf: dict[int, jax.Array] = {}
    for leaf, records in kernels.records().items():
        scaled_records = [record for record in records if record.views]
        if scaled_records:
            means = [_scale_sizes(kernels, record, leaves) for record in scaled_records]
            scales_by_leaf[leaf] = ratio(
                mean_over_uses(kernels, leaf, scaled_records, means)
            ).astype(means[0].total.dtype)
    return scales_by_leaf


def _read_scale(product: Product) -> Reading | None:
    """Returns the view of the parameter that first multiplies the units of a product: BatchNorm's scale."""
    unit_axes = find_unit_axes(product)
    if unit_axes is None:
        return None
    shape = product.output.shape
    candidates = [
        [view for view in factor.views if _is_scale(view, unit_axes, shape)]
        for factor in product.factors
    ]
    scale = next(
        (
            factor_views[:1]
            for factor_views in candidates
            if len({view.leaf for view in factor_views}) == 1
        ),
        [],
    )
    axes = (*unit_axes.layers_out, unit_axes.unit_out)
    moved_views = (views.transposed(view, axes) for view in scale)  # what is repeated is left out
    no_statistic = jnp.zeros((), jnp.float32)
    return Reading(
        id(product), unit_axes.layers, (unit_axes.unit,), lambda: no_statistic, tuple(moved_views)
    )


def _is_scale(view: View, unit_axes: UnitAxes, shape: tuple[int, ...]) -> bool:
    """Whether a factor has an element of its own for each unit, and the same for all else but the layers."""
    layer_and_unit_axes = (*unit_axes.layers_out, unit_axes.unit_out)
    is_constant_elsewhere = all(
        digit.axis < 0 or digit.size == 1
        for axis, digits in enumerate(view.axes)
        if axis not in layer_and_unit_axes
        for digit in digits
    )
    unit_digits = view.axes[unit_axes.unit_out]
    differs_by_unit = view.extent(unit_axes.unit_out) == shape[unit_axes.unit_out] and all(
        digit.axis >= 0 for digit in unit_digits
    )
    return view.exact and is_constant_elsewhere and differs_by_unit and bool(unit_digits)


def _scale_sizes(kernels: Kernels, record: Record, leaves: list[Any]) -> Mean:
    """Returns the absolute scales, `[*loops, *layers, units]`."""
    (view,) = record.views
    scale = leaves[view.leaf]
    digits = [digit for axis in view.axes for digit in axis]
    sizes = (*record.lengths, *(digit.size for digit in digits))
    terms: list[list[Term]] = [[] for _ in view.starts]
    for loop in view.loops:
        terms[loop.digit.axis].append(Term(loop.depth, loop.digit.size, loop.digit.stride))
    for dimension, digit in enumerate(digits, len(record.lengths)):
        if digit.axis >= 0:
            terms[digit.axis].append(Term(dimension, digit.size, digit.stride))
    indices = [
        Index(start, tuple(axis_terms), tuple(pick for pick in view.picks if pick.axis == axis))
        for axis, (start, axis_terms) in enumerate(zip(view.starts, terms, strict=True))
    ]
    number_of_loops = len(record.lengths)
    index_arrays = tuple(
        index_array(index, sizes, kernels.observed.emitted, number_of_loops) for index in indices
    )
    shape = (*record.lengths, *(view.extent(axis) for axis in range(len(view.axes))))
    total = jnp.abs(scale[index_arrays]).reshape(shape)
    return Mean(total, jnp.ones(shape[:-1], total.dtype))
