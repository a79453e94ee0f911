"""What is left as data and as a program: files, trees of all sorts, no model's code."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_zoo import model

import jaxprune as jp
from jaxprune import structured


@pytest.fixture(scope="module")
def small():
    apply, params, x = model("residual")
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    return structured.shrink(graph, params, masks), params, x, graph, masks


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def test_a_plan_survives_its_file_and_fits_all_trees_like_the_parameters(small, tmp_path):
    small, params, *_ = small
    file = tmp_path / "plan.json"
    small.plan.save(file)
    plan = structured.Plan.load(file)
    assert plan == small.plan
    assert shapes(plan.apply(params)) == shapes(small.params)
    state = optax.adam(1e-3).init(params["params"])
    assert shapes(plan.apply(state)[0].mu) == shapes(small.params["params"])
    assert shapes(plan.within("params").apply(state)[0].nu) == shapes(small.params["params"])
    with pytest.raises(FileExistsError):
        small.plan.save(file)
    with pytest.raises(ValueError, match="none of the leaves other"):
        plan.apply({"other": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"within\('head'\)"):
        plan.within("head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["leaves"].clear(), "hash"),
        (lambda f: f.update(format=9), "format 9"),
        (lambda f: f["leaves"]["params/Conv_0/bias"]["kept"].update({"0": [5, 1]}), "impossible"),
        (lambda f: f["leaves"]["params/Conv_0/bias"]["kept"].update({"3": [0]}), "impossible"),
        (lambda f: f.pop("leaves"), "no plan of jaxprune"),
    ],
)
def test_changed_plans_are_refused(small, tmp_path, change, message):
    file = tmp_path / "plan.json"
    small[0].plan.save(file)
    found = json.loads(file.read_text())
    change(found)
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message):
        structured.Plan.load(file)


def test_what_is_saved_runs_and_trains_without_the_model(small, tmp_path):
    pytest.importorskip("flatbuffers")
    small, _, x, *_ = small
    folder = tmp_path / "small"
    structured.save(folder, small, x)
    more = jnp.concatenate([x, x, x])
    np.save(tmp_path / "x.npy", more)
    code = (
        "import sys, jax, numpy as np\n"
        "from jaxprune import structured\n"
        "found, x = structured.load(sys.argv[1]), np.load(sys.argv[2])\n"
        "np.save(sys.argv[3], found.apply(found.params, x))\n"
        "g = jax.grad(lambda p: found.apply(p, x).sum())(found.params)\n"
        "np.save(sys.argv[4], g['params/Conv_0/kernel'])\n"
    )
    files = [str(tmp_path / name) for name in ("x.npy", "y.npy", "g.npy")]
    subprocess.run([sys.executable, "-c", code, str(folder), *files], check=True)
    np.testing.assert_allclose(np.load(files[1]), small.apply(small.params, more), atol=1e-5)
    grads = jax.grad(lambda p: small.apply(p, more).sum())(small.params)
    expected = grads["params"]["Conv_0"]["kernel"]
    np.testing.assert_allclose(np.load(files[2]), expected, atol=1e-4)
    with pytest.raises(FileExistsError, match="name a new folder"):
        structured.save(folder, small, x)
    (folder / "plan.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no plan.json"):
        structured.load(folder)


def test_the_report_counts_what_is_there(small):
    small, params, x, graph, masks = small
    found = structured.report(graph, params, masks, x, repeats=2)
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    assert found.parameters == (size(params), size(small.params))
    assert found.flops[1] < found.flops[0]
    assert min(found.seconds) > 0
    assert all(after == -(-before // 2) for before, after in found.groups.values())
    assert "milliseconds" in str(found)
    assert jp.structured.report(graph, params, masks).seconds is None


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture_of_the_groups(small, tmp_path, ending):
    pytest.importorskip("matplotlib")
    graph = small[3]
    file = structured.picture(graph, tmp_path / f"graph.{ending}")
    content = file.read_bytes()
    assert content.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert len(content) > 5_000


def test_optimizers_states_and_trees_that_hold_them(small):
    small, params, *_ = small
    state = optax.adam(1e-3).init(params["params"])
    both = small.plan.apply({"params": params["params"], "opt_state": state})
    assert shapes(both["params"]) == shapes(small.params["params"])
    assert shapes(both["opt_state"][0].nu) == shapes(small.params["params"])
    assert small.shrink_state(optax.sgd(0.1).init(params)) == optax.sgd(0.1).init(params)
    masked = optax.masked(optax.adam(1e-3), lambda p: jax.tree.map(lambda w: w.ndim > 1, p))
    moments = small.shrink_state(masked.init(params["params"])).inner_state[0].mu
    assert moments["Conv_0"]["kernel"].shape == small.params["params"]["Conv_0"]["kernel"].shape


def test_factored_moments_are_refused_by_name():
    fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    params = {"in": jnp.ones((256, 256)), "out": jnp.ones((256, 130))}
    graph = structured.trace(fn, params, jnp.ones((1, 256)))
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    with pytest.raises(ValueError, match="factored moments cannot be cut"):
        small.shrink_state(optax.adafactor(1e-3).init(params))


def test_a_parameter_may_be_called_as_a_field_of_the_optimizer():
    fn = lambda p, x: jax.nn.relu(x @ p["w"] + p["mu"]["w"][None]) @ p["o"]
    params = {"w": jnp.ones((3, 8)), "mu": {"w": jnp.ones(8)}, "o": jnp.ones((8, 2))}
    graph = structured.trace(fn, params, jnp.ones((1, 3)))
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    found = small.shrink_state(optax.adam(1e-3).init(params))[0]
    assert shapes(found.mu) == shapes(found.nu) == shapes(small.params)


LEAVES = {
    "a": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)},
    "b": {"kernel": jnp.ones((6, 2))},
}
LAYERS = structured.Plan(
    {"a/bias": (6,), "a/kernel": (8, 6), "b/kernel": (6, 2)},
    {"a/bias": {0: [0, 1, 2]}, "a/kernel": {1: [0, 1, 2]}, "b/kernel": {0: [0, 1, 2]}},
)
CUT = {"a": {"kernel": (8, 3), "bias": (3,)}, "b": {"kernel": (3, 2)}}
HEAD = {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)}


def only_matrices(params):
    return jax.tree.map(lambda w: w.ndim > 1, params)


def test_leaves_that_the_plan_does_not_know_stay():
    tree = LEAVES | {"head": HEAD}
    expected = CUT | {"head": shapes(HEAD)}
    assert shapes(LAYERS.apply(tree)) == expected
    state = LAYERS.apply(optax.adam(1e-3).init(tree))[0]
    assert shapes(state.mu) == shapes(state.nu) == expected
    masked = LAYERS.apply(optax.masked(optax.adam(1e-3), only_matrices).init(tree))
    assert masked.inner_state[0].mu["a"]["kernel"].shape == (8, 3)
    assert masked.inner_state[0].mu["head"]["kernel"].shape == (8, 6)


def test_copies_of_the_planned_tree_are_cut_wherever_they_are():
    both = LAYERS.apply({"student": LEAVES, "average": LEAVES, "step": 3})
    assert shapes(both["student"]) == shapes(both["average"]) == CUT
    labels = {"a": "slow", "b": "fast"}
    parts = optax.partition({"slow": optax.sgd(0.1, momentum=0.9), "fast": optax.adam(1)}, labels)
    states = LAYERS.apply(parts.init(LEAVES)).inner_states
    assert shapes(states["slow"].inner_state[0].trace["a"]) == CUT["a"]
    assert shapes(states["fast"].inner_state[0].nu["b"]) == CUT["b"]
    assert shapes(LAYERS.apply({"a": LEAVES["a"]})) == {"a": CUT["a"]}  # some of them, nothing else
    half = LAYERS.apply(optax.sgd(0.1, momentum=0.9).init({"a": LEAVES["a"]}))
    assert shapes(half[0].trace) == {"a": CUT["a"]}


STRANGERS = {
    "another layer": {"c": HEAD},
    "its optimizer": optax.adam(1e-3).init({"c": HEAD}),
    "a name alone": {"kernel": jnp.ones((8, 6))},
    "a layer that is alike, deeper": {"model": {"c": {"kernel": jnp.ones((8, 6))}}},
    "the layers of a plan's layer": {"bias": jnp.ones(6), "kernel": jnp.ones((8, 6))},
}


@pytest.mark.parametrize("what", STRANGERS)
def test_leaves_of_another_model_are_refused(what):
    with pytest.raises(ValueError, match=r"none of the leaves .* in path and shape"):
        LAYERS.apply(STRANGERS[what])


OPEN = {
    "a layer of the same name behind a prefix": {"model": {"a": {"kernel": jnp.ones((8, 6))}}},
    "a layer of the same name beside others": {"a": LEAVES["a"], "z": HEAD},
    "a student and half a teacher": {"student": LEAVES, "teacher": {"a": LEAVES["a"], "z": HEAD}},
    "a state of which it is open": {"opt": {"mu": {"a": LEAVES["a"]}}},
}


@pytest.mark.parametrize("what", OPEN)
def test_what_may_be_the_plans_or_not_is_refused_by_name(what):
    with pytest.raises(ValueError, match=r"'.*a/bias' has the path|'.*a/kernel' has the path"):
        LAYERS.apply(OPEN[what])


def test_a_layer_that_looks_like_the_whole_plan_is_none_of_it():
    plan = structured.Plan({"b": (4,), "w": (3, 4)}, {"b": {0: [1]}, "w": {1: [1]}})
    layer = {"b": jnp.ones(4), "w": jnp.ones((3, 4))}
    found = plan.apply(layer | {"head": layer})
    assert shapes(found) == {"b": (1,), "w": (3, 1), "head": {"b": (4,), "w": (3, 4)}}
    state = plan.apply(optax.adam(1e-3).init(layer | {"head": layer}))[0]
    assert shapes(state.mu) == shapes(found)
    together = plan.apply(layer | {"opt": optax.adam(1e-3).init(layer)})
    assert shapes(together["opt"][0].mu) == {"b": (1,), "w": (3, 1)}


def test_the_hash_covers_what_is_kept():
    other = LAYERS._replace(kept=LAYERS.kept | {"b/kernel": {0: [0, 1, 4]}})
    shaped = LAYERS._replace(shapes=LAYERS.shapes | {"b/kernel": (6, 3)})
    assert len({LAYERS.hash, other.hash, shaped.hash}) == 3
    assert structured.Plan(dict(reversed(LAYERS.shapes.items())), LAYERS.kept).hash == LAYERS.hash


def test_a_plan_of_the_first_format_is_refused(tmp_path):
    LAYERS.save(tmp_path / "plan.json")
    told = json.loads((tmp_path / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(told | {"format": 1}))
    with pytest.raises(ValueError, match=r"plan\.json .*format 1, and this jaxprune reads 2"):
        structured.Plan.load(tmp_path / "plan.json")


def test_arrays_of_all_types_are_saved_to_the_bit(tmp_path):
    pytest.importorskip("flatbuffers")
    fn = lambda p, x: (jax.nn.relu(x @ p["a"]) @ p["b"].astype(jnp.float32)) + p["empty"].sum()
    params = {
        "a": jnp.ones((4, 8)),
        "b": jnp.ones((8, 2), jnp.bfloat16),
        "count": jnp.array(3),
        "empty": jnp.zeros((0, 3)),
        "eight": jnp.ones(5, jnp.float8_e4m3fn),
        "key": jax.random.key(7),
        "flags": jnp.array([True, False]),
    }
    graph = structured.trace(fn, params, jnp.ones((1, 4)))
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    structured.save(tmp_path / "small", small, jnp.ones((1, 4)))
    found = structured.load(tmp_path / "small").params
    assert found["b"].shape == (4, 2)
    for name, leaf in small.params.items():
        assert found[name].dtype == leaf.dtype
        assert found[name].shape == leaf.shape
    assert jnp.array_equal(jax.random.key_data(found["key"]), jax.random.key_data(params["key"]))


def test_folders_without_a_manifest_are_refused(small, tmp_path):
    pytest.importorskip("flatbuffers")
    structured.save(tmp_path / "small", small[0], small[2])
    (tmp_path / "small" / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json.*save it again"):
        structured.load(tmp_path / "small")


def one_sequence(p, x):
    h = jax.nn.relu(x @ p["a"]) @ p["b"]
    return jax.nn.softmax(h @ h.T) @ h


@pytest.mark.parametrize("shape", [(5, 4), (1, 4)])
@pytest.mark.parametrize("drawn", [True, False])
def test_a_program_of_examples_that_see_each_other_is_refused(tmp_path, shape, drawn):
    pytest.importorskip("flatbuffers")
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    params, x = {"a": draw(0, 4, 8), "b": draw(1, 8, 4)}, draw(2, *shape)
    graph = structured.trace(one_sequence, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    given = x if drawn else jax.ShapeDtypeStruct(x.shape, x.dtype)
    with pytest.raises(ValueError, match="batched=False"):
        structured.save(tmp_path / "small", small, given)
    assert not (tmp_path / "small").exists()
    structured.save(tmp_path / "small", small, given, batched=False)
    found = structured.load(tmp_path / "small")
    np.testing.assert_allclose(
        found.apply(found.params, x), small.apply(small.params, x), rtol=1e-5, atol=1e-6
    )


def test_inputs_with_other_numbers_of_examples_are_refused(tmp_path):
    pytest.importorskip("flatbuffers")
    params = {"a": jnp.ones((4, 8)), "b": jnp.ones((8, 2))}
    fn = lambda p, x, table: (jax.nn.relu(x @ p["a"]) @ p["b"]) @ table
    inputs = jnp.ones((5, 4)), jnp.ones((2, 3))
    graph = structured.trace(fn, params, *inputs)
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    with pytest.raises(ValueError, match="batched=False"):
        structured.save(tmp_path / "small", small, *inputs)
