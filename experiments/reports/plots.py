"""Plots of a run, as PNG files. Matplotlib is imported when the first is drawn."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.reports import comparison_results, lottery_results, stats
from experiments.runs import files, metric_rows

__all__ = ["branches", "comparison", "lottery", "posttrain", "sensitivity", "training"]

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


class _Point(NamedTuple):
    """Compression, and mean and standard deviation of the accuracy over seeds."""

    compression: float
    accuracy: float
    spread: float


def lottery(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws accuracy and early-stop iteration against the weights left; returns file names."""
    branches = list(
        dict.fromkeys(
            branch
            for seed in results["seeds"]
            for level in seed["levels"]
            for branch in level["branches"]
        )
    )
    return [
        file
        for metric, file, label in _LOTTERY
        if _draw_against_weights_left(results, branches, metric, label, folder / file)
    ]


def branches(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the mean error on the lines between copies, a panel per level; returns the file's name."""
    lines = [line for seed in results["seeds"] for line in seed["lines"]]
    levels = sorted({line["level"] for line in lines})
    if not levels:
        return []
    figure, axes = _figure(len(levels))
    all_names = dict.fromkeys(line["branch"] for line in lines)
    colours = {
        name: colour for (colour, _), name in zip(itertools.cycle(_STYLES), all_names, strict=False)
    }
    for ax, level in zip(axes, levels, strict=True):
        names = dict.fromkeys(line["branch"] for line in lines if line["level"] == level)
        for name in names:
            errors = 100 * np.array(
                [
                    line["errors"]
                    for line in lines
                    if (line["level"], line["branch"]) == (level, name)
                ]
            )
            alphas = np.linspace(0, 1, errors.shape[1])
            ax.plot(alphas, errors.mean(0), color=colours[name], lw=1.5, label=name)
            ax.fill_between(
                alphas, errors.min(0), errors.max(0), color=colours[name], alpha=0.18, lw=0
            )
        weights_left = 100 * lottery_results.levels(results)[level]
        ax.set(xlabel="from one copy to another", title=f"{weights_left:.3g} % of the weights")
        ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    axes[0].set(ylabel="test error (%): mean, range")
    _save(figure, folder / "connectivity.png")
    return ["connectivity.png"]


def comparison(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws what each contestant reaches; returns the file's name.

    Accuracy against compression, a line per contestant; where all have one compression, a row each.
    """
    trade_offs = {label: _trade_off(results, label) for label in results["contestants"]}
    trade_offs = {label: sorted(trade_off) for label, trade_off in trade_offs.items() if trade_off}
    dense = comparison_results.drop_missing(comparison_results.values(results, "dense", 0))
    if not trade_offs and not dense:
        return []
    compressions = [point.compression for points in trade_offs.values() for point in points]
    has_one_compression = max(compressions, default=1) < 1.01 * min(compressions, default=1)
    has_rows = len(compressions) == len(trade_offs) > 1 and has_one_compression
    if has_rows:
        figure, ax = _draw_rows(trade_offs)
        ax.set(xlabel=f"test accuracy after training (%), compression {compressions[0]:.3g}")
    else:
        figure, ax = _draw_trade_offs(trade_offs)
        _set_compression_axis(ax, compressions)
    draw_line, draw_span = (ax.axvline, ax.axvspan) if has_rows else (ax.axhline, ax.axhspan)
    if dense:
        mean = stats.mean(dense)
        spread = stats.std(dense) if len(dense) > 1 else 0.0
        draw_line(100 * mean, color="0.35", ls="--", lw=1, label="dense", zorder=0)
        draw_span(100 * (mean - spread), 100 * (mean + spread), color="0.35", alpha=0.12, lw=0)
    seed_count = len(results["seeds"])
    ax.set_title(f"mean ± std over {seed_count} seed{'s'[: seed_count > 1]}")
    if has_rows and dense:
        ax.legend(frameon=False, fontsize=7, loc="lower left")
    elif not has_rows and len(trade_offs) > len(_STYLES):  # beside the plot, where it hides nothing
        figure.set_size_inches(9.0, max(4.8, 0.2 * len(trade_offs)))
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    elif not has_rows:
        ax.legend(frameon=False)
    _save(figure, folder / "trade_off.png")
    return ["trade_off.png"]


def _draw_trade_offs(trade_offs: Mapping[str, Sequence[_Point]]) -> tuple[Any, Any]:
    """Draws accuracy against compression, a line per contestant; returns the figure and its axes."""
    figure, (ax,) = _figure(1)
    # Every round of the styles has its own dashes, so that more contestants than styles differ.
    dashes = itertools.chain.from_iterable(
        itertools.repeat(dash, len(_STYLES)) for dash in ("-", "--", ":")
    )
    for (colour, marker), dash, (label, trade_off) in zip(
        itertools.cycle(_STYLES), itertools.cycle(dashes), trade_offs.items(), strict=False
    ):
        compressions, accuracies, spreads = np.array(trade_off).T
        style = {"color": colour, "marker": marker, "ls": dash, "label": label}
        ax.errorbar(
            compressions, 100 * accuracies, 100 * spreads, **style, ms=4.5, lw=1.5, capsize=3
        )
    ax.set(ylabel="test accuracy after training (%)")
    return figure, ax


def _draw_rows(trade_offs: Mapping[str, Sequence[_Point]]) -> tuple[Any, Any]:
    """Draws the one accuracy of each contestant, a row each, the first on top; returns figure and axes.

    What was made of another contestant's masks has its colour: its name begins alike, up to the comma.
    """
    figure, (ax,) = _figure(1)
    figure.set_size_inches(6.4, 1.4 + 0.2 * len(trade_offs))
    families = dict.fromkeys(label.partition(",")[0] for label in trade_offs)
    styles = dict(zip(families, itertools.cycle(_STYLES), strict=False))
    for row, (label, [point]) in enumerate(trade_offs.items()):
        family, comma, _ = label.partition(",")
        colour, marker = styles[family]
        fill = "white" if comma else colour
        style = {"color": colour, "marker": marker, "mfc": fill, "ls": "none"}
        ax.errorbar(100 * point.accuracy, row, xerr=100 * point.spread, **style, ms=4.5, capsize=3)
    ax.set_yticks(range(len(trade_offs)), list(trade_offs), fontsize=7)
    ax.set_ylim(len(trade_offs) - 0.5, -0.5)
    return figure, ax


def posttrain(results: Mapping[str, Any], kernels: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the perplexity of each row, and the errors of kernels by depth; returns file names.

    Args:
      results: of a run.
      kernels: label -> figures of each kernel with one seed; empty: these are not known.
      folder: where files are written.
    """
    labels = results["rows"]
    _draw_perplexities(results, labels, folder / "perplexity.png")
    error_curves = {label: _held_out_errors(kernels.get(label, ())) for label in labels}
    if not all(error_curves.values()):
        return ["perplexity.png"]
    figure, (ax,) = _figure(1)
    for (colour, _), label in zip(itertools.cycle(_STYLES), labels, strict=False):
        ax.plot(error_curves[label], color=colour, lw=1, label=label)
    ax.set(yscale="log", xlabel="kernel, in order", ylabel="error of outputs, held out")
    ax.legend(frameon=False, fontsize="x-small", ncols=2)
    _save(figure, folder / "kernels.png")
    return ["perplexity.png", "kernels.png"]


def _draw_perplexities(results: Mapping[str, Any], labels: Sequence[str], path: Path) -> None:
    figure, (ax,) = _figure(1)
    for (colour, marker), label, position in zip(
        itertools.cycle(_STYLES), labels, range(len(labels)), strict=False
    ):
        perplexities = [seed["rows"][label]["perplexity"] for seed in results["seeds"]]
        positions = [position] * len(perplexities)
        ax.plot(positions, perplexities, color=colour, marker=marker, ls="none", ms=5)
    dense_perplexity = results["dense"]["perplexity"]
    ax.axhline(dense_perplexity, color="0.35", ls="--", lw=1, label="dense", zorder=0)
    ax.set(yscale="log", ylabel="perplexity")
    ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right")
    ax.legend(frameon=False)
    _save(figure, path)


def _held_out_errors(kernels: Sequence[Mapping[str, Any]]) -> list[float]:
    """Returns the held-out error of each kernel; nothing if a kernel has none."""
    errors = [kernel["held_out_error"] for kernel in kernels if "held_out_error" in kernel]
    return errors if len(errors) == len(kernels) else []


def sensitivity(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the accuracy with one layer pruned, layers x sparsities; returns the file's name."""
    tables = [seed["table"] for seed in results["seeds"]]
    layers = list(tables[0]["weights"])
    sparsities = results["asked"]["sparsities"]
    accuracies = np.array(
        [
            np.mean([seed_table["accuracies"][layer][1:] for seed_table in tables], axis=0)
            for layer in layers
        ]
    )
    from matplotlib.figure import Figure

    width = 2.6 + 0.62 * len(sparsities)
    height = 1.4 + 0.42 * len(layers)
    figure = Figure(figsize=(width, height), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(100 * accuracies, aspect="auto", cmap="viridis")
    ax.set_xticks(range(len(sparsities)), [f"{100 * sparsity:g}" for sparsity in sparsities])
    ax.set_yticks(range(len(layers)), layers)
    ax.set(xlabel="of this layer alone removed (%)", title="validation accuracy (%)")
    middle = (accuracies.max() + accuracies.min()) / 2
    for (row, column), accuracy in np.ndenumerate(accuracies):
        colour = "black" if accuracy > middle else "white"
        text = f"{100 * accuracy:.1f}"
        ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=ax)
    _save(figure, folder / "sensitivity.png")
    return ["sensitivity.png"]


def _trade_off(results: Mapping[str, Any], label: str) -> list[_Point]:
    """Returns a point for each strength of a contestant at which it has an accuracy."""
    trade_off = []
    for point in range(len(comparison_results.point_names(results, label))):
        accuracies = comparison_results.drop_missing(
            comparison_results.values(results, label, point)
        )
        if accuracies:
            compressions = comparison_results.drop_missing(
                comparison_results.values(results, label, point, "compression")
            )
            spread = stats.std(accuracies) if len(accuracies) > 1 else 0.0
            trade_off.append(_Point(stats.mean(compressions), stats.mean(accuracies), spread))
    return trade_off


def _set_compression_axis(ax: Any, compressions: Sequence[float]) -> None:
    """Sets a logarithmic x axis with ticks at the points, close ones left out."""
    from matplotlib.ticker import NullLocator

    ticks: list[float] = []
    least_ratio = (
        max(1.15, (max(compressions) / min(compressions)) ** 0.07) if compressions else 1.15
    )
    for compression in sorted(compressions):
        if not ticks or compression > least_ratio * ticks[-1]:
            ticks.append(compression)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="compression: all parameters / those kept")


def training(folder: Path) -> list[str]:
    """Draws the metrics of each seed against the step; returns the files' names."""
    tables = [_metric_curves(path.parent) for path in sorted(folder.glob("seed_*/**/metrics.csv"))]
    panel_labels = {
        "accuracy": "accuracy (%)",
        "loss": "loss",
        "sparsity": "sparsity (%)",
    }
    metrics = sorted({metric for curves in tables for metric in curves})
    metrics_by_panel = {
        panel: [metric for metric in metrics if panel in metric] for panel in panel_labels
    }
    metrics_by_panel = {panel: shown for panel, shown in metrics_by_panel.items() if shown}
    if not metrics_by_panel:
        return []
    figure, axes = _figure(len(metrics_by_panel))
    for ax, (panel, panel_metrics) in zip(axes, metrics_by_panel.items(), strict=True):
        scale = 1 if panel == "loss" else 100
        for (colour, _), metric in zip(_STYLES, panel_metrics, strict=False):
            metric_tables = (curves for curves in tables if metric in curves)
            for curve_index, curves in enumerate(metric_tables):
                steps, values = curves[metric]
                label = metric.replace("_", " ") if curve_index == 0 else None
                ax.plot(steps, scale * values, color=colour, lw=1.2, alpha=0.8, label=label)
        ax.set(xlabel="step", ylabel=panel_labels[panel])
        if panel != "loss":
            ax.set_ylim(top=min(ax.get_ylim()[1], 101))
        ax.legend(frameon=False)
    _save(figure, folder / "training.png")
    return ["training.png"]


def _draw_against_weights_left(
    results: Mapping[str, Any], branches: Sequence[str], metric: str, label: str, path: Path
) -> bool:
    """Draws a line per branch in a band of a standard deviation; False where there is nothing."""
    weights_left = 100 * np.array(lottery_results.levels(results))
    scale = 1 if metric == "early_step" else 100
    figure, (ax,) = _figure(1)
    drawn = []
    for (colour, marker), branch in zip(_STYLES, branches, strict=False):
        values_by_level = [
            lottery_results.values(results, branch, metric, level)
            for level in range(len(weights_left))
        ]
        levels = [level for level, values in enumerate(values_by_level) if values]
        if not levels:
            continue
        means = scale * np.array([stats.mean(values_by_level[level]) for level in levels])
        spreads = scale * np.nan_to_num([stats.std(values_by_level[level]) for level in levels])
        x = weights_left[levels]
        ax.plot(x, means, color=colour, marker=marker, ms=4.5, lw=1.5, label=branch)
        ax.fill_between(x, means - spreads, means + spreads, color=colour, alpha=0.18, lw=0)
        drawn.append((means, spreads))
    dense = lottery_results.values(results, "dense", metric, 0)
    if not drawn or not dense:
        return False
    ax.axhline(scale * stats.mean(dense), color="0.35", ls="--", lw=1, label="dense", zorder=0)
    _set_weights_axis(ax, weights_left)
    seed_count = len(dense)
    title = f"mean ± std over {seed_count} seed{'s'[: seed_count > 1]}"
    ax.set(xlabel="weights left (%)", ylabel=label, title=title)
    if scale == 100:
        _limit_view(ax, drawn)
    ax.legend(frameon=False)
    _save(figure, path)
    return True


def _set_weights_axis(ax: Any, weights_left: np.ndarray) -> None:
    """Sets a logarithmic x axis from all weights down, with about ten ticks at levels."""
    from matplotlib.ticker import NullLocator

    ticks = weights_left[:: -(-len(weights_left) // 10)]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(weights_left.max() * 1.06, weights_left.min() / 1.06)


def _limit_view(ax: Any, drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Limits the y axis to the first branch's range and three times that below it.

    Args:
      ax: with the curves.
      drawn: mean and standard deviation of each branch, by level.
    """
    first_means, first_spreads = drawn[0]
    first_lowest = (first_means - first_spreads).min()
    highest = max((means + spreads).max() for means, spreads in drawn)
    lowest = min((means - spreads).min() for means, spreads in drawn)
    bottom = max(lowest, first_lowest - 3 * max(highest - first_lowest, 0.1))
    margin = 0.06 * (highest - bottom) or 0.1
    ax.set_ylim(bottom - margin, highest + margin)


def _metric_curves(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the steps and the values of each metric of a training."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in metric_rows.read(folder):
        for metric, value in row.items():
            if metric != "step":
                point = row["step"], math.nan if value is None else value
                points.setdefault(metric, []).append(point)
    return {
        metric: tuple(np.array(metric_points, float).T) for metric, metric_points in points.items()
    }


def _figure(panel_count: int) -> tuple[Any, Sequence[Any]]:
    from matplotlib.figure import Figure

    width = 6.4 if panel_count == 1 else 4.6 * panel_count
    figure = Figure(figsize=(width, 4.0), layout="constrained")
    axes = figure.subplots(1, panel_count, squeeze=False)[0]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color="0.9", lw=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with files.replacing(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150)
