"""Claims of configs: what is refused before a run, in which words."""

import json
from pathlib import Path

import pytest

from experiments.config import UserError, config, part, validate
from experiments.config.metrics import LOWER_IS_BETTER, is_share, lower_is_better
from experiments.studies.study import study_of

ROOT = Path(__file__).parents[3]
COMMON = {
    "data": part("synthetic_mnist", batch_size=8),
    "model": part("lenet_300_100"),
    "optimizer": part("adam", learning_rate=1e-3),
    "steps": 100,
    "validation": 100,
}
GMP = part("gmp", begin=0, end=80, every=10)
STUDIES = {
    "train": {**COMMON, "method": part("gmp", sparsity=0.9, begin=0, end=80, every=10)},
    "lottery": {
        **COMMON,
        "method": part("magnitude", sparsity=0.5),
        "lottery": {"rounds": 3, "controls": ("reinit",)},
    },
    "branches": {
        **COMMON,
        "method": part("magnitude", sparsity=0.5),
        "lottery": {"rounds": 3, "controls": ()},
        "branches": {"levels": (1,), "branches": {"rewound": {}}},
    },
    "compare": {
        **COMMON,
        "compare": {
            "sparsities": (0.5, 0.9),
            "methods": {"GMP": GMP},
            "penalties": {"L1": part("l1")},
            "strengths": {"L1": (1e-4, 1e-3)},
            "controls": {"GMP": ("reinit",)},
        },
    },
    "sensitivity": {**COMMON, "sensitivity": {"budget": (0.2, 0.1), "examples": 64}},
    "posttrain": {
        "posttrain": {
            "rows": {label: {"solver": part("sparsegpt")} for label in ("S", "mag")},
        }
    },
}


def check(study, **paper):
    cfg = config(**STUDIES[study], paper=paper)
    validate(cfg)
    study_of(study).check(cfg)


def claim(kind="band", **fields):
    return {"name": "it", "kind": kind, "metric": "test_accuracy", **fields}


def against_dense(**fields):
    return claim("lower_bound", b="dense", bound=0.0, **fields)


@pytest.mark.parametrize(
    ("study", "fields"),
    [
        ("train", claim(value=0.97, std=0.001, floor=0.002, published="97 %", against="figure")),
        ("train", claim("lower_bound", b=0.97, bound=0.0)),
        ("train", claim("matches", metric="test_loss", b=0.5, margin=None)),
        ("train", claim("at_least", metric="compression", value=20)),
        ("lottery", against_dense(a="ticket", metric="test_final", remaining=0.25)),
        ("lottery", against_dense(a="reinit", metric="test_final", remaining=0.5)),
        ("lottery", claim("smallest_level", metric="test_final", a="ticket", at_most=0.05)),
        ("branches", against_dense(a="rewound", metric="instability", remaining=0.5)),
        ("branches", claim("lower_bound", metric="test_final", a=0.9, b="rewound", bound=0.0,
                           remaining=0.5)),
        ("compare", against_dense(a="GMP", sparsity=0.905)),
        ("compare", against_dense(a="GMP, reinit", sparsity=0.9)),
        ("compare", against_dense(a="L1", strength=1e-3)),
        ("compare", against_dense(a="L1", strength={"L1": 1e-4})),
        ("compare", {"kind": "at_least", "a": "dense", "value": 0.9}),
        ("sensitivity", against_dense(a="searched", sparsity=0.8)),
        ("posttrain", claim("beats", a="S", b="mag", d=10, metric="perplexity")),
    ],
)  # fmt: skip
def test_claims_about_what_is_run_are_accepted(study, fields):
    check(study, accept=[fields])


@pytest.mark.parametrize(
    ("study", "fields", "says"),
    [
        # numbers and types that cannot be
        ("train", claim(value=97.5), "value=97.5: test_accuracy is a fraction; a number from 0 to 1"),
        ("train", claim(value=None), "also needs value"),
        ("train", claim(value="97"), "value='97': found str, float is needed"),
        ("train", claim(value=True), "value=True: found bool"),
        ("train", claim(value=part("l1")), "a text or a number is needed"),
        ("train", claim(value=0.9, std=-1), "std=-1: 0 or more is needed"),
        ("train", claim(value=0.9, floor=3), "floor=3: test_accuracy is a fraction"),
        ("train", claim("beats", b=97, d=0.0), "b=97: test_accuracy is a fraction"),
        ("train", claim("beats", b=0.97, d=-0.1), "d=-0.1: 0 or more is needed"),
        ("train", claim("lower_bound", b=0.97, bound=-1.5), "a number from -1 to 1 is needed"),
        ("train", claim("median_ratio", b=0.97, below=0), "below=0: a ratio above 0 is needed"),
        ("train", claim(value=0.9, metric=3), "metric=3: found int, str or None is needed"),
        ("train", claim(value=0.9, metric=None), "which number is meant? Add metric"),
        ("train", claim(value=0.9, metric="test_acuracy"), "no metric 'test_acuracy'; nearest: 'test"),
        ("train", claim(value=0.9, against="a hunch"), "one of figure, shortened, order, own is needed"),
        ("train", claim("lowerbound"), "no kind of claim 'lowerbound'; nearest: 'lower_bound'"),
        ("train", "compression", "a claim is a dict with name, kind and what it compares"),
        ("compare", against_dense(a="GMP", sparsity=1.0), "a fraction removed, from 0 to below 1,"),
        ("compare", against_dense(a="GMP", sparsity="0.9"), "sparsity='0.9': found str"),
        ("compare", against_dense(a="L1", strength=-1), "strength=-1: 0 or more is needed"),
        ("compare", against_dense(a="L1", strength={"L1": "x"}), "strength of 'L1'='x': found str"),
        ("compare", against_dense(a=["GMP"], sparsity=0.9), "a=['GMP']: found list"),
        ("compare", claim("lower_bound", a=0.5, b=0.4, bound=0.0), "a=0.5 is no result"),
        ("lottery", against_dense(a="ticket", remaining=0), "above 0 and at most 1, is needed"),
        ("lottery", claim("smallest_level", a="ticket", at_most=5), "at_most=5: a fraction of weights"),
        # fields that a kind does not have
        ("train", claim(value=0.9, valeu=0.9), "has no field 'valeu'; nearest: 'value'"),
        ("train", claim(value=0.9, b="dense"), "the kind 'band' has no field 'b'"),
        # which is better is not known
        ("train", claim("beats", b=0.5, d=0.1, metric="explored"), "use 'lower_bound'"),
        ("train", claim("matches", b=500, metric="steps"), "more or less of 'steps' is, is not known"),
    ],
)  # fmt: skip
def test_claims_that_a_report_could_not_check_are_refused(study, fields, says):
    with pytest.raises(UserError) as e:
        check(study, accept=[fields])
    assert says in str(e.value)
    assert str(e.value).startswith("config.paper.accept[0]")


