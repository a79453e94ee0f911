"""Seeds that other run folders have trained: what is taken, and what is refused."""

import pytest

from experiments.config import UserError, config
from experiments.runs.files import read_json, write_json
from experiments.runs.folder import Folder, RunFolder, folder_name


def parts(tmp_path, *seeds_of_parts):
    """Run folders without trainings, one for each part of the seeds."""
    folders = []
    for index, seeds in enumerate(seeds_of_parts):
        with RunFolder.open(tmp_path / f"part{index}", "x", config(seeds=seeds)) as folder:
            for seed in seeds:
                folder.seed(seed).finish({"seed": seed, "part": index})
                Folder(folder.path / f"method/sparsity_0.9/seed_{seed}").finish({"seed": seed})
        folders.append(folder.path)
    return folders


def test_the_folders_of_the_asked_seeds_are_copied_with_their_account(tmp_path):
    first, second = parts(tmp_path, (0, 1), (2, 7))
    cfg = config(seeds=(0, 1, 2, 3))
    for _ in range(2):  # the same command again changes nothing but its own row
        with RunFolder.open(tmp_path, "x", cfg, (first, second)) as folder:
            assert [folder.seed(seed).results["part"] for seed in (0, 1, 2)] == [0, 0, 1]
            assert not (folder.path / "seed_7").exists()
            assert not folder.seed(3).done
            assert Folder(folder.path / "method/sparsity_0.9/seed_2").done
    rows = read_json(folder.path / "processes.json")
    assert len(rows) == 2 + 2
    starts = read_json(folder.path / "versions.json")
    for source in (first, second):
        assert all(row in starts for row in read_json(source / "versions.json"))
    with RunFolder.open(tmp_path, "x", cfg) as folder:
        folder.finish({})
    assert folder.results["cost"]["processes"] == 5
    assert folder.results["cost"]["wall_seconds"] >= sum(row["wall_seconds"] for row in rows)


def test_what_the_folder_has_is_kept(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    with RunFolder.open(tmp_path, "x", config(seeds=(0, 1, 2))) as folder:
        folder.seed(0).finish({"part": "own"})
    with RunFolder.open(tmp_path, "x", config(seeds=(0, 1, 2)), (first,)) as folder:
        assert folder.seed(0).results == {"part": "own"}
        assert folder.seed(1).results["part"] == 0


def test_a_copy_that_was_killed_is_made_again(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    with RunFolder.open(tmp_path, "x", config(seeds=(0, 1, 2))) as folder:
        torn = folder.path / ".seed_1.copy"
        torn.mkdir()
        (torn / "half").touch()
    with RunFolder.open(tmp_path, "x", config(seeds=(0, 1, 2)), (first,)) as folder:
        assert folder.seed(1).results == {"seed": 1, "part": 0}
        assert not (folder.path / "seed_1/half").exists()
        assert not torn.exists()


def open_from(tmp_path, *sources, **fields):
    fields = {"seeds": (0, 1, 2), **fields}
    RunFolder.open(tmp_path / "joined", "x", config(**fields), sources).close()


def test_what_does_not_belong_to_the_run_is_refused(tmp_path):
    first, second = parts(tmp_path, (0, 1), (1, 2))
    with pytest.raises(UserError, match=r"seed 1 is in .*part0.* and in .*part1.*; leave one"):
        open_from(tmp_path, first, second)
    with pytest.raises(UserError, match=r"other settings.*steps is \d+, asked 7"):
        open_from(tmp_path, first, steps=7)
    with pytest.raises(UserError, match=r"has seeds \[0, 1\], none of config.seeds=\[5\]"):
        open_from(tmp_path, first, seeds=(5,))
    with pytest.raises(UserError, match="no run folder; it has no"):
        open_from(tmp_path, tmp_path)
    with pytest.raises(UserError, match="is the folder of this run itself"):
        open_from(tmp_path, tmp_path / "joined" / folder_name("x", config(seeds=(0, 1, 2))))
    holder = RunFolder.open(tmp_path / "part0", "x", config(seeds=(0, 1)))
    with pytest.raises(UserError, match="is in use by process"):
        open_from(tmp_path, first)
    holder.close()
    open_from(tmp_path, first)
    Folder(first / "dense, trial 1/seed_1000").finish({})
    with pytest.raises(UserError, match=r"seed 1000 chose settings .*config.compare.trials"):
        open_from(tmp_path, first)


def test_a_folder_of_another_description_belongs(tmp_path):
    (first,) = parts(tmp_path, (0, 1))
    write_json(first / "config.json", {**read_json(first / "config.json"), "paper": {"a": "b"}})
    open_from(tmp_path, first)
