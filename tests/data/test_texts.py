"""A text is taken out of its package once, and verified whenever it is used."""

import hashlib
import subprocess
import zipfile

import pytest

from experiments import data
from jaxprune.data import catalogue, fetch_text, pretrained, sources, texts

CONTENT = b"a dump"
FILE = texts.TEXTS["wikipedia"].filename


@pytest.fixture
def calls(monkeypatch):
    """Has pip give a package with CONTENT in place of the text; returns the calls."""
    archive = sources.Archive(FILE, hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(texts.TEXTS, "wikipedia", archive)
    monkeypatch.delenv("JAXPRUNE_ARCHIVES", raising=False)
    calls = []

    def pip(command, folder, **_):
        calls.append(command)
        with zipfile.ZipFile(folder / "package.whl", "w") as wheel:
            wheel.writestr(f"gensim/test/test_data/{FILE}", CONTENT)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(sources, "_run", pip)
    return calls


def test_a_text_is_fetched_once_from_the_same_wheel_everywhere(calls, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"experiments\.data fetch wikipedia"):
        texts.verified_text("wikipedia", data_dir=tmp_path)
    path = fetch_text("wikipedia", data_dir=tmp_path)
    assert path == texts.verified_text("wikipedia", data_dir=tmp_path)
    assert path.read_bytes() == CONTENT
    fetch_text("wikipedia", data_dir=tmp_path)
    (command,) = calls
    assert {"--platform=manylinux_2_28_x86_64", "--abi=cp311", "--no-deps"} <= set(command)
    path.write_bytes(b"another")
    with pytest.raises(ValueError, match="remove it and fetch it anew"):
        texts.verified_text("wikipedia", data_dir=tmp_path)


def test_the_command_line_fetches_checks_and_lists_files(calls, tmp_path, capsys):
    folder = f"--data_dir={tmp_path}"
    assert data.main(["check", "wikipedia", folder]) == 1
    assert data.main(["fetch", "wikipedia", folder]) == 0
    assert data.main(["check", "wikipedia", folder]) == 0
    assert f"wikipedia: ok; {tmp_path}" in capsys.readouterr().out
    assert data.main(["list", folder]) == 0
    out = capsys.readouterr().out.splitlines()
    assert FILE in next(line for line in out if line.startswith("wikipedia "))
    assert next(line for line in out if line.startswith("smollm2-135m ")).endswith("no")


def test_names_that_the_command_line_knows_are_all_there_are():
    assert set(catalogue.WEIGHTS) == set(pretrained.WEIGHTS)
    assert set(catalogue.TEXTS) == set(texts.TEXTS)
    with pytest.raises(ValueError, match="no text 'c4'; there are wikipedia"):
        fetch_text("c4")
