"""Run folders that were damaged, edited, linked elsewhere or cannot be written: exact, or told."""

import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from experiments.report import write_report
from experiments.runs import files, metric_rows
from experiments.runs import starts as starts_lib
from experiments.runs.folder import Folder, RunFolder
from experiments.runs.starts import read_starts
from experiments.runs.writers import open_writers

from . import small_runs

ROWS = 40
NOT_A_RUN = {
    "nothing": "",
    "null": "null",
    "a number": "3",
    "a word": '"x"',
    "a list": "[]",
    "an object": "{}",
    "lists in lists": "[" * 100_000,
    "a list of null": "[null]",
    "a list of numbers": "[1]",
    "not a number": "NaN",
    "half": '{"kind": "train", "see',
    "seeds are a number": '{"kind": "train", "seeds": 3}',
    "seeds are null": '{"kind": "train", "seeds": [null]}',
    "seeds are empty": '{"kind": "train", "seeds": [{}]}',
    "sealed with a number that overflows": (
        '{"kind": "train", "seeds": [{"seed": 0}], "x": 1e999, "checksum": "0"}'
    ),
    "kind is a list": '{"kind": [], "seeds": [{"seed": 0}]}',
    "kind is another": '{"kind": "compare", "seeds": [{"seed": 0}]}',
    "leaves are a number": '{"kind": "train", "seeds": [{"seed": 0, "test_accuracy": 0.5, "per_leaf": 3}]}',
    "config is a number": '{"kind": "train", "config": 3, "seeds": [{"seed": 0, "test_accuracy": 0.5}]}',
    "paper is a list": '{"kind": "train", "paper": [1], "seeds": [{"seed": 0, "test_accuracy": 0.5}]}',
    "not UTF-8": b"\xff\xfe\x00",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The config of a finished training, its work folder and its run folder."""
    workdir = tmp_path_factory.mktemp("finished")
    cfg = small_runs.settings("train", steps=10, method=None)
    with small_runs.told():
        return cfg, workdir, small_runs.run("train", cfg, workdir)


@pytest.fixture
def copied(finished, tmp_path):
    """Makes fresh copies of it: returns work folder and run folder."""
    _, workdir, folder = finished
    shutil.rmtree(folder / "seed_0" / "checkpoints", ignore_errors=True)  # they are slow to copy
    shutil.rmtree(tmp_path / "copy", ignore_errors=True)

    def copy():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(workdir, tmp_path / "copy")
        return tmp_path / "copy", tmp_path / "copy" / folder.name

    return copy


def flipped(data: bytes, draw: random.Random) -> bytes:
    """One bit is another."""
    changed, place = bytearray(data), draw.randrange(len(data))
    changed[place] ^= 1 << draw.randrange(8)
    return bytes(changed)


def edited(data: bytes, draw: random.Random) -> bytes:
    """A byte is another, a part is missing, comes twice or is zeros; or the file is cut or empty."""
    place = draw.randrange(len(data))
    length = draw.randint(1, 60)
    part = data[place : place + length]
    return draw.choice(
        [
            data[:place],
            b"",
            data[:place] + data[place + length :],
            data[: place + length] + part + data[place + length :],
            data[:place] + bytes(len(part)) + data[place + length :],
            data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
        ]
    )


def written_metrics(folder: Path) -> list[dict]:
    """Writes rows as a training does; returns them."""
    draw = random.Random(0)
    with open_writers(folder) as writers:
        for step in range(1, ROWS + 1):
            row = {"level": 0, "level_step": step, "train_loss": draw.uniform(0, 3)}
            if step % 5 == 0:
                row |= {"validation_loss": draw.uniform(0, 3), "validation_accuracy": draw.random()}
            writers.write(step, row)
    return metric_rows.read(folder)


def test_damaged_metrics_are_restored_or_told(tmp_path, attack, amount):
    whole = written_metrics(tmp_path / "whole")
    assert len(whole) == ROWS
    tally = attack(
        "R5", "metrics.csv and metrics.jsonl, damaged, at a resume", least=amount(60, 600)
    )
    draw = random.Random(1)
    exact = 0
    for number in range(amount(60, 600)):
        folder = tmp_path / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / ("metrics.csv" if number % 3 == 0 else "metrics.jsonl")
        before = path.read_bytes()
        damage = (flipped if number % 2 else edited)(before, draw)
        if damage == before:
            continue
        path.write_bytes(damage)
        case = f"{path.name} {number}"
        tally.happened(path.read_bytes() != before, case)
        said: list[str] = []
        kept = draw.choice([ROWS, ROWS, ROWS // 2])
        try:
            rows = metric_rows.restore(folder, kept, kept, said.append)
        except BaseException as e:
            tally.foreign.append(f"{case}: {e!r}")
            continue
        exact += rows == whole[:kept]
        good = [row for row in whole[:kept] if row in rows]
        strangers = [row for row in rows if row not in whole]
        if rows == whole[:kept] or (said and rows == good and not strangers):
            tally.survive()
        else:
            tally.silent.append(f"{case}: {strangers[:2]} {len(rows)} {said}")
    assert exact >= 0.8 * tally.tried, "the second copy is of use"


def test_metrics_of_a_resumed_run_are_whole_again_on_disk(tmp_path):
    whole = written_metrics(tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[7] = lines[7].replace('"train_loss": ', '"train_loss": 7')
    path.write_text("".join(lines), encoding="utf-8")
    open_writers(tmp_path, after=ROWS, rows=ROWS).close()
    assert metric_rows.read(tmp_path) == whole
    assert '"train_loss": 7' not in path.read_text(encoding="utf-8").splitlines()[7]


def test_files_of_a_folder_that_are_damaged(finished, copied, attack, amount, monkeypatch):
    """Results are as they were, set aside with a sentence, or refused; so are versions and config."""
    cfg, _, folder = finished
    monkeypatch.setattr(starts_lib, "versions", lambda: read_starts(folder / "versions.json")[-1])
    results, starts = Folder(folder).results, read_starts(folder / "versions.json")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    names = ["results.json", "config.json", "versions.json", "processes.json", "done"]
    names += ["seed_0/results.json"]
    tally = attack(
        "R5", "config, versions, processes, results, done, damaged", least=amount(60, 300)
    )
    draw = random.Random(2)
    for number in range(amount(64, 330)):
        workdir, place = copied()
        path = place / names[number % len(names)]
        before = path.read_bytes()
        damage = (flipped if number % 2 else edited)(before, draw)
        if damage == before:
            continue
        path.write_bytes(damage)
        tally.happened(path.read_bytes() != before, f"{path.name} {number}")
        told: list[str] = []
        try:
            report = RunFolder.report(workdir, small_runs.NAME, cfg, "train")
            with RunFolder.open(workdir, small_runs.NAME, cfg, "train") as opened:
                opened._notify = told.append
                found = opened.results
                seed = Folder(place / "seed_0", told.append)
                inner = seed.results
                stored = json.loads((place / "config.json").read_text(encoding="utf-8"))
                now = read_starts(place / "versions.json")
        except BaseException as e:
            if small_runs.sentence(e):
                tally.survive()
            else:
                tally.foreign.append(f"{path.name} {number}: {e!r}")
            continue
        right = found == results or (told and found is None)
        right = right and (inner is None or inner == Folder(folder / "seed_0").results)
        right = right and stored == settings and now == starts
        right = right and (report is None or found == results)
        if right:
            tally.survive()
        else:
            tally.silent.append(f"{path.name} {number}")


@pytest.mark.parametrize("name", ["versions.json", "processes.json", "results.json"])
def test_what_has_lost_its_checksum_is_refused(name, finished, copied, monkeypatch):
    """One letter of the key is another, so that nobody would look at the checksum."""
    cfg, _, folder = finished
    monkeypatch.setattr(starts_lib, "versions", lambda: read_starts(folder / "versions.json")[-1])
    workdir, place = copied()
    path = place / name
    text = path.read_text(encoding="utf-8")
    assert text.count('"checksum"') >= 1
    path.write_text(text.replace('"checksum"', '"checksun"'), encoding="utf-8")
    told: list[str] = []
    if name == "results.json":
        with pytest.raises(files.UserError, match=r"results\.json"):
            write_report(place)
        with RunFolder.open(workdir, small_runs.NAME, cfg, "train") as opened:
            opened._notify = told.append
            assert opened.results is None
        assert "set aside" in told[0]
    else:
        with pytest.raises(files.UserError, match="lost the checksum"):
            RunFolder.open(workdir, small_runs.NAME, cfg, "train")


@pytest.mark.parametrize(
    "name", ["config.json", "versions.json", "processes.json", "results.json", "report"]
)
def test_json_of_another_shape(name, finished, copied, attack, monkeypatch):
    cfg, _, folder = finished
    monkeypatch.setattr(starts_lib, "versions", lambda: read_starts(folder / "versions.json")[-1])
    tally = attack("R24", f"JSON of another shape: {name}", least=len(NOT_A_RUN))
    for case, text in NOT_A_RUN.items():
        workdir, place = copied()
        path = place / (name if name != "report" else "results.json")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        tally.happened(True, case)
        try:
            with small_runs.told() as told:
                if name == "report":
                    write_report(place)
                else:
                    RunFolder.report(workdir, small_runs.NAME, cfg, "train")
                    with RunFolder.open(workdir, small_runs.NAME, cfg, "train") as opened:
                        _ = opened.results
        except BaseException as e:
            if small_runs.sentence(e):
                tally.survive()
            else:
                tally.foreign.append(f"{case}: {e!r}")
            continue
        empty = name in ("versions.json", "processes.json") and text == "[]"
        plain = (
            name == "results.json"
        )  # what has no checksum is as it is; the report looks at its shape
        if told.getvalue() or empty or plain or name == "config.json" or case == "kind is another":
            tally.survive()
        else:
            tally.silent.append(case)


def test_a_report_of_damaged_files(finished, copied, attack, amount, monkeypatch):
    """A report is written as before, or the damaged file is named."""
    monkeypatch.setattr(
        "experiments.reports.report.importlib.util.find_spec", lambda name: None
    )  # no plots
    _, place = copied()
    with small_runs.told():
        whole = write_report(place).read_text(encoding="utf-8")
    tally = attack("R5", "the report of damaged results and versions", least=amount(40, 180))
    draw = random.Random(3)
    for number in range(amount(42, 190)):
        _, place = copied()
        path = place / ("results.json" if number % 2 else "versions.json")
        before = path.read_bytes()
        damage = (flipped if number % 4 < 2 else edited)(before, draw)
        if damage == before:
            continue
        path.write_bytes(damage)
        tally.happened(path.read_bytes() != before, f"{path.name} {number}")
        try:
            with small_runs.told():
                report = write_report(place).read_text(encoding="utf-8")
        except BaseException as e:
            if small_runs.sentence(e):
                tally.survive()
            else:
                tally.foreign.append(f"{path.name} {number}: {e!r}")
            continue
        if report == whole:
            tally.survive()
        else:
            tally.silent.append(f"{path.name} {number}")


LINKS = [
    *("lock", "holder", "config.json", "versions.json", "processes.json"),
    *("results.json", "done", "report.md"),
    *(
        "acceptance.json",
        "seed_0",
        "seed_0/checkpoints",
        "seed_0/metrics.csv",
        "seed_0/results.json",
    ),
    *("seed_0/metrics.jsonl", ".config.json.1.tmp", "criteria", "seed_0/masks.npz"),
]


@pytest.mark.parametrize("target_is", ["file", "folder", "missing"])
def test_symlinks_are_not_followed(target_is, finished, copied, tmp_path, attack, monkeypatch):
    cfg, _, folder = finished
    monkeypatch.setattr(starts_lib, "versions", lambda: read_starts(folder / "versions.json")[-1])
    tally = attack("R24", f"symlinks in a run folder, to a {target_is}", least=len(LINKS))
    for name in LINKS:
        workdir, place = copied()
        outside = tmp_path / "outside"
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir()
        target = outside / "theirs"
        if target_is == "file":
            target.write_text("precious", encoding="utf-8")
        elif target_is == "folder":
            target.mkdir()
        path = place / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        path.symlink_to(target)
        tally.happened(path.is_symlink(), name)
        before = sorted((p.name, p.is_file() and p.read_bytes()) for p in outside.rglob("*"))
        try:
            with (
                small_runs.told(),
                RunFolder.open(workdir, small_runs.NAME, cfg, "train") as opened,
            ):
                open_writers(opened.path / "seed_0", after=10).close()
                opened.finish({"kind": "train"})
            tally.silent.append(f"{name}: nobody minds")
        except BaseException as e:
            after = sorted((p.name, p.is_file() and p.read_bytes()) for p in outside.rglob("*"))
            if not small_runs.sentence(e):
                tally.foreign.append(f"{name}: {e!r}")
            elif after != before:
                tally.silent.append(f"{name}: was followed, {after}")
            else:
                tally.survive()


@pytest.mark.parametrize("name", ["report.md", "acceptance.json"])
def test_a_report_replaces_a_symlink(name, copied, tmp_path):
    _, place = copied()
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    (place / name).unlink()
    (place / name).symlink_to(precious)
    with small_runs.told():
        write_report(place)
    assert precious.read_text(encoding="utf-8") == "mine"
    assert not (place / name).is_symlink()


def test_what_killed_processes_leave_is_swept(finished, copied, monkeypatch):
    cfg, _, folder = finished
    monkeypatch.setattr(starts_lib, "versions", lambda: read_starts(folder / "versions.json")[-1])
    workdir, place = copied()
    left = [".config.json.1.tmp", ".done.99.tmp", "seed_0/.results.json.2.tmp"]
    left += ["seed_0/.metrics.csv.3.tmp", "seed_0/.masks.npz.4.tmp"]
    users = ["seed_0/.notes.tmp", ".x.1.tmp.txt", "notes.1.tmp"]
    for name in (*left, *users):
        (place / name).write_text("", encoding="utf-8")
    RunFolder.open(workdir, small_runs.NAME, cfg, "train").close()
    assert not [name for name in left if (place / name).exists()]
    assert all((place / name).exists() for name in users), "files of the user's stay"


@pytest.fixture
def read_only():
    """`read_only(folder)`: from now on the operating system lets nobody write below it."""
    state = {"folder": None, "refused": 0}
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT

    def watch(event, arguments):
        if state["folder"] is None:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & writing):
            return
        if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink"):
            paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes)]
            if any(path.startswith(state["folder"]) for path in paths):
                state["refused"] += 1
                raise OSError(30, "Read-only file system", paths[0])

    sys.addaudithook(watch)
    yield lambda folder: state.update(folder=str(folder)) or state
    state["folder"] = None


def test_a_finished_run_on_a_read_only_disk_prints_its_report(finished, copied, read_only, capsys):
    cfg, _, _ = finished
    workdir, place = copied()
    state = read_only(workdir)
    with pytest.raises(OSError, match="Read-only"):
        (place / "x").write_text("", encoding="utf-8")
    refused = state["refused"]
    small_runs.run("train", cfg, workdir)
    assert str(place / "report.md") in capsys.readouterr().out
    assert state["refused"] == refused, "nobody tried to write"


@pytest.mark.parametrize("lost", ["report.md", "results.json", "done", "seed_0/results.json"])
def test_a_run_that_was_killed_before_its_report_writes_it(lost, tmp_path, capsys, amount):
    binary, whole = "train", tmp_path / "whole"
    if lost != "report.md" and amount(True, False):
        pytest.skip("make faults")
    cfg = small_runs.settings(binary, steps=10, method=None)
    folder = small_runs.run(binary, cfg, whole)
    before = small_runs.fingerprint(folder)
    report = (folder / "report.md").read_text(encoding="utf-8")
    (folder / "report.md").unlink()
    (folder / lost).unlink(missing_ok=True)
    if "seed" in lost:
        (folder / "done").unlink()
    capsys.readouterr()
    small_runs.run(binary, cfg, whole)
    assert "report.md" in capsys.readouterr().out
    assert small_runs.fingerprint(folder) == before
    head = report.split("## Cost")[0]
    assert (folder / "report.md").read_text(encoding="utf-8").split("## Cost")[0] == head


def test_three_at_once(tmp_path):
    """One works, two are told who."""
    cfg = small_runs.settings("train")
    with RunFolder.open(tmp_path, "x", cfg, "train"):
        for _ in range(2):
            with pytest.raises(files.UserError, match=f"in use by process {os.getpid()} on "):
                RunFolder.open(tmp_path, "x", cfg, "train")
    RunFolder.open(tmp_path, "x", cfg, "train").close()
