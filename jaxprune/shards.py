"""Parameters in a hand-written `jax.shard_map`: each device sees its own part, and budgets are of the whole.

Under `jax.jit`, on meshes whose axes are Auto or Explicit, arrays know where they lie and nothing here is
needed. Inside `shard_map` a leaf is whatever lies on one device. Where it is a whole parameter, replicated,
every device finds the same masks by itself. Where it is a part of one, a budget of the parts would be another
one than that of the whole: either the partition is given (`specs`), and masks are found from the whole, or
that is refused.
"""

import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxprune import masks as masks_lib
from jaxprune.types import Params

__all__ = ["Specs", "check_replicated", "everywhere", "own_part", "specs_of", "whole"]

Specs = (
    Any  # a PartitionSpec for all leaves, or a tree of them beside the parameters; None: replicated
)


def _manual_axes() -> tuple[str, ...]:
    """Names of the mesh axes along which the function being traced is run device by device."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _varying(x: Any) -> frozenset[str]:
    """The manual axes along which a value is known to differ."""
    kind = jax.typeof(x)
    ranges = getattr(kind, "mat", None)
    return frozenset(kind.vma if ranges is None else ranges.varying)  # type: ignore[union-attr]


def check_replicated(who: str, params: Params) -> None:
    """Refuses parameters of which this device may hold a part only.

    Raises:
      ValueError: which leaf differs between devices, or that nobody can see whether one does.
    """
    axes = _manual_axes()
    if not axes:
        return
    if not _varying(lax.axis_index(axes[0])):  # shard_map(check_vma=False): nothing is known
        if _in_pmap():
            return
        raise ValueError(
            f"{who}: inside shard_map(check_vma=False) nobody can see whether parameters are replicated "
            f"along {', '.join(axes)} or split, and a budget of the parts is another than that of the whole; "
            "give specs= the PartitionSpecs of the parameters (PartitionSpec() if they are replicated), and "
            "call init outside."
        )
    for path, leaf in zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True):
        if along := _varying(leaf):
            raise ValueError(
                f"{who}: inside shard_map {path!r} differs along {', '.join(sorted(along))}, so each device "
                "holds a part of it, and a budget of the parts is another than that of the whole; give "
                "specs= the PartitionSpecs of the parameters and call init outside, or use jit instead."
            )


def _in_pmap() -> bool:
    """Whether the function is being traced for `jax.pmap`, which splits no parameter: it maps over copies.

    It runs on `shard_map` and leaves no other sign of itself than its place on the stack.
    """
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "jax._src.pmap":
            return True
        frame = frame.f_back
    return False


def specs_of(specs: Specs, params: Params) -> list[PartitionSpec] | None:
    """The PartitionSpec of each leaf; `None` where none are given, or nothing runs device by device."""
    if specs is None or not _manual_axes():
        return None
    if isinstance(specs, PartitionSpec):
        return [specs] * len(jax.tree.leaves(params))
    try:
        found = masks_lib.beside(params, specs)
    except ValueError as error:
        raise ValueError(
            f"specs: a PartitionSpec, or a tree of them beside the parameters, is needed: {error}"
        ) from None
    found = [PartitionSpec() if spec is None else spec for spec in found]
    for path, spec in zip(masks_lib.paths(params), found, strict=True):
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"specs: {path!r} has {spec!r}, a PartitionSpec is needed.")
    return found


def _names(spec: PartitionSpec) -> list[tuple[int, tuple[str, ...]]]:
    """The axes of a leaf that are split, each with the mesh axes that split it."""
    entries = [(e,) if isinstance(e, str) else tuple(e or ()) for e in spec]
    return [(axis, names) for axis, names in enumerate(entries) if names]


def whole(tree: Any, specs: Sequence[PartitionSpec]) -> Any:
    """A tree like the parameters with every leaf whole, on every device."""

    def gathered(leaf: Any, spec: PartitionSpec) -> Any:
        for axis, names in _names(spec):
            leaf = lax.all_gather(leaf, names, axis=axis, tiled=True)
        return leaf

    return _each(gathered, tree, specs)


def own_part(masks: Any, specs: Sequence[PartitionSpec]) -> Any:
    """Of masks that are whole, and the same on every device, the part that belongs to this device."""

    def cut(leaf: Any, spec: PartitionSpec) -> Any:
        for axis, names in _names(spec):
            size = leaf.shape[axis] // lax.axis_size(names)
            leaf = lax.dynamic_slice_in_dim(leaf, lax.axis_index(names) * size, size, axis)
        equal = _varying(leaf) - {name for _, along in _names(spec) for name in along}
        if not equal:
            return leaf
        return (
            lax.pmax(leaf.astype(jnp.int32), tuple(sorted(equal))) > 0
        )  # they are; now jax knows too

    return _each(cut, masks, specs)


def _each(function: Any, tree: Any, specs: Sequence[PartitionSpec]) -> Any:
    """What a function makes of each leaf that is there, and of how it is split."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda x: x is None)
    pairs = zip(leaves, specs, strict=True)
    return treedef.unflatten(None if x is None else function(x, spec) for x, spec in pairs)


def everywhere(flag: jax.Array, specs: Sequence[PartitionSpec]) -> jax.Array:
    """Whether a condition holds on all devices that share the parameters."""
    names = {name for spec in specs for _, along in _names(spec) for name in along}
    return lax.pmin(flag.astype(jnp.int32), tuple(sorted(names))) > 0 if names else flag
