import numpy as np
import pytest

from jaxprune.data import arrays
from jaxprune.data.synthetic import twin


@pytest.fixture
def data():
    return twin("cifar10", train=30, test=20)


@pytest.fixture
def path(tmp_path, data):
    arrays.write(tmp_path / "arrays.npz", data)
    return tmp_path / "arrays.npz"


def test_the_cache_returns_what_was_written(path, data):
    read = arrays.read(path)
    for got, wanted in zip((*read.train, *read.test), (*data.train, *data.test), strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype
    assert read[2:] == data[2:]
    assert [type(field) for field in read[2:]] == [type(field) for field in data[2:]]


def test_a_missing_cache_is_none(tmp_path):
    assert arrays.read(tmp_path / "arrays.npz") is None


@pytest.mark.parametrize("where", [0.01, 0.3, 0.7, 0.999])
def test_a_flipped_byte_is_noticed(path, where):
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 0x40
    path.write_bytes(content)
    assert arrays.read(path) is None


def test_a_truncated_cache_is_noticed(path):
    path.write_bytes(path.read_bytes()[:-100])
    assert arrays.read(path) is None


def test_other_arrays_with_a_valid_zip_are_noticed(path):
    with np.load(path) as file:
        content = dict(file)
    content["test_labels"] = content["test_labels"][::-1]
    np.savez(path, **content)
    assert arrays.read(path) is None


def test_nothing_pickled_is_loaded(path):
    with np.load(path) as file:
        content = dict(file)
    content["test_labels"] = np.array([print], object)
    np.savez(path, **content)
    assert arrays.read(path) is None


def test_a_failed_write_leaves_the_old_cache_and_no_litter(path, data, monkeypatch):
    def fail(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        arrays.write(path, data)
    assert arrays.read(path) is not None
    assert list(path.parent.iterdir()) == [path]


def test_moments_are_those_of_the_scaled_training_inputs(data):
    scaled = data.train.inputs / 255.0
    np.testing.assert_allclose(data.mean, scaled.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, scaled.std((0, 1, 2)), rtol=1e-12)
