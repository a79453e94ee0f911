"""Controls of masks in comparisons, and what training costs."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments import cli, compare
from experiments.cli import Options, Stopper
from experiments.config import config, part, validate
from experiments.metrics import training_cost
from experiments.reports import compare as compare_report
from experiments.runs import mask_files
from experiments.studies import contestants

CONTROLS = ("retrained", "shuffled", "reinit")


def setting(**fields):
    common = {
        "methods": {"SET": part("set_", every=2, end=8, allocation=part("uniform"))},
        "sparsities": (0.9,),
        "controls": CONTROLS,
    }
    return config(
        data=part("synthetic_mnist", batch_size=32),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.05),
        prunable="kernel",
        validation=0,
        steps=10,
        seeds=(0, 1),
        compare={**common, **fields},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir, cfg = tmp_path_factory.mktemp("controls"), setting()
    validate(cfg)
    compare.main(cfg, Options("test", workdir, False, Stopper()))
    return next(workdir.glob("test-*"))


def masks_in(folder, label, seed):
    params = {f"fc{i}": {"kernel": jnp.ones(shape)} for i, shape in SHAPES.items()}
    return mask_files.load(folder / label / "sparsity_0.9" / f"seed_{seed}" / "masks.npz", params)


SHAPES = {1: (784, 300), 2: (300, 100), 3: (100, 10)}


def test_controls_take_the_masks_that_were_found(finished):
    for seed in (0, 1):
        found, *others = [
            masks_in(finished, label, seed) for label in ("SET", *(f"SET, {c}" for c in CONTROLS))
        ]
        retrained, shuffled, reinit = others
        assert float(jp.masks.hamming(found, retrained)) == 0
        assert float(jp.masks.hamming(found, reinit)) == 0
        assert float(jp.masks.hamming(found, shuffled)) > 0.05
        assert [r["kept"] for r in jp.masks.summary(shuffled)] == [
            r["kept"] for r in jp.masks.summary(found)
        ]


def test_reports_name_the_controls_and_what_training_cost(finished):
    results = json.loads((finished / "results.json").read_text())
    assert results["contestants"] == ["SET", *results["controls"]]
    text = (finished / "report.md").read_text()
    assert "| SET, reinit | the masks of SET after training, fixed and trained from other" in text
    assert compare_report.headline(results).name == "SET at 90 %, best of 1"
    for label in results["contestants"]:
        (found,) = results["seeds"][0]["points"][label]
        assert found["training"] == pytest.approx(0.1, rel=0.01)  # every share is the density
        explored = found["explored"]
        assert 0.11 < explored < 0.4 if label == "SET" else explored == pytest.approx(0.1, rel=0.01)
    digests = {
        results["seeds"][0]["points"][label][0]["digest"] for label in results["contestants"]
    }
    assert len(digests) == 4


def test_a_control_of_what_diverged_is_a_failure_of_its_own(tmp_path):
    cfg = setting(controls=("shuffled",))
    with cfg.unlocked():
        cfg.optimizer.learning_rate = 1e30
    compare.main(cfg, Options("test", tmp_path, False, Stopper()))
    text = next(tmp_path.glob("test-*/report.md")).read_text()
    assert "SET, shuffled: there is nothing to begin with, as SET diverged." in text


def test_unknown_controls_are_refused():
    with pytest.raises(cli.UserError, match="no control 'shufled'; nearest: 'shuffled'"):
        contestants.contestants(setting(controls=("shufled",)))


def test_a_dry_run_lists_them(tmp_path, capsys):
    compare.main(setting(), Options("test", tmp_path, True, Stopper()))
    assert "SET, shuffled" in capsys.readouterr().out


def shares(method, density, steps=100, **more):
    tree = {"w": jnp.float32(density)}
    return training_cost.shares(method, tree, steps, **more)["w"]


def test_training_cost_by_hand():
    s = jp.methods
    fixed = shares(None, 0.1)
    assert fixed == pytest.approx(0.1)
    assert shares(s.set_(sparsity=0.9, every=10, end=90), 0.1) == pytest.approx(0.1)
    rigl = s.rigl(sparsity=0.9, every=10, end=101)  # due at 10, 20, ..., 90 of the steps 0 to 99
    u = np.mean([bool(rigl.schedule.due(t)) for t in range(100)])
    assert 0.08 < u < 0.12
    assert shares(rigl, 0.1) == pytest.approx((2 * 0.1 + u + (1 - u) * 0.1) / 3)
    assert shares(s.snfs(sparsity=0.9, every=10, end=90), 0.1) == pytest.approx((0.2 + 1) / 3)
    assert shares(s.saliency(sparsity=0.9, begin=0, end=90, every=10), 0.3) == pytest.approx(0.3)
    assert shares(s.ste(sparsity=0.9, end=100), 0.1) == pytest.approx((0.2 + 1) / 3)
    top = s.top_kast(sparsity=0.9, backward_sparsity=0.8, end=100)
    assert shares(top, 0.1) == pytest.approx((0.2 + 0.2) / 3)
    assert shares(None, 0.4, dense=True) == pytest.approx((0.8 + 1) / 3)


def test_training_cost_of_a_partition_is_by_leaf():
    method = jp.partition(
        {
            "a": jp.methods.snfs(sparsity=0.9, every=10, end=90),
            "b": jp.methods.static(sparsity=0.9),
        }
    )
    density = {"a": jnp.float32(0.1), "b": jnp.float32(0.1), "c": None}
    found = training_cost.shares(method, density, 100)
    assert found == {"a": pytest.approx(0.4), "b": pytest.approx(0.1), "c": None}
