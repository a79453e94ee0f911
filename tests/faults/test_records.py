"""Damaged records of a prepared data set, where the verified arrays are gone."""

import gzip
import hashlib
import struct

import numpy as np
from tensorflow_datasets.core.download.checksums import UrlInfo

from jaxprune.data import builders, fetch, load, prepared

from .damaging import flipped, judge, shortened
from .test_flips import same


def idx(array):
    head = struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.astype(np.uint8).tobytes())


def small_mnist(folder, monkeypatch):
    """Archives of a few examples, which are taken for the official ones."""
    draw = np.random.default_rng(0)
    infos = {}
    folder.mkdir()
    for prefix, size in (("train", 12), ("t10k", 5)):
        arrays = {
            "images-idx3": draw.integers(0, 256, (size, 28, 28)),
            "labels-idx1": np.arange(size) % 10,
        }
        for name, array in arrays.items():
            filename = f"{prefix}-{name}-ubyte.gz"
            content = idx(array)
            (folder / filename).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            infos[filename] = UrlInfo(len(content), digest, filename)
    monkeypatch.setattr(builders.MNIST, "url_infos", infos)


def test_records(tmp_path, monkeypatch, attack, amount):
    small_mnist(tmp_path / "archives", monkeypatch)
    data_dir = tmp_path / "data"
    fetch("mnist", data_dir=data_dir, archives=tmp_path / "archives")
    folder = prepared.folder_of("mnist", data_dir)
    expected = load("mnist", data_dir=data_dir)
    monkeypatch.setattr(prepared.arrays, "write", lambda *_: None)  # each read decodes anew
    (folder / prepared.CACHE).unlink()
    read = lambda: load("mnist", data_dir=data_dir)
    assert same(read(), expected)
    flips = attack("R4", "records of a data set, no arrays.npz: bit flips", least=amount(8, 100))
    cuts = attack("R5", "records of a data set, no arrays.npz: cut or removed", least=amount(4, 20))
    right = lambda found: same(found, expected)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for index, path in enumerate(files):
        for case in flipped(path, amount(2, 25), seed=index):
            judge(flips, case, read, right, data_dir)
    for path in files[:: amount(4, 1)]:
        for case in shortened(path):
            judge(cuts, case, read, right, data_dir)
