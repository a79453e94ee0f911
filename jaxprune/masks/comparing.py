"""Masks counted, compared, shuffled and tabulated."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.alike import entries_beside, join_faults
from jaxprune.kernel_axes import AxesTree, by_path, layer_axes
from jaxprune.masks.packing import MASKS, dense, is_packed, unpack
from jaxprune.trees import differences, keys_of, layer_names
from jaxprune.types import Axes, Masks, Params

__all__ = ["hamming", "intersection", "leaves", "shuffle", "sparsity", "summary", "table"]


def leaves(masks: Masks) -> list[jax.Array]:
    """The bool arrays of a mask tree, without the `None`s."""
    found = jax.tree.leaves(masks, is_leaf=is_packed)
    return [dense(mask) for mask in found]


def sparsity(masks: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights that is removed, float32.

    >>> round(float(sparsity({"w": jnp.array([True, False, False, False]), "b": None})), 4)
    0.75
    """
    checks.check("masks.sparsity", masks=(masks, MASKS))
    found = leaves(masks)
    if not found:
        return jnp.zeros((), jnp.float32)
    total = sum(mask.size for mask in found)
    removed = [jnp.sum(~mask, dtype=jnp.int32).astype(jnp.float32) for mask in found]
    return jnp.sum(jnp.stack(removed)) / max(total, 1)


def intersection(a: Masks, b: Masks) -> jax.Array:
    """Returns the share of weights kept by both among those kept by either (Jaccard index).

    Raises:
      ValueError: if the two are not of the same leaves and shapes; it says which.

    >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([False, True, True])}
    >>> round(float(intersection(a, b)), 4)
    0.3333
    """
    checks.check("masks.intersection", a=(a, MASKS), b=(b, MASKS))
    pairs = _pairs("masks.intersection", a, b)
    return _count(pairs, jnp.logical_and) / jnp.maximum(_count(pairs, jnp.logical_or), 1)


