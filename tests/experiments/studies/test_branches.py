"""Branches of tickets: what they begin with, what copies share, what is read back, what is refused."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from experiments import branches, cli
from experiments.cli import Options, Stopper
from experiments.config import UserError, config, part, validate
from experiments.report import check_claims
from experiments.runs import tree_files
from experiments.runs.folder import RunFolder, folder_name
from experiments.runs.level_files import LevelFiles
from experiments.studies import branch_plan as study
from experiments.studies import lottery_runs
from experiments.studies.branch_plan import Branch
from experiments.studies.branch_starts import Starts
from experiments.studies.branch_tickets import ticket_folder
from experiments.training import statistics
from experiments.training.failures import failure
from experiments.training.setup import setup as setup_of
from experiments.training.task import fresh_variables, tasks
from experiments.ways import oneshot
from jaxprune.data.catalogue import PREFIX


class StopsAfter(Stopper):
    """Asks to stop once it has been looked at so often."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def settings(tickets=(), rewind_to=0, branch=None, **section):
    branch = {"rewound": {}} if branch is None else branch
    return config(
        data=part(f"{PREFIX}mnist", batch_size=60),
        model=part("lenet_300_100"),
        optimizer=part("adam", learning_rate=1.2e-3),
        method=part("magnitude", sparsity=0.5),
        steps=30,
        validation=256,
        log_every=10,
        eval_every=15,
        save_every=15,
        lottery={"rounds": 1, "rewind_to": rewind_to, "controls": ()},
        branches={"tickets": dict(tickets), "branches": branch, **section},
    )


def run(cfg, workdir, stopper=None):
    validate(cfg)
    branches.main(cfg, Options("test", workdir, False, stopper or Stopper()))
    path = workdir / folder_name("test", cfg) / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


@pytest.mark.parametrize("rewind_to", [0, 10])
def test_a_rewound_branch_is_the_ticket_itself(rewind_to, tmp_path):
    branch = {"rewound": {}, "other": {"masks": "shuffled"}}
    cfg = settings(rewind_to=rewind_to, levels=(0, 1), branch=branch)
    results = run(cfg, tmp_path)
    for level in results["seeds"][0]["levels"]:
        found = level["branches"]
        (rewound,) = found["rewound"]
        ticket = found["ticket"]
        for metric in ("test_final", "early_step", "steps"):
            assert rewound[metric] == ticket[metric]
        assert rewound["validation_loss"] == pytest.approx(ticket["validation_loss"], abs=1e-4)
        if level["level"]:
            (other,) = found["other"]
            assert other["digest"] != rewound["digest"]
        else:
            assert "other" not in found, "nothing is pruned there"
    assert "dense" in results["seeds"][0]["levels"][0]["branches"]


def test_a_finished_lottery_run_of_any_name_is_branched_from(tmp_path):
    cfg = settings()
    own, section = study.checked(cfg).tickets["ticket"]
    lottery_runs.run(own, section, Options("before", tmp_path, False, Stopper()))
    results = run(cfg, tmp_path)
    assert results["tickets"] == {"ticket": folder_name("before", own)}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_ticket_is_looked_for_among_lottery_runs_alone(tmp_path):
    cfg = settings()
    own, _ = study.checked(cfg).tickets["ticket"]
    with RunFolder.open(tmp_path, "before", own, "train") as other:
        other.finish({"kind": "train"})
    other.path.rename(tmp_path / folder_name("older", own))  # as names were without the study
    found = ticket_folder(Options("test", tmp_path, False, Stopper()), own)
    assert found == tmp_path / folder_name("test", own)


