"""What `--dry_run` prints: the plan of a run, leaf by leaf, before anything is trained."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import build
from experiments.task import scale
from jaxprune import data as data_lib

__all__ = ["describe"]


def describe(cfg: ConfigDict, rounds: int = 0) -> str:
    """Returns the table of what is kept in the end, with the operations of a forward pass.

    Args:
      cfg: the config; its data need not have been fetched.
      rounds: for a lottery ticket, how often its method prunes; 0 for a training run.
    """
    model, variables, x = _model(cfg)
    params = variables["params"]
    lines = [f"{cfg.model.name} on {cfg.data.name}: {cfg.steps} updates, seeds {cfg.seeds}"]
    method = build("method", cfg.method)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    forward = lambda params, x: model.apply({"params": params, **rest}, x, train=False)
    cost = jp.metrics.flops(forward, params, x)
    if method is None:
        lines += ["dense: no method", jp.masks.table(jp.masks.make(params), cost)]
    elif rounds:
        masks = jp.masks.make(params)
        for level in range(rounds):
            masks = jp.next_masks(
                method,
                params,
                masks,
                level,
                of_the_living=True,
                grads=params,
                key=jax.random.key(level),
            )
        lines += [f"after {rounds} rounds:", jp.masks.table(masks, cost)]
    else:
        _, masks = jp.prune(params, method, grads=params, key=jax.random.key(0))
        lines += [f"at step {method.schedule.end}:", jp.masks.table(masks, cost)]
    lines.append("FLOPs: of matrix products and convolutions, forward, for one example")
    return "\n".join(lines)


def _model(cfg: ConfigDict) -> tuple[Any, Any, jax.Array]:
    twin = cfg.data.name if cfg.data.name.startswith("synthetic_") else f"synthetic_{cfg.data.name}"
    dataset = data_lib.load(twin)
    model = build("model", cfg.model, num_classes=dataset.num_classes)
    x = scale(jnp.zeros((1, *dataset.input_shape), jnp.uint8))
    return model, model.init(jax.random.key(0), x), x
