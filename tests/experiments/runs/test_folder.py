"""Run folders: names, what they hold, and who may enter."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.cli import Options, Stopper, is_finished
from experiments.config import UserError, config, part
from experiments.config.fields import DEFAULTS, STUDIES
from experiments.runs import files
from experiments.runs import starts as starts_lib
from experiments.runs.files import read_json, write_json
from experiments.runs.folder import Folder, RunFolder, folder_name, run_path
from experiments.runs.lock import acquire_lock
from experiments.studies.study import study_of


def test_a_name_follows_the_settings_and_nothing_else(monkeypatch):
    name = folder_name("x", config(steps=5, optimizer=part("adam", learning_rate=1e-3)))
    assert name == folder_name("x", config(optimizer=part("adam", learning_rate=1e-3), steps=5))
    assert name != folder_name("x", config(steps=6, optimizer=part("adam", learning_rate=1e-3)))
    assert name == folder_name(
        "x", config(steps=5, optimizer=part("adam", learning_rate=1e-3), paper={"table": "2"})
    )
    monkeypatch.setitem(DEFAULTS, "new_field", 3)  # old names outlive new fields
    assert name == folder_name("x", config(steps=5, optimizer=part("adam", learning_rate=1e-3)))
    assert folder_name("x", config(new_field=4)) != folder_name("x", config())


def test_a_folder_holds_config_and_versions(tmp_path):
    with RunFolder.open(tmp_path, "lenet", config(steps=5), "train") as folder:
        assert folder.path == tmp_path / folder_name("lenet", config(steps=5))
        stored = read_json(folder.path / "config.json")
        assert stored["steps"] == 5
        assert stored["validation"] == DEFAULTS["validation"]
        (start,) = read_json(folder.path / "versions.json")
        assert start["numpy"] == np.__version__
        assert start["jax"]
        assert start["cpu"]
        assert start["devices"]
        assert "git" in start
        assert folder.seed(3).path == folder.path / "seed_3"
    with RunFolder.open(tmp_path, "lenet", config(steps=5), "train") as folder:
        assert len(read_json(folder.path / "versions.json")) == 1  # nothing has changed


def test_a_resume_with_other_software_is_written_down(tmp_path, monkeypatch):
    RunFolder.open(tmp_path, "x", config(), "train").close()
    monkeypatch.setattr(starts_lib, "_git_state", lambda: {"revision": "abc", "dirty": True})
    with RunFolder.open(tmp_path, "x", config(), "train") as folder:
        starts = read_json(folder.path / "versions.json")
    assert len(starts) == 2
    assert starts[1]["git"]["revision"] == "abc"


def test_results_are_there_once_finished(tmp_path):
    with RunFolder.open(tmp_path, "x", config(), "train") as folder:
        seed = folder.seed(0)
        assert not seed.done
        assert seed.results is None
        seed.finish({"accuracy": np.float32(0.5), "shape": (2, 3)})
        assert seed.done
        assert seed.results == {"accuracy": 0.5, "shape": [2, 3]}
        assert not folder.done


def test_a_folder_with_other_settings_is_refused_by_name_of_the_field(tmp_path):
    cfg = config(steps=5, optimizer=part("adam", learning_rate=1e-3))
    with RunFolder.open(tmp_path, "x", cfg, "train") as folder:
        path = folder.path / "config.json"
    stored = read_json(path)
    stored["optimizer"]["learning_rate"] = 0.1
    del stored["log_every"]  # older than this field, so made with its default
    write_json(path, stored)
    with pytest.raises(UserError, match=r"optimizer\.learning_rate is 0\.1, asked 0\.001;") as e:
        RunFolder.open(tmp_path, "x", cfg, "train")
    assert "log_every" not in str(e.value)
    assert read_json(path) == stored


def test_what_the_paper_says_may_be_edited(tmp_path):
    RunFolder.open(tmp_path, "x", config(paper={"table": "1"}), "train").close()
    with RunFolder.open(tmp_path, "x", config(paper={"table": "2"}), "train") as folder:
        assert read_json(folder.path / "config.json")["paper"] == {"table": "2"}


def test_a_second_process_is_refused(tmp_path):
    code = (
        "import sys; from experiments.config import *; from experiments.runs.folder import *\n"
        "try: RunFolder.open(sys.argv[1], 'x', config(), 'train')\n"
        "except UserError as e: print(e)"
    )
    with RunFolder.open(tmp_path, "x", config(), "train") as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
    assert f"{folder.path} is in use by process {os.getpid()} on " in done.stdout
    RunFolder.open(tmp_path, "x", config(), "train").close()  # free again


def test_results_from_before_there_were_checksums_are_read(tmp_path):
    (tmp_path / "results.json").write_text('[{"test_accuracy": 0.9}]', encoding="utf-8")
    (tmp_path / "done").write_text('{"time": "2026-01-01"}', encoding="utf-8")
    folder = Folder(tmp_path)
    assert folder.done
    assert folder.results == [{"test_accuracy": 0.9}]


def test_links_within_a_run_folder_are_its_own_business(tmp_path):
    """W&B makes some: `wandb/latest-run`."""
    with RunFolder.open(tmp_path, "x", config(), "train") as folder:
        place = folder.path / "seed_0" / "wandb"
        (place / "run-1").mkdir(parents=True)
        (place / "latest-run").symlink_to("run-1")
    RunFolder.open(tmp_path, "x", config(), "train").close()
    for target in (tmp_path, "outside"):  # the second leads to itself
        (place / "outside").symlink_to(target)
        with pytest.raises(UserError, match="symbolic link"):
            RunFolder.open(tmp_path, "x", config(), "train")
        (place / "outside").unlink()


def test_a_config_that_is_no_json_is_told(tmp_path):
    with pytest.raises(UserError, match="object has no place in JSON"):
        RunFolder.open(tmp_path, "x", config(paper={"citation": object()}), "train")


def test_a_huge_file_is_refused_before_it_is_in_memory(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"config\.json has \d+ bytes, more than"):
        files.read_json(path)


def test_a_killed_holder_leaves_no_lock(tmp_path):
    lock = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from experiments.runs.lock import acquire_lock\n"
        "held = acquire_lock(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=f"process {child.pid} "):
            acquire_lock(lock)
        child.kill()
    acquire_lock(lock).release()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write the run folder .*file.*--workdir"):
        RunFolder.open(tmp_path / "file", "x", config(), "train")


def test_json_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TypeError, match="no place in JSON"):
        write_json(path, {"a": object()})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


def test_sources_outside_git_have_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert starts_lib._git_state() is None


def test_each_study_of_a_config_has_a_folder_of_its_own(tmp_path):
    cfg = config(lottery={"rounds": 1})
    with RunFolder.open(tmp_path, "x", cfg, "lottery") as own:
        assert own.path.name == folder_name("x", cfg)  # the study that the config was written for
        with RunFolder.open(tmp_path, "x", cfg, "train") as other:
            assert other.path != own.path
    assert read_json(other.path / "config.json")["study"] == "train"


@pytest.mark.parametrize("name", STUDIES)
def test_a_finished_run_of_another_study_is_not_taken_for_ones_own(tmp_path, name):
    cfg = config(steps=5)
    with RunFolder.open(tmp_path, "x", cfg, "train") as folder:
        folder.finish({"kind": "train"})
    (folder.path / "report.md").touch()
    options = Options("x", tmp_path, False, Stopper())
    assert is_finished(cfg, options, study_of(name)) == (name == "train")


def test_a_folder_of_another_study_is_refused_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.runs.folder.folder_name", lambda *_: "x")
    with RunFolder.open(tmp_path, "x", config(), "train") as folder:
        folder.finish({"kind": "train"})
    (folder.path / "report.md").touch()
    says = r"x holds a run of the study 'train', and this is one of 'lottery'; set another --work"
    with pytest.raises(UserError, match=says):
        RunFolder.open(tmp_path, "x", config(), "lottery")
    with pytest.raises(UserError, match=says):
        RunFolder.report(tmp_path, "x", config(), "lottery")


def test_a_folder_from_before_studies_were_recorded_belongs_to_that_of_its_results(tmp_path):
    cfg = config(lottery={"rounds": 1})
    with RunFolder.open(tmp_path, "x", cfg, "lottery") as folder:
        path = folder.path / "config.json"
        folder.finish({"kind": "sensitivity"})
    stored = read_json(path)
    del stored["study"]
    write_json(path, stored)
    with pytest.raises(UserError, match="holds a run of the study 'sensitivity'"):
        RunFolder.open(tmp_path, "x", cfg, "lottery")
    assert run_path(tmp_path, "x", cfg, "train") == tmp_path / folder_name("x", cfg, "train")
    with RunFolder.open(tmp_path, "x", cfg, "sensitivity") as folder:
        assert folder.path == path.parent
        assert folder.done
    assert read_json(path)["study"] == "sensitivity"
