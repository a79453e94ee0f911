"""Constants that masked units leave behind, moved into what follows, so that the units can go."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune import programs
from jaxprune.structured.graph import Graph
from jaxprune.types import Masks, Params

__all__ = ["Folded", "fold"]

_TOLERANCE = 1e-5  # of the largest entry: what counts as constant
_REARRANGED = (
    "broadcast_in_dim",
    "reshape",
    "convert_element_type",
    "squeeze",
    "expand_dims",
    "copy",
)


class Folded(NamedTuple):
    """What `fold` gives.

    Attributes:
      params: a tree like the parameters, for `shrink`.
      masks: those given, and of the units that go everything else.
      leaves: paths of the biases and means that have taken constants up.
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
    """

    masked: Any
    without: Any
    leaf: int | None = None


def fold(graph: Graph, params: Params, masks: Masks, *inputs: Any) -> Folded:
    r"""Moves the constants of units that have lost all inputs, but not their biases, into what follows.

    Such a unit gives $c = f(b)$ for every input, and with it each layer after it gets $c W$. Where this is
    the same for all entries of a channel it is added to the layer's bias, or taken from the mean of the
    BatchNorm after it, and the unit can go:

        folded = structured.fold(graph, params, masks, x)
        small = structured.shrink(graph, folded.params, folded.masks)  # gives what the masked function gives

    It cannot be moved where it meets a border: a convolution with padding sees it everywhere but there; nor
    where there is no bias to move it into. `error` tells what is left, on these inputs.

    Args:
      graph: of the function.
      params: tree of arrays, as it was traced.
      masks: bool arrays, `None` at leaves without a mask. A unit goes if they mask all kernels that bring it
        forth; those that read it need no mask.
      *inputs: of the function, of the shapes that were traced; a few examples do.

    >>> from jaxprune.structured import shrink, trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["w"] + p["b"][None]) @ p["o"] + p["c"][None]
    >>> params = {"w": jnp.ones((3, 2)), "b": jnp.array([1.0, 5.0]), "o": jnp.ones((2, 1)), "c": jnp.zeros(1)}
    >>> masks = {"w": jnp.array([[True, False]] * 3), "b": None, "o": None, "c": None}
    >>> x = jnp.ones((4, 3))
    >>> folded = fold(trace(fn, params, x), params, masks, x)
    >>> folded.params["c"].tolist(), folded.leaves, folded.params["b"].tolist()
    ([5.0], ('c',), [1.0, 0.0])
    """
    leaves, treedef = jax.tree.flatten(params)
    masked = jax.tree.leaves(masks_lib.apply(params, masks))
    alive = [_outer(own) for own in graph.kept(_without_inputs(graph, masks))]
    without = [jnp.where(a, w, jnp.zeros((), w.dtype)) for a, w in zip(alive, masked, strict=True)]

    @jax.jit
    def moved(masked: list[Any], without: list[Any], inputs: Any) -> tuple[dict[int, Any], Any]:
        found: dict[int, Any] = {}

        def rule(equation: Any, values: list[Any]) -> list[Any]:
            inner = programs.called(equation)
            if inner is not None:
                return programs.run(inner, values, rule)
            pairs = [v if isinstance(v, _Pair) else _Pair(v, v) for v in values]
            name = equation.primitive.name
            if name in ("add", "add_any", "sub"):
                pairs = _taken_up(name, pairs, alive, found)
            a = programs.bind(equation, [p.masked for p in pairs])
            b = programs.bind(equation, [p.without for p in pairs])
            leaf = pairs[0].leaf if name in _REARRANGED else None
            return [_Pair(x, y, leaf) for x, y in zip(a, b, strict=True)]

        flat = zip(masked, without, strict=True)
        own = [_Pair(a, b, i if jnp.ndim(a) == 1 else None) for i, (a, b) in enumerate(flat)]
        given = [_Pair(x, x) for x in jax.tree.leaves(inputs)]
        outputs = programs.run(graph.program, [*own, *given], rule)
        return found, [getattr(v, "masked", v) for v in outputs]

    found, expected = moved(masked, without, inputs)
    before = list(without)
    for i, value in found.items():
        without[i] = value.astype(leaves[i].dtype)
    outputs = jax.tree.leaves(jax.jit(graph.fn)(treedef.unflatten(without), *inputs))
    differ = [
        float(jnp.max(jnp.abs(a - b), initial=0)) for a, b in zip(outputs, expected, strict=True)
    ]
    size = max(float(jnp.max(jnp.abs(b), initial=0)) for b in expected)
    changed = [i for i in found if not np.array_equal(before[i], without[i])]
    paths = tuple(graph.paths[i] for i in sorted(changed))
    whole = zip(alive, masks_lib.beside(params, masks_lib.unpack(masks)), strict=True)
    both = [m if a.all() else jnp.asarray(a) if m is None else m & a for a, m in whole]
    error = max(differ, default=0.0) / max(size, 1e-30)
    return Folded(treedef.unflatten(without), treedef.unflatten(both), paths, error)


def _without_inputs(graph: Graph, masks: Masks) -> np.ndarray:
    """Per class, whether it is a unit of which all kernels that bring it forth are masked."""
    beside = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    by_path = dict(zip(graph.paths, beside, strict=True))
    found = np.zeros(graph.solution.classes, bool)
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


def _outer(axes: list[np.ndarray]) -> np.ndarray:
    """The mask of an array of which these indices of each axis are left."""
    found = np.ones((), bool)
    for own in axes:
        found = found[..., None] & own
    return found


def _taken_up(
    name: str, pairs: list[_Pair], alive: list[np.ndarray], found: dict[int, Any]
) -> list[_Pair]:
    """A sum whose bias has taken up what is constant in the difference of the other operand."""
    at = next((i for i, p in enumerate(pairs) if p.leaf is not None), None)
    if at is None or pairs[1 - at].leaf is not None or (name == "sub" and at == 0):
        return pairs
    bias, other = pairs[at], pairs[1 - at]
    leaf: int = bias.leaf  # type: ignore[assignment]
    axis = _axis(jnp.shape(bias.masked), jnp.shape(other.masked), len(alive[leaf]))
    if leaf in found or axis is None:
        return pairs
    rest = tuple(i for i in range(jnp.ndim(other.masked)) if i != axis)
    difference = other.masked - other.without
    mean = jnp.mean(difference, rest, keepdims=True)
    spread = jnp.max(jnp.abs(difference - mean), rest)
    constant = spread <= _TOLERANCE * jnp.max(jnp.abs(other.masked))
    constant &= jnp.all(jnp.isfinite(mean)) & alive[leaf]
    vector = lambda x: jnp.max(x, tuple(i for i in range(x.ndim) if i != axis))
    sign = -1 if name == "sub" else 1
    old = vector(jnp.broadcast_to(bias.without, jnp.shape(other.masked)))
    found[leaf] = old + jnp.where(constant, sign * mean.reshape(-1), 0)
    wide = found[leaf].reshape([-1 if i == axis else 1 for i in range(jnp.ndim(other.masked))])
    new = jnp.broadcast_to(wide, jnp.shape(bias.without)).astype(bias.without.dtype)
    pairs = list(pairs)
    pairs[at] = bias._replace(without=new)
    return pairs


def _axis(shape: tuple[int, ...], whole: tuple[int, ...], size: int) -> int | None:
    """The axis along which a bias of so many entries lies; `None` if it cannot be told."""
    if len(shape) != len(whole):
        return None
    own = [i for i, n in enumerate(shape) if n == size == whole[i]]
    if len(own) > 1:  # broadcast to all of the other's axes: Flax's biases lie along the last one
        own = [own[-1]] if own[-1] == len(whole) - 1 else []
    return own[0] if own else None
