"""Remainders of what is written at computed places, reduced over devices, or drawn with parameters."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune import programs
from jaxprune.structured.remainders.values import (
    EVERYWHERE,
    Leak,
    Lost,
    Places,
    Region,
    Value,
    evaluated,
    is_zero,
    regions_of,
    spread,
)
from jaxprune.structured.rules import Step

__all__ = ["COMPUTED"]

Computed = Callable[[Any, Sequence[Value], Step, Places, Leak], list[dict[Region, Any]]]


def _scatter(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[dict[Region, Any]]:
    """Updates at computed places: zeros that are added are nothing, and others are written as they are."""
    name, numbers = equation.primitive.name, equation.params["dimension_numbers"]
    operand, index, updates = values
    axes, _, written = step.inputs
    outside = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    windows = [i for i in range(len(axes)) if i not in outside]
    source = dict(zip(windows, numbers.update_window_dims, strict=True))
    rows = [j for j in range(len(written)) if j not in numbers.update_window_dims]
    of_places = dict(zip(range(len(rows)), rows, strict=True))
    for i, j in zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    ):
        source[i] = of_places[j]
    summed_over = places.cut(written) - frozenset(source.values())
    adds = name in ("scatter-add", "scatter-sub")
    lost = Lost(f"{name} meets what removed units leave behind")
    found: dict[Region, Any] = {}
    for region in [EVERYWHERE, *regions_of(places.cut(step.outputs[0]))]:
        own = frozenset(source[i] for i in region if i in source)
        others = [updates.at(own | r) for r in regions_of(summed_over)]
        closed = all(map(is_zero, others)) and (adds or not others)
        if not closed and not region:
            leak(lost.reason, tuple(written[j] for j in summed_over))
        if not region:
            continue
        a, b = operand.at(region), updates.at(own)
        if not closed or isinstance(a, Lost) or isinstance(b, Lost):
            found[region] = next((c for c in (a, b) if isinstance(c, Lost)), lost)
        elif not (is_zero(a) and is_zero(b)):
            batched = region & frozenset(numbers.operand_batching_dims)
            sizes = (places.sizes(axes, region), places.sizes(written, own))
            found[region] = lost if batched else _written(equation, a, index.array, b, sizes)
    return [found]


def _written(equation: Any, operand: Any, index: Any, updates: Any, sizes: Any) -> Any:
    dtype = equation.outvars[0].aval.dtype

    def run(x: Any, at: Any, y: Any) -> Any:
        arrays = [spread(c, own, len(own), dtype) for c, own in zip((x, y), sizes, strict=True)]
        return programs.bind(equation, [arrays[0], at, arrays[1]])[0]

    return evaluated(run, operand, index, updates)


def _runs(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[dict[Region, Any]]:
    """Runs of rows, each with a matrix of its own: zeros on one side of what is summed over are nothing."""
    out = step.outputs[0]
    leaving = {id(axis) for axis in out}
    found: dict[Region, Any] = {}
    lost = Lost("a ragged product meets what removed units leave behind")
    summed_over = [
        frozenset(i for i in places.cut(axes) if id(axes[i]) not in leaving)
        for axes in step.inputs[:2]
    ]
    if any(summed_over) and not any(
        own and all(is_zero(value.at(r)) for r in regions_of(places.cut(axes)) if r & own)
        for value, axes, own in zip(values, step.inputs, summed_over, strict=False)
    ):
        leak(lost.reason, tuple(step.inputs[0][i] for i in summed_over[0]))
    for region in regions_of(places.cut(out)):
        wanted = {id(out[i]) for i in region}
        closed = False
        for value, axes in zip(values[:2], step.inputs[:2], strict=True):
            own = frozenset(i for i in places.cut(axes) if id(axes[i]) in wanted)
            closed |= bool(own) and all(
                is_zero(value.at(r)) for r in regions_of(places.cut(axes)) if r >= own
            )
        if not closed:
            found[region] = lost
    return [found]


def _collective(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[dict[Region, Any]]:
    """Sums and the like over devices, or over axes of the arrays under `vmap(axis_name=)`."""
    name = equation.primitive.name
    reduced = {axis for axis in equation.params.get("axes", ()) if isinstance(axis, int)}
    outputs: list[dict[Region, Any]] = []
    for value, axes, out in zip(values, step.inputs, step.outputs, strict=True):
        source = [i for i in range(len(axes)) if i not in reduced]
        summed_over = places.cut(axes) & frozenset(reduced)
        found: dict[Region, Any] = {}
        for region in [EVERYWHERE, *regions_of(places.cut(out))]:
            own = frozenset(source[i] for i in region)
            contents = [value.at(own | r) for r in regions_of(summed_over)]
            nothing = all(map(is_zero, contents)) and (name.startswith("psum") or not contents)
            lost = Lost(f"{name} meets what removed units leave behind")
            if not region and not nothing:
                leak(lost.reason, tuple(axes[i] for i in summed_over))
            elif region and not (nothing and is_zero(value.at(own))):
                found[region] = lost
        outputs.append(found)
    return outputs


def _linear(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[dict[Region, Any]]:
    """What is zero where its last operand of the output's rank is."""
    lost = Lost(f"{equation.primitive.name} meets what removed units leave behind")
    at = 0 if equation.primitive.name.startswith("select_and_scatter") else len(values) - 1
    contents = {r: values[at].at(r) for r in regions_of(places.cut(step.outputs[0]))}
    return [{r: lost for r, c in contents.items() if not is_zero(c)}]


def _unheard(
    equation: Any, values: Sequence[Value], step: Step, places: Places, leak: Leak
) -> list[dict[Region, Any]]:
    """It gives nothing, or what is drawn for each place."""
    lost = Lost("random numbers are drawn for removed units")
    return [dict.fromkeys(regions_of(places.cut(axes)), lost) for axes in step.outputs]


COMPUTED: dict[str, Computed] = {
    **dict.fromkeys(
        ("scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul", "scatter-sub"),
        _scatter,
    ),
    **dict.fromkeys(("ragged_dot", "ragged_dot_general"), _runs),
    **dict.fromkeys(
        ("pbroadcast", "pmax", "pmin", "ppermute", "psum", "psum_invariant"), _collective
    ),
    **dict.fromkeys(
        ("select_and_scatter", "select_and_scatter_add", "triangular_solve", "tridiagonal_solve"),
        _linear,
    ),
    **dict.fromkeys(
        ("debug_callback", "debug_print", "random_gamma", "rng_bit_generator"), _unheard
    ),
}
