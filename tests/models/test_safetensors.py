"""Safetensors are read leaf by leaf, written file by file, and refused where they are damaged."""

import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxprune.models import safetensors
from jaxprune.models.sink import safetensors_sink

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b.c": np.array([1.5, -2], ml_dtypes.bfloat16),
    "scalar": np.array(3, np.int64),
    "empty": np.zeros((0, 4), np.float16),
    "flag": np.array([True, False]),
}


def packed(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        numbers = found[name].read()
        assert (numbers.dtype, numbers.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(numbers, array)


def test_what_another_library_wrote_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    same(safetensors.read(tmp_path / "model.safetensors"), TENSORS)
    same(safetensors.read(tmp_path), TENSORS)


def test_what_the_sink_wrote_is_read_by_another_library(tmp_path):
    with safetensors_sink(tmp_path, shard_bytes=24) as sink:
        for name, array in TENSORS.items():
            sink(name, array)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2, "24 bytes are full after the first tensor"
    found = {name: array for file in files for name, array in load_file(file).items()}
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(found[name], array)
    same(safetensors.read(tmp_path), TENSORS)


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "model.safetensors")
    leaves = safetensors.read(tmp_path)
    read = []
    fromfile = np.fromfile
    monkeypatch.setattr(np, "fromfile", lambda *a, **k: read.append(a[2]) or fromfile(*a, **k))
    leaves["a"].read()
    assert read == [6]


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(8)
BAD = {
    "empty": (b"", "no safetensors file"),
    "long header": ((2**62).to_bytes(8, "little") + bytes(9), "claims a header"),
    "no JSON": (packed(b"{,}"), "is no JSON"),
    "deep JSON": (packed(b'{"a":' * 100_000), "is no JSON"),
    "a list": (packed([]), "no JSON object"),
    "a name twice": (packed(b'{"w": 1, "w": 2}'), "twice"),
    "no dtype": (packed({"w": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT), "lacks a proper"),
    "no entry": (packed({"w": 5}), "lacks a proper"),
    "unknown dtype": (packed({"w": {**ENTRY, "dtype": "F4"}}, EIGHT), "'F4', which is not read"),
    "negative": (packed({"w": {**ENTRY, "shape": [-2]}}, EIGHT), "lacks a proper"),
    "a fraction": (packed({"w": {**ENTRY, "shape": [2.0]}}, EIGHT), "lacks a proper"),
    "one offset": (packed({"w": {**ENTRY, "data_offsets": [8]}}, EIGHT), "no beginning and end"),
    "another size": (packed({"w": {**ENTRY, "shape": [3]}}, EIGHT), "has 8 bytes"),
    "huge": (packed({"w": {**ENTRY, "shape": [2**40, 2**40]}}, EIGHT), "has 8 bytes"),
    "beyond the end": (packed({"w": ENTRY}, EIGHT[:4]), "incomplete"),
    "a rest": (packed({"w": ENTRY}, EIGHT + b"?"), "incomplete"),
    "a hole": (packed({"w": {**ENTRY, "data_offsets": [8, 16]}}, bytes(16)), "begins at byte 8"),
    "overlap": (packed({"v": ENTRY, "w": ENTRY}, EIGHT), "begins at byte 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_is_refused_in_a_sentence(tmp_path, name):
    content, reason = BAD[name]
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^safetensors.read: .*model.safetensors .*{reason}"):
        safetensors.read(tmp_path)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/b", "..", 5])
def test_an_index_does_not_reach_out_of_its_folder(tmp_path, file):
    index = {"weight_map": {"w": file}}
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="no plain file name"):
        safetensors.read(tmp_path)


def test_index_and_files_must_agree(tmp_path):
    save_file({"v": TENSORS["a"]}, tmp_path / "x.safetensors")
    index = {"weight_map": {"w": "x.safetensors"}}
    (tmp_path / safetensors.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lacks 'w'"):
        safetensors.read(tmp_path)
    (tmp_path / safetensors.INDEX).write_text("[]")
    with pytest.raises(ValueError, match="no JSON object"):
        safetensors.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="has neither"):
        safetensors.read(tmp_path / "..")


def test_the_sink_goes_on_where_it_was_stopped_and_overwrites_nothing(tmp_path):
    stopped = safetensors_sink(tmp_path)
    stopped("a", TENSORS["a"])
    stopped.flush()
    stopped("lost", TENSORS["a"])  # held when the process ended
    with pytest.raises(FileExistsError, match="resume=True"):
        safetensors_sink(tmp_path)
    with safetensors_sink(tmp_path, resume=True) as sink:
        assert list(sink.written) == ["a"]
        with pytest.raises(ValueError, match="has another 'a' than is given now"):
            sink("a", TENSORS["a"] + 1)
        sink("a", TENSORS["a"])  # a run that goes on gives it again
        with pytest.raises(ValueError, match="'a' is there already"):
            sink("a", TENSORS["a"])
        sink("flag", TENSORS["flag"])
    same(safetensors.read(tmp_path), {name: TENSORS[name] for name in ("a", "flag")})
    with pytest.raises(FileExistsError, match=r"whole model; .* or resume=True to compare"):
        safetensors_sink(tmp_path)


def test_a_sink_on_a_whole_model_writes_nothing_and_compares(tmp_path):
    def give(**tensors):
        with safetensors_sink(tmp_path, shard_bytes=24, resume=True) as sink:
            for name, array in tensors.items():
                sink(name, array)

    content = lambda: {
        path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()
    }
    give(a=TENSORS["a"], flag=TENSORS["flag"])
    before = content()
    give()
    give(flag=TENSORS["flag"], a=TENSORS["a"])
    with pytest.raises(ValueError, match="has another 'flag' than is given now"):
        give(flag=~TENSORS["flag"])
    with pytest.raises(ValueError, match=r"holds a whole model, which has no 'b\.c'; give another"):
        give(**{"b.c": TENSORS["b.c"]})
    assert content() == before
    (tmp_path / "model-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002"):
        give()


def test_an_error_leaves_no_index(tmp_path):
    def stopped():
        with safetensors_sink(tmp_path) as sink:
            sink("a", TENSORS["a"])
            raise KeyError

    with pytest.raises(KeyError):
        stopped()
    assert not os.listdir(tmp_path)


def test_a_sink_holds_a_copy_and_knows_its_dtypes(tmp_path):
    own = np.ones(2, np.float32)
    with safetensors_sink(tmp_path) as sink:
        sink("w", own)
        own[:] = 5
        with pytest.raises(ValueError, match="complex64, which the format lacks"):
            sink("z", np.ones(1, np.complex64))
    assert safetensors.read(tmp_path)["w"].read().tolist() == [1, 1]
    (tmp_path / "other").mkdir()
    save_file(TENSORS, tmp_path / "other" / "mine.safetensors")
    with pytest.raises(FileExistsError, match="which no sink wrote"):
        safetensors_sink(tmp_path / "other", resume=True)
