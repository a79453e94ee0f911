"""Masks are bool trees beside the parameters: made, applied, compared, packed and checked here.

A leaf that is never pruned has the mask `None`. Map a function over **params first**, masks second:
`jax.tree.map(f, params, masks)` hands the `None` to `f`. Every function here also takes packed masks.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.types import Masks, Params

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
# Names by which Flax and Haiku call biases and statistics.
_NEVER = {"bias", "scale", "mean", "var", "offset"}
_AVERAGES = (["mean_ema"], ["var_ema"])  # of Haiku's BatchNorm, with axes of length one


def keys_of(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Plain names of a key path; the wrapper level of `nnx` variables is left out.

    >>> keys_of(jax.tree_util.tree_leaves_with_path({"a": [0, 1]})[1][0])
    ('a', '1')
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def paths(tree: Params) -> list[str]:
    """Paths of the leaves, as filters and reports name them.

    >>> paths({"Dense_0": {"kernel": 1, "bias": 2}})
    ['Dense_0/bias', 'Dense_0/kernel']
    """
    return ["/".join(keys_of(path)) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def is_prunable(path: str, leaf: jax.Array) -> bool:
    """The default filter: floating leaves of two or more axes, except biases and statistics.

    >>> is_prunable("Dense_0/kernel", jnp.ones((2, 3))), is_prunable("Dense_0/bias", jnp.ones(3))
    (True, False)
    """
    *modules, name = path.split("/")
    return jnp.ndim(leaf) >= 2 and name not in _NEVER and modules[-1:] not in _AVERAGES


def make(params: Params, prunable: Prunable = None) -> Masks:
    """Returns the masks that keep everything.

    Args:
      params: tree of arrays. Integer, boolean, complex and empty leaves are never pruned.
      prunable: which leaves may be pruned: `None` for `is_prunable`; a regular expression or several,
        searched in the path (`"Dense_[01]/kernel"`); or a predicate `(path, leaf) -> bool`.

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
    choose, found = _choose(prunable, names), jax.tree.structure(params)

    def ones(name: str, leaf: jax.Array) -> jax.Array | None:
        fit = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.size(leaf) > 0
        return jnp.ones_like(leaf, dtype=bool) if fit and choose(name, leaf) else None

    masks = found.unflatten(map(ones, names, jax.tree.leaves(params)))
    if not jax.tree.leaves(masks):
        asked = "the default filter" if prunable is None else f"prunable={prunable!r}"
        raise ValueError(
            f"masks.make: {asked} leaves nothing to prune among {_some(names)}; "
            "give prunable= a regular expression or a predicate that matches floating-point leaves."
        )
    return masks


def _choose(prunable: Prunable, names: list[str]) -> Callable[[str, jax.Array], bool]:
    if prunable is None:
        return is_prunable
    if callable(prunable):
        return prunable
    patterns = [prunable] if isinstance(prunable, str) else list(prunable)
    for pattern in patterns:
        checks.expression("prunable", pattern)
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(
                f"prunable: the pattern {pattern!r} matches none of the leaves {_some(names)}."
            )
    return lambda name, _: any(re.search(pattern, name) for pattern in patterns)


def _some(names: list[str], shown: int = 6) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more


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
    named = [f"{what} {_some(sorted(names))}" for what, names in sides.items() if names]
    return "; ".join(named) or otherwise


def check_order(who: str, masks: Masks, params: Params) -> None:
    """Raises `TypeError` if masks and parameters are swapped."""
    checks.swapped(who, masks=(masks, MASKS), params=(params, _PARAMS))


def beside(params: Params, tree: Any) -> list[Any]:
    """The entries of `tree` (masks, units: `None` included) at the leaves of `params`, in order."""
    return jax.tree.structure(params).flatten_up_to(tree)


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


def shuffle(masks: Masks, key: jax.Array) -> Masks:
    """Returns masks whose kept positions are shuffled within each leaf: same counts, other places.

    The control of Frankle, Dziugaite, Roy & Carbin, "Pruning Neural Networks at Initialization: Why
    Are We Missing the Mark?" (2021), and the random sparsity of the lottery-ticket paper.
    """
    checks.check("masks.shuffle", masks=(masks, MASKS), key=(key, checks.KEY))
    index = iter(range(1 << 30))
    return jax.tree.map(
        lambda mask: jax.random.permutation(
            jax.random.fold_in(key, next(index)), mask.reshape(-1), independent=True
        ).reshape(mask.shape),
        unpack(masks),
    )


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


def summary(masks: Masks) -> list[dict[str, Any]]:
    """Returns path, shape, weights and kept weights of each leaf that has a mask.

    >>> summary({"w": jnp.array([[True, False]]), "b": None})
    [{'leaf': 'w', 'shape': (1, 2), 'weights': 2, 'kept': 1}]
    """
    checks.check("masks.summary", masks=(masks, MASKS))
    named = jax.tree_util.tree_leaves_with_path(masks, is_leaf=_is_packed)
    return [
        {
            "leaf": "/".join(keys_of(path)),
            "shape": tuple(mask.shape),
            "weights": math.prod(mask.shape),
            "kept": int(_dense(mask).sum()),
        }
        for path, mask in named
    ]


def table(masks: Masks, flops: Params | None = None) -> str:
    """Returns a table of the weights kept, per leaf and in all.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned.
      flops: a tree of numbers, as `jaxprune.metrics.flops` returns it, for two more columns: the
        operations of the dense leaf, and of the weights kept (what is saved only where zeros are skipped).

    >>> print(table({"fc": {"kernel": jnp.array([[True, False]]), "bias": None}}))
    leaf         shape weights kept sparsity
    fc/kernel    1x2         2    1   50.00%
    all                      2    1   50.00%
    """
    checks.check("masks.table", masks=(masks, MASKS))
    rows = summary(masks)
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
        dense = [count for count, mask in pairs if mask is not None]
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
