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

__all__ = [
    "Specs",
    "check_replicated",
    "gather_whole",
    "is_true_everywhere",
    "slice_own_part",
    "specs_of",
]

# A PartitionSpec for all leaves, or a tree of them beside the parameters; None: replicated.
Specs = Any


def _manual_axes() -> tuple[str, ...]:
    """Returns the mesh axes along which the function being traced is run device by device."""
    return tuple(jax.sharding.get_abstract_mesh().manual_axes)


def _varying(value: Any) -> frozenset[str]:
    """Returns the manual axes along which a value is known to differ."""
    aval = jax.typeof(value)
    manual_types = getattr(aval, "mat", None)
    return frozenset(aval.vma if manual_types is None else manual_types.varying)  # type: ignore[union-attr]


def check_replicated(who: str, params: Params) -> None:
    """Refuses parameters of which this device may hold a part only.

    Args:
      who: the function that was called.
      params: tree of arrays, which may be traced.

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
    """Returns the PartitionSpec of each leaf; `None` if none are given, or nothing runs device by device.

    Args:
      specs: one for all leaves, or a tree of them.
      params: tree of arrays.

    Raises:
      ValueError: if `specs` is a tree with other leaves than the parameters.
      TypeError: if one of its leaves is no PartitionSpec.
    """
    if specs is None or not _manual_axes():
        return None
    if isinstance(specs, PartitionSpec):
        return [specs] * len(jax.tree.leaves(params))
    try:
        leaf_specs = masks_lib.beside(params, specs)
    except ValueError as error:
        raise ValueError(
            f"specs: a PartitionSpec, or a tree of them beside the parameters, is needed: {error}"
        ) from None
    leaf_specs = [PartitionSpec() if spec is None else spec for spec in leaf_specs]
    for path, spec in zip(masks_lib.paths(params), leaf_specs, strict=True):
        if not isinstance(spec, PartitionSpec):
            raise TypeError(f"specs: {path!r} has {spec!r}, a PartitionSpec is needed.")
    return leaf_specs


def _split_axes(spec: PartitionSpec) -> list[tuple[int, tuple[str, ...]]]:
    """Returns the axes of a leaf that are split, each with the mesh axes that split it."""
    mesh_axes = [(entry,) if isinstance(entry, str) else tuple(entry or ()) for entry in spec]
    return [(axis, axis_names) for axis, axis_names in enumerate(mesh_axes) if axis_names]


def gather_whole(tree: Any, specs: Sequence[PartitionSpec]) -> Any:
    """Returns a tree like the parameters with every leaf whole, on every device."""

    def gather(leaf: Any, spec: PartitionSpec) -> Any:
        for axis, axis_names in _split_axes(spec):
            leaf = lax.all_gather(leaf, axis_names, axis=axis, tiled=True)
        return leaf

    return _map_leaves(gather, tree, specs)


def slice_own_part(masks: Any, specs: Sequence[PartitionSpec]) -> Any:
    """Returns this device's part of masks that are whole, and the same on every device."""

    def slice_out(leaf: Any, spec: PartitionSpec) -> Any:
        for axis, axis_names in _split_axes(spec):
            part_size = leaf.shape[axis] // lax.axis_size(axis_names)
            leaf = lax.dynamic_slice_in_dim(
                leaf, lax.axis_index(axis_names) * part_size, part_size, axis
            )
        uninformed_axes = _varying(leaf) - {
            name for _, axis_names in _split_axes(spec) for name in axis_names
        }
        if not uninformed_axes:
            return leaf
        # The masks are the same along these axes; after the maximum jax knows it, too.
        return lax.pmax(leaf.astype(jnp.int32), tuple(sorted(uninformed_axes))) > 0

    return _map_leaves(slice_out, masks, specs)


def _map_leaves(function: Any, tree: Any, specs: Sequence[PartitionSpec]) -> Any:
    """Applies a function to each leaf that is there, and to its PartitionSpec."""
    leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda leaf: leaf is None)
    pairs = zip(leaves, specs, strict=True)
    return treedef.unflatten(None if leaf is None else function(leaf, spec) for leaf, spec in pairs)


def is_true_everywhere(flag: jax.Array, specs: Sequence[PartitionSpec]) -> jax.Array:
    """Returns whether a condition holds on all devices that share the parameters."""
    axis_names = {
        name
        for spec in specs
        for _, leaf_axis_names in _split_axes(spec)
        for name in leaf_axis_names
    }
    return lax.pmin(flag.astype(jnp.int32), tuple(sorted(axis_names))) > 0 if axis_names else flag
