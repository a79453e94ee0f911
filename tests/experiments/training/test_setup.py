"""A config is resolved once per run."""

import importlib

import pytest

from experiments import compare
from experiments import config as config_lib
from experiments.cli import Options, Stopper
from experiments.config import config, part, validate

GMP = {"begin": 1, "end": 4, "every": 1}
COMMON = {
    "data": part("synthetic_mnist", batch_size=32),
    "model": part("lenet_300_100"),
    "optimizer": part("adam", learning_rate=1e-3),
    "steps": 6,
    "validation": 64,
    "seeds": (0, 1),
}
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
