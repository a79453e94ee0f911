"""Moves the constant outputs of masked units into later biases, so that the units can be removed."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune import programs
from jaxprune.arrays.precision import at_least_float32
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.structured.shrinking.border_units import border_units
from jaxprune.types import Masks, Params

__all__ = ["FoldResult", "fold"]

_TOLERANCE = 1e-5  # of the largest element: what counts as constant


class FoldResult(NamedTuple):
    """Result of `fold`: parameters and masks whose dead units can be removed.

    Attributes:
      params: a tree like the parameters, for `shrink`.
      masks: the given masks, extended to all slices of the units that can be removed.
      leaves: paths of the biases, means and kernels that have taken up constants.
      error: the largest remaining difference between the outputs, relative to their largest number.
    """

    params: Params
    masks: Masks
    leaves: tuple[str, ...]
    error: float


class _Pair(NamedTuple):
    """A value of the program, with the constants of dead units and without them.

    Attributes:
      masked: the value where kernels are masked and biases are not.
      without: the value where nothing of the dead units is left.
      leaf_index: of the parameter with one axis that this value is, reshaped or copied; `None`: it is
        something else.
      axis: along which the parameter's elements lie.
    """

    masked: Any
    without: Any
    leaf_index: int | None = None
    axis: int = 0


def fold(graph: Graph, params: Params, masks: Masks, *inputs: Any) -> FoldResult:
    r"""Moves the constant outputs of units without inputs, but with biases, into later biases and means.

    The output of such a unit is $c = f(b)$ for every input, and each layer after it receives $c W$. If this
    is the same for all elements of a channel, it is added to the layer's bias, or subtracted from the mean of
    the BatchNorm after it, and the unit can be removed:

        folded = structured.fold(graph, params, masks, x)
        small = structured.shrink(graph, folded.params, folded.masks)  # gives what the masked function gives

    A convolution with padding sees the constant everywhere except at its border, which no bias can express:
    there one of the units stays, and its kernel takes up those of all others. If neither is possible (padding
    by itself, a pooling or a depthwise convolution with padding, no bias to move it into), `error` is the
    difference that is left on these inputs.

    Args:
      graph: of the function, from `trace`.
      params: tree of arrays, with the structure and shapes that were traced.
      masks: bool arrays, `None` at leaves without a mask. A unit is removed if all kernels that compute it
        are masked; those that read it need no mask.
      *inputs: of the function, of the shapes that were traced; two examples at least.

    Returns:
      Parameters and masks for `shrink`, and the error that is left.

    Raises:
      ValueError: if an input has one example only, or the parameters are not those traced.

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
    masked_leaves = jax.tree.leaves(masks_lib.apply(params, masks))
    dead_mask = _units_without_inputs(graph, masks)
    if not dead_mask.any():
        return FoldResult(treedef.unflatten(masked_leaves), masks, (), 0.0)
    representatives = border_units(graph, masked_leaves, dead_mask, inputs, _TOLERANCE)
    dead_mask[representatives.units] = False
    kept_masks = graph.alive(dead_mask)
    new_leaves = [
        _zero_outside(mask, leaf) for mask, leaf in zip(kept_masks, masked_leaves, strict=True)
    ]
    for leaf_index, axis, unit_index, weights in representatives.kernels:
        unit_slice = _slice_at(axis, unit_index)
        new_leaves[leaf_index] = new_leaves[leaf_index].at[unit_slice].set(weights)
    moves, expected = _move_constants(graph, masked_leaves, new_leaves, kept_masks, inputs)
    changes = {leaf_index: move for leaf_index, move in moves.items() if np.asarray(move).any()}
    for leaf_index, move in changes.items():
        new_leaves[leaf_index] = (new_leaves[leaf_index] + move).astype(leaves[leaf_index].dtype)
    outputs = jax.tree.leaves(jax.jit(graph.fn)(treedef.unflatten(new_leaves), *inputs))
    changed_leaves = {*changes, *(kernel.leaf_index for kernel in representatives.kernels)}
    given_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    for leaf_index, axis, unit_index, _ in representatives.kernels:
        if given_masks[leaf_index] is not None:
            unit_slice = _slice_at(axis, unit_index)
            given_masks[leaf_index] = jnp.asarray(given_masks[leaf_index]).at[unit_slice].set(True)
    new_masks = [
        _join(given_mask, kept_mask)
        for given_mask, kept_mask in zip(given_masks, kept_masks, strict=True)
    ]
    return FoldResult(
        treedef.unflatten(new_leaves),
        treedef.unflatten(new_masks),
        tuple(graph.paths[leaf_index] for leaf_index in sorted(changed_leaves)),
        _relative_difference(outputs, expected),
    )


