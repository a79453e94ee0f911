import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.allocation import survivors
from jaxprune.types import Keep, Units

PARAMS = {
    "conv": jax.random.normal(jax.random.key(0), (3, 3, 4, 8)),
    "fc": jax.random.normal(jax.random.key(1), (128, 64)),
    "out": jax.random.normal(jax.random.key(2), (64, 10)) * 3,
    "bias": jnp.zeros(10),
}
ALLOCATIONS = {
    "uniform": jp.allocation.uniform(),
    "erk": jp.allocation.erk(),
    "erk, power 0.5": jp.allocation.erk(power=0.5),
    "global": jp.allocation.global_budget(),
    "lamp": jp.allocation.global_budget(normalize="lamp"),
    "l2": jp.allocation.global_budget(normalize="l2"),
    "owl": jp.allocation.owl(outlier=2.0, spread=0.2),
    "by_path": jp.allocation.by_path({"conv": 0.2, "fc": 0.9, "out": 0.4}),
}


def by_uniform_at_cost(costs):
    return jp.allocation.at_cost(jp.allocation.uniform(), costs)


def counts(allocation, sparsity, params=PARAMS):
    masks = jp.masks.make(params)
    units = jax.tree.map(lambda p, m: None if m is None else Units(jnp.abs(p)), params, masks)
    found = jp.masks.beside(params, allocation(params, units, sparsity))
    return [int(k.count if isinstance(k, Keep) else k) for k in found if k is not None]


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.9, 0.98, 0.999, 1 / 3])
@pytest.mark.parametrize("name", ALLOCATIONS)
def test_an_allocation_spends_its_budget_exactly(name, sparsity):
    total = sum(p.size for p in PARAMS.values()) - 10
    found = counts(ALLOCATIONS[name], sparsity)
    if name == "uniform":
        assert found == [
            max(1, int(survivors(p.size, sparsity)))
            for k, p in sorted(PARAMS.items())
            if k != "bias"
        ]
    else:
        assert sum(found) == int(survivors(total, sparsity))
    sizes = [p.size for k, p in sorted(PARAMS.items()) if k != "bias"]
    assert all(0 <= k <= n for k, n in zip(found, sizes, strict=True))


@pytest.mark.parametrize("name", ["uniform", "erk", "global"])
def test_a_traced_sparsity_gives_the_same_counts(name):
    traced = jax.jit(
        lambda s: jnp.stack([jnp.asarray(c) for c in counts_traced(ALLOCATIONS[name], s)])
    )
    for sparsity in (0.5, 0.9, 0.98):
        assert traced(jnp.float32(sparsity)).tolist() == counts(ALLOCATIONS[name], sparsity)


def counts_traced(allocation, sparsity):
    masks = jp.masks.make(PARAMS)
    units = jax.tree.map(lambda p, m: None if m is None else Units(jnp.abs(p)), PARAMS, masks)
    found = jp.masks.beside(PARAMS, allocation(PARAMS, units, sparsity))
    return [k.count if isinstance(k, Keep) else k for k in found if k is not None]


@pytest.mark.parametrize(
    "n", [0, 1, 2, 3, 7, 10, 999, 10_000, 123_457, 16_777_217, 10**8, 2**31 - 1]
)
def test_counts_are_exact_integers(n):
    jitted = jax.jit(survivors)
    for sparsity in (0.0, 0.1, 0.25, 0.5, 0.9, 0.95, 0.98, 0.999, 0.9999999, 1.0):
        decimal = Fraction(round(sparsity * 10**7), 10**7)
        expected = n - int(decimal * n + Fraction(1, 2))
        assert int(survivors(n, sparsity)) == expected
        assert int(jitted(n, np.float32(sparsity))) == expected


def test_erk_is_the_formula_where_nothing_is_capped():
    density = 0.05
    found = counts(jp.allocation.erk(), 1 - density)
    shapes = {k: p.shape for k, p in sorted(PARAMS.items()) if k != "bias"}
    raw = {k: sum(s) / np.prod(s) for k, s in shapes.items()}
    total = sum(np.prod(s) for s in shapes.values())
    epsilon = density * total / sum(raw[k] * np.prod(s) for k, s in shapes.items())
    expected = [epsilon * raw[k] * np.prod(s) for k, s in shapes.items()]
    assert max(epsilon * r for r in raw.values()) < 1, "a capped leaf would need the other test"
    assert found == pytest.approx(expected, abs=1)


def test_erk_caps_thin_leaves_and_shares_out_the_rest():
    found = dict(zip(["conv", "fc", "out"], counts(jp.allocation.erk(), 0.5), strict=True))
    assert found["conv"] == 288
    assert found["out"] == 640
    assert sum(found.values()) == (288 + 640 + 8192) // 2


