"""Draws a graph as a table of its parameters and groups."""

from pathlib import Path

import numpy as np

from jaxprune import extras
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.wording import counted

__all__ = ["picture"]


def picture(graph: Graph, file: Path | str, *, most: int = 80) -> Path:
    """Draws a table with a row per parameter and a column per group.

    A filled cell names the axis of the parameter along which the group's units lie. Dark cells are output
    axes, which produce the units; light cells are input axes, which read them.

    Args:
      graph: graph of the function, from `trace`.
      file: path of the picture; its ending says whether it is PNG, SVG or PDF.
      most: largest number of rows, and of columns.

    Returns:
      The path of the picture.

    Raises:
      ImportError: if matplotlib is not installed (`pip install -e '.[report]'`).
    """
    check_graph("structured.picture", graph)
    figures = extras.require("matplotlib.figure", extra="report", needed_by="structured.picture")
    groups = graph.groups[:most]
    paths_of_groups = {member.path for group in groups for member in group.members}
    paths = [path for path in graph.paths if path in paths_of_groups][:most]
    row_index = {path: row for row, path in enumerate(paths)}
    figure = figures.Figure(figsize=(3.5 + 0.45 * len(groups), 1.5 + 0.24 * len(paths)))
    axes = figure.add_subplot()
    shades = np.zeros((len(paths), len(groups)))
    style = {"ha": "center", "va": "center", "fontsize": 7}
    for column, group in enumerate(groups):
        for member in group.members:
            if member.path in row_index:
                row = row_index[member.path]
                shades[row, column] = 0.35 if member.is_input_axis else 0.8
                color = "black" if member.is_input_axis else "white"
                axes.text(column, row, str(member.axis), color=color, **style)
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(paths)), paths, fontsize=7)
    sizes = [f"{group.size:,}" for group in groups]
    axes.set_xticks(range(len(groups)), sizes, fontsize=7, rotation=90)
    axes.set_xlabel(
        "groups, by their number of units; in the cells the axis of the parameter", fontsize=8
    )
    hidden_count = len(graph.groups) - len(groups)
    unit_count = sum(group.size for group in graph.groups)
    note = f"; {counted(hidden_count, 'group')} not shown" if hidden_count else ""
    title = f"{counted(len(graph.groups), 'group')}, {counted(unit_count, 'unit')}{note}"
    axes.set_title(title, fontsize=9)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    return Path(file)
