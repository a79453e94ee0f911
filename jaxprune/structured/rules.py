"""One rule per primitive: what it says of labels, and how it runs on smaller arrays.

A new primitive needs a function `(labels, equation, inputs) -> outputs` on `Axes`, and, if its parameters
hold sizes, one more that binds it with those of smaller arrays. What has no rule is pinned, never guessed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune import programs
from jaxprune.signals.kernels import ELEMENTWISE
from jaxprune.structured.labels import Axes, Labels, refined

__all__ = ["RULES", "Kept", "Rule", "Step", "rule_of"]

Kept = Callable[[np.ndarray], np.ndarray]  # labels -> which of them are left


class Step(NamedTuple):
    """An equation that was met, with the labels of what goes in and comes out."""

    inputs: list[Axes]
    outputs: list[Axes]
    more: Any = None  # what the rule wants to remember


class Rule(NamedTuple):
    """What is known of a primitive.

    Attributes:
      label: (labels, equation, axes of the inputs) -> axes of the outputs, or these and what to remember.
      replay: (equation, arrays, step, kept) -> outputs; `None`: the primitive as it stands.
    """

    label: Callable[[Labels, Any, list[Axes]], Any]
    replay: Callable[[Any, list[Any], Step, Kept], Any] | None = None


def _shapes(equation: Any) -> list[tuple[int, ...]]:
    return [tuple(v.aval.shape) for v in equation.outvars]


def _left(axes: Axes, kept: Kept) -> tuple[int, ...]:
    """The shape that is left."""
    return tuple(int(kept(axis).sum()) for axis in axes)


def _again(equation: Any, arrays: Sequence[Any], **changed: Any) -> list[Any]:
    """The equation with some of its parameters changed."""
    params = equation.primitive.get_bind_params({**equation.params, **changed})
    found = equation.primitive.bind(*arrays, **params)
    return list(found) if equation.primitive.multiple_results else [found]


# Entry by entry.


def _elementwise(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    shapes = _shapes(equation)
    full = [axes for axes in inputs if len(axes) == len(shapes[0])]
    found = []
    for i, size in enumerate(shapes[0]):
        there = [axes[i] for axes in full if len(axes[i]) == size]
        for other in there[1:]:
            labels.tie(there[0], other)
        found.append(there[0] if there else labels.fresh(size))
    return [tuple(found)] * len(shapes)


def _barrier(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return list(inputs)


# Shapes.


def _transpose(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return [tuple(inputs[0][i] for i in equation.params["permutation"])]


def _squeeze(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    gone = equation.params["dimensions"]
    return [tuple(axis for i, axis in enumerate(inputs[0]) if i not in gone)]


def _expand_dims(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    rest, new = iter(inputs[0]), equation.params["dimensions"]
    size = len(_shapes(equation)[0])
    return [tuple(labels.fresh(1) if i in new else next(rest) for i in range(size))]


def _broadcast(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = _shapes(equation)
    where = dict(zip(equation.params["broadcast_dimensions"], inputs[0], strict=True))
    fits = lambda i, n: i in where and len(where[i]) == n
    return [tuple(where[i] if fits(i, n) else labels.fresh(n) for i, n in enumerate(shape))]


def _broadcast_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    shape = _left(step.outputs[0], kept)
    return [lax.broadcast_in_dim(arrays[0], shape, equation.params["broadcast_dimensions"])]


def _reshape(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = _shapes(equation)
    axes = inputs[0]
    if 0 in shape:
        labels.pin(*axes)
        return [labels.fresh_like(shape, pinned=True)]
    found: list[Any] = [labels.fresh(1) if n == 1 else None for n in shape]
    entering = [i for i, axis in enumerate(axes) if len(axis) > 1]
    leaving = [i for i, n in enumerate(shape) if n > 1]
    while entering:
        a, b = [entering.pop(0)], [leaving.pop(0)]
        size = lambda own, of: int(np.prod([of[i] for i in own]))
        lengths = [len(axis) for axis in axes]
        while size(a, lengths) != size(b, shape):
            if size(a, lengths) < size(b, shape):
                a.append(entering.pop(0))
            else:
                b.append(leaving.pop(0))
        new = _regrouped(labels, [axes[i] for i in a], [shape[i] for i in b])
        for i, axis in zip(b, new, strict=True):
            found[i] = axis
    return [tuple(found)]


def _regrouped(labels: Labels, axes: list[np.ndarray], shape: list[int]) -> list[np.ndarray]:
    """Labels of the axes into which some axes with as many entries are reshaped."""
    fine = refined([len(axis) for axis in axes], shape)
    if fine is None:
        labels.pin(*axes)
        return [labels.fresh(n, pinned=True) for n in shape]
    factors: list[Any] = [None] * len(fine)

    def spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
        start, found = 0, []
        for n in sizes:
            stop, whole = start, 1
            while whole < n:
                whole, stop = whole * fine[stop], stop + 1
            found.append((start, stop))
            start = stop
        return found

    for axis, (start, stop) in zip(axes, spans([len(axis) for axis in axes]), strict=True):
        if stop == start + 1:
            factors[start] = axis
        else:
            factors[start:stop] = [labels.fresh(n) for n in fine[start:stop]]
            labels.merge(axis, factors[start:stop])
    out = []
    for n, (start, stop) in zip(shape, spans(shape), strict=True):
        if stop == start + 1:
            out.append(factors[start])
        else:
            out.append(labels.fresh(n))
            labels.merge(out[-1], factors[start:stop])
    return out


def _reshape_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return [lax.reshape(arrays[0], _left(step.outputs[0], kept))]


# Cutting and joining.


def _concatenate(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    at, first = equation.params["dimension"], inputs[0]
    for axes in inputs[1:]:
        labels.tie_all(
            [a for i, a in enumerate(first) if i != at], [a for i, a in enumerate(axes) if i != at]
        )
    joined = np.concatenate([axes[at] for axes in inputs])
    return [tuple(joined if i == at else axis for i, axis in enumerate(first))]


def _slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    p = equation.params
    steps = p["strides"] or (1,) * len(inputs[0])
    cuts = zip(inputs[0], p["start_indices"], p["limit_indices"], steps, strict=True)
    found = tuple(axis[a:b:c] for axis, a, b, c in cuts)
    labels.pin(*(axis for axis in found if len(axis) == 1))  # it may be dropped or expanded later
    return [found]


def _slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p, out = equation.params, arrays[0]
    steps = p["strides"] or (1,) * out.ndim
    for i, axis in enumerate(step.inputs[0]):
        alive = kept(axis)
        place = np.cumsum(alive) - 1
        cut = slice(p["start_indices"][i], p["limit_indices"][i], steps[i])
        wanted = place[cut][alive[cut]]
        if len(wanted) == out.shape[i]:
            continue
        if len(wanted) and len(wanted) == wanted[-1] + 1 - wanted[0]:
            out = lax.slice_in_dim(out, int(wanted[0]), int(wanted[-1]) + 1, axis=i)
        else:
            out = jnp.take(out, wanted, axis=i)
    return [out]


def _split(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    at, axes = equation.params["axis"], inputs[0]
    pieces = np.split(axes[at], np.cumsum(equation.params["sizes"])[:-1])
    labels.pin(*(piece for piece in pieces if len(piece) == 1))
    return [tuple(p if i == at else axis for i, axis in enumerate(axes)) for p in pieces]


def _split_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    at = equation.params["axis"]
    sizes = tuple(int(kept(axes[at]).sum()) for axes in step.outputs)
    return _again(equation, arrays, sizes=sizes)


def _pad(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = _shapes(equation)
    found = []
    for axis, (low, high, inside), n in zip(
        inputs[0], equation.params["padding_config"], shape, strict=True
    ):
        if inside or low < 0 or high < 0:
            labels.pin(axis)
            found.append(labels.fresh(n, pinned=True))
        elif low or high:
            found.append(np.concatenate([labels.fresh_many(low), axis, labels.fresh_many(high)]))
        else:
            found.append(axis)
    return [tuple(found)]


def _pad_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    config = []
    for axis, (low, high, inside) in zip(
        step.outputs[0], equation.params["padding_config"], strict=True
    ):
        if inside or low < 0 or high < 0:
            config.append((low, high, inside))
        else:
            alive = kept(axis)
            config.append((int(alive[:low].sum()), int(alive[len(alive) - high :].sum()), 0))
    return [lax.pad(arrays[0], arrays[1], config)]


def _rev(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    turned = equation.params["dimensions"]
    return [tuple(axis[::-1] if i in turned else axis for i, axis in enumerate(inputs[0]))]


def _iota(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    return [labels.fresh_like(_shapes(equation)[0])]


def _iota_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    p = equation.params
    whole = lax.broadcasted_iota(p["dtype"], p["shape"], p["dimension"])
    return [cut(whole, step.outputs[0], kept)]


# Sums and windows.


def _reduce(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    gone = equation.params["axes"]
    keep = lambda axes: tuple(axis for i, axis in enumerate(axes) if i not in gone)
    return [keep(axes) for axes in inputs[: len(equation.outvars)]]


def _arg(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    labels.pin(*(inputs[0][i] for i in equation.params["axes"]))
    return _reduce(labels, equation, inputs)


def _along(name: str) -> Callable[[Labels, Any, list[Axes]], list[Axes]]:
    """What depends on the order along an axis."""

    def label(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
        at = equation.params[name]
        for axes in inputs:
            labels.pin(axes[at])
            labels.tie_all(inputs[0], axes)
        return [inputs[0]] * len(equation.outvars)

    return label


def _window(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (shape,) = _shapes(equation)
    found = []
    for axis, n, window in zip(inputs[0], shape, equation.params["window_dimensions"], strict=True):
        if window == 1 and len(axis) == n:
            found.append(axis)
        else:
            labels.pin(axis)
            found.append(labels.fresh(n, pinned=True))
    return [tuple(found)]


# Products.


def _dot(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    (left, right), (left_batch, right_batch) = equation.params["dimension_numbers"]
    a, b = inputs
    labels.tie_all([a[i] for i in left], [b[i] for i in right])
    labels.tie_all([a[i] for i in left_batch], [b[i] for i in right_batch])
    free_a = [a[i] for i in range(len(a)) if i not in (*left, *left_batch)]
    free_b = [b[i] for i in range(len(b)) if i not in (*right, *right_batch)]
    return [(*(a[i] for i in left_batch), *free_a, *free_b)]


def _conv(labels: Labels, equation: Any, inputs: list[Axes]) -> Any:
    p, (shape,) = equation.params, _shapes(equation)
    (x, kernel), spec = inputs, equation.params["dimension_numbers"]
    if p["batch_group_count"] > 1:
        labels.pin(*x, *kernel)
        return [labels.fresh_like(shape, pinned=True)]
    found: list[Any] = [None] * len(shape)
    found[spec.out_spec[0]], found[spec.out_spec[1]] = x[spec.lhs_spec[0]], kernel[spec.rhs_spec[0]]
    for i in range(2, len(shape)):
        labels.pin(x[spec.lhs_spec[i]], kernel[spec.rhs_spec[i]])
        found[spec.out_spec[i]] = labels.fresh(shape[spec.out_spec[i]], pinned=True)
    entering, leaving = x[spec.lhs_spec[1]], kernel[spec.rhs_spec[0]]
    count = p["feature_group_count"]
    if count == 1:
        labels.tie(entering, kernel[spec.rhs_spec[1]])
        return [tuple(found)]
    groups = labels.fresh(count)
    labels.merge(entering, [groups, kernel[spec.rhs_spec[1]]])
    labels.merge(leaving, [groups, labels.fresh(len(leaving) // count)])
    return [tuple(found)], groups


def _conv_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    if step.more is None:
        return programs.bind(equation, arrays)
    return _again(equation, arrays, feature_group_count=int(kept(step.more).sum()))


# Places.


def _gather(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    p, (shape,) = equation.params, _shapes(equation)
    numbers, (operand, index) = p["dimension_numbers"], inputs
    whole = [
        i
        for i in range(len(operand))
        if i not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    ]
    found: list[Any] = [None] * len(shape)
    for i, axis in enumerate(operand):
        if i in whole and p["slice_sizes"][i] == len(axis):
            found[numbers.offset_dims[whole.index(i)]] = axis
        else:
            labels.pin(axis)
    batch = [i for i in range(len(shape)) if i not in numbers.offset_dims]
    for i, axis in zip(batch, index[:-1], strict=False):
        found[i] = axis
    for i in numbers.start_indices_batching_dims:
        labels.pin(index[i])
    labels.pin(index[-1])
    return [
        tuple(
            labels.fresh(n, pinned=True) if a is None else a
            for a, n in zip(found, shape, strict=True)
        )
    ]


def _gather_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    sizes = equation.params["slice_sizes"]
    left = [
        int(kept(axis).sum()) if n == len(axis) else n
        for n, axis in zip(sizes, step.inputs[0], strict=True)
    ]
    return _again(equation, arrays, slice_sizes=tuple(left))


def _dynamic_slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    found = []
    for axis, n in zip(inputs[0], _shapes(equation)[0], strict=True):
        if len(axis) != n:
            labels.pin(axis)
            axis = labels.fresh(n, pinned=True)
        found.append(axis)
    return [tuple(found)]


def _dynamic_slice_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    return _again(equation, arrays, slice_sizes=_left(step.outputs[0], kept))


def _dynamic_update_slice(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    for whole, piece in zip(inputs[0], inputs[1], strict=True):
        if len(whole) == len(piece):
            labels.tie(whole, piece)
        else:
            labels.pin(whole, piece)
    return [inputs[0]]


def _random_bits(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(_shapes(equation)[0])]


def _stays(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """PRNG keys and the like: nothing of them can go."""
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shape, pinned=True) for shape in _shapes(equation)]


def _drawn_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Drawn whole, then cut: units that are left see what they saw before."""
    return [
        cut(out, axes, kept)
        for out, axes in zip(programs.bind(equation, arrays), step.outputs, strict=True)
    ]


