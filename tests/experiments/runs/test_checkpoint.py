"""Checkpoints: exact round trips, strict templates, and faults of the disk and of the process."""

import random
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from experiments.config import UserError
from experiments.runs import checkpoint
from experiments.runs.checkpoint import Checkpoints

SMALL = {"w": np.arange(1200, dtype=np.float32), "m": np.arange(8) % 3 == 0, "n": np.int32(7)}
META = {"note": "what the engine stores beside the arrays, " * 10}


def bits(tree):
    def one(leaf):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes()
        return type(leaf), str(np.asarray(leaf).dtype), np.shape(leaf), np.asarray(leaf).tobytes()

    return jax.tree.map(one, tree)


def test_every_kind_of_leaf_comes_back_as_it_was(tmp_path):
    key = jax.random.key(0)
    params = {"fc/1": {"kernel": jax.random.normal(key, (3, 4)), "bias": jnp.zeros(4)}}
    tree = {
        "params": params,
        "masks": {"fc/1": {"kernel": params["fc/1"]["kernel"] > 0, "bias": None}},
        "opt": optax.adam(1e-3).init(params),  # NamedTuples
        "keys": (key, jax.random.split(key, 3), jax.random.key(1, impl="rbg")),
        "old_key": jax.random.PRNGKey(3),
        "empty": (jnp.zeros((0, 3)), np.zeros((2, 0), bool)),
        "small": [jnp.array([1.1, -0.0], jnp.bfloat16), jnp.ones(2, jnp.float8_e4m3fn)],
        "nan": np.array([np.nan, np.inf], ml_dtypes.bfloat16),
        "numbers": (3, 2.5, True, np.float32(0.1), np.int64(2**40)),
        "nothing": None,
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, tree, {"level": 2, "best": float("inf")})
    with Checkpoints(tmp_path) as checkpoints:
        step, restored, meta = checkpoints.restore(tree)
        arrays = {k: v for k, v in tree.items() if k != "numbers"}
        shapes = jax.eval_shape(lambda: arrays) | {"numbers": tree["numbers"]}
        from_shapes = checkpoints.restore(shapes)[1]
    assert (step, meta) == (5, {"level": 2, "best": float("inf")})
    assert jax.tree.structure(restored) == jax.tree.structure(tree)
    assert bits(restored) == bits(tree)
    assert bits(from_shapes["params"]) == bits(params)
    assert bits(from_shapes["keys"]) == bits(tree["keys"])


def test_a_tree_without_elements_is_saved_too(tmp_path):
    tree = {"a": np.zeros((0, 2)), "b": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, tree)
        assert bits(checkpoints.restore(tree)[1]) == bits(tree)


def test_saving_copies(tmp_path):
    array = np.zeros(100_000, np.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": array})
        array[:] = 1
        assert not checkpoints.restore({"a": array})[1]["a"].any()


def test_the_newest_and_those_asked_for_are_kept(tmp_path):
    with Checkpoints(tmp_path, keep=2, keep_steps=(1,)) as checkpoints:
        assert checkpoints.restore(SMALL) is None
        for step in range(5):
            checkpoints.save(step, SMALL)
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3, 4]


