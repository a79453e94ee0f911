"""The report of a comparison: who took part, a table per sparsity, what is counted, every seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config.fields import WAYS
from experiments.reports import comparison_results, plots, stats
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import gap, part, percent, table, value
from experiments.ways import pipeline as pipeline_lib

__all__ = ["REPORT", "body", "headline"]

_CONTROLS = {
    "retrained": "fixed and trained from the same initial weights",
    "shuffled": "shuffled within each leaf, then trained likewise",
    "row-shuffled": "shuffled at each input of each layer, then trained likewise",
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
    "updates",
    "training, of dense",
    "explored, %",
    "small network, parameters",
    "its test accuracy, %",
    "its speed-up, measured",
    "seconds",
    "seeds",
]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of a comparison.
    """
    sections = ["## Contestants", _contestants(results), *_pretraining(results)]
    learned_labels = [
        label for label in results["contestants"] if comparison_results.strengths(results, label)
    ]
    other_labels = [
        label for label in comparison_results.labels(results) if label not in learned_labels
    ]
    for point, sparsity in enumerate(results["sparsities"] if len(other_labels) > 1 else ()):
        sections += [f"## At {100 * sparsity:g} % removed, as asked"]
        sections += [_table([_row(results, label, point) for label in other_labels])]
    if learned_labels:
        rows = [_row(results, "dense", 0)]
        for label in learned_labels:
            for point, point_name in enumerate(comparison_results.point_names(results, label)):
                rows.append([f"{label}, {point_name}", *_row(results, label, point)[1:]])
        sections += ["## As sparse as their strength makes them", _table(rows)]
    sections += [
        *_trials(results),
        *_files(results),
        _notes(results),
        "## By seed: test accuracy after the last update, %",
    ]
    return [*sections, _table_by_seed(results), *_failures(results)]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the best at the highest sparsity; of learned sparsities, the smallest at little loss."""
    controls = results.get("controls", ())
    candidates = [
        label
        for label in results["contestants"]
        if label not in controls and not comparison_results.strengths(results, label)
    ]
    if not candidates:
        return _smallest_network(results)
    point = results["sparsities"].index(max(results["sparsities"]))
    accuracies = {label: comparison_results.values(results, label, point) for label in candidates}
    # Seeds left out would favour who lost them.
    complete_accuracies = {
        label: comparison_results.drop_missing(seed_values)
        for label, seed_values in accuracies.items()
        if None not in seed_values
    }
    if not complete_accuracies:
        name = f"nobody ended all seeds at {100 * results['sparsities'][point]:g} %"
        return Outcome(name, "", "", "", 0)
    best_label = max(complete_accuracies, key=lambda label: stats.mean(complete_accuracies[label]))
    best_accuracies = complete_accuracies[best_label]
    ours = f"{percent(best_accuracies)} %, dense {_dense_accuracy(results)} %"
    name = (
        f"{best_label} at {100 * results['sparsities'][point]:g} %, "
        f"best of {len(complete_accuracies)}"
    )
    return Outcome(name, "", ours, "", len(best_accuracies))


def _smallest_network(results: Mapping[str, Any]) -> Outcome:
    """Returns the point with the fewest weights within half a point of the dense network."""
    dense_accuracies = comparison_results.finished_values(results, "dense", 0) or [math.inf]
    controls = results.get("controls", ())
    best_name = None
    best_accuracies: list[float] = []
    best_compression = 0.0
    for label in (label for label in results["contestants"] if label not in controls):
        for point, point_name in enumerate(comparison_results.point_names(results, label)):
            seed_values = comparison_results.values(results, label, point)
            accuracies = comparison_results.drop_missing(seed_values)
            if None in seed_values or stats.mean(accuracies) < stats.mean(dense_accuracies) - 0.005:
                continue
            compression = stats.mean(
                comparison_results.finished_values(results, label, point, "compression")
            )
            if compression > best_compression:
                best_name = f"{label}, {point_name}"
                best_accuracies = accuracies
                best_compression = compression
    if best_name is None:
        return Outcome("nothing within 0.5 pp of dense", "", "", "", len(results["seeds"]))
    ours = (
        f"{best_compression:.1f}x fewer weights at {percent(best_accuracies)} %, "
        f"dense {_dense_accuracy(results)} %"
    )
    return Outcome(f"{best_name}, smallest within 0.5 pp", "", ours, "", len(best_accuracies))


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows under their heads, without columns that are empty."""
    filled_columns = [column for column in range(len(_HEAD)) if any(row[column] for row in rows)]

    def select_filled(row: Sequence[str]) -> list[str]:
        return [row[column] for column in filled_columns]

    return table(select_filled(_HEAD), [select_filled(row) for row in rows])


