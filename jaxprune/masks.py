"""Masks are bool trees beside the parameters: made, applied, compared, packed and checked here.

A leaf that is never pruned has the mask `None`. Map a function over **params first**, masks second:
`jax.tree.map(f, params, masks)` hands the `None` to `f`. Every function here also takes packed masks.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, roles
from jaxprune.kernel_axes import AxesTree, by_path, kernels_by_use, layer_axes
from jaxprune.trees import beside as beside
from jaxprune.trees import keys_of as keys_of
from jaxprune.trees import layer_names, some
from jaxprune.trees import paths as paths
from jaxprune.types import Axes, Masks, Params

__all__ = [
    "PackedMask",
    "Prunable",
    "apply",
    "beside",
    "check",
    "hamming",
    "intersection",
    "is_prunable",
    "leaves",
    "make",
    "pack",
    "paths",
    "shuffle",
    "sparsity",
    "summary",
    "table",
    "unpack",
    "validate",
    "where",
]

Prunable = str | Iterable[str] | Callable[[str, jax.Array], bool] | None

_BOOL = jnp.dtype(bool)


def is_prunable(path: str, leaf: jax.Array, beside: Collection[str] = ()) -> bool:
    """The default filter by name: leaves of two or more axes that are not called otherwise than kernels are.

    Biases, scales and statistics stay, stacked for a scan or not, and so do embeddings, positions, class
    tokens and factors of low-rank updates, by the names that Flax, Haiku, Equinox and Keras give them
    (`jaxprune.roles`). Names can mislead; `jaxprune.axes` knows what the program does with each leaf.

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
      axes: what the program does with the leaves (`jaxprune.axes`). Where it says, the default filter goes by
        use instead of by name: kernels of products may be pruned; tables that are looked up, factors of
        low-rank updates and what is only added or multiplied element by element may not.

    Returns:
      A tree like `params`: bool arrays of ones, `None` where nothing is ever pruned.

    Raises:
      ValueError: if no leaf is prunable, or a regular expression matches no path or is none.
      TypeError: if a leaf is no array, or the filter is none of these.

    >>> jax.tree.map(jnp.shape, make({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}))
    {'bias': None, 'kernel': (2, 3)}
    """
    checks.check("masks.make", params=(params, checks.TREE), prunable=(prunable, PRUNABLE))
    names = paths(params)
    used = kernels_by_use(axes, params) if prunable is None else [None] * len(names)
    choose, found = _choose(prunable, names), jax.tree.structure(params)

    def ones(name: str, leaf: jax.Array, use: bool | None) -> jax.Array | None:
        fit = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.size(leaf) > 0
        chosen = fit and (choose(name, leaf) if use is None else use)
        return jnp.ones_like(leaf, dtype=bool) if chosen else None

    masks = found.unflatten(map(ones, names, jax.tree.leaves(params), used))
    if not jax.tree.leaves(masks):
        asked = "the default filter" if prunable is None else f"prunable={prunable!r}"
        raise ValueError(
            f"masks.make: {asked} leaves nothing to prune among {some(names)}; "
            "give prunable= a regular expression or a predicate that matches floating-point leaves."
        )
    return masks


def _choose(prunable: Prunable, names: list[str]) -> Callable[[str, jax.Array], bool]:
    if prunable is None:
        beside = dict(zip(names, roles.siblings(names), strict=True))
        return lambda name, leaf: is_prunable(name, leaf, beside[name])
    if callable(prunable):
        return prunable
    patterns = [prunable] if isinstance(prunable, str) else list(prunable)
    for pattern in patterns:
        checks.expression("prunable", pattern)
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"prunable: the pattern {pattern!r} matches none of the leaves {some(names)}."
            )
    return lambda name, _: any(re.search(pattern, name) for pattern in patterns)


def validate(masks: Masks, params: Params) -> None:
    """Raises `ValueError` naming the leaves where `masks` do not fit `params`; `TypeError` if swapped.

    >>> validate({"w": jnp.ones(2, bool)}, {"w": jnp.ones(3)})
    Traceback (most recent call last):
    ValueError: masks: 'w' has the shape (2,), its parameter (3,).
    """
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
    stop = lambda x: x is None or _is_packed(x)
    return [
        "/".join(keys_of(p)) for p, _ in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stop)
    ]


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
        return new if mask is None else jnp.where(_dense(mask), new, jnp.asarray(old, new.dtype))

    return jax.tree.map(choose, inside, masks, outside)


def leaves(masks: Masks) -> list[jax.Array]:
    """The bool arrays of a mask tree, without the `None`s."""
    found = jax.tree.leaves(masks, is_leaf=_is_packed)
    return [_dense(mask) for mask in found]


def sparsity(masks: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights that is removed, float32.

    >>> round(float(sparsity({"w": jnp.array([True, False, False, False]), "b": None})), 4)
    0.75
    """
    checks.check("masks.sparsity", masks=(masks, MASKS))
    found = leaves(masks)
    total = sum(mask.size for mask in found)
    removed = [jnp.sum(~mask, dtype=jnp.int32).astype(jnp.float32) for mask in found]
    return jnp.sum(jnp.stack(removed)) / max(total, 1)


def intersection(a: Masks, b: Masks) -> jax.Array:
    """Returns the share of weights kept by both among those kept by either (Jaccard index).

    >>> a, b = {"w": jnp.array([True, True, False])}, {"w": jnp.array([False, True, True])}
    >>> round(float(intersection(a, b)), 4)
    0.3333
    """
    checks.check("masks.intersection", a=(a, MASKS), b=(b, MASKS))
    both, either = _count(a, b, jnp.logical_and), _count(a, b, jnp.logical_or)
    return both / jnp.maximum(either, 1)


