"""The report of a comparison: who took part, a table per sparsity, what is counted, every seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.fields import WAYS
from experiments.reports import comparison_results, plots, stats
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import gap, part, percent, table
from experiments.ways import pipeline as pipeline_lib

__all__ = ["REPORT", "body", "headline"]

_CONTROLS = {
    "retrained": "fixed and trained from the same initial weights",
    "shuffled": "shuffled within each leaf, then trained likewise",
    "reinit": "fixed and trained from other initial weights",
}
_HEAD = [
    "contestant",
    "test accuracy, %",
    "minus dense, pp (bound)",
    "sparsity, %",
    "effective, %",
    "compression",
    "theoretical speed-up",
    "training, of dense",
    "explored, %",
    "small network, parameters",
    "its test accuracy, %",
    "its speed-up, measured",
    "seconds",
    "seeds",
]


def body(results: Mapping[str, Any]) -> list[str]:
    """Sections of the report.

    Args:
      results: of a comparison.
    """
    parts = ["## Contestants", _contestants(results)]
    learned = [
        label for label in results["contestants"] if comparison_results.strengths(results, label)
    ]
    others = [label for label in comparison_results.labels(results) if label not in learned]
    for point, sparsity in enumerate(results["sparsities"] if len(others) > 1 else ()):
        parts += [f"## At {100 * sparsity:g} % removed, as asked"]
        parts += [_table([_row(results, label, point) for label in others])]
    if learned:
        rows = [_row(results, "dense", 0)]
        for label in learned:
            named = enumerate(comparison_results.asked(results, label))
            rows += [
                [f"{label}, {what}", *_row(results, label, point)[1:]] for point, what in named
            ]
        parts += ["## As sparse as their strength makes them", _table(rows)]
    parts += [_counted(results), "## By seed: test accuracy after the last update, %"]
    return [*parts, _by_seed(results), *_failures(results)]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Who does best at the highest sparsity; of learned sparsities, what is smallest at little loss."""
    controls = results.get("controls", ())
    all_of = [c for c in results["contestants"] if c not in controls]
    rivals = [c for c in all_of if not comparison_results.strengths(results, c)]
    if not rivals:
        return _smallest(results)
    point = results["sparsities"].index(max(results["sparsities"]))
    of = {label: comparison_results.values(results, label, point) for label in rivals}
    # Seeds left out would favour who lost them.
    whole = {
        label: comparison_results.finished(found)
        for label, found in of.items()
        if None not in found
    }
    if not whole:
        name = f"nobody ended all seeds at {100 * results['sparsities'][point]:g} %"
        return Outcome(name, "", "", "", 0)
    best = max(whole, key=lambda label: stats.mean(whole[label]))
    found, ours = whole[best], f"{percent(whole[best])} %, dense {_dense(results)} %"
    name = f"{best} at {100 * results['sparsities'][point]:g} %, best of {len(whole)}"
    return Outcome(name, "", ours, "", len(found))


