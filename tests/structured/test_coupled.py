"""Coupled units as a pattern of methods: in one shot, in training, with tickets; scores, scopes, budgets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from network_zoo import model

import jaxprune as jp
from jaxprune import structured

RNG = np.random.default_rng(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)


def perceptron(p, x):
    h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
    return jax.nn.relu(h @ p["b"]["kernel"]) @ p["c"]["kernel"]


X = draw(5, 4)
PARAMS = {
    "a": {"kernel": draw(4, 8), "bias": draw(8)},
    "b": {"kernel": draw(8, 6)},
    "c": {"kernel": draw(6, 2)},
}
GRAPH = structured.trace(perceptron, PARAMS, X)
left = lambda masks: {r["leaf"]: r["kept"] for r in jp.masks.summary(masks)}


def shrunk_equals_masked(params, masks):
    small = structured.shrink(GRAPH, params, masks)
    expected = perceptron(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, atol=1e-5)
    return small


def test_one_shot_with_a_method_is_structured_prune():
    pattern = structured.coupled(GRAPH)
    _, masks = jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.5, pattern=pattern))
    expected = structured.prune(GRAPH, PARAMS, sparsity=0.5)
    for a, b in zip(jax.tree.leaves(masks), jax.tree.leaves(expected), strict=True):
        assert jnp.array_equal(a, b)
    assert left(masks) == {"a/bias": 4, "a/kernel": 16, "b/kernel": 12, "c/kernel": 6}
    shrunk_equals_masked(PARAMS, masks)


@pytest.mark.parametrize("method", ["gmp", "rigl", "set"])
def test_training_with_coupled_units(method):
    pattern, key = structured.coupled(GRAPH), jax.random.key(0)
    made = {
        "gmp": lambda: jp.methods.gmp(sparsity=0.5, begin=0, end=8, every=2, pattern=pattern),
        "rigl": lambda: jp.methods.rigl(
            sparsity=0.5, every=2, end=8, pattern=pattern, allocation=jp.allocation.uniform()
        ),
        "set": lambda: jp.methods.set_(
            sparsity=0.5, every=2, end=8, pattern=pattern, allocation=jp.allocation.uniform()
        ),
    }[method]()
    tx = jp.sparsify(optax.adam(1e-2), made, key=key)
    params, state = PARAMS, tx.init(PARAMS)
    target = draw(5, 2)
    loss = lambda p: jnp.mean((perceptron(p, X) - target) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(10):
        params, state = step(params, state)
        masks = jp.masks_of(state)
        zeros = jax.tree.map(lambda w, m: m is None or bool(jnp.all((w != 0) <= m)), params, masks)
        assert jax.tree.all(zeros)
    assert left(masks) == {"a/bias": 4, "a/kernel": 16, "b/kernel": 12, "c/kernel": 6}
    small = shrunk_equals_masked(params, masks)
    moments = small.shrink_state(state.inner)[0].mu
    assert jax.tree.map(jnp.shape, moments) == jax.tree.map(jnp.shape, small.params)


@pytest.mark.slow
def test_tickets_of_units():
    plan = jp.lottery.Plan(round_steps=3, rounds=2)
    method = jp.methods.magnitude(sparsity=0.5, pattern=structured.coupled(GRAPH))
    tx = jp.lottery_ticket(optax.sgd(0.1), method, plan)
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(plan.total_updates):
        grads = jax.grad(lambda p: jnp.sum(perceptron(p, X) ** 2))(params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert left(jp.masks_of(state))["a/bias"] == 2


def test_a_group_keeps_one_unit_whatever_is_asked():
    pattern = structured.coupled(GRAPH)
    _, masks = jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.99, pattern=pattern))
    assert left(masks) == {"a/bias": 1, "a/kernel": 4, "b/kernel": 1, "c/kernel": 2}
    weak = PARAMS | {"c": {"kernel": PARAMS["c"]["kernel"] * 1e-9}}
    weak = weak | {"b": {"kernel": PARAMS["b"]["kernel"] * 1e-9}}
    method = jp.methods.magnitude(
        sparsity=0.5, pattern=pattern, allocation=jp.allocation.global_budget()
    )
    masks = jp.prune(weak, method)[1]
    assert left(masks)["c/kernel"] == 2, "one unit of two weights"


def test_parts_of_flax_variables_are_trained_and_shrunk_with_their_statistics():
    apply, variables, x = model("residual")
    graph = structured.trace(apply, variables, x)
    pattern = structured.coupled(graph, within="params")
    assert not any(path.startswith("params/") for path in pattern.paths)
    params, masks = jp.prune(
        variables["params"], jp.methods.magnitude(sparsity=0.5, pattern=pattern)
    )
    whole = {**variables, "params": params}
    all_masks = {**jax.tree.map(lambda _: None, variables), "params": masks}
    small = structured.shrink(graph, whole, all_masks)
    expected = apply(whole, x)
    np.testing.assert_allclose(small.apply(small.params, x), expected, atol=2e-5)
    with pytest.raises(ValueError, match=r"no leaf 'params/.*within="):
        jp.prune(
            variables["params"],
            jp.methods.magnitude(sparsity=0.5, pattern=structured.coupled(graph)),
        )


def test_what_a_coupled_pattern_refuses():
    pattern = structured.coupled(GRAPH)
    method = jp.methods.magnitude(sparsity=0.5, pattern=pattern)
    with pytest.raises(ValueError, match=r"structured.coupled\(only=\) says what may be pruned"):
        jp.prune(PARAMS, method, prunable="a/")
    with pytest.raises(ValueError, match="a method of its own"):
        jp.prune(PARAMS, jp.partition({"a": method}))
    with pytest.raises(ValueError, match=r"had \(4, 8\) when traced"):
        jp.prune(PARAMS | {"a": {"kernel": draw(4, 9), "bias": draw(9)}}, method)
    before = structured.prune(GRAPH, PARAMS, sparsity={"a/": 0.25})
    _, masks = jp.prune(PARAMS, method, masks=before)
    assert left(masks)["b/kernel"] == 12, "masks without some leaves are gone on with"
    with pytest.raises(ValueError, match="reduce='median'"):
        structured.coupled(GRAPH, reduce="median")
    with pytest.raises(ValueError, match="no group is meant by only='conv'"):
        structured.coupled(GRAPH, only="conv")


def test_scores_of_units_by_hand():
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": jnp.array([[3.0, -1.0], [4.0, 2.0]]), "b": jnp.array([[-12.0], [0.5]])}
    graph = structured.trace(fn, params, jnp.ones((1, 2)))

    def found(**how):
        return next(iter(structured.scores(graph, params, **how).values())).tolist()

    signed = lambda params, **_: params
    assert found() == [19, 3.5]
    assert found(over="outputs") == [7, 3]
    assert found(reduce="mean") == pytest.approx([19 / 3, 3.5 / 3])
    assert found(reduce="max") == [12, 2]
    assert found(reduce="norm") == pytest.approx([13, np.sqrt(5.25)])
    assert found(reduce="absolute", criterion=signed) == [5, 1.5]
    assert found(normalize="mean") == pytest.approx([19 / 11.25, 3.5 / 11.25])
    assert found(normalize="max") == pytest.approx([1, 3.5 / 19])
    assert found(normalize="sum") == pytest.approx([19 / 22.5, 3.5 / 22.5])
    assert found(normalize="norm") == pytest.approx(np.array([19, 3.5]) / np.hypot(19, 3.5))


@pytest.mark.parametrize("normalize", ["mean", "max", "sum", "norm"])
def test_infinite_and_large_scores_keep_their_order_when_they_are_normalized(normalize):
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": jnp.array([[3.0, 1.0, 2.0]]), "b": jnp.zeros((3, 1))}
    graph = structured.trace(fn, params, jnp.ones((1, 1)))

    def order(factors):
        criterion = lambda params, **_: {"a": params["a"] * factors, "b": params["b"]}
        scores = structured.scores(graph, params, criterion=criterion, normalize=normalize)
        found = next(iter(scores.values()))
        assert not np.isnan(found).any()
        return np.argsort(found).tolist()

    assert order(jnp.array([[1.0, jnp.inf, 1.0]])) == [2, 0, 1]
    assert order(1e25) == [1, 2, 0], "squares of such scores are infinite"


def test_isomorphic_groups_compete_among_themselves_alone():
    def fn(p, x):
        for w, o in zip(p["w"], p["o"], strict=True):
            x = x + jax.nn.relu(x @ w) @ o
        return jax.nn.relu(x @ p["a"] + p["bias"][None]) @ p["b"]

    params = {"w": [draw(4, 8) * 10, draw(4, 8)], "o": [draw(8, 4) * 10, draw(8, 4)]}
    params |= {"a": draw(4, 6) * 1e-3, "bias": draw(6), "b": draw(6, 4)}
    graph = structured.trace(fn, params, X)
    how = {"sparsity": 0.5, "normalize": "none"}
    kept = lambda scope: left(structured.prune(graph, params, scope=scope, **how))
    assert kept("isomorphic")["bias"] == 3, "it has no one to compete with"
    assert kept("isomorphic") == {"a": 12, "b": 12, "bias": 3, "o/1": 4, "w/1": 4}
    assert kept("global")["bias"] < 3


@pytest.mark.parametrize("scope", ["local", "isomorphic"])
def test_budgets_are_met_with_no_unit_to_spare(scope):
    apply, params, x = model("vgg")
    graph = structured.trace(apply, params, x)
    dense = jax.tree.map(lambda _: None, params)
    for cost, budget in ((structured.flops, 0.5), (structured.parameters, 0.3)):
        masks = structured.prune(graph, params, budget=budget, cost=cost, scope=scope)
        share = cost(graph, params, masks) / cost(graph, params, dense)
        assert budget - 0.12 < share <= budget
    small = structured.shrink(graph, params, masks)
    assert sum(w.size for w in jax.tree.leaves(small.params)) == structured.parameters(
        graph, params, masks
    )
    with pytest.raises(ValueError, match="one of sparsity= and budget="):
        structured.prune(graph, params)
    with pytest.raises(ValueError, match="with one unit left in each group"):
        structured.prune(graph, params, budget=1e-4)


@pytest.mark.parametrize(
    "name", ["vgg", "residual", "grouped convolution", "llama", "scan and remat"]
)
def test_operations_are_those_of_the_small_program(name):
    apply, params, x = model(name)
    graph = structured.trace(apply, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    own = structured.trace(small.apply, small.params, x)
    nothing = jax.tree.map(lambda _: None, small.params)
    assert structured.flops(graph, params, masks) == structured.flops(own, small.params, nothing)


def test_latency_is_measured_on_the_shrunk_function():
    masks = structured.prune(GRAPH, PARAMS, sparsity=0.5)
    assert 0 < structured.latency(X, repeats=2)(GRAPH, PARAMS, masks) < 1


def test_data_driven_criteria_of_units():
    loss = lambda p, x: jnp.mean(perceptron(p, x) ** 2)
    method = jp.Method(
        jp.criteria.taylor,
        schedule=jp.schedules.one_shot(sparsity=0.5),
        pattern=structured.coupled(GRAPH),
    )
    known = jp.signals.gatherers([X], loss=loss)
    params, masks = jp.prune_on(PARAMS, method, known, rounds=2)
    assert left(masks)["a/bias"] == 4
    shrunk_equals_masked(params, masks)


def test_group_lasso_over_coupled_units():
    pattern = structured.coupled(GRAPH)
    penalty = jp.penalties.coupled(0.5, pattern)
    leaves = dict(zip(jp.masks.paths(PARAMS), jax.tree.leaves(PARAMS), strict=True))
    own = {path: leaves[path] for path in ("a/kernel", "a/bias", "b/kernel")}
    units = [jnp.concatenate([own["a/kernel"], own["a/bias"][None]]), own["b/kernel"]]
    norms = [jnp.linalg.norm(w, axis=0) for w in units]
    expected = 0.5 * sum(np.sqrt(len(w)) * n.sum() for w, n in zip(units, norms, strict=True))
    assert float(penalty.value(own, 0)) == pytest.approx(float(expected), rel=1e-5)
    found = penalty.prox(own, 1.0, 0)
    factor = jnp.maximum(1 - 0.5 * np.sqrt(5) / norms[0], 0)
    np.testing.assert_allclose(found["a/kernel"], own["a/kernel"] * factor[None], rtol=1e-5)
    np.testing.assert_allclose(found["a/bias"], own["a/bias"] * factor, rtol=1e-5)
    assert bool((factor == 0).any()), "some units die as a whole"


def test_units_that_a_group_lasso_empties_can_be_removed():
    tx = jp.proximal(optax.sgd(0.05), jp.penalties.coupled(0.3, structured.coupled(GRAPH)), 0.05)
    params, state = PARAMS, tx.init(PARAMS)
    loss = lambda p: jnp.mean(perceptron(p, X) ** 2)
    for _ in range(30):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    masks = jax.tree.map(lambda w: w != 0, params)
    useful = jp.metrics.effective(perceptron, params, masks, X)
    small = structured.shrink(GRAPH, params, useful)
    assert small.params["a"]["kernel"].shape[1] < 8
    np.testing.assert_allclose(small.apply(small.params, X), perceptron(params, X), atol=1e-5)


def test_group_lassos_that_overlap_are_refused():
    attention = lambda p, x: jnp.einsum(
        "bhd,hdo->bo", jnp.tanh(jnp.einsum("bi,ihd->bhd", x, p["q"])), p["o"]
    )
    params = {"q": draw(4, 3, 5), "o": draw(3, 5, 2)}
    graph = structured.trace(attention, params, X)
    both = structured.coupled(graph, only="q")
    assert len(both.groups) == 2
    with pytest.raises(ValueError, match="'q' in more than one coupling"):
        jp.penalties.coupled(1.0, both)


def test_leaves_alone_have_no_coupled_units():
    with pytest.raises(ValueError, match="coupled units run through several"):
        jp.sensitivity.sensitivity(lambda p: 0.0, PARAMS, [0.5], pattern=structured.coupled(GRAPH))


def chain(p, x):
    for w in p["layers"]:
        x = jax.nn.relu(x @ w)
    return x


@pytest.mark.parametrize("sparsity", [0.1, 0.15, 0.3, 0.5])
def test_a_pool_loses_the_number_of_units_that_is_asked(sparsity):
    params = {"layers": [draw(3, 3) for _ in range(9)]}
    graph = structured.trace(chain, params, draw(2, 3))
    assert [group.size for group in graph.groups] == [3] * 8
    masks = structured.prune(graph, params, sparsity=sparsity, scope="global", normalize="none")
    method = jp.methods.magnitude(
        sparsity=sparsity,
        pattern=structured.coupled(graph),
        allocation=jp.allocation.global_budget(),
    )
    lost = lambda masks: sum(int((~m.any(0)).sum()) for m in masks["layers"] if m is not None)
    assert lost(masks) == lost(jp.prune(params, method)[1])


@pytest.mark.parametrize(("scope", "normalize"), [("local", "none"), ("global", "mean")])
def test_auto_divides_by_means_where_groups_are_compared(scope, normalize):
    normal = np.random.default_rng(1).normal(size=(3, 3, 3)).astype(np.float32)
    params = {"layers": [jnp.asarray(w) for w in normal * [[[0.01]], [[1.0]], [[100.0]]]]}
    graph = structured.trace(chain, params, jnp.ones((2, 3)))
    prune = functools.partial(structured.prune, graph, params, sparsity=0.5, scope=scope)
    automatic, explicit = (jax.tree.leaves(prune(**how)) for how in ({}, {"normalize": normalize}))
    assert all((a == b).all() for a, b in zip(automatic, explicit, strict=True))
    with pytest.raises(ValueError, match="normalize=None"):
        prune(normalize=None)


def test_integer_leaves_are_left_alone():
    fn = lambda p, x: jax.nn.relu(x @ p["w"] * p["n"][None]) @ p["o"]
    params = {"w": draw(4, 8), "n": jnp.arange(8) + 1, "o": draw(8, 2)}
    graph = structured.trace(fn, params, X)
    pruned, masks = jp.prune(
        params, jp.methods.magnitude(sparsity=0.5, pattern=structured.coupled(graph))
    )
    assert masks["n"] is None
    assert jnp.array_equal(pruned["n"], params["n"])
    small = structured.shrink(graph, pruned, masks)
    assert small.params["n"].shape == (4,)
    np.testing.assert_allclose(small.apply(small.params, X), fn(pruned, X), rtol=1e-5)


def test_leaves_without_entries_are_no_hindrance():
    fn = lambda p, x: perceptron(p, x) + p["none"].sum()
    params = PARAMS | {"none": jnp.zeros((0, 3))}
    graph = structured.trace(fn, params, X)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    expected = fn(jp.masks.apply(params, masks), X)
    np.testing.assert_allclose(small.apply(small.params, X), expected, atol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="no group is meant by 'Conv_9'"):
        structured.prune(GRAPH, PARAMS, sparsity={"a/": 0.5, "Conv_9": 0.5})
    with pytest.raises(ValueError, match="nothing is to be removed"):
        structured.prune(GRAPH, PARAMS, sparsity={"a/": 0.0})
    with pytest.raises(ValueError, match="round_to=0"):
        structured.prune(GRAPH, PARAMS, sparsity=0.5, round_to=0)
    other = PARAMS | {"b": {"kernel": draw(8, 7)}}
    with pytest.raises(ValueError, match=r"'b/kernel' has the shape \(8, 7\), and had \(8, 6\)"):
        structured.prune(GRAPH, other, sparsity=0.5)
    rows = lambda params, **_: jax.tree.map(lambda w: w[:1], params)
    with pytest.raises(ValueError, match=r"'a/bias' has scores of the shape \(1,\)"):
        structured.prune(GRAPH, PARAMS, sparsity=0.5, criterion=rows)
    graph = structured.trace(perceptron, PARAMS, X)
    with pytest.raises(ValueError, match="only read by this part"):
        jp.penalties.coupled(1.0, structured.coupled(graph, within="c"))


@pytest.mark.parametrize("names", [("weight", "bias"), ("gamma", "beta"), ("s", "t")])
@pytest.mark.parametrize("stacked", [False, True])
def test_scales_are_found_by_their_use(names, stacked):
    """A layer's own bias in front of a norm, and a scale of the branch after it, are no part of its gate."""
    scale, shift = names
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    layer = lambda i: {
        "kernel": draw(i, 8, 8),
        "own": draw(i + 1, 8),
        scale: draw(i + 2, 8),
        shift: draw(i + 3, 8),
        "branch": draw(i + 4, 8),
    }

    def through(x, p):
        h = x @ p["kernel"] + p["own"][None]
        mean, variance = h.mean(0, keepdims=True), h.var(0, keepdims=True)
        normal = (h - mean) / jnp.sqrt(variance + 1e-5) * p[scale][None] + p[shift][None]
        return x + jax.nn.relu(normal) * p["branch"][None]

    def fn(params, x):
        x = x @ params["in"]
        if stacked:
            x, _ = jax.lax.scan(lambda x, p: (through(x, p), None), x, params["layers"])
        else:
            for p in params["layers"]:
                x = through(x, p)
        return x @ params["out"]

    layers = [layer(0), layer(10)]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    params = {"in": draw(20, 3, 8), "layers": stack if stacked else layers, "out": draw(21, 8, 2)}
    graph = structured.trace(fn, params, jnp.ones((5, 3)))
    [group] = graph.groups
    used = {m.path.rpartition("/")[2]: m.use for m in group.members if m.use is not None}
    assert used == {scale: "scale", shift: "shift"}
    found = structured.scores(graph, params, criterion=jp.criteria.magnitude, over="scales")
    kept = [abs(p[n]) for p in layers for n in (scale, shift)]
    np.testing.assert_allclose(found[group.name], sum(kept), rtol=1e-5)


def test_narrow_scores_of_a_unit_are_added_up_in_float32():
    fn = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"]
    params = {"a": jnp.ones((200, 2)), "b": jnp.zeros((2, 1))}
    graph = structured.trace(fn, params, jnp.ones((1, 200)))
    narrow = {"a": jnp.full((200, 2), jnp.array([400.0, 500.0])).astype(jnp.float16), "b": None}
    [totals] = structured.coupled(graph).units(narrow)
    assert totals.tolist() == [80_000, 100_000], "float16 ends at 65,504"
