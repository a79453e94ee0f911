"""`experiments.posttrain` on a tiny model of the user's: rows, resuming, report, mistakes."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import config as config_lib
from experiments import report
from experiments.cli import Options, Stopper, load_config
from experiments.config import UserError, config, part
from experiments.reports.posttrain import KERNELS_FILE
from experiments.runs.files import read_sealed
from experiments.runs.folder import folder_name
from experiments.studies import posttrain as posttrain_lib
from experiments.studies import posttrain_runs
from experiments.studies.posttrain_rows import built_row, check_rows
from experiments.studies.posttrain_subject import Subject, plan_of, subject_of
from jaxprune.models import llama

MODEL = '''
import jax, jax.numpy as jnp, numpy as np

def tiny():
    """Two residual blocks on tokens of a chain: the next token follows from the last one."""
    keys = jax.random.split(jax.random.key(0), 6)
    draw = lambda i, *shape: jax.random.normal(keys[i], shape) / shape[0] ** 0.5
    params = {
        "embed": draw(0, 11, 16) * 3,
        "blocks": [{"up": draw(1 + 2 * i, 16, 32), "down": draw(2 + 2 * i, 32, 16)} for i in range(2)],
        "head": draw(5, 16, 11),
    }

    def apply(params, tokens):
        x = params["embed"][tokens]
        for block in params["blocks"]:
            x = x + jax.nn.relu(x @ block["up"]) @ block["down"]
        return x @ params["head"]

    rng = np.random.default_rng(0)
    windows = {name: rng.integers(0, 11, (8, 12)) for name in ("calibration", "validation", "test")}
    return apply, params, windows
'''


@pytest.fixture
def cfg(tmp_path):
    (tmp_path / "mine.py").write_text(MODEL, encoding="utf-8")

    def make(seeds=(0, 1), **changes):
        asked = {
            "model": f"{tmp_path / 'mine.py'}:tiny",
            "rows": {
                "magnitude": {"solver": part("by_criterion", criterion=part("magnitude"))},
                "SparseGPT 2:4": {"solver": part("sparsegpt"), "pattern": part("groups", m=4)},
                "recovered": {
                    "solver": part("sparsegpt"),
                    "rates": part("monotone", sparsity=0.5, step=0.1),
                    "propagate": 0.5,
                    "recover": part(
                        "reconstruct", optimizer=part("adam", learning_rate=1e-3), steps=2
                    ),
                },
            },
            "calibration": 4,
            "validation": 2,
            "test": 3,
            "length": 12,
        }
        made = config(posttrain={**asked, **changes}, seeds=seeds)
        config_lib.validate(made)
        return made

    return make


def run(made, options):
    posttrain_runs.run(made, posttrain_lib.checked(made), options)


def options(tmp_path, dry_run=False):
    return Options("tiny", tmp_path / "runs", dry_run, Stopper())


def folder_of(tmp_path):
    (found,) = (tmp_path / "runs").iterdir()
    return found


def test_a_run_gives_a_table_and_goes_on_where_it_stopped(cfg, tmp_path, monkeypatch):
    made, asked = cfg(), options(tmp_path)
    pruned = posttrain_runs.posttrain.prune
    calls = []

    def stopping(*args, progress, **kwargs):
        def watched(at):
            calls.append(at)
            if len(calls) == 9:  # within the third row of the first seed
                asked.stopper.signal = 15
            progress(at)

        return pruned(*args, progress=watched, **kwargs)

    monkeypatch.setattr(posttrain_runs.posttrain, "prune", stopping)
    run(made, asked)
    assert not (folder_of(tmp_path) / "done").exists()
    assert len(calls) == 9
    monkeypatch.setattr(posttrain_runs.posttrain, "prune", pruned)
    run(made, options(tmp_path))
    whole = json.loads((folder_of(tmp_path) / "results.json").read_text(encoding="utf-8"))

    run(made, options(tmp_path / "again"))
    (other,) = (tmp_path / "again" / "runs").iterdir()
    unbroken = json.loads((other / "results.json").read_text(encoding="utf-8"))
    our_kernels, their_kernels = (
        read_sealed(path / KERNELS_FILE, required=True) for path in (folder_of(tmp_path), other)
    )
    for ours, theirs in zip(whole["seeds"], unbroken["seeds"], strict=True):
        seed = str(theirs["seed"])
        for label in unbroken["rows"]:
            assert ours["rows"][label]["perplexity"] == theirs["rows"][label]["perplexity"]
            errors = [kernel["held_out_error"] for kernel in their_kernels[seed][label]]
            assert [kernel["held_out_error"] for kernel in our_kernels[seed][label]] == errors
            assert theirs["rows"][label]["held_out_error"] == pytest.approx(np.mean(errors))
            assert "kernels" not in theirs["rows"][label]
            assert theirs["rows"][label]["sparsity"] == pytest.approx(0.5, abs=2e-3)
    assert not list(other.rglob("segments"))
    text = (other / "report.md").read_text(encoding="utf-8")
    assert "| dense | 0.00 |" in text
    assert "| SparseGPT 2:4 | 50.00 |" in text
    assert "](perplexity.png)" in text


def test_claims_compare_rows(cfg, tmp_path):
    run(cfg(), options(tmp_path))
    results = json.loads((folder_of(tmp_path) / "results.json").read_text(encoding="utf-8"))
    claim = {"name": "it", "kind": "lower_bound", "metric": "log_perplexity", "bound": -9.0}
    results["paper"] = {
        "accept": [
            {**claim, "a": "magnitude", "b": "SparseGPT 2:4"},
            {**claim, "a": "dense", "b": "magnitude"},
            {**claim, "a": "dense", "b": "nobody"},
        ]
    }
    words = [outcome.verdict for outcome in report.check_claims(results)]
    assert words == ["holds", "holds", "open"]


def test_dry_run_prints_the_plan_and_writes_nothing(cfg, tmp_path, capsys):
    run(cfg(), options(tmp_path, dry_run=True))
    said = capsys.readouterr().out
    assert "blocks/0/up" in said
    assert "not pruned: " in said
    assert "3 rows x 2 seeds" in said
    assert not (tmp_path / "runs").exists()


def test_the_held_out_error_is_that_of_the_outputs(cfg, tmp_path):
    made = cfg(seeds=(0,))
    asked = posttrain_lib.checked(made)
    subject = subject_of(asked)
    network = posttrain_runs._Network(asked, subject, subject.windows("test", 3, None))
    cut = jax.tree.map(jnp.copy, subject.params)
    cut["blocks"][0]["up"] = cut["blocks"][0]["up"].at[:, ::2].set(0)
    errors = posttrain_runs.posttrain.output_errors(
        network.plan, subject.params, cut, network.held_out
    )
    x = subject.params["embed"][jnp.asarray(subject.windows("validation", 2, None))]
    whole, left = x @ subject.params["blocks"][0]["up"], x @ cut["blocks"][0]["up"]
    expected = jnp.sum((whole - left) ** 2) / jnp.sum(whole**2)
    assert errors["blocks/0/up"] == pytest.approx(float(expected), rel=1e-5)
    assert errors["blocks/1/up"] == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": {}}, "rows is empty"),
        ({"rows": {"a/b": {"solver": part("sparsegpt")}}}, "cannot name a folder"),
        ({"rows": {"a": {"rates": 0.5}}}, "solver=part"),
        ({"rows": {"a": {"solver": part("sparsgpt")}}}, "nearest: 'sparsegpt'"),
        (
            {"rows": {"a": {"solver": part("least_squares")}}},
            "no solver 'least_squares'.* Known: admm, by_criterion, obc, sparsegpt, swaps",
        ),
        ({"rows": {"a": {"solver": part("sparsegpt"), "rates": 1.5}}}, "from 0 to below 1"),
        ({"rows": {"a": {"solver": part("sparsegpt"), "propagate": 1.5}}}, "weight from 0 to 1"),
        ({"rows": {"a": {"solver": part("sparsegpt"), "rate": 0.5}}}, "nearest: 'rates'"),
        ({"rows": {"a": {"solver": "nowhere.py:f"}}}, "there is no file"),
        ({"calibration": 3, "batch": 2}, "a multiple of"),
        ({"length": 1}, "at least 2"),
        ({"lenght": 1}, "nearest: 'length'"),
        ({"model": "mine.py"}, "names no function"),
    ],
)
def test_mistakes_are_told_before_anything_runs(cfg, changes, says):
    with pytest.raises(UserError, match=says):
        posttrain_lib.checked(cfg(**changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test": 99}, "has windows of the shape"),
        ({"exclude": "nothing"}, "matches none"),
        (
            {"rows": {"a": {"solver": part("sparsegpt"), "rates": {"up": 0.25, ".*": 0.5}}}},
            r"rows\['a'\]\.rates: '\.\*' and 'up' both match 'blocks/0/up'",
        ),
        ({"rows": {"a": {"solver": part("sparsegpt"), "pattern": part("groups", m=7)}}}, "7"),
    ],
)
def test_what_does_not_fit_the_model_is_one_sentence(cfg, tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        run(cfg(**changes), options(tmp_path))


def test_another_version_of_a_users_file_is_another_run(cfg, tmp_path):
    names = []
    for _ in range(2):
        made = posttrain_lib.with_digests(cfg())
        assert posttrain_lib.checked(made) == posttrain_lib.checked(cfg())
        names.append(folder_name("tiny", made))
        path = tmp_path / "mine.py"
        path.write_text(path.read_text(encoding="utf-8") + "# another\n", encoding="utf-8")
    assert names[0] != names[1]


def test_another_version_of_a_models_files_is_another_run(cfg, tmp_path):
    folder, file = tmp_path / "model", tmp_path / "model.gguf"
    folder.mkdir()
    written = folder / "model.safetensors"
    for path in (folder, file):
        names = []
        for version in (b"1", b"2"):
            written.write_bytes(version)
            file.write_bytes(version)
            made = posttrain_lib.with_digests(cfg(model=str(path)))
            names.append(folder_name("tiny", made))
        assert names[0] != names[1]


@pytest.mark.parametrize("name", ["smollm2", "smollm2_quick"])
def test_the_configs_fit_the_model_that_they_name(name):
    made = load_config(f"configs/posttrain/{name}.py")
    config_lib.validate(made)
    asked = posttrain_lib.checked(made)
    model = llama.Config(
        vocabulary=49152,
        width=576,
        hidden=1536,
        layers=6,
        heads=9,
        kv_heads=3,
        head_dim=64,
        tied=True,
    )
    shapes = llama.shapes(model)
    subject = Subject(llama.decoder(model), shapes, lambda *_: None, {})
    plan = plan_of(asked, subject)
    assert len(plan.kernels) == 7 * (4 if name == "smollm2_quick" else 6)
    rows = {label: built_row(label, row) for label, row in asked["rows"].items()}
    check_rows(plan, rows, asked["rows"])


def test_an_empty_section_names_the_configs():
    with pytest.raises(UserError, match="configs/posttrain"):
        posttrain_lib.checked(config())


def test_what_does_not_fit_the_kernels_is_told_before_a_folder_is_made(cfg, tmp_path):
    for row in ({"pattern": part("groups", m=3)}, {"rates": {"nowhere": 0.5}}):
        made = cfg(rows={"mine": {"solver": part("sparsegpt"), **row}})
        with pytest.raises(UserError, match=r"config\.posttrain\.rows\['mine'\]: "):
            run(made, options(tmp_path))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("solver", ["sparsegpt", "obc", "admm", "swaps"])
def test_a_row_that_cannot_work_is_told_before_any_is_computed(cfg, tmp_path, solver):
    rows = {"A": {"solver": part("sparsegpt")}}
    rows["B"] = {"solver": part(solver), "pattern": part("channel")}
    says = (
        rf"config\.posttrain\.rows\['B'\]: {solver}: with the pattern channel.* several weights die"
    )
    for dry_run in (True, False):
        with pytest.raises(UserError, match=says):
            run(cfg(rows=rows), options(tmp_path, dry_run))
    assert not (tmp_path / "runs").exists()


def test_a_solver_for_small_kernels_refuses_a_large_one_before_anything_is_computed(cfg, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODEL.replace("16, 32", "16, 1100").replace("32, 16", "1100, 16"))
    with pytest.raises(UserError, match=r"rows\['B'\]: obc: a kernel has 1100 inputs, and 1024"):
        run(cfg(rows={"B": {"solver": part("obc")}}), options(tmp_path, dry_run=True))


CRITERIA = """
import jax, jax.numpy as jnp, jaxprune as jp

