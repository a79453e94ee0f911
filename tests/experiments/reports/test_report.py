"""Reports: tables, verdicts and plots from results files."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import report
from experiments.config import UserError

ROOT = Path(__file__).parents[3]
LEFT = [0.8**level for level in range(9)]
GAINS = [0.0060, 0.0066, 0.0058, 0.0064, 0.0062]  # of the tickets over dense, per seed


def branch(accuracy, step):
    return {
        "test_final": accuracy,
        "test_early": accuracy + 0.0005,
        "early_step": step,
        "validation_loss": 0.1,
    }


def lottery(seeds=4, accept=()):
    """Tickets that gain GAINS when pruned and stop at 3/4; reinitialisations that lose as much."""

    def levels(seed):
        dense = 0.975 + 0.001 * seed
        for level, left in enumerate(LEFT):
            gain = GAINS[seed] * (level > 0)
            yield {
                "level": level,
                "remaining": left,
                "branches": {
                    "ticket": branch(dense + gain, 3000 if level else 4000),
                    **(
                        {"reinit": [branch(dense - gain - e, 3900) for e in (0.001, -0.001)]}
                        if level
                        else {}
                    ),
                },
            }

    return {
        "kind": "lottery",
        "config": {"data": {"name": "mnist", "batch_size": 60}, "steps": 4000},
        "paper": {"citation": "Frankle & Carbin 2019", "table": "figure 4", "accept": list(accept)},
        "steps_per_level": 4000,
        "seeds": [{"seed": seed, "levels": list(levels(seed))} for seed in range(seeds)],
        "cost": {"cpu_seconds": 106},
    }


def claim(kind="lower_bound", **fields):
    common = {"name": "it", "a": "ticket", "b": "dense", "remaining": 0.211, "metric": "test_final"}
    return {**common, "kind": kind, **fields}


def test_what_a_claim_is_held_against(tmp_path):
    asked = [
        claim(bound=-0.001),
        claim("beats", d=0.001, against="figure"),
        claim(against="a hunch"),
    ]
    results = lottery(accept=asked)
    results["paper"] |= {"against": "order", "departures": "a tenth of the updates"}
    outcomes = report.check_claims(results)
    assert [outcome.against for outcome in outcomes] == ["order", "figure", "a hunch"]
    assert outcomes[2].verdict == "open"
    assert "one of figure, shortened, order, own is needed" in outcomes[2].ours
    (tmp_path / "lenet.json").write_text(json.dumps(results))
    text = report.results_table(tmp_path).read_text()
    assert "| a paper's own figure | 1 | 0 | 0 |" in text
    assert text.count("a tenth of the updates") == 1
    assert "Departures from the paper: a tenth of the updates." in write(tmp_path, results)


def write(tmp_path, results):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    return report.write_report(tmp_path / "run").read_text()


def test_the_committed_table_is_that_of_the_committed_results(tmp_path):
    committed = ROOT / "results"
    for file in committed.glob("*.json"):
        shutil.copy(file, tmp_path)
    text = report.results_table(tmp_path).read_text(encoding="utf-8")
    assert text == (committed / "README.md").read_text(encoding="utf-8")
    holds, refuted, still_open = re.search(
        r"(\d+) hold, (\d+) are refuted, (\d+) are open", text
    ).groups()
    counts = f"{holds} claims hold, {refuted} are refuted, {still_open} are open"
    assert counts in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("asked", "verdict", "ours"),
    [
        (claim(bound=-0.001), "holds", "+0.62 pp [+0.58, +0.66]"),
        (claim(bound=0.0058), "open", "+0.62 pp [+0.58, +0.66]"),
        (claim(bound=0.0068), "refuted", "+0.62 pp [+0.58, +0.66]"),
        (claim(b="reinit", bound=0.011), "holds", "+1.24 pp"),
        (claim("matches", a="reinit"), "refuted", "-0.62 pp"),
        (claim("matches", a="reinit", margin=0.01), "holds", "-0.62 pp"),
        (claim("beats", d=0.006), "holds", "+0.62 pp"),
        (claim("beats", d=0.0065), "open", "+0.62 pp"),
        (claim("beats", d=0.007), "refuted", "+0.62 pp"),
        (claim("smallest_level", at_most=0.2), "holds", "16.8 % of weights left"),
        (claim("smallest_level", a="reinit", at_most=0.9), "refuted", "no level"),
        (claim("smallest_level", at_most=0.05), "open", "no level of ticket with so few"),
        (claim("band", a="dense", remaining=1.0, value=0.978), "holds", "97.65 ± 0.13 %"),
        (claim("band", a="dense", remaining=1.0, value=0.98), "open", "97.65 ± 0.13 %"),
        (claim("band", a="dense", remaining=1.0, value=0.995), "refuted", "97.65 ± 0.13 %"),
        (claim("at_least", a="dense", value=0.97), "holds", "97.65 ± 0.13 [97.5, 97.8] %"),
        (claim("at_least", a="dense", value=0.976), "open", "97.65 ± 0.13"),
        (claim("at_least", a="dense", value=0.98), "refuted", "97.65 ± 0.13"),
        (claim(remaining=0.01, bound=0.0), "open", "no level near 1 %"),
        (claim(a="shuffled", bound=0.0), "open", "no test_final of shuffled at 21.0 %"),
        (claim("lowerbound", bound=0.0), "open", "no kind of claim 'lowerbound'"),
        (claim(), "open", "'lower_bound' also needs bound"),
    ],
)
def test_claims_come_out_by_the_rule(asked, verdict, ours):
    (outcome,) = report.check_claims(lottery(accept=[asked]))
    assert outcome.verdict == verdict
    assert ours in outcome.ours
    assert outcome.n == 4
    assert outcome.name == "it"


@pytest.mark.parametrize(
    ("below", "seeds", "verdict"),
    [(0.85, 5, "holds"), (0.75, 5, "open"), (0.7, 5, "refuted"), (0.85, 4, "open")],
)
def test_medians_are_judged_from_five_seeds_on(below, seeds, verdict):
    asked = claim("median_ratio", metric="early_step", below=below)
    (outcome,) = report.check_claims(lottery(seeds, accept=[asked]))
    assert outcome.verdict == verdict
    assert "median 0.750" in outcome.ours


def test_a_margin_of_zero_is_one():
    asked = [
        claim("matches", a="reinit", b="ticket", margin=0),
        claim("matches", b="dense", margin=0),
    ]
    assert [o.verdict for o in report.check_claims(lottery(accept=asked))] == ["refuted", "holds"]
    assert [o.needed for o in report.check_claims(lottery(accept=asked))] == [
        "> +0.00 pp",
        "> +0.00 pp",
    ]


def test_a_noisier_rival_is_not_matched_more_easily():
    results = lottery(accept=[claim("matches", a="reinit")])
    for seed, by in zip(results["seeds"], (0.05, -0.05, 0.05, -0.05), strict=True):
        for level in seed["levels"][1:]:
            for draw in level["branches"]["reinit"]:
                draw["test_final"] += by
    noisy = {**results, "paper": {"accept": [claim("matches", b="reinit")]}}
    (outcome,) = report.check_claims(noisy)
    assert outcome.needed == "> -0.13 pp"  # the spread of dense, not that of reinit


@pytest.mark.parametrize(
    "kind",
    ["lower_bound", "matches", "beats", "median_ratio", "smallest_level", "band", "at_least"],
)
def test_one_seed_leaves_every_claim_open(kind):
    asked = claim(kind, bound=0.0, d=0.0, below=9.0, at_most=1.0, value=0.975)
    (outcome,) = report.check_claims(lottery(seeds=1, accept=[asked]))
    assert outcome.verdict == "open"
    assert ("five seeds" if kind == "median_ratio" else "one seed") in outcome.ours


@pytest.fixture
def folder(tmp_path):
    def make(results):
        (tmp_path / "results.json").write_text(json.dumps(results))
        return tmp_path

    return make


def test_a_lottery_report_has_numbers_verdicts_and_plots(folder):
    path = report.write_report(folder(lottery(accept=[claim(bound=-0.001, published="+0.3 pp")])))
    text = path.read_text()
    assert "Paper: Frankle & Carbin 2019, figure 4." in text
    assert "| it | own | +0.3 pp | +0.62 pp [+0.58, +0.66] | > -0.10 pp | 4 | holds |" in text
    assert "mean ± std over 4 seeds" in text
    assert "| 20.97 | 98.27 ± 0.14 | 97.03 ± 0.13 |" in text  # ticket and reinit, hand-computed
    assert "| 20.97 | 3000 ± 0 | 3900 ± 0 |" in text
    assert "| 20.97 | +0.62 (+0.58) | +1.24 (+1.15) |" in text
    assert "| 100.00 | 97.50 | 97.60 | 97.70 | 97.80 | 4000 | 4000 | 4000 | 4000 |" in text
    (verdict,) = json.loads((path.parent / "acceptance.json").read_text())
    assert verdict["verdict"] == "holds"
    if importlib.util.find_spec("matplotlib"):
        for name in ("accuracy.png", "accuracy_early.png", "early_stop.png"):
            assert f"]({name})" in text
            assert (path.parent / name).read_bytes()[:4] == b"\x89PNG"
    assert not list(path.parent.glob(".*"))  # nothing half-written is left


def test_one_seed_is_reported_without_bounds(folder):
    text = report.write_report(folder(lottery(seeds=1))).read_text()
    assert "one seed, so no bound can be given" in text
    assert "| 20.97 | 98.10 | 96.90 |" in text


def test_a_training_report(folder):
    seeds = [
        {
            "seed": seed,
            "test_accuracy": accuracy,
            "sparsity": 0.95,
            "steps": 4000,
            "digest": "ab",
            "per_leaf": [{"leaf": "fc1/kernel", "shape": [784, 300], "weights": 235200, "kept": 9}],
        }
        for seed, accuracy in enumerate([0.97, 0.98])
    ]
    accept = [{"name": "table 1", "kind": "band", "metric": "test_accuracy", "value": 0.976}]
    where = folder({"kind": "train", "seeds": seeds, "paper": {"accept": accept}})
    (where / "seed_0").mkdir()
    (where / "seed_0" / "metrics.csv").write_text(
        "step,train_loss,validation_accuracy\n100,1.5,\n200,1.0,0.9\n"
    )
    text = report.write_report(where).read_text()
    assert "| table 1 | own |  | 97.5 ± 0.71 % | 97.6 ± 2.1 % | 2 | holds |" in text
    assert "| 0 | 97.00 % | 95.00 % | 4000 |" in text
    assert "| **mean ± std** | 97.50 ± 0.71 % | 95.00 ± 0.00 % | 4000 ± 0 |" in text
    assert "| fc1/kernel | 784x300 | 235200 | 9 |" in text
    assert "digest" not in text
    if importlib.util.find_spec("matplotlib"):
        assert (where / "training.png").read_bytes()[:4] == b"\x89PNG"


def test_without_matplotlib_the_report_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = report.write_report(folder(lottery()))
    assert "pip install -e '.[report]'" in path.read_text()
    assert not list(path.parent.glob("*.png"))


def test_the_results_table(tmp_path):
    asked = [claim(bound=-0.001, published="+0.3 pp"), claim("beats", d=0.007)]
    (tmp_path / "lenet.json").write_text(json.dumps(lottery(accept=asked)))
    (tmp_path / "other.json").write_text(json.dumps(lottery()))
    text = report.results_table(tmp_path).read_text()
    assert (
        "| [lenet](lenet.json) | Frankle & Carbin 2019, figure 4: +0.3 pp | own | it: +0.62 pp"
        in text
    )
    assert "refuted (needs > +0.35 pp, mean ≥ +0.70 pp)" in text
    assert "|  | ticket at 16.8 %: 98.27 ± 0.14 % (n = 4) |  |  |" in text
    assert "| a bar of our own | 1 | 1 | 0 |" in text
    assert "Of 2 claims 1 holds, 1 is refuted, 0 are open; up to 0.1 each may hold" in text
    assert report.results_table(tmp_path).read_text() == text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no results yet"),
        ("{", "is not JSON"),
        ("{}", "'kind' and 'seeds'"),
        ('{"kind": "train", "seeds": []}', "no seed's results"),
    ],
)
def test_folders_without_results_are_refused(tmp_path, content, says):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=says):
        report.write_report(tmp_path)


def test_the_binary_answers_in_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.report", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the run has no results yet" in done.stderr
