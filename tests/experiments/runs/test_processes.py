"""The account of the processes that worked on a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.config import UserError, config
from experiments.runs import files
from experiments.runs import processes as processes_lib
from experiments.runs.folder import RunFolder
from experiments.runs.processes import Processes, command_line

ROOT = Path(__file__).parents[3]
_WORK = """
import sys, time
from pathlib import Path
from experiments.runs import processes
processes._SECONDS_BETWEEN_ROWS = 0.05
account = processes.Processes(Path(sys.argv[1]))
end = time.process_time() + 0.5
while time.process_time() < end: pass
time.sleep(0.3)
print("ready", flush=True)
time.sleep(60)
"""


def work_and_be_killed(path: Path) -> None:
    """Uses half a CPU second in a process that is killed without warning."""
    command = [sys.executable, "-c", _WORK, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)


def test_seconds_of_killed_processes_count(tmp_path):
    path = tmp_path / "processes.json"
    work_and_be_killed(path)
    work_and_be_killed(path)
    account = Processes(path)
    total = account.total()
    account.close()
    assert total["processes"] == 3
    assert total["cpu_seconds"] >= 1.0, "two killed processes took half a second each"
    assert total["wall_seconds"] >= 1.0


def test_results_say_what_they_took_and_how_they_were_made(tmp_path):
    cfg = config()
    with RunFolder.open(tmp_path, "run", cfg, "train") as folder:
        before = time.process_time()
        while time.process_time() < before + 0.2:
            pass
    with RunFolder.open(tmp_path, "run", cfg, "train") as folder:
        folder.finish({"kind": "train", "cost": {"trainings": 3}})
        results = folder.results
    assert results["cost"]["trainings"] == 3
    assert results["cost"]["processes"] == 2
    assert results["cost"]["cpu_seconds"] >= 0.15, "those of the first process count"
    provenance = results["provenance"]
    assert provenance["commands"] == [command_line(sys.orig_argv, Path.cwd())]
    assert {"python", "jax", "cpu", "git"} <= provenance["starts"][-1].keys()


def test_a_damaged_account_is_named(tmp_path):
    path = tmp_path / "processes.json"
    Processes(path).close()
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows[0]["cpu_seconds"] += 1
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"processes\.json"):
        Processes(path)


def test_a_full_disk_does_not_end_the_account(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_lib, "_SECONDS_BETWEEN_ROWS", 0.01)
    account = Processes(tmp_path / "processes.json")
    refusals = []

    def refuse(*_):
        refusals.append(1)
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(processes_lib.files, "write_json", refuse)
        while len(refusals) < 2:
            time.sleep(0.01)
    account.close()
    assert account.total()["processes"] == 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("--config=/data/home/a/b.py", "--config=b.py"),
        ("--config=/home/bob/secret/b.py:ok", "--config=b.py:ok"),
        ("/home/a/my.py", "my.py"),
        (
            "--config.compare.criteria=('my.py:f',)",
            "'--config.compare.criteria=('\"'\"'my.py:f'\"'\"',)'",
        ),
    ],
)
def test_no_path_of_the_machine_is_kept(given, kept):
    assert command_line(["python", given], Path("/home/a")) == f"python {kept}"


def test_a_work_folder_given_in_two_words_is_left_out():
    words = ["python", "-m", "experiments.train", "--workdir", "/tmp/a", "--config", "b.py"]
    assert command_line(words, Path("/work")) == "python -m experiments.train --config b.py"


@pytest.mark.parametrize(
    "row", [{}, {"command": 3, "wall_seconds": 1.0, "cpu_seconds": 1.0}, {"command": "python"}]
)
def test_an_account_of_another_shape_is_named_before_the_training(tmp_path, row):
    path = tmp_path / "processes.json"
    path.write_text(json.dumps([files.seal(row)]), encoding="utf-8")
    with pytest.raises(UserError, match=r"processes\.json holds a row that is none"):
        Processes(path)
