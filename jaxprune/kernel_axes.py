"""Inputs, outputs and layers of each kernel: read from a program, given by hand, or told from a shape."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune import checks, trees
from jaxprune.programs.kernels import Follower, Use, follow
from jaxprune.types import Axes, Params

__all__ = [
    "AxesTree",
    "axes",
    "by_path",
    "by_position",
    "direction_fault",
    "kernels_by_use",
    "known",
    "layer_axes",
    "of_follower",
    "of_leaves",
    "told",
]

AxesTree = Any  # a tree of `Axes` beside the parameters, or `Axes` by regular expression

_LONGEST_WINDOW = 16  # of a convolution whose kernel is told by its shape


def axes(apply: Callable[..., Any], params: Params, *inputs: Any) -> AxesTree:
    """Returns what the axes of each kernel are to the program of `apply(params, *inputs)`.

    Kernels are followed into matrix products and convolutions through whatever arranges them anew:
    transposes, reshapes, slices, stacks, products with masks and scalars, sums with low-rank updates, loops
    over layers, experts, `jit`, `remat`, functions with derivatives of their own. Nothing is computed.

    Args:
      apply: any JAX function of the parameters and more; what it returns does not matter.
      params: tree of arrays, or of their shapes (`jax.ShapeDtypeStruct`).
      *inputs: trees of arrays or of shapes, whatever their leading axes.

    Returns:
      A tree like `params` of `jaxprune.Axes`; `None` at a leaf that is in no product. Where the program
      leaves it open which axes are inputs (both `w` and `w.T` are used), `in_axis` is `None`, and `reason`
      says why. The only kernel of an ensemble under `vmap` whose members share their inputs has no layers:
      that is the program of one wide kernel.

    >>> import jax.numpy as jnp
    >>> def apply(params, x):  # layers stacked for a scan, then a kernel that is stored [outputs, inputs]
    ...     x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, params["layers"])
    ...     return x @ params["head"].T + params["bias"]
    >>> params = {"layers": jnp.ones((6, 4, 4)), "head": jnp.ones((3, 4)), "bias": jnp.ones(())}
    >>> found = axes(apply, params, jnp.ones((2, 4)))
    >>> found["layers"]
    Axes(in_axis=(1,), out_axis=(2,), batch_axis=(0,))
    >>> found["head"], found["bias"]
    (Axes(in_axis=(1,), out_axis=(0,), batch_axis=()), None)
    """
    checks.check("axes", apply=(apply, checks.FUNCTION), params=(params, checks.TREE))
    leaves, treedef = jax.tree.flatten(params)
    follower = follow(apply, params, *inputs)
    return treedef.unflatten(of_follower(follower, [np.shape(leaf) for leaf in leaves]))


def of_follower(follower: Follower, shapes: Sequence[tuple[int, ...]]) -> list[Axes | None]:
    """The axes of each parameter, from what followed them through a program.

    Args:
      follower: that has run.
      shapes: of the parameters.
    """
    uses: list[list[Use]] = [[] for _ in shapes]
    for use in follower.uses:
        uses[use.view.leaf].append(use)
    return [
        _of_uses(own, shape, leaf, follower)
        for leaf, (shape, own) in enumerate(zip(shapes, uses, strict=True))
    ]


def _of_uses(
    uses: Sequence[Use], shape: tuple[int, ...], leaf: int, follower: Follower
) -> Axes | None:
    if not uses:
        if leaf not in follower.opaque:
            return None
        names = ", ".join(sorted(follower.opaque[leaf]))
        return Axes(None, None, (), f"it enters {names}, of which the axes are not known")
    direct = [use for use in uses if use.view.inner is None or use.view.by_constant]
    whole = [use for use in direct if not use.constant] or direct
    kind = _kind(whole, leaf, follower)
    if kind == "factor":
        reason = "it is multiplied with other parameters before it meets the inputs"
        return Axes(None, None, (), reason, kind)
    if leaf in follower.mixed:
        return Axes(None, None, (), "the inputs mix kernels out of it", kind)
    members = follower.layered - follower.summed
    roles: list[str | None] = [None] * len(shape)
    for use in whole or uses:
        own, fault = _roles(use, shape, members)
        for axis, role in enumerate(own):
            if role is None or fault:
                continue
            if {roles[axis], role} == {"batch", "out"}:
                role = "batch"  # one wide kernel where all members share their inputs
            elif roles[axis] not in (None, role):
                fault = (
                    f"the program takes axis {axis} for {_WORDS[role]} in one product and for "
                    f"{_WORDS[roles[axis] or role]} in another"
                )
            roles[axis] = role
        if fault:
            return Axes(None, None, (), fault, kind)
    named = {
        role: tuple(axis for axis, own in enumerate(roles) if (own or "batch") == role)
        for role in ("in", "out", "batch")
    }
    return Axes(named["in"], named["out"], named["batch"], None, kind)


_WORDS = {
    "in": "inputs",
    "out": "outputs",
    "batch": "layers",
    "window": "a window",
}


def _kind(whole: Sequence[Use], leaf: int, follower: Follower) -> str:
    if leaf in follower.adapters:
        return "adapter"
    if not whole:
        return "factor"
    direct = any(not use.looked_up for use in whole)
    if (leaf in follower.tables and direct) or any(use.indicator for use in whole):
        return "table"
    return "kernel"


def _roles(
    use: Use, shape: tuple[int, ...], layered: Container[tuple[int, int]]
) -> tuple[list[str | None], str | None]:
    """The role of each axis of the leaf in one product, and what is wrong with it."""
    view = use.view
    met: list[set[str]] = [set() for _ in shape]
    # Of a depthwise filter each channel is an output, as Flax stores it, not a layer.
    alone = "batch" if "out" in use.roles else "out"
    wide = any(view.extent(axis) > 1 for axis, role in enumerate(use.roles) if role == "in")
    for axis, given in enumerate(use.roles):
        role = alone if given == "batch" else given
        digits = list(view.axes[axis])
        grouped = use.groups if role == "out" and wide else 1
        for digit in digits:
            members = digit.size
            inside = grouped > 1 and grouped % members == 0 and len(digits) > 1
            grouped = grouped // members if inside else 1
            if digit.axis >= 0:
                member = role == "out" and (view.leaf, digit.axis) in layered
                met[digit.axis].add("group" if inside else "batch" if member else role)
        merged = [digit.axis for digit in digits if digit.axis >= 0]
        if role == "in" and merged != sorted(merged):
            fault = f"its axes {tuple(merged)} are merged in an order other than that they are stored in"
            return [None] * len(shape), fault
    for loop in view.loops:
        met[loop.digit.axis].add("batch")
    for pick in view.picks:
        met[pick.axis].add("batch")
    outer = {role for roles in met for role in roles} & {"in", "out"}
    for axis in view.inner or ():
        met[axis].add("out" if outer == {"in"} else "in" if outer == {"out"} else "open")
    found: list[str | None] = []
    fault = None
    for axis, roles in enumerate(met):
        if "open" in roles or {"in", "out"} <= roles:
            fault = f"axis {axis} is both summed over and kept in one product"
        elif "batch" in roles and roles & {"in", "out"}:
            other = _WORDS["in" if "in" in roles else "out"]
            fault = f"axis {axis} holds both layers and {other}; store layers along an axis of their own"
        if not roles:  # nothing of it is left: one index was picked
            found.append("batch" if shape[axis] > 1 else None)
        elif len(roles) == 1:
            role = next(iter(roles))
            found.append("batch" if role == "group" else role)
        else:  # a part of it is blocks or places of a window, the rest decides
            found.append("in" if "in" in roles else "out" if "out" in roles else "batch")
    return found, fault


def by_position(shape: Sequence[int]) -> Axes:
    """The axes of a leaf of which only the shape is known, as Flax stores kernels.

    Two axes are inputs and outputs. Four are a convolution's window, inputs and outputs if the first two are
    as short as a window. Of one axis, or none, each weight is an output. Anything else is left open.

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