def misspelt(params, **_):
    return jax.tree.map(jnp.absolut, params)

def branching(params, **_):
    return jax.tree.map(lambda w: w if w.max() > 0 else -w, params)

@jp.signals.needs(energy=jp.signals.moving_average(lambda w, g: (w * g) ** 2))
def remembering(params, *, energy, **_):
    return energy

def whole(params, **_):
    return 1.0
"""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("misspelt", r"own\.py:5, in misspelt: AttributeError: .* no attribute 'absolut'"),
        ("branching", r"own\.py:8, in <lambda>: TracerBoolConversionError: "),
        ("remembering", r"reads the signal 'energy', but here there are input_moments, grams, key"),
        ("whole", r"whole: the scores are "),
    ],
)
def test_a_criterion_of_the_users_is_tried_before_anything_is_computed(
    cfg, tmp_path, function, says
):
    (tmp_path / "own.py").write_text(CRITERIA, encoding="utf-8")
    rows = {"own": {"solver": f"{tmp_path / 'own.py'}:{function}"}}
    with pytest.raises(UserError, match=rf"config\.posttrain\.rows\['own'\].*{says}"):
        run(cfg(rows=rows), options(tmp_path, dry_run=True))


RETURN = "    return apply, params, windows\n"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("raise RuntimeError('no weights')", r"mine\.py:22, in tiny: RuntimeError: no weights"),
        ("np.load('/nowhere.npz')", r"mine\.py:22, in tiny: FileNotFoundError: .*nowhere"),
        ("params = None", "the params of .*:tiny must be a tree of arrays"),
        ("params['name'] = 'tiny'", "the params of .*:tiny must be a tree of arrays"),
        ("windows = 3", "with a dict of windows for calibration, validation, test"),
        ("windows['test'] = 'abc'", "windows of <U3 under 'test'; tokens are whole numbers"),
        ("windows['test'] = windows['test'] + 0.9", "windows of float64 under 'test'; tokens are"),
        ("windows['test'] = [[1, 2], [3]]", r"windows\['test'\]: .* inhomogeneous shape"),
        (
            "windows['test'] += 1000",
            "tokens from 1000 to 1010 under 'test', and logits for 0 to 10",
        ),
        ("apply = lambda p, t: p['embed'][t].mean()", r"returns \(\) for tokens \(2, 12\); logits"),
        (
            "apply = lambda p, t: p['embed'][t, 0] @ p['hed']",
            r"mine\.py:22, in <lambda>: KeyError: ",
        ),
        ("return params", r"must return \(apply, params, windows\)"),
        ("return 1, params, windows", r"must return \(apply, params, windows\)"),
    ],
)
def test_what_a_function_of_the_users_returns_is_looked_at(cfg, tmp_path, line, says):
    text = MODEL.replace(RETURN, f"    {line}\n{RETURN}")
    assert text != MODEL
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.posttrain\.model: .*{says}"):
        run(cfg(), options(tmp_path, dry_run=True))


def test_a_perplexity_that_is_not_finite_is_no_result(cfg, tmp_path, monkeypatch):
    monkeypatch.setattr(posttrain_runs.models, "dense_perplexity", lambda *_, **__: 11.0)
    monkeypatch.setattr(posttrain_runs.models, "perplexity", lambda *_: float("nan"))
    with pytest.raises(UserError, match=r"rows\['SparseGPT 2:4'\]: .* perplexity nan"):
        run(cfg(), options(tmp_path))
    assert not list((tmp_path / "runs").rglob("seed_*/*/done"))


def test_seconds_that_were_damaged_are_named(tmp_path):
    path = tmp_path / "spent.json"
    posttrain_runs._Spent(path).store()
    path.write_text(
        path.read_text(encoding="utf-8").replace("seconds", "secunds"), encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"spent\.json does not match its checksum"):
        posttrain_runs._Spent(path)


@pytest.mark.parametrize(
    ("field", "value"), [("prunable", "up"), ("steps", 3), ("validation", 7), ("ema", 0.5)]
)
def test_fields_that_are_not_read_are_refused(cfg, field, value):
    made = cfg()
    with made.unlocked():
        made[field] = value
    with pytest.raises(UserError, match=rf"config\.{field} means nothing"):
        posttrain_lib.checked(made)
