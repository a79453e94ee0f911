"""Statistics of masks: sparsity, similarity, tables by layer; and masks that are shuffled, as a control."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.arrays.shardings import sharded_like, whole
from jaxprune.kernel_axes import AxesTree, by_path, direction_fault, layer_axes, resolve_axes
from jaxprune.masks.packing import MASKS, dense, is_packed, unpack
from jaxprune.trees import check_distinct, differences, layer_names, leaves_with_keys, paths
from jaxprune.trees.alike import entries_beside, join_faults
from jaxprune.types import Axes, Masks, Params

__all__ = ["hamming", "jaccard", "leaves", "shuffle", "sparsity", "summary", "table"]

Within = Literal["layer", "rows", "tree"]


def leaves(masks: Masks) -> list[jax.Array]:
    """Returns the bool arrays of a mask tree, without the `None`s.

    Args:
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.

    >>> leaves({"w": jnp.array([True, False]), "b": None})
    [Array([ True, False], dtype=bool)]
    """
    return [dense(mask) for mask in jax.tree.leaves(masks, is_leaf=is_packed)]


def sparsity(masks: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights that is removed, float32.

    Args:
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.

    >>> round(float(sparsity({"w": jnp.array([True, False, False, False]), "b": None})), 4)
    0.75
    """
    checks.check("masks.sparsity", masks=(masks, MASKS))
    mask_leaves = leaves(masks)
    if not mask_leaves:
        return jnp.zeros((), jnp.float32)
    weight_count = sum(mask.size for mask in mask_leaves)
    removed_counts = [jnp.sum(~mask, dtype=jnp.int32).astype(jnp.float32) for mask in mask_leaves]
    return jnp.sum(jnp.stack(removed_counts)) / float(max(weight_count, 1))


def jaccard(a: Masks, b: Masks) -> jax.Array:
    """Returns the share of weights kept by both among those kept by either (Jaccard index).

    Args:
      a: bool arrays, or packed ones, `None` at leaves that are never pruned.
      b: masks of the same parameters.

    Returns:
      float32 scalar; 0 if neither keeps any.

    Raises:
      ValueError: if the two are not of the same leaves and shapes; it says which.

    >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([False, True, True])}
    >>> round(float(jaccard(a, b)), 4)
    0.3333
    """
    checks.check("masks.jaccard", a=(a, MASKS), b=(b, MASKS))
    pairs = _pairs("masks.jaccard", a, b)
    return _count_true(pairs, jnp.logical_and) / jnp.maximum(_count_true(pairs, jnp.logical_or), 1)


