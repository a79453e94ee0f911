"""experiments.structured: units go, what is left is shrunk and tested; networks trained with a penalty."""

import comparisons
import pytest
from comparisons import small

from experiments import structured
from experiments.config import UserError, part


def of(compare, **fields):
    fields = {"prunable": "", "save_every": 20, "seeds": (0,), **fields}
    return small(compare, **fields)


def run(cfg, workdir, dry_run=False):
    return comparisons.run(cfg, workdir, dry_run=dry_run, main=structured.main)


CRITERIA = {
    "L1": "magnitude",
    "Taylor": {
        "criterion": "unit_taylor",
        "pattern": part("coupled", only="fc1", over="outputs"),
    },
    "Taylor, other units": {
        "criterion": "unit_taylor",
        "pattern": part("coupled", only="fc2/kernel.1", over="outputs"),
    },
    "penalised": {"criterion": "magnitude", "of": "lasso"},
    "growing": {
        "criterion": "magnitude",
        "optimizer": part("adam", learning_rate=1e-3),
        "removal": part(
            "growing",
            decay=part("linear_schedule", init_value=0.0, end_value=1.0, transition_steps=5),
            until=6,
        ),
    },
}
GRADUAL = part("gmp", begin=5, end=15, every=5, pattern=part("coupled", only="fc2/kernel.1"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    compare = {
        "sparsities": (0.5,),
        "criteria": CRITERIA,
        "methods": {"gradual": GRADUAL},
        "subgradients": {"lasso": part("l1", leaves="fc1/kernel")},
        "strengths": {"lasso": (1e-3,)},
        "pipeline": {"when": "trained", "finetune": 10, "examples": 64},
    }
    folder = tmp_path_factory.mktemp("whole")
    return next(iter([folder])), run(of(compare), folder)


def test_units_are_gone_and_the_small_network_is_the_masked_one(finished):
    points = {label: found[0] for label, found in finished[1]["seeds"][0]["points"].items()}
    small = {label: point.get("small_shapes") for label, point in points.items()}
    both = {"fc1/bias": [150], "fc1/kernel": [784, 150], "fc2/bias": [50]}
    assert small["L1"] == {**both, "fc2/kernel": [150, 50], "fc3/kernel": [50, 10]}
    assert small["L1"] == small["penalised"]
    assert small["Taylor"]["fc2/kernel"] == [150, 100]
    assert small["gradual"]["fc2/kernel"] == [300, 50]
    assert small["Taylor, other units"]["fc2/kernel"] == [300, 50]
    assert small["L1"] == small["growing"]
    for label in ("L1", "Taylor", "penalised", "growing", "gradual"):
        assert points[label]["small_accuracy"] == pytest.approx(
            points[label]["test_accuracy"], abs=2e-3
        )
        assert points[label]["small_faster"] > 0
    assert points["L1"]["small_parameters"] == 785 * 150 + 151 * 50 + 51 * 10
    assert points["L1"]["small_flops"] == 2 * (784 * 150 + 150 * 50 + 50 * 10)
    assert points["L1"]["digest"] != points["penalised"]["digest"], "of another network"
    assert points["growing"]["sparsity"] == points["L1"]["sparsity"]
    assert points["growing"]["training"] > points["L1"]["training"], "dense until the units go"


def test_the_report_shows_the_small_networks(finished):
    text = next(finished[0].glob("test-*/report.md")).read_text()
    assert "small network, parameters" in text
    assert f"{785 * 150 + 151 * 50 + 51 * 10:,}" in text


@pytest.mark.parametrize(
    ("compare", "message"),
    [
        ({"methods": {"gmp": part("gmp", begin=1, end=5, every=1)}}, "here whole units are removed"),
        (
            {"criteria": {"L1": {"criterion": "magnitude", "pattern": part("unstructured")}},
             "pipeline": {"when": "trained"}},
            "config.compare.criteria.L1: L1 has the pattern 'unstructured'; here whole units",
        ),
        (
            {"criteria": {"L1": {"criterion": "magnitude", "pattern": None}},
             "pipeline": {"when": "trained"}},
            "L1 has the pattern None; here whole units are removed",
        ),
        (
            {"criteria": {"L1": {"criterion": "magnitude", "of": "lasoo"}},
             "pipeline": {"when": "trained"}},
            "no trained network 'lasoo'",
        ),
        (
            {"criteria": {"L1": {"criterion": "magnitude", "of": "lasso"}},
             "pipeline": {"when": "initialisation"}},
            "is there a network to prune",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "trained", "pattern": part("coupled", only="conv9")}},
            "no group is meant by only='conv9'",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "trained", "finetune": 5,
                          "removal": part("growing", decay=1.0, until=5)}},
            "until=5: weights go before the last of finetune=5",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "trained", "optimizer": part("sgd", learning_rate=0.1)}},
            "it is for fine-tuning",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "initialisation", "removal": part("growing", decay=1.0, until=5)}},
            "only what is pruned after training can fade",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "trained", "finetune": 9,
                          "removal": part("growing", decay=1.5, until=5)}},
            "a share of a weight, from 0 to 1",
        ),
        (
            {"criteria": {"L1": "magnitude"},
             "pipeline": {"when": "trained", "finetune": 9, "removal": part("growing", until=5)}},
            "'growing' also needs decay",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told(compare, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run(of({"sparsities": (0.5,), **compare}), tmp_path, dry_run=True)


@pytest.mark.parametrize("pipeline", [{}, {"pipeline": {}}, {"pipeline": {"pattern": None}}])
def test_criteria_without_a_pattern_remove_all_coupled_units(pipeline):
    criteria = {"L1": {"criterion": "magnitude", "when": "trained"}}
    compare = {"sparsities": (0.5,), "criteria": criteria, **pipeline}
    made, (contestant,) = structured.STUDY.check(of(compare))
    assert contestant.pipeline.pattern["name"] == "coupled"
    assert made.compare.pipeline.pattern.name == "coupled", "a comparison has another folder"
