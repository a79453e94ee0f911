"""TFDS's official builders without TensorFlow: same names, versions, features and record order.

The official builders unpack archives through `tf.io.gfile` and encode arrays with TensorFlow. These
unpack with the standard library and yield PIL images, which TFDS encodes with Pillow. What they
prepare, `tfds.builder(name, data_dir=...)` reads. Archives come from the manual folder (see
`sources`), where TFDS checks them against the SHA-256 that it registers for each official URL.

Importing this module imports TFDS, so it is imported where it is used.
"""

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.image_classification import cifar, mnist

from jaxprune.data.progress import track
from jaxprune.data.sources import Archive

Examples = Iterator[tuple[int, dict]]


class _Idx:
    """Reads the four IDX archives of MNIST and its likes."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Needs the four official archives."
    url_infos: Any

    def _split_generators(self, dl_manager):
        urls = {info.filename: url for url, info in self.url_infos.items()}
        unpacked_paths = {name: dl_manager.manual_dir / name.removesuffix(".gz") for name in urls}
        # Unpacked files are there only where no gzip program was, and then `sources` has checked
        # their MD5.
        paths = (
            unpacked_paths
            if all(path.exists() for path in unpacked_paths.values())
            else dl_manager.download(urls)
        )
        images = {name[:5]: path for name, path in paths.items() if "images" in name}
        labels = {name[:5]: path for name, path in paths.items() if "labels" in name}
        return {
            "train": self._generate_examples("train", images["train"], labels["train"]),
            "test": self._generate_examples("test", images["t10k-"], labels["t10k-"]),
        }

    def _generate_examples(self, split, image_path, label_path) -> Examples:
        images = _idx(image_path)
        labels = _idx(label_path)
        images_and_labels = zip(images, labels, strict=True)
        for example_index, (image, label) in enumerate(
            track(images_and_labels, f"encode {split}", len(labels))
        ):
            yield example_index, {"image": Image.fromarray(image), "label": int(label)}


class MNIST(_Idx, mnist.MNIST, skip_registration=True):
    """The official `mnist`."""

    url_infos = mnist.MNIST.url_infos


class FashionMNIST(_Idx, mnist.FashionMNIST, skip_registration=True):
    """The official `fashion_mnist`."""

    url_infos = mnist.FashionMNIST.url_infos


class Cifar10(cifar.Cifar10, skip_registration=True):
    """The official `cifar10`, read from its binary archive without unpacking it to disk."""

    url_infos = cifar.Cifar10.url_infos

    def _split_generators(self, dl_manager):
        cifar_files = self._cifar_info
        with tarfile.open(dl_manager.download(cifar_files.url)) as archive:
            members: Any = archive  # each member is a file

            def read(file: str) -> bytes:
                return members.extractfile(cifar_files.prefix + file).read()

            label_names = read(cifar_files.label_files[0]).decode().split("\n")
            features: Any = self.info.features
            features["label"].names = [name for name in label_names if name]
            train_records = b"".join(map(read, cifar_files.train_files))
            test_records = b"".join(map(read, cifar_files.test_files))
        return {
            "train": self._generate_examples("train", train_records),
            "test": self._generate_examples("test", test_records),
        }

    def _generate_examples(self, split, records) -> Examples:
        rows = np.frombuffer(records, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        for example_index, record in enumerate(track(rows, f"encode {split}")):
            pixels = np.ascontiguousarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
            image = Image.fromarray(pixels)
            yield (
                example_index,
                {"id": f"{split}_{example_index:05d}", "image": image, "label": int(record[0])},
            )


class Cifar10Jpeg75(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """CIFAR-10 as JPEG files of quality 75: not the published data, so it has its own name.

    The archive holds one header that all files share, their remaining bytes end to end with the
    offset of each, labels, and which examples are test examples.
    """

    name = "cifar10_jpeg75"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Needs cifar10_jpeg75.npz."

    def _info(self):
        image = tfds.features.Image(shape=(32, 32, 3), encoding_format="jpeg")
        label = tfds.features.ClassLabel(names=CIFAR10_CLASSES)
        return tfds.core.DatasetInfo(
            builder=self,
            description="CIFAR-10 re-encoded as JPEG of quality 75, in another order.",
            features=tfds.features.FeaturesDict(
                {"id": tfds.features.Text(), "image": image, "label": label}
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        with np.load(dl_manager.manual_dir / "cifar10_jpeg75.npz", allow_pickle=False) as file:
            archive = {key: file[key] for key in file.files}
        is_test = archive["is_test"].astype(bool)
        return {
            "train": self._generate_examples("train", archive, np.flatnonzero(~is_test)),
            "test": self._generate_examples("test", archive, np.flatnonzero(is_test)),
        }

    def _generate_examples(self, split, archive, chosen) -> Examples:
        header = archive["header"].tobytes()
        data = archive["data"].tobytes()
        offsets = archive["offset"]
        labels = archive["label"]
        for example_index, archive_index in enumerate(track(chosen, f"encode {split}")):
            image = header + data[offsets[archive_index] : offsets[archive_index + 1]]
            label = int(labels[archive_index])
            yield (
                example_index,
                {"id": f"{split}_{example_index:05d}", "image": image, "label": label},
            )


CIFAR10_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
JPEG75_SHA256 = "da7f990aef43fc0c14b5aa3d5266ffe88a447268d81abc7fcdbd65a90ef2fdf9"
BUILDERS = {
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
    "cifar10": Cifar10,
    "cifar10_jpeg75": Cifar10Jpeg75,
}


def archives(name: str) -> list[Archive]:
    """Returns the archives that a builder reads, with the SHA-256 that TFDS registers for each."""
    if name == "cifar10_jpeg75":
        return [Archive("cifar10_jpeg75.npz", JPEG75_SHA256)]
    url_infos = BUILDERS[name].url_infos
    return [
        Archive(url_info.filename, url_info.checksum, url) for url, url_info in url_infos.items()
    ]


def _idx(path: Path) -> np.ndarray:
    """Returns the array of an IDX file: two zero bytes, type (8: bytes), rank, big-endian shape, elements."""
    with gzip.open(path) if Path(path).suffix == ".gz" else open(path, "rb") as file:
        content = file.read()
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