def _row(results: Mapping[str, Any], label: str, point: int) -> list[str]:
    accuracies = comparison_results.values(results, label, point)
    dense_accuracies = comparison_results.values(results, "dense", point)

    def finished(metric: str) -> list[float]:
        return comparison_results.finished_values(results, label, point, metric)

    return [
        label,
        percent(comparison_results.drop_missing(accuracies)),
        ""
        if label == "dense"
        else gap(*comparison_results.drop_unpaired(accuracies, dense_accuracies)),
        _mean_share(finished("sparsity")),
        _mean_share(finished("effective_sparsity")),
        _mean_factor(finished("compression")),
        _mean_factor(finished("speedup")),
        _updates(results, finished("steps")),
        _mean_factor(finished("training")),
        _mean_share(finished("explored")),
        _mean_count(finished("small_parameters")),
        percent(finished("small_accuracy")),
        _mean_factor(finished("small_faster")),
        _median_seconds(comparison_results.entries(results, label, point)),
        _finished_seeds(accuracies),
    ]


def _mean_share(shares: Sequence[float]) -> str:
    return f"{100 * stats.mean(shares):.2f}" if shares else ""


def _mean_factor(factors: Sequence[float]) -> str:
    return f"{stats.mean(factors):.2f}x" if factors else ""


def _mean_count(counts: Sequence[float]) -> str:
    return f"{stats.mean(counts):,.0f}" if counts else ""


def _updates(results: Mapping[str, Any], counts: Sequence[float]) -> str:
    """Returns the number of updates, where contestants may differ in it."""
    return f"{counts[0]:,.0f}" if counts and results["config"]["compare"].get("trials") else ""