def hamming(a: Masks, b: Masks) -> jax.Array:
    """Returns the fraction of the prunable weights on which two mask trees differ.

    >>> round(float(hamming({"w": jnp.array([True, True])}, {"w": jnp.array([True, False])})), 4)
    0.5
    """
    checks.check("masks.hamming", a=(a, MASKS), b=(b, MASKS))
    return _count(a, b, jnp.not_equal) / max(sum(mask.size for mask in leaves(a)), 1)


def _count(a: Masks, b: Masks, f: Callable[..., jax.Array]) -> jax.Array:
    pairs = zip(leaves(a), leaves(b), strict=True)
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
    named = jax.tree_util.tree_leaves_with_path(masks, is_leaf=_is_packed)
    shapes = {
        "/".join(keys_of(path)): jax.ShapeDtypeStruct(mask.shape, bool) for path, mask in named
    }
    known = by_path(axes, shapes)
    return {path: known[path] for path in shapes}


def check(params: Params, masks: Masks) -> None:
    """Raises `ValueError` naming the leaves where a removed weight is not exactly zero.

    For concrete arrays, outside jit. A leak means that something changed the parameters after
    `sparsify`: it must be the outermost transform, and its updates must be added unchanged.
    """
    check_order("masks.check", masks, params)
    validate(masks, params)
    named = zip(paths(params), jax.tree.leaves(params), beside(params, masks), strict=True)
    counts = {n: int(jnp.sum(~_dense(m) & (p != 0))) for n, p, m in named if m is not None}
    leaks = [f"{name!r}: {count}" for name, count in counts.items() if count]
    if leaks:
        raise ValueError(f"masks.check: removed weights that are not zero: {', '.join(leaks)}.")


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
    found = jax.tree.leaves(masks, is_leaf=_is_packed)
    for (path, own), mask in zip(_axes_of(masks, axes).items(), found, strict=True):
        layers = layer_axes(own)
        within = tuple(axis for axis in range(len(mask.shape)) if axis not in layers)
        shape = tuple(mask.shape[axis] for axis in within)
        counts = _dense(mask).sum(within, dtype=jnp.int32).ravel().tolist()
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
        pairs = zip(jax.tree.leaves(flops), beside(flops, masks), strict=True)
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


@functools.partial(jax.tree_util.register_dataclass, data_fields=("bits",), meta_fields=("shape",))
@dataclasses.dataclass(frozen=True)
class PackedMask:
    """A mask in one bit per weight: uint8 `bits`, packed along the last axis of `shape`."""

    bits: jax.Array
    shape: tuple[int, ...]
    dtype = jnp.dtype(bool)


def pack(masks: Masks) -> Masks:
    """Returns the masks in one bit per weight (eight times smaller; rows are padded to bytes).

    >>> pack({"w": jnp.array([True, False, True])})["w"].bits
    Array([160], dtype=uint8)
    """
    checks.check("masks.pack", masks=(masks, MASKS))
    packed = lambda m: PackedMask(jnp.packbits(jnp.atleast_1d(m), axis=-1), m.shape)
    return jax.tree.map(packed, unpack(masks))


def unpack(masks: Masks) -> Masks:
    """Returns packed masks as bool arrays; bool arrays stay as they are.

    >>> unpack(pack({"w": jnp.array([True, False, True])}))["w"]
    Array([ True, False,  True], dtype=bool)
    """
    return jax.tree.map(_dense, masks, is_leaf=_is_packed)


def _is_packed(mask: Any) -> bool:
    return isinstance(mask, PackedMask)


def _dense(mask: Any) -> jax.Array:
    if not _is_packed(mask):
        return mask
    # In lanes as wide as the weights: unpacked as bytes, the mask costs more than the bits save.
    bits = mask.bits.astype(jnp.int32)[..., None]
    spread = jnp.broadcast_to(bits, (*mask.bits.shape, 8)).reshape(*mask.bits.shape[:-1], -1)
    place = jax.lax.broadcasted_iota(jnp.int32, spread.shape, spread.ndim - 1) % 8
    last = mask.shape[-1] if mask.shape else 1
    return ((spread << place) & 128 != 0)[..., :last].reshape(mask.shape)


def _all_bool(tree: Any) -> bool:
    found = jax.tree.leaves(tree, is_leaf=_is_packed)
    return all(getattr(leaf, "dtype", None) == _BOOL for leaf in found)


def _masks_remedy(value: Any) -> str:
    named = jax.tree_util.tree_leaves_with_path(value, is_leaf=_is_packed)
    path, leaf = next((p, leaf) for p, leaf in named if getattr(leaf, "dtype", None) != _BOOL)
    dtype = getattr(leaf, "dtype", None)
    found = f"its leaf {'/'.join(keys_of(path))!r} is {dtype}; " if path and dtype else ""
    return f"{found}masks.make(params) makes masks, and jaxprune.masks_of(opt_state) reads them"


def _is_filter(value: Any) -> bool:
    names = isinstance(value, Iterable) and not isinstance(value, Mapping) and not _is_tree(value)
    return value is None or isinstance(value, str) or checks.is_function(value) or names


def _is_tree(value: Any) -> bool:
    """Whether anything in it is an array, as in masks."""
    return any(hasattr(leaf, "dtype") for leaf in jax.tree.leaves(value))


MASKS = checks.Kind("a tree of bool arrays", _all_bool, _masks_remedy)
_PARAMS = checks.Kind(  # what masks are beside: not masks themselves
    "the parameters", lambda tree: checks.TREE.fits(tree) and not _all_bool(tree), lambda _: ""
)
PRUNABLE = checks.Kind(
    "a filter",
    _is_filter,
    lambda _: "a regular expression, a list of them, or a predicate (path, leaf) -> bool",
)
