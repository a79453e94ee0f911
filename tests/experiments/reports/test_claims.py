"""Claims: the direction of a metric, folds of a seed, the paper's spread, claims that cannot be checked."""

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
