"""Temporary files: whose they are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxprune.posttrain.store import Store
from jaxprune.storage.durable import is_abandoned, unused_path, whole_file


def number_of_a_dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_only_files_of_dead_processes_are_abandoned():
    alive = unused_path(Path("0.npz"))
    dead = alive.with_name(f".0.npz.{number_of_a_dead_process()}.0123abcd.tmp")
    assert not is_abandoned(alive)
    assert is_abandoned(dead)


@pytest.mark.parametrize("name", ["0.npz", ".notes.tmp", ".0.npz.x.0123abcd.tmp", ".0.npz.7.tmp"])
def test_other_names_are_not(name):
    assert not is_abandoned(Path(name))


def test_a_second_process_leaves_the_file_that_the_first_is_writing(tmp_path):
    store = Store(tmp_path, "run")
    store.save(0, {"w": np.ones(2)}, {})
    mine = unused_path(tmp_path / "00001.npz")
    dead = mine.with_name(f".00001.npz.{number_of_a_dead_process()}.0123abcd.tmp")
    for path in (mine, dead):
        path.write_bytes(b"half")
    Store(tmp_path, "run")
    assert mine.exists()
    assert not dead.exists()


def test_a_number_that_no_process_has_is_that_of_a_dead_one():
    assert is_abandoned(Path(f".0.npz.{10**30}.0123abcd.tmp"))


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    with (
        pytest.raises(IsADirectoryError, match="masks is a folder; name a file in it"),
        whole_file(folder),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
