"""Gates and penalties in experiments: trained, resumed, averaged, compared, refused where meaningless."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stopping import StopsAfter

import jaxprune as jp
from experiments import cli, compare, report, train
from experiments.cli import Options, Stopper, UserError
from experiments.config import config, nested_kind, part, validate
from experiments.runs import mask_files
from experiments.studies import contestants
from experiments.training.setup import setup
from experiments.training.task import model_of
from experiments.training.trainer import Trainer, TrainState
from experiments.ways import penalty
from tests.experiments.training.test_loop import ROOT, run

WAYS = {
    "hard_concrete": {
        "gate": part(
            "hard_concrete",
            pattern={"fc1": part("channel", axis=-2), "fc[23]": part("channel")},
            dropout_rate={"fc1": 0.2, "fc[23]": 0.5},
            strength={"fc1": 3e-6, "fc[23]": 1e-6},
        ),
        "ema": 0.9,
        "gate_optimizer": part("adam", learning_rate=0.3),
    },
    "variational_dropout": {
        "gate": part(
            "variational_dropout",
            strength=part("linear_schedule", init_value=0.0, end_value=1e-5, transition_steps=40),
        ),
        "gate_optimizer": part("adam", learning_rate=0.3),
    },
    "supermask": {
        "gate": part("supermask", sparsity=0.5, signed_constant=True, dynamic_scaling=True),
        "gate_optimizer": part("adam", learning_rate=3e-3),
    },
    "movement": {
        "gate": part("movement", sparsity=0.75, begin=10, end=50),
        "gate_optimizer": part("sgd", learning_rate=1.0),
    },
    "l1": {"penalty": part("l1", strength=1e-3), "preconditioner": part("adam")},
    "group": {"penalty": part("group_l2", strength=0.4, axis=-1), "prunable": "fc1/kernel"},
}


def whole(**fields):
    common = {
        "data": part("synthetic_mnist", batch_size=32),
        "model": part("lenet_300_100"),
        "optimizer": part("adam", learning_rate=2e-3),
        "validation": 64,
        "steps": 60,
        "log_every": 10,
        "eval_every": 20,
        "save_every": 20,
    }
    cfg = config(**{**common, **fields})
    validate(cfg)
    return cfg


QUICK = ("hard_concrete", "group")  # a gate and a penalty
SOME = [way if way in QUICK else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]


@pytest.mark.parametrize("way", SOME)
def test_every_way_trains_and_resumes_to_the_same_bits(way, tmp_path):
    cfg = whole(**WAYS[way])
    results = run(train.main, cfg, tmp_path / "whole")
    (seed,) = results["seeds"]
    assert seed["test_accuracy"] > 0.5, "of the sparse network"
    assert 0.05 < seed["sparsity"] < 1
    gone = sum(leaf["weights"] - leaf["kept"] for leaf in seed["per_leaf"])
    assert seed["compression"] == pytest.approx(266_610 / (266_610 - gone))
    assert seed["effective_sparsity"] >= seed["sparsity"] - 1e-6
    first = seed["per_leaf"][0]
    assert first["effective"] <= first["kept"]
    assert first["inputs"] <= 784
    assert first["outputs"] <= 300
    assert run(train.main, cfg, tmp_path / "cut", StopsAfter(4)) is None
    assert run(train.main, cfg, tmp_path / "cut")["seeds"] == results["seeds"]


def test_the_masks_that_are_stored_are_those_of_the_network(tmp_path):
    cfg = whole(**WAYS["movement"])
    (seed,) = run(train.main, cfg, tmp_path)["seeds"]
    (file,) = tmp_path.rglob("masks.npz")
    params = model_of(cfg).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    rows = jp.masks.summary(mask_files.load(file, params))
    assert [(r["leaf"], r["kept"]) for r in rows] == [
        (leaf["leaf"], leaf["kept"]) for leaf in seed["per_leaf"]
    ]


def test_a_subgradient_is_reported_as_it_is(tmp_path):
    cfg = whole(subgradient=part("l1", strength=1e-3))
    (seed,) = run(train.main, cfg, tmp_path)["seeds"]
    assert seed["sparsity"] < 0.01, "it gives hardly a zero"
    dense = run(train.main, whole(), tmp_path)["seeds"][0]
    assert seed["initial"] == dense["initial"]
    assert seed["digest"] != dense["digest"]


def test_the_loss_that_is_logged_is_that_of_the_examples(tmp_path):
    gate = part("hard_concrete", strength=1.0)  # a penalty of some 200,000
    run(train.main, whole(gate=gate, steps=20), tmp_path)
    (file,) = tmp_path.rglob("metrics.csv")
    header, first, *_ = (line.split(",") for line in file.read_text().splitlines())
    assert 0 < float(first[header.index("train_loss")]) < 100


def test_gates_may_have_an_optimizer_of_their_own(tmp_path):
    still = part("sgd", learning_rate=0.0)
    gate = part("supermask", sparsity=0.5)
    cfgs = [whole(gate=gate, gate_optimizer=o, steps=20) for o in (None, still)]
    moved, stood = (run(train.main, cfg, tmp_path)["seeds"][0] for cfg in cfgs)
    assert moved["test_loss"] < stood["test_loss"]


def test_the_average_is_what_is_evaluated():
    model = model_of(whole())
    tx = jp.averaged(optax.sgd(0.1), 0.5)
    trainer = Trainer(model, tx)
    params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
    start = TrainState(params, {}, tx.init(params))
    images = jnp.zeros((8, 28, 28, 1), jnp.uint8)
    labels, rows = jnp.arange(8, dtype=jnp.int32), np.arange(8, dtype=np.int32).reshape(2, 4)
    state, _ = trainer.run(start, images, labels, None, jax.random.key(1), rows, 0, 2)
    network = trainer.network(state, 2)
    average = jp.average_of(state.params, state.opt_state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), network, average
    )
    assert not jnp.array_equal(network["fc3"]["bias"], state.params["fc3"]["bias"])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"gate": part("hard_concrete"), "penalty": part("l1", strength=1.0)},
            "config.gate and config.penalty: a model becomes sparse in one way",
        ),
        (
            {"gate": part("hard_concrete", dropout=0.5)},
            "no argument 'dropout'; nearest: 'dropout_rate'",
        ),
        (
            {"gate": part("hardconcrete")},
            "config.gate: no gate 'hardconcrete'; nearest: 'hard_concrete'",
        ),
        ({"penalty": part("l1")}, "'l1' also needs strength"),
        ({"penalty": part("lasso", strength=1.0)}, "config.penalty: no penalty 'lasso'"),
        ({"ema": 1.0}, "config.ema=1.0"),
        (
            {"preconditioner": part("adam")},
            "config.preconditioner does nothing without config.penalty",
        ),
        ({"gate_optimizer": part("sgd", learning_rate=1.0)}, "config.gate_optimizer does nothing"),
        (
            {"gate_optimizer": part("adma", learning_rate=0.1)},
            "config.gate_optimizer: no optimizer 'adma'",
        ),
        (
            {"gate": part("hard_concrete", pattern={"fc1": part("chanel")})},
            "config.gate.pattern: no pattern 'chanel'; nearest: 'channel'",
        ),
    ],
)
def test_mistakes_are_told_before_jax(fields, says):
    with pytest.raises(UserError) as e:
        whole(**fields)
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"method": part("static", sparsity=0.5), "ema": 0.9},
            "config.ema=0.9: an average over updates is not sparse",
        ),
        (
            {"gate": part("movement", sparsity=0.5, end=70)},
            "config.gate.end=70: training ends after config.steps=60",
        ),
        (
            {"gate": part("hard_concrete", strength={"fc9": 1.0})},
            "config.gate: hard_concrete: strength: 'fc9' matches no leaf",
        ),
        (
            {"gate": part("hard_concrete", pattern=part("groups", m=7))},
            "'fc2/kernel' has 300 weights along axis -2, not a multiple of 7",
        ),
        ({"penalty": part("l1", strength=-1.0)}, "strength"),
        (
            {"gate": part("hard_concrete", strength=-1.0)},
            "config.gate.strength=-1.0: at least 0 is needed",
        ),
        (
            {"gate": part("supermask", prunable="fc1"), "prunable": "fc2"},
            "config.gate.prunable and config.prunable",
        ),
        (
            {"penalty": part("l1", strength=1.0), "early_stop": 2},
            "config.early_stop: config.penalty makes the network sparser to the end",
        ),
        (
            {"subgradient": part("l0", strength=1.0)},
            "config.subgradient: add_penalty: this penalty has no",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(fields, says, tmp_path):
    with pytest.raises(UserError) as e:
        run(train.main, whole(**fields), tmp_path)
    assert says in str(e.value)


@pytest.mark.parametrize("momentum", [None, 0.9])
def test_the_proximal_step_is_that_of_the_optimizer(momentum):
    optimizer = part("sgd", learning_rate=0.1, **({"momentum": momentum} if momentum else {}))
    cfg = whole(optimizer=optimizer, penalty=part("l1", strength=1.0))
    tx = penalty.recipe(setup(cfg), cfg.penalty, "config.penalty").transform(jax.random.key(0))
    params = {"fc1": {"kernel": jnp.full((2, 2), 5.0)}}
    grads = {"fc1": {"kernel": jnp.zeros((2, 2))}}
    updates, _ = tx.update(grads, tx.init(params), params)
    expected = -0.1 / (1 - (momentum or 0.0))
    np.testing.assert_allclose(updates["fc1"]["kernel"], expected, rtol=1e-5)


def test_parts_of_a_comparison_can_be_set_on_the_command_line():
    assert nested_kind(nested_kind(None, "gates"), "movement") == "gate"
    assert nested_kind(None, "gate_optimizer") == "optimizer"


def regularised(**fields):
    return whole(
        validation=0,
        seeds=(0, 1),
        steps=20,
        preconditioner=part("adam"),
        compare={
            "sparsities": (0.5,),
            "methods": {"GMP": part("gmp", begin=5, end=15, every=5)},
            "gates": {
                "movement": part("movement", begin=5, end=15),
                "units": part("hard_concrete", pattern=part("channel", axis=-2)),
            },
            "penalties": {"L1": part("l1")},
            "subgradients": {"L1, plain": part("l1")},
            "strengths": {"units": (1e-5,), "L1": (1e-4, 1e-2), "L1, plain": (1e-2,)},
            **fields,
        },
    )


@pytest.mark.slow
def test_what_is_regularised_takes_part_at_its_strengths(tmp_path):
    compare.main(regularised(), Options("test", tmp_path, False, Stopper()))
    (folder,) = tmp_path.glob("test-*")
    results = json.loads((folder / "results.json").read_text())
    assert results["contestants"] == ["GMP", "movement", "units", "L1", "L1, plain"]
    assert results["strengths"] == {"units": [1e-5], "L1": [1e-4, 1e-2], "L1, plain": [1e-2]}
    points = results["seeds"][0]["points"]
    assert [point["asked"] for point in points["L1"]] == [1e-4, 1e-2]
    assert points["L1"][0]["sparsity"] < points["L1"][1]["sparsity"]
    assert points["movement"][0]["sparsity"] == points["GMP"][0]["sparsity"] == 0.5
    assert len({p["initial"] for s in points.values() for p in s if "initial" in p}) <= 1
    text = (folder / "report.md").read_text()
    learned = text.split("## As sparse as their strength makes them")[1].split("##")[0]
    assert "| L1, strength 0.01 |" in learned
    assert "| dense |" in learned
    assert "GMP" not in learned
    asked = text.split("## At 50 % removed, as asked")[1].split("##")[0]
    assert "| GMP |" in asked
    assert "| movement |" in asked
    assert "L1" not in asked
    claim = {"name": "", "kind": "at_least", "metric": "compression", "a": "L1"}
    for strength, value, verdict in (
        (1e-4, 99.0, "refuted"),
        (1e-2, -1e6, "holds"),
        (0.5, 1.0, "open"),
    ):
        results["paper"] = {"accept": [{**claim, "strength": strength, "value": value}]}
        (outcome,) = report.check_claims(results)
        assert outcome.verdict == verdict


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"strengths": {"units": (1e-5,)}},
            "config.compare.penalties.L1: how sparse it becomes is learned",
        ),
        (
            {"strengths": {"units": (1.0,), "L1": (1.0,), "L1, plain": (1.0,), "L2": (1.0,)}},
            "config.compare.strengths: nobody is called 'L2'; nearest: 'L1'",
        ),
        (
            {"strengths": {"units": (1.0, 1.0), "L1": (1.0,), "L1, plain": (1.0,)}},
            "config.compare.strengths.units=(1.0, 1.0): different numbers",
        ),
        ({"gates": ("hard_concrete",)}, "config.compare.gates="),
        (
            {"gates": {"units": part("hard_concrete", strength=1.0)}},
            "config.compare.gates.units.strength: leave it out; it is filled in",
        ),
    ],
)
def test_mistakes_about_strengths_are_told_in_words(fields, says):
    with pytest.raises(UserError) as e:
        contestants.contestants(regularised(**fields))
    assert says in str(e.value)


CONFIGS = [("louizos2018/lenet300_mnist", argument) for argument in ("one", "layers", "1,1,1,60")]
CONFIGS += [("molchanov2017/lenet300_mnist", epochs) for epochs in ("200", "60")]
CONFIGS += [("zhou2019/supermask_lenet300_mnist", mask) for mask in ("plain", "signed", "popup")]


@pytest.mark.parametrize(("file", "argument"), CONFIGS)
def test_the_configs_are_sound(file, argument, tmp_path, capsys):
    cfg = cli.load_config(f"{ROOT}/configs/{file}.py:{argument}")
    validate(cfg)
    assert run(train.main, cfg, tmp_path, dry_run=True) is None
    assert "gate: " in capsys.readouterr().out