def test_nothing_saved_is_nothing_restored(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(SMALL) is None
    assert not (tmp_path / "none").exists()


def test_a_template_that_does_not_fit_is_told_leaf_by_leaf(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL)
        for template, says in [
            (SMALL | {"x": np.ones(2)}, "['x'] is not in it"),
            ({"w": SMALL["w"], "m": SMALL["m"]}, "['n'] is not asked for"),
            (SMALL | {"w": np.ones(3, np.float32)}, "['w'] is float32[1200], asked float32[3]"),
            (SMALL | {"m": np.ones(8, np.float32)}, "['m'] is bool[8], asked float32[8]"),
            (SMALL | {"n": jax.random.key(0)}, "['n'] is int32[], asked key<threefry2x32>[2]"),
            ([SMALL], "and 1 more"),
        ]:
            with pytest.raises(UserError) as e:
                checkpoints.restore(template)
            assert says in str(e.value)
        assert checkpoints.steps() == [1]  # a misfit is no damage


def test_what_is_not_an_array_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot save \['name'\]: a str is not an array"):
        Checkpoints(tmp_path).save(1, {"name": "x"})


@pytest.fixture
def two_steps(tmp_path):
    """A folder with steps 1 and 2, and the files of step 2."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL, META)
        checkpoints.save(2, SMALL | {"w": SMALL["w"] + 1}, META)
    return tmp_path, sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file())


def restored(folder):
    """Restores as a new process would, checks the values, and undoes the setting aside."""
    notes = []
    with Checkpoints(folder, notify=notes.append) as checkpoints:
        step, tree, meta = checkpoints.restore(SMALL)
    assert meta == META
    np.testing.assert_array_equal(tree["w"], SMALL["w"] + (step == 2))
    assert len(notes) == (step == 1)
    if step == 1:
        assert f"{folder / '2'} is damaged" in notes[0]
        (folder / "2.damaged").rename(folder / "2")
    return step


@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_bit_is_found(two_steps, sealed):
    folder, files = two_steps
    if sealed:  # any file
        targets, flips = files, 100
    else:  # killed before the files' checksums were written: those of the leaves have to do
        (folder / "2" / "files.json").unlink()
        targets, flips = [folder / "2" / "manifest" / "metadata"], 20
    assert restored(folder) == 2
    draw, found = random.Random(0), 0
    for i in range(flips):
        path = targets[i % len(targets)]
        before = path.read_bytes()
        bit = draw.randrange(8 * len(before))
        damaged = bytearray(before)
        damaged[bit // 8] ^= 1 << (bit % 8)
        assert damaged != before
        path.write_bytes(damaged)
        found += restored(folder) == 1
        path.write_bytes(before)
    assert found == flips


def test_the_checksums_of_leaves_find_what_orbax_reads_without_a_word(tmp_path, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, SMALL)
        checkpoints.save(2, SMALL)
    read = CheckpointManager.restore

    def flipped(self, step, args):
        items = read(self, step, args=args)
        if step == 2 and "tree" in items:
            next(iter(items.tree.values())).view(np.uint8).reshape(-1)[0] ^= 1
        return items

    monkeypatch.setattr(CheckpointManager, "restore", flipped)
    notes = []
    with Checkpoints(tmp_path, notify=notes.append) as checkpoints:
        assert checkpoints.restore(SMALL)[0] == 1
    assert "['m'] does not match its checksum" in notes[0]


@pytest.mark.parametrize("how", ["delete", "cut"])
def test_missing_and_short_files_are_found(two_steps, how):
    folder, files = two_steps
    for path in files:
        before = path.read_bytes()
        path.unlink() if how == "delete" else path.write_bytes(before[:-5])
        assert restored(folder) == (2 if how == "delete" and path.name == "files.json" else 1)
        path.write_bytes(before)


def test_a_run_goes_on_after_damage(two_steps):
    folder, files = two_steps
    files[-1].write_bytes(b"")
    with Checkpoints(folder, notify=lambda _: None) as checkpoints:
        assert checkpoints.restore(SMALL)[0] == 1
        checkpoints.save(2, SMALL)
        assert checkpoints.restore(SMALL)[0] == 2
    assert (folder / "2.damaged").exists()


@pytest.mark.parametrize("format", [0, 2, 99])
def test_another_format_is_named_and_no_damage(tmp_path, monkeypatch, format):
    with monkeypatch.context() as patch, Checkpoints(tmp_path) as checkpoints:
        patch.setattr(checkpoint, "_FORMAT", format)
        checkpoints.save(1, SMALL)
    with Checkpoints(tmp_path, notify=pytest.fail) as checkpoints:
        with pytest.raises(UserError, match=rf"has the format {format}; .* reads 1"):
            checkpoints.restore(SMALL)
        assert checkpoints.steps() == [1]


@pytest.mark.parametrize("what", ["folder", "file", "link", "dangling link"])
def test_what_stands_where_damage_is_set_aside_gives_way(two_steps, tmp_path_factory, what):
    folder, files = two_steps
    aside, elsewhere = folder / "2.damaged", tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "kept").write_text("x")
    match what:
        case "folder":
            (aside / "old").mkdir(parents=True)
        case "file":
            aside.write_text("x")
        case "link":
            aside.symlink_to(elsewhere)
        case _:
            aside.symlink_to(elsewhere / "nothing")
    files[-1].write_bytes(b"")
    with Checkpoints(folder, notify=lambda _: None) as checkpoints:
        assert checkpoints.restore(SMALL)[0] == 1
    assert aside.is_dir()
    assert not aside.is_symlink()
    assert not (aside / "old").exists()
    assert (elsewhere / "kept").read_text() == "x"  # a link is not followed


def test_what_cannot_be_set_aside_is_one_sentence(two_steps, monkeypatch):
    folder, files = two_steps
    files[-1].write_bytes(b"")

    def refuse(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        Checkpoints(folder, notify=lambda _: None) as checkpoints,
        pytest.raises(UserError, match=r"2 aside as 2\.damaged \(Permission denied\); move both"),
    ):
        checkpoints.restore(SMALL)


def test_no_good_checkpoint_is_no_fresh_start(two_steps):
    folder, _ = two_steps
    for step in "12":
        (folder / step / "manifest" / "metadata").write_text("{}")
    with (
        Checkpoints(folder, notify=lambda _: None) as checkpoints,
        pytest.raises(UserError, match=r"every checkpoint in .* is damaged \(2, 1\)"),
    ):
        checkpoints.restore(SMALL)


KILLED = """
import os, sys, threading, time
import numpy as np
from pathlib import Path
from experiments.runs.checkpoint import Checkpoints

def kill():
    while not (folder / "2").exists():
        time.sleep(0.001)
    while not list(folder.glob("3*tmp*")):
        pass
    os.kill(os.getpid(), 9)

folder = Path(sys.argv[1])
threading.Thread(target=kill, daemon=True).start()
with Checkpoints(folder) as checkpoints:
    for step in range(1, 100):
        checkpoints.save(step, {"w": np.full(3_000_000, step, np.float32)})
"""


def test_a_kill_in_mid_save_leaves_the_save_before(tmp_path):
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert child.returncode == -9
    assert [p for p in tmp_path.iterdir() if "tmp" in p.name], "it was not killed in mid-save"
    template = {"w": np.zeros(3_000_000, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        step, tree, _ = checkpoints.restore(template)
        assert step == 2
        assert (tree["w"] == 2).all()
        assert not [p for p in tmp_path.iterdir() if "tmp" in p.name]
        checkpoints.save(3, template)
        assert checkpoints.restore(template)[0] == 3


def test_a_save_that_fails_says_where(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot save a checkpoint in .*file"):
        Checkpoints(tmp_path / "file").save(1, SMALL)


def test_a_full_disk_is_told_in_a_sentence(tmp_path, monkeypatch, capfd):
    from orbax.checkpoint import CheckpointManager

    def full(self):
        raise ValueError("RESOURCE_EXHAUSTED: a long path: No space left on device [28]")

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, SMALL)
    checkpoints.wait()
    checkpoints.save(2, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "wait_until_finished", full)
        with pytest.raises(UserError, match=r"cannot save .*: no space left on the device$"):
            checkpoints.wait()
    checkpoints.close()
    assert capfd.readouterr().err == ""
