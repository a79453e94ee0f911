"""Configs: fields, parts, and what `validate` says before JAX is there."""

import subprocess
import sys

import numpy as np
import pytest

from experiments.config import UserError, build, config, paper, part, validate
from experiments.config.fields import DEFAULTS
from experiments.reports import claims

ADAM = part("adam", learning_rate=1e-3)
GMP = part("gmp", sparsity=0.9, begin=0, end=80, every=10)


def whole(**fields):
    common = {"data": part("synthetic_mnist", batch_size=8), "model": part("lenet_300_100")}
    return config(**{**common, "optimizer": ADAM, "method": GMP, **fields})


def test_a_config_has_every_field_and_is_locked():
    cfg = config(steps=7)
    assert set(cfg) == set(DEFAULTS)
    assert cfg.steps == 7
    assert cfg.validation == DEFAULTS["validation"]
    with pytest.raises(AttributeError, match="locked"):
        cfg.stps = 3


def test_configs_do_not_share_their_defaults():
    one = config()
    one.unlock().lottery.rounds = 3
    assert "rounds" not in config().lottery
    assert DEFAULTS["lottery"] == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": part("lenet_30_100")}, "no model 'lenet_30_100'; nearest: 'lenet_300_100'"),
        ({"data": part("mnits", batch_size=8)}, "no data set 'mnits'; nearest: 'mnist'"),
        ({"data": part("mnist", batchsize=8)}, "no argument 'batchsize'; nearest: 'batch_size'"),
        ({"optimizer": part("adma", learning_rate=1.0)}, "no optimizer 'adma'; nearest: 'adamax'"),
        ({"optimizer": part("sgd")}, "'sgd' also needs learning_rate"),
        ({"optimizer": part("sgd", learning_rate=0.1, momentun=0.9)}, "nearest: 'momentum'"),
        ({"optimizer": part("adam", learning_rate=1.0, b1="x")}, "config.optimizer.b1='x'"),
        ({"optimizer": None}, "config.optimizer is None"),
        ({"optimizer": "adam"}, "is not a part"),
        (
            {"optimizer": part("adam", learning_rate=part("cosine_decay", init_value=1.0))},
            "config.optimizer.learning_rate: no learning_rate 'cosine_decay'; nearest: 'cosine_dec",
        ),
        ({"method": part("gmp", sparsty=0.9)}, "no argument 'sparsty'; nearest: 'sparsity'"),
        ({"method": part("gmp", sparsity="0.9")}, "found str, float is needed"),
        ({"method": part("gmp", sparsity=0.9)}, "'gmp' also needs begin, end, every"),
        (
            {"method": part("magnitude", sparsity=0.5, pattern=part("groups", n=4))},
            "config.method.pattern: 'groups' has no argument 'n'",
        ),
        (
            {"method": part("magnitude", sparsity=0.5, allocation=part("unifrom"))},
            "no allocation 'unifrom'; nearest: 'uniform'",
        ),
        ({"writers": ("csv", "tensorbord")}, "no writer 'tensorbord'"),
        ({"seeds": ("a",)}, "config.seeds='a': found str, int is needed"),
        ({"seeds": (1, 1)}, "different seeds"),
        ({"seeds": ()}, "different seeds"),
        ({"seeds": 3}, "tuple is needed"),
        ({"steps": 0}, "config.steps=0: at least 1"),
        ({"steps": True}, "int is needed"),
        ({"steps": 1.5}, "int is needed"),
        ({"validation": -1}, "at least 0"),
        ({"k_folds": 1}, "at least 2 folds"),
        ({"early_stop": 2, "validation": 0}, "config.validation=0 holds none out"),
    ],
)
def test_validate_says_what_is_wrong_and_what_is_near(fields, says):
    with pytest.raises(UserError) as e:
        validate(whole(**fields))
    assert says in str(e.value)


def test_folds_have_validation_examples_to_stop_by():
    validate(whole(early_stop=2, validation=0, k_folds=2))