def test_global_budget_keeps_the_largest_of_all():
    found = dict(
        zip(["conv", "fc", "out"], counts(jp.allocation.global_budget(), 0.9), strict=True)
    )
    everything = np.concatenate([np.abs(PARAMS[k]).ravel() for k in found])
    threshold = np.sort(everything)[-int(survivors(everything.size, 0.9))]
    assert found == {k: int((np.abs(PARAMS[k]) >= threshold).sum()) for k in found}


def test_lamp_by_hand():
    params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[10.0, 20.0]])}
    # squares over the tail sums: a: 1/5, 1; b: 100/500, 1. The two largest are one in each leaf.
    assert counts(jp.allocation.global_budget(normalize="lamp"), 0.5, params) == [1, 1]
    assert counts(jp.allocation.global_budget(), 0.5, params) == [0, 2]
    # a: 1/5, 1; b: 100/221, 1: the least of the four goes.
    params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[10.0, 11.0]])}
    assert counts(jp.allocation.global_budget(normalize="lamp"), 0.25, params) == [1, 2]


@pytest.mark.parametrize("scale", [1e-20, 1e20])
@pytest.mark.parametrize("normalize", ["lamp", "l2"])
def test_what_makes_leaves_comparable_does_not_depend_on_their_scale(normalize, scale):
    allocation = jp.allocation.global_budget(normalize=normalize)
    params = {"a": jnp.array([[1.0, 2.0, 3.0]]), "b": jnp.array([[4.0, 6.0, 7.0]])}
    for sparsity in (1 / 6, 1 / 3, 1 / 2, 2 / 3):
        expected = counts(allocation, sparsity, params)
        assert counts(allocation, sparsity, params | {"a": params["a"] * scale}) == expected


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_a_threshold_does_not_depend_on_the_scale(scale):
    params = {"w": jnp.array([[3.0, -4.0, 0.1, 0.2]]) * scale}
    assert counts(jp.allocation.threshold(1.0), 0.0, params) == [2]


def test_lamp_keeps_the_order_of_infinite_and_negative_scores():
    scores = {"w": jnp.array([[1e12, jnp.inf, -1e13, 1.0]])}
    for kept, sparsity in (([0, 1, 0, 0], 0.75), ([1, 1, 0, 0], 0.5), ([1, 1, 0, 1], 0.25)):
        units = jax.tree.map(Units, scores)
        keep = jp.allocation.global_budget("lamp")(scores, units, sparsity)
        assert keep["w"].chosen.astype(int).tolist() == [kept]


