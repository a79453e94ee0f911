"""Trials of contestants: which is chosen, what trains with it, its controls, and what is refused."""

import json

import pytest
from comparisons import run, small
from stopping import StopsAfter

from experiments import compare
from experiments.cli import Options, Stopper, UserError
from experiments.config import part
from experiments.studies import compare_runs, contestants

GRADUAL = part("gmp", begin=5, end=15, every=5)
SECTION = {
    "sparsities": (0.5, 0.9),
    "methods": {"GMP": GRADUAL, "static": part("static")},
    "trials": {
        "GMP": (
            {"optimizer": {"learning_rate": 0.1}, "part": {"end": 25}, "steps": 40},
            {"optimizer": {"learning_rate": 1e-6}},
        ),
        "dense": ({"optimizer": {"learning_rate": 1e-6}}, {"optimizer": {"learning_rate": 0.1}}),
        "static": ({"steps": 30},),
    },
    "controls": ("retrained", "shuffled"),
}


def settings(section=SECTION, **fields):
    return small(section, **{"validation": 500, **fields})


BEST = ("GMP/sparsity_0.5, trial 1", "GMP/sparsity_0.9, trial 1", "dense, trial 2")


@pytest.fixture(scope="module", autouse=True)
def accuracies():
    """So few updates leave accuracies to chance: those of these trials are made the best."""
    trained = compare_runs._Trainings._trained

    def measured(self, trainer, point, seed):
        result = trained(self, trainer, point, seed)
        if result is None or ", trial" not in point.folder:
            return result
        return {**result, "validation_final": 0.9 if point.folder in BEST else 0.8}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_runs._Trainings, "_trained", measured)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs")
    results = run(settings(), workdir)
    return next(workdir.glob("test-*")), results


def test_the_trial_with_the_best_validation_accuracy_is_chosen(finished):
    folder, results = finished
    assert [point["chosen"] for point in results["trials"]["GMP"]] == [0, 0]
    assert [point["chosen"] for point in results["trials"]["dense"]] == [1]
    assert "static" not in results["trials"]  # a single trial is taken as it is
    for points in results["trials"].values():
        for point in points:
            assert point["validation_accuracy"][point["chosen"]] == max(
                point["validation_accuracy"]
            )
    for seed in (0, 1):
        assert not (folder / f"GMP/sparsity_0.5, trial 1/seed_{seed}").exists()
        assert (folder / f"GMP/sparsity_0.5/seed_{seed}").is_dir()
    assert (folder / "GMP/sparsity_0.5, trial 2/seed_1000").is_dir()
    points = 1 + 2 + 2 + 4 + 4  # dense, GMP, static, and two controls of each
    assert results["cost"]["trainings"] == (1 + 2) * 2 + points * 2


def test_what_is_chosen_trains_with_all_seeds_and_controls_train_as_long(finished):
    _, results = finished
    updates = {"dense": 20, "GMP": 40, "GMP, retrained": 40, "GMP, shuffled": 40, "static": 30}
    for seed in results["seeds"]:
        for label, count in updates.items():
            assert {point["steps"] for point in seed["points"][label]} == {count}
        shares = {label: seed["points"][label][1]["training"] for label in ("static", "GMP")}
        dense_share = 1 - 30_000 / 266_200  # of the operations, fc1's and fc3's
        assert shares["static"] == pytest.approx(1.5 * (dense_share + 3_000 / 266_200), abs=0.01)
        assert 1.5 < shares["GMP"] < 2.0


def test_the_chosen_is_what_a_comparison_without_trials_would_train(finished, tmp_path):
    alone = {
        "sparsities": (0.5,),
        "methods": {"GMP": part("gmp", begin=5, end=25, every=5)},
    }
    cfg = settings(alone, steps=40, optimizer=part("sgd", learning_rate=0.1))
    for seed, other in zip(run(cfg, tmp_path)["seeds"], finished[1]["seeds"], strict=True):
        assert seed["points"]["GMP"][0]["digest"] == other["points"]["GMP"][0]["digest"]


