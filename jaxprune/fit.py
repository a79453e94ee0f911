"""What does not fit is refused here, in words and before anything is traced: leaves, targets, scores."""

import dataclasses
import difflib
import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import allocation as allocations
from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune.alike import check_alike, entries_beside
from jaxprune.calls import text
from jaxprune.coupling import AnyPattern, Coupled
from jaxprune.types import (
    Allocation,
    AnyAllocation,
    Axes,
    Criterion,
    Masks,
    Params,
    Pattern,
    Schedule,
    Units,
    Update,
)

__all__ = ["check_coupled", "check_fit", "check_rounds", "check_signals", "living", "scores_of"]


_BY_WEIGHT = {  # signals that have one number for each weight; others are broadcast
    "fisher",
    "gauss_newton_diagonal",
    "gradient_sum",
    "grads",
    "hessian_diagonal",
    "hessian_gradient",
    "initial_params",
    "momentum",
    "movement_sum",
    "second_moment",
    "synaptic_flow",
}


def scores_of(
    criterion: Criterion,
    params: Params,
    signals: dict[str, Any],
    pruned: Sequence[int],
    axes: Sequence[Axes | None],
) -> list[Any]:
    """The scores by leaf; `None` where a criterion knows nothing, which is no leaf to prune."""
    if "axes" in inspect.signature(criterion).parameters:
        signals = {**signals, "axes": jax.tree.structure(params).unflatten(axes)}
    check_signals(criterion, signals)
    name = text(criterion)
    for signal in _BY_WEIGHT.intersection(_read(criterion), signals):
        what, remedy = f"entries of the signal {signal!r}", "give one number for each weight"
        check_alike(name, what, params, signals[signal], remedy)
    params, signals = _without_keys(params, signals)
    try:
        scores = criterion(params, **signals)
    except (TypeError, ValueError, KeyError):
        _check_trees(name, params, signals)  # if one of them is to blame, it says so
        raise
    treedef = jax.tree.structure(params)
    try:
        found = treedef.flatten_up_to(scores)
    except ValueError:
        found = []
    if len(found) < treedef.num_leaves or not all(s is None or hasattr(s, "shape") for s in found):
        raise ValueError(
            f"{name}: the scores are {jax.tree.structure(scores)}, but the parameters "
            f"{jax.tree.structure(params)}; return jax.tree.map(f, params, ...)."
        )
    paths, leaves = masks_lib.paths(params), jax.tree.leaves(params)
    unknown = [paths[i] for i in pruned if found[i] is None]
    if unknown:
        raise ValueError(
            f"{name}: no scores for {', '.join(map(repr, unknown))}, of which its signals say nothing; "
            "exclude them with prunable=."
        )
    for path, p, s in zip(paths, leaves, found, strict=True):
        if s is not None and jnp.shape(s) != jnp.shape(p):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(s)}, its weights {jnp.shape(p)}; "
                "give one score per weight (jnp.broadcast_to shares one among several)."
            )
    return found


def _read(criterion: Criterion) -> list[str]:
    """The names of all signals that a criterion may read."""
    return list(inspect.signature(criterion).parameters)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)


def _without_keys(params: Params, signals: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    """Zeros for PRNG keys among the parameters, of which no criterion can make scores."""
    leaves, treedef = jax.tree.flatten(params)
    keys = [_is_key(leaf) for leaf in leaves]
    if not any(keys):
        return params, signals
    zeros = [jnp.zeros(jnp.shape(leaf), jnp.float32) for leaf in leaves]

    def cleared(tree: Any) -> Any:
        try:
            entries = treedef.flatten_up_to(tree)
        except ValueError:  # a signal that is no tree beside the parameters
            return tree
        rows = zip(keys, zeros, entries, strict=True)
        return treedef.unflatten([zero if key else entry for key, zero, entry in rows])

    return cleared(params), {name: cleared(value) for name, value in signals.items()}


def _check_trees(name: str, params: Params, signals: Mapping[str, Any]) -> None:
    """Refuses signals that are trees, but not beside the parameters."""
    for signal, value in signals.items():
        if jax.tree_util.all_leaves([value]):
            continue
        refusal = lambda differ, signal=signal: (
            f"{name}: the signal {signal!r} is another tree than the parameters ({differ}); give one that "
            "has an entry for each."
        )
        entries_beside(params, value, refusal)


def check_signals(criterion: Criterion, signals: Mapping[str, Any]) -> None:
    """Refuses signals that a criterion cannot be called with: one is missing, or it takes none such.

    Raises:
      TypeError: which signals it reads and which were given, and how to give the one that is missing.

    >>> from jaxprune.criteria import taylor
    >>> check_signals(taylor, {"gradients": 0.0})
    Traceback (most recent call last):
    TypeError: taylor: the signal 'grads' is missing; it reads 'grads', given was 'gradients': write grads=.
    """
    try:
        _, *parameters = inspect.signature(criterion).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # it does not tell, or takes no parameters; the call will say so
        return
    name = text(criterion)
    named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p.name for p in named if p.default is p.empty]
    missing = [signal for signal in needed if signal not in signals]
    if missing:
        remembered = signals_lib.needed([criterion])
        raise TypeError(f"{name}: {_missing(missing[0], needed, signals, remembered)}.")
    is_open = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = [signal for signal in signals if signal not in [p.name for p in named]]
    if unknown and not is_open:
        raise TypeError(
            f"{name}: it takes no signal {unknown[0]!r}; let its arguments end with **_, for those that it "
            "does not read."
        )