def test_rates_slow_down_a_leaf():
    rates = jp.allocation.uniform({"out": 0.5, "fc": 0.0})
    assert counts(rates, 0.2) == [230, 8192, 576]
    with pytest.raises(ValueError, match="'head' matches none"):
        counts(jp.allocation.uniform({"head": 0.5}), 0.2)


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(ValueError, match="'lampp'"):
        jp.allocation.global_budget(normalize="lampp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"of the shape \(\) for scores.*one score for each"):
        counts(jp.allocation.global_budget(jnp.sum), 0.5)


def test_uniform_plus_spares_the_first_and_caps_the_last():
    params = {"a": jnp.ones((10, 10)), "b": jnp.ones((100, 50)), "c": jnp.ones((50, 10)), "d": None}
    units = jax.tree.map(Units, params)
    allocate = jp.allocation.uniform_plus(first="a", last="c")
    for sparsity in (0.5, 0.9, 0.95):
        keep = allocate(params, units, sparsity)
        assert int(keep["a"]) == 100
        assert int(keep["c"]) == 500 - round(500 * min(sparsity, 0.8))
        assert sum(map(int, jax.tree.leaves(keep))) == 5600 - round(5600 * sparsity)
    with pytest.raises(ValueError, match="'conv' matches none"):
        jp.allocation.uniform_plus(first="conv", last="c")(params, units, 0.5)


def test_threshold_counts_what_stands_out_among_the_living():
    scores = jnp.array([3.0, 4.0, 0.1, jnp.nan, jnp.nan])  # rms of the living: 2.89
    keep = jp.allocation.threshold(1.0)({"w": scores}, {"w": Units(scores)}, 0.0)
    assert int(keep["w"]) == 2
    with pytest.raises(ValueError, match="quality=0"):
        jp.allocation.threshold(0.0)


def test_owl_keeps_more_where_there_are_outliers():
    scores = {"few": jnp.ones(1000), "many": jnp.ones(1000).at[:50].set(100.0)}
    units = jax.tree.map(Units, scores)
    keep = jax.tree.map(int, jp.allocation.owl(spread=0.1)(scores, units, 0.7))
    assert keep == {"few": 200, "many": 400}
    keep = jax.tree.map(int, jp.allocation.owl(spread=0.1)(scores, units, 0.95))
    assert keep == {"few": 1, "many": 99}, "no leaf keeps less than its floor"
    bare = jp.allocation.owl(spread=0.1, at_least=0)
    keep = jax.tree.map(int, bare(scores, units, 0.95))
    assert keep == {"few": 0, "many": 100}, "no leaf keeps less than nothing"


def test_by_path_leaves_others_dense_and_respects_the_whole():
    allocate = jp.allocation.by_path({"conv": 0.5, "fc": 0.95})
    total = 3 * 3 * 4 * 8 + 128 * 64 + 640
    lost = round(0.5 * 288) + round(0.95 * 8192)
    found = counts(allocate, lost / total)
    assert found == [144, 8192 - round(0.95 * 8192), 640]
    more = counts(allocate, 0.92)  # more than the table says: the larger leaf has no more to give
    assert more[2] == 640
    assert sum(more) == int(survivors(total, 0.92))
    assert min(more) >= 1


def test_by_path_never_keeps_less_than_one():
    params = {"a": jnp.ones(100), "b": jnp.ones(100)}
    keep = jp.allocation.by_path({"a": 0.5})(params, jax.tree.map(Units, params), 0.7)
    assert jax.tree.map(int, keep) == {"a": 1, "b": 100}


@pytest.mark.parametrize("table", [{}, {"fc": 0.0}, {"fc": 1.0}, {"fc": -0.1}])
def test_by_path_refuses_tables_without_sense(table):
    with pytest.raises(ValueError, match="by_path"):
        jp.allocation.by_path(table)


def test_by_path_names_what_matches_nothing():
    with pytest.raises(ValueError, match="'fc9' matches none"):
        counts(jp.allocation.by_path({"fc9": 0.5}), 0.5)


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.77, 0.99])
def test_a_budget_of_costs_is_spent_greedily(power, sparsity):
    costs = {"conv": 5000.0, "fc": 8192.0, "out": 64.0}
    found = counts(jp.allocation.cost_budget(costs, power=power, at_least=0), sparsity)
    sizes = [PARAMS[n].size for n in costs]
    each = [costs[n] / size for n, size in zip(costs, sizes, strict=True)]
    ranked = sorted(
        (
            (float(x) / e**power, e, i)
            for i, (n, e) in enumerate(zip(costs, each, strict=True))
            for x in jnp.abs(PARAMS[n]).ravel()
        ),
        reverse=True,
    )
    budget, expected = (1 - sparsity) * sum(costs.values()), [0, 0, 0]
    for _, cost, i in ranked:
        budget -= cost
        if budget < -1e-3:
            break
        expected[i] += 1
    np.testing.assert_allclose(found, expected, atol=2)
    spent = sum(e * k for e, k in zip(each, found, strict=True))
    assert spent <= (1 - sparsity) * sum(costs.values()) * (1 + 1e-5)


@pytest.mark.parametrize("sparsity", [0.2, 0.6, 0.9])
def test_a_budget_of_costs_ranks_scores_below_zero_too(sparsity):
    scores = {name: w - 5.0 for name, w in PARAMS.items() if name != "bias"}
    units = jax.tree.map(Units, scores)
    costs = {name: float(w.size) for name, w in scores.items()}
    keep = jp.allocation.cost_budget(costs)(scores, units, sparsity)
    rival = jp.allocation.global_budget()(scores, units, sparsity)
    for name in scores:
        assert abs(int(keep[name].count) - int(rival[name].count)) <= 1


def test_a_budget_of_costs_within_groups_and_by_tree():
    tree = {"conv": 1.0, "fc": 8.0, "out": 1.0, "bias": None}
    method = jp.Method(
        jp.criteria.magnitude,
        schedule=jp.schedules.one_shot(sparsity=0.5),
        pattern=jp.patterns.groups(4),
        allocation=jp.allocation.cost_budget(tree),
    )
    _, masks = jp.prune(PARAMS, method)
    kept = {r["leaf"]: r["kept"] / r["weights"] for r in jp.masks.summary(masks)}
    assert kept["conv"] + 8 * kept["fc"] + kept["out"] <= 5.0 + 1e-6
    with pytest.raises(ValueError, match="'out' has None"):
        counts(jp.allocation.cost_budget({"conv": 1.0, "fc": 8.0}), 0.5)


