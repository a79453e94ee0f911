"""Seeds that other run folders have trained: what is taken, and what is refused."""

import os
from pathlib import Path

import pytest

from experiments import cli
from experiments.config import UserError, config
from experiments.runs import files, taken_seeds
from experiments.runs.files import read_json, write_json
from experiments.runs.folder import Folder, RunFolder, folder_name
from experiments.runs.labels import check_label
from experiments.training.failures import failure, record_failure

ROOT = Path(__file__).parents[3]


def parts(tmp_path, *seeds_of_parts):
    """Run folders without trainings, one for each part of the seeds."""
    folders = []
    for index, seeds in enumerate(seeds_of_parts):
        with RunFolder.open(tmp_path / f"part{index}", "x", config(seeds=seeds), "train") as folder:
            for seed in seeds:
                folder.seed(seed).finish({"seed": seed, "part": index})
                Folder(folder.path / f"method/sparsity_0.9/seed_{seed}").finish({"seed": seed})
        folders.append(folder.path)
    return folders


def test_the_folders_of_the_asked_seeds_are_copied_with_their_account(tmp_path):
    first, second = parts(tmp_path, (0, 1), (2, 7))
    cfg = config(seeds=(0, 1, 2, 3))
    for _ in range(2):  # the same command again changes nothing but its own row
        with RunFolder.open(tmp_path, "x", cfg, "train", (first, second)) as folder:
            assert [folder.seed(seed).results["part"] for seed in (0, 1, 2)] == [0, 0, 1]
            assert not (folder.path / "seed_7").exists()
            assert not folder.seed(3).done
            assert Folder(folder.path / "method/sparsity_0.9/seed_2").done
    rows = read_json(folder.path / "processes.json")
    assert len(rows) == 2 + 2
    starts = read_json(folder.path / "versions.json")
    for source in (first, second):
        assert all(row in starts for row in read_json(source / "versions.json"))
    with RunFolder.open(tmp_path, "x", cfg, "train") as folder:
        folder.finish({})
    assert folder.results["cost"]["processes"] == 5
    assert folder.results["cost"]["wall_seconds"] >= sum(row["wall_seconds"] for row in rows)


def joined(tmp_path, *sources, **fields):
    """A run folder, closed, that has taken seeds."""
    fields = {"seeds": (0, 1, 2), **fields}
    with RunFolder.open(tmp_path / "joined", "x", config(**fields), "train", sources) as folder:
        return folder


def begun(tmp_path, *paths, **fields):
    """The same folder before it takes any, with files in it."""
    folder = joined(tmp_path, **fields)
    for path in paths:
        (folder.path / path).parent.mkdir(parents=True)
        (folder.path / path).write_text("own")
    return folder.path


def test_a_seed_that_has_begun_here_is_kept_whole_and_said(tmp_path, capsys):
    (first,) = parts(tmp_path, (0, 1))
    begun(tmp_path, "method/sparsity_0.9/seed_0/metrics.csv")
    for _ in range(2):
        folder = joined(tmp_path, first)
        assert not folder.seed(0).done, "no seed is of two origins"
        assert folder.seed(1).done
        assert "seed 0 has begun in" in capsys.readouterr().err


