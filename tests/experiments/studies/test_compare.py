"""Comparisons: who takes part, pairing, stopping and going on, and what the report says of it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
from comparisons import run, small
from stopping import StopsAfter

from experiments import cli, report, train
from experiments.cli import Options, Stopper, UserError
from experiments.config import build, config, part, validate
from experiments.metrics import savings
from experiments.studies import contestants, one_training
from experiments.training import loop
from experiments.training.setup import setup

OWN = """
import jax, jax.numpy as jnp

def relative_step(params, *, grads, **_):
    return jax.tree.map(lambda w, g: jnp.abs(w) / (jnp.abs(g) + 1e-8), params, grads)

def first_row(params, **_):
    return jax.tree.map(lambda w: w[:1], params)

def fisher(params, *, curvature, **_):
    return curvature

def closed(params, *, grads):
    return grads

def wrong(params, **_):
    return jnp.ones(2) + jnp.ones(3)

def misspelt(params, **_):
    return jax.tree.map(jnp.absolut, params)

def unknown(params, **_):
    return jax.tree.map(absolute, params)

def absent(params, **_):
    return params["nothing"]

def asserted(params, **_):
    assert False, "no"

def ended(params, **_):
    raise SystemExit(3)
"""
CUBIC = {"schedule": part("cubic", begin=5, end=15, every=5)}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "my.py"
    path.write_text(OWN)
    return path


def two(own, **fields):
    compare = {
        "methods": {"static": part("static", allocation=part("uniform"))},
        "criteria": (f"{own}:relative_step",),
        "pipeline": CUBIC,
        "sparsities": (0.5, 0.9),
    }
    return small(compare, **fields)


@pytest.fixture(scope="module")
def finished(own, tmp_path_factory):
    """A comparison from beginning to end, and the batches of its trainings."""
    folder, seen = tmp_path_factory.mktemp("whole"), []

    def recorded(order, *arguments):
        rows = engine_batches(order, *arguments)
        seen.append((order, rows.tobytes()))
        return rows

    engine_batches = loop.batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batches", recorded)
        results = run(two(own), folder)
    return next(folder.glob("test-*")), results, seen


def test_every_contestant_meets_every_sparsity_and_seed(finished, own):
    folder, results, _ = finished
    assert results["kind"] == "compare"
    assert results["contestants"] == ["static", "relative_step"]
    for seed in results["seeds"]:
        (dense,) = seed["points"]["dense"]
        assert (dense["compression"], dense["speedup"], dense["sparsity"]) == (1.0, 1.0, 0.0)
        for label in results["contestants"]:
            for sparsity, found in zip((0.5, 0.9), seed["points"][label], strict=True):
                kept = round(30_000 * (1 - sparsity))
                assert found["asked"] == sparsity
                assert found["sparsity"] == pytest.approx(sparsity)
                assert found["kept"] == kept + 236_610  # the other layers, biases
                assert found["compression"] == pytest.approx(266_610 / (kept + 236_610))
                assert found["speedup"] == pytest.approx(266_200 / (kept + 236_200))
                assert 0 < found["test_accuracy"] <= 1
                assert found["steps"] == 20
    assert (folder / "criteria" / "relative_step.py").read_text() == OWN
    assert (folder / "static/sparsity_0.9/seed_1/masks.npz").exists()


def test_seeds_are_paired(finished):
    _, results, seen = finished
    initial = [seed["initial"] for seed in results["seeds"]]
    assert len(set(initial)) == 2  # one per seed: the run itself refuses more
    for seed in (0, 1):
        rows = [batch for order, batch in seen if order[0] == seed]
        assert len(rows) == 20  # four chunks of each of five trainings
        assert len(set(rows)) == 4


def test_a_training_is_that_of_the_train_binary(finished, own, tmp_path):
    method = part("static", sparsity=0.9, allocation=part("uniform"))
    cfg = two(own, seeds=(1,))
    with cfg.unlocked():
        cfg.method, cfg.compare = method, {}
    train.main(cfg, Options("test", tmp_path, False, Stopper()))
    (file,) = tmp_path.glob("test-*/results.json")
    (alone,) = json.loads(file.read_text())["seeds"]
    beside = finished[1]["seeds"][1]["points"]["static"][1]
    assert alone["digest"] == beside["digest"]
    assert alone["test_accuracy"] == beside["test_accuracy"]


def test_the_train_binary_takes_methods_that_draw(own, tmp_path):
    cfg = two(own, seeds=(0,))
    with cfg.unlocked():
        cfg.method, cfg.compare = part("set_", sparsity=0.9, every=5, end=15), {}
    train.main(cfg, Options("test", tmp_path, False, StopsAfter(0)))  # traced, not trained


def bits(results):
    """What is the same in every run."""
    times = ("wall_seconds", "resumed")
    return [
        {
            label: [{k: v for k, v in each.items() if k not in times} for each in found]
            for label, found in seed["points"].items()
        }
        for seed in results["seeds"]
    ]


def test_a_comparison_goes_on_where_it_was_stopped_or_killed(finished, own, tmp_path):
    cfg = two(own)
    with cfg.unlocked():
        cfg.compare.criteria = ()
    assert run(cfg, tmp_path, StopsAfter(10)) is None  # within the third training
    done = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("results.json")}
    assert len(done) == 2
    with pytest.raises(SystemExit):
        run(cfg, tmp_path, StopsAfter(9, dead=True))  # within the fifth
    resumed = run(cfg, tmp_path)
    for cut, seed in zip(bits(resumed), bits(finished[1]), strict=True):
        assert cut == {label: seed[label] for label in ("dense", "static")}
    assert {p: p.stat().st_mtime_ns for p in done} == done, "finished trainings are not repeated"
    flags = [e["resumed"] for s in resumed["seeds"] for f in s["points"].values() for e in f]
    assert flags.count(True) == 2


def test_a_finished_comparison_is_left_alone(finished, own, capsys):
    folder, _, _ = finished
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "lock"]
    before = {p: p.stat().st_mtime_ns for p in files}
    run(two(own), folder.parent)
    assert "finished" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_another_version_of_a_criterion_is_another_run(finished, own, tmp_path):
    copy = tmp_path / "my.py"
    copy.write_text(OWN)
    run(two(copy, steps=20), tmp_path, StopsAfter(0))
    copy.write_text(OWN + "# another version\n")
    run(two(copy, steps=20), tmp_path, StopsAfter(0))
    assert len([*tmp_path.glob("test-*")]) == 2


def test_the_report_says_what_was_found_and_what_is_counted(finished):
    folder, results, _ = finished
    text = (folder / "report.md").read_text()
    for words in (
        "## At 50 % removed, as asked",
        "## At 90 % removed, as asked",
        "mean ± std over 2 seeds",
        "(20 updates of 32 examples, 0.3 epochs)",
        "of the 30,000 weights in fc2/kernel",
        "all 266,610 parameters",
        "the 532,400 operations",
        "- prunable: fc2/kernel",
        "criterion {}:relative_step; schedule=cubic(begin=5, end=15, every=5)".format(
            results["config"]["compare"]["criteria"][0].rpartition(":")[0]
        ),
        "| static | static(allocation=uniform()) |",
        "| 90.00 | 1.11x | 1.11x |",
        "| trainings | 10 |",
    ):
        assert words in text
    if importlib.util.find_spec("matplotlib"):
        assert "](trade_off.png)" in text
        assert (folder / "trade_off.png").read_bytes()[:4] == b"\x89PNG"


def test_a_training_that_diverges_is_a_result(own, tmp_path, monkeypatch):
    cfg = two(own)
    with cfg.unlocked():
        cfg.compare = {"methods": cfg.compare.methods, "sparsities": (0.9,)}

    fresh_variables, calls = one_training.fresh_variables, []

    def broken(model, task, key):
        params, rest = fresh_variables(model, task, key)
        calls.append(key)
        last = len(calls) == 4  # dense, static; seeds 0, 1
        return (jax.tree.map(lambda p: p * jnp.nan, params) if last else params), rest

    monkeypatch.setattr(one_training, "fresh_variables", broken)
    results = run(cfg, tmp_path)
    assert "test_accuracy" in results["seeds"][0]["points"]["static"][0]
    (failed,) = results["seeds"][1]["points"]["static"]
    assert "no longer finite" in failed["failed"]
    text = next(tmp_path.glob("test-*/report.md")).read_text()
    assert "| 1 of 2 |" in text
    assert "- static 90 % · seed 1: the loss is no longer finite" in text


def test_a_dry_run_prints_the_points_and_writes_nothing(own, tmp_path, capsys):
    asked = {"criteria": (f"{own}:relative_step",), "pipeline": CUBIC, "sparsities": (0.5, 0.9)}
    run(small(asked), tmp_path, dry_run=True)
    out = capsys.readouterr().out
    rows = {tuple(line.split()[:2]): line.split()[3:] for line in out.splitlines() if "%" in line}
    assert rows["relative_step", "90"] == ["90.00%", "239,610", "1.11x", "478,400", "1.11x"]
    assert rows["dense", "0"][1:3] == ["266,610", "1.00x"]
    assert len(rows) == 3
    assert not list(tmp_path.iterdir())


PIPELINE = {"criteria": ("magnitude",), "pipeline": CUBIC}
STATIC = {"static": part("static")}


@pytest.mark.parametrize(
    ("compare", "fields", "says"),
    [
        ({}, {}, "nobody to compare"),
        ({"sparsites": (0.5,)}, {}, "no field 'sparsites'; nearest: 'sparsities'"),
        ({"methods": {"a": part("rigll")}}, {}, "methods.a: no method 'rigll'; nearest: 'rigl'"),
        ({"methods": {"a": part("rigl")}}, {}, "'rigl' also needs every, end"),
        ({"methods": {"a": part("static", sparsity=0.5)}}, {}, "methods.a.sparsity: leave it out"),
        ({"methods": {"a": part("iterative")}}, {}, "has no argument 'sparsity'"),
        ({"methods": ("rigl",)}, {}, "a dict of label -> part is needed"),
        ({"methods": {"dense": part("static")}}, {}, "the label 'dense' is taken"),
        ({"methods": {"a/b": part("static")}}, {}, "'a/b' cannot name a folder"),
        ({"criteria": ("magnitude",)}, {}, "criteria need a schedule"),
        ({**PIPELINE, "criteria": "magnitude"}, {}, "a tuple of names"),
        ({**PIPELINE, "criteria": ("magnitud",)}, {}, "no criterion 'magnitud'; nearest: 'magnit"),
        ({**PIPELINE, "criteria": ("magnitude",) * 2}, {}, "the label 'magnitude' is taken"),
        ({**PIPELINE, "criteria": ("no.py:f",)}, {}, "there is no file 'no.py'"),
        ({**PIPELINE, "criteria": ("no.py",)}, {}, "names no function"),
        (
            {**PIPELINE, "pipeline": {"schedul": CUBIC}},
            {},
            "no field 'schedul'; nearest: 'schedule'",
        ),
        ({**PIPELINE, "pipeline": {"schedule": part("cubic")}}, {}, "also needs begin, end"),
        ({"methods": STATIC, "sparsities": (0.5, 1)}, {}, "1 is no fraction removed"),
        ({"methods": STATIC, "sparsities": (0.5, 0.5)}, {}, "different fractions"),
        ({"methods": STATIC, "sparsities": 0.5}, {}, "tuple is needed"),
        ({"methods": STATIC}, {"method": part("static", sparsity=0.5)}, "config.compare.methods"),
        ({"methods": STATIC}, {"k_folds": 3}, "k_folds"),
        ({"methods": STATIC}, {"early_stop": 3}, "early_stop"),
    ],
)
def test_mistakes_are_told_in_words(compare, fields, says):
    with pytest.raises(UserError) as e:
        contestants.contestants(small(compare, **fields))
    assert says in str(e.value)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("relativ_step", "has no function 'relativ_step'; nearest: 'relative_step'"),
        ("first_row", r"first_row: 'fc1/bias' has scores of the shape \(1,\), its weights"),
        ("fisher", "reads the signal 'curvature', but here there are "),
        ("closed", r"must end its arguments with \*\*_"),
        ("wrong", r"my\.py:17, in wrong: TypeError: add got incompatible shapes"),
        ("misspelt", r"my\.py:20, in misspelt: AttributeError: .* no attribute 'absolut'"),
        ("unknown", r"my\.py:23, in unknown: NameError: name 'absolute' is not defined"),
        ("absent", r"my\.py:26, in absent: KeyError: 'nothing'"),
        ("asserted", r"my\.py:29, in asserted: AssertionError: no"),
        ("ended", r"my\.py:32, in ended: SystemExit: 3"),
    ],
)
@pytest.mark.parametrize("pipeline", [CUBIC, {"when": "initialisation"}, {"when": "trained"}])
def test_mistakes_in_a_criterion_are_told_before_anything_is_trained(
    own, function, says, pipeline, tmp_path
):
    cfg = small({"criteria": (f"{own}:{function}",), "pipeline": pipeline})
    with pytest.raises(UserError, match=says):
        run(cfg, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("compare", "fields", "says"),
    [
        ({"methods": STATIC}, {"prunable": "fx"}, "'fx' matches none of the leaves"),
        (PIPELINE, {"steps": 15}, "masks change until step 15"),
    ],
)
def test_what_does_not_fit_is_refused(compare, fields, says, tmp_path):
    with pytest.raises(UserError, match=says):
        run(small(compare, **fields), tmp_path)


def test_the_command_line_reaches_all_fields():
    base = ["compare", "--config=configs/compare/mnist_mlp.py"]
    flags = [
        "--config.compare.sparsities=(0.9,0.98)",
        "--config.compare.criteria=('magnitude','my.py:relative_step')",  # not in the file
        "--config.compare.methods.RigL.every=50",
        "--config.compare.methods.static.pattern=None",  # an argument that the file leaves out
        "--config.prunable=fc1",
    ]
    cfg, _ = cli.parse(base + flags, "")
    assert cfg.compare.sparsities == (0.9, 0.98)
    assert cfg.compare.criteria == ("magnitude", "my.py:relative_step")
    assert cfg.compare.methods.RigL.every == 50
    assert cfg.prunable == "fc1"
    for flag, says in (
        ("--config.compare.sparsites=0.5", "no field 'sparsites'; nearest: 'sparsities'"),
        ("--config.compare.methods.Rigl.every=5", "no field 'Rigl'; nearest: 'RigL'"),
        ("--config.compare.methods.RigL.evry=5", "no argument 'evry'; nearest: 'every'"),
    ):
        with pytest.raises(UserError, match=says):
            cli.parse([*base, flag], "")


def test_mistakes_are_told_before_jax_is_imported():
    code = (
        "import sys; from experiments import cli, compare; from experiments.studies import contestants;"
        "contestants.contestants(cli.load_config('configs/compare/criteria.py'));"
        "print({'jax', 'flax', 'optax', 'jaxprune', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


CONFIGS = sorted(p.stem for p in Path("configs/compare").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configs_are_sound(name):
    cfg = cli.load_config(f"configs/compare/{name}.py")
    validate(cfg)
    found = contestants.contestants(cfg)
    for contestant in found:
        for value in contestant.points:
            method = contestant.recipe(setup(cfg), value).method
            if method is not None:
                assert method.end < cfg.steps + method.straight_through
    labels = {"dense", *(contestant.label for contestant in found)}
    for claim in cfg.paper.get("accept", ()):
        assert {claim["a"], claim.get("b", claim["a"])} <= labels


def test_lars_without_its_ratio_is_sgd_with_decay():
    ours = build("optimizer", cli.load_config("configs/compare/mnist_mlp.py").optimizer)
    sgd = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.05, momentum=0.9, nesterov=True))
    ends = []
    for tx in (ours, sgd):
        params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)}
        state = tx.init(params)
        for step in range(5):
            grads = jax.tree.map(lambda p, step=step: jnp.cos(step * p), params)
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        ends.append(params)
    same = jax.tree.map(lambda a, b: jnp.allclose(a, b, rtol=1e-6), *ends)
    assert jax.tree.all(same)


def results(accept=(), lost=()):
    """Three contestants, three seeds, two points; `lost`: (label, seed) of trainings that diverged."""

    def points(label, seed, below):
        for sparsity in (0.5, 0.9):
            accuracy = 0.98 + 0.001 * seed - below * (2 if sparsity == 0.9 else 1)
            saved = savings.summarize(
                MODEL, [{"leaf": "k", "weights": 80, "kept": round(80 * (1 - sparsity))}]
            )
            timed = {"wall_seconds": 2.0, "resumed": False}
            if (label, seed) in lost:
                yield {"asked": sparsity, "failed": f"{label}: not finite", **timed}
            else:
                yield {"asked": sparsity, "test_accuracy": accuracy, **saved, **timed}

    below = {"a": 0.001, "b": 0.011}
    return {
        "kind": "compare",
        "config": {
            "data": {"name": "mnist", "batch_size": 50},
            "steps": 100,
            "compare": {"methods": {"a": {"name": "rigl", "every": 5}}, "criteria": ["b"]},
        },
        "paper": {"citation": "Evci et al. 2020", "accept": list(accept)},
        "sparsities": [0.5, 0.9],
        "contestants": list(below),
        "dense": MODEL._asdict(),
        "examples": 1000,
        "seeds": [
            {
                "seed": seed,
                "points": {
                    "dense": [
                        {"asked": 0.0, "test_accuracy": 0.98 + 0.001 * seed, "wall_seconds": 1.0}
                        | {"resumed": seed == 0}
                        | savings.summarize(MODEL, [])
                    ],
                    **{label: list(points(label, seed, x)) for label, x in below.items()},
                },
            }
            for seed in range(3)
        ],
    }


MODEL = savings.Dense({"k": 80, "b": 20}, {"k": 160, "b": 0}, ["k"])


def claim(kind="beats", **fields):
    common = {"name": "it", "a": "a", "b": "b", "sparsity": 0.9, "metric": "test_accuracy"}
    return {**common, "kind": kind, **fields}


@pytest.mark.parametrize(
    ("asked", "verdict", "ours"),
    [
        (claim(d=0.01), "holds", "+2.00 pp [+2.00, +2.00]"),
        (claim(d=0.03), "refuted", "+2.00 pp"),
        (claim(d=0.01, sparsity=0.5), "holds", "+1.00 pp"),
        (claim(d=0.01, sparsity=0.7), "open", "no point near 70 %"),
        (claim("matches", b="dense", sparsity=0.5, margin=0.002), "holds", "-0.10 pp"),
        (claim("lower_bound", b=0.97, bound=0.0), "holds", "+0.90 pp"),
        (claim("band", a="b", value=0.96), "holds", "95.9 ± 0.1 %"),
        (claim(d=0.01, b="c"), "open", "'c' is unknown"),
        (
            claim("at_least", value=0.5, metric="accuracy"),
            "open",
            "these results have no accuracy of a",
        ),
    ],
)
def test_claims_compare_contestants(asked, verdict, ours):
    (outcome,) = report.check_claims(results(accept=[asked]))
    assert outcome.verdict == verdict
    assert ours in outcome.ours
    assert outcome.n == 3


def test_lost_seeds_leave_a_claim_open_and_are_counted(tmp_path):
    found = results(accept=[claim(d=0.01)], lost=[("a", 1)])
    (outcome,) = report.check_claims(found)
    assert outcome.verdict == "open"
    assert outcome.ours == "a has 2 of 3 seeds, at 97.90 % in the mean"
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = report.write_report(tmp_path).read_text()
    assert (
        "| a | 97.90 ± 0.14 | -0.20 (-0.20) | 90.00 | 3.57x | 10.00x | 1.00x | 2.0 | 2 of 3 |"
        in text
    )
    assert "| b | 95.90 ± 0.10 | -2.20 (-2.20) | 90.00 | 3.57x | 10.00x | 1.00x | 2.0 | 3 |" in text
    assert "| dense | 98.10 ± 0.10 |  | 0.00 | 1.00x | 1.00x | 1.00x | 1.0 | 3 |" in text
    assert "| a | 90 % | 97.80 | failed | 98.00 |" in text
    assert "- a: not finite" in text
    assert "5.0 epochs" in text


def test_contestants_are_told_by_their_labels_and_not_by_their_order(tmp_path):
    found = results()
    found["contestants"] = ["b", "a"]
    found["config"]["compare"] |= {
        "criteria": [{"criterion": "my.py:b", "rounds": 2}],
        "pipeline": {"when": "trained"},
    }
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = report.write_report(tmp_path).read_text()
    assert "| b | criterion my.py:b; when=trained, rounds=2 |" in text
    assert "| a | rigl(every=5) |" in text


def test_the_results_table_has_a_row_for_a_comparison(tmp_path):
    (tmp_path / "mlp.json").write_text(json.dumps(results()))
    text = report.results_table(tmp_path).read_text()
    row = "a at 90 %, best of 2: 97.90 ± 0.10 %, dense 98.10 ± 0.10 % (n = 3)"
    assert f"| [mlp](mlp.json) | Evci et al. 2020 |  | {row} |  |  |" in text


def test_savings_are_known_of_models_with_batch_statistics():
    cfg = config(data=part("synthetic_cifar10"), model=part("resnet20"))
    dense = savings.dense(setup(cfg))
    assert sum(dense.weights.values()) == 269_722
    assert sum(dense.flops.values()) > 8e7
