"""The report of a sensitivity analysis: what each layer can lose, what was chosen, and what it gave."""

from collections.abc import Mapping
from typing import Any

from experiments.reports import comparison_results, plots, stats
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import gap, percent, table
from jaxprune.sensitivity import Sensitivity

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Sections of the report.

    Args:
      results: of an analysis.
    """
    parts = ["## What each layer can lose", _alone(results)]
    asked = results["asked"]
    for point, keep in enumerate(asked["keep"]):
        parts += [f"## At {100 * keep:g} % of the {asked['cost']} of prunable layers"]
        parts += [_compared(results, point), _chosen(results, f"{keep:g}")]
    tolerated = [seed["tolerated"] for seed in results["seeds"]]
    if all(tolerated):
        parts += [f"## Within {100 * asked['tolerance']:g} pp of validation accuracy"]
        kept = [100 * t["keep"] for t in tolerated]
        accuracy = percent([t["test_accuracy"] for t in tolerated])
        dense = percent(comparison_results.finished(comparison_results.values(results, "dense", 0)))
        parts += [
            f"{stats.mean(kept):.2f} % of the {asked['cost']} are left (found by bisection over "
            f"{len(tolerated[0]['tried'])} networks); test accuracy {accuracy} %, dense {dense} %.",
            _chosen(results, "tolerance"),
        ]
    return [*parts, _counted(results)]


def headline(results: Mapping[str, Any]) -> Outcome:
    """What the search gave at the smallest target."""
    point = results["sparsities"].index(max(results["sparsities"]))
    of = lambda label: percent(
        comparison_results.finished(comparison_results.values(results, label, point))
    )
    ours = f"{of('searched')} %, uniform {of('uniform')} %, ERK {of('ERK')} %"
    name = f"searched at {100 * (1 - results['sparsities'][point]):g} % of the {results['asked']['cost']}"
    return Outcome(name, "", ours, "", len(results["seeds"]))


def _alone(results: Mapping[str, Any]) -> str:
    """Validation accuracy with one layer pruned, in the mean over seeds."""
    tables = [seed["table"] for seed in results["seeds"]]
    layers = list(tables[0]["weights"])
    asked = [0.0, *results["asked"]["sparsities"]]
    rows = []
    for layer in layers:
        means = [stats.mean([t["accuracies"][layer][i] for t in tables]) for i in range(len(asked))]
        rows.append([layer, f"{tables[0]['weights'][layer]:,}", *(f"{100 * m:.2f}" for m in means)])
    return table(["layer", "weights", *(f"{100 * s:g} %" for s in asked)], rows)


def _compared(results: Mapping[str, Any], point: int) -> str:
    ours = comparison_results.values(results, "searched", point)
    rows = []
    for label in comparison_results.labels(results):
        found = comparison_results.values(results, label, point)
        of = lambda metric, label=label: comparison_results.finished(
            comparison_results.values(results, label, point, metric)
        )
        cost, removed = of("cost_left"), of("sparsity")
        rows.append(
            [
                label,
                percent(comparison_results.finished(found)),
                "" if label == "searched" else gap(*comparison_results.both(ours, found)),
                f"{100 * stats.mean(cost):.2f}" if cost else "100.00",
                f"{100 * stats.mean(removed):.2f}",
            ]
        )
    head = [
        "allocation",
        "test accuracy, %",
        "searched minus it, pp (bound)",
        "cost left, %",
        "sparsity, %",
    ]
    return table(head, rows)


def _chosen(results: Mapping[str, Any], target: str) -> str:
    """The rates of each layer, why, and the part that sets them."""
    rates = [seed["rates"][target] for seed in results["seeds"]]
    rows = []
    for layer in rates[0]:
        chosen = [r[layer] for r in rates]
        rises = []
        for seed, rate in zip(results["seeds"], chosen, strict=True):
            found = Sensitivity(**{k: seed["table"][k] for k in Sensitivity._fields})
            rises.append(found.rise(layer, rate))
        share = results["seeds"][0]["table"]["costs"]
        rows.append(
            [
                layer,
                f"{100 * share[layer] / sum(share.values()):.1f}",
                f"{percent(chosen)}",
                f"{stats.mean(rises):+.4f}",
            ]
        )
    head = ["layer", "share of the cost, %", "chosen sparsity, %", "rise of the loss alone"]
    exact = ", ".join(f"{name!r}: {rate:.6g}" for name, rate in rates[0].items())
    seed = results["seeds"][0]["seed"]
    return f"{table(head, rows)}\n\nOf seed {seed}: `part('by_path', sparsities={{{exact}}})`"


def _counted(results: Mapping[str, Any]) -> str:
    n = len(results["seeds"])
    return (
        "A layer's row: validation accuracy in % with this layer alone pruned, mean over "
        f"{n} seed{'s'[: n > 1]}. The search adds up the rises of the validation loss that layers show "
        "alone, finds the cheapest sum within the budget (a knapsack), and once more around what it found; "
        "nothing was trained after pruning. The test set was read once "
        "for each network in the tables. Uniform, ERK and global have whatever "
        "sparsity leaves the same cost. In brackets: one-sided 95 % lower bound of the paired difference."
    )


REPORT = ReportKind(
    body, headline, plots.sensitivity, comparison_results.claimed, metric="test_accuracy"
)
