"""Rules of shardings, of collectives between devices or along a mapped axis, and of printing."""

from typing import Any

from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Rule, each_its_own, shapes_of

__all__ = ["RULES"]


def _collective(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels a reduction over devices; under `vmap(axis_name=)` over axes of the arrays themselves."""
    reduced_axes = {axis for axis in equation.params["axes"] if isinstance(axis, int)}
    if equation.params.get("axis_index_groups") is not None:
        for axes in inputs:
            labels.pin(*(axes[i] for i in reduced_axes))
    return [tuple(axis for i, axis in enumerate(axes) if i not in reduced_axes) for axes in inputs]


def _exchange(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels what devices put together or share out along an axis."""
    params = equation.params
    shapes = shapes_of(equation)
    axis = params.get("all_gather_dimension", params.get("scatter_dimension"))
    outputs = []
    for axes, shape in zip(inputs, shapes, strict=True):
        new_axes = list(axes)
        if len(shape) <= len(axes):
            labels.pin(new_axes.pop(axis))
        if len(shape) >= len(axes):
            new_axes.insert(axis, labels.fresh(shape[axis], pinned=True))
        outputs.append(tuple(new_axes))
    return outputs


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        (
            "device_put",
            "layout_constraint",
            "mesh_cast",
            "pbroadcast",
            "ppermute",
            "pvary",
            "reshard",
            "sharding_constraint",
        ),
        Rule(each_its_own),
    ),
    **dict.fromkeys(("pmax", "pmin", "psum", "psum_invariant"), Rule(_collective)),
    # They see what is left.
    **dict.fromkeys(("debug_callback", "debug_print"), Rule(lambda labels, equation, inputs: [])),
    **dict.fromkeys(("all_gather", "all_gather_invariant", "reduce_scatter"), Rule(_exchange)),
    "axis_index": Rule(lambda labels, equation, inputs: [()]),
    "platform_index": Rule(lambda labels, equation, inputs: [()]),
}