def hamming(a: Masks, b: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights on which two mask trees differ.

    Args:
      a: bool arrays, or packed ones, `None` at leaves that are never pruned.
      b: masks of the same parameters.

    Returns:
      float32 scalar.

    Raises:
      ValueError: if the two are not of the same leaves and shapes; it says which.

    >>> round(float(hamming({"w": jnp.array([True, True])}, {"w": jnp.array([True, False])})), 4)
    0.5
    """
    checks.check("masks.hamming", a=(a, MASKS), b=(b, MASKS))
    pairs = _pairs("masks.hamming", a, b)
    weight_count = sum(mask.size for mask, _ in pairs)
    return _count_true(pairs, jnp.not_equal) / float(max(weight_count, 1))


def _pairs(who: str, a: Masks, b: Masks) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the pairs of masks of the same leaf in two trees; refuses trees of other leaves or shapes."""
    a_by_path = _masks_by_path(who, a)
    b_by_path = _masks_by_path(who, b)
    if set(a_by_path) != set(b_by_path):
        raise ValueError(
            f"{who}: the masks of b are of other leaves than those of a "
            f"({differences(b_by_path, a_by_path)}); give masks of the same parameters."
        )
    faults = [
        f"{path!r} has the shape {mask.shape} in a, {b_by_path[path].shape} in b"
        for path, mask in a_by_path.items()
        if mask.shape != b_by_path[path].shape
    ]
    if faults:
        raise ValueError(f"{who}: {join_faults(faults)}; give masks of the same parameters.")
    return [(mask, b_by_path[path]) for path, mask in a_by_path.items()]


def _masks_by_path(who: str, masks: Masks) -> dict[str, jax.Array]:
    """Returns the bool arrays of a mask tree by path; refuses two of the same path."""
    leaves = leaves_with_keys(masks, lambda _, node: is_packed(node))
    check_distinct(who, ["/".join(keys) for keys, _ in leaves])
    return {"/".join(keys): dense(mask) for keys, mask in leaves}


def _count_true(
    pairs: Sequence[tuple[jax.Array, jax.Array]], function: Callable[..., jax.Array]
) -> jax.Array:
    """Returns at how many weights a function of two masks is true, float32."""
    if not pairs:
        return jnp.zeros((), jnp.float32)
    return jnp.sum(
        jnp.stack([jnp.sum(function(a, b), dtype=jnp.int32) for a, b in pairs]).astype(jnp.float32)
    )


def shuffle(
    masks: Masks, key: jax.Array, axes: AxesTree | None = None, *, within: Within = "layer"
) -> Masks:
    """Returns masks whose kept positions are shuffled: same counts, other positions.

    Within layers it is the control of Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at
    Initialization: Why Are We Missing the Mark?" (2021), and the random sparsity of the lottery-ticket paper.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      key: PRNG key.
      axes: which axes of the leaves are inputs and layers: `jaxprune.axes(apply, params, *inputs)`; `None`:
        each leaf is a layer, and for `within="rows"` its shape tells the inputs.
      within: where the number of kept weights stays the same. `"layer"`: in each layer; `"rows"`: for each
        input of each layer, which keeps its number of outputs; `"tree"`: only in the whole tree, so that
        layers exchange weights.

    Returns:
      Bool arrays in the containers of `masks`.

    Raises:
      ValueError: if `within` is something else, or it is `"rows"` and it is not known which axes are inputs.

    >>> masks = {"w": jnp.array([[True, True, True], [False, False, True]])}
    >>> shuffle(masks, jax.random.key(0), within="rows")["w"].sum(1).tolist()
    [3, 1]
    """
    checks.check("masks.shuffle", masks=(masks, MASKS), key=(key, checks.KEY))
    if within not in get_args(Within):
        raise ValueError(f"masks.shuffle(within={within!r}): one of {get_args(Within)} is needed.")
    mask_leaves, treedef = jax.tree.flatten(unpack(masks))
    if not mask_leaves:
        return masks
    if within == "tree":
        bits = jnp.concatenate([whole(mask).ravel() for mask in mask_leaves])
        ends = list(itertools.accumulate(mask.size for mask in mask_leaves))
        parts = jnp.split(jax.random.permutation(key, bits), ends[:-1])
        pairs = zip(parts, mask_leaves, strict=True)
        return treedef.unflatten(
            [sharded_like(part.reshape(mask.shape), mask) for part, mask in pairs]
        )

    def shuffle_leaf(leaf_index: int, mask: jax.Array, fixed_axes: Sequence[int]) -> jax.Array:
        fixed_first = jnp.moveaxis(whole(mask), fixed_axes, range(len(fixed_axes)))
        rows = fixed_first.reshape(math.prod(fixed_first.shape[: len(fixed_axes)]), -1)
        leaf_key = jax.random.fold_in(key, leaf_index)
        shuffled_rows = jax.random.permutation(leaf_key, rows, axis=1, independent=True)
        in_place = jnp.moveaxis(
            shuffled_rows.reshape(fixed_first.shape), range(len(fixed_axes)), fixed_axes
        )
        return sharded_like(in_place, mask)

    axes_by_path = _axes_by_path(unpack(masks), axes)
    fixed_axes_of_leaves = [
        layer_axes(leaf_axes) if within == "layer" else _row_axes(path, mask.shape, leaf_axes)
        for (path, leaf_axes), mask in zip(axes_by_path.items(), mask_leaves, strict=True)
    ]
    return treedef.unflatten(
        map(shuffle_leaf, range(len(mask_leaves)), mask_leaves, fixed_axes_of_leaves)
    )


def _row_axes(path: str, shape: Sequence[int], axes: Axes | None) -> tuple[int, ...]:
    """Returns the axes of which each index is an input of a layer."""
    fault = direction_fault('masks.shuffle(within="rows")', shape, axes)
    if fault is not None:
        raise ValueError(f"{fault.format(leaf=repr(path))}.")
    known_axes = resolve_axes(shape, axes)
    return (*known_axes.batch_axis, *known_axes.in_axis)


def _axes_by_path(masks: Masks, axes: AxesTree | None) -> dict[str, Axes | None]:
    """Returns the axes of each leaf with a mask by its path, in the order of the tree."""
    leaves = leaves_with_keys(masks, lambda _, node: is_packed(node))
    check_distinct("masks", ["/".join(keys) for keys, _ in leaves])
    shapes = {"/".join(keys): jax.ShapeDtypeStruct(mask.shape, bool) for keys, mask in leaves}
    axes_by_path = by_path(axes, shapes)
    return {path: axes_by_path[path] for path in shapes}


def summary(masks: Masks, axes: AxesTree | None = None) -> list[dict[str, Any]]:
    """Returns name, shape, weights and kept weights of each layer that has a mask.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.

    >>> summary({"w": jnp.array([[True, False]]), "b": None})
    [{'leaf': 'w', 'shape': (1, 2), 'weights': 2, 'kept': 1}]
    """
    checks.check("masks.summary", masks=(masks, MASKS))
    rows = []
    mask_leaves = jax.tree.leaves(masks, is_leaf=is_packed)
    for (path, leaf_axes), mask in zip(
        _axes_by_path(masks, axes).items(), mask_leaves, strict=True
    ):
        layer_axes_of_leaf = layer_axes(leaf_axes)
        weight_axes = tuple(
            axis for axis in range(len(mask.shape)) if axis not in layer_axes_of_leaf
        )
        shape = tuple(mask.shape[axis] for axis in weight_axes)
        counts = dense(mask).sum(weight_axes, dtype=jnp.int32).ravel().tolist()
        names = layer_names(path, [mask.shape[axis] for axis in layer_axes_of_leaf])
        rows += [
            {"leaf": name, "shape": shape, "weights": math.prod(shape), "kept": kept}
            for name, kept in zip(names, counts, strict=True)
        ]
    return rows


def table(masks: Masks, flops: Params | None = None, *, axes: AxesTree | None = None) -> str:
    """Returns a table of the weights kept, per layer and in all.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      flops: a tree of numbers from `jaxprune.metrics.flops`, for two more columns: the operations of the
        dense leaf, and those of the weights kept (a saving only for software that skips zeros). Layers that
        are stacked in one leaf share its operations equally.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.

    >>> print(table({"fc": {"kernel": jnp.array([[True, False]]), "bias": None}}))
    leaf         shape weights kept sparsity
    fc/kernel    1x2         2    1   50.00%
    all                      2    1   50.00%
    """
    checks.check("masks.table", masks=(masks, MASKS))
    rows = summary(masks, axes)
    total = {
        "leaf": "all",
        "shape": (),
        **{column: sum(row[column] for row in rows) for column in ("weights", "kept")},
    }
    table_rows = [["leaf", "shape", "weights", "kept", "sparsity"]]
    for row in (*rows, total):
        shape_text = "x".join(map(str, row["shape"]))
        removed = (row["weights"] - row["kept"]) / max(row["weights"], 1)
        counts = [str(row["weights"]), str(row["kept"])]
        table_rows.append([row["leaf"], shape_text, *counts, f"{removed:.2%}"])
    if flops is not None:
        table_rows[0] += ["FLOPs", "FLOPs kept"]
        dense_flops = _flops_of_layers(flops, masks, axes)
        kept_flops = [
            count * row["kept"] // max(row["weights"], 1)
            for count, row in zip(dense_flops, rows, strict=True)
        ]
        dense_column = [*dense_flops, sum(dense_flops)]
        kept_column = [*kept_flops, sum(kept_flops)]
        for table_row, *cells in zip(table_rows[1:], dense_column, kept_column, strict=True):
            table_row += [f"{cell:,}" for cell in cells]
    widths = [max(map(len, column)) for column in zip(*table_rows, strict=True)]
    lines = [
        f"{leaf:<{widths[0]}}  {shape:<{widths[1]}}  "
        + "  ".join(map(str.rjust, cells, widths[2:]))
        for leaf, shape, *cells in table_rows
    ]
    return "\n".join(lines)


def _flops_of_layers(flops: Params, masks: Masks, axes: AxesTree | None) -> list[int]:
    """Returns the operations of each layer that has a mask; layers of one leaf have equal parts of its."""

    def refusal(differ: str) -> str:
        return (
            f"masks.table: flops and masks are different trees ({differ}); give the flops of the same "
            "parameters."
        )

    rows = zip(
        paths(flops),
        jax.tree.leaves(flops),
        entries_beside(flops, masks, refusal),
        strict=True,
    )
    leaf_counts = {path: (mask.shape, count) for path, count, mask in rows if mask is not None}
    layer_counts = []
    for path, leaf_axes in _axes_by_path(masks, axes).items():  # in the order of the masks
        shape, count = leaf_counts[path]
        layer_count = math.prod(shape[axis] for axis in layer_axes(leaf_axes))
        layer_counts += [count // layer_count] * layer_count
    return layer_counts
