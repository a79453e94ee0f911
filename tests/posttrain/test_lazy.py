"""Parameters that are read from files when they are needed, and go to a sink when they are finished."""

import dataclasses

import gguf_bytes
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.models import LazyLeaf, llama
from jaxprune.posttrain import solvers

CONFIG = llama.Config(
    vocabulary=11, width=8, hidden=12, layers=3, heads=4, kv_heads=2, head_dim=4, tied=False
)
BATCHES = [np.random.default_rng(i).integers(0, 11, (3, 6), np.int32) for i in range(3)]
WANDA = solvers.by_criterion(jp.criteria.wanda)
RECOVER = jp.posttrain.reconstruct(optax.adam(1e-2), steps=3)
WAYS = {
    "wanda": {"solver": WANDA},
    "magnitude": {"solver": solvers.by_criterion(jp.criteria.magnitude)},
    "sparsegpt, dense, owl": {
        "solver": solvers.sparsegpt(),
        "calibrate": "dense",
        "rates": jp.posttrain.rates.owl(0.5, spread=0.02),
    },
    "recovery": {"solver": WANDA, "recover": RECOVER, "hold_out": None},
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    leaves, tree = jax.tree.flatten(llama.shapes(CONFIG))
    rng = np.random.default_rng(0)
    params = tree.unflatten([rng.standard_normal(x.shape, np.float32) / 3 for x in leaves])
    folder = tmp_path_factory.mktemp("models") / "dense"
    jp.models.save(folder, params, CONFIG)
    return folder


def plan_of(model):
    return jp.posttrain.plan(model.apply, model.params, BATCHES[0], exclude="embedding|head")


@pytest.mark.parametrize("way", WAYS)
def test_leaves_in_files_give_the_bits_of_arrays(way, dense, tmp_path):
    lazy = jp.models.load(dense, lazy=True)
    plan = plan_of(lazy)
    usual = jp.posttrain.prune(plan, jp.models.load(dense).params, BATCHES, **WAYS[way])
    without_sink = jp.posttrain.prune(plan, lazy.params, BATCHES, **WAYS[way])
    assert not any(isinstance(leaf, LazyLeaf) for leaf in jax.tree.leaves(without_sink.params))
    jax.tree.map(np.testing.assert_array_equal, usual[:2], without_sink[:2])
    with jp.models.decoder_sink(tmp_path / "pruned", CONFIG, shard_bytes=500) as sink:
        sunk = jp.posttrain.prune(plan, lazy.params, BATCHES, sink=sink, **WAYS[way])
    assert sunk.params is None
    jax.tree.map(np.testing.assert_array_equal, usual.masks, sunk.masks)
    written = jp.models.load(tmp_path / "pruned")
    assert written.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, usual.params, written.params)
    jp.masks.check(written.params, sunk.masks)


def test_leaves_in_a_gguf_file_give_the_bits_of_arrays(dense, tmp_path):
    """Each is cut out of the mapped file, put into the order of halves and transposed when it is read."""
    params = jax.tree.map(np.asarray, jp.models.load(dense).params)
    path = tmp_path / "dense.gguf"
    path.write_bytes(gguf_bytes.model("llama", CONFIG, params))
    lazy = jp.models.load(path, lazy=True)
    assert all(isinstance(leaf, LazyLeaf) for leaf in jax.tree.leaves(lazy.params))
    plan = plan_of(lazy)
    usual = jp.posttrain.prune(plan, params, BATCHES, solver=WANDA)
    with jp.models.decoder_sink(tmp_path / "pruned", CONFIG) as sink:
        sunk = jp.posttrain.prune(plan, lazy.params, BATCHES, solver=WANDA, sink=sink)
    written = jp.models.load(tmp_path / "pruned").params
    jax.tree.map(np.testing.assert_array_equal, usual.params, written)
    jax.tree.map(np.testing.assert_array_equal, usual.masks, sunk.masks)


def test_a_leaf_goes_to_the_sink_as_soon_as_it_may(dense):
    """And is neither read nor held from then on."""
    lazy = jp.models.load(dense, lazy=True)
    reads, given = {}, []

    def watched(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")

        def load():
            reads[name] = reads.get(name, 0) + 1
            assert name not in given
            return leaf.load()

        return LazyLeaf(leaf.shape, leaf.dtype, load)

    params = jax.tree.map_with_path(watched, lazy.params)
    at_segment = []
    jp.posttrain.prune(
        plan_of(lazy),
        params,
        BATCHES,
        solver=WANDA,
        sink=lambda name, array: given.append(name),
        progress=lambda step: at_segment.append(len(given)),
    )
    assert sorted(given) == sorted(set(reads))
    assert len(given) == len(jax.tree.leaves(params))
    assert given[0] == "embedding"
    assert at_segment == sorted(at_segment)
    assert at_segment[len(at_segment) // 2] > len(given) // 3
    assert given.index("layers/0/down") < given.index("layers/2/query")
    assert max(reads.values()) <= 3, reads


def test_stacked_layers_are_finished_with_the_last(tmp_path):
    draw = lambda seed, *shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    params = {"stack": draw(0, 3, 4, 4), "out": draw(1, 4, 2), "scale": np.ones((1, 4), np.float32)}

    def apply(p, x):
        x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w) * p["scale"], None), x, p["stack"])
        return x @ p["out"]

    batches = [draw(5, 6, 4)]
    plan = jp.posttrain.plan(apply, params, batches[0])
    given = {}
    jp.posttrain.prune(plan, params, batches, solver=WANDA, sink=given.__setitem__)
    usual = jp.posttrain.prune(plan, params, batches, solver=WANDA)
    assert list(given) == ["stack", "out", "scale"]
    for name, array in usual.params.items():
        np.testing.assert_array_equal(given[name], array)


def test_a_stopped_run_goes_on_with_its_sink(dense, tmp_path):
    lazy = jp.models.load(dense, lazy=True)
    plan = plan_of(lazy)
    usual = jp.posttrain.prune(plan, lazy.params, BATCHES, solver=WANDA, recover=RECOVER)

    class Stopped(Exception):
        pass

    def run(stop, solver=WANDA, folder="run"):
        def progress(step):
            if step.done == stop:
                raise Stopped

        with jp.models.decoder_sink(
            tmp_path / "pruned", CONFIG, shard_bytes=300, resume=True
        ) as sink:
            jp.posttrain.prune(
                plan,
                lazy.params,
                BATCHES,
                solver=solver,
                recover=RECOVER,
                sink=sink,
                folder=tmp_path / folder,
                progress=progress,
            )

    for stop in (3, 8):
        with pytest.raises(Stopped):
            run(stop)
    with pytest.raises(ValueError, match=r"has another 'model.* than is given now"):
        run(0, solvers.by_criterion(jp.criteria.ria), "another")
    run(0)
    written = jp.models.load(tmp_path / "pruned").params
    jax.tree.map(np.testing.assert_array_equal, usual.params, written)
    content = lambda: {path.name: path.read_bytes() for path in (tmp_path / "pruned").iterdir()}
    finished = content()
    run(0)  # the same call on what is done
    assert content() == finished
    other = dataclasses.replace(CONFIG, norm_epsilon=0.5)
    with (
        pytest.raises(ValueError, match=r"config\.json describes another model"),
        jp.models.decoder_sink(tmp_path / "pruned", other, resume=True),
    ):
        pass
