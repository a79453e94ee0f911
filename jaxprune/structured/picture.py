"""A picture of a graph: which parameters each group runs along."""

from pathlib import Path

import numpy as np

from jaxprune.structured.given import check_graph
from jaxprune.structured.graph import Graph

__all__ = ["picture"]


def picture(graph: Graph, file: Path | str, *, most: int = 80) -> Path:
    """Draws a row per parameter and a column per group; a filled cell names the axis that units run along.

    Units are what an output axis brings forth (dark) and what an input axis reads (light).

    Args:
      graph: of the function.
      file: PNG, SVG or PDF by its ending.
      most: parameters and groups that are shown at most.

    Raises:
      ImportError: if matplotlib is not installed (`pip install 'jaxprune[report]'`).
    """
    check_graph("structured.picture", graph)
    try:
        from matplotlib.figure import Figure
    except ImportError as e:
        raise ImportError(
            "structured.picture: pip install 'jaxprune[report]' for matplotlib."
        ) from e
    groups = graph.groups[:most]
    rows = [path for path in graph.paths if any(m.path == path for g in groups for m in g.members)][
        :most
    ]
    place = {path: row for row, path in enumerate(rows)}
    figure = Figure(figsize=(3.5 + 0.45 * len(groups), 1.5 + 0.24 * len(rows)))
    axes = figure.add_subplot()
    cells = np.zeros((len(rows), len(groups)))
    for column, group in enumerate(groups):
        for m in group.members:
            if m.path in place:
                cells[place[m.path], column] = 0.35 if m.enters else 0.8
                style = {"ha": "center", "va": "center", "fontsize": 7}
                axes.text(
                    column,
                    place[m.path],
                    str(m.axis),
                    color="white" if not m.enters else "black",
                    **style,
                )
    axes.imshow(cells, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    sizes = [f"{group.size:,}" for group in groups]
    axes.set_xticks(range(len(groups)), sizes, fontsize=7, rotation=90)
    axes.set_xlabel(
        "groups, by their number of units; in the cells the axis of the parameter", fontsize=8
    )
    hidden = len(graph.groups) - len(groups)
    units = sum(group.size for group in graph.groups)
    more = f"; {hidden} groups not shown" if hidden else ""
    axes.set_title(f"{len(graph.groups)} groups, {units:,} units{more}", fontsize=9)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    return Path(file)