def _median_seconds(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns the median duration of a training; interrupted trainings have no known one."""
    seconds = [
        entry["wall_seconds"] for entry in entries if "failed" not in entry and not entry["resumed"]
    ]
    return f"{statistics.median(seconds):.1f}" if seconds else ""


def _finished_seeds(seed_values: Sequence[float | None]) -> str:
    finished_count = len(comparison_results.drop_missing(seed_values))
    if finished_count == len(seed_values):
        return str(finished_count)
    return f"{finished_count} of {len(seed_values)}"


def _dense_accuracy(results: Mapping[str, Any]) -> str:
    return percent(comparison_results.finished_values(results, "dense", 0))


def _contestants(results: Mapping[str, Any]) -> str:
    comparison = results["config"]["compare"]
    rows = [["dense", "the optimizer alone"]]
    rows += _rows_of_ways(comparison, False)
    for label, spec in pipeline_lib.labelled_criteria(comparison.get("criteria") or ()):
        criterion, own_fields = pipeline_lib.criterion(spec)
        name = criterion if isinstance(criterion, str) else part(criterion)
        fields = {**(comparison.get("pipeline") or {}), **own_fields}
        words = ", ".join(map(_field_in_words, fields.items()))
        rows.append([label, f"criterion {name}; {words}"])
    rows += _rows_of_ways(comparison, True)
    for label, fields in (comparison.get("quantised") or {}).items():
        others = [field for field in fields.items() if field[0] != "of"]
        words = ", ".join(map(_field_in_words, others))
        rows.append([label, f"the networks of {fields['of']} with few values: {words}"])
    for label in results.get("controls", ()):
        contestant, _, control = label.rpartition(", ")
        rows.append([label, f"the masks of {contestant} after training, {_CONTROLS[control]}"])
    tried = comparison.get("trials") or {}
    rows = [
        [label, f"{words}; with what its trials replace" if label in tried else words]
        for label, words in rows
    ]
    return table(["contestant", "what it is"], rows)


def _pretraining(results: Mapping[str, Any]) -> list[str]:
    """Returns the sentence on what was trained before, where something was."""
    fields = results["config"].get("pretraining")
    if not fields:
        return []
    anew = f"; leaves that match `{fields['redrawn']}` begin anew" if fields.get("redrawn") else ""
    return [
        f"All begin with the weights of dense training on {fields['data']['name']}, {fields['steps']:,} "
        f"updates for each seed{anew}. The columns count what follows."
    ]


def _rows_of_ways(comparison: Mapping[str, Any], has_strength: bool) -> list[list[str]]:
    """Returns rows of contestants that are ways; those that may have a strength follow the criteria."""
    ways = [way for way in WAYS.values() if way.has_strength == has_strength]
    return [
        [label, f"{way.words} {part(spec)}".strip()]
        for way in ways
        for label, spec in (comparison.get(way.plural) or {}).items()
    ]


def _field_in_words(field: tuple[str, Any]) -> str:
    """Returns a field of a pipeline in words."""
    name, value = field
    if isinstance(value, Mapping) and "name" not in value:
        return f"{name} {', '.join(f'{key}={_part_or_value(each)}' for key, each in value.items())}"
    return f"{name}={_part_or_value(value)}"


def _part_or_value(value: Any) -> str:
    return part(value) if isinstance(value, Mapping) else str(value)


def _trials(results: Mapping[str, Any]) -> list[str]:
    """Returns the section on the trials of contestants, where some were tried in several ways."""
    comparison = results["config"]["compare"]
    rows = []
    tried = results.get("trials") or {}
    for label, (trial, *others) in (comparison.get("trials") or {}).items():
        if not others:
            rows.append([label, "", _trial_in_words(trial), "", "the only one"])
    for label, points in tried.items():
        names = comparison_results.point_names(results, label) if label != "dense" else [""]
        for point, point_name in zip(points, names, strict=True):
            for index, (trial, accuracy) in enumerate(
                zip(comparison["trials"][label], point["validation_accuracy"], strict=True)
            ):
                rows.append(
                    [
                        label,
                        point_name,
                        _trial_in_words(trial),
                        "diverged" if accuracy is None else f"{100 * accuracy:.2f}",
                        "yes" if index == point["chosen"] else "",
                    ]
                )
    head = ["contestant", "asked", "trial", "validation accuracy, %", "chosen"]
    note = (
        f"Each trial was trained once, with seed {comparison.get('trial_seed', 1_000)}, which is none of "
        "those that count. Test examples played no part."
    )
    return ["## Trials", table(head, rows), note] if rows else []


def _trial_in_words(trial: Mapping[str, Any]) -> str:
    return ", ".join(map(_field_in_words, trial.items())) or "as it is"


def _files(results: Mapping[str, Any]) -> list[str]:
    """Returns the section on the files of quantised networks, where there are some."""
    rows = [
        [
            label,
            point_name,
            *(
                value(metric, finished)
                if (finished := comparison_results.finished_values(results, label, point, metric))
                else ""
                for metric in ("file_bytes", "file_ratio_fixed_width", "file_ratio")
            ),
        ]
        for label in results["config"]["compare"].get("quantised") or {}
        for point, point_name in enumerate(comparison_results.point_names(results, label))
    ]
    head = ["contestant", "asked", "bytes", "times smaller, fixed width", "with Huffman codes"]
    note = (
        "Times smaller: than float32. Codebooks, code tables, biases and filling zeros are counted."
    )
    return ["## Files", table(head, rows), note] if rows else []


def _notes(results: Mapping[str, Any]) -> str:
    """Returns the paragraph that says what each column counts."""
    config = results["config"]
    dense = results["dense"]
    batch_size = config["data"].get("batch_size", 128)
    epochs = config["steps"] / (results["examples"] // batch_size)
    seed_count = len(results["seeds"])
    differing = ", or as many as the column says" if config["compare"].get("trials") else ""
    spread_note = (
        f"mean ± std over {seed_count} seeds"
        if seed_count > 1
        else "one seed, so no bound can be given"
    )
    weights = dense["weights"]
    leaves = dense["prunable"]
    return (
        f"Accuracy: of the test set after the last update ({config['steps']} updates of {batch_size} "
        f"examples, {epochs:.1f} epochs{differing}), {spread_note}; in brackets the one-sided 95 % lower "
        "bound of the difference, paired over the seeds that both ended: for one seed all begin with the "
        "same weights and see the same batches. A training whose loss was no longer finite has no accuracy; "
        "the last column counts the others. "
        f"Sparsity: of the {sum(weights[leaf] for leaf in leaves):,} weights in {', '.join(leaves)}; "
        "effective sparsity also counts those kept that no path from an input to an output goes through. "
        f"Compression: all {sum(weights.values()):,} parameters, prunable or not, over those "
        f"kept. Theoretical speed-up: the {sum(dense['flops'].values()):,} operations of matrix products "
        "and convolutions in the forward pass of one example over those of the weights kept; dense "
        "kernels multiply zeros as well, so it is no time that was measured. Training, of dense: the "
        f"operations of all updates over those of {config['steps']} dense ones, where zeros are skipped as "
        "well, forward, backward to the inputs and to the weights (dense wherever gradients of removed "
        "weights are read). "
        "Explored: prunable weights that were alive at any time. Small network: without the units that are "
        "empty, physically; its test accuracy is that of the smaller arrays, its speed-up the time of the "
        "whole network's forward pass over its own, both compiled, for 100 examples on this machine. "
        "Seconds: of one training, median over the seeds, of which the first waits for the compilation."
    )


def _table_by_seed(results: Mapping[str, Any]) -> str:
    def accuracies_of_seeds(label: str, point: int) -> list[str]:
        accuracies = comparison_results.values(results, label, point)
        return [
            "failed" if accuracy is None else f"{100 * accuracy:.2f}" for accuracy in accuracies
        ]

    rows = [["dense", "", *accuracies_of_seeds("dense", 0)]]
    for label in results["contestants"]:
        for point, point_name in enumerate(comparison_results.point_names(results, label)):
            rows.append([label, point_name, *accuracies_of_seeds(label, point)])
    head = ["contestant", "asked", *(f"seed {seed['seed']}" for seed in results["seeds"])]
    return table(head, rows)


def _failures(results: Mapping[str, Any]) -> list[str]:
    failures = [
        f"- {entry['failed']}"
        for label in comparison_results.labels(results)
        for seed in results["seeds"]
        for entry in seed["points"][label]
        if "failed" in entry
    ]
    return ["## Trainings that diverged", "\n".join(failures)] if failures else []


REPORT = ReportKind(
    body, headline, plots.comparison, comparison_results.values_of_claim, metric="test_accuracy"
)
