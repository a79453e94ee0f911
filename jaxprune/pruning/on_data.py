"""Pruning by what data say, outside training: in one shot, or in rounds that gather signals anew."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxprune import checks, schedules
from jaxprune import masks as masks_lib
from jaxprune.calls import text
from jaxprune.checks import INTEGER, KEY, TREE, optional
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.method import METHOD, Method, Partition, by_member
from jaxprune.pruning.by_method import compiled_change, prune
from jaxprune.pruning.starting import full_masks, given_masks
from jaxprune.signals.by_keyword import Gatherers, collect, signals_read_by
from jaxprune.types import Masks, Params

__all__ = ["Compensation", "prune_on"]

Compensation = Callable[..., Params]


def prune_on(
    params: Params,
    method: Method | Partition,
    gatherers: Gatherers,
    *,
    rounds: int = 1,
    compensation: Compensation | None = None,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
    masks: Masks | None = None,
    key: jax.Array | None = None,
    progress: Callable[[int], Any] | None = None,
) -> tuple[Params, Masks]:
    r"""Prunes to the last sparsity of the method's schedule, by a criterion that reads signals from data.

    Only the signals that the criterion names are gathered. In round $k$ of $n$ they are gathered on the
    network as pruned so far, and a fraction $(1 - s)^{k/n}$ of the weights survives.

    Args:
      params: tree of arrays.
      method: criterion, pattern, allocation, and a schedule, of which only the last sparsity $s$ is used.
      gatherers: signals by keyword, functions of the parameters: `jaxprune.signals.gatherers(batches, ...)`.
      rounds: $n$.
      compensation: (params, masks, **signals) -> params, called after each round: changes the kept weights to
        make up for the removed ones (`jaxprune.compensation`).
      prunable: which leaves may be pruned (see `jaxprune.masks.make`).
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`;
        `None`: leaves with two axes are taken for `[inputs, outputs]`, with four and a small window for `[h,
        w, inputs, outputs]`; others are refused if inputs and outputs matter.
      masks: masks to start from; `None`: everything is alive.
      key: PRNG key, for criteria that draw.
      progress: called with the number of rounds done, after each.

    Returns:
      The parameters with exact zeros where pruned, and the masks, for `jaxprune.fixed`.

    Raises:
      ValueError: if there are no rounds, a leaf does not fit the pattern, or no gatherer provides a signal.
      TypeError: if an argument is of the wrong kind, or a criterion draws and there is no key.

    References:
      Verdenius, Stol & Forré, "Pruning via Iterative Ranking of Sensitivity Statistics" (2020), and Tanaka et
      al. (2020), for the rounds.

    >>> import jax.numpy as jnp
    >>> from jaxprune import criteria, signals
    >>> loss = lambda params, x: jnp.mean(x @ params["w"])
    >>> method = Method(criteria.taylor, schedule=schedules.one_shot(sparsity=0.5))
    >>> known = signals.gatherers([jnp.array([[1.0, 4.0]])], loss=loss)
    >>> prune_on({"w": jnp.array([[3.0], [-1.0]])}, method, known)[0]["w"].tolist()
    [[0.0], [-1.0]]
    """
    checks.check(
        "prune_on",
        params=(params, TREE),
        method=(method, METHOD),
        gatherers=(gatherers, _GATHERERS),
    )
    checks.check("prune_on", rounds=(rounds, INTEGER), key=(key, optional(KEY)))
    if rounds < 1:
        raise ValueError(f"prune_on(rounds={rounds}): at least 1 is needed.")
    key_gatherer = {} if key is None else {"key": lambda _: key}
    all_gatherers = {**gatherers, **key_gatherer}
    readers: list[Any] = [member.criterion for member in method.parts]
    if compensation is not None:
        readers.append(compensation)
    names = [name for reader in readers for name in signals_read_by(reader)]
    random_readers = [text(reader) for reader in readers if "key" in signals_read_by(reader)]
    if random_readers and "key" not in all_gatherers:
        raise TypeError(
            f"prune_on: {random_readers[0]} draws by chance, and 'key' is missing; give "
            "key=jax.random.key(0)."
        )
    if masks is None:
        masks = full_masks(method, params, prunable, axes)
    else:
        masks = given_masks("prune_on", method, masks, params, prunable)
    next_masks = _compiled(method, params, rounds, axes)
    for rounds_done in range(1, rounds + 1):
        signals = collect(names, all_gatherers, params)
        masks = next_masks(params, masks, rounds_done, signals)
        if compensation is not None:
            if "axes" in inspect.signature(compensation).parameters:
                known_axes = jax.tree.structure(params).unflatten(of_leaves(axes, params))
                params = compensation(params, masks, axes=known_axes, **signals)
            else:
                params = compensation(params, masks, **signals)
        params = masks_lib.apply(params, masks)
        if progress is not None:
            progress(rounds_done)
    return params, masks


def _compiled(
    method: Method | Partition, params: Params, rounds: int, axes: AxesTree | None
) -> Callable[..., Masks]:
    """Returns (params, masks, rounds done, signals) -> masks."""
    if rounds == 1:
        return lambda params, masks, _, signals: prune(
            params, method, masks=masks, axes=axes, **signals
        )[1]
    known_axes = of_leaves(axes, params)
    changes = {
        id(member): compiled_change(_in_rounds(member, rounds), known_axes)
        for member in method.parts
    }

    def next_masks(
        params: Params, masks: Masks, rounds_done: int, signals: dict[str, Any]
    ) -> Masks:
        def next_own_masks(member: Method, own_masks: Masks) -> Masks:
            return changes[id(member)](params, own_masks, rounds_done, signals)

        return by_member(method, params, masks, next_own_masks)

    return next_masks


def _in_rounds(method: Method, rounds: int) -> Method:
    """The method with its last sparsity reached in equal shares of what is left."""
    sparsity = float(method.schedule.sparsity(method.end))
    schedule = schedules.exponential(sparsity=sparsity, begin=0, end=rounds)
    return dataclasses.replace(method, schedule=schedule)


def _are_gatherers(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(checks.is_function, value.values()))


_GATHERERS = checks.Kind(
    "a dict of functions of the parameters",
    _are_gatherers,
    lambda _: "signals.gatherers(batches, loss=...) makes one; prune takes signals as they are",
)
