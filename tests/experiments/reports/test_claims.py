"""Claims: the direction of a metric, folds of a seed, the paper's spread, claims that cannot be checked."""

import json

import pytest

from experiments import report
from experiments.config import config
from experiments.reports import stats
from experiments.runs.folder import RunFolder


def posttrain(*accept):
    """Two seeds: S has the perplexities 40 and 41, mag 350 and 352, and the dense network 18.8."""
    rows = [{"S": 40.0 + seed, "mag": 350.0 + 2 * seed} for seed in range(2)]
    return {
        "kind": "posttrain",
        "paper": {"accept": list(accept)},
        "dense": {"perplexity": 18.8},
        "seeds": [
            {"seed": seed, "rows": {label: {"perplexity": value} for label, value in row.items()}}
            for seed, row in enumerate(rows)
        ],
    }


def train(*accept, **metrics):
    """Seeds with these metrics, whose lists have one value per training."""
    count = len(next(iter(metrics.values())))
    seeds = [{"seed": i, **{name: metrics[name][i] for name in metrics}} for i in range(count)]
    return {"kind": "train", "paper": {"accept": list(accept)}, "seeds": seeds}


def claim(kind, metric="perplexity", **fields):
    return {"name": "it", "kind": kind, "metric": metric, **fields}


@pytest.mark.parametrize(
    ("asked", "verdict", "ours", "needed"),
    [
        (claim("beats", a="S", b="mag", d=10), "holds", "-310.5", "< -5, mean ≤ -10"),
        (claim("beats", a="mag", b="S", d=10), "refuted", "+310.5", "< -5, mean ≤ -10"),
        (claim("beats", a=400, b="mag", d=10), "refuted", "+49", "< -5, mean ≤ -10"),
        (claim("matches", a="S", b="mag"), "holds", "-310.5", "< +0.001"),
        (claim("matches", a="mag", b="S"), "refuted", "+310.5", "< +0.001"),
        (claim("matches", a="S", b="dense", margin=30), "holds", "+21.7", "< +30"),
        (claim("matches", a="S", b=41.5, margin=0), "open", "-1 [-4.157, +2.157]", "< +0"),
        (claim("lower_bound", a="mag", b="S", bound=300), "holds", "+310.5", "> +300"),
        (claim("beats", "damping", a="S", b="mag", d=1), "open", "use 'lower_bound'", ""),
    ],
)
def test_less_perplexity_is_better(asked, verdict, ours, needed):
    (outcome,) = report.check_claims(posttrain(asked))
    assert (outcome.verdict, outcome.needed) == (verdict, needed)
    assert ours in outcome.ours


def test_a_ticket_that_stops_later_is_not_as_good_as_dense():
    def level(remaining, step):
        return {"remaining": remaining, "branches": {"ticket": {"early_step": step}}}

    asked = claim("smallest_level", "early_step", a="ticket", at_most=0.6)
    for step, verdict in ((900, "holds"), (2000, "refuted")):
        seeds = [
            {"seed": seed, "levels": [level(1.0, 1000 + seed), level(0.5, step + seed)]}
            for seed in range(3)
        ]
        results = {"kind": "lottery", "paper": {"accept": [asked]}, "seeds": seeds}
        (outcome,) = report.check_claims(results)
        assert outcome.verdict == verdict


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


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("test_accuracy > 0.9", "a claim is a dict"),
        (claim("band", "test_accuracy", value="97"), "value='97': found str"),
        (claim("band", "test_accuracy", value=None), "also needs value"),
        (claim("band", "test_accuracy", value=0.9, std="x"), "std='x'"),
        (claim("band", {"name": "test_accuracy"}, value=0.9), "a text or a number is needed"),
        (claim("band", "loss", value=0.9), "no loss of seed 0"),
        (claim("smallest_level", "test_accuracy", a="x", at_most=0.1), "cannot be checked: 'levels'"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_open_and_the_report_is_written(tmp_path, asked, says):
    results = train(asked, claim("band", "test_accuracy", value=0.97, floor=None),
                    test_accuracy=[0.97, 0.971])  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(results))
    report.write_report(tmp_path)
    verdicts = json.loads((tmp_path / "acceptance.json").read_text())
    assert [entry["verdict"] for entry in verdicts] == ["open", "holds"]
    assert says in verdicts[0]["ours"]


def test_corrected_claims_reach_the_report_of_a_finished_run(tmp_path):
    def setting(value, **paper):
        asked = claim("band", "test_accuracy", value=value)
        return config(steps=5, paper={"accept": [asked], **paper})

    with RunFolder.open(tmp_path, "x", setting(0.5), "train") as folder:
        folder.finish(train(*setting(0.5).paper.accept, test_accuracy=[0.97, 0.971]))
        text = report.write_report(folder.path).read_text()
    assert "refuted" in text
    assert "changed after it" not in text
    assert RunFolder.report(tmp_path, "x", setting(0.5), "train") is not None

    corrected = setting(0.97, citation="Han et al. 2015")
    assert (
        RunFolder.report(tmp_path, "x", corrected, "train") is None
    )  # there is something to write
    with RunFolder.open(tmp_path, "x", corrected, "train") as folder:
        assert folder.done
        text = report.write_report(folder.path).read_text()
    assert "refuted |" not in text
    assert "Paper: Han et al. 2015." in text
    assert "they were changed after it" in text
    assert RunFolder.report(tmp_path, "x", corrected, "train") is not None


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
