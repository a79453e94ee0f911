"""The report of a sensitivity analysis: what each layer can lose, what was chosen, and what it gave."""

from collections.abc import Mapping
from typing import Any

from experiments.reports import comparison_results, plots, stats
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import gap, percent, table
from jaxprune.sensitivity import Sensitivity

__all__ = ["REPORT", "body", "headline"]


def body(results: Mapping[str, Any]) -> list[str]:
    """Returns the sections of the report.

    Args:
      results: of an analysis.
    """
    sections = ["## What each layer can lose", _table_of_layers(results)]
    asked = results["asked"]
    for point, budget in enumerate(asked["budget"]):
        sections += [f"## At {100 * budget:g} % of the {asked['cost']} of prunable layers"]
        sections += [_table_of_allocations(results, point), _chosen_rates(results, f"{budget:g}")]
    tolerated = [seed["tolerated"] for seed in results["seeds"]]
    if all(tolerated):
        sections += [f"## Within {100 * asked['tolerance']:g} pp of validation accuracy"]
        percent_left = [100 * network["cost_left"] for network in tolerated]
        accuracy = percent([network["test_accuracy"] for network in tolerated])
        dense_accuracy = percent(comparison_results.finished_values(results, "dense", 0))
        sections += [
            f"{stats.mean(percent_left):.2f} % of the {asked['cost']} are left (found by bisection over "
            f"{len(tolerated[0]['tried'])} networks); test accuracy {accuracy} %, dense {dense_accuracy} %.",
            _chosen_rates(results, "tolerance"),
        ]
    return [*sections, _notes(results)]


def headline(results: Mapping[str, Any]) -> Outcome:
    """Returns the accuracies of the search and of its rivals at the smallest target."""
    point = results["sparsities"].index(max(results["sparsities"]))
    searched, uniform, erk = (
        percent(comparison_results.finished_values(results, label, point))
        for label in ("searched", "uniform", "ERK")
    )
    ours = f"{searched} %, uniform {uniform} %, ERK {erk} %"
    name = f"searched at {100 * (1 - results['sparsities'][point]):g} % of the {results['asked']['cost']}"
    return Outcome(name, "", ours, "", len(results["seeds"]))


def _table_of_layers(results: Mapping[str, Any]) -> str:
    """Returns a table of the mean validation accuracy with one layer alone pruned."""
    tables = [seed["table"] for seed in results["seeds"]]
    weights = tables[0]["weights"]
    sparsities = [0.0, *results["asked"]["sparsities"]]
    rows = []
    for layer in weights:
        means = [
            stats.mean([seed_table["accuracies"][layer][column] for seed_table in tables])
            for column in range(len(sparsities))
        ]
        rows.append([layer, f"{weights[layer]:,}", *(f"{100 * mean:.2f}" for mean in means)])
    return table(["layer", "weights", *(f"{100 * sparsity:g} %" for sparsity in sparsities)], rows)


def _table_of_allocations(results: Mapping[str, Any], point: int) -> str:
    searched_accuracies = comparison_results.values(results, "searched", point)
    rows = []
    for label in comparison_results.labels(results):
        accuracies = comparison_results.values(results, label, point)
        pairs = comparison_results.drop_unpaired(searched_accuracies, accuracies)
        cost_left = comparison_results.finished_values(results, label, point, "cost_left")
        sparsities = comparison_results.finished_values(results, label, point, "sparsity")
        rows.append(
            [
                label,
                percent(comparison_results.drop_missing(accuracies)),
                "" if label == "searched" else gap(*pairs),
                f"{100 * stats.mean(cost_left):.2f}" if cost_left else "100.00",
                f"{100 * stats.mean(sparsities):.2f}",
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


def _chosen_rates(results: Mapping[str, Any], target: str) -> str:
    """Returns a table of each layer's chosen sparsity and its cost, and the part that sets them."""
    rates_by_seed = [seed["rates"][target] for seed in results["seeds"]]
    costs = results["seeds"][0]["table"]["costs"]
    rows = []
    for layer in rates_by_seed[0]:
        layer_rates = [rates[layer] for rates in rates_by_seed]
        rises = []
        for seed, rate in zip(results["seeds"], layer_rates, strict=True):
            sensitivity = Sensitivity(
                **{field: seed["table"][field] for field in Sensitivity._fields}
            )
            rises.append(sensitivity.rise(layer, rate))
        rows.append(
            [
                layer,
                f"{100 * costs[layer] / sum(costs.values()):.1f}",
                percent(layer_rates),
                f"{stats.mean(rises):+.4f}",
            ]
        )
    head = ["layer", "share of the cost, %", "chosen sparsity, %", "rise of the loss alone"]
    exact_rates = ", ".join(f"{name!r}: {rate:.6g}" for name, rate in rates_by_seed[0].items())
    first_seed = results["seeds"][0]["seed"]
    return (
        f"{table(head, rows)}\n\n"
        f"Of seed {first_seed}: `part('by_path', sparsities={{{exact_rates}}})`"
    )


def _notes(results: Mapping[str, Any]) -> str:
    """Returns the paragraph that says what the tables show."""
    seed_count = len(results["seeds"])
    return (
        "A layer's row: validation accuracy in % with this layer alone pruned, mean over "
        f"{seed_count} seed{'s'[: seed_count > 1]}. The search adds up the rises of the validation loss that "
        "layers show "
        "alone, finds the cheapest sum within the budget (a knapsack), and once more around what it found; "
        "nothing was trained after pruning. The test set was read once "
        "for each network in the tables. Uniform, ERK and global have whatever "
        "sparsity leaves the same cost. In brackets: one-sided 95 % lower bound of the paired difference."
    )


REPORT = ReportKind(
    body, headline, plots.sensitivity, comparison_results.values_of_claim, metric="test_accuracy"
)
