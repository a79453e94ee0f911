"""Networks of few values in a comparison: what they begin with, what is counted, what is refused."""

import json

import numpy as np
import pytest
from stopping import StopsAfter

from experiments import compare, report
from experiments.cli import Options, Stopper, UserError
from experiments.config import config, part
from experiments.runs import mask_files
from experiments.studies import contestants
from jaxprune import quantise

COMPARE = {
    "sparsities": (0.9,),
    "methods": {"gradual": part("gmp", begin=5, end=15, every=5)},
    "criteria": {"rounds": "magnitude"},
    "pipeline": {"when": "training", "schedule": part("exponential", begin=5, end=15, every=5)},
    "quantised": {
        "few": {"of": "gradual", "bits": 4, "updates": 10, "optimizer": part("sgd", learning_rate=0.01)},
        "fewer": {"of": "rounds", "bits": {"fc[12]": 2, "fc3": 3}, "gap_bits": 4, "updates": 10},
    },
}  # fmt: skip


def settings(**changes):
    return config(
        data=part("synthetic_mnist", batch_size=32),
        model=part("lenet_300_100"),
        optimizer=part("sgd", learning_rate=0.05),
        validation=0,
        steps=20,
        log_every=5,
        save_every=10,
        seeds=(0, 1),
        compare={**COMPARE, **changes},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's folder, its results, and the networks whose files were counted."""
    workdir = tmp_path_factory.mktemp("runs")
    networks = []
    updated = quantise.updated

    def remember(books, network):
        networks.append(network)
        return updated(books, network)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "updated", remember)
        compare.main(settings(), Options("few", workdir, False, Stopper()))
    (folder,) = workdir.iterdir()
    return folder, json.loads((folder / "results.json").read_text(encoding="utf-8")), networks


def test_each_leaf_has_few_values_on_the_masks_of_the_other(finished):
    folder, results, networks = finished
    trainings = [(label, seed) for label in ("few", "fewer") for seed in results["seeds"]]
    assert len(networks) == len(trainings)
    for (label, seed), network in zip(trainings, networks, strict=True):
        other = COMPARE["quantised"][label]["of"]
        mine, theirs = seed["points"][label][0], seed["points"][other][0]
        assert mine["sparsity"] == theirs["sparsity"]
        place = folder / other / "sparsity_0.9" / f"seed_{seed['seed']}" / "masks.npz"
        masks = mask_files.load(place, network)
        most = {"few": {"fc1": 15, "fc3": 15}, "fewer": {"fc1": 3, "fc3": 7}}[label]
        for layer, count in most.items():
            kernel = np.asarray(network[layer]["kernel"])
            assert 1 < len(np.unique(kernel[kernel != 0])) <= count
            assert not kernel[~np.asarray(masks[layer]["kernel"])].any()


def test_bytes_are_those_of_the_packed_network(finished):
    _, results, _ = finished
    for seed in results["seeds"]:
        (few,), (fewer,) = seed["points"]["few"], seed["points"]["fewer"]
        dense_bytes = 4 * 266_610
        for point in (few, fewer):
            assert point["file_ratio"] == pytest.approx(dense_bytes / point["file_bytes"])
            assert point["file_ratio"] > point["file_ratio_fixed_width"] > 10
        assert fewer["file_bytes"] < few["file_bytes"]


def test_the_report_tells_of_the_file(finished):
    folder, *_ = finished
    text = report.write_report(folder).read_text(encoding="utf-8")
    assert "## Files" in text
    assert "the networks of gradual with few values" in text


@pytest.mark.slow
def test_a_resumed_run_has_the_same_digits(finished, tmp_path):
    _, results, _ = finished
    options = Options("few", tmp_path, False, StopsAfter(9))
    compare.main(settings(), options)
    compare.main(settings(), options._replace(stopper=Stopper()))
    (folder,) = tmp_path.iterdir()
    again = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    digests = [
        [
            [seed["points"][label][0]["digest"] for label in ("few", "fewer")]
            for seed in run["seeds"]
        ]
        for run in (results, again)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"bits": 4}, "a dict is needed, with of="),
        ({"of": "gradula"}, "called 'gradula'; nearest: 'gradual'"),
        ({"of": "gradual", "bit": 4}, "no field 'bit'; nearest: 'bits'"),
        ({"of": "gradual", "bits": 9}, "from 1 to 8"),
        ({"of": "gradual", "bits": {"fc": 0}}, "from 1 to 8"),
        ({"of": "gradual", "gap_bits": 2.5}, "int is needed"),
        ({"of": "gradual", "start": "random"}, "no start 'random'"),
        ({"of": "gradual", "updates": 0}, "at least 1"),
        ({"of": ["gradual"]}, "str is needed"),
        ({"of": "gradual", "bits": {}}, "bits is empty"),
        ({"of": "gradual", "bits": {"fc[": 6}}, "no regular expression"),
        ({"of": "gradual", "optimizer": "sgd"}, "is not a part"),
    ],
)
def test_what_cannot_be_meant_is_refused(entry, words):
    with pytest.raises(UserError, match=words):
        contestants.contestants(settings(quantised={"few": entry}))


def test_training_costs_what_the_network_before_has_cost_and_more(finished):
    _, results, _ = finished
    for seed in results["seeds"]:
        before, after = (seed["points"][label][0]["training"] for label in ("gradual", "few"))
        assert before < 1
        assert before < after < before + 0.5 + 1e-6, "ten more updates, of twenty"


def test_controls_of_what_leaves_no_masks_are_refused():
    with pytest.raises(UserError, match="few leaves no masks of its own"):
        contestants.contestants(settings(controls={"few": ("retrained",)}))


def test_bits_by_expression_are_those_of_one_expression(tmp_path):
    entry = {"of": "gradual", "bits": {"fc.*": 4, "fc3": 6}}
    with pytest.raises(UserError, match=r"few\.bits: 'fc\.\*' and 'fc3' both match 'fc3/"):
        compare.main(settings(quantised={"few": entry}), Options("test", tmp_path, True, Stopper()))
