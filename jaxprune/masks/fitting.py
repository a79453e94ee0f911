"""Masks beside their parameters: validated, applied, checked."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.masks.packing import MASKS, all_bool, dense, is_packed
from jaxprune.trees import beside, is_placeholder, keys_of, paths, plain, some
from jaxprune.types import Masks, Params

__all__ = ["apply", "check", "check_order", "differences", "validate", "where"]


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
    try:
        found = beside(params, masks)
    except ValueError as error:
        have = set(_names_with_none(masks))
        differ = differences(have, set(paths(params)), f"other containers: {error}")
        raise ValueError(
            f"masks: the tree differs from that of the parameters ({differ}); make masks with "
            "jaxprune.masks.make(params)."
        ) from None
    wrong = []
    for name, p, mask in zip(paths(params), jax.tree.leaves(params), found, strict=True):
        if mask is None:
            continue
        if getattr(mask, "shape", None) != jnp.shape(p):
            shape = getattr(mask, "shape", f"of a {type(mask).__name__}")
            wrong.append(f"{name!r} has the shape {shape}, its parameter {jnp.shape(p)}")
        elif mask.dtype != bool:
            wrong.append(f"{name!r} has the dtype {mask.dtype}, bool is needed")
    if wrong:
        raise ValueError(f"masks: {'; '.join(wrong[:5])}.")


def differences(have: set[str], need: set[str], otherwise: str = "other containers") -> str:
    """Words for the paths that are missing and those that are too many."""
    sides = {"missing": need - have, "unexpected": have - need}
    named = [f"{what} {some(sorted(names))}" for what, names in sides.items() if names]
    return "; ".join(named) or otherwise


def check_order(who: str, masks: Masks, params: Params) -> None:
    """Raises `TypeError` if masks and parameters are swapped."""
    checks.swapped(who, masks=(masks, MASKS), params=(params, _PARAMS))


def _names_with_none(tree: Any) -> list[str]:
    stop = lambda x: x is None or is_packed(x)
    named = jax.tree_util.tree_leaves_with_path(plain(tree), is_leaf=stop)
    return ["/".join(keys_of(path)) for path, _ in named]


def apply(params: Params, masks: Masks) -> Params:
    """Returns `params` with exact zeros off the masks (a NaN there becomes zero too).

    >>> apply({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
    {'w': Array([1., 0.], dtype=float32)}
    """
    check_order("masks.apply", masks, params)
    try:
        return where(masks, params, jax.tree.map(lambda p: 0, params))
    except (TypeError, ValueError):
        validate(masks, params)  # says which leaves do not fit
        raise


def where(masks: Masks, inside: Params, outside: Params) -> Params:
    """Returns `inside` on the masks and at leaves without one, `outside` elsewhere."""

    def choose(new: jax.Array, mask: Any, old: jax.Array) -> jax.Array:
        return new if mask is None else jnp.where(dense(mask), new, jnp.asarray(old, new.dtype))

    leaves, treedef = jax.tree.flatten(inside)
    rows = zip(leaves, beside(inside, masks), beside(inside, outside), strict=True)
    return treedef.unflatten(choose(*row) for row in rows)


def check(params: Params, masks: Masks) -> None:
    """Raises `ValueError` naming the leaves where a removed weight is not exactly zero.

    For concrete arrays, outside jit. A leak means that something changed the parameters after
    `sparsify`: it must be the outermost transform, and its updates must be added unchanged.
    """
    check_order("masks.check", masks, params)
    validate(masks, params)
    named = zip(paths(params), jax.tree.leaves(params), beside(params, masks), strict=True)
    counts = {n: int(jnp.sum(~dense(m) & (p != 0))) for n, p, m in named if m is not None}
    leaks = [f"{name!r}: {count}" for name, count in counts.items() if count]
    if leaks:
        raise ValueError(f"masks.check: removed weights that are not zero: {', '.join(leaks)}.")