@pytest.mark.parametrize("key", [1, None, ("a", "b")])
def test_a_key_that_is_no_string_is_told_where_it_is(key):
    with pytest.raises(
        UserError, match=r"config\.compare\.methods: the key .* is no string; write"
    ):
        config(compare={"methods": {key: GMP, "other": GMP}})


def test_keys_may_be_regular_expressions_with_dots():
    cfg = config(posttrain={"rows": {"a": {"rates": {"mlp.*": 0.6, "up": 0.5}}}})
    rates = {"mlp.*": 0.6, "up": 0.5}
    assert cfg.copy_and_resolve_references().to_dict()["posttrain"]["rows"]["a"]["rates"] == rates


def test_config_refuses_a_field_that_it_does_not_know():
    with pytest.raises(UserError, match=r"no field 'step'; nearest: 'steps'"):
        config(step=3)


@pytest.mark.parametrize(
    "optimizer",
    [
        ADAM,
        part("nadamw", learning_rate=1e-3),  # a functools.partial in optax
        part("muon", learning_rate=1e-3),  # of optax.contrib
        part("schedule_free_sgd"),
        part("sgd", learning_rate=part("linear_schedule", init_value=0.1, end_value=0.0,
                                       transition_steps=5)),
    ],
)  # fmt: skip
def test_validate_accepts_what_build_builds(optimizer):
    validate(whole(optimizer=optimizer))
    tx = build("optimizer", optimizer)
    assert tx.init({"w": np.zeros((2, 2), np.float32)}) is not None


def test_build_takes_nested_parts_and_keys_that_are_numbers():
    schedule = part("piecewise_constant_schedule", init_value=1.0, boundaries_and_scales={10: 0.5})
    rate = build("learning_rate", schedule)
    assert float(rate(9)) == 1.0
    assert float(rate(11)) == 0.5
    method = part(
        "magnitude",
        sparsity=0.5,
        pattern=part("groups", m=4),
        allocation=part("uniform", rates={"fc.*/kernel": 0.5}),  # dots are for regular expressions
    )
    validate(whole(method=method))
    units = build("method", method).pattern.to_groups(np.ones((8, 3)))
    assert units.shape == (2, 4, 3)
    assert build("method", None) is None
    criterion = build("criterion", part("magnitude"))
    assert criterion({"w": np.array([-2.0])})["w"][0] == 2.0


def test_a_partition_is_made_of_pairs_in_their_order():
    gmp = part("gmp", sparsity=0.5, begin=0, end=80, every=10)
    method = part(
        "partition", methods=(("fc1", part("rigl", sparsity=0.9, every=5, end=9)), ("fc", gmp))
    )
    validate(whole(method=method))
    built = build("method", method)
    assert [pattern for pattern, _ in built.methods] == ["fc1", "fc"]
    assert built.end == 80
    wrong = part("partition", methods=(("fc", part("gpm", sparsity=0.5)),))
    with pytest.raises(
        UserError, match=r"config\.method\.methods: no method 'gpm'; nearest: 'gmp'"
    ):
        validate(whole(method=wrong))


def test_what_a_function_refuses_is_told_in_one_sentence():
    with pytest.raises(UserError, match=r"method 'gmp': .*sparsity=1\.5"):
        build("method", part("gmp", sparsity=1.5, begin=0, end=80, every=10))


def test_validate_imports_neither_jax_nor_what_it_checks():
    code = (
        "import sys; from experiments.config import config, part, validate;"
        "validate(config(data=part('mnist', batch_size=8), model=part('lenet_300_100'),"
        "optimizer=part('adam', learning_rate=1e-3),"
        "method=part('gmp', sparsity=.9, begin=0, end=9, every=1)));"
        "print({'jax', 'flax', 'optax', 'jaxprune', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_claims_that_configs_may_make_are_those_that_reports_check():
    assert set(paper.CLAIMS) == set(claims._CHECKS)