def _missing(
    signal: str, needed: Sequence[str], signals: Mapping[str, Any], remembered: Container[str]
) -> str:
    """Words for a missing signal."""
    if signal == "key":
        return "it draws by chance, and 'key' is missing; give key=jax.random.key(0)"
    unread = [name for name in signals if name not in needed]
    given = ", ".join(map(repr, signals)) or "nothing"
    says = f"the signal {signal!r} is missing; it reads {', '.join(map(repr, needed))}, given was {given}"
    if difflib.get_close_matches(signal, unread, n=1, cutoff=0.4):
        return f"{says}: write {signal}="
    if signal in remembered:
        return f"{says}: training remembers it, but in one shot you must give {signal}="
    return f"{says}: give {signal}= as well"


def check_fit(
    pattern: AnyPattern,
    allocation: AnyAllocation,
    schedule: Schedule,
    update: Update,
    params: Params,
    masks: Masks,
    axes: Sequence[Axes | None],
) -> None:
    """Refuses leaves that the pattern does not fit, and a target that would leave nothing of one."""
    if isinstance(pattern, Coupled):
        check_coupled(pattern, params)
        return
    leaves = _pruned(params, masks, axes)
    wrong = [(path, pattern.check(*leaf)) for path, leaf in leaves.items()]
    messages = [message.format(leaf=repr(path)) for path, message in wrong if message]
    if messages:
        more = f" (and {len(messages) - 1} more leaves)" if len(messages) > 1 else ""
        raise ValueError(messages[0] + more + ".")
    divided = _divided(pattern, leaves)
    if not divided:
        return
    if update.whole_leaves:
        raise ValueError(
            f"{text(update)} keeps no counts per contest, but in {divided[0]!r} the pattern has "
            "many; use updates.regrow or updates.prune, or the pattern unstructured()."
        )
    units = _shapes(pattern, leaves)
    with jax.ensure_compile_time_eval():
        sparsity = float(schedule.sparsity(schedule.end))
    if isinstance(allocation, Allocation) and allocation.shares and allocation.at_least:
        kept = _counts(allocation, params, units, sparsity)
        empty = [path for path in divided if kept[path].min() < 1]
    else:  # the scores decide, or a layer may be emptied
        with jax.ensure_compile_time_eval():
            left = [int(allocations.survivors(units[path].members, sparsity)) for path in divided]
        empty = [] if any(left) else divided
    if empty:
        m = units[empty[0]].members
        more = f" (and in {len(empty) - 1} more leaves)" if len(empty) > 1 else ""
        raise ValueError(
            f"a sparsity of {sparsity:g} leaves none of the {m} weights that compete with each other in "
            f"{empty[0]!r}{more}; this pattern allows {1 - 1 / m:g} at most: give a lower sparsity, or "
            "exclude the leaf with prunable=."
        )


