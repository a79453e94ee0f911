"""The analysis from a config to its report."""

import csv
import json

import pytest

from experiments import cli, report, sensitivity
from experiments.cli import Options, Stopper
from experiments.config import UserError, config, part, validate
from experiments.runs.folder import folder_name
from experiments.studies.sensitivity import ALLOCATIONS, STUDY


def setting(**fields):
    own = {"sparsities": (0.5, 0.9), "budget": (0.4,), "tolerance": 0.05, "examples": 64, **fields}
    return config(
        data=part("synthetic_mnist", batch_size=32),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1e-3),
        prunable="fc[23]/kernel",
        validation=200,
        steps=20,
        seeds=(0, 1),
        sensitivity=own,
        paper={
            "accept": [
                {
                    "name": "n",
                    "kind": "lower_bound",
                    "a": "searched",
                    "b": "uniform",
                    "bound": -1.0,
                    "sparsity": 0.6,
                }
            ]
        },
    )


def run(cfg, workdir, stopper=None, dry_run=False):
    validate(cfg)
    sensitivity.main(cfg, Options("test", workdir, dry_run, stopper or Stopper()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("analysis")
    run(setting(), workdir)
    return next(workdir.glob("test-*"))


def test_another_version_of_a_users_file_is_another_run(tmp_path):
    path = tmp_path / "mine.py"
    names = []
    for version in range(2):
        path.write_text(f"def mine(params, **_): return params  # {version}\n", encoding="utf-8")
        made, section = STUDY.check(setting(criterion=f"{path}:mine"))
        assert "file" not in section
        names.append(folder_name("test", made, "sensitivity"))
    assert names[0] != names[1]


def test_every_layer_and_every_rival(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["contestants"] == ["searched", "uniform", "ERK", "global"] == [*ALLOCATIONS]
    for seed in results["seeds"]:
        table = seed["table"]
        assert list(table["weights"]) == ["fc2/kernel", "fc3/kernel"]
        for row in table["sparsities"].values():
            assert row == pytest.approx([0.0, 0.5, 0.9])
        assert all(len(row) == 3 for row in table["accuracies"].values())
        for label in results["contestants"]:
            (found,) = seed["points"][label]
            assert 0.37 < found["cost_left"] <= 0.4 + 1e-3
            assert 0 <= found["test_accuracy"] <= 1
        assert set(seed["rates"]) == {"0.4", "tolerance"}
        assert 0 < seed["tolerated"]["cost_left"] <= 1
    (outcome,) = report.check_claims(results)
    assert outcome.verdict == "holds"


def test_files_for_people_and_programs(finished):
    text = (finished / "report.md").read_text()
    assert "| fc2/kernel | 30,000 |" in text
    assert "part('by_path', sparsities={'fc2/kernel': " in text
    assert (finished / "sensitivity.png").exists()
    with (finished / "sensitivity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert rows[0]["sparsity"] == "0.0"
    assert set(json.loads((finished / "rates.json").read_text())) == {"0", "1"}


def test_rates_can_be_fed_back(finished):
    from experiments.config import build

    rates = json.loads((finished / "rates.json").read_text())["0"]["0.4"]
    build("allocation", part("by_path", sparsities=rates))


def test_a_finished_analysis_is_not_run_again(finished, capsys):
    run(setting(), finished.parent)
    assert "This analysis is finished" in capsys.readouterr().out


def test_it_can_be_stopped_in_the_middle(tmp_path):
    stopper = Stopper()
    stopper.signal = 15
    run(setting(), tmp_path, stopper)
    assert not list(tmp_path.glob("test-*/results.json"))
    run(setting(), tmp_path)
    assert list(tmp_path.glob("test-*/results.json"))


def test_a_dry_run_says_how_much(tmp_path, capsys):
    run(setting(), tmp_path, dry_run=True)
    assert "4 networks with one of 2 layers pruned" in capsys.readouterr().out


REFUSED = {
    "no field 'budgets'; nearest: 'budget'": {"budgets": (0.5,)},
    "no cost 'flop'; nearest: 'flops'": {"cost": "flop"},
    "fractions between 0 and 1": {"budget": (2.0,)},
    "no criterion 'magnitud'": {"criterion": "magnitud"},
    "reads 'movement_sum', which exists only while training": {"criterion": "movement"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_mistakes_are_told(message, tmp_path):
    with pytest.raises(cli.UserError, match=message):
        run(setting(**REFUSED[message]), tmp_path)


def test_it_needs_validation_data(tmp_path):
    cfg = setting()
    with cfg.unlocked():
        cfg.validation = 0
    with pytest.raises(cli.UserError, match="not on the test set"):
        run(cfg, tmp_path)


def test_a_criterion_that_reads_data(tmp_path):
    cfg = setting(criterion="fisher", tolerance=0.0)
    cfg.seeds = (0,)
    run(cfg, tmp_path)
    assert list(tmp_path.glob("test-*/report.md"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return jax.tree.map(absolute, params)", r"own\.py:5, in own: NameError: name 'absolute'"),
        ("return params['nothing']", r"own\.py:5, in own: KeyError: 'nothing'"),
    ],
)
def test_a_criterion_of_the_users_is_tried_before_training(tmp_path, monkeypatch, body, says):
    monkeypatch.chdir(tmp_path)  # a file is found from the current folder
    text = (
        f"import jax\n\ndef own(params, *, grads, **_):\n    jax.tree.map(abs, grads)\n    {body}\n"
    )
    (tmp_path / "own.py").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        run(setting(criterion="own.py:own"), tmp_path, dry_run=True)
