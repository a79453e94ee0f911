"""Arrays in files that say what is in them."""

import os

import ml_dtypes
import numpy as np
import pytest

from jaxprune.storage import array_files
from jaxprune.storage.sealed import DamagedError

ARRAYS = {
    "a/kernel": np.arange(6.0).reshape(2, 3),
    "half": np.array([1, 2], ml_dtypes.bfloat16),
    "eight bits": np.ones((2, 2), ml_dtypes.float8_e4m3fn),
    "empty": np.zeros((0, 3), ml_dtypes.bfloat16),
    "number": np.array(3),
    "half a number": np.array(2, ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
    "by columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "other bytes": np.arange(3, dtype=">i4"),
    "complex": np.ones(2, np.complex64),
    "file": np.zeros(1),
}


def write(path, arrays=ARRAYS, kind="things", version=1, **options):
    arrays = {f"{name}:": array for name, array in arrays.items()}
    array_files.write(path, arrays, kind=kind, version=version, **options)


def test_arrays_of_all_types_come_back(tmp_path):
    write(tmp_path / "a.npz", about={"where": [1, None]})
    found = array_files.read(tmp_path / "a.npz", kind="things", version=1)
    assert found.about == {"where": [1, None]}
    assert set(found.arrays) == {f"{name}:" for name in ARRAYS}
    for name, array in ARRAYS.items():
        back = found.arrays[f"{name}:"]
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        assert back.tobytes() == array.tobytes()
    with np.load(tmp_path / "a.npz") as file:  # NumPy alone
        np.testing.assert_array_equal(file["a/kernel:"], ARRAYS["a/kernel"])


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"kind": "others"}, "does not say that it is 'things'"),
        ({"version": 2}, "has version 2 of its format, and this jaxprune reads 1"),
    ],
)
def test_other_files_are_refused(tmp_path, other, says):
    write(tmp_path / "a.npz", **other)
    with pytest.raises(DamagedError, match=says):
        array_files.read(tmp_path / "a.npz", kind="things", version=1)


def test_arrays_that_were_exchanged_are_noticed(tmp_path):
    path = tmp_path / "a.npz"
    write(path, {"a": np.zeros(3), "b": np.ones(3)})
    with np.load(path) as file:
        stored = dict(file)
    np.savez(path, **stored | {"a:": stored["b:"], "b:": stored["a:"]})
    with pytest.raises(DamagedError, match="'a:' does not match its checksum"):
        array_files.read(path, kind="things", version=1)
    np.savez(path, **{name: array for name, array in stored.items() if name != "b:"})
    with pytest.raises(DamagedError, match="'b:' is missing"):
        array_files.read(path, kind="things", version=1)
    np.savez(path, **stored | {"c": np.zeros(1)})
    with pytest.raises(DamagedError, match="'c' is not in its manifest"):
        array_files.read(path, kind="things", version=1)


def test_compressed_members_are_refused_before_they_are_unpacked(tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    with np.load(path) as file:
        np.savez_compressed(path, **file)
    with pytest.raises(DamagedError, match="is compressed, which is never written here"):
        array_files.read(path, kind="things", version=1)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write(path, {"a": np.zeros(1)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_in_the_place_of_the_partial_file_is_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getpid", lambda: 7)
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    target = tmp_path / "target"
    target.write_text("x")
    link = tmp_path / ".a.npz.7.00000000.tmp"
    link.symlink_to(target)
    with pytest.raises(FileExistsError):
        write(tmp_path / "a.npz")
    assert target.read_text() == "x"
    assert link.is_symlink()  # what another has made is not taken away


def test_what_a_process_of_the_same_number_has_left_is_in_nobodys_way(tmp_path):
    (tmp_path / f".a.npz.{os.getpid()}.tmp").write_text("half")
    write(tmp_path / "a.npz")
    assert (tmp_path / "a.npz").exists()
