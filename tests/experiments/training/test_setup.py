"""A config is resolved once per run."""

import importlib

import pytest

from experiments import compare
from experiments import config as config_lib
from experiments.cli import Options, Stopper
from experiments.config import UserError, config, part, validate
from experiments.config.sections import check_tables
from experiments.training.setup import setup

GMP = {"begin": 1, "end": 4, "every": 1}
COMMON = {
    "data": part("synthetic_mnist", batch_size=32),
    "model": part("lenet_300_100"),
    "optimizer": part("adam", learning_rate=1e-3),
    "steps": 6,
    "validation": 64,
    "seeds": (0, 1),
}
TABLE = {"sparsities": {"fc1": 0.0, "fc": 0.5}}
MEMBERS = {"fc1": part("gmp", sparsity=0.2, **GMP), "fc": part("gmp", sparsity=0.8, **GMP)}
RUNS = {
    "train": {"method": part("gmp", sparsity=0.8, **GMP)},
    "lottery": {
        "method": part("magnitude", sparsity=0.3),
        "lottery": {"rounds": 1, "controls": ("shuffled",)},
    },
    "compare": {
        "compare": {
            "sparsities": (0.5, 0.8),
            "methods": {"GMP": part("gmp", **GMP)},
            "criteria": {"l2": {"criterion": "l2", "when": "trained", "finetune": 2}},
            "gates": {"gate": part("hard_concrete")},
            "penalties": {"penalty": part("l1")},
            "strengths": {"gate": (1e-6,), "penalty": (1e-3,)},
            "controls": ("shuffled",),
        }
    },
    "structured": {
        "compare": {
            "sparsities": (0.25,),
            "criteria": ("l2",),
            "pipeline": {"when": "trained", "pattern": part("coupled")},
        }
    },
    "sensitivity": {"sensitivity": {"sparsities": (0.5,), "budget": (0.3,)}},
}


@pytest.fixture
def built(monkeypatch):
    """The parts that are built by `experiments.config.build` from now on, as their kinds."""
    kinds = []
    build = config_lib.build

    def counting(kind, spec, **options):
        kinds.append(kind)
        return build(kind, spec, **options)

    monkeypatch.setattr(config_lib, "build", counting)
    return kinds


@pytest.mark.parametrize("binary", RUNS)
def test_the_model_is_built_once_for_a_plan(binary, built, tmp_path):
    cfg = config(**COMMON, **RUNS[binary])
    validate(cfg)
    main = importlib.import_module(f"experiments.{binary}").main
    main(cfg, Options("test", tmp_path, True, Stopper()))
    assert built.count("model") == 1


def test_the_model_is_built_once_for_all_seeds_and_points(built, tmp_path):
    methods = {"GMP": part("gmp", **GMP)}
    cfg = config(**COMMON, compare={"sparsities": (0.8,), "methods": methods})
    compare.main(cfg, Options("test", tmp_path, False, Stopper()))
    assert built.count("model") == 1


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"method": part("gmp", sparsity=0.8, allocation=part("erk", **TABLE), **GMP)}, "method."),
        ({"method": part("partition", methods=MEMBERS)}, r"method\.methods"),
        (
            {"compare": {"pipeline": {"allocation": part("erk", **TABLE)}}},
            r"compare\.pipeline\.allocation\.sparsities",
        ),
    ],
    ids=["allocation", "partition", "pipeline"],
)
def test_two_expressions_for_a_leaf_are_refused_as_the_dicts_of_a_config_are_sorted(fields, place):
    with pytest.raises(UserError, match=place + r".*'fc' and 'fc1' both match 'fc1/kernel'"):
        setup(config(**COMMON, **fields))


def test_expressions_of_which_one_matches_are_a_table():
    erk = part("erk", sparsities={"fc[23]": 0.5, "fc1": 0.0})
    resolved = setup(config(**COMMON, method=part("gmp", allocation=erk)))
    assert resolved.prunable_names == ["fc1/kernel", "fc2/kernel", "fc3/kernel"]


@pytest.mark.parametrize("keys", [(1000, 2000), ("(", "fc1")], ids=["steps", "unreadable"])
def test_keys_that_are_no_expressions_are_left_to_the_part_that_reads_them(keys):
    spec = {"name": "part", "values": {keys[0]: 0.5, keys[1]: 0.1}}
    check_tables(spec, lambda: ["fc1/kernel"], "config.method")
