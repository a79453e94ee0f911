"""What `--dry_run` prints: the plan of a run, before anything is trained."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxprune as jp
from experiments.metrics import savings
from experiments.training.setup import Setup
from experiments.ways.recipe import Recipe
from jaxprune.pruning.starting import full_masks
from jaxprune.wording import counted

__all__ = ["comparison", "describe", "describe_ticket"]

_COUNTED = "FLOPs: of matrix products and convolutions, forward, for one example"


def describe(setup: Setup, recipe: Recipe) -> str:
    """Returns the table of what is kept in the end, with the operations of a forward pass.

    Args:
      setup: of the config; its data need not have been fetched.
      recipe: what trains.
    """
    if recipe.method is not None:
        return _of_method(setup, recipe.method)
    masks = jp.masks.make(_params(setup), setup.prunable, axes=setup.axes)
    return _told(setup, recipe.described, masks)


def describe_ticket(setup: Setup, method: jp.Method, rounds: int) -> str:
    """Returns the same of a lottery ticket.

    Args:
      setup: of the config; its data need not have been fetched.
      method: prunes in each round.
      rounds: how often it prunes.
    """
    if not rounds:
        return _of_method(setup, method)
    params = _params(setup)
    masks = full_masks(method, params, setup.prunable, setup.axes)
    by_size = _by_size(method)
    for level in range(rounds):
        masks = jp.next_masks(by_size, params, masks, level, of_remaining=True, axes=setup.axes)
    return _told(setup, f"after {counted(rounds, 'round')}:", masks)


def _of_method(setup: Setup, method: Any) -> str:
    masks = _final_masks(setup, method, _params(setup))
    return _told(setup, f"at step {method.end}, by initial weights where they decide:", masks)


def _told(setup: Setup, head: str, masks: Any) -> str:
    table = jp.masks.table(masks, savings.forward_flops(setup))
    return "\n".join([_setting(setup), head, table, _COUNTED])


def comparison(
    setup: Setup,
    points: Iterable[tuple[str, str, Recipe]],
    trials: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """Returns the table of a comparison's points: what each keeps in the end, where that is known.

    Args:
      setup: of the config; its data need not have been fetched.
      points: contestant, sparsity or strength asked, and what it trains with.
      trials: contestant -> the number of updates of each of its trials, where it has some.
    """
    params = _params(setup)
    dense = savings.dense(setup)
    head = [
        "contestant",
        "asked",
        "sparsity",
        "weights kept",
        "compression",
        "FLOPs kept",
        "speed-up",
    ]
    rows = [head]
    for label, asked, recipe in points:
        if recipe.learned or recipe.gate is not None or recipe.start is not None:
            rows.append(
                [label, asked, "learned" if recipe.learned else asked, *[""] * (len(head) - 3)]
            )
            continue
        masks = _final_masks(setup, recipe.method, params)
        saved = savings.summarize(dense, jp.masks.summary(masks))
        rows.append(
            [
                label,
                asked,
                f"{saved['sparsity']:.2%}",
                f"{saved['kept']:,}",
                f"{saved['compression']:.2f}x",
                f"{saved['flops']:,}",
                f"{saved['speedup']:.2f}x",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{label:<{widths[0]}}  " + "  ".join(map(str.rjust, rest, widths[1:]))
        for label, *rest in rows
    ]
    explained = (
        "Sparsity: of the prunable weights; compression: of all parameters; speed-up: of FLOPs"
    )
    tried = [
        f"{label}: {counted(len(updates), 'trial')}, {min(updates):,} to {max(updates):,} updates"
        for label, updates in (trials or {}).items()
    ]
    return "\n".join([_setting(setup), *lines, explained, _COUNTED, *tried])


def _final_masks(setup: Setup, method: jp.Method | None, params: Any) -> Any:
    """Masks with as many weights as in the end."""
    if method is None:
        return jp.masks.make(params, setup.prunable, axes=setup.axes)
    masks = full_masks(method, params, setup.prunable, setup.axes)
    return jp.next_masks(_by_size(method), params, masks, method.end, axes=setup.axes)


def _by_size(method: Any) -> Any:
    """The method as far as counts go; where weights decide them, those of the start do."""
    if not isinstance(method, jp.Method):
        return jp.partition([(pattern, _by_size(part)) for pattern, part in method.methods])
    grows = method.update.grow_criterion is not None
    update = jp.updates.prune() if grows else method.update
    return dataclasses.replace(method, criterion=jp.criteria.magnitude, update=update)


def _setting(setup: Setup) -> str:
    cfg = setup.cfg
    setting = f"{cfg.model.name} on {cfg.data.name}: {cfg.steps} updates, seeds {cfg.seeds}"
    if not cfg.pretraining:
        return setting
    before = cfg.pretraining
    return f"{setting}, after {before['steps']} updates on {before['data']['name']} without pruning"


def _params(setup: Setup) -> Any:
    images = jnp.zeros(setup.example().shape)
    return setup.model.init(jax.random.key(0), images)["params"]
