"""Masks before anything is pruned: those that keep everything, and those that somebody starts from."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.coupling import Coupled
from jaxprune.fit import check_coupled
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.method import Method, Partition
from jaxprune.types import Masks, Params

__all__ = ["full_masks", "given_masks"]


def full_masks(
    method: Method | Partition,
    params: Params,
    prunable: Prunable,
    axes: AxesTree | None = None,
    *,
    frozen: Sequence[bool] | None = None,
) -> Masks:
    """Returns the masks that keep everything; refuses a partition with a part that nothing is left for.

    Args:
      method: the method.
      params: tree of arrays.
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers.
      frozen: per leaf, whether it never changes, and so is not pruned.
    """
    frozen = frozen or [False] * len(jax.tree.leaves(params))
    coupled = [part.pattern for part in method.parts if isinstance(part.pattern, Coupled)]
    if coupled:
        return _of_coupled(coupled[0], method, params, prunable, frozen)
    masks = _without_frozen(masks_lib.make(params, prunable, axes=axes), params, frozen)
    pairs = zip(method.owners(params), masks_lib.beside(params, masks), strict=True)
    busy = {owner for owner, mask in pairs if mask is not None}
    if isinstance(method, Partition):
        for number, (pattern, _) in enumerate(method.methods):
            if number not in busy:
                raise ValueError(
                    f"partition: {pattern!r} has nothing to prune; what it matches is not prunable, is "
                    "frozen by the wrapped optimizer, or an expression before it has it."
                )
    return masks


def _without_frozen(masks: Masks, params: Params, frozen: Sequence[bool]) -> Masks:
    """The masks without those of leaves that never change."""
    if not any(frozen):
        return masks
    before = masks_lib.beside(params, masks)
    after = [None if still else mask for mask, still in zip(before, frozen, strict=True)]
    if all(mask is None for mask in after):
        pairs = zip(masks_lib.paths(params), before, strict=True)
        names = [repr(path) for path, mask in pairs if mask is not None]
        raise ValueError(
            f"the wrapped optimizer never changes {', '.join(names[:6])}, so nothing is left to prune in "
            "training: prune frozen leaves in one shot (jaxprune.prune), or let the optimizer train them."
        )
    return jax.tree.structure(params).unflatten(after)


def _of_coupled(
    pattern: Coupled,
    method: Method | Partition,
    params: Params,
    prunable: Prunable,
    frozen: Sequence[bool],
) -> Masks:
    """Full masks of all that units run along, biases and scales too."""
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
    covered = set(pattern.covered(params))
    paths = masks_lib.paths(params)
    still = [path for path, is_frozen in zip(paths, frozen, strict=True) if is_frozen]
    if torn := [path for path in still if path in covered]:
        raise ValueError(
            f"the wrapped optimizer never changes {torn[0]!r}, but coupled units run through it; leave their "
            "groups out with structured.coupled(only=), or let the optimizer train it."
        )
    named = zip(paths, jax.tree.leaves(params), strict=True)
    leaves = [jnp.ones_like(w, dtype=bool) if path in covered else None for path, w in named]
    return jax.tree.structure(params).unflatten(leaves)


def given_masks(
    who: str,
    method: Method | Partition,
    masks: Masks,
    params: Params,
    prunable: Prunable,
    frozen: Sequence[bool] | None = None,
) -> Masks:
    """Returns masks that somebody starts from, as bool arrays.

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
    found = masks_lib.beside(params, masks_lib.unpack(masks))
    trio = zip(masks_lib.paths(params), found, method.owners(params), strict=True)
    for path, mask, owner in trio:
        if mask is not None and owner is None:
            raise ValueError(
                f"{who}: masks= has a mask for {path!r}, which no expression of the partition matches; add "
                "one, or leave its mask out (None)."
            )
    frozen = frozen or [False] * len(found)
    for path, mask, still in zip(masks_lib.paths(params), found, frozen, strict=True):
        if mask is not None and still:
            raise ValueError(
                f"{who}: masks= has a mask for {path!r}, which the wrapped optimizer never changes; leave it "
                "out (None): what is zero there stays zero."
            )
    owners = method.owners(params)
    busy = {owner for owner, mask in zip(owners, found, strict=True) if mask is not None}
    if idle := [i for i in range(len(method.parts)) if i not in busy]:
        which = f" of {method.methods[idle[0]][0]!r}" if isinstance(method, Partition) else ""
        raise ValueError(f"{who}: masks= has no mask for any leaf{which}; nothing could be pruned.")
    return jax.tree.structure(params).unflatten(found)
