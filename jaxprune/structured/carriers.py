"""Units that stay for others: what a padded convolution makes of constants, no bias can take up."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.precision import at_least_float32
from jaxprune.structured.graph import Graph
from jaxprune.structured.replay import watched
from jaxprune.structured.rules import Step

__all__ = ["Carried", "carried"]

_LEAST = 0.05  # of the group's largest constant: a carrier of less would need large weights


class Carried(NamedTuple):
    """Which units carry the constants of all others of their group.

    Attributes:
      units: classes of the graph's solution that must stay.
      kernels: leaf, axis along which units enter, index of it, and what the kernel is there.
    """

    units: list[int]
    kernels: list[tuple[int, int, int, np.ndarray]]


class _Reader(NamedTuple):
    """A convolution that reads constants which it does not see at its borders.

    Attributes:
      channels: axis of its input.
      classes: of its channels, in the graph's solution.
      leaf: number of its kernel among the parameters.
      axis: of the kernel, along which channels enter.
    """

    channels: int
    classes: np.ndarray
    leaf: int
    axis: int


def carried(
    graph: Graph, masked: list[Any], dead: np.ndarray, inputs: Any, tolerance: float
) -> Carried:
    r"""Finds a unit that can stand for all dead ones of its group, where padded convolutions read them.

    A dead unit $i$ is a constant $c_i$; a convolution makes $c_i W_i$ of it where it sees it, and less at a
    border. With $W_j \leftarrow \sum_i c_i W_i / c_j$ one dead unit $j$ gives what all of them gave, at the
    border too.

    Args:
      graph: of the function.
      masked: leaves of the parameters.
      dead: per class, whether it is a unit without inputs.
      inputs: of the function.
      tolerance: of the largest entry: what counts as constant.
    """
    readers = {}
    for step in graph.tape.steps:
        found = _reader(graph, step)
        if found is not None and dead[found.classes].any():
            readers[step.writes[0]] = found
    if not readers:
        return Carried([], [])

    @jax.jit
    def constants(masked: list[Any], inputs: Any) -> dict[int, tuple[Any, Any]]:
        seen = {}

        def watch(step: Step, values: list[Any]) -> None:
            reader = readers.get(step.writes[0]) if step.writes else None
            if reader is not None:
                x = jnp.moveaxis(values[0], reader.channels, -1)
                x = x.reshape(-1, x.shape[-1]).astype(at_least_float32(x.dtype))
                mean = x.mean(0, keepdims=True)
                least = tolerance * jnp.abs(x).max()
                seen[step.writes[0]] = mean[0], jnp.abs(x - mean).max(0) <= least

        watched(graph.program, [*masked, *jax.tree.leaves(inputs)], graph.tape, watch)
        return seen

    seen = jax.tree.map(np.asarray, constants(masked, inputs))
    units, kernels = [], []
    for group in graph.groups:
        own = [u for u in group.units if dead[u]]
        mine = {n: r for n, r in readers.items() if np.isin(own, r.classes).any()}
        found = _of_group(np.asarray(own), mine, seen, masked)
        if found is not None:
            units.append(found[0])
            kernels += found[1]
    return Carried(units, kernels)


def _of_group(
    own: np.ndarray, readers: dict[int, _Reader], seen: dict[int, Any], masked: list[Any]
) -> tuple[int, list[tuple[int, int, int, np.ndarray]]] | None:
    """The carrier of a group and its kernels; `None` if none is needed, or none can be."""
    sizes, places, needed = np.full(len(own), np.inf), [], False
    for number, reader in readers.items():
        mean, constant = seen[number]
        order = {c: i for i, c in enumerate(reader.classes.tolist())}
        at = np.asarray([order.get(c, -1) for c in own.tolist()])
        if (at < 0).any() or not constant[at].all():
            return None
        kernel = np.moveaxis(np.asarray(masked[reader.leaf], np.float64), reader.axis, 0)
        total = np.tensordot(mean[at].astype(float), kernel[at], 1)
        places.append((reader, at, total, mean))
        if total.any():
            needed = True
            sizes = np.minimum(sizes, np.abs(mean[at]) / np.abs(mean[at]).max())
    if not needed or sizes.max() < _LEAST:
        return None
    best = int(sizes.argmax())
    share = lambda total, c: total / float(c) if total.any() else total
    kernels = [
        (reader.leaf, reader.axis, int(at[best]), share(total, mean[at[best]]))
        for reader, at, total, mean in places
    ]
    return int(own[best]), kernels


def _reader(graph: Graph, step: Step) -> _Reader | None:
    """A convolution with a border, whose kernel is a parameter that nobody else reads."""
    p = step.equation.params
    if step.equation.primitive.name != "conv_general_dilated" or p["feature_group_count"] > 1:
        return None
    if not any(map(any, p["padding"])) and set(p["lhs_dilation"]) <= {1}:
        return None
    own = graph.tape.inputs[: len(graph.axes)]
    reads = [number for other in graph.tape.steps for number in other.reads]
    if step.reads[1] not in own or reads.count(step.reads[1]) > 1:
        return None
    spec = p["dimension_numbers"]
    channels, axis = spec.lhs_spec[1], spec.rhs_spec[1]
    classes = graph.solution.class_of[step.inputs[0][channels]]
    return _Reader(channels, classes, own.index(step.reads[1]), axis)
