"""Masks before the first change: those that keep everything, and those that a caller gives."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import Method, Partition
from jaxprune.pruning.fit import check_coupled
from jaxprune.types import Masks, Params
from jaxprune.units.coupling import Coupled

__all__ = ["full_masks", "given_masks"]


def full_masks(
    method: Method | Partition,
    params: Params,
    prunable: Prunable,
    axes: AxesTree | None = None,
    *,
    frozen: Sequence[bool] | None = None,
) -> Masks:
    """Returns the masks that keep everything.

    Args:
      method: the method.
      params: tree of arrays.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers.
      frozen: per leaf, whether it never changes, and so is not pruned.

    Raises:
      ValueError: if a method of a partition has nothing to prune, all prunable leaves are frozen, or coupled
        units do not go with the other arguments.
    """
    frozen = frozen or [False] * len(jax.tree.leaves(params))
    patterns = [member.pattern for member in method.parts if isinstance(member.pattern, Coupled)]
    if patterns:
        return _full_masks_of_coupled(patterns[0], method, params, prunable, frozen)
    masks = _without_frozen(masks_lib.make(params, prunable, axes=axes), params, frozen)
    pairs = zip(method.owners(params), masks_lib.beside(params, masks), strict=True)
    owning_members = {owner for owner, mask in pairs if mask is not None}
    if isinstance(method, Partition):
        for member_index, (expression, _) in enumerate(method.methods):
            if member_index not in owning_members:
                raise ValueError(
                    f"partition: {expression!r} has nothing to prune; what it matches is not prunable, is "
                    "frozen by the wrapped optimizer, or an expression before it has it."
                )
    return masks


def _without_frozen(masks: Masks, params: Params, frozen: Sequence[bool]) -> Masks:
    """Returns the masks without those of leaves that never change."""
    if not any(frozen):
        return masks
    old_masks = masks_lib.beside(params, masks)
    kept_masks = [
        None if is_frozen else mask for mask, is_frozen in zip(old_masks, frozen, strict=True)
    ]
    if all(mask is None for mask in kept_masks):
        pairs = zip(masks_lib.paths(params), old_masks, strict=True)
        paths = [repr(path) for path, mask in pairs if mask is not None]
        raise ValueError(
            f"the wrapped optimizer never changes {', '.join(paths[:6])}, so nothing is left to prune in "
            "training: prune frozen leaves in one shot (jaxprune.prune), or let the optimizer train them."
        )
    return jax.tree.structure(params).unflatten(kept_masks)


def _full_masks_of_coupled(
    pattern: Coupled,
    method: Method | Partition,
    params: Params,
    prunable: Prunable,
    frozen: Sequence[bool],
) -> Masks:
    """Returns masks that keep everything, for all leaves that units run along, biases and scales too."""
    if isinstance(method, Partition):
        raise ValueError(
            "partition: coupled units run through leaves of several parts; give the pattern to a method of "
            "its own, and restrict it by structured.coupled(only=)."
        )
    if prunable is not None:
        raise ValueError(
            f"prunable={prunable!r}: with coupled units, structured.coupled(only=) says what may be pruned."
        )
    check_coupled(pattern, params)
    covered_paths = set(pattern.covered(params))
    paths = masks_lib.paths(params)
    frozen_paths = [path for path, is_frozen in zip(paths, frozen, strict=True) if is_frozen]
    if torn_paths := [path for path in frozen_paths if path in covered_paths]:
        raise ValueError(
            f"the wrapped optimizer never changes {torn_paths[0]!r}, but coupled units run through it; leave "
            "their groups out with structured.coupled(only=), or let the optimizer train it."
        )
    pairs = zip(paths, jax.tree.leaves(params), strict=True)
    leaves = [
        jnp.ones_like(leaf, dtype=bool) if path in covered_paths else None for path, leaf in pairs
    ]
    return jax.tree.structure(params).unflatten(leaves)


def given_masks(
    who: str,
    method: Method | Partition,
    masks: Masks,
    params: Params,
    prunable: Prunable,
    frozen: Sequence[bool] | None = None,
) -> Masks:
    """Returns the masks that a caller gives to start from, as bool arrays.

    Args:
      who: the function that was called.
      method: the method.
      masks: bool arrays or packed masks, `None` at leaves that are never pruned.
      params: tree of arrays.
      prunable: must be `None`, as masks say which leaves may be pruned.
      frozen: per leaf, whether it never changes.

    Raises:
      ValueError: if they do not fit the parameters, a filter is given as well, or a leaf has a mask that no
        method of a partition would keep up, or that is frozen; if a method has no leaf with a mask.
    """
    masks_lib.check_order(who, params, masks)
    masks_lib.validate(params, masks)
    if prunable is not None:
        raise ValueError(
            f"{who}: masks= says which leaves may be pruned, and so does prunable={prunable!r}; give one."
        )
    leaf_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    rows = zip(masks_lib.paths(params), leaf_masks, method.owners(params), strict=True)
    for path, mask, owner in rows:
        if mask is not None and owner is None:
            raise ValueError(
                f"{who}: masks= has a mask for {path!r}, which no expression of the partition matches; add "
                "one, or leave its mask out (None)."
            )
    frozen = frozen or [False] * len(leaf_masks)
    for path, mask, is_frozen in zip(masks_lib.paths(params), leaf_masks, frozen, strict=True):
        if mask is not None and is_frozen:
            raise ValueError(
                f"{who}: masks= has a mask for {path!r}, which the wrapped optimizer never changes; leave it "
                "out (None): what is zero there stays zero."
            )
    owners = method.owners(params)
    owning_members = {
        owner for owner, mask in zip(owners, leaf_masks, strict=True) if mask is not None
    }
    if idle_members := [i for i in range(len(method.parts)) if i not in owning_members]:
        addition = (
            f" of {method.methods[idle_members[0]][0]!r}" if isinstance(method, Partition) else ""
        )
        raise ValueError(
            f"{who}: masks= has no mask for any leaf{addition}; nothing could be pruned."
        )
    return jax.tree.structure(params).unflatten(leaf_masks)