def hamming(a: Masks, b: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights on which two mask trees differ.

    Raises:
      ValueError: if the two are not of the same leaves and shapes; it says which.

    >>> round(float(hamming({"w": jnp.array([True, True])}, {"w": jnp.array([True, False])})), 4)
    0.5
    """
    checks.check("masks.hamming", a=(a, MASKS), b=(b, MASKS))
    pairs = _pairs("masks.hamming", a, b)
    return _count(pairs, jnp.not_equal) / max(sum(mask.size for mask, _ in pairs), 1)


def _pairs(who: str, a: Masks, b: Masks) -> list[tuple[jax.Array, jax.Array]]:
    """The masks of the same leaves in two trees; refuses trees that differ in a leaf or its shape."""
    first, second = _by_path(a), _by_path(b)
    if set(first) != set(second):
        raise ValueError(
            f"{who}: the masks of b are of other leaves than those of a "
            f"({differences(second, first)}); give masks of the same parameters."
        )
    wrong = [
        f"{path!r} has the shape {mask.shape} in a, {second[path].shape} in b"
        for path, mask in first.items()
        if mask.shape != second[path].shape
    ]
    if wrong:
        raise ValueError(f"{who}: {join_faults(wrong)}; give masks of the same parameters.")
    return [(mask, second[path]) for path, mask in first.items()]


def _by_path(masks: Masks) -> dict[str, jax.Array]:
    named = jax.tree_util.tree_leaves_with_path(masks, is_leaf=is_packed)
    return {"/".join(keys_of(path)): dense(mask) for path, mask in named}


def _count(pairs: Sequence[tuple[jax.Array, jax.Array]], f: Callable[..., jax.Array]) -> jax.Array:
    """At how many weights `f` of two masks holds."""
    if not pairs:
        return jnp.zeros((), jnp.float32)
    return jnp.sum(
        jnp.stack([jnp.sum(f(x, y), dtype=jnp.int32) for x, y in pairs]).astype(jnp.float32)
    )


def shuffle(masks: Masks, key: jax.Array, axes: AxesTree | None = None) -> Masks:
    """Returns masks whose kept positions are shuffled within each layer: same counts, other places.

    The control of Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at Initialization: Why
    Are We Missing the Mark?" (2021), and the random sparsity of the lottery-ticket paper.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      key: PRNG key.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.
    """
    checks.check("masks.shuffle", masks=(masks, MASKS), key=(key, checks.KEY))
    bare = unpack(masks)
    layers = [layer_axes(own) for own in _axes_of(bare, axes).values()]

    def shuffled(index: int, mask: jax.Array) -> jax.Array:
        apart = layers[index]
        moved = jnp.moveaxis(mask, apart, range(len(apart)))
        rows = moved.reshape(math.prod(moved.shape[: len(apart)]), -1)
        own_key = jax.random.fold_in(key, index)
        mixed = jax.random.permutation(own_key, rows, axis=1, independent=True)
        return jnp.moveaxis(mixed.reshape(moved.shape), range(len(apart)), apart)

    found, treedef = jax.tree.flatten(bare)
    return treedef.unflatten([shuffled(index, mask) for index, mask in enumerate(found)])


def _axes_of(masks: Masks, axes: AxesTree | None) -> dict[str, Axes | None]:
    """What the axes of each leaf with a mask are, by its path, in the order of the tree."""
    named = jax.tree_util.tree_leaves_with_path(masks, is_leaf=is_packed)
    shapes = {
        "/".join(keys_of(path)): jax.ShapeDtypeStruct(mask.shape, bool) for path, mask in named
    }
    known = by_path(axes, shapes)
    return {path: known[path] for path in shapes}


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
    found = jax.tree.leaves(masks, is_leaf=is_packed)
    for (path, own), mask in zip(_axes_of(masks, axes).items(), found, strict=True):
        layers = layer_axes(own)
        within = tuple(axis for axis in range(len(mask.shape)) if axis not in layers)
        shape = tuple(mask.shape[axis] for axis in within)
        counts = dense(mask).sum(within, dtype=jnp.int32).ravel().tolist()
        names = layer_names(path, [mask.shape[axis] for axis in layers])
        rows += [
            {"leaf": name, "shape": shape, "weights": math.prod(shape), "kept": kept}
            for name, kept in zip(names, counts, strict=True)
        ]
    return rows


def table(masks: Masks, flops: Params | None = None, *, axes: AxesTree | None = None) -> str:
    """Returns a table of the weights kept, per layer and in all.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      flops: a tree of numbers, as `jaxprune.metrics.flops` returns it, for two more columns: the
        operations of the dense leaf, and of the weights kept (what is saved only where zeros are skipped).
        Layers that are stacked in one leaf have equal parts of its operations.
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
        **{k: sum(r[k] for r in rows) for k in ("weights", "kept")},
    }
    texts = [["leaf", "shape", "weights", "kept", "sparsity"]]
    for row in (*rows, total):
        sizes = (row["weights"], row["kept"])
        shape, sparsity = "x".join(map(str, row["shape"])), 1 - sizes[1] / max(sizes[0], 1)
        texts.append([row["leaf"], shape, *map(str, sizes), f"{sparsity:.2%}"])
    if flops is not None:
        refusal = lambda differ: (
            f"masks.table: flops and masks are different trees ({differ}); give the flops of the same "
            "parameters."
        )
        pairs = zip(jax.tree.leaves(flops), entries_beside(flops, masks, refusal), strict=True)
        own_axes = _axes_of(masks, axes).values()
        counts = [(mask.shape, count) for count, mask in pairs if mask is not None]
        dense = []
        for (shape, count), own in zip(counts, own_axes, strict=True):
            layers = math.prod(shape[axis] for axis in layer_axes(own))
            dense += [count // layers] * layers
        kept = [n * r["kept"] // max(r["weights"], 1) for n, r in zip(dense, rows, strict=True)]
        columns = zip([*dense, sum(dense)], [*kept, sum(kept)], strict=True)
        texts[0] += ["FLOPs", "FLOPs kept"]
        for text, numbers in zip(texts[1:], columns, strict=True):
            text += [f"{n:,}" for n in numbers]
    wide = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [
        f"{leaf:<{wide[0]}}  {shape:<{wide[1]}}  " + "  ".join(map(str.rjust, rest, wide[2:]))
        for leaf, shape, *rest in texts
    ]
    return "\n".join(lines)
