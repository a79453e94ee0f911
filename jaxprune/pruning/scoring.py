"""The scores of a criterion, called with the signals that it reads; what does not fit is refused."""

import difflib
import inspect
from collections.abc import Container, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import signals as signals_lib
from jaxprune.arrays.precision import widen
from jaxprune.calls import is_readable_array, text
from jaxprune.trees.alike import check_alike, entries_beside
from jaxprune.types import Axes, Criterion, Params

__all__ = ["check_signals", "scores_of"]


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
    scored_indices: Sequence[int],
    axes: Sequence[Axes | None],
) -> list[Any]:
    """Returns the scores of a criterion by leaf; `None` where it has none.

    Args:
      criterion: what each weight is worth.
      params: tree of arrays.
      signals: what the criterion may read, by keyword.
      scored_indices: indices of the leaves for which scores are required.
      axes: what the axes of each leaf are, for a criterion that reads the signal `axes`.

    Raises:
      ValueError: if a signal or the scores are another tree than the parameters, have other shapes, or are
        missing for a leaf that requires scores; if scores are complex, or integers too large for float32.
      TypeError: if a signal is missing, or the criterion takes none such.
    """
    if "axes" in inspect.signature(criterion).parameters:
        signals = {**signals, "axes": jax.tree.structure(params).unflatten(axes)}
    check_signals(criterion, signals)
    name = text(criterion)
    for signal in _BY_WEIGHT.intersection(_signal_names(criterion), signals):
        subject = f"entries of the signal {signal!r}"
        check_alike(name, subject, params, signals[signal], "give one number for each weight")
        signals = {**signals, signal: _in_containers_of(params, signals[signal])}
    params, signals = _without_others(params, signals)
    params, signals = _with_room_for_products((params, signals))
    try:
        scores = criterion(params, **signals)
    except (TypeError, ValueError, KeyError):
        _check_signal_trees(name, params, signals)  # if one of them is to blame, it says so
        raise
    treedef = jax.tree.structure(params)
    try:
        leaf_scores = treedef.flatten_up_to(scores)
    except ValueError:
        leaf_scores = []
    are_arrays = all(entry is None or hasattr(entry, "shape") for entry in leaf_scores)
    if len(leaf_scores) < treedef.num_leaves or not are_arrays:
        raise ValueError(
            f"{name}: the scores are {jax.tree.structure(scores)}, but the parameters "
            f"{jax.tree.structure(params)}; return jax.tree.map(f, params, ...)."
        )
    paths = masks_lib.paths(params)
    leaves = jax.tree.leaves(params)
    unscored_paths = [paths[i] for i in scored_indices if leaf_scores[i] is None]
    if unscored_paths:
        raise ValueError(
            f"{name}: no scores for {', '.join(map(repr, unscored_paths))}, of which its signals say "
            "nothing; exclude them with prunable=."
        )
    for path, leaf, entry in zip(paths, leaves, leaf_scores, strict=True):
        if entry is not None and jnp.shape(entry) != jnp.shape(leaf):
            raise ValueError(
                f"{name}: {path!r} has scores of the shape {jnp.shape(entry)}, its weights "
                f"{jnp.shape(leaf)}; give one score per weight (jnp.broadcast_to shares one among several)."
            )
        if entry is not None and (fault := _order_fault(leaf, entry)):
            raise ValueError(f"{name}: {path!r} has {fault}.")
    return leaf_scores


def _in_containers_of(params: Params, tree: Any) -> Any:
    """Returns a tree of the same names in the containers of the parameters."""
    treedef = jax.tree.structure(params)
    try:
        treedef.flatten_up_to(tree)
    except ValueError:
        return treedef.unflatten(masks_lib.beside(params, tree))
    return tree


_WHOLE = 2**24  # up to here each whole number has a float32 of its own


def _order_fault(leaf: Any, scores: Any) -> str | None:
    """Returns why scores of a leaf cannot be ordered as float32 numbers, or `None`.

    Of traced integers the dtype alone is known: large ones are rounded to float32, and may be equal then.
    """
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return None  # it is never pruned
    if jnp.issubdtype(scores.dtype, jnp.complexfloating):
        return f"scores of the dtype {scores.dtype}; scores are real numbers: take jnp.abs of them"
    if not jnp.issubdtype(scores.dtype, jnp.integer) or not is_readable_array(scores):
        return None
    with jax.ensure_compile_time_eval():
        largest = max(abs(int(scores.min(initial=0))), int(scores.max(initial=0)))
    if largest <= _WHOLE:
        return None
    return (
        f"integer scores up to {largest}, and above {_WHOLE} float32, in which scores are ordered, makes "
        "neighbours equal; give float scores, or smaller integers such as ranks"
    )


def _signal_names(criterion: Criterion) -> list[str]:
    """Names of the parameters of a criterion, which are those of the signals that it may read."""
    return list(inspect.signature(criterion).parameters)


