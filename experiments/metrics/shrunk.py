"""The network without the units that have been emptied: its size, its speed and its test accuracy."""

import functools
from collections.abc import Callable
from typing import Any

import jax

import jaxprune as jp
from experiments.training.task import Task, evaluated, scale
from experiments.ways.coupled_units import graph_of
from jaxprune.metrics.timing import seconds

__all__ = ["of"]

_TIMED = 100  # examples in the batch that times are measured on
_RUNS = 20


def of(
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
    masks = {"params": masks, **jax.tree.map(lambda x: None, rest)}
    graph = graph_of(model, task.inputs.shape[1:])
    try:
        small = jp.structured.shrink(graph, variables, masks)
    except ValueError:  # no unit is empty, or a whole layer is
        return {}
    before, after = (jax.tree.leaves(tree["params"]) for tree in (variables, small.params))
    pairs = zip(jp.masks.paths(params), before, after, strict=True)
    smaller = {name: list(b.shape) for name, a, b in pairs if a.shape != b.shape}
    if not smaller:
        return {}
    test = jax.jit(lambda p, batches: evaluated(lambda x: small.apply(p, x), batches))
    _, correct, count = test(small.params, task.test)
    batch = scale(task.test.inputs[0, :_TIMED])
    whole = functools.partial(jax.jit(graph.fn), variables, batch)
    short = functools.partial(jax.jit(small.apply), small.params, batch)
    return {
        "small_parameters": sum(leaf.size for leaf in after),
        "small_flops": jp.structured.flops(graph, variables, masks),
        "small_accuracy": int(correct) / int(count),
        **({"small_faster": _ratio(whole, short)} if timed else {}),
        "small_shapes": smaller,
    }


def _ratio(whole: Callable[[], Any], short: Callable[[], Any]) -> float:
    before, after = seconds(whole, short, repeats=_RUNS)
    return before / after
