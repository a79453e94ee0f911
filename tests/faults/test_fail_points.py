"""Deaths right before and after every rename, replace and rmtree: the state is either before or after."""

import json
import subprocess
import sys

import pytest

from experiments.run_folder import Folder

from . import small_runs

# Put before a program: the process dies at a call of the file system, counted from 1; NUMBER is its number,
# negative for right after it. Without one it prints how many there were.
DYING = """
import atexit, os, shutil, sys
number, calls = int(sys.argv[1]), [0]

def dying(function):
    def call(*arguments, **options):
        calls[0] += 1
        mine = calls[0]  # others may come before this one returns
        if mine == number:
            os._exit(9)
        value = function(*arguments, **options)
        if mine == -number:
            os._exit(9)
        return value
    return call

os.rename, os.replace, shutil.rmtree = dying(os.rename), dying(os.replace), dying(shutil.rmtree)
atexit.register(lambda: print("calls:", calls[0]))
sys.argv = sys.argv[1:]
"""
FINISH = """
from pathlib import Path
from experiments.run_folder import Folder
Folder(Path(sys.argv[1])).finish({"kind": "new"})
"""
RUN = """
import runpy
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def calls(text: str) -> int:
    return int(text.rpartition("calls:")[2])


def test_results_are_the_old_ones_or_the_new_ones(tmp_path, attack, amount):
    """Python alone, so that each death is cheap."""
    tally = attack("R3", "deaths while results are stored", least=2)
    start = lambda number, folder: subprocess.run(
        [sys.executable, "-c", DYING + FINISH, str(number), str(folder)],
        cwd=small_runs.ROOT,
        capture_output=True,
        text=True,
    )
    total = calls(start(0, tmp_path / "whole").stdout)
    assert total >= 2
    for point in range(1, total + 1):
        for number in (point, -point) if amount(False, True) else (point,):
            for before in (None, {"kind": "old"}):
                path = tmp_path / f"{number} {before}"
                folder = Folder(path, lambda text: None)
                if before:
                    folder.finish(before)
                died = start(number, path)
                tally.happened(died.returncode == 9, f"call {number}")
                if folder.results in (before, {"kind": "new"}, None):
                    tally.survive()
                else:
                    tally.silent.append(f"call {number}: {folder.results}")


@pytest.mark.parametrize("binary", ["train", "lottery"])
def test_a_run_that_died_ends_as_if_it_had_not(binary, tmp_path, attack, amount):
    most = amount(0, 20)
    if not most:
        pytest.skip("make faults")
    tally = attack("R3", f"deaths before and after renames: {binary}", least=most)
    file, environment = tmp_path / "small.py", small_runs.environment(tmp_path / "xla")
    file.write_text(small_runs.source(binary), encoding="utf-8")

    def start(number: int, workdir):
        arguments = small_runs.command(binary, file, workdir)[2:]
        return small_runs.outcome(
            [sys.executable, "-c", DYING + RUN, str(number), *arguments], env=environment
        )

    code, out, err = start(0, tmp_path / "whole")
    assert code == 0, err[-1000:]
    (expected,) = (tmp_path / "whole").iterdir()
    expected, total = small_runs.fingerprint(expected), calls(out)
    points = [round(1 + i * (total - 1) / (most // 2 - 1)) for i in range(most // 2)]
    for number in [sign * point for point in points for sign in (1, -1)]:
        workdir = tmp_path / f"died {number}"
        code, _, _ = start(number, workdir)
        tally.happened(code == 9, f"call {number} of {total}")
        code, _, err = small_runs.outcome(
            small_runs.command(binary, file, workdir), env=environment
        )
        (found,) = workdir.iterdir()
        if code == 0 and small_runs.fingerprint(found) == expected:
            tally.survive()
        else:
            tally.silent.append(f"call {number}: {code} {err[-500:]}")


def test_json_of_a_death_in_mid_write_is_whole(tmp_path, attack):
    """The temporary file is cut short, the old one stays."""
    from experiments.files import read_json, sweep, write_json

    tally = attack("R3", "a death in mid-write", least=1)
    write_json(tmp_path / "a.json", {"a": 1})
    text = json.dumps({"a": 2})
    (tmp_path / ".a.json.1.tmp").write_text(text[:4], encoding="utf-8")
    tally.happened((tmp_path / ".a.json.1.tmp").exists(), "half a file")
    sweep(tmp_path)
    if read_json(tmp_path / "a.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1:
        tally.survive()
