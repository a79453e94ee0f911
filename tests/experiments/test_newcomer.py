"""What a new study and a new way to become sparse cost: one file and one line each."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parents[1]

STUDY = '''
"""The study of weights as they are drawn: how large they are."""

from experiments.reports.kind import Outcome, ReportKind
from experiments.config.sections import check_integer, section_of
from experiments.studies.study import Study

FIELDS = {"draws": 2}


def check(cfg):
    asked = section_of(cfg, "weights", FIELDS)
    check_integer(asked["draws"], "config.weights.draws", least=1)
    return cfg, asked


def run(cfg, asked, options):
    import jax
    import jax.numpy as jnp
    from experiments.reports.report import write_report
    from experiments.runs.folder import RunFolder
    from experiments.training.setup import setup

    model = setup(cfg).model
    with RunFolder.open(options.workdir, options.config_name, cfg, "weights") as folder:
        images = jnp.zeros(setup(cfg).example().shape)
        seeds = []
        for seed in range(asked["draws"]):
            params = model.init(jax.random.key(seed), images)["params"]
            size = sum(float(abs(leaf).sum()) for leaf in jax.tree.leaves(params))
            seeds.append({"seed": seed, "size": size})
        results = {"kind": "weights", "config": cfg.to_dict(), "paper": cfg.paper.to_dict()}
        folder.finish({**results, "seeds": seeds})
        print(write_report(folder.path, report()))


def report():
    return ReportKind(
        body=lambda results: [f"## {len(results['seeds'])} draws"],
        headline=lambda results: Outcome("size", "", "known", "", len(results["seeds"])),
        plots=lambda results, folder: [],
        values=lambda results, claim, side: [seed["size"] for seed in results["seeds"]],
    )


STUDY = Study("weights", check, run, report, FIELDS)
'''
WAY = '''
"""A method whose weights are trained on afterwards as if nothing had been removed."""

from experiments.config import build
from experiments.ways.recipe import Recipe


def recipe(setup, spec, where, **supplied):
    method = build("method", spec, **supplied)
    return Recipe(lambda key: setup.optimizer, method=method, learned=True)
'''
CONFIG = """
from experiments.config import config, part

def get_config():
    return config(data=part("synthetic_mnist"), model=part("lenet_300_100"), steps=4, validation=64,
                  optimizer=part("sgd", learning_rate=0.1), {fields})
"""


@pytest.fixture
def house(tmp_path):
    """A copy of `experiments` to build in; runs a binary there."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments", ignore=ignored)
    fields = tmp_path / "experiments/config/fields.py"

    def add(file, text, line, new_line):
        (tmp_path / "experiments" / file).write_text(text, encoding="utf-8")
        source = fields.read_text(encoding="utf-8")
        assert source.count(line) == 1
        fields.write_text(source.replace(line, new_line), encoding="utf-8")

    def run(code, config, *flags):
        (tmp_path / "mine.py").write_text(CONFIG.format(fields=config), encoding="utf-8")
        path = os.pathsep.join([str(tmp_path), str(ROOT)])
        command = [sys.executable, "-c", code, "--config=mine.py", *flags]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout, done.stderr

    return add, run, tmp_path


def test_a_study_is_one_file_and_one_line(house):
    add, run, folder = house
    add("studies/weights.py", STUDY, '"posttrain")\n', '"posttrain", "weights")\n')
    code = (
        "from experiments import cli; from experiments.studies.weights import STUDY\n"
        "cli.run(lambda cfg, options: cli.start(STUDY, cfg, options), 'Draws weights.')"
    )
    claim = {"name": "large", "kind": "at_least", "metric": "size", "value": 1.0}
    fields = f"weights={{'draws': 3}}, paper={{'accept': ({claim},)}}"
    status, _, errors = run(code, fields)
    assert status == 0, errors
    (path,) = folder.glob("runs/mine-*/report.md")
    text = path.read_text(encoding="utf-8")
    assert "## 3 draws" in text
    assert "| large |" in text
    assert json.loads((path.parent / "acceptance.json").read_text())[0]["verdict"] == "holds"
    assert run(code, fields)[1].startswith("This run is finished; its report: ")
    status, _, errors = run(code, fields, "--config.weights.drwas=4")
    assert status == 2
    assert "no field 'drwas'; nearest: 'draws'" in errors


def test_a_way_is_one_file_and_one_line(house):
    add, run, _ = house
    line = '    "gate": Way('
    add("ways/relapse.py", WAY, line, f'    "relapse": Way("method", "relapses"),\n{line}')
    gmp = 'part("gmp", begin=0, end=3, every=1{more})'
    train = "from experiments import cli, train; cli.run(train.main, 'Trains.')"
    status, told, errors = run(train, "relapse=" + gmp.format(more=", sparsity=0.9"), "--dry_run")
    assert status == 0, errors
    assert "at step 3, by initial weights where they decide:" in told
    compare = "from experiments import cli, compare; cli.run(compare.main, 'Compares.')"
    rival = gmp.format(more="")
    fields = f"compare={{'sparsities': (0.5,), 'relapses': {{'R': {rival}}}}}"
    status, told, errors = run(compare, fields, "--dry_run")
    assert status == 0, errors
    (row,) = [line for line in told.splitlines() if line.startswith("R ")]
    assert row.split() == ["R", "50", "%", "learned"]
