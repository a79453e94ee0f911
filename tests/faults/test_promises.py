"""Who may write where, edited configs, saved functions that equal their sources, files of other versions."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import make

from experiments.config import UserError, part
from experiments.runs import mask_files
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.folder import RunFolder, check_writable
from jaxprune import masks as masks_lib
from jaxprune import structured
from jaxprune.data import arrays
from jaxprune.storage import array_files

from . import small_runs

HOLDER = """
import sys
import filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def told(tally, case, call, *words):
    """Counts a refusal in one sentence that has these words."""
    try:
        call()
    except (UserError, ValueError) as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        if missing or "\n" in text:
            tally.foreign.append(f"{case}: {text[:200]}")
        else:
            tally.survive()
    except Exception as error:
        tally.foreign.append(f"{case}: {error!r}")
    else:
        tally.silent.append(case)


def test_who_may_write(tmp_path, attack):
    tally = attack("R7", "work folders that cannot be, and a second process", least=5)
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "to itself").symlink_to("to itself")
    places = ["/dev/null", "/dev/null/runs", tmp_path / "file" / "runs", tmp_path / "to itself"]
    for place in places:
        tally.happened(not (tmp_path / "runs").exists(), str(place))
        told(tally, str(place), lambda place=place: check_writable(place), str(place), "--workdir")
    cfg = small_runs.settings("train")
    with RunFolder.open(tmp_path / "runs", "x", cfg, "train") as folder:
        pass
    lock = [sys.executable, "-c", HOLDER, str(folder.path / "lock")]
    with subprocess.Popen(lock, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        tally.happened(other.stdout.readline() == b"held\n", "another process")
        enter = lambda: RunFolder.open(tmp_path / "runs", "x", cfg, "train")
        told(tally, "another process", enter, "in use by process", "--workdir")
    RunFolder.open(tmp_path / "runs", "x", cfg, "train").close()


def test_a_folder_that_was_made_with_other_settings(tmp_path, attack, monkeypatch):
    """As after an edit of a default, or of a file that a name stands for."""
    monkeypatch.setattr("experiments.runs.folder.folder_name", lambda *_: "x")
    cfg = small_runs.settings("train")
    RunFolder.open(tmp_path, "x", cfg, "train").close()
    changes = {
        "steps": {"steps": 21},
        "seeds": {"seeds": (1,)},
        "optimizer.learning_rate": {"optimizer": part("adam", learning_rate=2e-3)},
        "method.sparsity": {"method": part("gmp", sparsity=0.7, begin=2, end=18, every=4)},
        "data.batch_size": {"data": part("synthetic_mnist", batch_size=64)},
        "ema": {"ema": 0.9},
    }
    tally = attack("R22", "edited configs", least=len(changes) + 1)
    for field, changed in changes.items():
        edited = small_runs.settings("train", **changed)
        tally.happened(edited.to_dict() != cfg.to_dict(), field)
        told(
            tally,
            field,
            lambda edited=edited: RunFolder.open(tmp_path, "x", edited, "train"),
            field,
        )
    tally.happened(True, "what the paper says")
    RunFolder.open(
        tmp_path, "x", small_runs.settings("train", paper={"table": "1"}), "train"
    ).close()
    tally.survive()


def test_saved_functions_equal_their_sources(tmp_path, attack, amount):
    pytest.importorskip("flatbuffers")
    count = amount(1, 4)
    exact = attack("R25", "saved functions, outputs and gradients equal in every bit", least=count)
    shrunk = attack("R25", "shrunk networks, to 1e-5", least=count)

    def network(params, x):
        h = jax.nn.relu(x @ params["in"] + params["bias"][None, :])
        return jnp.tanh(h @ params["mid"]) @ params["out"]

    for seed in range(count):
        rng = np.random.default_rng(seed)
        draw = lambda *shape, rng=rng: jnp.asarray(rng.normal(size=shape).astype(np.float32))
        params = {"in": draw(5, 12), "bias": draw(12), "mid": draw(12, 8), "out": draw(8, 3)}
        graph = structured.trace(network, params, jnp.ones((1, 5)))
        masks = structured.prune(graph, params, sparsity=0.5)
        small = structured.shrink(graph, params, masks)
        structured.save(tmp_path / str(seed), small, jnp.ones((1, 5)))
        found = structured.load(tmp_path / str(seed))
        x = draw(7, 5)
        sizes = [leaf.size for leaf in jax.tree.leaves(small.params)]
        exact.happened(sum(sizes) < sum(w.size for w in params.values()), f"{seed} is smaller")
        value = lambda apply, params, x: (apply(params, x) ** 2).sum()
        ours = jax.jit(jax.grad(value, argnums=1), static_argnums=0)(small.apply, small.params, x)
        theirs = jax.jit(jax.grad(value, argnums=1), static_argnums=0)(found.apply, found.params, x)
        same = np.array_equal(jax.jit(small.apply)(small.params, x), found.apply(found.params, x))
        same &= all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(theirs)))
        exact.survive() if same else exact.silent.append(f"{seed}")
        shrunk.happened(True, f"{seed}")
        whole = network(masks_lib.apply(params, masks), x)
        error = float(jnp.abs(small.apply(small.params, x) - whole).max() / jnp.abs(whole).max())
        shrunk.survive() if error <= 1e-5 else shrunk.silent.append(f"{seed}: {error}")


def test_files_of_another_version_are_named(tmp_path, attack):
    """The golden files, with one number changed and right checksums."""
    tally = attack("R26", "files of this version load, others are named", least=9)
    folder = shutil.copytree(make.FILES, tmp_path / "files")
    archives = {
        "masks.npz": lambda path: mask_files.load(path, make.PARAMS),
        "arrays.npz": arrays.read,
    }
    for name, read in archives.items():
        path = folder / name
        tally.happened(read(path) is not None, f"{name} of this version")
        tally.survive()
        with np.load(path) as file:
            kind, version = (
                json.loads(file["manifest"].tobytes())[k] for k in ("format", "version")
            )
            content = {key: file[key] for key in file.files if key != "manifest"}
        array_files.write(path, content, kind=kind, version=version + 1)
        tally.happened(True, f"{name} of the next")
        if name == "arrays.npz":  # a cache, made anew of the records
            assert read(path) is None
            tally.survive()
        else:
            told(tally, name, lambda read=read, path=path: read(path), str(path), "version")
    path = folder / "plan.json"
    tally.happened(structured.Plan.load(path) == make.PLAN, "plan.json of this version")
    tally.survive()
    plan = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(plan | {"format": plan["format"] + 1}), encoding="utf-8")
    tally.happened(True, "plan.json of the next")
    told(tally, "plan.json", lambda: structured.Plan.load(path), str(path), "format")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        tally.happened(checkpoints.restore(make.SAVED)[0] == 5, "a checkpoint of this version")
        tally.survive()
    pytest.importorskip("flatbuffers")
    small = folder / "small"
    tally.happened(structured.load(small).plan is not None, "small of this version")
    tally.survive()
    manifest = json.loads((small / "manifest.json").read_text(encoding="utf-8"))
    newer = json.dumps(manifest | {"version": manifest["version"] + 1})
    (small / "manifest.json").write_text(newer, encoding="utf-8")
    tally.happened(True, "small of the next")
    told(tally, "small", lambda: structured.load(small), str(small), "version")
