"""Branches of a lottery ticket: other initial weights under its masks, other values of what is pruned.

Small pure functions of parameters and masks, which return the start of a training; `experiments.branches`
trains from it. Zhou et al. take a ticket apart into a mask criterion (`mask_criteria.py`), an action on the
weights that remain (`reinitialize`, `reshuffle`, `constant`) and one on those that are pruned (`fill_pruned`,
`frozen_pruned`).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, transforms
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import sharded_like, whole
from jaxprune.kernel_axes import AxesTree, layer_axes, of_leaves
from jaxprune.trees.alike import check_alike
from jaxprune.types import Masks, Params

__all__ = [
    "constant",
    "fill_pruned",
    "frozen_pruned",
    "reinitialize",
    "reshuffle",
]


def reinitialize(
    params: Params,
    masks: Masks,
    key: jax.Array,
    init: Callable[[jax.Array], Params],
    *,
    keep_signs: bool = False,
) -> Params:
    """Returns freshly drawn weights under the masks: the control "random reinitialisation".

    Args:
      params: tree of arrays: the original initial weights, whose signs may be kept.
      masks: bool arrays, `None` at leaves that are never pruned; such leaves are drawn anew as well.
      key: PRNG key of the new draw.
      init: key -> parameters, such as `lambda key: model.init(key, inputs)["params"]`.
      keep_signs: whether each weight of a leaf with a mask keeps the sign that it has in `params`.

    Returns:
      A tree like `params`, zero off the masks.

    Raises:
      ValueError: if `init` or `masks` give other leaves or shapes than `params`.

    References:
      Frankle & Carbin, "The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks" (2019);
      with signs: Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets" (2019).

    >>> params, masks = {"w": jnp.array([-1.0, 2.0, 3.0])}, {"w": jnp.array([True, True, False])}
    >>> draw = lambda key: {"w": jnp.array([5.0, 6.0, 7.0])}
    >>> reinitialize(params, masks, jax.random.key(0), draw, keep_signs=True)
    {'w': Array([-5.,  6.,  0.], dtype=float32)}
    """
    checks.check("reinitialize", params=(params, checks.TREE), masks=(masks, masks_lib.MASKS))
    checks.check("reinitialize", key=(key, checks.KEY), init=(init, checks.FUNCTION))
    _check_masks("reinitialize", params, masks)
    fresh = init(key)
    check_alike("reinitialize", "fresh weights", params, fresh, "give the init of the same model")

    def draw_leaf(old: jax.Array, new: jax.Array, mask: Any) -> jax.Array:
        has_old_sign = mask is not None and keep_signs
        return _in_dtype_of(old, _signed_like(old, jnp.abs(new)) if has_old_sign else new)

    leaves, treedef = jax.tree.flatten(params)
    dense_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    rows = zip(leaves, masks_lib.beside(params, fresh), dense_masks, strict=True)
    return masks_lib.apply(treedef.unflatten([draw_leaf(*row) for row in rows]), masks)


def reshuffle(
    params: Params,
    masks: Masks,
    key: jax.Array,
    *,
    keep_signs: bool = False,
    axes: AxesTree | None = None,
) -> Params:
    """Returns the kept weights of each layer, shuffled among the kept positions of the layer.

    Args:
      params: tree of arrays: the initial weights.
      masks: bool arrays, `None` at leaves that are never pruned, which stay as they are.
      key: PRNG key.
      keep_signs: whether only the sizes are shuffled, so that each position keeps its sign.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.

    Returns:
      A tree like `params`, zero off the masks.

    Raises:
      ValueError: if masks and parameters are different trees.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> params, masks = {"w": jnp.array([-1.0, 2.0, 9.0])}, {"w": jnp.array([True, True, False])}
    >>> sorted(reshuffle(params, masks, jax.random.key(0))["w"].tolist())
    [-1.0, 0.0, 2.0]
    """
    checks.check("reshuffle", params=(params, checks.TREE), masks=(masks, masks_lib.MASKS))
    checks.check("reshuffle", key=(key, checks.KEY))
    _check_masks("reshuffle", params, masks)

    def shuffle_leaf(index: int, weights: jax.Array, mask: Any, leaf_axes: Any) -> jax.Array:
        if mask is None:
            return weights
        draws = jax.random.uniform(jax.random.fold_in(key, index), weights.shape)
        values = _by_layer(jnp.abs(weights) if keep_signs else weights, leaf_axes)
        kept = _by_layer(mask, leaf_axes)
        # Both orders list the kept places first, one as they lie, the other at random.
        places = jnp.argsort(~kept, axis=1, stable=True)
        sources = jnp.lexsort((_by_layer(draws, leaf_axes), ~kept), axis=1)
        moved = jnp.take_along_axis(values, sources, axis=1)
        shuffled = jnp.put_along_axis(jnp.zeros_like(values), places, moved, 1, inplace=False)
        leaf = sharded_like(_from_layers(shuffled, weights.shape, leaf_axes), weights)
        return _signed_like(weights, leaf) if keep_signs else leaf

    leaves, treedef = jax.tree.flatten(params)
    dense_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    rows = zip(range(len(leaves)), leaves, dense_masks, of_leaves(axes, params), strict=True)
    return masks_lib.apply(treedef.unflatten([shuffle_leaf(*row) for row in rows]), masks)


def constant(
    params: Params,
    masks: Masks,
    key: jax.Array | None = None,
    *,
    axes: AxesTree | None = None,
) -> Params:
    r"""Returns the kept weights of each layer as $\pm\sigma$, the standard deviation of its initial weights.

    Args:
      params: tree of arrays: the initial weights, those off the masks too.
      masks: bool arrays, `None` at leaves that are never pruned, which stay as they are.
      key: PRNG key of random signs; `None`: each weight keeps the sign of its initial value.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.

    Returns:
      A tree like `params`, zero off the masks.

    Raises:
      ValueError: if masks and parameters are different trees.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> params, masks = {"w": jnp.array([-1.0, 3.0, 1.0])}, {"w": jnp.array([True, True, False])}
    >>> jax.tree.map(lambda w: w.round(2), constant(params, masks))  # the mean is 1, the variance 8 / 3
    {'w': Array([-1.63,  1.63,  0.  ], dtype=float32)}
    """
    checks.check("constant", params=(params, checks.TREE), masks=(masks, masks_lib.MASKS))
    checks.check("constant", key=(key, checks.optional(checks.KEY)))
    _check_masks("constant", params, masks)

    def constant_leaf(index: int, weights: jax.Array, mask: Any, leaf_axes: Any) -> jax.Array:
        if mask is None:
            return weights
        spread_axes = [a for a in range(weights.ndim) if a not in layer_axes(leaf_axes)]
        sigma = jnp.std(widen(weights), spread_axes, keepdims=True)
        sizes = sharded_like(
            jnp.broadcast_to(whole(sigma), weights.shape).astype(weights.dtype), weights
        )
        if key is None:
            return _signed_like(weights, sizes)
        signs = jax.random.rademacher(jax.random.fold_in(key, index), weights.shape, weights.dtype)
        return sizes * sharded_like(signs, weights)

    leaves, treedef = jax.tree.flatten(params)
    dense_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    rows = zip(range(len(leaves)), leaves, dense_masks, of_leaves(axes, params), strict=True)
    return masks_lib.apply(treedef.unflatten([constant_leaf(*row) for row in rows]), masks)


def fill_pruned(
    params: Params, masks: Masks, initial_params: Params, trained_params: Params | None = None
) -> Params:
    """Returns weights in which pruned ones have their initial values instead of zero.

    Args:
      params: tree of arrays, read on the masks.
      masks: bool arrays, `None` at leaves that are never pruned.
      initial_params: values of pruned weights.
      trained_params: the weights after training from the initial values. If given, pruned weights that
        training has made smaller are zero, and the other pruned weights have their initial values; `None`:
        all pruned weights have their initial values.

    Returns:
      A tree like `params`; train it with `frozen_pruned`: `jaxprune.fixed` sets pruned weights to zero.

    Raises:
      ValueError: if the trees have other leaves or shapes than `params`.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> params, masks = {"w": jnp.array([5.0, 0.0, 0.0])}, {"w": jnp.array([True, False, False])}
    >>> start, trained = {"w": jnp.array([5.0, 1.0, 2.0])}, {"w": jnp.array([6.0, 0.5, -3.0])}
    >>> fill_pruned(params, masks, start)["w"].tolist()
    [5.0, 1.0, 2.0]
    >>> fill_pruned(params, masks, start, trained)["w"].tolist()
    [5.0, 0.0, 2.0]
    """
    checks.check("fill_pruned", params=(params, checks.TREE), masks=(masks, masks_lib.MASKS))
    _check_masks("fill_pruned", params, masks)
    remedy = "give weights of the same model"
    check_alike("fill_pruned", "initial weights", params, initial_params, remedy)
    if trained_params is not None:
        check_alike("fill_pruned", "trained weights", params, trained_params, remedy)

    def fill_leaf(weights: jax.Array, mask: Any, initial: jax.Array, trained: Any) -> jax.Array:
        if mask is None:
            return weights
        if trained is not None:
            has_shrunk = jnp.abs(trained) < jnp.abs(initial)
            initial = jnp.where(has_shrunk, jnp.zeros_like(initial), initial)
        return jnp.where(mask, weights, _in_dtype_of(weights, initial))

    leaves, treedef = jax.tree.flatten(params)
    rows = zip(
        leaves,
        masks_lib.beside(params, masks_lib.unpack(masks)),
        masks_lib.beside(params, initial_params),
        [None] * len(leaves)
        if trained_params is None
        else masks_lib.beside(params, trained_params),
        strict=True,
    )
    return treedef.unflatten([fill_leaf(*row) for row in rows])


def frozen_pruned(
    inner: optax.GradientTransformation, masks: Masks
) -> optax.GradientTransformationExtraArgs:
    """Returns a transform that trains the weights on the masks and never changes the others.

    If the pruned weights are zero, it is the same as `jaxprune.fixed`.

    Args:
      inner: any optax optimizer; it sees pruned weights as zeros without gradients.
      masks: bool arrays, `None` at leaves without a mask.

    Returns:
      A gradient transformation whose `update` needs `params`. Read its masks with `jaxprune.masks_of`.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).

    >>> tx = frozen_pruned(optax.sgd(0.1, momentum=0.9), {"w": jnp.array([True, False])})
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> updates, state = tx.update({"w": jnp.ones(2)}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.9, 2. ], dtype=float32)}
    """
    fixed = transforms.fixed(inner, masks)

    def update(
        updates: Params, state: Any, params: Params = None, **extra: Any
    ) -> tuple[Params, Any]:
        # What `fixed` sees is zero off the masks, so that its update there, which lands on zero, is zero.
        seen = params if params is None else masks_lib.apply(params, state.masks)
        return fixed.update(updates, state, seen, **extra)

    return optax.GradientTransformationExtraArgs(fixed.init, update)


def _check_masks(who: str, params: Params, masks: Masks) -> None:
    """Refuses masks that are not beside the parameters, leaf by leaf and shape by shape."""
    masks_lib.check_order(who, params, masks)
    check_alike(who, "masks", params, masks_lib.unpack(masks), "give masks of the same parameters")


def _signed_like(weights: jax.Array, sizes: jax.Array) -> jax.Array:
    """Returns sizes with the signs of weights; what was zero counts as positive."""
    return jnp.where(weights < 0, -sizes, sizes)


def _in_dtype_of(old: jax.Array, new: jax.Array) -> jax.Array:
    """Returns new values of a leaf in its dtype."""
    dtype = jnp.result_type(old)
    return new if jnp.result_type(new) == dtype else jnp.asarray(new, dtype)


def _by_layer(leaf: jax.Array, axes: Any) -> jax.Array:
    """Returns a leaf as one row per layer."""
    layers_first = jnp.moveaxis(whole(leaf), layer_axes(axes), range(len(layer_axes(axes))))
    return layers_first.reshape(math.prod(layers_first.shape[: len(layer_axes(axes))]), -1)


def _from_layers(rows: jax.Array, shape: tuple[int, ...], axes: Any) -> jax.Array:
    """Returns the leaf of this shape of which these are the layers' rows."""
    first = [shape[axis] for axis in layer_axes(axes)]
    other = [shape[axis] for axis in range(len(shape)) if axis not in layer_axes(axes)]
    return jnp.moveaxis(rows.reshape(*first, *other), range(len(first)), layer_axes(axes))
