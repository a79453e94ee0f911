"""Remainders of reductions and products, and what these owe to units that were removed."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Region,
    Value,
    evaluated,
    is_nothing,
    is_number,
    is_zero,
    regions_of,
    spread,
)
from jaxprune.structured.rules import Step

__all__ = ["SUMS"]

_Found = tuple[
    list[Any], list[dict[Region, Any]]
]  # what is owed to each output, and its remainders
_LOGICAL = ("reduce_and", "reduce_or", "reduce_xor")
_NEUTRAL = {"reduce_prod": 1, "reduce_and": True, "reduce_or": False, "reduce_xor": False}
_INFINITE = "a sum over the units sees what is infinite, or no number, for zeros of removed ones"
_NAMES = {
    "reduce_max": "a maximum",
    "reduce_min": "a minimum",
    "reduce_prod": "a product",
    "reduce_and": "an all()",
    "reduce_or": "an any()",
}


def _reduced(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _Found:
    name, gone = equation.primitive.name, equation.params["axes"]
    value, axes, out = values[0], step.inputs[0], step.outputs[0]
    source = [i for i in range(len(axes)) if i not in gone]
    summed_over = places.cut(axes) & frozenset(gone)
    owed: list[Any] = []
    found: dict[Region, Any] = {}
    for region in [EVERYWHERE, *regions_of(places.cut(out))]:
        own = frozenset(source[i] for i in region)
        parts: list[Any] = []
        if region and name != "reduce_sum" and summed_over:
            contents = [value.at(own | r) for r in (EVERYWHERE, *regions_of(summed_over))]
            if all(is_number(c) and c == contents[0] for c in contents):
                part = _part(equation, contents[0], places.sizes(axes, own), EVERYWHERE, False)
                found |= {region: part} if not is_zero(part) else {}
                continue
        for removed in [EVERYWHERE, *regions_of(summed_over)]:
            if not (region or removed):
                continue
            content = value.at(own | removed)
            positive = value.positive and not region
            part = _part(equation, content, places.sizes(axes, own | removed), removed, positive)
            if isinstance(part, Lost) and not region:
                leak(part.reason, tuple(axes[i] for i in removed))
            elif part is not None:
                parts.append(part)
        if not region:
            owed = parts
            continue
        content = _total(parts, equation.outvars[0].aval.dtype)
        if not is_zero(content):
            found[region] = content
    if name in ("reduce_max", "reduce_min", "reduce_and", "reduce_or"):
        number = value.remainders.get(EVERYWHERE)
        if number is not None and not summed_over:
            found[EVERYWHERE] = number
    elif name == "reduce_sum" and not owed and is_zero(value.remainders.get(EVERYWHERE)):
        found[EVERYWHERE] = np.zeros((), equation.outvars[0].aval.dtype)[()]
    return owed, [found]


def _part(equation: Any, content: Any, sizes: Any, removed: Region, positive: bool) -> Any:
    """What a region adds to a reduction; `None`: nothing.

    Args:
      equation: the reduction.
      content: of the region.
      sizes: of the region.
      removed: of the axes that are reduced, those along which its places were removed.
      positive: whether all that is reduced besides is at least zero.
    """
    name, gone = equation.primitive.name, equation.params["axes"]
    if isinstance(content, Lost):
        return content
    if name == "reduce_sum":
        if is_zero(content):
            return None
        if is_number(content) and not np.isfinite(content):
            return Lost(_INFINITE)
        if is_number(content):
            return (content * math.prod(sizes[i] for i in gone)).astype(content.dtype)

        def total(x: Any) -> Any:
            repeats = math.prod(sizes[i] for i in gone if x.shape[i] == 1)
            own = programs.bind(equation, [x])[0]
            return own if repeats == 1 else own * np.asarray(repeats).astype(own.dtype)

        return evaluated(total, content)
    if removed:
        neutral = _NEUTRAL.get(name)
        least = name == "reduce_max" and positive and is_number(content) and content <= 0
        if least or (is_number(content) and (content == neutral or _extreme(name, content))):
            return None
        return Lost(
            f"{_NAMES.get(name, name)} over the units ({name}) sees the zeros of removed ones"
        )
    if name == "reduce_prod" and not (is_number(content) and content in (0, 1)):
        wide = [sizes[i] if i in gone else None for i in range(len(sizes))]
        dtype = equation.invars[0].aval.dtype
        full = lambda x: programs.bind(equation, [spread(x, wide, len(wide), dtype)])[0]
        return evaluated(full, content)
    if is_number(content):
        return content
    return evaluated(lambda x: programs.bind(equation, [x])[0], content)


def _extreme(name: str, content: Any) -> bool:
    """Whether a maximum or a minimum never takes a number where there is another."""
    if name not in ("reduce_max", "reduce_min") or content.dtype.kind in "biu":
        return False
    return bool(content == (-np.inf if name == "reduce_max" else np.inf))


def _total(parts: Sequence[Any], dtype: Any) -> Any:
    """The sum of contents, of which one is all there is where operations are no sums."""
    for part in parts:
        if isinstance(part, Lost):
            return part
    if not parts:
        return np.zeros((), dtype)[()]
    if len(parts) == 1:
        return parts[0]
    if all(map(is_number, parts)):
        return sum(parts[1:], parts[0])
    return evaluated(lambda *xs: sum(xs[1:], jnp.asarray(xs[0], dtype)), *parts)


class _Pairs(NamedTuple):
    """Which axes of its two operands a product pairs.

    Attributes:
      summed: pairs that are summed over.
      leaving: of each axis of the output, the axis of either operand, or `None`.
      windows: axes of each operand of which a window needs all positions.
    """

    summed: list[tuple[int, int]]
    leaving: list[tuple[int | None, int | None]]
    windows: tuple[Sequence[int], Sequence[int]] = ((), ())


def _pairs(equation: Any, step: Step) -> _Pairs:
    if equation.primitive.name == "conv_general_dilated":
        spec = equation.params["dimension_numbers"]
        leaving: list[tuple[int | None, int | None]] = [(None, None)] * len(spec.out_spec)
        leaving[spec.out_spec[0]] = (spec.lhs_spec[0], None)
        leaving[spec.out_spec[1]] = (None, spec.rhs_spec[0])
        windows = (spec.lhs_spec[2:], spec.rhs_spec[2:])
        return _Pairs([(spec.lhs_spec[1], spec.rhs_spec[1])], leaving, windows)
    (over_a, over_b), (batch_a, batch_b) = equation.params["dimension_numbers"]
    free_a = [i for i in range(len(step.inputs[0])) if i not in (*over_a, *batch_a)]
    free_b = [i for i in range(len(step.inputs[1])) if i not in (*over_b, *batch_b)]
    leaving = [*zip(batch_a, batch_b, strict=True)]
    leaving += [(i, None) for i in free_a] + [(None, i) for i in free_b]
    return _Pairs(list(zip(over_a, over_b, strict=True)), leaving)


def _product(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _Found:
    if equation.params.get("feature_group_count", 1) > 1:
        return _grouped(equation, values, step, places, leak)
    pairs, (left, right) = _pairs(equation, step), step.inputs
    summed_over = [
        k
        for k, (i, j) in enumerate(pairs.summed)
        if places.cut((left[i],)) or places.cut((right[j],))
    ]
    owed: list[Any] = []
    found: dict[Region, Any] = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        sides = [
            frozenset(at for i in region if (at := pairs.leaving[i][side]) is not None)
            for side in (0, 1)
        ]
        parts = []
        for removed in [EVERYWHERE, *regions_of(summed_over)]:
            if not (region or removed):
                continue
            where = [
                sides[side] | frozenset(pairs.summed[k][side] for k in removed) for side in (0, 1)
            ]
            contents = [v.at(r) for v, r in zip(values, where, strict=True)]
            part = _multiplied(equation, contents, where, step, places, pairs)
            if isinstance(part, Lost) and not region:
                leak(part.reason, tuple(left[pairs.summed[k][0]] for k in removed))
            elif part is not None:
                parts.append(part)
        if not region:
            owed = parts
            continue
        content = _total(parts, equation.outvars[0].aval.dtype)
        if not is_zero(content):
            found[region] = content
    return owed, [found]


def _multiplied(
    equation: Any, contents: Sequence[Any], where: Any, step: Step, places: Places, pairs: _Pairs
) -> Any:
    """What a region of each operand adds to a product; `None`: nothing."""
    if is_nothing(*contents):
        return None
    if any(is_zero(c) or (is_number(c) and not np.isfinite(c)) for c in contents):
        return Lost(_INFINITE)
    for content in contents:
        if isinstance(content, Lost):
            return content
    sizes = [places.sizes(axes, r) for axes, r in zip(step.inputs, where, strict=True)]
    batch = [
        (i, j) for i, j in pairs.leaving if i is not None and j is not None
    ]  # along these both operands run

    def product(*contents: Any) -> Any:
        arrays = [
            spread(
                x,
                [None] * len(size) if not is_number(x) else [1] * len(size),
                len(size),
                a.aval.dtype,
            )
            for x, size, a in zip(contents, sizes, equation.invars, strict=True)
        ]
        wide = [list(x.shape) for x in arrays]
        repeats = 1
        for i, j in pairs.summed:
            if wide[0][i] == wide[1][j] == 1:
                repeats *= sizes[0][i]
            else:
                wide[0][i], wide[1][j] = sizes[0][i], sizes[1][j]
        for i, j in batch:
            wide[0][i] = wide[1][j] = max(wide[0][i], wide[1][j])
        for side in (0, 1):
            for i in pairs.windows[side]:
                wide[side][i] = sizes[side][i]
        arrays = [jnp.broadcast_to(x, shape) for x, shape in zip(arrays, wide, strict=True)]
        own = programs.bind(equation, arrays)[0]
        return own if repeats == 1 else own * np.asarray(repeats).astype(own.dtype)

    return evaluated(product, *contents)


def _grouped(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> _Found:
    """A convolution in groups: what goes is zero on one side at least, or it cannot be told."""
    spec = equation.params["dimension_numbers"]
    (x, kernel), (entering, taps) = step.inputs, values
    lost = Lost("a convolution in groups meets what removed units leave behind")
    channel, within, leaving = spec.lhs_spec[1], spec.rhs_spec[1], spec.rhs_spec[0]
    nothing = lambda value, axes, at: all(
        is_zero(value.at(r)) for r in regions_of(places.cut(axes)) if at in r
    )
    summed_over = (x[channel], kernel[within])
    if places.cut(summed_over) and not (
        nothing(entering, x, channel) or nothing(taps, kernel, within)
    ):
        leak(lost.reason, summed_over)
    found: dict[Region, Any] = {}
    depthwise = len(kernel[within]) == 1 and len(kernel[leaving]) == len(x[channel])
    closed = nothing(taps, kernel, leaving) or (depthwise and nothing(entering, x, channel))
    for region in regions_of(places.cut(step.outputs[0])):
        if not (region == frozenset({spec.out_spec[1]}) and closed):
            found[region] = lost
    return [], [found]


Sum = Callable[[Any, Sequence[Value], Step, Places, Leak], _Found]

SUMS: dict[str, Sum] = {
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", *_LOGICAL),
        _reduced,
    ),
    "dot_general": _product,
    "conv_general_dilated": _product,
}