def test_a_training_says_how_it_does_on_validation_examples(finished):
    paths = [*finished[0].glob("*/*/seed_*/results.json")]
    assert len(paths) == 4 + 12 * 2  # trials of GMP; all points but the dense one, of two seeds
    for path in paths:
        stored = json.loads(path.read_text(encoding="utf-8"))["items"][0]
        assert 0 <= stored["validation_final"] <= 1


def test_the_report_lists_all_trials(finished):
    text = (finished[0] / "report.md").read_text(encoding="utf-8")
    assert "## Trials" in text
    assert "with seed 1000, which is none of those that count" in text
    assert "| GMP | 50 % | optimizer learning_rate=0.1, part end=25, steps=40 |" in text
    assert "| updates |" in text


def test_a_single_trial_is_in_the_report_too(finished):
    text = (finished[0] / "report.md").read_text(encoding="utf-8")
    assert "| static |  | steps=30 |  | the only one |" in text
    assert "| GMP | gmp(begin=5, end=15, every=5); with what its trials replace |" in text
    assert ", or as many as the column says" in text


def test_a_dry_run_says_how_long_trials_are(tmp_path, capsys):
    compare.main(settings(), Options("test", tmp_path, True, Stopper()))
    assert "GMP: 2 trials, 20 to 40 updates" in capsys.readouterr().out


def test_an_optimizer_of_another_name_replaces_the_whole(tmp_path):
    section = {
        "sparsities": (0.5,),
        "methods": {"static": part("static")},
        "trials": {"static": ({"optimizer": part("adam", learning_rate=1e-3)},)},
    }
    cfg = settings(section, optimizer=part("sgd", learning_rate=0.05, momentum=0.9), seeds=(0,))
    [seed] = run(cfg, tmp_path)["seeds"]
    assert "test_accuracy" in seed["points"]["static"][0]


def test_interrupted_trials_go_on(finished, tmp_path):
    cfg = settings({**SECTION, "sparsities": (0.5,), "controls": ("retrained",)}, seeds=(0,))
    assert run(cfg, tmp_path, StopsAfter(9)) is None
    resumed = run(cfg, tmp_path)
    whole = finished[1]
    for label, [point] in resumed["seeds"][0]["points"].items():
        assert point["digest"] == whole["seeds"][0]["points"][label][0]["digest"]
    for label, [trials] in resumed["trials"].items():
        assert trials == whole["trials"][label][0]


def changed(**trials):
    return {**SECTION, "trials": trials}


@pytest.mark.parametrize(
    ("section", "fields", "says"),
    [
        (changed(SET=({},)), {}, "trials: no method is called 'SET'"),
        (changed(GMP=()), {}, r"trials.GMP=\(\): at least one"),
        (changed(GMP="a"), {}, "a tuple is needed"),
        (changed(GMP=(3,)), {}, r"GMP\[0\]=3: a dict"),
        (changed(GMP=({"step": 5},)), {}, "no field 'step'; nearest: 'steps'"),
        (changed(GMP=({"steps": 0},)), {}, "at least 1"),
        (
            changed(GMP=({"steps": 10},)),
            {},
            r"end=15: training ends after config.compare.trials.GMP\[0\].steps=10",
        ),
        (changed(GMP=({"optimizer": {"learning_rate": 0}},)), {}, "learning_rate=0: more than 0"),
        (
            {
                **SECTION,
                "penalties": {"L1": part("l1")},
                "strengths": {"L1": (0.1,)},
                "trials": {"L1": ({}, {})},
            },
            {},
            "the network that loses the fewest weights",
        ),
        (changed(GMP=({"part": {"fractoin": 1}},)), {}, "fractoin"),
        (changed(GMP=({"optimizer": {"rate": 1}},)), {}, "rate"),
        (changed(dense=({"part": {"end": 1}},)), {}, "dense training has no part"),
        ({**SECTION, "trials": 3}, {}, "a dict of label"),
        ({**SECTION, "trial_seed": 1}, {}, "trial_seed=1: trials need a seed of their own"),
        (SECTION, {"validation": 0}, "chosen on validation examples"),
        (
            {
                **SECTION,
                "criteria": {"cut": "magnitude"},
                "pipeline": {"when": "trained", "finetune": 5},
            },
            {},
            "goes on with the network of 'dense'",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(section, fields, says):
    with pytest.raises(UserError, match=says):
        contestants.contestants(settings(section, **fields))
