"""Masks beside their parameters: validated, applied, checked."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.alike import entries_beside, join_faults, shape_of
from jaxprune.masks.packing import MASKS, all_bool, dense
from jaxprune.trees import is_placeholder, paths
from jaxprune.types import Masks, Params

__all__ = ["apply", "check", "check_order", "validate", "where"]


_PARAMS = checks.Kind(  # what masks are beside: not masks themselves
    "the parameters", lambda tree: checks.TREE.fits(tree) and not all_bool(tree), lambda _: ""
)


def validate(masks: Masks, params: Params) -> None:
    """Raises `ValueError` naming the leaves where `masks` do not fit `params`; `TypeError` if swapped.

    >>> validate({"w": jnp.ones(2, bool)}, {"w": jnp.ones(3)})
    Traceback (most recent call last):
    ValueError: masks: 'w' has the shape (2,), its parameter (3,).
    """
    if is_placeholder(params):
        return
    check_order("masks.validate", masks, params)
    checks.check("masks.validate", params=(params, checks.TREE))
    _fitted("masks", masks, params)


def _fitted(who: str, masks: Masks, params: Params) -> list[Any]:
    """The masks by leaf, `None` where there is none; refuses those that do not fit, leaf by leaf."""
    refusal = lambda differ: (
        f"{who}: the tree differs from that of the parameters ({differ}); make masks with "
        "jaxprune.masks.make(params)."
    )
    found = entries_beside(params, masks, refusal)
    pairs = zip(jax.tree.leaves(params), found, strict=True)
    faults = [None if mask is None else _fault(leaf, mask) for leaf, mask in pairs]
    if any(faults):
        named = zip(paths(params), faults, strict=True)
        raise ValueError(
            f"{who}: {join_faults([f'{name!r} {fault}' for name, fault in named if fault])}."
        )
    return found


def _fault(leaf: Any, mask: Any) -> str | None:
    """What is wrong with the mask of a leaf, if anything is."""
    own, its = shape_of(mask), shape_of(leaf)
    if own is None:
        return f"has the shape of a {type(mask).__name__}, its parameter {its}"
    if own != its:
        return f"has the shape {own}, its parameter {its}"
    if not hasattr(mask, "dtype"):
        return f"has a {type(mask).__name__} for a mask, a bool array is needed"
    return None if mask.dtype == bool else f"has the dtype {mask.dtype}, bool is needed"


def check_order(who: str, masks: Masks, params: Params) -> None:
    """Raises `TypeError` if masks and parameters are swapped."""
    checks.swapped(who, masks=(masks, MASKS), params=(params, _PARAMS))


def apply(params: Params, masks: Masks) -> Params:
    """Returns `params` with exact zeros off the masks (a NaN there becomes zero too).

    Raises:
      ValueError: naming the leaves where the masks do not fit: nothing is broadcast.
      TypeError: if the two are swapped.

    >>> apply({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    if is_placeholder(params):
        return params
    check_order("masks.apply", masks, params)
    leaves, treedef = jax.tree.flatten(params)
    found = _fitted("masks", masks, params)
    rows = zip(leaves, found, strict=True)
    return treedef.unflatten(_chosen(leaf, mask, 0) for leaf, mask in rows)


def where(masks: Masks, inside: Params, outside: Params) -> Params:
    """Returns `inside` on the masks and at leaves without one, `outside` elsewhere.

    Raises:
      ValueError: naming the leaves where the masks, or the two trees, do not fit: nothing is broadcast, but a
        single number.
    """
    leaves, treedef = jax.tree.flatten(inside)
    found = _fitted("masks.where", masks, inside)
    refusal = lambda differ: (
        f"masks.where: inside and outside are different trees ({differ}); give trees with the same leaves."
    )
    others = entries_beside(inside, outside, refusal)
    wrong = [
        None if shape_of(new) == shape_of(old) or shape_of(old) == () or mask is None else old
        for new, mask, old in zip(leaves, found, others, strict=True)
    ]
    if any(old is not None for old in wrong):
        rows = zip(paths(inside), leaves, wrong, strict=True)
        named = [
            f"{name!r} has the shape {shape_of(old)} outside, inside {shape_of(new)}"
            for name, new, old in rows
            if old is not None
        ]
        raise ValueError(f"masks.where: {join_faults(named)}.")
    rows = zip(leaves, found, others, strict=True)
    return treedef.unflatten(_chosen(*row) for row in rows)


def _chosen(new: jax.Array, mask: Any, old: Any) -> jax.Array:
    return new if mask is None else jnp.where(dense(mask), new, jnp.asarray(old, new.dtype))


def check(params: Params, masks: Masks) -> None:
    """Raises `ValueError` naming the leaves where a removed weight is not exactly zero.

    For concrete arrays, outside jit. A leak means that something changed the parameters after
    `sparsify`: it must be the outermost transform, and its updates must be added unchanged. Or a weight was
    NaN or infinite when it was removed: no update that is added can take it to zero, `masks.apply` does.
    """
    check_order("masks.check", masks, params)
    checks.check("masks.check", params=(params, checks.TREE))
    found = _fitted("masks", masks, params)
    named = zip(paths(params), jax.tree.leaves(params), found, strict=True)
    off = {name: (~dense(mask), leaf) for name, leaf, mask in named if mask is not None}
    counts = {name: int(jnp.sum(removed & (leaf != 0))) for name, (removed, leaf) in off.items()}
    leaks = [f"{name!r}: {count}" for name, count in counts.items() if count]
    if not leaks:
        return
    lost = sum(int(jnp.sum(removed & ~jnp.isfinite(leaf))) for removed, leaf in off.values())
    said = f" ({lost} of them NaN or infinite, which no update takes to zero)" if lost else ""
    raise ValueError(
        f"masks.check: removed weights that are not zero: {', '.join(leaks)}{said}; let sparsify be the "
        "outermost transform, and set them to zero with params = jaxprune.masks.apply(params, masks)."
    )
