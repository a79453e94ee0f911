"""Plots of a run, as PNG files. Matplotlib is imported when the first is drawn."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.reports import comparison_results, lottery_results, stats
from experiments.runs import files, metric_rows

__all__ = ["comparison", "lottery", "posttrain", "sensitivity", "training"]

# Okabe & Ito's colours, told apart by colour-blind readers too; the markers serve print in grey.
_STYLES = [
    ("#0072B2", "o"),
    ("#D55E00", "s"),
    ("#009E73", "^"),
    ("#CC79A7", "D"),
    ("#E69F00", "v"),
    ("#56B4E9", "P"),
]
_LOTTERY = [
    ("test_final", "accuracy.png", "test accuracy after training (%)"),
    ("test_early", "accuracy_early.png", "test accuracy at early stop (%)"),
    ("early_step", "early_stop.png", "early-stop iteration"),
]


def lottery(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws accuracy and early-stop iteration against the weights left; returns file names."""
    names = list(
        dict.fromkeys(b for s in results["seeds"] for lv in s["levels"] for b in lv["branches"])
    )
    return [
        file
        for metric, file, label in _LOTTERY
        if _against_weights_left(results, names, metric, label, folder / file)
    ]


def comparison(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws accuracy against compression, a line per contestant; returns the file's name."""
    figure, (ax,) = _figure(1)
    drawn: list[float] = []
    dashes = itertools.chain.from_iterable(
        itertools.repeat(d, len(_STYLES)) for d in ("-", "--", ":")
    )
    for (colour, marker), dash, label in zip(
        itertools.cycle(_STYLES), itertools.cycle(dashes), results["contestants"], strict=False
    ):
        found = _trade_off(results, label)
        if not found:
            continue
        x, y, error = np.array(sorted(found)).T
        drawn += x.tolist()
        style = {"color": colour, "marker": marker, "ls": dash, "label": label}
        ax.errorbar(x, 100 * y, 100 * error, **style, ms=4.5, lw=1.5, capsize=3)
    dense = comparison_results.drop_missing(comparison_results.values(results, "dense", 0))
    if dense:
        mean, spread = stats.mean(dense), stats.std(dense) if len(dense) > 1 else 0.0
        ax.axhline(100 * mean, color="0.35", ls="--", lw=1, label="dense", zorder=0)
        ax.axhspan(100 * (mean - spread), 100 * (mean + spread), color="0.35", alpha=0.12, lw=0)
    _axis_of_compression(ax, drawn)
    n = len(results["seeds"])
    ax.set(ylabel="test accuracy after training (%)")
    ax.set_title(f"mean ± std over {n} seed{'s'[: n > 1]}")
    if not drawn and not dense:
        return []
    if len(results["contestants"]) > len(_STYLES):  # beside the plot, where it hides nothing
        figure.set_size_inches(9.0, 4.8)
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        ax.legend(frameon=False)
    _save(figure, folder / "trade_off.png")
    return ["trade_off.png"]


def posttrain(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the perplexity of each row, and the errors of kernels by depth; returns file names."""
    rows, dense = results["rows"], results["dense"]["perplexity"]
    figure, (ax,) = _figure(1)
    of = lambda label, metric: [seed["rows"][label][metric] for seed in results["seeds"]]
    for (colour, marker), label, x in zip(
        itertools.cycle(_STYLES), rows, range(len(rows)), strict=False
    ):
        found = of(label, "perplexity")
        ax.plot([x] * len(found), found, color=colour, marker=marker, ls="none", ms=5)
    ax.axhline(dense, color="0.35", ls="--", lw=1, label="dense", zorder=0)
    ax.set(yscale="log", ylabel="perplexity")
    ax.set_xticks(range(len(rows)), rows, rotation=40, ha="right")
    ax.legend(frameon=False)
    _save(figure, folder / "perplexity.png")
    curves = {label: _held_out(results["seeds"][0]["rows"][label]) for label in rows}
    if not all(curves.values()):
        return ["perplexity.png"]
    figure, (ax,) = _figure(1)
    for (colour, _), label in zip(itertools.cycle(_STYLES), rows, strict=False):
        ax.plot(curves[label], color=colour, lw=1, label=label)
    ax.set(yscale="log", xlabel="kernel, in order", ylabel="error of outputs, held out")
    ax.legend(frameon=False, fontsize="x-small", ncols=2)
    _save(figure, folder / "kernels.png")
    return ["perplexity.png", "kernels.png"]


def _held_out(row: Mapping[str, Any]) -> list[float]:
    errors = [kernel.get("held_out_error") for kernel in row["kernels"]]
    return [] if None in errors else errors


def sensitivity(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the accuracy with one layer pruned, layers x sparsities; returns the file's name."""
    tables = [seed["table"] for seed in results["seeds"]]
    layers, asked = list(tables[0]["weights"]), results["asked"]["sparsities"]
    mean = np.array(
        [np.mean([t["accuracies"][layer][1:] for t in tables], axis=0) for layer in layers]
    )
    from matplotlib.figure import Figure

    width, height = 2.6 + 0.62 * len(asked), 1.4 + 0.42 * len(layers)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(100 * mean, aspect="auto", cmap="viridis")
    ax.set_xticks(range(len(asked)), [f"{100 * s:g}" for s in asked])
    ax.set_yticks(range(len(layers)), layers)
    ax.set(xlabel="of this layer alone removed (%)", title="validation accuracy (%)")
    middle = (mean.max() + mean.min()) / 2
    for i, row in enumerate(mean):
        for j, value in enumerate(row):
            colour = "black" if value > middle else "white"
            ax.text(j, i, f"{100 * value:.1f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=ax)
    _save(figure, folder / "sensitivity.png")
    return ["sensitivity.png"]


def _trade_off(results: Mapping[str, Any], label: str) -> list[tuple[float, float, float]]:
    """Compression, mean and standard deviation of the accuracy at each point that has any."""
    found = []
    for point in range(len(comparison_results.point_names(results, label))):
        accuracy = comparison_results.drop_missing(comparison_results.values(results, label, point))
        if accuracy:
            factors = comparison_results.values(results, label, point, "compression")
            compression = comparison_results.drop_missing(factors)
            spread = stats.std(accuracy) if len(accuracy) > 1 else 0.0
            found.append((stats.mean(compression), stats.mean(accuracy), spread))
    return found


def _axis_of_compression(ax: Any, found: Sequence[float]) -> None:
    """A logarithmic axis with ticks at the points, close ones left out."""
    from matplotlib.ticker import NullLocator

    ticks: list[float] = []
    apart = max(1.15, (max(found) / min(found)) ** 0.07) if found else 1.15
    for x in sorted(found):
        if not ticks or x > apart * ticks[-1]:
            ticks.append(x)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="compression: all parameters / those kept")


def training(folder: Path) -> list[str]:
    """Draws the metrics of each seed against the step; returns the files' names."""
    tables = [_columns(path.parent) for path in sorted(folder.glob("seed_*/**/metrics.csv"))]
    panels = {
        "accuracy": "accuracy (%)",
        "loss": "loss",
        "sparsity": "sparsity (%)",
    }
    names = sorted({name for table in tables for name in table})
    shown = {word: [n for n in names if word in n] for word in panels}
    shown = {word: found for word, found in shown.items() if found}
    if not shown:
        return []
    figure, axes = _figure(len(shown))
    for ax, (word, found) in zip(axes, shown.items(), strict=True):
        for (colour, _), name in zip(_STYLES, found, strict=False):
            for i, table in enumerate(table for table in tables if name in table):
                step, y = table[name]
                scale = 1 if word == "loss" else 100
                label = name.replace("_", " ") if i == 0 else None
                ax.plot(step, scale * y, color=colour, lw=1.2, alpha=0.8, label=label)
        ax.set(xlabel="step", ylabel=panels[word])
        if word != "loss":
            ax.set_ylim(top=min(ax.get_ylim()[1], 101))
        ax.legend(frameon=False)
    _save(figure, folder / "training.png")
    return ["training.png"]


def _against_weights_left(
    results: Mapping[str, Any], names: Sequence[str], metric: str, label: str, path: Path
) -> bool:
    """One line per branch with a band of a standard deviation; False where there is nothing."""
    left = 100 * np.array(lottery_results.levels(results))
    scale = 1 if metric == "early_step" else 100
    figure, (ax,) = _figure(1)
    drawn = []
    for (colour, marker), name in zip(_STYLES, names, strict=False):
        per_level = [
            lottery_results.values(results, name, metric, level) for level in range(len(left))
        ]
        there = [i for i, found in enumerate(per_level) if found]
        if not there:
            continue
        y = scale * np.array([stats.mean(per_level[i]) for i in there])
        band = scale * np.nan_to_num([stats.std(per_level[i]) for i in there])
        ax.plot(left[there], y, color=colour, marker=marker, ms=4.5, lw=1.5, label=name)
        ax.fill_between(left[there], y - band, y + band, color=colour, alpha=0.18, lw=0)
        drawn.append((y, band))
    dense = lottery_results.values(results, "dense", metric, 0)
    if not drawn or not dense:
        return False
    ax.axhline(scale * stats.mean(dense), color="0.35", ls="--", lw=1, label="dense", zorder=0)
    _axis_of_weights(ax, left)
    n = len(dense)
    ax.set(xlabel="weights left (%)", ylabel=label, title=f"mean ± std over {n} seed{'s'[: n > 1]}")
    if scale == 100:
        _focus(ax, drawn)
    ax.legend(frameon=False)
    _save(figure, path)
    return True


def _axis_of_weights(ax: Any, left: np.ndarray) -> None:
    """A logarithmic axis from all weights down, with ticks at levels."""
    from matplotlib.ticker import NullLocator

    ticks = left[:: -(-len(left) // 10)]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(left.max() * 1.06, left.min() / 1.06)


def _focus(ax: Any, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits the view to the first branch's range and three times that below it."""
    y, band = drawn[0]
    top = max((y + band).max() for y, band in drawn)
    lowest = min((y - band).min() for y, band in drawn)
    floor = max(lowest, (y - band).min() - 3 * max(top - (y - band).min(), 0.1))
    margin = 0.06 * (top - floor) or 0.1
    ax.set_ylim(floor - margin, top + margin)


def _columns(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Steps and values of each metric of a training."""
    rows = metric_rows.read(folder)
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name != "step":
                pair = row["step"], math.nan if value is None else value
                pairs.setdefault(name, []).append(pair)
    return {name: tuple(np.array(found, float).T) for name, found in pairs.items()}


def _figure(panels: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 if panels == 1 else 4.6 * panels, 4.0), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9", lw=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with files.replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
