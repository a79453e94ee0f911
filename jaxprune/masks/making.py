"""Masks made for the leaves that may be pruned: by the default filter, expressions or predicates."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.kernel_axes import AxesTree, kernels_by_use
from jaxprune.trees import beside, check_matches, is_placeholder, paths, plain, quote_names, roles
from jaxprune.types import Masks, Params

__all__ = ["PRUNABLE", "Prunable", "is_prunable", "make", "of_zeros"]

Prunable = str | Collection[str] | Callable[[str, jax.Array], bool] | None


def is_prunable(path: str, leaf: jax.Array, beside: Collection[str] = ()) -> bool:
    """Whether the default filter prunes a leaf: it has two or more axes, and its name is not of another role.

    Biases, scales and statistics stay, stacked for a scan or not, and so do embeddings, positions, class
    tokens and factors of low-rank updates, by the names that Flax, Haiku, Equinox and Keras give them
    (`jaxprune.trees.roles`). Names can mislead; with `axes=` the filter goes by what the program does with
    each leaf.

    Args:
      path: of the leaf.
      leaf: array, or its shape and dtype.
      beside: names in the same module: `b` is a bias beside a `w`.

    >>> is_prunable("Dense_0/kernel", jnp.ones((2, 3))), is_prunable("Dense_0/bias", jnp.ones(3))
    (True, False)
    """
    return jnp.ndim(leaf) >= 2 and roles.by_name(path, jnp.shape(leaf), beside) == "kernel"


def make(params: Params, prunable: Prunable = None, *, axes: AxesTree | None = None) -> Masks:
    """Returns the masks that keep everything.

    Args:
      params: tree of arrays. Integer, boolean, complex and empty leaves are never pruned.
      prunable: which leaves may be pruned: `None` for `is_prunable`; a regular expression or several,
        searched in the path (`"Dense_[01]/kernel"`); or a predicate `(path, leaf) -> bool`.
      axes: what the program does with the leaves (`jaxprune.axes`). With it the default filter goes by use
        instead of by name: kernels of products may be pruned; tables that are looked up, factors of low-rank
        updates and leaves that are only added or multiplied element by element may not.

    Returns:
      A tree like `params`: arrays of `True`, `None` at leaves that are never pruned.

    Raises:
      ValueError: if no leaf is prunable, or a regular expression is invalid or matches no path.
      TypeError: if a leaf is no array, or the filter is of another kind.

    >>> jax.tree.map(jnp.shape, make({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}))
    {'bias': None, 'kernel': (2, 3)}
    """
    checks.check("masks.make", params=(params, checks.TREE), prunable=(prunable, PRUNABLE))
    if is_placeholder(params):
        return params
    params = plain(params)
    leaf_paths = paths(params)
    by_use = kernels_by_use(axes, params) if prunable is None else [None] * len(leaf_paths)
    is_chosen = _predicate(prunable, leaf_paths)

    def full_mask(path: str, leaf: jax.Array, is_kernel: bool | None) -> jax.Array | None:
        fit = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and 0 not in jnp.shape(leaf)
        chosen = fit and (is_chosen(path, leaf) if is_kernel is None else is_kernel)
        return jnp.ones_like(leaf, dtype=bool) if chosen else None

    leaf_masks = map(full_mask, leaf_paths, jax.tree.leaves(params), by_use)
    masks = jax.tree.structure(params).unflatten(leaf_masks)
    if not jax.tree.leaves(masks):
        filter_text = "the default filter" if prunable is None else f"prunable={prunable!r}"
        names = quote_names(leaf_paths) or "no leaves"
        raise ValueError(
            f"masks.make: {filter_text} leaves nothing to prune among {names}; "
            "give prunable= a regular expression or a predicate that matches floating-point leaves."
        )
    return masks


def of_zeros(params: Params, prunable: Prunable = None, *, axes: AxesTree | None = None) -> Masks:
    """Returns the masks of a sparse checkpoint, in which removed weights are exactly zero.

    Args:
      params: tree of concrete arrays.
      prunable: which leaves get a mask, as in `make`. In leaves without a zero everything is kept.
      axes: what the program does with the leaves, as in `make`.

    Returns:
      A tree like `params`, for `jaxprune.fixed`, or for `sparsify` to start from.

    Raises:
      ValueError: if no weight that may be pruned is zero, as in a dense checkpoint or one whose masks have
        not been applied; or if one of these leaves is zero throughout, since such a layer would never train.

    >>> of_zeros({"kernel": jnp.array([[0.0, 2.0]]), "bias": jnp.zeros(2)})
    {'bias': None, 'kernel': Array([[False,  True]], dtype=bool)}
    """
    full_masks = make(params, prunable, axes=axes)
    params = plain(params)
    rows = zip(paths(params), jax.tree.leaves(params), beside(params, full_masks), strict=True)
    mask_by_path = {path: None if mask is None else leaf != 0 for path, leaf, mask in rows}
    prunable_masks = {path: mask for path, mask in mask_by_path.items() if mask is not None}
    zero_leaves = [path for path, mask in prunable_masks.items() if not mask.any()]
    if zero_leaves:
        raise ValueError(
            f"masks.of_zeros: {quote_names(zero_leaves)} are zero throughout, which is how layers start "
            "rather than how they are pruned; exclude them with prunable=."
        )
    if all(mask.all() for mask in prunable_masks.values()):
        raise ValueError(
            f"masks.of_zeros: no weight of {quote_names(list(prunable_masks))} is zero; load the sparse "
            "checkpoint, or apply its masks first."
        )
    return jax.tree.structure(params).unflatten(mask_by_path.values())


def _predicate(prunable: Prunable, names: list[str]) -> Callable[[str, jax.Array], bool]:
    """Returns a filter as a function (path, leaf) -> bool; refuses expressions that match no leaf."""
    if prunable is None:
        siblings = dict(zip(names, roles.siblings(names), strict=True))
        return lambda name, leaf: is_prunable(name, leaf, siblings[name])
    if callable(prunable):
        return prunable
    patterns = [prunable] if isinstance(prunable, str) else list(prunable)
    for pattern in patterns:
        checks.expression("prunable", pattern)
        check_matches("prunable", [pattern], names)
    return lambda name, _: any(re.search(pattern, name) for pattern in patterns)


def _is_filter(value: Any) -> bool:
    predicate = checks.is_function(value) and checks.takes(value, 2)
    names = isinstance(value, Collection) and not isinstance(value, Mapping) and not _is_tree(value)
    return value is None or isinstance(value, str) or predicate or names


def _is_tree(value: Any) -> bool:
    """Whether anything in it is an array, as in masks."""
    return any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(value))


PRUNABLE = checks.Kind(
    "a filter",
    _is_filter,
    lambda value: (
        "it can be read only once: make it a list"
        if isinstance(value, Iterator)
        else "a regular expression, a list of them, or a predicate (path, leaf) -> bool"
    ),
)