def _smallest(results: Mapping[str, Any]) -> Outcome:
    """What keeps the fewest weights within half a point of the dense network."""
    dense = comparison_results.finished(comparison_results.values(results, "dense", 0)) or [
        math.inf
    ]
    best, most = None, 0.0
    for label in (c for c in results["contestants"] if c not in results.get("controls", ())):
        for point, asked in enumerate(comparison_results.asked(results, label)):
            found = comparison_results.values(results, label, point)
            if (
                None in found
                or stats.mean(comparison_results.finished(found)) < stats.mean(dense) - 0.005
            ):
                continue
            factor = stats.mean(
                comparison_results.finished(
                    comparison_results.values(results, label, point, "compression")
                )
            )
            if factor > most:
                best, most = (f"{label}, {asked}", comparison_results.finished(found)), factor
    if best is None:
        return Outcome("nothing within 0.5 pp of dense", "", "", "", len(results["seeds"]))
    ours = f"{most:.1f}x fewer weights at {percent(best[1])} %, dense {_dense(results)} %"
    return Outcome(f"{best[0]}, smallest within 0.5 pp", "", ours, "", len(best[1]))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows under their heads, without columns that are empty."""
    filled = [i for i in range(len(_HEAD)) if any(row[i] for row in rows)]
    pick = lambda row: [row[i] for i in filled]
    return table(pick(_HEAD), [pick(row) for row in rows])


def _row(results: Mapping[str, Any], label: str, point: int) -> list[str]:
    accuracy = comparison_results.values(results, label, point)
    dense = comparison_results.values(results, "dense", point)
    of = lambda metric: comparison_results.finished(
        comparison_results.values(results, label, point, metric)
    )
    share = lambda found: f"{100 * stats.mean(found):.2f}" if found else ""
    factor = lambda found: f"{stats.mean(found):.2f}x" if found else ""
    count = lambda found: f"{stats.mean(found):,.0f}" if found else ""
    return [
        label,
        percent(comparison_results.finished(accuracy)),
        "" if label == "dense" else gap(*comparison_results.both(accuracy, dense)),
        share(of("sparsity")),
        share(of("effective_sparsity")),
        factor(of("compression")),
        factor(of("speedup")),
        factor(of("training")),
        share(of("explored")),
        count(of("small_parameters")),
        percent(of("small_accuracy")) if of("small_accuracy") else "",
        factor(of("small_faster")),
        _seconds(comparison_results.entries(results, label, point)),
        _seeds(accuracy),
    ]


def _seconds(entries: Sequence[Mapping[str, Any]]) -> str:
    """Of a training, in the middle over seeds; those that were interrupted are not known."""
    whole = [e["wall_seconds"] for e in entries if "failed" not in e and not e["resumed"]]
    return f"{statistics.median(whole):.1f}" if whole else ""


def _seeds(found: Sequence[float | None]) -> str:
    there = len(comparison_results.finished(found))
    return str(there) if there == len(found) else f"{there} of {len(found)}"


def _dense(results: Mapping[str, Any]) -> str:
    return percent(comparison_results.finished(comparison_results.values(results, "dense", 0)))


def _contestants(results: Mapping[str, Any]) -> str:
    asked = results["config"]["compare"]
    rows = [["dense", "the optimizer alone"]]
    first, last = (_of_ways(asked, has_strength) for has_strength in (False, True))
    rows += first
    criteria = asked.get("criteria") or ()
    named = criteria.values() if isinstance(criteria, Mapping) else criteria
    labels = results["contestants"][len(rows) - 1 :][: len(named)]
    for label, spec in zip(labels, named, strict=True):
        criterion, own = pipeline_lib.criterion(spec)
        name = criterion if isinstance(criterion, str) else part(criterion)
        shared = {**(asked.get("pipeline") or {}), **own}
        rows.append([label, f"criterion {name}; {', '.join(map(_said, shared.items()))}"])
    rows = [*rows, *last]
    for label in results.get("controls", ()):
        of, _, control = label.rpartition(", ")
        rows.append([label, f"the masks of {of} after training, {_CONTROLS[control]}"])
    return table(["contestant", "what it is"], rows)


def _of_ways(asked: Mapping[str, Any], has_strength: bool) -> list[list[str]]:
    """Contestants that are ways of their own; those that may have a strength stand after the criteria."""
    ways = [way for way in WAYS.values() if way.has_strength == has_strength]
    return [
        [label, f"{way.words} {part(spec)}".strip()]
        for way in ways
        for label, spec in (asked.get(way.plural) or {}).items()
    ]


def _said(field: tuple[str, Any]) -> str:
    """A field of a pipeline in words."""
    name, value = field
    if isinstance(value, Mapping) and "name" not in value:
        return f"{name} {', '.join(f'{k}={part(v)}' for k, v in value.items())}"
    return f"{name}={part(value) if isinstance(value, Mapping) else value}"


def _counted(results: Mapping[str, Any]) -> str:
    config, dense = results["config"], results["dense"]
    size = config["data"].get("batch_size", 128)
    epochs = config["steps"] / (results["examples"] // size)
    n = len(results["seeds"])
    spread = f"mean ± std over {n} seeds" if n > 1 else "one seed, so no bound can be given"
    weights, leaves = dense["weights"], dense["prunable"]
    return (
        f"Accuracy: of the test set after the last update ({config['steps']} updates of {size} "
        f"examples, {epochs:.1f} epochs), {spread}; in brackets the one-sided 95 % lower bound of the "
        "difference, paired over the seeds that both ended: for one seed all begin with the same "
        "weights and see the same batches. A training whose loss was no longer finite has no accuracy; "
        "the last column counts the others. "
        f"Sparsity: of the {sum(weights[leaf] for leaf in leaves):,} weights in {', '.join(leaves)}; "
        "effective sparsity also counts those kept that no path from an input to an output goes through. "
        f"Compression: all {sum(weights.values()):,} parameters, prunable or not, over those "
        f"kept. Theoretical speed-up: the {sum(dense['flops'].values()):,} operations of matrix products "
        "and convolutions in the forward pass of one example over those of the weights kept; dense "
        "kernels multiply zeros as well, so it is no time that was measured. Training, of dense: the "
        "operations of all updates over those of dense training, where zeros are skipped as well, forward, "
        "backward to the inputs and to the weights (dense wherever gradients of removed weights are read). "
        "Explored: prunable weights that were alive at any time. Small network: without the units that are "
        "empty, physically; its test accuracy is that of the smaller arrays, its speed-up the time of the "
        "whole network's forward pass over its own, both compiled, for 100 examples on this machine. "
        "Seconds: of one training, median over the seeds, of which the first waits for the compilation."
    )


def _by_seed(results: Mapping[str, Any]) -> str:
    shown = lambda value: "failed" if value is None else f"{100 * value:.2f}"
    rows = [["dense", "", *map(shown, comparison_results.values(results, "dense", 0))]]
    for label in results["contestants"]:
        for point, asked in enumerate(comparison_results.asked(results, label)):
            rows.append(
                [label, asked, *map(shown, comparison_results.values(results, label, point))]
            )
    head = ["contestant", "asked", *(f"seed {seed['seed']}" for seed in results["seeds"])]
    return table(head, rows)


def _failures(results: Mapping[str, Any]) -> list[str]:
    failed = [
        f"- {entry['failed']}"
        for label in comparison_results.labels(results)
        for seed in results["seeds"]
        for entry in seed["points"][label]
        if "failed" in entry
    ]
    return ["## Trainings that diverged", "\n".join(failed)] if failed else []


REPORT = ReportKind(
    body, headline, plots.comparison, comparison_results.claimed, metric="test_accuracy"
)
