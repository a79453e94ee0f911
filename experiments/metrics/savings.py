"""What masks save: parameters and operations, and what is counted as either."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from experiments.training.setup import Setup

__all__ = ["Dense", "dense", "forward_flops", "of"]


class Dense(NamedTuple):
    """The unpruned model, leaf by leaf.

    Attributes:
      weights: parameters of each leaf, biases and norms included.
      flops: operations of each leaf in the forward pass of one example (`jaxprune.metrics.flops`).
      prunable: the leaves that may be pruned.
    """

    weights: dict[str, int]
    flops: dict[str, int]
    prunable: list[str]


def dense(setup: Setup) -> Dense:
    """Returns the size and the cost of a config's model; its data need not have been fetched."""
    params = _variables(setup)["params"]
    sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(params)]
    names, flops = jp.masks.paths(params), jax.tree.leaves(forward_flops(setup))
    chosen = functools.partial(jp.masks.make, prunable=setup.prunable, axes=setup.axes)
    masks = jax.eval_shape(chosen, params)
    beside = zip(names, jp.masks.beside(params, masks), strict=True)
    return Dense(
        dict(zip(names, sizes, strict=True)),
        dict(zip(names, flops, strict=True)),
        [name for name, mask in beside if mask is not None],
    )


def forward_flops(setup: Setup) -> Any:
    """Returns a tree like the parameters: the operations of each leaf for one example."""
    model, variables = setup.model, _variables(setup)
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    forward = lambda params, rest, x: model.apply({"params": params, **rest}, x, train=False)
    return jp.metrics.flops(forward, variables["params"], rest, setup.example())


def of(model: Dense, leaves: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what is left, and what that saves.

    Args:
      model: the unpruned model.
      leaves: weights and weights kept of each leaf with a mask, as `jaxprune.masks.summary` gives them;
        `training`, if known: the share of its dense training's operations
        (`experiments.metrics.training_cost`).

    Returns:
      sparsity: fraction removed of the weights that have a mask.
      kept: parameters left, those of leaves without a mask included.
      compression: all parameters over those kept.
      flops: operations left where zeros are skipped.
      speedup: all operations over those left; theoretical, as dense kernels multiply zeros as well.
      training: operations of training, forward and backward, over those of dense training, likewise.

    >>> model = Dense({"k": 8, "b": 2}, {"k": 16, "b": 0}, ["k"])
    >>> of(model, [{"leaf": "k", "weights": 8, "kept": 2}])
    {'sparsity': 0.75, 'kept': 4, 'compression': 2.5, 'flops': 4, 'speedup': 4.0, 'training': 1.0}
    """
    leaves = list(leaves)
    weights, kept = (sum(leaf[name] for leaf in leaves) for name in ("weights", "kept"))
    total, operations = sum(model.weights.values()), sum(model.flops.values())
    saved = [
        model.flops[leaf["leaf"]] * (leaf["weights"] - leaf["kept"]) / leaf["weights"]
        for leaf in leaves
    ]
    spared = [model.flops[leaf["leaf"]] * (1 - leaf.get("training", 1.0)) for leaf in leaves]
    left, flops = total - (weights - kept), round(operations - sum(saved))
    return {
        "sparsity": 1 - kept / weights if weights else 0.0,
        "kept": left,
        "compression": total / max(left, 1),
        "flops": flops,
        "speedup": operations / max(flops, 1),
        "training": 1 - sum(spared) / max(operations, 1),
    }


def _variables(setup: Setup) -> Any:
    return jax.eval_shape(setup.model.init, jax.random.key(0), setup.example())