@pytest.mark.slow
def test_a_study_that_is_stopped_goes_on_to_the_same_bits(tmp_path):
    branch = {"frozen": {"pruned": "initial"}, "rewound": {}}
    cfg = settings({"FT": {"rewind": "finetune"}, "WR": {}}, copies=2, alphas=3, branch=branch)
    whole = run(cfg, tmp_path / "whole")
    names = set(whole["seeds"][0]["levels"][1]["branches"])
    assert names == {"FT", "WR", "FT, frozen", "FT, rewound", "WR, frozen", "WR, rewound"}
    for looks in (3, 9, 20):
        assert run(cfg, tmp_path / "cut", StopsAfter(looks)) is None
    assert run(cfg, tmp_path / "cut")["seeds"] == whole["seeds"]
    text = (tmp_path / "cut" / folder_name("test", cfg) / "report.md").read_text()
    assert "## Instability" in text
    assert "WR, frozen" in text
    for line in whole["seeds"][0]["lines"]:
        assert len(line["errors"]) == 3
        copies = whole["seeds"][0]["levels"][1]["branches"][line["branch"]]
        assert copies[0]["instability"] == copies[1]["instability"]
        assert copies[0]["digest"] != copies[1]["digest"], "the order of the examples differs"
        ends = (1 - copies[0]["test_final"], 1 - copies[1]["test_final"])
        assert (line["errors"][0], line["errors"][-1]) == pytest.approx(ends, abs=1e-6)


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """The beginnings of branches of one ticket, its initial weights, and what its level 0 has trained."""
    cfg = settings()
    folder = tmp_path_factory.mktemp("ticket")
    own, section = study.checked(cfg).tickets["ticket"]
    lottery_runs.run(own, section, Options("test", folder, False, Stopper()))
    full_cfg = lottery_runs.completed(cfg, section)
    setup = setup_of(full_cfg)
    task = tasks(full_cfg, 0)[0]
    kept = LevelFiles(folder / folder_name("test", own) / "seed_0")
    params, _ = fresh_variables(setup.model, task, lottery_runs.keys_of_seed(0)["init"])
    return Starts(setup, task, 0, kept), params, kept


@pytest.mark.parametrize(
    ("masks", "kept"),
    [
        *itertools.product([m for m in study.MASKS if m not in study.AT_INIT], study.KEPT),
        *((masks, "rewound") for masks in study.AT_INIT),
    ],
)
def test_every_branch_keeps_as_many_weights(masks, kept, starts):
    begun, initial, levels = starts
    state = begun.state(Branch("it", masks, kept), 1)
    jp.masks.check(state.params, state.masks)
    ticket = levels.masks(1, initial)
    counts = lambda found: [row["kept"] for row in jp.masks.summary(found)]
    if masks in ("shuffled over layers", *study.AT_INIT):
        assert sum(counts(state.masks)) == sum(counts(ticket))
    else:
        assert counts(state.masks) == counts(ticket)
    if masks in ("ticket", "large_final"):
        assert jax.tree.all(jax.tree.map(jnp.array_equal, state.masks, ticket))
    same = jp.masks.apply(initial, state.masks)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, same, state.params)) == (kept == "rewound")


@pytest.mark.parametrize("pruned", study.PRUNED)
def test_pruned_weights_are_what_is_asked(pruned, starts):
    begun, initial, _ = starts
    state = begun.state(Branch("it", "ticket", "rewound", pruned), 1)
    off = jnp.concatenate([state.params[m]["kernel"][~state.masks[m]["kernel"]] for m in initial])
    share = float((off != 0).mean())
    assert share == {"zero": 0.0, "initial": 1.0}.get(pruned, share)
    assert pruned != "zero if towards zero" or 0.05 < share < 0.95


def test_masks_at_initialisation_are_those_of_the_library(starts):
    begun, initial, levels = starts
    task, model = begun._task, begun._setup.model
    key = begun._level_key(0, 2)
    batches = oneshot.examples(task._replace(batch_size=100), key, 100)
    assert [len(labels) for _, labels in batches] == [100]
    apply = lambda params, batch: model.apply({"params": params}, batch[0], train=False)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    loss = lambda params, batch: entropy(apply(params, batch), batch[1]).mean()
    sparsity = float(jp.masks.sparsity(levels.masks(1, initial)))
    _, snip = jp.at_init.snip(loss, initial, batches, sparsity=sparsity)
    found = begun.masks(Branch("it", "SNIP"), 1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, found, snip))
    _, synflow = jp.at_init.synflow(apply, initial, batches[0], sparsity=sparsity)
    flow = begun.masks(Branch("it", "SynFlow"), 1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, flow, synflow))
    output_loss = lambda logits, batch: entropy(logits, batch[1]).mean()
    warm = jp.signals.loss_of_outputs(apply, output_loss, temperature=200)
    of_classes = oneshot.of_each_class(task, key, 10)
    _, grasp = jp.at_init.grasp(warm, initial, of_classes, sparsity=sparsity)
    others = begun.masks(Branch("it", "GraSP"), 1)
    assert float(jp.masks.jaccard(grasp, others)) > 0.999  # last bits of two programs
    assert float(jp.masks.jaccard(found, others)) < 0.9