_NARROW = tuple(map(jnp.dtype, ("int2", "int4", "uint2", "uint4")))  # without arithmetic in JAX


def _is_no_number(leaf: Any) -> bool:
    """Whether a leaf holds PRNG keys, or integers with which JAX does not calculate."""
    dtype = jnp.result_type(leaf)
    return jnp.issubdtype(dtype, jax.dtypes.prng_key) or dtype in _NARROW


def _holds_no_products(leaf: Any) -> bool:
    """Whether an array is of a dtype that underflows where float32 does not, as float16."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        return False
    return bool(jnp.finfo(dtype).tiny > jnp.finfo(jnp.float32).tiny)


def _with_room_for_products(tree: Any) -> Any:
    """Returns a tree with float32 for what underflows, so that a criterion need not think of it."""
    if not any(map(_holds_no_products, jax.tree.leaves(tree))):
        return tree
    return jax.tree.map(lambda leaf: widen(leaf) if _holds_no_products(leaf) else leaf, tree)


def _without_others(params: Params, signals: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    """Puts zeros for what no criterion can make scores of into parameters and signals."""
    leaves, treedef = jax.tree.flatten(params)
    is_other = [_is_no_number(leaf) for leaf in leaves]
    if not any(is_other):
        return params, signals
    zeros = [jnp.zeros(jnp.shape(leaf), jnp.float32) for leaf in leaves]

    def clear(tree: Any) -> Any:
        try:
            entries = treedef.flatten_up_to(tree)
        except ValueError:  # a signal that is no tree beside the parameters
            return tree
        rows = zip(is_other, zeros, entries, strict=True)
        return treedef.unflatten([zero if cleared else entry for cleared, zero, entry in rows])

    return clear(params), {name: clear(value) for name, value in signals.items()}


def _check_signal_trees(name: str, params: Params, signals: Mapping[str, Any]) -> None:
    """Refuses signals that are trees, but not beside the parameters."""
    for signal_name, tree in signals.items():
        if not jax.tree_util.all_leaves([tree]):
            _check_signal_tree(name, signal_name, params, tree)


def _check_signal_tree(name: str, signal_name: str, params: Params, tree: Any) -> None:
    def refusal(differences: str) -> str:
        return (
            f"{name}: the signal {signal_name!r} is another tree than the parameters ({differences}); give "
            "one that has an entry for each."
        )

    entries_beside(params, tree, refusal)


def check_signals(criterion: Criterion, signals: Mapping[str, Any]) -> None:
    """Refuses signals that a criterion cannot be called with: one is missing, or it takes none such.

    Args:
      criterion: the criterion.
      signals: by keyword.

    Raises:
      TypeError: which signals it reads and which were given, and how to give the one that is missing.

    >>> from jaxprune.criteria import taylor
    >>> check_signals(taylor, {"gradients": 0.0})
    Traceback (most recent call last):
    TypeError: taylor: the signal 'grads' is missing; it reads 'grads', given was 'gradients': write grads=.
    """
    try:
        _, *parameters = inspect.signature(criterion).parameters.values()
    except (TypeError, ValueError):
        return  # it does not tell, or takes no parameters; the call will say so
    name = text(criterion)
    readable = [
        parameter
        for parameter in parameters
        if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    needed_names = [
        parameter.name for parameter in readable if parameter.default is parameter.empty
    ]
    missing_names = [signal for signal in needed_names if signal not in signals]
    if missing_names:
        memory_rules = signals_lib.needed([criterion])
        raise TypeError(
            f"{name}: {_describe_missing(missing_names[0], needed_names, signals, memory_rules)}."
        )
    takes_others = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    unread = [
        signal for signal in signals if signal not in [parameter.name for parameter in readable]
    ]
    if unread and not takes_others:
        raise TypeError(
            f"{name}: it takes no signal {unread[0]!r}; let its arguments end with **_, for those that it "
            "does not read."
        )


def _describe_missing(
    signal: str,
    needed_names: Sequence[str],
    signals: Mapping[str, Any],
    memory_rules: Container[str],
) -> str:
    """Returns the words for a missing signal: what is read, what was given, and what to write."""
    if signal == "key":
        return "it draws by chance, and 'key' is missing; give key=jax.random.key(0)"
    surplus_names = [name for name in signals if name not in needed_names]
    given_names = ", ".join(map(repr, signals)) or "nothing"
    reads = ", ".join(map(repr, needed_names))
    sentence = f"the signal {signal!r} is missing; it reads {reads}, given was {given_names}"
    if difflib.get_close_matches(signal, surplus_names, n=1, cutoff=0.4):
        return f"{sentence}: write {signal}="
    if signal in memory_rules:
        return f"{sentence}: training remembers it, but in one shot you must give {signal}="
    return f"{sentence}: give {signal}= as well"
