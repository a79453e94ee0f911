"""What does not fit is refused here, in words and before anything is traced: leaves, targets, scores."""

import difflib
import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import allocation as allocations
from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune.calls import text
from jaxprune.coupling import AnyPattern, Coupled
from jaxprune.types import Axes, Criterion, Masks, Params, Pattern, Schedule, Units, Update

__all__ = ["check_coupled", "check_fit", "check_signals", "scores_of"]


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
    scores = criterion(params, **signals)
    name = text(criterion)
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
    schedule: Schedule,
    update: Update,
    params: Params,
    masks: Masks,
    axes: Sequence[Axes | None],
) -> None:
    """Refuses leaves that the pattern does not fit, and a target that would leave nothing of them."""
    if isinstance(pattern, Coupled):
        check_coupled(pattern, params)
        return
    pruned = jax.tree.leaves(jax.tree.map(lambda p, m: m is not None, params, masks))
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), axes, pruned, strict=True)
    leaves = {path: (jnp.shape(p), own) for path, p, own, is_pruned in named if is_pruned}
    wrong = [(path, pattern.check(*leaf)) for path, leaf in leaves.items()]
    messages = [message.format(leaf=repr(path)) for path, message in wrong if message]
    if messages:
        more = f" (and {len(messages) - 1} more leaves)" if len(messages) > 1 else ""
        raise ValueError(messages[0] + more + ".")
    members = {path: _members(pattern, *leaf) for path, leaf in leaves.items()}
    members = {path: m for path, m in members.items() if m is not None}
    if members and update.whole_leaves:
        raise ValueError(
            f"{text(update)} keeps no counts per contest, but in {next(iter(members))!r} the pattern has "
            "many; use updates.regrow or updates.prune, or the pattern unstructured()."
        )
    with jax.ensure_compile_time_eval():
        sparsity = float(schedule.sparsity(schedule.end))
        left = [int(allocations.survivors(m, sparsity)) for m in members.values()]
    if members and not any(left):
        path, m = next(iter(members.items()))
        raise ValueError(
            f"a sparsity of {sparsity:g} leaves none of the {m} weights that compete with each other in "
            f"{path!r}; this pattern allows {1 - 1 / m:g} at most."
        )


def check_coupled(pattern: Coupled, params: Params) -> None:
    """Refuses a tree that is not the one traced."""
    paths = masks_lib.paths(params)
    shapes = dict(zip(paths, map(jnp.shape, jax.tree.leaves(params)), strict=True))
    if fault := pattern.check(shapes):
        raise ValueError(f"{fault}.")


def _members(pattern: Pattern, shape: tuple[int, ...], kernel: Axes | None) -> int | None:
    """Units in one contest of a leaf of this shape; `None` if all units of a layer are in one."""
    axis, layers = pattern.contests(shape, kernel)
    if axis is None:
        return None
    scores = jax.ShapeDtypeStruct(shape, jnp.float32)
    grouped = jax.eval_shape(lambda scores: pattern.to_groups(scores, kernel), scores)
    return Units(grouped, axis, layers=layers).members  # type: ignore[arg-type]