def told(shape: Sequence[int], own: Axes | None) -> Axes:
    """The axes of a leaf: what is known of it, or what its shape tells."""
    return by_position(shape) if own is None else own


def layer_axes(own: Axes | None) -> tuple[int, ...]:
    """The axes of a leaf that index layers; none where nothing is known of it.

    >>> layer_axes(Axes(in_axis=1, out_axis=2, batch_axis=0)), layer_axes(None)
    ((0,), ())
    """
    return () if own is None else own.batch_axis


def direction_fault(who: str, shape: Sequence[int], own: Axes | None) -> str | None:
    """What is wrong if nobody can tell a leaf's inputs from its outputs; `{leaf}` stands for its name."""
    kernel = told(shape, own)
    if kernel.in_axis is not None:
        return None
    reason = str(kernel.reason).replace("{", "{{").replace("}", "}}")
    return (
        f"{who}: which axes of {{leaf}} are inputs is not known, as {reason}; give "
        "axes=jaxprune.axes(apply, params, *inputs), or exclude it with prunable="
    )


def known(given: AxesTree | None, params: Params, wanted: Any, user: str) -> Any:
    """Returns a tree like `params` of the `Axes` of the leaves where they are wanted, `None` elsewhere.

    Args:
      given: a tree like `params` of `Axes`; where it is `None`, or has `None`, the shape tells.
      params: tree of arrays or of shapes.
      wanted: a tree like `params` with `None` where no axes are needed; elsewhere anything, or the moments of
        inputs, which must not contradict what a shape tells.
      user: who needs them, for the message.

    Raises:
      ValueError: if it is open which axes of a leaf are inputs.

    >>> import jax.numpy as jnp
    >>> params = {"w": jnp.ones((2, 3)), "v": jnp.ones(2)}
    >>> known({"w": Axes(1, 0), "v": None}, params, {"w": True, "v": None}, "f")
    {'v': None, 'w': Axes(in_axis=(1,), out_axis=(0,), batch_axis=())}
    """
    leaves, treedef = jax.tree.flatten(params)
    said = [None] * len(leaves) if given is None else treedef.flatten_up_to(given)
    rows = zip(trees.paths(params), leaves, said, treedef.flatten_up_to(wanted), strict=True)
    found: list[Axes | None] = []
    for name, leaf, own, needed in rows:
        if own is None:
            own = _by_moments(np.shape(leaf), np.shape(needed))
        if needed is not None and (own.in_axis is None or own.out_axis is None):
            raise ValueError(
                f"{user}: it is open which axes of {name!r} are inputs, {own.reason}; "
                "give axes=jaxprune.axes(apply, params, *inputs)."
            )
        found.append(None if needed is None else own)
    return treedef.unflatten(found)