def test_too_few_examples_for_masks_before_training_blame_the_branch(starts):
    begun, _, levels = starts
    few = begun._task._replace(labels=begun._task.labels[:50], inputs=begun._task.inputs[:50])
    own = Starts(begun._setup, few, 0, levels)
    for masks in ("SNIP", "GraSP"):
        with pytest.raises(UserError, match=f"config.branches.branches: masks '{masks}': "):
            own.masks(Branch("it", masks), 1)


def test_trained_weights_are_those_of_the_dense_network(starts):
    begun, initial, levels = starts
    trained = levels.variables(0, {"params": initial})["params"]
    state = begun.state(Branch("it", kept="trained"), 1)
    kept = jp.masks.apply(trained, levels.masks(1, initial))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.params, kept))


def test_the_dense_network_is_the_target_of_a_distilled_branch(tmp_path):
    """The dense network, trained on to its own outputs, has nothing to learn; by the labels it has."""
    branch = {
        "distilled": {"kept": "trained", "targets": "dense network"},
        "by labels": {"kept": "trained"},
    }
    cfg = settings(levels=(0,), branch=branch)
    cfg.optimizer = part("sgd", learning_rate=0.1)  # Adam makes steps of rounding errors
    found = run(cfg, tmp_path)["seeds"][0]["levels"][0]["branches"]
    (distilled,), (by_labels,) = found["distilled"], found["by labels"]
    assert distilled["test_loss"] == pytest.approx(found["dense"]["test_loss"], rel=1e-5)
    assert by_labels["test_loss"] < 0.9 * found["dense"]["test_loss"]


def test_the_names_are_those_of_the_library():
    assert study.MASKS[-len(jp.lottery.CRITERIA) :] == tuple(jp.lottery.CRITERIA)


@pytest.mark.parametrize(
    ("section", "match"),
    [
        ({"branch": {"a": {"mask": "ticket"}}}, "no field 'mask'; nearest: 'masks'"),
        ({"branch": {"a": {"masks": "shufled"}}}, "there is no 'shufled'; nearest: 'shuffled'"),
        ({"branch": {"a": {"kept": "zero"}}}, r"branches.a.kept: there is no 'zero'"),
        ({"branch": {"a": 3}}, "a dict of masks, kept, pruned, targets is needed"),
        ({"branch": {"a": {"targets": "label"}}}, "there is no 'label'; nearest: 'labels'"),
        ({"temperature": 0.0}, "from 0.01 to 1000"),
        ({"temperature": 2.0}, "no branch has"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"branch": {"a/b": {}}}, "cannot name a folder"),
        ({"branch": {"ticket": {}}}, "the label 'ticket' is taken"),
        ({"branch": {"a": {}, "A": {}}}, "letters' case"),
        ({"levels": (0,), "branch": {"a": {"pruned": "initial"}}}, "nothing is pruned"),
        ({"levels": (2,)}, "the last level is 1"),
        ({"levels": (1, 1)}, "each level once"),
        ({"levels": (-1,)}, "at least 0"),
        ({"copies": 0}, "at least 1"),
        ({"alphas": 1}, "at least 2"),
        ({"tickets": {"a": {"rounds": 3}}}, "cannot differ in 'rounds'"),
        ({"tickets": {"a": {"rewind": "no"}}}, "no way to rewind"),
        ({"tickets": {"a": {"criterion": "magnitud"}}}, "nearest: 'magnitude'"),
        ({"tickets": {"dense": {}}}, "the label 'dense' is taken"),
        ({"branche": {}}, "no field 'branche'"),
    ],
)
def test_what_no_study_can_be_is_refused(section, match):
    with pytest.raises(UserError, match=match):
        study.checked(settings(**section))


def test_zhou_takes_the_faithful_lottery_run():
    asked = cli.load_config("configs/lottery/zhou2019_lenet300.py")
    faithful = cli.load_config("configs/lottery/lenet300_mnist.py:one_reinit")
    own, _ = study.checked(asked).tickets["ticket"]
    assert folder_name("any", own) == folder_name("any", faithful)


@pytest.mark.parametrize(
    "file",
    [
        "zhou2019_lenet300.py",
        "zhou2019_lenet300.py:criteria",
        "frankle2020_lenet300.py",
        "renda2020_lenet300.py",
        "retraining_lenet300.py",
    ],
)
def test_claims_of_the_papers_are_about_what_is_trained(file):
    cfg = cli.load_config(f"configs/lottery/{file}")
    validate(cfg)
    plan = study.checked(cfg)
    names = {*plan.tickets, "dense"}
    names |= {plan.name(t, branch.label) for t in plan.tickets for branch in plan.branches}
    for claim in cfg.paper.accept:
        sides = {side for side in (claim["a"], claim["b"]) if isinstance(side, str)}
        assert sides <= names, claim["name"]