def _zero_outside(mask: np.ndarray, leaf: Any) -> Any:
    """Returns a leaf with zeros where a mask is false; what is no array stays."""
    return jnp.where(mask, leaf, jnp.zeros((), leaf.dtype)) if hasattr(leaf, "dtype") else leaf


def _join(given_mask: Any, kept_mask: np.ndarray) -> Any:
    """Returns the mask of what both masks keep; `None` is a mask that keeps all."""
    if kept_mask.all():
        return given_mask
    return jnp.asarray(kept_mask) if given_mask is None else given_mask & kept_mask


def _slice_at(axis: int, index: int) -> tuple[Any, ...]:
    return (*[slice(None)] * axis, index)


def _relative_difference(outputs: Sequence[Any], expected: Sequence[Any]) -> float:
    """Returns the largest difference of all outputs, over the largest number expected of any."""
    pairs = [
        (np.asarray(output).astype(float), np.asarray(wanted).astype(float))
        for output, wanted in zip(outputs, expected, strict=True)
    ]
    size = max(float(np.abs(wanted).max(initial=0)) for _, wanted in pairs)
    difference = max(float(np.abs(output - wanted).max(initial=0)) for output, wanted in pairs)
    return difference / max(size, 1e-30)


def _units_without_inputs(graph: Graph, masks: Masks) -> np.ndarray:
    """Returns a boolean per equivalence class: it is a unit, and all kernels that make it are masked."""
    mask_by_leaf = masks_lib.beside(graph.params, masks_lib.unpack(masks))
    mask_by_path = dict(zip(graph.paths, mask_by_leaf, strict=True))
    class_mask = np.zeros(graph.solution.class_count, bool)
    for group in graph.groups:
        producers = [
            member for member in group.members if member.kernel and not member.is_input_axis
        ]
        if not producers or any(mask_by_path[member.path] is None for member in producers):
            continue
        dead_mask = np.ones(group.size, bool)
        for member in producers:
            unit_slices = member.slices(np.asarray(mask_by_path[member.path]))
            dead_mask &= ~unit_slices.reshape(group.size, -1).any(1)
        if dead_mask.all():  # the layer is a constant, but it cannot be without any unit
            dead_mask[0] = False
        class_mask[group.units[dead_mask]] = True
    return class_mask


def _move_constants(
    graph: Graph,
    masked_leaves: list[Any],
    new_leaves: list[Any],
    kept_masks: list[np.ndarray],
    inputs: Any,
) -> tuple[dict[int, Any], list[Any]]:
    """Runs the function with dead units and without them, and moves their constants into what follows.

    Args:
      graph: of the function, from `trace`.
      masked_leaves: parameters where kernels are masked and biases are not.
      new_leaves: parameters where nothing of the dead units is left.
      kept_masks: for each parameter, what is not of dead units.
      inputs: of the function.

    Returns:
      By index of the parameter what is to be added to it, and the outputs with dead units.
    """
    all_reads = [value_index for step in graph.tape.steps for value_index in step.reads]
    leaf_values = graph.tape.inputs[: len(masked_leaves)]
    read_once = [all_reads.count(value_index) == 1 for value_index in leaf_values]

    @jax.jit
    def run(
        masked_leaves: list[Any], new_leaves: list[Any], inputs: Any
    ) -> tuple[dict[int, Any], Any]:
        moves: dict[int, Any] = {}
        leaves = zip(masked_leaves, new_leaves, read_once, strict=True)
        pairs = [
            _Pair(masked, without, index if jnp.ndim(masked) == 1 and is_read_once else None)
            for index, (masked, without, is_read_once) in enumerate(leaves)
        ]
        pairs += [_Pair(leaf, leaf) for leaf in jax.tree.leaves(inputs)]
        outputs = programs.run(graph.program, pairs, _rule_of_pairs(kept_masks, moves))
        return moves, [getattr(output, "masked", output) for output in outputs]

    return run(masked_leaves, new_leaves, inputs)


