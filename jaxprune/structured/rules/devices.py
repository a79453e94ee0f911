"""Rules of where arrays lie, of what goes on between devices or along a mapped axis, and of printing."""

from typing import Any

from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Rule, each_its_own

__all__ = ["RULES"]


def _collective(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """A reduction over devices; under `vmap(axis_name=)` over axes of the arrays themselves."""
    reduced = {axis for axis in equation.params["axes"] if isinstance(axis, int)}
    if equation.params.get("axis_index_groups") is not None:
        for axes in inputs:
            labels.pin(*(axes[i] for i in reduced))
    return [tuple(axis for i, axis in enumerate(axes) if i not in reduced) for axes in inputs]


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
    "axis_index": Rule(lambda labels, equation, inputs: [()]),
    "platform_index": Rule(lambda labels, equation, inputs: [()]),
}
