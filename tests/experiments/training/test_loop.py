"""The training loop and the binaries on synthetic data: what they find, and how they stop and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import pytest
from flax import linen as nn
from stopping import StopsAfter

from experiments import cli, lottery, train
from experiments.cli import Options, Stopper, UserError
from experiments.config import part
from experiments.runs.folder import folder_name
from experiments.studies import lottery_runs
from experiments.training import setup as setup_lib

ROOT = Path(__file__).parents[3]
SMALL = {
    "data.name": "synthetic_mnist",
    "validation": 256,
    "seeds": (0,),
    "steps": 60,
    "log_every": 10,
    "eval_every": 20,
    "save_every": 20,
}


def load(file, **changes):
    cfg = cli.load_config(str(ROOT / "configs" / file))
    for name, value in {**SMALL, **changes}.items():
        *parents, last = name.split(".")
        here = cfg
        for parent in parents:
            here = here[parent]
        with here.unlocked():
            here[last] = value
    return cfg.lock()


def run(main, cfg, workdir, stopper=None, dry_run=False):
    main(cfg, Options("test", workdir, dry_run, stopper or Stopper()))
    found = workdir / folder_name("test", cfg)
    done = (found / "results.json").exists()
    return json.loads((found / "results.json").read_text()) if done else None


GMP = {"method.begin": 10, "method.end": 50, "method.every": 10, "method.sparsity": 0.9}
LOTTERY = {"lottery.rounds": 2, "lottery.controls": ("reinit", "shuffled")}


def test_training_learns_prunes_and_resumes_to_the_same_bits(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", **GMP)
    whole = run(train.main, cfg, tmp_path / "whole")
    (seed,) = whole["seeds"]
    assert seed["test_accuracy"] > 0.5
    assert seed["sparsity"] == pytest.approx(0.9, abs=1e-4)
    for looks in (1, 3):
        assert run(train.main, cfg, tmp_path / "cut", StopsAfter(looks)) is None
    resumed = run(train.main, cfg, tmp_path / "cut")
    assert resumed["seeds"] == whole["seeds"]
    rows = lambda name: (
        tmp_path / name / folder_name("test", cfg) / "seed_0/metrics.csv"
    ).read_text()
    assert rows("cut") == rows("whole")


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        part("sr_ste", sparsity=0.75, end=55),
        part(
            "partition",
            methods=(
                ("fc1", part("rigl", sparsity=0.75, every=10, end=50)),
                ("fc", part("gmp", sparsity=0.75, begin=10, end=50, every=10)),
            ),
        ),
    ],
    ids=lambda method: method.name,
)
def test_other_ways_to_train_sparse_resume_as_well(method, tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", method=method)
    whole = run(train.main, cfg, tmp_path / "whole")
    (seed,) = whole["seeds"]
    assert seed["sparsity"] == 0.75
    assert seed["test_accuracy"] > 0.5, "of the sparse network"
    assert run(train.main, cfg, tmp_path / "cut", StopsAfter(3)) is None
    assert run(train.main, cfg, tmp_path / "cut")["seeds"] == whole["seeds"]


def test_a_validation_set_larger_than_the_data_is_refused(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", **GMP, validation=5_000)
    with pytest.raises(UserError, match=r"config\.validation: .*5000"):
        run(train.main, cfg, tmp_path)


def test_a_finished_run_is_left_alone(tmp_path, capsys):
    cfg = load("zhu2017/lenet300_mnist_s95.py", **GMP, steps=55)
    run(train.main, cfg, tmp_path)
    before = {
        p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.name != "lock"
    }
    run(train.main, cfg, tmp_path)
    assert "finished" in capsys.readouterr().out
    after = {p: p.stat().st_mtime_ns for p in before}
    assert after == before


def test_the_command_line_makes_a_run_dense():
    file = ROOT / "configs/zhu2017/lenet300_mnist_s95.py"
    cfg, _ = cli.parse(["train", f"--config={file}", "--config.method=None"], "")
    assert cfg.method is None
    cfg, _ = cli.parse(["train", f"--config={file}", "--config.method.sparsity=0.5"], "")
    assert cfg.method.sparsity == 0.5


def test_a_dense_run_has_no_masks(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", method=None, steps=20)
    assert run(train.main, cfg, tmp_path)["seeds"][0]["sparsity"] == 0.0


def test_cross_validation_trains_once_per_fold(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", method=None, steps=20, k_folds=2)
    seeds = run(train.main, cfg, tmp_path)["seeds"]
    assert [s["fold"] for s in seeds] == [0, 1]
    assert seeds[0]["digest"] != seeds[1]["digest"]


def test_patience_ends_a_training(tmp_path):
    cfg = load(
        "zhu2017/lenet300_mnist_s95.py",
        method=None,
        early_stop=1,
        **{"optimizer.learning_rate": 0.0},
    )
    assert run(train.main, cfg, tmp_path)["seeds"][0]["steps"] == 40


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", method=None, **{"optimizer.learning_rate": 1e30})
    with pytest.raises(UserError, match="no longer finite between the updates"):
        run(train.main, cfg, tmp_path)


def test_a_target_that_would_not_be_reached_is_refused(tmp_path):
    cfg = load("zhu2017/lenet300_mnist_s95.py", **{**GMP, "method.end": 60})
    with pytest.raises(UserError, match="would not be reached"):
        run(train.main, cfg, tmp_path)


def test_a_lottery_resumes_to_the_same_bits_and_is_what_it_says(tmp_path):
    cfg = load("lottery/quickstart.py", **LOTTERY)
    whole = run(lottery.main, cfg, tmp_path / "whole")
    (seed,) = whole["seeds"]
    left = [level["remaining"] for level in seed["levels"]]
    expected = [1.0]
    kept = [235200, 30000, 1000]
    for _ in range(2):
        kept = [k - int(k * r + 0.5) for k, r in zip(kept, (0.35, 0.35, 0.175), strict=True)]
        expected.append(sum(kept) / 266200)
    assert left == pytest.approx(expected, abs=1e-5)
    branches = [sorted(level["branches"]) for level in seed["levels"]]
    assert branches == [["ticket"]] + 2 * [["reinit", "shuffled", "ticket"]]
    bits = {r["digest"] for level in seed["levels"] for r in every_result(level)}
    assert len(bits) == 7, "no two trainings are the same"
    for looks in (2, 9, 21):
        assert run(lottery.main, cfg, tmp_path / "cut", StopsAfter(looks)) is None
    resumed = run(lottery.main, cfg, tmp_path / "cut")
    assert resumed["seeds"] == whole["seeds"]
    report = (tmp_path / "cut" / folder_name("test", cfg) / "report.md").read_text()
    assert "weights left" in report


class Counting(nn.Module):
    """A model whose other variables count the updates that trained it."""

    @nn.compact
    def __call__(self, x, train=False):
        count = self.variable("statistics", "count", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            count.value += 1
        return nn.Dense(10, name="fc3")(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    ("rewind", "counts"), [("weights", [60, 60, 60]), ("finetune", [60, 105, 150])]
)
def test_statistics_rewind_with_the_weights(rewind, counts, tmp_path, monkeypatch):
    seen = {}

    def describe(level, state):
        seen.setdefault(level.name, int(state.rest["statistics"]["count"]))
        return describe_well(level, state)

    describe_well = lottery_runs._describe
    monkeypatch.setattr(lottery_runs, "_describe", describe)
    monkeypatch.setattr(setup_lib, "model_of", lambda cfg: Counting())
    changes = {"rounds": 2, "controls": (), "rewind_to": 15, "rewind": rewind}
    cfg = load("lottery/quickstart.py", **{f"lottery.{k}": v for k, v in changes.items()})
    assert run(lottery.main, cfg, tmp_path, StopsAfter(4)) is None
    assert run(lottery.main, cfg, tmp_path)
    assert seen == dict(enumerate(counts))


def every_result(level):
    for found in level["branches"].values():
        yield from found if isinstance(found, list) else [found]


@pytest.mark.parametrize(
    ("file", "changes"), [("lottery/smoke.py", {}), ("zhu2017/lenet300_mnist_s95.py", GMP)]
)
def test_a_dry_run_prints_the_plan_and_writes_nothing(file, changes, tmp_path, capsys):
    cfg = load(file, **changes)
    (lottery if "lottery" in file else train).main(cfg, Options("test", tmp_path, True, Stopper()))
    out = capsys.readouterr().out
    assert "fc1/kernel" in out
    assert "FLOPs" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # tests/faults/test_kills.py kills one in the suite
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_loses_nothing(number, tmp_path):
    changes = {**SMALL, "steps": 1000, "save_every": 100}
    settings = [f"--config.{name}={value}" for name, value in changes.items()]
    command = [
        *(sys.executable, "-m", "experiments.train"),
        "--config=configs/zhu2017/lenet300_mnist_s95.py",
        f"--workdir={tmp_path}",
        *settings,
        *("--config.method.begin=10", "--config.method.end=900"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 240
    saved = lambda: [p for p in tmp_path.glob("*/seed_0/checkpoints/*") if p.name.isdigit()]
    while not saved() and process.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == (143 if number == signal.SIGTERM else -9), errors[-500:]
    assert saved(), "killed after a save, before the end"
    assert not list(tmp_path.glob("*/done"))
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert resumed.returncode == 0, resumed.stderr[-500:]
    (results,) = tmp_path.glob("*/results.json")
    assert json.loads(results.read_text())["seeds"][0]["steps"] == 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stop": 2}, "early_stop"),
        ({"lottery.rewind_to": 60}, "rewind_to=60"),
    ],
)
def test_tickets_that_cannot_be_are_refused(changes, message, tmp_path):
    cfg = load("lottery/quickstart.py", **changes)
    with pytest.raises(UserError, match=message):
        run(lottery.main, cfg, tmp_path)
