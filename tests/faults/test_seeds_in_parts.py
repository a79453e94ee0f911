"""A run whose seeds were trained in several folders has the results of one that was not divided."""

import importlib

import pytest

from experiments.runs.files import read_json
from experiments.runs.folder import folder_name
from experiments.runs.options import Options, Stopper

from . import small_runs

MACHINE = ("checksum", "cost", "provenance", "wall_seconds", "resumed", "small_faster")


def without_machine(tree):
    """Results without what depends on the machine and the hour."""
    if isinstance(tree, dict):
        return {k: without_machine(v) for k, v in tree.items() if k not in MACHINE}
    return [without_machine(v) for v in tree] if isinstance(tree, list) else tree


@pytest.mark.parametrize("binary", ["lottery", "compare", "train"])
def test_a_run_in_parts_has_the_results_of_one_run(tmp_path, binary):
    main = importlib.import_module(f"experiments.{binary}").main

    def run(seeds, workdir, seeds_from=()):
        cfg = small_runs.settings(binary, seeds=seeds)
        main(cfg, Options("x", workdir, False, Stopper(), seeds_from))
        return workdir / folder_name("x", cfg)

    whole = run((0, 1), tmp_path / "whole")
    halves = tuple(run((seed,), tmp_path / "halves") for seed in (0, 1))
    joined = run((0, 1), tmp_path / "joined", halves)
    found, expected = (read_json(folder / "results.json") for folder in (joined, whole))
    assert found["cost"]["processes"] == 3
    assert len(found["seeds"]) == 2
    assert without_machine(found) == without_machine(expected)
    assert (joined / "report.md").exists()
