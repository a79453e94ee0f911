"""Full disks: one line, the last good step stays, and the run goes on to the same end once there is room."""

import errno
import os
import shutil
import sys

import pytest

from experiments import files

from . import small_runs

SIZES = ("16k", "300k", "1m", "3m", "6m")


def in_a_small_disk(folder, size: str, arguments: list[str], keep) -> list[str]:
    """A command that runs on a tmpfs of its own; what is left there is copied away."""
    mounted = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    script = f'{mounted} && "$@"; status=$?; cp -r {folder}/. {keep}; exit $status'
    return ["unshare", "-rm", "sh", "-c", script, "sh", *arguments]


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory):
    """Skips where this user cannot mount a small disk in a namespace of his own."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    probe = in_a_small_disk(folder, "16k", ["true"], tmp_path_factory.mktemp("kept"))
    if small_runs.outcome(probe)[0]:
        pytest.skip("no namespaces")


@pytest.mark.parametrize("size", SIZES)
def test_a_disk_that_is_full(size, small_disks, tmp_path, attack, amount):
    if amount(True, False):
        pytest.skip("make faults")
    tally = attack("R6", f"a disk of {size}", least=1)
    file, environment = tmp_path / "small.py", small_runs.environment(tmp_path / "xla")
    file.write_text(small_runs.source("train"), encoding="utf-8")
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir(), kept.mkdir()
    arguments = small_runs.command("train", file, disk)
    code, _, err = small_runs.outcome(in_a_small_disk(disk, size, arguments, kept), env=environment)
    last = err.splitlines()[
        -1
    ].lower()  # Orbax's threads may print tracebacks of their own before it
    tally.happened(code != 0, f"{size}: it fitted")
    if code == 2 and last.startswith("experiments.train: ") and "no space left" in last:
        tally.survive()
    else:
        tally.foreign.append(f"{code} {err[-800:]}")
    code, _, err = small_runs.outcome(small_runs.command("train", file, kept), env=environment)
    assert code == 0, err[-1000:]
    code, _, _ = small_runs.outcome(
        small_runs.command("train", file, tmp_path / "whole"), env=environment
    )
    (found,), (whole,) = list(kept.iterdir()), list((tmp_path / "whole").iterdir())
    assert small_runs.fingerprint(found) == small_runs.fingerprint(whole)
    assert not list(found.rglob(".*.tmp"))


WRITERS = {
    "JSON": lambda path: files.write_json(path, {"a": 2}),
    "sealed JSON": lambda path: files.write_sealed(path, {"a": 2}),
    "text": lambda path: files.write_text(path, "2" * 100_000),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_write_that_fails_leaves_the_old_file(what, tmp_path, attack, monkeypatch):
    """The disk is full at the write itself, at the flush, or at the rename."""
    tally = attack("R6", f"no space for {what}", least=3)
    path = tmp_path / "a.json"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    for name in ("fsync", "replace", "open"):
        files.write_json(path, {"a": 1})
        before = path.read_bytes()
        happened = False
        with monkeypatch.context() as patched:
            if name == "open":
                patched.setattr("pathlib.Path.open", full)
            elif name == "replace":
                patched.setattr("pathlib.Path.replace", full)
            else:
                patched.setattr(os, "fsync", full)
            try:
                WRITERS[what](path)
            except OSError as e:
                happened = e.errno == errno.ENOSPC
        tally.happened(happened, name)
        if path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.json"]:
            tally.survive()
        else:
            tally.silent.append(name)


def test_a_file_that_may_not_grow(tmp_path, attack):
    """The limit of the operating system on a file's size, met in the middle of a real write."""
    tally = attack("R6", "a file that may not grow", least=1)
    program = (
        "import resource, signal, sys\n"
        "from experiments import cli, files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "with cli.one_line_errors():\n"
        "    files.write_json(sys.argv[1], list(range(10_000)))\n"
    )
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    environment = small_runs.environment(tmp_path)
    code, _, err = small_runs.outcome([sys.executable, "-c", program, str(path)], env=environment)
    tally.happened(code != 0, "it was written")
    whole = files.read_json(path) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
    if code == 2 and err.count("\n") == 1 and whole:
        tally.survive()
    else:
        tally.foreign.append(f"{code} {err[-500:]}")
