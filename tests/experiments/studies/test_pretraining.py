"""Comparisons whose networks are trained on other data before: what they begin with, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from comparisons import run, small
from stopping import StopsAfter

from experiments.cli import UserError
from experiments.config import part
from experiments.studies import one_training, pretraining

BEFORE = {"data": part("synthetic_fashion_mnist", batch_size=16), "steps": 12}
METHODS = {
    "methods": {"static": part("static")},
    "criteria": {"first": {"criterion": "snip", "when": "initialisation"}},
    "controls": {"static": ("shuffled",)},
    "sparsities": (0.5,),
}


def settings(before, compare=METHODS, **fields):
    return small(compare, pretraining=before, **fields)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, its results, and the parameters before and after each training's pretraining."""
    workdir, begun = tmp_path_factory.mktemp("runs"), []
    initial = pretraining.Pretraining.initial

    def remember(self, run, seed, params):
        begins = initial(self, run, seed, params)
        begun.append((seed, params, begins[0]))
        return begins

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining.Pretraining, "initial", remember)
        results = run(settings({**BEFORE, "redrawn": "fc3"}), workdir)
    return next(workdir.glob("test-*")), results, begun


def test_all_begin_with_what_the_other_data_taught_but_for_what_is_redrawn(finished):
    folder, results, begun = finished
    assert len(begun) == 2 * 4  # dense, static, first, shuffled; two seeds
    by_seed = {}
    for seed, drawn, begins in begun:
        for name in ("fc1", "fc2"):
            assert not np.array_equal(drawn[name]["kernel"], begins[name]["kernel"])
        np.testing.assert_array_equal(drawn["fc3"]["kernel"], begins["fc3"]["kernel"])
        first = by_seed.setdefault(seed, leaves(begins))
        assert all(map(np.array_equal, first, leaves(begins)))
    assert not np.array_equal(by_seed[0][1], by_seed[1][1])
    assert "without pruning" not in (text := (folder / "report.md").read_text(encoding="utf-8"))
    assert "dense training on synthetic_fashion_mnist, 12 updates for each seed" in text
    assert "leaves that match `fc3` begin anew" in text
    assert results["cost"]["trainings"] == 2 * 5


def test_it_is_a_dense_training_on_the_other_data(finished, tmp_path):
    alone = settings({}, data=BEFORE["data"], steps=BEFORE["steps"], seeds=(1,))
    (seed,) = run(alone, tmp_path)["seeds"]
    stored = json.loads(
        (finished[0] / "pretraining/seed_1/results.json").read_text(encoding="utf-8")
    )
    (pretrained,) = stored.get("items", [stored])
    assert pretrained["digest"] == seed["points"]["dense"][0]["digest"]


def test_an_interrupted_pretraining_goes_on(finished, tmp_path):
    cfg = settings({**BEFORE, "redrawn": "fc3"})
    assert run(cfg, tmp_path, StopsAfter(4)) is None
    assert not [*tmp_path.glob("test-*/dense/seed_0/results.json")]
    resumed = run(cfg, tmp_path)
    digests = [
        [
            [point["digest"] for point in points]
            for seed in results["seeds"]
            for points in seed["points"].values()
        ]
        for results in (resumed, finished[1])
    ]
    assert digests[0] == digests[1]


def test_a_pretraining_that_diverges_leaves_nothing_to_begin_with(tmp_path, monkeypatch):
    fresh_variables, calls = one_training.fresh_variables, []

    def broken(model, task, key):
        params, rest = fresh_variables(model, task, key)
        calls.append(key)
        second = len(calls) == 2
        return (jax.tree.map(lambda p: p * jnp.nan, params) if second else params), rest

    monkeypatch.setattr(one_training, "fresh_variables", broken)
    first, second = run(settings(BEFORE), tmp_path)["seeds"]
    assert all("failed" not in point for points in first["points"].values() for point in points)
    assert all(
        "seed 1: there is nothing to begin with, as pretraining diverged" in point["failed"]
        for label, points in second["points"].items()
        for point in points
        if label != "static, shuffled"  # it has no masks to begin with, and says so
    )


def test_trials_begin_with_it_too(tmp_path):
    section = {
        "sparsities": (0.5,),
        "methods": {"static": part("static")},
        "trials": {"static": ({}, {"optimizer": {"learning_rate": 0.1}})},
    }
    results = run(settings(BEFORE, section, validation=500, seeds=(0,)), tmp_path)
    assert (
        results["cost"]["trainings"] == 2 + 2 + 2
    )  # pretraining and trials of both seeds; dense, static
    assert (next(tmp_path.glob("test-*")) / "pretraining/seed_1000/done").is_file()


def test_a_dry_run_says_what_comes_before(tmp_path, capsys):
    run(settings(BEFORE), tmp_path, dry_run=True)
    assert "after 12 updates on synthetic_fashion_mnist" in capsys.readouterr().out
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("before", "fields", "says"),
    [
        ({"steps": 5}, {}, "pretraining.data is None"),
        ({"data": BEFORE["data"]}, {}, "pretraining.steps=0: at least 1"),
        ({**BEFORE, "epochs": 1}, {}, "pretraining: no field 'epochs'"),
        ({**BEFORE, "data": part("mnits")}, {}, "no data set 'mnits'"),
        ({**BEFORE, "optimizer": part("sdg")}, {}, "no optimizer 'sdg'"),
        ({**BEFORE, "redrawn": "("}, {}, "no regular expression"),
        ({**BEFORE, "redrawn": "fc9"}, {}, "'fc9' matches no leaf of the model: fc1/bias"),
        ({**BEFORE, "data": part("synthetic_cifar10")}, {}, r"shape \(32, 32, 3\)"),
        ({**BEFORE, "data": part("synthetic_mnist", batch_size=10**6)}, {}, "data.batch_size"),
        ({**BEFORE, "optimizer": part("sgd", learning_rate=0)}, {}, "learning_rate=0: more than 0"),
        (BEFORE, {"compare": {**METHODS, "controls": ("reinit",)}}, "'reinit' begins with weights"),
        (BEFORE, {"compare": {}}, "only comparisons begin with trained weights"),
        (
            BEFORE,
            {"compare": {**METHODS, "methods": {"pretraining": part("static")}, "controls": ()}},
            "a name that a run folder uses itself",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(before, fields, says, tmp_path):
    with pytest.raises(UserError, match=says):
        run(settings(before, **fields), tmp_path)
    assert not [*tmp_path.iterdir()]
