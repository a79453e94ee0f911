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
from jaxprune.signals.kernels import Mean, Units, units
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import Kernels, ratio, read, spread
from jaxprune.signals.placement import positions
from jaxprune.types import Params

__all__ = ["batchnorm_scales"]


def batchnorm_scales(apply: Callable[..., Any], params: Params, batch: Any) -> Params:
    """Returns for each kernel the size of the scales of its units, as a BatchNorm after it multiplies them.

    A scale is a parameter with one number per unit that a product is multiplied by before other activations
    join. Nothing is computed: the function is traced.

    Args:
      apply: (params, batch) -> anything, in evaluation mode, its statistics constant.
      params: tree of arrays.
      batch: tree of arrays, or of their shapes.

    Returns:
      A tree like `params` of arrays that broadcast against the kernels: length 1 along all axes but that of
      the units; `None` at leaves whose units nothing scales. What the criterion `bn_scale` reads.

    References:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017).

    >>> apply = lambda p, x: jax.nn.relu(x @ p["w"] * p["scale"] + p["bias"])
    >>> params = {"w": jnp.ones((2, 3)), "scale": jnp.array([[1.0, -2.0, 0.0]]), "bias": 1.0}
    >>> batchnorm_scales(apply, params, jnp.ones((1, 2)))
    {'bias': None, 'scale': None, 'w': Array([[1., 2., 0.]], dtype=float32)}
    """
    check_function("batchnorm_scales", params, apply=apply)
    full = lambda leaf: (
        jnp.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
    )
    watch = Watch("batchnorm_scales")
    [batch] = watch.batches([jax.tree.map(full, batch)])
    found = jax.jit(functools.partial(_scales, apply))(params, batch)
    watch.signal(found)
    watch.check(params)
    treedef = jax.tree.structure(params)
    return treedef.unflatten([found.get(leaf) for leaf in range(treedef.num_leaves)])


def _scales(apply: Callable[..., Any], params: Params, batch: Any) -> dict[int, jax.Array]:
    """By leaf. Only places that the program computes depend on the batch; all else is dropped by `jit`."""
    kernels = read(apply, params, batch, _multiplied)
    leaves = jax.tree.leaves(params)
    found: dict[int, jax.Array] = {}
    for leaf, records in kernels.records().items():
        scaled = [record for record in records if record.views]
        if scaled:
            means = [_sizes(kernels, record, leaves) for record in scaled]
            found[leaf] = ratio(spread(kernels, leaf, scaled, means)).astype(means[0].total.dtype)
    return found


def _multiplied(product: Product) -> Reading | None:
    """Which parameter multiplies the units of a product; the first, as a BatchNorm has only one."""
    where = units(product)
    if where is None:
        return None
    shape = product.output.shape
    candidates = [
        [view for view in factor.views if _is_scale(view, where, shape)]
        for factor in product.factors
    ]
    scale = next((own[:1] for own in candidates if len({view.leaf for view in own}) == 1), [])
    axes = (*where.layers_out, where.unit_out)
    along = (views.transposed(view, axes) for view in scale)  # what is repeated is left out
    nothing = jnp.zeros((), jnp.float32)
    return Reading(id(product), where.layers, (where.unit,), lambda: nothing, tuple(along))


def _is_scale(view: View, where: Units, shape: tuple[int, ...]) -> bool:
    """Whether a factor has a number of its own for each unit, and the same for all else but the layers."""
    apart = (*where.layers_out, where.unit_out)
    alike = all(
        digit.axis < 0 or digit.size == 1
        for axis, digits in enumerate(view.axes)
        if axis not in apart
        for digit in digits
    )
    own = view.axes[where.unit_out]
    each = view.extent(where.unit_out) == shape[where.unit_out] and all(d.axis >= 0 for d in own)
    return view.exact and alike and each and bool(own)


def _sizes(kernels: Kernels, record: Record, leaves: list[Any]) -> Mean:
    """The sizes of the scales, `[*loops, *layers, units]`."""
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
        Index(start, tuple(own), tuple(pick for pick in view.picks if pick.axis == axis))
        for axis, (start, own) in enumerate(zip(view.starts, terms, strict=True))
    ]
    loops = len(record.lengths)
    places = tuple(positions(index, sizes, kernels.observed.emitted, loops) for index in indices)
    shape = (*record.lengths, *(view.extent(axis) for axis in range(len(view.axes))))
    total = jnp.abs(scale[places]).reshape(shape)
    return Mean(total, jnp.ones(shape[:-1], total.dtype))