def brute_force(losses, costs, budget):
    names = list(losses)
    best = np.inf
    for choice in itertools.product(*(range(len(losses[n])) for n in names)):
        if sum(costs[n][i] for n, i in zip(names, choice, strict=True)) <= budget * (1 + 1e-12):
            best = min(best, sum(losses[n][i] for n, i in zip(names, choice, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(20))
def test_the_knapsack_is_the_best_there_is(seed):
    rng = np.random.default_rng(seed)
    names = "abcd"[: rng.integers(1, 5)]
    losses = {n: list(rng.normal(size=5)) for n in names}
    costs = {n: list(rng.integers(0, 20, size=5) / 7) for n in names}
    least = sum(min(row) for row in costs.values())
    budget = least + rng.random() * 3 + 1e-3
    found = jp.allocation.knapsack(losses, costs, budget)
    assert sum(costs[n][i] for n, i in found.items()) <= budget * (1 + 1e-9)
    loss = sum(losses[n][i] for n, i in found.items())
    assert loss == pytest.approx(brute_force(losses, costs, budget))


def test_the_knapsack_of_many_leaves_is_quick_and_within_budget():
    rng = np.random.default_rng(0)
    losses = {f"l{i}": np.sort(rng.random(20)).tolist() for i in range(100)}
    costs = {f"l{i}": (rng.random() * np.linspace(1, 0.02, 20)).tolist() for i in range(100)}
    budget = 0.3 * sum(row[0] for row in costs.values())
    found = jp.allocation.knapsack(losses, costs, budget)
    assert 0.99 * budget < sum(costs[n][i] for n, i in found.items()) <= budget * (1 + 1e-9)


def test_the_knapsack_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="cheapest options cost 3"):
        jp.allocation.knapsack({"a": [0.0]}, {"a": [3.0]}, 2.0)
    with pytest.raises(ValueError, match="one of each for every option"):
        jp.allocation.knapsack({"a": [0.0]}, {"a": [3.0, 1.0]}, 2.0)
    with pytest.raises(ValueError, match="finite"):
        jp.allocation.knapsack({"a": [float("nan")]}, {"a": [1.0]}, 2.0)


@pytest.mark.parametrize("name", ["uniform", "erk", "global", "by_path"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_at_cost_spends_what_it_may_and_no_more(name, sparsity):
    costs = {"conv": 9000.0, "fc": 8192.0, "out": 640.0}
    found = counts(jp.allocation.at_cost(ALLOCATIONS[name], costs), sparsity)
    each = [costs[n] / PARAMS[n].size for n in costs]
    spent = sum(e * k for e, k in zip(each, found, strict=True)) / sum(costs.values())
    assert 1 - sparsity - 0.005 < spent <= (1 - sparsity) * (1 + 1e-5)
    if name == "global":  # the same order as ever
        asked = 1 - sum(found) / sum(PARAMS[n].size for n in costs)
        assert found == pytest.approx(counts(ALLOCATIONS[name], asked), abs=2)


def test_at_cost_under_jit_with_a_traced_sparsity():
    allocate = jp.allocation.at_cost(jp.allocation.erk(), {"conv": 9.0, "fc": 8.0, "out": 1.0})
    masks = jp.masks.make(PARAMS)
    units = jax.tree.map(lambda p, m: None if m is None else Units(jnp.abs(p)), PARAMS, masks)
    found = jax.jit(lambda s: allocate(PARAMS, units, s))(0.8)
    assert [int(k) for k in found.values() if k is not None] == counts(allocate, 0.8)


def test_a_fixed_layer_has_its_own_sparsity_and_the_others_the_rest():
    fixed = jp.allocation.erk(sparsities={"out": 0.5, "conv": 0.0})
    for sparsity in (0.5, 0.8, 0.9):
        found = counts(fixed, sparsity)
        assert found[0] == 288
        assert found[2] == 320
        assert sum(found) == int(survivors(288 + 8192 + 640, sparsity))
    assert counts(fixed, 0.9999) == [288, 1, 320], "what is fixed is not paid with"
    assert counts(fixed, 0.0) == [288, 8192, 320]
    every = jp.allocation.erk(sparsities={"": 0.5})
    assert counts(every, 0.9) == [144, 4096, 320]
    with pytest.raises(ValueError, match="'head' matches none"):
        counts(jp.allocation.erk(sparsities={"head": 0.5}), 0.5)
    with pytest.raises(ValueError, match=r"'out' has 1.0; fractions"):
        jp.allocation.erk(sparsities={"out": 1.0})


def test_without_the_kernel_inputs_and_outputs_count_alone():
    found = counts(jp.allocation.erk(kernel=False), 0.97)
    raw = np.array([12 / 32, 192 / 8192, 74 / 640])
    sizes = np.array([288, 8192, 640])
    epsilon = 0.03 * sizes.sum() / (raw * sizes).sum()
    assert (epsilon * raw < 1).all()
    assert found == pytest.approx(epsilon * raw * sizes, abs=1)
    assert sum(found) == int(survivors(int(sizes.sum()), 0.97))
    assert found != counts(jp.allocation.erk(), 0.97)


def test_a_number_of_units_goes_instead_of_a_fraction():
    params = {
        "small": jnp.arange(1.0, 9.0).reshape(2, 4),
        "large": jnp.arange(100.0, 140.0).reshape(4, 10),
    }
    kept = lambda **how: {
        row["leaf"]: row["kept"]
        for row in jp.masks.summary(jp.prune(params, jp.methods.magnitude(sparsity=0.0, **how))[1])
    }
    removing = jp.allocation.removing
    assert kept(allocation=removing(3)) == {"large": 37, "small": 5}
    assert kept(allocation=removing(5, of_tree=True)) == {"large": 40, "small": 3}
    channels = {"pattern": jp.patterns.channel(), "allocation": removing(2)}
    assert kept(**channels) == {"large": 32, "small": 4}
    with pytest.raises(
        ValueError, match=r"removing\(8\): a layer of 'small' has 8 units.*prunable="
    ):
        kept(allocation=removing(8))
    groups = {"pattern": jp.patterns.groups(2)}
    halved = jp.methods.magnitude(sparsity=0.0, allocation=removing(20), **groups)
    assert int(jp.prune({"large": params["large"]}, halved)[1]["large"].sum()) == 20
    with pytest.raises(ValueError, match=r"removing\(3\).*'large' has 20 contests.*multiple of 20"):
        kept(allocation=removing(3), **groups)


@pytest.mark.parametrize("allocation", [jp.allocation.cost_budget, by_uniform_at_cost])
def test_a_cost_without_end_is_refused(allocation):
    with pytest.raises(ValueError, match="'fc' has inf; a finite number above 0"):
        counts(allocation({"conv": 1.0, "fc": float("inf"), "out": 2.0}), 0.5)


def test_survivors_of_a_third_are_exact():
    """The product 10^7 / 3 in float32 would round to 3333334."""
    third = np.float32(1 / 3)
    expected = 6_237_769 - round(6_237_769 * round(float(third) * 10**7) / 10**7)
    assert int(jp.allocation.survivors(6_237_769, 1 / 3)) == expected == 4_158_513
    assert int(jax.jit(jp.allocation.survivors, static_argnums=0)(6_237_769, third)) == expected


@pytest.mark.filterwarnings("error::FutureWarning")
@pytest.mark.parametrize("name", ALLOCATIONS)
def test_an_allocation_is_the_same_where_numbers_have_64_bits(name):
    expected = counts(ALLOCATIONS[name], 0.9)
    with jax.enable_x64(True):
        assert counts(ALLOCATIONS[name], 0.9) == expected


MORE_THAN_INT32_COUNTS = {k: jax.ShapeDtypeStruct((2**15, 2**15), jnp.float32) for k in "abc"}


@pytest.mark.parametrize(
    "allocation",
    [
        jp.allocation.erk(),
        jp.allocation.by_path({"a": 0.9, "b": 0.5}),
        jp.allocation.uniform_plus(first="a", last="c"),
        jp.allocation.owl(),
        jp.allocation.global_budget(),
        jp.allocation.removing(3, of_tree=True),
    ],
    ids=str,
)
def test_one_budget_of_more_units_than_int32_counts_is_refused(allocation):
    units = jax.tree.map(Units, MORE_THAN_INT32_COUNTS)
    with pytest.raises(ValueError, match=r"3,221,225,472 units.*allocation\.uniform"):
        jax.eval_shape(
            lambda scores: allocation(scores, jax.tree.map(Units, scores), 0.9),
            MORE_THAN_INT32_COUNTS,
        )
    with pytest.raises(ValueError, match=r"a contest of 'w' has 4,294,967,296 units.*groups"):
        jax.eval_shape(
            lambda params: jp.prune(params, jp.methods.magnitude(sparsity=0.5)),
            {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)},
        )
    kept = jp.allocation.uniform()(MORE_THAN_INT32_COUNTS, units, 0.9)
    assert jax.tree.map(int, kept) == dict.fromkeys("abc", 107_374_182)
