"""Claims: the direction of a metric, folds of a seed, the paper's spread, claims that cannot be checked."""

import json

import pytest

from experiments import report
from experiments.reports import stats


def train(*accept, **metrics):
    """Seeds with these metrics, whose lists have one value per training."""
    count = len(next(iter(metrics.values())))
    seeds = [{"seed": i, **{name: metrics[name][i] for name in metrics}} for i in range(count)]
    return {"kind": "train", "paper": {"accept": list(accept)}, "seeds": seeds}


def claim(kind, metric="perplexity", **fields):
    return {"name": "it", "kind": kind, "metric": metric, **fields}


@pytest.mark.parametrize("sides", [{"a": "RigL", "b": 0.9}, {"b": "dense"}])
def test_a_training_is_not_compared_with_itself(sides):
    asked = claim("lower_bound", "test_accuracy", bound=-0.01, **sides)
    (outcome,) = report.check_claims(train(asked, test_accuracy=[0.97, 0.98, 0.975]))
    assert outcome.verdict == "open"
    assert "a training has one method" in outcome.ours


def test_folds_of_a_seed_are_one_value():
    asked = (
        claim("band", "test_accuracy", value=0.97),
        claim("lower_bound", "test_accuracy", b=0.9, bound=0.0),
        claim("at_least", "digest", value=1),
    )
    folds = [
        {
            "seed": seed,
            "fold": fold,
            "test_accuracy": 0.9 + 0.04 * seed + 0.01 * fold,
            "digest": "ab",
        }
        for seed in range(2)
        for fold in range(10)
    ]
    results = train(*asked, test_accuracy=[0.0])
    one, two = {**results, "seeds": folds[:10]}, {**results, "seeds": folds}
    assert [outcome.verdict for outcome in report.check_claims(one)] == ["open"] * 3
    assert [outcome.n for outcome in report.check_claims(one)] == [1] * 3
    assert "94.50 %; one seed gives no bound" in report.check_claims(one)[0].ours
    _, difference, digest = report.check_claims(two)
    assert difference.n == 2
    assert difference.ours.startswith("+6.50 pp")  # 0.945 and 0.985
    assert "no digest of seed 0, fold 0" in digest.ours


@pytest.mark.parametrize(
    ("accuracies", "value", "verdict"),
    [
        ([0.96875] * 3, 0.98, "holds"),  # 1.1 points off, within 3 x 0.01 / sqrt(2)
        ([0.97] * 3, 0.98, "holds"),  # whose standard deviation rounds to 1e-16
        ([0.97] * 3, 0.9, "refuted"),
        ([0.96875] * 3, 0.9, "refuted"),
        ([0.96, 0.97, 0.98], 0.97, "holds"),
        ([0.96, 0.97, 0.98], 0.94, "open"),
        ([0.96, 0.97, 0.98], 0.7, "refuted"),
    ],
)
def test_the_papers_spread_counts_though_seeds_be_equal(accuracies, value, verdict):
    asked = claim("band", "test_accuracy", value=value, std=0.01)
    (outcome,) = report.check_claims(train(asked, test_accuracy=accuracies))
    assert outcome.verdict == verdict
    pooled = stats.pooled_std(stats.std(accuracies), 0.01)
    assert outcome.needed == f"{100 * value:.4g} ± {300 * pooled:.2g} %"


def test_trainings_may_differ_in_what_they_measure(tmp_path):
    results = train(test_accuracy=[0.97, 0.98, 0.99])
    results["seeds"][1]["small_accuracy"] = 0.9
    results["seeds"][2] |= {"small_accuracy": 0.8, "per_leaf": [{"leaf": "fc1", "kept": 9}]}
    del results["seeds"][1]["test_accuracy"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = report.write_report(tmp_path).read_text()
    assert "| seed | test_accuracy | small_accuracy |" in text
    assert "| 0 | 97.00 % |  |" in text
    assert "| 1 |  | 90.00 % |" in text
    assert "98.00 ± 1.41 % (2 of 3) | 85.00 ± 7.07 % (2 of 3) |" in text
    assert "## Leaves of seed 2" in text
