"""Parameters and operations that masks save, and how both are counted."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from experiments.training.setup import Setup

__all__ = ["Dense", "dense", "forward_flops", "summarize"]


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
    names = jp.masks.paths(params)
    flops = jax.tree.leaves(forward_flops(setup))
    make_masks = functools.partial(jp.masks.make, prunable=setup.prunable, axes=setup.axes)
    masks = jax.eval_shape(make_masks, params)
    named_masks = zip(names, jp.masks.beside(params, masks), strict=True)
    return Dense(
        dict(zip(names, sizes, strict=True)),
        dict(zip(names, flops, strict=True)),
        [name for name, mask in named_masks if mask is not None],
    )


def forward_flops(setup: Setup) -> Any:
    """Returns a tree like the parameters: the operations of each leaf for one example."""
    model = setup.model
    variables = _variables(setup)
    collections = {name: tree for name, tree in variables.items() if name != "params"}

    def forward(params: Any, collections: Any, inputs: jax.Array) -> jax.Array:
        return model.apply({"params": params, **collections}, inputs, train=False)

    return jp.metrics.flops(forward, variables["params"], collections, setup.example())


def summarize(model: Dense, leaves: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what is left of a model, and what that saves.

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
    >>> summarize(model, [{"leaf": "k", "weights": 8, "kept": 2}])
    {'sparsity': 0.75, 'kept': 4, 'compression': 2.5, 'flops': 4, 'speedup': 4.0, 'training': 1.0}
    """
    leaves = list(leaves)
    masked_weights = sum(leaf["weights"] for leaf in leaves)
    masked_kept = sum(leaf["kept"] for leaf in leaves)
    all_parameters = sum(model.weights.values())
    all_flops = sum(model.flops.values())
    skipped_flops = [
        model.flops[leaf["leaf"]] * (leaf["weights"] - leaf["kept"]) / leaf["weights"]
        for leaf in leaves
    ]
    skipped_in_training = [
        model.flops[leaf["leaf"]] * (1 - leaf.get("training", 1.0)) for leaf in leaves
    ]
    parameters_left = all_parameters - (masked_weights - masked_kept)
    flops_left = round(all_flops - sum(skipped_flops))
    return {
        "sparsity": 1 - masked_kept / masked_weights if masked_weights else 0.0,
        "kept": parameters_left,
        "compression": all_parameters / max(parameters_left, 1),
        "flops": flops_left,
        "speedup": all_flops / max(flops_left, 1),
        "training": 1 - sum(skipped_in_training) / max(all_flops, 1),
    }


def _variables(setup: Setup) -> Any:
    """Returns the shapes of the model's variables."""
    return jax.eval_shape(setup.model.init, jax.random.key(0), setup.example())
