"""What an older version has written is read by this one, and its runs go on and are reported."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import report, train
from experiments.cli import Options, Stopper
from experiments.runs import mask_files
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.folder import folder_name
from jaxprune import masks, structured
from jaxprune.data import arrays
from jaxprune.data.synthetic import twin

from . import make


def same(a, b):
    def bits(x):
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        x = np.asarray(x)
        return str(x.dtype), x.shape, x.tobytes()

    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        bits(x) == bits(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_they_are_small():
    assert sum(path.stat().st_size for path in make.FILES.rglob("*") if path.is_file()) < 100_000


def test_masks():
    assert same(mask_files.load(make.FILES / "masks.npz", make.PARAMS), make.MASKS)


def test_masks_to_share():
    pytest.importorskip("safetensors")
    assert same(masks.load(make.FILES / "masks.safetensors", make.PARAMS), make.MASKS)


def test_plans():
    assert structured.Plan.load(make.FILES / "plan.json") == make.PLAN


def test_saved_functions():
    pytest.importorskip("flatbuffers")
    found = structured.load(make.FILES / "small")
    expected = make.small_function()
    assert found.plan == expected.plan
    assert same(found.params, expected.params)
    np.testing.assert_allclose(found.apply(found.params, make.INPUT), make.OUTPUT)
    grads = jax.grad(lambda p: found.apply(p, make.INPUT).sum())(found.params)
    assert grads["a"].shape == (3, 2)


def test_data():
    assert same(arrays.read(make.FILES / "arrays.npz"), twin("mnist", train=6, test=3))


def test_checkpoints(tmp_path):
    shutil.copytree(make.FILES / "checkpoints", tmp_path / "checkpoints")
    notes = []
    with Checkpoints(tmp_path / "checkpoints", notify=notes.append) as checkpoints:
        step, tree, meta = checkpoints.restore(make.SAVED)
    assert (step, meta, notes) == (5, make.META, [])
    assert same(tree, make.SAVED)


def copied(named, tmp_path):
    name, prunable = named
    cfg = make.setting(prunable)
    folder = tmp_path / folder_name(name, cfg)
    shutil.copytree(make.FILES / folder.name, folder)
    return name, cfg, folder


def test_a_run_that_was_stopped_goes_on(tmp_path, capsys):
    name, cfg, folder = copied(make.BEGUN, tmp_path)
    train.main(cfg, Options(name, tmp_path, False, Stopper()))
    (seed,) = json.loads((folder / "results.json").read_text(encoding="utf-8"))["seeds"]
    assert seed["sparsity"] == pytest.approx(0.99, abs=1e-4)
    lines = (folder / "seed_0" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert {3, make.STOPPED_AT, 12} <= set(steps)
    before = (make.FILES / folder.name / "seed_0" / "metrics.jsonl").read_text(encoding="utf-8")
    assert lines[: len(before.splitlines())] == before.splitlines()  # nothing of it ran again
    assert "damaged" not in capsys.readouterr().err


def test_a_finished_run_stays_and_is_reported(tmp_path, capsys):
    name, cfg, folder = copied(make.FINISHED, tmp_path)
    results = (folder / "results.json").read_bytes()
    train.main(cfg, Options(name, tmp_path, False, Stopper()))
    assert "finished" in capsys.readouterr().out
    assert (folder / "results.json").read_bytes() == results
    (folder / "report.md").unlink()
    text = report.write_report(folder).read_text(encoding="utf-8")
    (seed,) = json.loads(results)["seeds"]
    row = [f"{100 * seed['test_accuracy']:.2f} %", "99.00 %", "236910"]
    assert all(f"| {value} |" in text for value in row)
    params = {"fc1": {"kernel": None}, "fc2": {"kernel": None}, "fc3": {"kernel": None}}
    sizes = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
    for layer, shape in sizes.items():
        params[layer] = {"kernel": np.zeros(shape, np.float32), "bias": np.zeros(shape[1:])}
    found = mask_files.load(folder / "seed_0" / "masks.npz", params)
    assert found["fc1"] == {"kernel": None, "bias": None}
    assert int(found["fc2"]["kernel"].sum()) == 300