def cut(value: Any, axes: Axes, kept: Kept) -> Any:
    """What is left of an array."""
    for i, axis in enumerate(axes):
        alive = kept(axis)
        if not alive.all():
            value = jnp.take(jnp.asarray(value), np.flatnonzero(alive), axis=i)
    return value


_PLAIN = Rule(_elementwise)
RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _PLAIN),
    **dict.fromkeys(
        ("acos", "asin", "atan", "cosh", "sinh", "real", "imag", "xor", "lgamma"), _PLAIN
    ),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or"),
        Rule(_reduce),
    ),
    **dict.fromkeys(("argmax", "argmin"), Rule(_arg)),
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"), Rule(_along("axis"))
    ),
    **dict.fromkeys(
        ("reduce_window_max", "reduce_window_min", "reduce_window_sum"),
        Rule(_window),
    ),
    "sort": Rule(_along("dimension")),
    "optimization_barrier": Rule(_barrier),
    "transpose": Rule(_transpose),
    "squeeze": Rule(_squeeze),
    "expand_dims": Rule(_expand_dims),
    "broadcast_in_dim": Rule(_broadcast, _broadcast_again),
    "reshape": Rule(_reshape, _reshape_again),
    "concatenate": Rule(_concatenate),
    "slice": Rule(_slice, _slice_again),
    "split": Rule(_split, _split_again),
    "pad": Rule(_pad, _pad_again),
    "rev": Rule(_rev),
    "iota": Rule(_iota, _iota_again),
    "dot_general": Rule(_dot),
    "conv_general_dilated": Rule(_conv, _conv_again),
    "gather": Rule(_gather, _gather_again),
    "dynamic_slice": Rule(_dynamic_slice, _dynamic_slice_again),
    "dynamic_update_slice": Rule(_dynamic_update_slice),
    "random_bits": Rule(_random_bits, _drawn_again),
    **dict.fromkeys(
        ("random_seed", "random_split", "random_fold_in", "random_wrap", "random_unwrap"),
        Rule(_stays),
    ),
}


def rule_of(name: str) -> Rule | None:
    """The rule of a primitive, or `None`: everything that it touches is pinned."""
    return RULES.get(name)
