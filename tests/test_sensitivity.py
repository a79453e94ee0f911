"""The analysis leaf by leaf, and what is searched with it."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.sensitivity import search, sensitivity

RNG = np.random.default_rng(0)
PARAMS = {
    "big": {"kernel": jnp.asarray(RNG.normal(size=(20, 30)), jnp.float32)},
    "dear": {"kernel": jnp.asarray(RNG.normal(size=(10, 10)), jnp.float32)},
    "bias": jnp.ones(3),
}
TOLL = {"big/kernel": 1.0, "dear/kernel": 50.0}


def loss(params):
    """What is removed, squared, dearer in one leaf."""
    gone = lambda name: float(jnp.sum((params[name]["kernel"] - PARAMS[name]["kernel"]) ** 2))
    return 1.0 + gone("big") + 50.0 * gone("dear")


GRID = [0.1 * i for i in range(1, 10)]
TABLE = sensitivity(loss, PARAMS, GRID)


def test_each_leaf_alone():
    assert TABLE.dense == 1.0
    assert TABLE.weights == {"big/kernel": 600, "dear/kernel": 100}
    for name, row in TABLE.losses.items():
        squares = np.sort(np.asarray(PARAMS[name.split("/")[0]]["kernel"]).ravel() ** 2)
        for s, found in zip(TABLE.sparsities[name], row, strict=True):
            gone = round(s * squares.size)
            assert found == pytest.approx(1.0 + TOLL[name] * squares[:gone].sum(), rel=1e-4)


def test_patterns_are_rounded_and_said_so():
    found = sensitivity(loss, PARAMS, [0.3], pattern=jp.patterns.groups(4), prunable="big")
    assert found.sparsities == {"big/kernel": [0.0, 0.25]}


def test_progress_and_signals():
    seen = []
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    by_gradient = sensitivity(
        loss, PARAMS, [0.5], criterion=jp.criteria.taylor, grads=grads, progress=seen.append
    )
    assert seen == [2, 3]
    assert by_gradient.losses["big/kernel"][1] == pytest.approx(TABLE.losses["big/kernel"][5])


def test_the_search_beats_uniform_at_the_same_cost():
    seen = []
    found, params, masks = search(loss, PARAMS, TABLE, budget=0.5, progress=seen.append)
    assert seen == list(range(1, 2 + 21 + 1)), "two solutions, and 2 x (1 + 9) + 1 around the first"
    jp.masks.check(params, masks)
    assert found.cost <= 0.5
    assert found.loss == pytest.approx(loss(params))
    assert found.loss == pytest.approx(found.predicted, rel=0.05), "here leaves add up"
    assert found.cost > 0.49, "the budget is used"
    uniform = jp.prune(PARAMS, jp.methods.magnitude(sparsity=1 - found.cost))[0]
    assert found.loss < 0.6 * loss(uniform)
    assert found.rates["dear/kernel"] < found.rates["big/kernel"]


def test_a_second_look_helps_where_leaves_do_not_add_up():
    def joint(params):
        gone = [float(jnp.mean(params[n]["kernel"] == 0)) for n in ("big", "dear")]
        return loss(params) + (500 * gone[1] if gone[0] > 0.5 else 0)

    table = sensitivity(joint, PARAMS, GRID)
    once, _, _ = search(joint, PARAMS, table, budget=0.3, rounds=0)
    twice, params, _ = search(joint, PARAMS, table, budget=0.3)
    assert twice.loss < once.loss
    assert twice.cost <= 0.3
    assert joint(params) == pytest.approx(twice.loss)


def test_costs_other_than_weights():
    costs = {"big/kernel": 10.0, "dear/kernel": 1000.0}
    found, _, masks = search(loss, PARAMS, TABLE, budget=0.5, costs=costs)
    left = {r["leaf"]: r["kept"] / r["weights"] for r in jp.masks.summary(masks)}
    assert sum(costs[n] * left[n] for n in costs) / 1010 == pytest.approx(found.cost)
    assert found.cost <= 0.5 + 0.5 * 10 / 1010, "up to half a weight of each leaf"
    assert found.rates["dear/kernel"] >= 0.5


def test_a_tolerance_is_used_up_and_kept():
    found, params, _ = search(loss, PARAMS, TABLE, tolerance=30.0)
    assert loss(params) <= 31.0
    cheaper = [keep for keep, value in found.tried if value <= 31.0]
    assert found.cost == min(cheaper)
    assert len(found.tried) == 11
    nothing, same, _ = search(loss, PARAMS, TABLE, tolerance=0.0)
    assert (nothing.cost, nothing.loss) == (1.0, 1.0)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, same, PARAMS))


def test_the_tolerance_may_be_of_something_else():
    error = lambda params: float(jnp.mean(params["big"]["kernel"] == 0))
    found, params, _ = search(loss, PARAMS, TABLE, tolerance=0.3, measure=error)
    assert error(params) <= 0.3
    assert found.cost < 0.9


def test_a_small_leaf_keeps_a_weight_whatever_is_asked_of_it():
    params = {
        "small": jnp.ones((2, 2)),
        "large": jnp.asarray(RNG.normal(size=(10, 10)), jnp.float32),
    }
    table = sensitivity(lambda p: float(jnp.sum(p["large"] == 0)), params, [0.5, 0.9])
    assert table.sparsities["small"][-1] == 0.75
    found, _, masks = search(lambda p: float(jnp.sum(p["large"] == 0)), params, table, budget=0.5)
    assert found.rates["small"] < 1
    assert masks["small"].any()


def test_refusals():
    with pytest.raises(ValueError, match="ascending fractions"):
        sensitivity(loss, PARAMS, [0.5, 0.2])
    with pytest.raises(ValueError, match=r"either budget= .* or tolerance="):
        search(loss, PARAMS, TABLE)
    with pytest.raises(ValueError, match="cheapest options cost"):
        search(loss, PARAMS, TABLE, budget=0.01)
    for wrong in ({"budget": "half"}, {"tolerance": 0.1, "measure": 3}):
        with pytest.raises(TypeError, match=r"search\((budget='half'|measure=3)\)"):
            search(loss, PARAMS, TABLE, **wrong)
    with pytest.raises(TypeError, match="a Sensitivity is needed"):
        search(loss, PARAMS, TABLE.losses, budget=0.5)
    with pytest.raises(ValueError, match="rounds=-1"):
        search(loss, PARAMS, TABLE, budget=0.5, rounds=-1)
    for costs in ({"big/kernel": 1.0}, {"big/kernel": 1.0, "dear/kernel": float("nan")}):
        with pytest.raises(ValueError, match=r"costs=.*'dear/kernel' has (None|nan)"):
            search(loss, PARAMS, TABLE, budget=0.5, costs=costs)
        with pytest.raises(ValueError, match=r"costs=.*'dear/kernel' has (None|nan)"):
            TABLE.rates(0.5, costs)
    with pytest.raises(ValueError, match=r"budget=2.0.*\(0, 1\]"):
        TABLE.rates(2.0)
    with pytest.raises(ValueError, match="'bias' has weights around of the shape"):
        sensitivity(loss, PARAMS, [0.5], around=PARAMS | {"bias": jnp.ones(2)})


def test_the_other_layers_are_found_by_name():
    params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 5.0]])}
    reversed_order = collections.OrderedDict(b=params["b"], a=params["a"])
    loss = lambda p: float(p["a"].sum() + 10 * p["b"].sum())
    beside = sensitivity(loss, params, [0.5], around=params)
    assert sensitivity(loss, params, [0.5], around=reversed_order) == beside


STACK = jnp.asarray(RNG.normal(size=(3, 6, 8)), jnp.float32)
SCANNED = {"layers": {"kernel": STACK}, "head": PARAMS["dear"]["kernel"]}
WRITTEN_OUT = {f"layer_{i}": {"kernel": STACK[i]} for i in range(3)} | {"head": SCANNED["head"]}
AXES = {"layers/kernel": jp.Axes(in_axis=1, out_axis=2, batch_axis=0), "head": jp.Axes(0, 1)}
TOLLS = jnp.array([1.0, 4.0, 20.0])


def stack_loss(params):
    """What is removed, squared, dearer in later layers."""
    gone = jnp.sum((params["layers"]["kernel"] - STACK) ** 2, (1, 2)) @ TOLLS
    return float(gone + jnp.sum((params["head"] - SCANNED["head"]) ** 2))


def written_out_loss(params):
    stack = jnp.stack([params[f"layer_{i}"]["kernel"] for i in range(3)])
    return stack_loss({"layers": {"kernel": stack}, "head": params["head"]})


def renamed(name):
    return name if name == "head" else f"layers/kernel[{name[6]}]"


@pytest.mark.parametrize("pattern", [jp.patterns.unstructured(), jp.patterns.channel("out")])
def test_each_layer_of_a_stack_alone(pattern):
    grid = [0.25, 0.5, 0.75]
    found = sensitivity(stack_loss, SCANNED, grid, pattern=pattern, axes=AXES)
    expected = sensitivity(written_out_loss, WRITTEN_OUT, grid, pattern=pattern)
    assert set(found.weights) == {"head", *(f"layers/kernel[{i}]" for i in range(3))}
    for name in WRITTEN_OUT:
        own = name if name == "head" else f"{name}/kernel"
        assert found.weights[renamed(name)] == expected.weights[own]
        assert found.sparsities[renamed(name)] == expected.sparsities[own]
        assert found.losses[renamed(name)] == pytest.approx(expected.losses[own], rel=1e-5)


def test_what_else_is_measured_is_told_by_layer_and_sparsity():
    losses = []
    kept = {}

    def loss(params):
        losses.append(stack_loss(params))
        return losses[-1]

    def keep(layer, sparsity):
        kept[layer, sparsity] = losses[-1]

    grid = [0.25, 0.5]
    table = sensitivity(loss, SCANNED, grid, axes=AXES, measured=keep)
    assert kept == {
        (layer, sparsity): loss
        for layer, layer_losses in table.losses.items()
        for sparsity, loss in zip(grid, layer_losses[1:], strict=True)
    }
    assert len(losses) == 1 + len(kept)


def test_searching_a_stack_is_searching_its_layers():
    table = sensitivity(stack_loss, SCANNED, GRID, axes=AXES)
    found, _, masks = search(stack_loss, SCANNED, table, budget=0.5, axes=AXES)
    own_table = sensitivity(written_out_loss, WRITTEN_OUT, GRID)
    expected, _, own = search(written_out_loss, WRITTEN_OUT, own_table, budget=0.5)
    assert found.loss == pytest.approx(expected.loss, rel=1e-3)
    for i in range(3):
        assert (masks["layers"]["kernel"][i] == own[f"layer_{i}"]["kernel"]).all()
    assert found.rates["layers/kernel[0]"] > found.rates["layers/kernel[2]"]
    with pytest.raises(ValueError, match=r"the table has 'layers/kernel\[0\]'.*give the axes="):
        search(stack_loss, SCANNED, table, budget=0.5)


def test_attention_is_its_matrix():
    params = {"query": STACK.reshape(6, 3, 8)}
    gone = lambda p: float(jnp.sum((p["query"] == 0) * jnp.arange(24.0).reshape(1, 3, 8)))
    merged = lambda p: gone({"query": p["query"].reshape(6, 3, 8)})
    heads = {"query": jp.Axes(in_axis=0, out_axis=(1, 2))}
    pattern = jp.patterns.groups(2)
    found = sensitivity(gone, params, [0.5], pattern=pattern, axes=heads)
    expected = sensitivity(merged, {"query": STACK.reshape(6, 24)}, [0.5], pattern=pattern)
    assert found == expected
    with pytest.raises(ValueError, match="which axes of 'query' are inputs is not known"):
        sensitivity(gone, params, [0.5], pattern=pattern)
