"""Masks and their parameters: validated, applied, checked for leaks."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.masks.packing import MASKS, all_bool, dense
from jaxprune.trees import is_placeholder, paths
from jaxprune.trees.alike import entries_beside, join_faults, shape_of
from jaxprune.types import Masks, Params

__all__ = ["apply", "check", "check_order", "validate", "where"]


_PARAMS = checks.Kind(  # what masks are beside: not masks themselves
    "the parameters", lambda tree: checks.TREE.fits(tree) and not all_bool(tree), lambda _: ""
)


def validate(params: Params, masks: Masks) -> None:
    """Checks that masks fit parameters, leaf by leaf, in shape and dtype.

    Args:
      params: tree of arrays.
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.

    Raises:
      ValueError: naming the leaves where they do not fit.
      TypeError: if the two are swapped.

    >>> validate({"w": jnp.ones(3)}, {"w": jnp.ones(2, bool)})
    Traceback (most recent call last):
    ValueError: masks: 'w' has the shape (2,), its parameter (3,).
    """
    if is_placeholder(params):
        return
    check_order("masks.validate", params, masks)
    checks.check("masks.validate", params=(params, checks.TREE))
    _fitting_masks("masks", params, masks)


def _fitting_masks(who: str, params: Params, masks: Masks) -> list[Any]:
    """Returns the masks by leaf, `None` where there is none; refuses those that do not fit."""

    def refusal(differ: str) -> str:
        return (
            f"{who}: the tree differs from that of the parameters ({differ}); make masks with "
            "jaxprune.masks.make(params)."
        )

    leaf_masks = entries_beside(params, masks, refusal)
    pairs = zip(jax.tree.leaves(params), leaf_masks, strict=True)
    faults = [None if mask is None else _fault(leaf, mask) for leaf, mask in pairs]
    if any(faults):
        rows = zip(paths(params), faults, strict=True)
        raise ValueError(
            f"{who}: {join_faults([f'{path!r} {fault}' for path, fault in rows if fault])}."
        )
    return leaf_masks


def _fault(leaf: Any, mask: Any) -> str | None:
    """Returns what is wrong with the mask of a leaf, if anything is."""
    mask_shape = shape_of(mask)
    leaf_shape = shape_of(leaf)
    if mask_shape is None:
        return f"has the shape of a {type(mask).__name__}, its parameter {leaf_shape}"
    if mask_shape != leaf_shape:
        return f"has the shape {mask_shape}, its parameter {leaf_shape}"
    if jnp.issubdtype(getattr(leaf, "dtype", jnp.float32), jax.dtypes.prng_key):
        return "is a mask, its parameter holds PRNG keys; None is needed"
    if not hasattr(mask, "dtype"):
        return f"has a {type(mask).__name__} for a mask, a bool array is needed"
    return None if mask.dtype == bool else f"has the dtype {mask.dtype}, bool is needed"


def check_order(who: str, params: Params, masks: Masks) -> None:
    """Raises `TypeError` if masks and parameters are swapped."""
    checks.swapped(who, masks=(masks, MASKS), params=(params, _PARAMS))


def apply(params: Params, masks: Masks) -> Params:
    """Returns `params` with exact zeros off the masks (a NaN there becomes zero too).

    Args:
      params: tree of arrays.
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.

    Returns:
      A tree like `params`, in its dtypes.

    Raises:
      ValueError: naming the leaves where the masks do not fit: nothing is broadcast.
      TypeError: if the two are swapped.

    >>> apply({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    if is_placeholder(params):
        return params
    check_order("masks.apply", params, masks)
    leaves, treedef = jax.tree.flatten(params)
    pairs = zip(leaves, _fitting_masks("masks", params, masks), strict=True)
    return treedef.unflatten(_select(leaf, mask, 0) for leaf, mask in pairs)


def where(masks: Masks, inside: Params, outside: Params) -> Params:
    """Returns `inside` where a mask is true and at leaves without a mask, `outside` elsewhere.

    Args:
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.
      inside: tree of arrays that the masks fit.
      outside: tree of the same leaves and shapes, or with single numbers for leaves.

    Returns:
      A tree like `inside`, in its dtypes.

    Raises:
      ValueError: naming the leaves where the masks, or the two trees, do not fit: nothing is broadcast, but a
        single number.

    >>> where({"w": jnp.array([True, False])}, {"w": jnp.ones(2)}, {"w": jnp.zeros(2)})
    {'w': Array([1., 0.], dtype=float32)}
    """
    leaves, treedef = jax.tree.flatten(inside)
    leaf_masks = _fitting_masks("masks.where", inside, masks)

    def refusal(differ: str) -> str:
        return (
            f"masks.where: inside and outside are different trees ({differ}); give trees with the same "
            "leaves."
        )

    outside_leaves = entries_beside(inside, outside, refusal)
    rows = list(zip(leaves, leaf_masks, outside_leaves, strict=True))
    faults = [
        f"{path!r} has the shape {shape_of(outside_leaf)} outside, inside {shape_of(leaf)}"
        for path, (leaf, mask, outside_leaf) in zip(paths(inside), rows, strict=True)
        if mask is not None and shape_of(outside_leaf) not in (shape_of(leaf), ())
    ]
    if faults:
        raise ValueError(f"masks.where: {join_faults(faults)}.")
    return treedef.unflatten(_select(*row) for row in rows)


def _select(new: jax.Array, mask: Any, old: Any) -> jax.Array:
    """Returns `new` on the mask and `old` elsewhere; `new` where there is no mask."""
    return new if mask is None else jnp.where(dense(mask), new, jnp.asarray(old, new.dtype))


def check(params: Params, masks: Masks) -> None:
    """Checks that every removed weight is exactly zero.

    For concrete arrays, outside jit. If it raises, either something changed the parameters after `sparsify`,
    which must be the outermost transform and whose updates must be added unchanged; or a weight was NaN or
    infinite when it was removed. No update that is added can set such a weight to zero; `masks.apply` does.

    Args:
      params: tree of concrete arrays.
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.

    Raises:
      ValueError: naming the leaves where a removed weight is not zero, or where the masks do not fit.
      TypeError: if the two are swapped.

    >>> check({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
    Traceback (most recent call last):
    ValueError: masks.check: removed weights that are not zero: 'w': 1; let sparsify be the outermost ...
    """
    check_order("masks.check", params, masks)
    checks.check("masks.check", params=(params, checks.TREE))
    leaf_masks = _fitting_masks("masks", params, masks)
    rows = zip(paths(params), jax.tree.leaves(params), leaf_masks, strict=True)
    removed_and_leaf = {path: (~dense(mask), leaf) for path, leaf, mask in rows if mask is not None}
    counts = {
        path: int(jnp.sum(removed & (leaf != 0)))
        for path, (removed, leaf) in removed_and_leaf.items()
    }
    leaks = [f"{path!r}: {count}" for path, count in counts.items() if count]
    if not leaks:
        return
    not_finite = sum(
        int(jnp.sum(removed & ~jnp.isfinite(leaf))) for removed, leaf in removed_and_leaf.values()
    )
    remark = (
        f" ({not_finite} of them NaN or infinite, which no update takes to zero)"
        if not_finite
        else ""
    )
    raise ValueError(
        f"masks.check: removed weights that are not zero: {', '.join(leaks)}{remark}; let sparsify be the "
        "outermost transform, and set them to zero with params = jaxprune.masks.apply(params, masks)."
    )
