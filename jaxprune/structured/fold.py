"""Constants that masked units leave behind, moved into what follows, so that the units can go."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune import programs
from jaxprune.precision import at_least_float32
from jaxprune.structured.carriers import carried
from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph
from jaxprune.types import Masks, Params

__all__ = ["Folded", "fold"]

_TOLERANCE = 1e-5  # of the largest entry: what counts as constant


class Folded(NamedTuple):
    """What `fold` gives.

    Attributes:
      params: a tree like the parameters, for `shrink`.
      masks: those given, and of the units that go everything else.
      leaves: paths of the biases and means that have taken constants up, and of kernels.
      error: the largest difference that is left between the outputs, over their largest size.
    """

    params: Params
    masks: Masks
    leaves: tuple[str, ...]
    error: float


class _Pair(NamedTuple):
    """A value with the constants of units that go, and without them.

    Attributes:
      masked: where kernels are masked and biases are not.
      without: where nothing of the units is left.
      leaf: number of the parameter of one axis that this is, arranged anew; `None`: it is something else.
      axis: along which its entries lie.
    """

    masked: Any
    without: Any
    leaf: int | None = None
    axis: int = 0


def fold(graph: Graph, params: Params, masks: Masks, *inputs: Any) -> Folded:
    r"""Moves the constants of units that have lost all inputs, but not their biases, into what follows.

    Such a unit gives $c = f(b)$ for every input, and with it each layer after it gets $c W$. Where this is
    the same for all entries of a channel it is added to the layer's bias, or taken from the mean of the
    BatchNorm after it, and the unit can go:

        folded = structured.fold(graph, params, masks, x)
        small = structured.shrink(graph, folded.params, folded.masks)  # gives what the masked function gives

    A convolution with padding sees it everywhere but at its border, and no bias is like that: there one of
    the units stays, and its kernel takes up those of all others. Where neither can be (padding by itself, a
    pooling or a depthwise convolution with padding, no bias to move it into) `error` tells what is left, on
    these inputs.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      masks: bool arrays, `None` at leaves without a mask. A unit goes if they mask all kernels that bring it
        forth; those that read it need no mask.
      *inputs: of the function, of the shapes that were traced; two examples at least.

    >>> from jaxprune.structured import shrink, trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None]) @ p["o"] + p["c"][None]
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.array([1.0, 5.0]), "o": jnp.ones((2, 1)), "c": jnp.zeros(1)}
    >>> masks = {"w": jnp.array([[True, False]] * 3), "b": None, "o": None, "c": None}
    >>> x = jnp.ones((4, 3))
    >>> folded = fold(trace(fn, params, x), params, masks, x)
    >>> folded.params["c"].tolist(), folded.leaves, folded.params["b"].tolist()
    ([5.0], ('c',), [1.0, 0.0])
    """
    check_graph("structured.fold", graph, params)
    graph.check(params)
    if any(jnp.ndim(x) and jnp.shape(x)[0] < 2 for x in jax.tree.leaves(inputs)):
        raise ValueError(
            "structured.fold: what is constant takes two examples at least to be told."
        )
    leaves, treedef = jax.tree.flatten(params)
    masked = jax.tree.leaves(masks_lib.apply(params, masks))
    dead = _without_inputs(graph, masks)
    if not dead.any():
        return Folded(treedef.unflatten(masked), masks, (), 0.0)
    stay = carried(graph, masked, dead, inputs, _TOLERANCE)
    dead[stay.units] = False
    alive = graph.alive(dead)
    zeros = lambda a, w: jnp.where(a, w, jnp.zeros((), w.dtype)) if hasattr(w, "dtype") else w
    without = [zeros(a, w) for a, w in zip(alive, masked, strict=True)]
    for leaf, axis, index, kernel in stay.kernels:
        without[leaf] = without[leaf].at[_at(axis, index)].set(kernel)
    reads = [number for step in graph.tape.steps for number in step.reads]
    once = [reads.count(number) == 1 for number in graph.tape.inputs[: len(leaves)]]

    @jax.jit
    def moved(masked: list[Any], without: list[Any], inputs: Any) -> tuple[dict[int, Any], Any]:
        found: dict[int, Any] = {}

        def rule(equation: Any, values: list[Any]) -> list[Any]:
            pairs = [v if isinstance(v, _Pair) else _Pair(v, v) for v in values]
            name = equation.primitive.name
            if name in ("add", "add_any", "sub"):
                pairs = _taken_up(name, pairs, alive, found)
            a = programs.bind(equation, [p.masked for p in pairs])
            b = programs.bind(equation, [p.without for p in pairs])
            leaf, axis = _arranged(equation, pairs[0]) if pairs else (None, 0)
            return [_Pair(x, y, leaf, axis) for x, y in zip(a, b, strict=True)]

        flat = zip(masked, without, once, strict=True)
        own = [
            _Pair(a, b, i if jnp.ndim(a) == 1 and alone else None)
            for i, (a, b, alone) in enumerate(flat)
        ]
        given = [_Pair(x, x) for x in jax.tree.leaves(inputs)]
        outputs = programs.run(graph.program, [*own, *given], rule)
        return found, [getattr(v, "masked", v) for v in outputs]

    found, expected = moved(masked, without, inputs)
    changed = {i: move for i, move in found.items() if np.asarray(move).any()}
    for i, move in changed.items():
        without[i] = (without[i] + move).astype(leaves[i].dtype)
    outputs = jax.tree.leaves(jax.jit(graph.fn)(treedef.unflatten(without), *inputs))
    wide = lambda x: np.asarray(x).astype(float)
    pairs = [(wide(a), wide(b)) for a, b in zip(outputs, expected, strict=True)]
    size = max(float(np.abs(b).max(initial=0)) for _, b in pairs)
    error = max(float(np.abs(a - b).max(initial=0)) for a, b in pairs) / max(size, 1e-30)
    paths = tuple(graph.paths[i] for i in sorted({*changed, *(leaf for leaf, *_ in stay.kernels)}))
    before = masks_lib.beside(params, masks_lib.unpack(masks))
    for leaf, axis, index, _ in stay.kernels:
        if before[leaf] is not None:
            before[leaf] = jnp.asarray(before[leaf]).at[_at(axis, index)].set(True)
    whole = zip(alive, before, strict=True)
    both = [m if a.all() else jnp.asarray(a) if m is None else m & a for a, m in whole]
    return Folded(treedef.unflatten(without), treedef.unflatten(both), paths, error)


def _at(axis: int, index: int) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, index)


def _without_inputs(graph: Graph, masks: Masks) -> np.ndarray:
    """Per class, whether it is a unit of which all kernels that bring it forth are masked."""
    beside = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    by_path = dict(zip(graph.paths, beside, strict=True))
    found = np.zeros(graph.solution.class_count, bool)
    for group in graph.groups:
        makers = [m for m in group.members if m.kernel and not m.enters]
        if not makers or any(by_path[m.path] is None for m in makers):
            continue
        dead = np.ones(group.size, bool)
        for m in makers:
            dead &= ~m.slices(np.asarray(by_path[m.path])).reshape(group.size, -1).any(1)
        if dead.all():  # the layer is a constant, but it cannot be without any unit
            dead[0] = False
        found[group.units[dead]] = True
    return found


def _arranged(equation: Any, pair: _Pair) -> tuple[int | None, int]:
    """Of which parameter a value is an arrangement, and along which axis its entries then lie."""
    name, p, shape = equation.primitive.name, equation.params, jnp.shape(pair.masked)
    if pair.leaf is None:
        return None, 0
    if name in ("convert_element_type", "copy"):
        return pair.leaf, pair.axis
    if name == "broadcast_in_dim":
        return pair.leaf, p["broadcast_dimensions"][pair.axis]
    if name == "squeeze":
        return pair.leaf, pair.axis - sum(d < pair.axis for d in p["dimensions"])
    new = tuple(equation.outvars[0].aval.shape)
    own = [i for i, n in enumerate(new) if n > 1]
    if name in ("reshape", "expand_dims") and len(own) == 1 and new[own[0]] == shape[pair.axis]:
        return pair.leaf, own[0]
    return None, 0


def _taken_up(
    name: str, pairs: list[_Pair], alive: list[np.ndarray], found: dict[int, Any]
) -> list[_Pair]:
    """A sum whose bias has taken up what is constant in the difference of the other operand."""
    at = next((i for i, p in enumerate(pairs) if p.leaf is not None), None)
    if at is None or pairs[1 - at].leaf is not None or (name == "sub" and at == 0):
        return pairs
    bias, other = pairs[at], pairs[1 - at]
    leaf: int = bias.leaf  # type: ignore[assignment]
    axis, shape = bias.axis, jnp.shape(other.masked)
    fits = len(jnp.shape(bias.masked)) == len(shape) and shape[axis] == len(alive[leaf])
    if leaf in found or not fits:
        return pairs
    rest = tuple(i for i in range(len(shape)) if i != axis)
    wide = lambda x: x.astype(at_least_float32(x.dtype))
    difference = wide(other.masked) - wide(other.without)
    mean = jnp.mean(difference, rest)
    spread = jnp.max(jnp.abs(difference - jnp.expand_dims(mean, rest)), rest)
    least = _TOLERANCE * jnp.max(jnp.abs(wide(other.masked)))
    constant = (spread <= least) & (jnp.abs(mean) > least) & alive[leaf]
    found[leaf] = jnp.where(constant, -mean if name == "sub" else mean, 0.0)
    new = wide(bias.without) + jnp.expand_dims(found[leaf], rest)
    pairs = list(pairs)
    pairs[at] = bias._replace(without=new.astype(bias.without.dtype))
    return pairs
