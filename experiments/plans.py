"""What `--dry_run` prints: the plan of a run, before anything is trained."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import jaxprune as jp
from experiments import savings
from experiments.config import build, ways
from experiments.recipes import Recipe
from experiments.task import input_shape, model_of
from experiments.units import axes_of, with_units
from jaxprune.starting import full_masks

__all__ = ["comparison", "describe"]

_COUNTED = "FLOPs: of matrix products and convolutions, forward, for one example"


def describe(cfg: ConfigDict, rounds: int = 0) -> str:
    """Returns the table of what is kept in the end, with the operations of a forward pass.

    Args:
      cfg: the config; its data need not have been fetched.
      rounds: for a lottery ticket, how often its method prunes; 0 for a training run.
    """
    params, cost = _params(cfg), savings.forward_flops(cfg)
    lines, prunable = [_setting(cfg)], cfg.prunable or None
    method, way = with_units(cfg, build("method", cfg.method), "config.method"), ways(cfg)
    if method is None:
        how = "dense: no method"
        if way is not None:
            asked = "sparsity" in cfg[way]
            how = (
                f"{way}: {'as sparse as it says' if asked else 'how sparse it becomes is learned'}"
            )
        lines += [how, jp.masks.table(jp.masks.make(params, prunable, axes=axes_of(cfg)), cost)]
    elif rounds:
        masks = full_masks(method, params, prunable, axes_of(cfg))
        by_size = _by_size(method)
        for level in range(rounds):
            masks = jp.next_masks(
                by_size, params, masks, level, of_remaining=True, axes=axes_of(cfg)
            )
        lines += [f"after {rounds} rounds:", jp.masks.table(masks, cost)]
    else:
        masks = _final_masks(method, params, cfg)
        lines += [
            f"at step {method.end}, by initial weights where they decide:",
            jp.masks.table(masks, cost),
        ]
    return "\n".join([*lines, _COUNTED])


def comparison(cfg: ConfigDict, points: Iterable[tuple[str, str, Recipe]]) -> str:
    """Returns the table of a comparison's points: what each keeps in the end, where that is known.

    Args:
      cfg: the config; its data need not have been fetched.
      points: contestant, sparsity or strength asked, and what it trains with.
    """
    params, dense = _params(cfg), savings.dense(cfg)
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
        found = savings.of(dense, jp.masks.summary(_final_masks(recipe.method, params, cfg)))
        rows.append(
            [
                label,
                asked,
                f"{found['sparsity']:.2%}",
                f"{found['kept']:,}",
                f"{found['compression']:.2f}x",
                f"{found['flops']:,}",
                f"{found['speedup']:.2f}x",
            ]
        )
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{label:<{wide[0]}}  " + "  ".join(map(str.rjust, rest, wide[1:])) for label, *rest in rows
    ]
    what = "Sparsity: of the prunable weights; compression: of all parameters; speed-up: of FLOPs"
    return "\n".join([_setting(cfg), *lines, what, _COUNTED])


def _final_masks(method: jp.Method | None, params: Any, cfg: ConfigDict) -> Any:
    """Masks with as many weights as in the end."""
    if method is None:
        return jp.masks.make(params, cfg.prunable or None, axes=axes_of(cfg))
    masks = full_masks(method, params, cfg.prunable or None, axes_of(cfg))
    return jp.next_masks(_by_size(method), params, masks, method.end, axes=axes_of(cfg))


def _by_size(method: Any) -> Any:
    """The method as far as counts go; where weights decide them, those of the start do."""
    if not isinstance(method, jp.Method):
        return jp.partition([(pattern, _by_size(part)) for pattern, part in method.methods])
    grows = method.update.grow_criterion is not None
    update = jp.updates.prune() if grows else method.update
    return dataclasses.replace(method, criterion=jp.criteria.magnitude, update=update)


def _setting(cfg: ConfigDict) -> str:
    return f"{cfg.model.name} on {cfg.data.name}: {cfg.steps} updates, seeds {cfg.seeds}"


def _params(cfg: ConfigDict) -> Any:
    return model_of(cfg).init(jax.random.key(0), jnp.zeros((1, *input_shape(cfg))))["params"]
