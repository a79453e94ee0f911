"""The network without the units that have been emptied: its size, its speed and its test accuracy."""

import functools
from collections.abc import Callable
from typing import Any

import jax

import jaxprune as jp
from experiments.training.task import Task, evaluated, scale
from experiments.ways.coupled_units import graph_of
from jaxprune.metrics.timing import seconds

__all__ = ["measure"]

_TIMED = 100  # examples in the batch that times are measured on
_RUNS = 20


def measure(
    model: Any, params: Any, rest: Any, masks: Any, task: Task, *, timed: bool = False
) -> dict[str, Any]:
    """Removes whole units physically, and tests what is left.

    Args:
      model: a linen module.
      params: of it, sparse.
      rest: its other variables.
      masks: of the parameters; best those of `jaxprune.metrics.effective`, where a unit that has lost all its
        inputs has lost its outputs too.
      task: with the test set.
      timed: whether to measure times, which are not the same twice.

    Returns:
      small_parameters: how many are left.
      small_flops: operations of its products and convolutions for one example.
      small_accuracy: on the test set, of the function of the smaller arrays.
      small_faster: if timed, time of the whole network's forward pass over that of the small one, both
        compiled, on one batch of test examples; the fastest of several runs of each, in turn.
      small_shapes: of the leaves that have become smaller, by path.
      Nothing if no unit can go.
    """
    variables = {"params": params, **rest}
    variable_masks = {"params": masks, **jax.tree.map(lambda x: None, rest)}
    graph = graph_of(model, task.inputs.shape[1:])
    try:
        small = jp.structured.shrink(graph, variables, variable_masks)
    except ValueError:  # no unit is empty, or a whole layer is
        return {}
    whole_leaves = jax.tree.leaves(variables["params"])
    small_leaves = jax.tree.leaves(small.params["params"])
    leaf_pairs = zip(jp.masks.paths(params), whole_leaves, small_leaves, strict=True)
    small_shapes = {
        name: list(small_leaf.shape)
        for name, whole_leaf, small_leaf in leaf_pairs
        if whole_leaf.shape != small_leaf.shape
    }
    if not small_shapes:
        return {}

    @jax.jit
    def evaluate(small_variables: Any, batches: Any) -> Any:
        return evaluated(lambda inputs: small.apply(small_variables, inputs), batches)

    _, correct_count, example_count = evaluate(small.params, task.test)
    batch = scale(task.test.inputs[0, :_TIMED], task.scaling)
    run_whole = functools.partial(jax.jit(graph.fn), variables, batch)
    run_small = functools.partial(jax.jit(small.apply), small.params, batch)
    return {
        "small_parameters": sum(leaf.size for leaf in small_leaves),
        "small_flops": jp.structured.flops(graph, variables, variable_masks),
        "small_accuracy": int(correct_count) / int(example_count),
        **({"small_faster": _time_ratio(run_whole, run_small)} if timed else {}),
        "small_shapes": small_shapes,
    }


def _time_ratio(run_whole: Callable[[], Any], run_small: Callable[[], Any]) -> float:
    whole_seconds, small_seconds = seconds(run_whole, run_small, repeats=_RUNS)
    return whole_seconds / small_seconds