def test_arrays_of_another_network_are_refused(tmp_path):
    path = tmp_path / "seed_0/levels/point.npz"
    tree = {"w": jnp.ones((2, 3), jnp.bfloat16), "n": jnp.array(3)}
    tree_files.save(path, tree)
    again = tree_files.load(path, tree)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, again, tree))
    assert again["w"].dtype == jnp.bfloat16
    for other in ({"w": tree["w"]}, {**tree, "w": jnp.ones((3, 2))}):
        with pytest.raises(UserError, match=r"point.npz.*move its run folder away"):
            tree_files.load(path, other)
    content = bytearray(path.read_bytes())
    content[-300] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="cannot read"):
        tree_files.load(path, tree)
    with pytest.raises(UserError, match="No such file"):
        tree_files.load(path.with_name("no.npz"), tree)


def test_statistics_are_those_of_the_batches():
    from flax import linen as nn

    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.Dense(4)(x.reshape(len(x), -1))
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

    cfg = settings()
    task = tasks(cfg, 0)[0]
    model = Normed()
    params, rest = fresh_variables(model, task, jax.random.key(0))
    found = statistics.measured(model, params, rest, task, batch_count=3)
    inputs = task.inputs[: 3 * 60].reshape(3, 60, -1) / 255.0
    outputs = inputs @ params["Dense_0"]["kernel"]
    stats = found["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], outputs.mean((0, 1)), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(stats["var"], outputs.var(1).mean(0), rtol=1e-3, atol=1e-4)
    assert statistics.measured(model, params, {}, task) == {}
    with pytest.raises(UserError, match="'count'"):
        statistics.measured(model, params, {"count": rest}, task)


def test_the_smoke_config_runs(tmp_path):
    cfg = cli.load_config("configs/lottery/branches_smoke.py")
    cfg.steps = 20
    cfg.seeds = (0,)
    cfg.branches.levels = (2,)
    results = run(cfg, tmp_path)
    found = results["seeds"][0]["levels"][2]["branches"]
    assert sorted(found) == sorted([*cfg.branches.branches, "ticket"])
    assert all(
        0 <= copy["instability"] <= 1 for name in cfg.branches.branches for copy in found[name]
    )
    text = (tmp_path / folder_name("test", cfg) / "report.md").read_text()
    for head in ("## Claims", "## Branches", "before training", "## Instability"):
        assert head in text


def test_the_claims_of_the_smoke_config_are_checked():
    cfg = cli.load_config("configs/lottery/branches_smoke.py")
    assert len(study.checked(cfg).branches) == 9
    branch = lambda error: [{"test_final": 0.9, "instability": error}] * 2
    seeds = [
        {
            "seed": seed,
            "lines": [],
            "levels": [
                {"level": 0, "remaining": 1.0, "branches": {"dense": branch(0.0)[0]}},
                {
                    "level": 1,
                    "remaining": 0.424,
                    "branches": {"rewound": branch(0.001 * seed), "shuffled": branch(0.3)},
                },
            ],
        }
        for seed in range(4)
    ]
    results = {"kind": "branches", "paper": cfg.paper.to_dict(), "seeds": seeds}
    assert [outcome.verdict for outcome in check_claims(results)] == ["holds", "holds"]


def test_a_branch_that_diverges_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    whole = Starts.state

    def state(starts, branch, level):
        begun = whole(starts, branch, level)
        if branch.label != "lost":
            return begun
        return begun._replace(params=jax.tree.map(lambda x: x * jnp.inf, begun.params))

    monkeypatch.setattr(Starts, "state", state)
    cfg = settings(branch={"lost": {}, "rewound": {}}, copies=2, alphas=3)
    results = run(cfg, tmp_path)
    found = results["seeds"][0]["levels"][1]["branches"]
    assert ["no longer finite" in copy["failed"] for copy in found["lost"]] == [True, True]
    assert all(0 < copy["test_final"] <= 1 for copy in found["rewound"])
    assert {line["branch"] for line in results["seeds"][0]["lines"]} == {"rewound"}
    folder = tmp_path / folder_name("test", cfg)
    assert failure(folder / "seed_0" / "ticket" / "lost" / "copy_1")["failed"]
    report = (folder / "report.md").read_text()
    assert "## Trainings that diverged\n\n- seed 0 · lost 0" in report
