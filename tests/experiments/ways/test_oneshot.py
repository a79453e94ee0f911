"""Criteria before and after training, in comparisons: which signals, whose weights, how many updates."""

import functools

import comparisons
import jax
import jax.numpy as jnp
import optax
import pytest
from comparisons import small

import jaxprune as jp
from experiments import cli
from experiments.cli import Options, Stopper
from experiments.config import part
from experiments.runs import mask_files
from experiments.studies import contestants
from experiments.ways import oneshot
from experiments.ways import pipeline as pipeline_lib
from jaxprune import nn

OWN = """
import jax, jax.numpy as jnp

def curved(params, *, hessian_diagonal, **_):
    return jax.tree.map(lambda w, h: jnp.abs(h) * w * w, params, hessian_diagonal)
"""


def setting(criteria, pipeline, **more):
    fields = {"prunable": "fc[23]/kernel", "steps": 10, **more}
    return small({"sparsities": (0.5, 0.9), "criteria": criteria, "pipeline": pipeline}, **fields)


def run(cfg, workdir):
    results = comparisons.run(cfg, workdir)
    return next(workdir.glob("test-*")), results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    own = tmp_path_factory.mktemp("own") / "my.py"
    own.write_text(OWN)
    criteria = {
        "magnitude": "magnitude",
        "own": f"{own}:curved",
        "made up for": {
            "criterion": "woodfisher",
            "compensation": part("woodfisher"),
            "signals": {"inverse_fisher": part("inverse_fisher", block=10, damp=1e-3)},
        },
        "fine-tuned": {"criterion": part("fisher"), "finetune": 4},
    }
    pipeline = {"when": "trained", "examples": 64}
    return run(setting(criteria, pipeline), tmp_path_factory.mktemp("trained"))


def points(results, label, name):
    return [[p[name] for p in seed["points"][label]] for seed in results["seeds"]]


def test_what_is_pruned_is_the_trained_dense_network(trained):
    folder, results = trained
    for label in ("magnitude", "own", "made up for"):
        assert points(results, label, "steps") == [[0, 0], [0, 0]]
        assert points(results, label, "training") == [[1, 1], [1, 1]]
        for seed in points(results, label, "sparsity"):
            assert seed == pytest.approx([0.5, 0.9])
    assert points(results, "fine-tuned", "steps") == [[4, 4], [4, 4]]
    # 4 updates after 10, in which 15,500 or 3,100 of 31,000 weights are left beside 235,200 dense ones
    cost = [1 + 0.4 * (235_200 + left) / 266_200 for left in (15_500, 3_100)]
    assert points(results, "fine-tuned", "training")[0] == pytest.approx(cost)
    assert "explored" not in results["seeds"][0]["points"]["magnitude"][0]
    text = (folder / "report.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| made up for | criterion")]
    assert "compensation=woodfisher(), signals inverse_fisher=inverse_fisher(" in row


def test_masks_are_those_of_prune_on_the_dense_weights(trained):
    """The dense network trained here again, pruned by hand: same masks."""
    from experiments.runs.folder import Folder
    from experiments.runs.progress import Progress
    from experiments.studies.one_training import Info, train_once
    from experiments.training.setup import setup
    from experiments.training.trainer import Trainer
    from experiments.ways import dense

    folder, _ = trained
    cfg = setting({"m": "magnitude"}, {"when": "trained"})
    recipe = dense.recipe(setup(cfg))
    found = []
    trainer = Trainer(setup(cfg).model, recipe.optimizer)
    network = trainer.network
    trainer.network = lambda state, step: (
        found.append(jax.tree.map(jnp.copy, state.params)) or network(state, step)
    )
    with Progress(10, "") as progress:
        info = Info(setup(cfg), Options("test", folder, False, Stopper()), progress, 0, "")
        train_once(info, trainer, recipe, Folder(folder.parent / "again"), 1)
    _, masks = jp.prune(found[-1], jp.methods.magnitude(sparsity=0.9), prunable="fc[23]/kernel")
    stored = mask_files.load(folder / "magnitude/sparsity_0.9/seed_1/masks.npz", found[-1])
    assert float(jp.masks.hamming(masks, stored)) == 0


def test_before_training_each_criterion_has_its_rounds(tmp_path):
    criteria = {"GraSP": "grasp", "SynFlow": {"criterion": "synflow", "rounds": 3}}
    pipeline = {
        "when": "initialisation",
        "examples": 64,
        "allocation": part("global_budget"),
    }
    cfg = setting(criteria, pipeline, seeds=(0,))
    with cfg.unlocked():
        cfg.compare.controls, cfg.compare.sparsities = ("retrained", "shuffled"), (0.9,)
    _, results = run(cfg, tmp_path)
    assert results["controls"] == [f"{label}, shuffled" for label in sorted(criteria)]
    for label in criteria:
        assert points(results, label, "steps") == [[10]]
        assert points(results, label, "sparsity")[0] == pytest.approx([0.9], abs=1e-5)
    digests = {points(results, label, "digest")[0][0] for label in results["contestants"]}
    assert len(digests) == 4


