"""Metric files: what they hold, and that a resumed run's end up as if nothing had happened."""

import json
import re
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.config import UserError
from experiments.runs import metric_rows
from experiments.runs.writers import open_writers

ROWS = [
    (0, {"train_loss": 2.25}),
    (100, {"train_loss": 1.5, "validation_loss": 0.1}),
    (200, {"train_loss": 1 / 3}),
    (300, {"train_loss": float("nan"), "sparsity": 0.9}),
    (300, {"validation_loss": 0.2}),
]


def write(folder, rows, after=-1):
    with open_writers(folder, after=after) as writers:
        for step, scalars in rows:
            writers.write(step, scalars)


def files(folder):
    return [(folder / name).read_text() for name in ("metrics.csv", "metrics.jsonl")]


def test_rows_are_as_written(tmp_path):
    write(tmp_path, ROWS)
    table, lines = files(tmp_path)
    assert table.splitlines() == [
        "step,train_loss,validation_loss,sparsity",
        "0,2.25,,",
        "100,1.5,0.1,",
        "200,0.3333333333333333,,",
        "300,nan,,0.9",
        "300,,0.2,",
    ]
    assert [json.loads(line) for line in lines.splitlines()][3] == {
        "step": 300,
        "train_loss": None,
        "sparsity": 0.9,
        "crc32": "c75a48e5",
    }


@pytest.mark.parametrize("after", [-1, 0, 100, 250, 300])
@pytest.mark.parametrize(
    "torn", ["", "400,1.", "300,9.5,0.1,0.9", '{"step": 400, "tr', "400,1.0,2.0,3.0,4.0\n", "\0"]
)
def test_a_resumed_run_leaves_the_same_files(tmp_path, after, torn):
    write(tmp_path / "whole", ROWS)
    write(tmp_path / "killed", ROWS)
    for name in ("metrics.csv", "metrics.jsonl"):
        with (tmp_path / "killed" / name).open("a") as file:
            file.write(torn)
    write(tmp_path / "killed", [row for row in ROWS if row[0] > after], after=after)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


@pytest.mark.parametrize("cut", range(1, 30, 3))
def test_a_last_row_cut_short_is_written_again(tmp_path, cut):
    write(tmp_path / "whole", ROWS)
    write(tmp_path / "killed", ROWS[:3])
    for name in ("metrics.csv", "metrics.jsonl"):
        path = tmp_path / "killed" / name
        path.write_text(path.read_text()[:-cut])
    kept = 100 if cut < 24 else 0  # 24 characters back begins the row of step 100 in the CSV file
    write(tmp_path / "killed", [row for row in ROWS if row[0] > kept], after=kept)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


GAPS = [(step, {"train_loss": 0.1 * step}) for step in range(5, 35, 5)]


def test_a_step_that_was_changed_in_the_table_is_no_row_more(tmp_path):
    write(tmp_path, GAPS)
    table = tmp_path / "metrics.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("\n25,", "\n21,"), encoding="utf-8")
    notes = []
    rows = metric_rows.restore(tmp_path, 30, 6, notes.append)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert not notes


def test_a_line_that_is_lost_comes_from_the_table(tmp_path):
    write(tmp_path, GAPS)
    lines = tmp_path / "metrics.jsonl"
    kept = lines.read_text(encoding="utf-8").splitlines()
    lines.write_text("\n".join(kept[:2] + kept[3:]) + "\n", encoding="utf-8")
    rows = metric_rows.restore(tmp_path, 30, 6, lambda note: None)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]


def test_rows_are_there_before_close(tmp_path):
    writers = open_writers(tmp_path)
    writers.write(1, {"a": 1.0})
    writers.write(2, {"b": 1.0})
    assert [text.count("\n") for text in files(tmp_path)] == [3, 2]
    writers.close()


def test_arrays_are_numbers_by_their_shortest_decimals(tmp_path):
    scalars = {"a": jnp.float32(0.1), "b": np.float64(0.1), "c": jnp.int32(3), "d": np.ones((1,))}
    write(tmp_path, [(np.int64(1), scalars)])
    assert (
        files(tmp_path)[1]
        == '{"step": 1, "a": 0.1, "b": 0.1, "c": 3, "d": 1.0, "crc32": "6a135f77"}\n'
    )
    with pytest.raises(ValueError, match="reshape"):
        write(tmp_path, [(1, {"a": np.ones(2)})])


@pytest.mark.parametrize(("name", "module"), [("tb", "tensorboardX"), ("wandb", "wandb")])
def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install -e '\.\[{name}\]'"):
        open_writers(tmp_path, ("csv", name))
    open_writers(tmp_path, ("csv",)).close()


def test_other_writers_get_every_row(tmp_path, monkeypatch):
    class SummaryWriter:
        def __init__(self, logdir, purge_step):
            calls.append(("open", purge_step))

        def add_scalar(self, name, value, step):
            calls.append((name, value, step))

        def flush(self):
            calls.append("flush")

        def close(self):
            calls.append("close")

    calls = []
    fake = type(sys)("tensorboardX")
    fake.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    with open_writers(tmp_path, ("csv", "tb"), after=100) as writers:
        writers.write(200, {"loss": 0.5, "accuracy": 0.9})
        writers.flush()
    assert calls == [("open", 101), ("loss", 0.5, 200), ("accuracy", 0.9, 200), "flush", "close"]


def test_each_training_has_a_curve_of_its_own(tmp_path, monkeypatch):
    """In W&B: ids differ wherever paths do, and the trainings of a run are one group."""
    started = []

    def init(**options):
        started.append(options)
        return type(sys)("run")

    fake = type(sys)("wandb")
    fake.init = lambda **options: SimpleNamespace(finish=lambda: None, **init(**options).__dict__)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    folders = [
        "run-1/GMP/sparsity_0.9/seed_0",
        "run-1/GMP/sparsity_0.5/seed_0",
        "run-1/GMP, retrained/sparsity_0.9/seed_0",
        "run-1/GMP retrained/sparsity_0.9/seed_0",
        "run-2/GMP/sparsity_0.9/seed_0",
        "run-2/seed_0/reinit_0",
        "run-2/seed_1/reinit_0",
    ]
    for folder in folders:
        open_writers(tmp_path / folder, ("wandb",), workdir=tmp_path).close()
    ids = [options["id"] for options in started]
    assert len(set(ids)) == len(folders)
    assert all(re.fullmatch(r"[\w-]{1,128}", text) for text in ids)
    assert [options["group"] for options in started] == ["run-1"] * 4 + ["run-2"] * 3
    open_writers(tmp_path / folders[0], ("wandb",), workdir=tmp_path).close()
    assert started[-1]["id"] == ids[0], "a resumed training goes on with its curve"