def test_empty_folders_have_not_begun(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    path = begun(tmp_path)
    (path / "seed_0/checkpoints").mkdir(parents=True)
    assert joined(tmp_path, first).seed(0).results == {"seed": 0, "part": 0}


def test_a_kill_between_two_folders_of_a_seed_is_made_good(tmp_path, monkeypatch, capsys):
    (first,) = parts(tmp_path, (0, 1))
    copy, copied = taken_seeds._copy_whole, []

    def killed(folder, target):
        if copied:
            raise KeyboardInterrupt
        copied.append(target)
        copy(folder, target)

    monkeypatch.setattr(taken_seeds, "_copy_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        joined(tmp_path, first)
    monkeypatch.undo()
    torn = copied[0].with_name(".seed_1.copy")
    torn.mkdir()
    (torn / "half").touch()
    folder = joined(tmp_path, first)
    for seed in (0, 1):
        assert folder.seed(seed).results == {"seed": seed, "part": 0}
        assert Folder(folder.path / f"method/sparsity_0.9/seed_{seed}").done
    assert not torn.exists()
    assert "has begun" not in capsys.readouterr().err


def test_seconds_come_with_what_is_copied_and_with_nothing_else(tmp_path):
    first, second = parts(tmp_path, (0, 1), (2,))
    begun(tmp_path, "seed_2/metrics.csv")
    joined(tmp_path, first, second)
    folder = joined(tmp_path, first, second)
    rows = read_json(folder.path / "processes.json")
    [of_first], [of_second] = (read_json(source / "processes.json") for source in (first, second))
    assert of_first in rows
    assert of_second not in rows
    assert len(rows) == 3 + 1  # begun, and twice joined
    folder.finish({})
    before = read_json(folder.path / "processes.json")
    third = parts(tmp_path / "more", (2,))
    joined(tmp_path, *third)
    assert third[0] not in read_json(folder.path / "taken.json").values()
    assert len(read_json(folder.path / "processes.json")) == len(before) + 1


def test_copies_can_be_written_whatever_the_source_allows(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    seed = first / "seed_0"
    (seed / "done").chmod(0o444)
    seed.chmod(0o555)
    copy = joined(tmp_path, first).path / "seed_0"
    assert copy.stat().st_mode & 0o200
    assert (copy / "done").stat().st_mode & 0o200
    seed.chmod(0o755)


def test_a_failed_training_comes_along(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    record_failure(Folder(first / "dense/seed_0").path, ValueError("diverged"))
    assert failure(joined(tmp_path, first).path / "dense/seed_0") == {"failed": "diverged"}


def test_what_does_not_belong_to_the_run_is_refused(tmp_path):
    first, second = parts(tmp_path, (0, 1), (1, 2))
    with pytest.raises(UserError, match=r"seed 1 is in .*part0.* and in .*part1.*; leave one"):
        joined(tmp_path, first, second)
    with pytest.raises(UserError, match=r"other settings.*steps is \d+, asked 7"):
        joined(tmp_path, first, steps=7)
    with pytest.raises(UserError, match=r"trained nothing of config.seeds=\[5\]; its .* \[0, 1\]"):
        joined(tmp_path, first, seeds=(5,))
    with pytest.raises(UserError, match="no run folder; it has no"):
        joined(tmp_path, tmp_path)
    own = begun(tmp_path, "seed_0/metrics.csv")
    with pytest.raises(UserError, match="is the folder of this run itself"):
        joined(tmp_path, own)
    holder = RunFolder.open(tmp_path / "part0", "x", config(seeds=(0, 1)), "train")
    with pytest.raises(UserError, match=r"in use by process .* leave it out of --seeds_from"):
        joined(tmp_path, first)
    holder.close()
    again = tmp_path / "part1" / ".." / "part0" / first.name
    assert joined(tmp_path, first, again).seed(1).done, "one folder by two spellings"


def test_settings_chosen_by_trials_are_those_of_one_folder(tmp_path):
    trials = {"trials": {"GMP": ({"steps": 5}, {"steps": 9})}}
    with RunFolder.open(tmp_path, "x", config(compare=trials), "train") as folder:
        folder.seed(0).finish({})
    with pytest.raises(
        UserError, match=r"config.compare.trials chooses .* cannot be trained apart"
    ):
        joined(tmp_path, folder.path, compare=trials)


@pytest.mark.parametrize("name", ["processes.json", "versions.json"])
def test_a_damaged_account_of_a_source_is_named_and_nothing_is_taken(tmp_path, name):
    (first,) = parts(tmp_path, (0, 1))
    whole = (first / name).read_text(encoding="utf-8")
    write_json(first / name, [{**row, "wall_seconds": 1} for row in read_json(first / name)])
    with pytest.raises(UserError, match=f"part0.*{name} does not match its checksum"):
        joined(tmp_path, first)
    (first / name).write_text(whole, encoding="utf-8")
    assert joined(tmp_path, first).seed(0).done


def test_links_and_what_is_no_file_are_refused(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    inner = first / "method/sparsity_0.9/seed_0"
    for make in (lambda path: path.symlink_to(inner), os.mkfifo):
        path = first / "seed_0/checkpoints"
        make(path)
        with pytest.raises(UserError, match="checkpoints is neither a folder nor a plain file"):
            joined(tmp_path, first)
        path.unlink()


def test_seeds_that_are_no_numbers_are_refused(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    write_json(first / "config.json", {**read_json(first / "config.json"), "seeds": None})
    with pytest.raises(UserError, match=r"config.json: seeds=None are no list of numbers"):
        joined(tmp_path, first)


def test_a_folder_of_another_description_belongs(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    write_json(first / "config.json", {**read_json(first / "config.json"), "paper": {"a": "b"}})
    assert joined(tmp_path, first).seed(0).done


def test_seeds_of_another_study_are_refused(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    says = "part0.* holds a run of the study 'train', and this is one of 'lottery'; leave it out"
    with pytest.raises(UserError, match=says):
        RunFolder.open(tmp_path, "x", config(seeds=(0, 1, 2)), "lottery", (first,))


def test_a_label_leaves_room_for_what_is_added_to_it(tmp_path):
    check_label("日" * 66, "config.compare.methods")
    with pytest.raises(UserError, match="has 201 bytes, and file names have room for 200"):
        check_label("日" * 67, "config.compare.methods")
    with pytest.raises(UserError, match="the label 1 is no string; write it in quotes"):
        check_label(1, "config.compare.methods")
    longest = f"{'日' * 66}, row-shuffled, trial 99"
    with files.replacing(tmp_path / f"{longest}.py") as file:
        file.write("")


def test_no_label_is_taken_for_a_seed():
    with pytest.raises(UserError, match="'seed_5' is a name that a run folder uses itself"):
        check_label("seed_5", "config.compare.methods")


def test_the_readme_names_the_folders_that_its_commands_make():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cfg = cli.load_config(str(ROOT / "configs/lottery/smoke.py"))
    assert f"runs/{folder_name('smoke', cfg)} " in text
    for name, seeds in {"one": (0, 1, 2), "two": (3, 4)}.items():
        cfg.seeds = seeds
        assert f"--seeds_from={name}/{folder_name('smoke', cfg)}" in text