@pytest.mark.parametrize(
    ("study", "fields", "says"),
    [
        # a training has one method
        ("train", claim("lower_bound", a="GMP", b=0.9, bound=0.0), "a training has one method"),
        ("train", claim("lower_bound", b="dense", bound=0.0), "leave a out, and let b be a number"),
        ("train", claim(value=0.9, sparsity=0.9), "sparsity means nothing in this study"),
        ("train", claim("smallest_level", a="ticket", at_most=0.1), "about the levels of a ticket"),
        # labels that nobody has, points that are not run
        ("lottery", against_dense(a="shuffled", remaining=0.5), "nobody is called 'shuffled'"),
        ("lottery", against_dense(a="ticket", remaining=0.02), "run at remaining 1, 0.5, 0.25, 0.125"),
        ("lottery", against_dense(a="reinit", remaining=1.0), "'reinit' is run at remaining 0.5, 0.25"),
        ("lottery", against_dense(a="ticket"), "remaining is missing, at which 'ticket' is meant"),
        ("branches", against_dense(a="rewound", remaining=0.25), "'rewound' is run at remaining 0.5;"),
        ("compare", against_dense(a="GPM", sparsity=0.9), "nobody is called 'GPM'; nearest: 'GMP'"),
        ("compare", against_dense(a="GMP", sparsity=0.7), "'GMP' is run at sparsity 0.5, 0.9; name one"),
        ("compare", against_dense(a="GMP", strength=1e-3), "sparsity is missing"),
        ("compare", against_dense(a="L1", strength=1e-2), "is run at strength 0.0001, 0.001; name one"),
        ("compare", against_dense(a="GMP", remaining=0.1), "remaining means nothing in this study"),
        ("compare", against_dense(sparsity=0.9), "a is missing; name one of dense, GMP"),
        ("sensitivity", against_dense(a="searched", sparsity=0.5), "is run at sparsity 0.8, 0.9"),
        ("sensitivity", against_dense(a="erk", sparsity=0.8), "nobody is called 'erk'"),
        ("posttrain", claim("beats", a="S", b="magn", d=10, metric="perplexity"), "'magn'; nearest"),
    ],
)  # fmt: skip
def test_claims_about_what_is_not_run_stay_open_and_are_told(study, fields, says, capsys):
    check(study, accept=[fields])
    told = capsys.readouterr().err
    assert told.startswith("Claims that this run leaves open: 1 of 1; config.paper.accept[0]")
    assert says in told


@pytest.mark.parametrize(
    ("paper", "says"),
    [
        ({"acept": [claim(value=0.9)]}, "config.paper: no field 'acept'; nearest: 'accept'"),
        ({"accept": claim(value=0.9)}, "a list of claims is needed, each a dict"),
        ({"citation": ("Han", 2015)}, "config.paper.citation=('Han', 2015): found tuple"),
        ({"against": "papers"}, "config.paper: against='papers': one of figure"),
    ],
)
def test_other_fields_of_a_paper_are_refused(paper, says):
    with pytest.raises(UserError) as e:
        check("train", **paper)
    assert says in str(e.value)


def test_the_command_line_can_leave_claims_out():
    assert config(paper={"accept": [claim(value=0.9)]}).paper.accept == (claim(value=0.9),)


def numbers_in(tree):
    """The names of the numbers in results of seeds; not those of their shapes, leaves and tables."""
    elements = tree if isinstance(tree, list) else tree.values()
    names = set() if isinstance(tree, list) else {n for n in tree if type(tree[n]) in (int, float)}
    for element in elements:
        if isinstance(element, dict | list):
            names |= numbers_in(element)
    return names


def without_details(tree):
    details = ("per_leaf", "small_shapes", "table", "rates", "tolerated", "blocks", "lines")
    if isinstance(tree, list):
        return [without_details(element) for element in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: without_details(value) for name, value in tree.items() if name not in details}


def test_metrics_of_results_have_a_direction_or_none():
    names = set()
    for file in (ROOT / "results").glob("*.json"):
        names |= numbers_in(without_details(json.loads(file.read_text(encoding="utf-8"))["seeds"]))
    assert len(names) > 30
    assert names - {"seed", "fold", "level", "remaining", "asked"} <= set(LOWER_IS_BETTER)


def test_less_error_is_better_and_more_accuracy():
    for name, is_lower in LOWER_IS_BETTER.items():
        if "loss" in name or "perplexity" in name:
            assert is_lower
        if "accuracy" in name:
            assert is_lower is False
            assert is_share(name)
    assert lower_is_better("a metric of mine") is None
