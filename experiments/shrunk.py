"""The network without the units that have been emptied: its size and its test accuracy."""

from typing import Any

import jax

import jaxprune as jp
from experiments.task import Task, evaluated, scale

__all__ = ["of"]


def of(model: Any, params: Any, rest: Any, masks: Any, task: Task) -> dict[str, Any]:
    """Removes whole units physically, and tests what is left.

    Args:
      model: a linen module.
      params: of it, sparse.
      rest: its other variables.
      masks: of the parameters; best those of `jaxprune.metrics.effective`, where a unit that has lost all its
        inputs has lost its outputs too.
      task: with the test set.

    Returns:
      small_parameters: how many are left.
      small_accuracy: on the test set, of the function of the smaller arrays.
      small_shapes: of the leaves that have become smaller, by path.
      Nothing if no unit can go.
    """
    forward = lambda variables, x: model.apply(variables, x, train=False)
    variables = {"params": params, **rest}
    masks = {"params": masks, **jax.tree.map(lambda x: None, rest)}
    graph = jp.structured.trace(forward, variables, scale(task.inputs[:1]))
    try:
        small = jp.structured.shrink(graph, variables, masks)
    except ValueError:  # no unit is empty, or a whole layer is
        return {}
    before, after = (jax.tree.leaves(tree["params"]) for tree in (variables, small.params))
    pairs = zip(jp.masks.paths(params), before, after, strict=True)
    shapes = {name: list(b.shape) for name, a, b in pairs if a.shape != b.shape}
    if not shapes:
        return {}
    test = jax.jit(lambda p, batches: evaluated(lambda x: small.apply(p, x), batches))
    _, correct, count = test(small.params, task.test)
    return {
        "small_parameters": sum(leaf.size for leaf in after),
        "small_accuracy": int(correct) / int(count),
        "small_shapes": shapes,
    }