def _rule_of_pairs(
    kept_masks: list[np.ndarray], moves: dict[int, Any]
) -> Callable[[Any, list[Any]], list[Any]]:
    """Returns the rule that runs an equation on pairs, and enters in `moves` what biases take up."""

    def rule(equation: Any, values: list[Any]) -> list[Any]:
        pairs = [value if isinstance(value, _Pair) else _Pair(value, value) for value in values]
        name = equation.primitive.name
        if name in ("add", "add_any", "sub"):
            pairs = _take_up(name, pairs, kept_masks, moves)
        masked = programs.bind(equation, [pair.masked for pair in pairs])
        without = programs.bind(equation, [pair.without for pair in pairs])
        leaf_index, axis = _leaf_of(equation, pairs[0]) if pairs else (None, 0)
        return [_Pair(a, b, leaf_index, axis) for a, b in zip(masked, without, strict=True)]

    return rule


def _leaf_of(equation: Any, pair: _Pair) -> tuple[int | None, int]:
    """Returns which parameter an equation's output is, and along which axis its elements then lie.

    Args:
      equation: whose first input is the pair.
      pair: perhaps a parameter of one axis, reshaped or copied.
    """
    name = equation.primitive.name
    params = equation.params
    if pair.leaf_index is None:
        return None, 0
    if name in ("convert_element_type", "copy"):
        return pair.leaf_index, pair.axis
    if name == "broadcast_in_dim":
        return pair.leaf_index, params["broadcast_dimensions"][pair.axis]
    if name == "squeeze":
        removed_before = sum(axis < pair.axis for axis in params["dimensions"])
        return pair.leaf_index, pair.axis - removed_before
    old_shape = jnp.shape(pair.masked)
    new_shape = tuple(equation.outvars[0].aval.shape)
    long_axes = [axis for axis, size in enumerate(new_shape) if size > 1]
    if (
        name in ("reshape", "expand_dims")
        and len(long_axes) == 1
        and new_shape[long_axes[0]] == old_shape[pair.axis]
    ):
        return pair.leaf_index, long_axes[0]
    return None, 0


def _take_up(
    name: str, pairs: list[_Pair], kept_masks: list[np.ndarray], moves: dict[int, Any]
) -> list[_Pair]:
    """Returns the operands of a sum whose bias has taken up what dead units add to the other operand.

    It takes up the mean of the difference that they make, where this is constant along the bias's elements.

    Args:
      name: of the primitive: an addition, or "sub".
      pairs: its two operands.
      kept_masks: for each parameter, what is not of dead units.
      moves: by index of the parameter what is to be added to it; gets that of the bias.
    """
    bias_index = next((i for i, pair in enumerate(pairs) if pair.leaf_index is not None), None)
    if (
        bias_index is None
        or pairs[1 - bias_index].leaf_index is not None
        or (name == "sub" and bias_index == 0)
    ):
        return pairs
    bias = pairs[bias_index]
    other = pairs[1 - bias_index]
    leaf_index: int = bias.leaf_index  # type: ignore[assignment]
    axis = bias.axis
    shape = jnp.shape(other.masked)
    kept_mask = kept_masks[leaf_index]
    has_same_axis = len(jnp.shape(bias.masked)) == len(shape) and shape[axis] == len(kept_mask)
    if leaf_index in moves or not has_same_axis:
        return pairs
    other_axes = tuple(i for i in range(len(shape)) if i != axis)
    difference = _widened(other.masked) - _widened(other.without)
    mean = jnp.mean(difference, other_axes)
    spread = jnp.max(jnp.abs(difference - jnp.expand_dims(mean, other_axes)), other_axes)
    threshold = _TOLERANCE * jnp.max(jnp.abs(_widened(other.masked)))
    constant_mask = (spread <= threshold) & (jnp.abs(mean) > threshold) & kept_mask
    moves[leaf_index] = jnp.where(constant_mask, -mean if name == "sub" else mean, 0.0)
    new_bias = _widened(bias.without) + jnp.expand_dims(moves[leaf_index], other_axes)
    operands = list(pairs)
    operands[bias_index] = bias._replace(without=new_bias.astype(bias.without.dtype))
    return operands


def _widened(x: Any) -> Any:
    return x.astype(at_least_float32(x.dtype))