REFUSED = {
    "no field 'round'; nearest: 'rounds'": ({"a": "snip"}, {"when": "trained", "round": 2}),
    "no time 'initialization'; nearest: 'init": ({"a": "snip"}, {"when": "initialization"}),
    "criteria need a schedule": ({"a": "snip"}, {}),
    "prunes at once; leave it out": (
        {"a": "snip"},
        {"when": "trained", "schedule": part("one_shot")},
    ),
    r"rounds: while training criteria read": (
        {"a": "snip"},
        {"schedule": part("one_shot"), "rounds": 3},
    ),
    "only what is pruned after training": (
        {"a": "snip"},
        {"when": "initialisation", "finetune": 3},
    ),
    "examples=0: at least 1": ({"a": "snip"}, {"when": "trained", "examples": 0}),
    "no criterion 'wodfisher'; nearest: 'woodfisher'": (
        {"a": {"criterion": "wodfisher"}},
        {"when": "trained"},
    ),
    r"a name, a part, a file, or \{'criterion'": ({"a": {"rounds": 3}}, {"when": "trained"}),
    "no compensation 'layer'": (
        {"a": {"criterion": "obs", "compensation": part("layer")}},
        {"when": "trained"},
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_mistakes_are_told_before_anything_runs(message):
    with pytest.raises(cli.UserError, match=message):
        contestants.contestants(setting(*REFUSED[message]))


def test_signals_that_exist_only_while_training_are_refused():
    from experiments.training.setup import setup

    cfg = setting({"a": "movement"}, {"when": "trained"})
    (found,) = contestants.contestants(cfg)
    with pytest.raises(cli.UserError, match="'movement_sum', which exists only while training"):
        found.recipe(setup(cfg), 0.5)


def test_too_many_examples_are_refused(tmp_path):
    cfg = setting({"a": "snip"}, {"when": "initialisation", "examples": 10**6})
    with pytest.raises(cli.UserError, match="examples=1000000 for signals, but there are"):
        run(cfg, tmp_path)


def test_fields_of_the_pipeline_have_defaults():
    found = pipeline_lib.pipeline({"when": "trained"}, {"criterion": "obd", "rounds": 2})
    assert (found.rounds, found.examples, found.when) == (2, 1000, "trained")


def test_as_many_examples_of_each_class(monkeypatch, tmp_path):
    """GraSP's ten of each: one batch of a hundred, whatever the batches of training are."""
    seen = []
    gatherers_of = oneshot.gatherers_of

    def watched(model, rest, batches, *more):
        seen.extend(batch for batch in batches if not isinstance(batch[0], jax.core.Tracer))
        return gatherers_of(model, rest, batches, *more)

    monkeypatch.setattr(oneshot, "gatherers_of", watched)
    criteria = {"GraSP": {"criterion": "grasp", "examples_per_class": 10}}
    pipeline = {"when": "initialisation", "allocation": part("global_budget")}
    cfg = setting(criteria, pipeline, seeds=(0,))
    with cfg.unlocked():
        cfg.compare.sparsities = (0.9,)
    run(cfg, tmp_path)
    [(images, labels)] = seen
    assert len(images) == 100
    assert jnp.bincount(labels).tolist() == [10] * 10
    with cfg.unlocked():
        cfg.compare.criteria["GraSP"]["examples_per_class"] = 10**5
    with pytest.raises(cli.UserError, match=r"examples_per_class=100000 .* a class has \d+ in"):
        run(cfg, tmp_path)


def test_the_temperature_reaches_grasp_and_curvature_is_never_negative():
    model = nn.lenet_300_100(num_classes=10)
    images = jax.random.uniform(jax.random.key(0), (20, 28, 28, 1))
    batches = [(images, jnp.arange(20) % 10)]
    params = model.init(jax.random.key(1), images)["params"]
    gathered = oneshot.gatherers_of(model, {}, batches, jax.random.key(2), {}, None)
    assert all(
        bool((x >= 0).all()) for x in jax.tree.leaves(gathered["gauss_newton_diagonal"](params))
    )

    def loss(params, batch, temperature):
        logits = model.apply({"params": params}, batch[0], train=False) / temperature
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    flat = functools.partial(loss, temperature=200.0)
    grads = jp.signals.grads(flat, params, batches)
    expected = jp.signals.hessian_vector(flat, params, batches, grads)
    found = gathered["hessian_gradient"](params)
    near = functools.partial(jnp.allclose, rtol=1e-2, atol=1e-8)
    assert all(jax.tree.leaves(jax.tree.map(near, found, expected)))