def _by_moments(shape: Sequence[int], lengths: Sequence[int]) -> Axes:
    """The axes by position, unless moments of these lengths say otherwise."""
    own = by_position(shape)
    if own.in_axis is None or len(lengths) != len(shape):
        return own
    if len(shape) == 1 and lengths == shape:  # a vector that is multiplied as one
        return Axes((0,), ())
    if any(lengths[a] < shape[a] for a in own.in_axis):
        return Axes(None, None, (), "its moments lie along others than its shape suggests")
    return own


def of_leaves(given: AxesTree | None, params: Params) -> list[Axes | None]:
    """The axes of each leaf of `params`, in order; `None` where nothing is known of it.

    Args:
      given: what `axes` returns, for these parameters or for a tree that holds them or is held by them
        (`variables` and `params`, an `nnx.State` and a dict): leaves are matched by path. Or a dict of `Axes`
        by regular expression, searched in the paths; the first that matches counts.
      params: tree of arrays or of shapes.

    Raises:
      ValueError: if no path matches, an expression matches nothing, or axes are none of a leaf's.
      TypeError: if something else than `Axes` is given.
    """
    return [None if own is _UNSAID else own for own in _matched(given, params)]


def by_path(given: AxesTree | None, leaves: Mapping[str, Any]) -> dict[str, Axes | None]:
    """The axes of each leaf, for leaves by path instead of in their tree (see `of_leaves`).

    They may be some of a tree's leaves only: expressions that match none of them are passed over.

    Args:
      given: as for `of_leaves`.
      leaves: arrays or shapes (`jax.ShapeDtypeStruct`) by path.
    """
    ordered = dict(sorted(leaves.items()))
    found = _matched(given, ordered, partial=True)
    known = [None if own is _UNSAID else own for own in found]
    return dict(zip(ordered, known, strict=True))


def kernels_by_use(given: AxesTree | None, params: Params) -> list[bool | None]:
    """Per leaf, whether the program has a kernel there; `None` where `given` does not say.

    Of the factors of a product of parameters it does not: a layer may be factorised, a table projected.

    Args:
      given: as for `of_leaves`.
      params: tree of arrays or of shapes.
    """

    def use(own: Any) -> bool | None:
        if own is _UNSAID or (own is not None and own.use == "factor"):
            return None
        return own is not None and own.use == "kernel"

    return [use(own) for own in _matched(given, params)]


_UNSAID: Any = object()  # of a leaf that axes say nothing of, beside `None` for one in no product


