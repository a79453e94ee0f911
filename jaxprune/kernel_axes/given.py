"""Axes that are given for a tree, matched to its leaves; where none are given, what the shape tells."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import checks, trees
from jaxprune.types import Axes, Params

__all__ = [
    "AxesTree",
    "by_path",
    "by_position",
    "direction_fault",
    "kernels_by_use",
    "layer_axes",
    "of_leaves",
    "require_axes",
    "resolve_axes",
    "tree_beside",
]

AxesTree = Any  # a tree of `Axes` beside the parameters, or `Axes` by regular expression

_LONGEST_WINDOW = 16  # of a convolution whose kernel is told by its shape


def by_position(shape: Sequence[int]) -> Axes:
    """Returns the axes of a leaf of which only the shape is known, as Flax stores kernels.

    Two axes are inputs and outputs. Four axes are a convolution's window, inputs and outputs if the first two
    are as short as a window. With one axis or none each weight is an output. Other shapes give no axes.

    >>> by_position((3, 3, 64, 32))
    Axes(in_axis=(2,), out_axis=(3,), batch_axis=())
    """
    ndim = len(shape)
    if ndim <= 1:
        return Axes((), tuple(range(ndim)))
    if ndim == 2:
        return Axes((0,), (1,))
    if ndim == 4 and max(shape[:2]) <= _LONGEST_WINDOW:
        return Axes((2,), (3,))
    return Axes(
        None,
        None,
        (),
        f"it has {ndim} axes, {tuple(shape)}, and nobody has said which are inputs",
    )


def resolve_axes(shape: Sequence[int], axes: Axes | None) -> Axes:
    """Returns the axes of a leaf that are given, or by position where they are `None`.

    >>> resolve_axes((2, 3), None), resolve_axes((2, 3), Axes(1, 0))
    (Axes(in_axis=(0,), out_axis=(1,), batch_axis=()), Axes(in_axis=(1,), out_axis=(0,), batch_axis=()))
    """
    return by_position(shape) if axes is None else axes


def layer_axes(axes: Axes | None) -> tuple[int, ...]:
    """Returns the axes of a leaf that index layers; none where nothing is known of it.

    >>> layer_axes(Axes(in_axis=1, out_axis=2, batch_axis=0)), layer_axes(None)
    ((0,), ())
    """
    return () if axes is None else axes.batch_axis


def direction_fault(who: str, shape: Sequence[int], axes: Axes | None) -> str | None:
    """Returns an error text if a leaf's inputs cannot be told from its outputs; `None` if they can.

    Args:
      who: the function that needs to know.
      shape: of the leaf.
      axes: its axes, or `None`.

    Returns:
      A text in which `{leaf}` stands for the name of the leaf.
    """
    leaf_axes = resolve_axes(shape, axes)
    if leaf_axes.in_axis is not None:
        return None
    reason = str(leaf_axes.reason).replace("{", "{{").replace("}", "}}")
    return (
        f"{who}: which axes of {{leaf}} are inputs is not known, as {reason}; give "
        "axes=jaxprune.axes(apply, params, *inputs), or exclude it with prunable="
    )


def require_axes(given: AxesTree | None, params: Params, wanted: Any, user: str) -> Any:
    """Returns a tree like `params` of the `Axes` of the leaves where they are wanted, `None` elsewhere.

    Args:
      given: as for `of_leaves`; where it is `None`, or has `None`, the shape tells.
      params: tree of arrays or of shapes.
      wanted: a tree like `params` with `None` where no axes are needed; elsewhere anything, or the moments of
        inputs, which must not contradict what a shape tells.
      user: who needs them, for the message.

    Raises:
      ValueError: if it is open which axes of a leaf are inputs.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((2, 3)), "v": jnp.ones(2)}
    >>> require_axes({"w": Axes(1, 0), "v": None}, params, {"w": True, "v": None}, "f")
    {'v': None, 'w': Axes(in_axis=(1,), out_axis=(0,), batch_axis=())}
    """
    leaves, treedef = jax.tree.flatten(params)
    given_axes = of_leaves(given, params)
    rows = zip(trees.paths(params), leaves, given_axes, treedef.flatten_up_to(wanted), strict=True)
    required_axes: list[Axes | None] = []
    for path, leaf, axes, need in rows:
        if axes is None:
            axes = _axes_by_moments(np.shape(leaf), np.shape(need))
        if need is not None and (axes.in_axis is None or axes.out_axis is None):
            raise ValueError(
                f"{user}: it is open which axes of {path!r} are inputs, {axes.reason}; "
                "give axes=jaxprune.axes(apply, params, *inputs)."
            )
        required_axes.append(None if need is None else axes)
    return treedef.unflatten(required_axes)


def _axes_by_moments(shape: Sequence[int], moment_shape: Sequence[int]) -> Axes:
    """Returns the axes by position; those that are open where moments of these lengths contradict them."""
    axes = by_position(shape)
    if axes.in_axis is None or len(moment_shape) != len(shape):
        return axes
    if len(shape) == 1 and moment_shape == shape:  # a vector that is multiplied as one
        return Axes((0,), ())
    if any(moment_shape[axis] < shape[axis] for axis in axes.in_axis):
        return Axes(None, None, (), "its moments lie along others than its shape suggests")
    return axes


def of_leaves(given: AxesTree | None, params: Params) -> list[Axes | None]:
    """Returns the axes of each leaf of `params`, in order; `None` where nothing is known of it.

    Args:
      given: what `axes` returns, for these parameters or for a tree that holds them or is held by them
        (`variables` and `params`, an `nnx.State` and a dict): leaves are matched by path. Or a dict of `Axes`
        by regular expression, searched in the paths; the first that matches counts.
      params: tree of arrays or of shapes.

    Raises:
      ValueError: if no path matches, an expression matches nothing, or axes are none of a leaf's.
      TypeError: if something else than `Axes` is given.
    """
    return [None if axes is _UNSAID else axes for axes in _match_leaves(given, params)]


def tree_beside(given: AxesTree | None, params: Params) -> Any:
    """Returns a tree like `params` of the axes of the leaves, counted from 0 (see `of_leaves`).

    >>> tree_beside({"w$": Axes(-2, -1)}, {"w": np.ones((2, 3)), "b": np.ones(3)})
    {'b': None, 'w': Axes(in_axis=(0,), out_axis=(1,), batch_axis=())}
    """
    return jax.tree.structure(params).unflatten(of_leaves(given, params))


def by_path(given: AxesTree | None, leaves: Mapping[str, Any]) -> dict[str, Axes | None]:
    """Returns the axes of each leaf, for leaves by path instead of in their tree (see `of_leaves`).

    They may be some of a tree's leaves only: expressions that match none of them are passed over.

    Args:
      given: as for `of_leaves`.
      leaves: arrays or shapes (`jax.ShapeDtypeStruct`) by path.
    """
    leaves_by_path = dict(sorted(leaves.items()))
    matched = _match_leaves(given, leaves_by_path, partial=True)
    axes_of_leaves = [None if axes is _UNSAID else axes for axes in matched]
    return dict(zip(leaves_by_path, axes_of_leaves, strict=True))


def kernels_by_use(given: AxesTree | None, params: Params) -> list[bool | None]:
    """Returns per leaf whether the program takes it for a kernel; `None` where `given` does not say.

    It does not say so of factors that are multiplied with each other: a layer may be factorised, or a table
    projected.

    Args:
      given: as for `of_leaves`.
      params: tree of arrays or of shapes.
    """

    def is_kernel(axes: Any) -> bool | None:
        if axes is _UNSAID or (axes is not None and axes.use == "factor"):
            return None
        return axes is not None and axes.use == "kernel"

    return [is_kernel(axes) for axes in _match_leaves(given, params)]


# For a leaf of which nothing is given; `None` is for one that is in no product.
_UNSAID: Any = object()


def _match_leaves(given: AxesTree | None, params: Params, *, partial: bool = False) -> list[Any]:
    """Returns what is given for each leaf, its axes counted from 0; `_UNSAID` where nothing is.

    Args:
      given: as for `of_leaves`.
      params: tree of arrays or of shapes.
      partial: whether these may be part of a tree, and expressions about the rest of it.
    """
    paths = trees.paths(params)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    if given is None:
        return [_UNSAID] * len(paths)
    given_by_path = _flatten_given(given)
    foreign_values = [
        value for value in given_by_path.values() if not isinstance(value, Axes | None)
    ]
    if foreign_values:
        raise TypeError(
            f"axes: {foreign_values[0]!r} is not a jaxprune.Axes; give what "
            'jaxprune.axes(apply, params, *inputs) returns, or {"regular expression": '
            "jaxprune.Axes(in_axis=0, out_axis=1)}."
        )
    prefixes = _find_prefixes(given_by_path, paths, flat=_is_flat(given))
    if prefixes is None:
        matched = _search_expressions(given_by_path, paths, partial)
    else:
        added_prefix, removed_prefix = prefixes
        have_prefix = [path.startswith(removed_prefix) for path in paths]
        matched = [
            given_by_path.get(added_prefix + path.removeprefix(removed_prefix), _UNSAID)
            if has_prefix
            else _UNSAID
            for path, has_prefix in zip(paths, have_prefix, strict=True)
        ]
    return [
        _normalize_axes(axes, shape, path) if isinstance(axes, Axes) else axes
        for axes, shape, path in zip(matched, shapes, paths, strict=True)
    ]


def _flatten_given(given: AxesTree) -> dict[str, Any]:
    """Returns what is given, by path or by expression."""

    def is_entry(_: tuple[str, ...], node: Any) -> bool:
        return node is None or isinstance(node, Axes)

    leaves = trees.leaves_with_keys(trees.plain(given), is_entry)
    trees.check_distinct("axes", ["/".join(keys) for keys, _ in leaves])
    return {"/".join(keys): leaf for keys, leaf in leaves}


def _is_flat(given: AxesTree) -> bool:
    """Whether axes are given by keys that can be expressions."""
    return isinstance(given, Mapping) and all(
        isinstance(key, str) and isinstance(value, Axes | None) for key, value in given.items()
    )


def _find_prefixes(
    given_by_path: Mapping[str, Any], paths: Sequence[str], *, flat: bool
) -> tuple[str, str] | None:
    """Returns the prefix to add to a leaf's path, and the one to remove, for the path of its axes.

    One of the two is empty: axes are given for a tree that holds the parameters, or for a part of them. If
    the keys are no paths, but expressions, it is `None` instead.

    Args:
      given_by_path: what is given, by path or by expression.
      paths: of the leaves.
      flat: whether the keys can be expressions.
    """
    given_paths = set(given_by_path)
    leaf_paths = set(paths)
    if flat:
        return ("", "") if leaf_paths <= given_paths else None
    if given_paths & leaf_paths:
        return "", ""
    added_prefixes = {
        key.removesuffix(path) for path in paths for key in given_paths if key.endswith("/" + path)
    }
    removed_prefixes = {
        path.removesuffix(key) for path in paths for key in given_paths if path.endswith("/" + key)
    }
    candidates = [
        (added, "")
        for added in sorted(added_prefixes)
        if _one_holds_the_other(_strip_prefix(given_paths, added), leaf_paths)
    ]
    candidates += [
        ("", removed)
        for removed in sorted(removed_prefixes)
        if _one_holds_the_other(_strip_prefix(leaf_paths, removed), given_paths)
    ]
    if len(candidates) > 1:
        parts_text = ", ".join(
            repr((added or removed).rstrip("/")) for added, removed in candidates
        )
        raise ValueError(
            f"axes: it is open which part of the tree is meant, {parts_text}; give axes of the whole tree, "
            "or of the part that is pruned."
        )
    return candidates[0] if candidates else None


def _strip_prefix(paths: set[str], prefix: str) -> set[str]:
    """Returns the paths that begin with a prefix, without it."""
    return {path.removeprefix(prefix) for path in paths if path.startswith(prefix)}


def _one_holds_the_other(first: set[str], second: set[str]) -> bool:
    """Whether one of two sets that are not empty holds the other."""
    return bool(first) and bool(second) and (first <= second or second <= first)


def _search_expressions(
    by_expression: Mapping[str, Any], paths: Sequence[str], partial: bool
) -> list[Any]:
    """Returns what the first expression that matches gives for each path; `_UNSAID` where none does."""
    for expression in by_expression:
        checks.expression("axes", expression)
        if not partial and not any(re.search(expression, path) for path in paths):
            raise ValueError(
                f"axes: {expression!r} is no path of the parameters and, as a regular expression, matches "
                f"none of {trees.quote_names(paths)}; give jaxprune.axes of these parameters."
            )
    return [
        next(
            (value for pattern, value in by_expression.items() if re.search(pattern, path)), _UNSAID
        )
        for path in paths
    ]


def _normalize_axes(axes: Axes, shape: tuple[int, ...], path: str) -> Axes:
    """Returns axes of a leaf counted from 0; refuses those that it does not have, or that are named twice."""

    def count_from_zero(side: tuple[int, ...] | None) -> Any:
        return None if side is None else tuple(sorted(axis % ndim for axis in side))

    all_axes = [*(axes.in_axis or ()), *(axes.out_axis or ()), *axes.batch_axis]
    ndim = len(shape)
    if any(not -ndim <= axis < ndim for axis in all_axes):
        raise ValueError(
            f"axes: {path!r} has the shape {shape}, but {axes} names other axes; give those of this leaf."
        )
    if len({axis % ndim for axis in all_axes}) < len(all_axes):
        raise ValueError(f"axes: {axes} names an axis of {path!r}, {shape}, twice; name each once.")
    return Axes(
        count_from_zero(axes.in_axis),
        count_from_zero(axes.out_axis),
        count_from_zero(axes.batch_axis),
        axes.reason,
        axes.use,
    )
