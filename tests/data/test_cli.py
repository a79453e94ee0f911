import subprocess
import sys

import numpy as np
import pytest

import jaxprune.data
from experiments import data
from jaxprune.data import arrays, catalogue
from jaxprune.data.synthetic import twin


def run(*arguments):
    command = [sys.executable, "-X", "importtime", "-m", "experiments.data", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    imported = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    return done, imported


@pytest.mark.parametrize("arguments", [["--help"], ["fetch", "--help"], ["fetch", "mnits"]])
def test_help_and_wrong_names_answer_without_heavy_imports(arguments):
    done, imported = run(*arguments)
    assert done.returncode == (2 if "mnits" in arguments else 0)
    assert "argparse" in imported
    assert not {"jax", "jaxprune", "numpy", "tensorflow_datasets", "rich"} & imported
    assert "mnits" not in arguments or "did you mean 'mnist'?" in done.stderr


def test_check_accepts_what_is_right_and_names_what_is_wrong(monkeypatch, capsys):
    made = twin("mnist")
    counts = tuple(tuple(np.bincount(split.labels).tolist()) for split in made[:2])
    digests = tuple(arrays.sha256(split.inputs) for split in made[:2])
    entry = catalogue.Entry("3.0.1", (28, 28, 1), *counts, digests)
    monkeypatch.setitem(catalogue.REAL, "mnist", entry)
    monkeypatch.setattr(jaxprune.data, "load", lambda name, data_dir: made)
    assert data.main(["check", "mnist"]) == 0
    assert "mnist: ok" in capsys.readouterr().out

    made.test.inputs[0, 0, 0, 0] ^= 1
    made.train.labels[0] = (made.train.labels[0] + 1) % 10
    assert data.main(["check", "mnist"]) == 1
    out = capsys.readouterr().out
    assert "mnist: WRONG" in out
    assert "test sha256" in out
    assert "train examples per class" in out
    assert "train sha256" not in out


def test_what_is_missing_is_one_sentence_and_code_1(tmp_path, capsys):
    assert data.main(["check", "mnist", f"--data_dir={tmp_path}"]) == 1
    message = capsys.readouterr().err
    assert "experiments.data fetch mnist" in message
    assert message.count("\n") == 1


def test_list_says_what_is_prepared(tmp_path, capsys):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    assert data.main(["list", f"--data_dir={tmp_path}"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert str(folder) in next(line for line in out if line.startswith("mnist "))
    assert next(line for line in out if line.startswith("cifar10 ")).endswith("no")


def test_synthetic_data_need_no_fetch(capsys):
    assert data.main(["fetch", "synthetic_mnist"]) == 0
    assert data.main(["check", "synthetic_mnist"]) == 0