def _matched(given: AxesTree | None, params: Params, *, partial: bool = False) -> list[Any]:
    """What is given for each leaf, its axes counted from 0; `_UNSAID` where nothing is.

    If `params` are part of a tree, expressions may be about the rest of it.
    """
    names = trees.paths(params)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    if given is None:
        return [_UNSAID] * len(names)
    named = _named(given)
    wrong = [value for value in named.values() if not isinstance(value, Axes | None)]
    if wrong:
        raise TypeError(
            f"axes: {wrong[0]!r} is not a jaxprune.Axes; give what jaxprune.axes(apply, params, *inputs) "
            'returns, or {"regular expression": jaxprune.Axes(in_axis=0, out_axis=1)}.'
        )
    start = _start(named, names, flat=_is_flat(given))
    if start is None:
        found = _searched(named, names, partial)
    else:
        added, removed = start
        begins = [name.startswith(removed) for name in names]
        found = [
            named.get(added + name.removeprefix(removed), _UNSAID) if inside else _UNSAID
            for name, inside in zip(names, begins, strict=True)
        ]
    return [
        _counted_from_zero(own, shape, name) if isinstance(own, Axes) else own
        for own, shape, name in zip(found, shapes, names, strict=True)
    ]


def _named(given: AxesTree) -> dict[str, Any]:
    stop = lambda x: x is None or isinstance(x, Axes)
    leaves = jax.tree_util.tree_leaves_with_path(trees.plain(given), is_leaf=stop)
    return {"/".join(trees.keys_of(path)): leaf for path, leaf in leaves}


def _is_flat(given: AxesTree) -> bool:
    """Whether axes are given by keys that can be expressions."""
    return isinstance(given, Mapping) and all(
        isinstance(key, str) and isinstance(value, Axes | None) for key, value in given.items()
    )


def _start(named: Mapping[str, Any], names: Sequence[str], *, flat: bool) -> tuple[str, str] | None:
    """What the paths of the axes begin with, and those of the parameters, where the rest is the same.

    `None`: the keys are expressions.
    """
    known, own = set(named), set(names)
    if flat:
        return ("", "") if own <= known else None
    if known & own:
        return "", ""
    added = {key.removesuffix(n) for n in names for key in known if key.endswith("/" + n)}
    removed = {n.removesuffix(key) for n in names for key in known if n.endswith("/" + key)}
    fits = [(a, "") for a in sorted(added) if _one_in_the_other(_within(known, a), own)]
    fits += [("", r) for r in sorted(removed) if _one_in_the_other(_within(own, r), known)]
    if len(fits) > 1:
        parts = ", ".join(repr((a or r).rstrip("/")) for a, r in fits)
        raise ValueError(
            f"axes: it is open which part of the tree is meant, {parts}; give axes of the whole tree, or of "
            "the part that is pruned."
        )
    return fits[0] if fits else None


def _within(paths: set[str], start: str) -> set[str]:
    return {path.removeprefix(start) for path in paths if path.startswith(start)}


def _one_in_the_other(a: set[str], b: set[str]) -> bool:
    return bool(a) and bool(b) and (a <= b or b <= a)


def _searched(by_expression: Mapping[str, Any], names: Sequence[str], partial: bool) -> list[Any]:
    for expression in () if partial else by_expression:
        if not any(re.search(expression, name) for name in names):
            raise ValueError(
                f"axes: {expression!r} is no path of the parameters and, as a regular expression, matches "
                f"none of {trees.quote_names(names)}; give jaxprune.axes of these parameters."
            )
    return [
        next((own for e, own in by_expression.items() if re.search(e, name)), _UNSAID)
        for name in names
    ]


def _counted_from_zero(own: Axes, shape: tuple[int, ...], name: str) -> Axes:
    every = [*(own.in_axis or ()), *(own.out_axis or ()), *own.batch_axis]
    ndim = len(shape)
    if any(not -ndim <= axis < ndim for axis in every):
        raise ValueError(
            f"axes: {name!r} has the shape {shape}, but {own} names other axes; give those of this leaf."
        )
    counted = lambda some: None if some is None else tuple(sorted(axis % ndim for axis in some))
    if len({axis % ndim for axis in every}) < len(every):
        raise ValueError(f"axes: {own} names an axis of {name!r}, {shape}, twice; name each once.")
    return Axes(
        counted(own.in_axis), counted(own.out_axis), counted(own.batch_axis), own.reason, own.use
    )