def check_rounds(
    pattern: AnyPattern,
    allocation: AnyAllocation,
    sparsities: Sequence[float],
    params: Params,
    masks: Masks,
    axes: Sequence[Axes | None],
    *,
    dense: bool = False,
) -> None:
    """Refuses rounds of which one would take nothing, or all that is left, of the contests of a leaf.

    Where many contests keep the same number each, a share of the few that are left in one can round to
    nothing: the round and all after it would leave the leaf as it is.

    Args:
      pattern: what dies together and who competes.
      allocation: who gets how much of the budget; nothing is refused where the scores decide.
      sparsities: of each round, the fraction removed of what is left.
      params: tree of arrays.
      masks: before the first round; nothing is refused where they are traced.
      axes: what the axes of each leaf are.
      dense: whether everything is alive before the first round, traced or not.
    """
    if (
        isinstance(pattern, Coupled)
        or not isinstance(allocation, Allocation)
        or not allocation.shares
    ):
        return
    leaves = _pruned(params, masks, axes)
    divided = _divided(pattern, leaves)
    alive = [m for m in jax.tree.leaves(masks) if m is not None]
    if not divided or (not dense and any(isinstance(m, Tracer) for m in alive)):
        return
    units = _shapes(pattern, leaves)
    if not dense:
        grouped = [
            pattern.to_groups(mask.astype(jnp.float32), unit.kernel) > 0
            for unit, mask in zip(units.values(), alive, strict=True)
        ]
        units = {
            path: dataclasses.replace(unit, competing=living(unit, units_alive))
            for (path, unit), units_alive in zip(units.items(), grouped, strict=True)
        }
    for number, sparsity in enumerate(sparsities):
        whole = {path: _in_one_contest(unit) for path, unit in units.items()}
        asked = _counts(allocation, params, whole, sparsity)
        kept = _counts(allocation, params, units, sparsity)
        for path in divided:
            before = np.broadcast_to(units[path].budgeted, kept[path].shape)
            none = (kept[path] < 1) & (before > 0) & bool(allocation.at_least)
            idle = (kept[path] == before) & (asked[path] < before * units[path].contests)
            if not (none | idle).any():
                continue
            what, so = ("all", "keeps none") if none.any() else ("nothing", "removes nothing")
            raise ValueError(
                f"round {number}: {sparsity:g} of the {before[none | idle].flat[0]} weights that are left in "
                f"each contest of {path!r} rounds to {what}, so that it {so}; give another share, fewer "
                "rounds or larger contests, or exclude the leaf with prunable=."
            )
        units = {
            path: dataclasses.replace(unit, competing=kept[path])  # type: ignore[arg-type]
            for path, unit in units.items()
        }


def living(units: Units, alive: jax.Array) -> jax.Array:
    """Returns per layer how many units of a contest are alive, in the mean over its contests."""
    within = tuple(i for i in range(alive.ndim) if i not in units.layers)
    return jnp.sum(alive, within, dtype=jnp.int32) // units.contests


def check_coupled(pattern: Coupled, params: Params) -> None:
    """Refuses a tree that is not the one traced."""
    paths = masks_lib.paths(params)
    shapes = dict(zip(paths, map(jnp.shape, jax.tree.leaves(params)), strict=True))
    if fault := pattern.check(shapes):
        raise ValueError(f"{fault}.")


def _pruned(
    params: Params, masks: Masks, axes: Sequence[Axes | None]
) -> dict[str, tuple[tuple[int, ...], Axes | None]]:
    """By path, shape and axes of the leaves that have a mask."""
    is_pruned = jax.tree.leaves(jax.tree.map(lambda p, m: m is not None, params, masks))
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), axes, is_pruned, strict=True)
    return {path: (jnp.shape(p), own) for path, p, own, pruned in named if pruned}


def _divided(
    pattern: Pattern, leaves: Mapping[str, tuple[tuple[int, ...], Axes | None]]
) -> list[str]:
    """Paths of the leaves with layers of many contests."""
    return [path for path, leaf in leaves.items() if pattern.contests(*leaf).axis is not None]


def _shapes(
    pattern: Pattern, leaves: Mapping[str, tuple[tuple[int, ...], Axes | None]]
) -> dict[str, Units]:
    """The units of leaves, with the shape of their scores for the scores."""

    def units(shape: tuple[int, ...], kernel: Axes | None) -> Units:
        scores = jax.ShapeDtypeStruct(shape, jnp.float32)
        grouped = jax.eval_shape(lambda scores: pattern.to_groups(scores, kernel), scores)
        axis, layers = pattern.contests(shape, kernel)
        return Units(grouped, axis, layers=layers, kernel=kernel)  # type: ignore[arg-type]

    return {path: units(*leaf) for path, leaf in leaves.items()}


def _in_one_contest(unit: Units) -> Units:
    """The same units, those of a layer in one contest."""
    competing: Any = np.int32(unit.budgeted * unit.contests)
    return dataclasses.replace(unit, axis=None, competing=competing)


def _counts(
    allocation: Allocation, params: Params, units: Mapping[str, Units], sparsity: float
) -> dict[str, np.ndarray]:
    """How many units of each contest would be kept if there were no floors."""
    assert allocation.shares is not None
    paths, treedef = masks_lib.paths(params), jax.tree.structure(params)
    with jax.ensure_compile_time_eval():
        found = allocation.shares(params, treedef.unflatten(map(units.get, paths)), sparsity)
        counts = masks_lib.beside(params, found)
        return {path: np.asarray(n) for path, n in zip(paths, counts, strict=True) if path in units}
