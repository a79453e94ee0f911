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
}


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
            int(survivors(p.size, sparsity)) for k, p in sorted(PARAMS.items()) if k != "bias"
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


def test_rates_slow_down_a_leaf():
    rates = jp.allocation.uniform({"out": 0.5, "fc": 0.0})
    assert counts(rates, 0.2) == [230, 8192, 576]
    with pytest.raises(ValueError, match="'head' matches none"):
        counts(jp.allocation.uniform({"head": 0.5}), 0.2)


def test_an_unknown_normaliser_is_refused():
    with pytest.raises(ValueError, match="'lampp'"):
        jp.allocation.global_budget(normalize="lampp")  # type: ignore[arg-type]


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
