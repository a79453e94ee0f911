"""A run whose seeds were trained in several folders has their results, and trains nothing again."""

import importlib

import pytest

from experiments import cli
from experiments.config import UserError
from experiments.runs.files import read_json
from experiments.runs.folder import Folder
from experiments.runs.options import Options, Stopper
from experiments.studies import posttrain_runs
from experiments.training import loop

from . import small_runs

# What depends on the hour: these are measured again where results are put together.
MACHINE = ("wall_seconds", "resumed", "small_faster")


def without_machine(tree):
    if isinstance(tree, dict):
        return {k: without_machine(v) for k, v in tree.items() if k not in MACHINE}
    return [without_machine(v) for v in tree] if isinstance(tree, list) else tree


def run(binary, seeds, workdir, seeds_from=(), **changes):
    file = workdir.parent / "small.py"
    file.write_text(small_runs.source(binary), encoding="utf-8")
    cfg = cli.load_config(str(file))
    cfg.update(seeds=seeds, **changes)
    main = importlib.import_module(f"experiments.{binary}").main
    main(cfg, Options("x", workdir, False, Stopper(), seeds_from))
    kinds = {path.parent: read_json(path)["kind"] for path in workdir.glob("x-*/results.json")}
    [folder] = [
        path
        for path, kind in kinds.items()
        if (kind == "lottery") == (binary == "lottery")  # branches have a ticket beside them
        and read_json(path / "config.json")["seeds"] == [*seeds]
    ]
    return folder


def nothing_is_trained(patch):
    def refuse(*_, **__):
        raise AssertionError("a seed was trained again")

    patch.setattr(loop, "batches", refuse)
    patch.setattr(posttrain_runs._Network, "pruned", refuse)


QUICK = ("branches", "compare", "posttrain", "train")
BINARIES = [
    binary if binary in QUICK else pytest.param(binary, marks=pytest.mark.slow)
    for binary in (*small_runs.BINARIES, "branches", "posttrain")
]


@pytest.mark.parametrize("binary", BINARIES)
def test_a_run_in_parts_has_their_results(tmp_path, binary, monkeypatch):
    halves = tuple(run(binary, (seed,), tmp_path / f"half{seed}") for seed in (0, 1))
    nothing_is_trained(monkeypatch)
    joined = run(binary, (0, 1), tmp_path / "joined", halves)
    found, *expected = (read_json(folder / "results.json") for folder in (joined, *halves))
    assert found["cost"]["processes"] == 3
    seeds = [*expected[0]["seeds"], *expected[1]["seeds"]]
    assert without_machine(found["seeds"]) == without_machine(seeds)
    assert (joined / "report.md").exists()


def test_folds_come_along(tmp_path, monkeypatch):
    halves = tuple(
        run("train", (seed,), tmp_path / "a", k_folds=2, validation=0) for seed in (0, 1)
    )
    nothing_is_trained(monkeypatch)
    joined = run("train", (0, 1), tmp_path / "a", halves, k_folds=2, validation=0)
    rows = read_json(joined / "results.json")["seeds"]
    assert [(row["seed"], row["fold"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_branches_need_the_ticket_that_they_began_with(tmp_path):
    half = run("branches", (0,), tmp_path / "half")
    [ticket] = [path for path in (tmp_path / "half").glob("*-*") if path != half]
    hidden = ticket.rename(tmp_path / "ticket")
    with pytest.raises(UserError, match="the ticket of its branches is missing beside it"):
        run("branches", (0, 1), tmp_path / "joined", (half,))
    hidden.rename(ticket)
    (half / "done").unlink()  # its seeds are finished, the run goes on
    levels = read_json(ticket / "seed_0/results.json")["levels"]
    levels[1]["branches"]["ticket"]["digest"] = "of another machine"
    Folder(ticket / "seed_0").finish({"seed": 0, "levels": levels})
    with pytest.raises(UserError, match="level 1 of its ticket is not that of"):
        run("branches", (0,), tmp_path / "half")
