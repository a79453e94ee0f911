import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import jaxprune as jp
from jaxprune import gates

BETA, LOW, HIGH = 2 / 3, -0.1, 1.1
DRAWS = 100_000


def at(location, count=DRAWS):
    """Weights of one, with gates at the same location."""
    return gates.Gated({"w": jnp.ones((1, count))}, {"w": jnp.full((1, count), location)})


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def open_at(location):
    """P(z != 0), from the density of u: z is 0 while u is below the number here."""
    return 1 - sigmoid(BETA * math.log(-LOW / HIGH) - location)


def mean_at(location):
    """E z by numerical integration over u."""

    def z(u):
        s = sigmoid((math.log(u) - math.log1p(-u) + location) / BETA)
        return min(1.0, max(0.0, s * (HIGH - LOW) + LOW))

    return integrate.quad(z, 0, 1, limit=200)[0]


@pytest.mark.parametrize("location", [-2.0, 0.0, 1.5])
def test_gates_have_the_distribution_of_the_paper(location):
    gate, theta = gates.hard_concrete(), at(location)
    z = np.asarray(gate.sample(theta, jax.random.key(0))["w"][0], np.float64)
    assert z.min() == 0.0
    assert z.max() == 1.0
    p = open_at(location)
    assert abs((z != 0).mean() - p) < 3 * math.sqrt(p * (1 - p) / DRAWS)
    assert abs(z.mean() - mean_at(location)) < 3 * z.std() / math.sqrt(DRAWS)
    assert float(gate.expected_l0(theta)) == pytest.approx(p * DRAWS, rel=1e-4)
    full = sigmoid(location - BETA * math.log((1 - LOW) / (HIGH - 1)))  # P(z = 1)
    assert abs((z == 1).mean() - full) < 3 * math.sqrt(full * (1 - full) / DRAWS)


def test_other_temperatures_and_stretches():
    gate = gates.hard_concrete(temperature=0.5, stretch=(-0.5, 1.2))
    z = np.asarray(gate.sample(at(0.3), jax.random.key(0))["w"])
    p = sigmoid(0.3 - 0.5 * math.log(0.5 / 1.2))
    assert abs((z != 0).mean() - p) < 3 * math.sqrt(p * (1 - p) / DRAWS)
    assert float(gate.expected_l0(at(0.3, 4))) == pytest.approx(4 * p, rel=1e-5)


def test_the_last_network_has_no_noise():
    locations = jnp.array([[-3.0, -1.0, 0.0, 2.0, 4.0]])
    theta = gates.Gated({"w": jnp.full((1, 5), 2.0)}, {"w": locations})
    params, masks = gates.hard_concrete().finalize(theta)
    z = np.clip(sigmoid(locations) * 1.2 - 0.1, 0, 1)
    assert params["w"] == pytest.approx(2 * z, abs=1e-6)
    assert masks["w"].tolist() == [[False, True, True, True, True]]
    assert params["w"][0, 0] == 0
    assert params["w"][0, 4] == 2


def test_penalty_by_hand():
    """Two input units share their gates: three and three weights, of whose squares the decay takes half."""
    gate = gates.hard_concrete(pattern=jp.patterns.channel(axis=-2), strength=0.5, weight_decay=0.2)
    w = jnp.array([[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
    theta = gates.Gated({"w": w}, {"w": jnp.array([1.0, -2.0])})
    cost = np.array([3 * 0.5 + 0.1 * 9, 3 * 0.5 + 0.1 * 25])
    p = np.array([open_at(1.0), open_at(-2.0)])
    assert float(gate.penalty(theta)) == pytest.approx((p * cost).sum(), rel=1e-5)
    assert float(gate.expected_l0(theta)) == pytest.approx(3 * p.sum(), rel=1e-5)
    slopes = jax.grad(gate.penalty)(theta)
    assert slopes.gates["w"] == pytest.approx(p * (1 - p) * cost, rel=1e-4)
    assert slopes.params["w"] == pytest.approx(p[:, None] * 0.2 * np.asarray(w), rel=1e-4)


def test_penalty_against_finite_differences():
    gate = gates.hard_concrete(pattern=jp.patterns.block((2, 1)), weight_decay=0.3)
    theta = gate.init({"w": jax.random.normal(jax.random.key(0), (4, 3))}, jax.random.key(1))
    direction = {"w": jax.random.normal(jax.random.key(2), (2, 3))}
    moved = lambda t: gate.penalty(
        theta._replace(gates={"w": theta.gates["w"] + t * direction["w"]})
    )
    slope = jnp.vdot(jax.grad(gate.penalty)(theta).gates["w"], direction["w"])
    assert float(slope) == pytest.approx(float(moved(0.05) - moved(-0.05)) / 0.1, rel=2e-3)


def test_a_gate_is_shared_by_its_unit():
    gate = gates.hard_concrete(pattern=jp.patterns.channel())
    theta = gate.init({"w": jnp.ones((3, 3, 2, 64))}, jax.random.key(0))
    assert theta.gates["w"].shape == (64,)
    z = gate.sample(theta, jax.random.key(1))["w"].reshape(18, 64)
    assert (z == z[0][None]).all()
    assert len(set(z[0].tolist())) > 16


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
def test_weights_are_counted_however_a_pattern_reduces_their_scores(reduce):
    block = jp.patterns.block((2, 2), reduce=reduce, pad=True)
    gate = gates.hard_concrete(pattern=block, weight_decay=2.0)
    theta = gates.Gated({"w": jnp.full((2, 3), 3.0)}, {"w": jnp.full((1, 2), 30.0)})
    assert float(gate.expected_l0(theta)) == 6
    assert float(gate.penalty(theta)) == 6 * (1 + 9)


def test_each_leaf_has_a_pattern_a_rate_and_a_strength_of_its_own():
    params = {n: jnp.ones((40, 50)) for n in ("fc1", "fc2", "out")}
    gate = gates.hard_concrete(
        pattern={"fc": jp.patterns.channel(axis=-2), "out": jp.patterns.unstructured()},
        dropout_rate={"fc1": 0.2, ".": 0.5},
        strength={"out": lambda step: 0.1 * step, "fc": 2.0},
    )
    theta = gate.init(params, jax.random.key(0))
    assert {n: g.shape for n, g in theta.gates.items()} == {
        "fc1": (40,),
        "fc2": (40,),
        "out": (40, 50),
    }
    for name, rate in {"fc1": 0.2, "fc2": 0.5, "out": 0.5}.items():
        g = np.asarray(theta.gates[name])
        assert abs(g.mean() - math.log((1 - rate) / rate)) < 4 * 0.01 / math.sqrt(g.size)
        assert 0.005 < g.std() < 0.015
    p = {n: open_at(np.asarray(g)) for n, g in theta.gates.items()}
    expected = 2 * 50 * (p["fc1"].sum() + p["fc2"].sum()) + 0.3 * p["out"].sum()
    assert float(gate.penalty(theta, step=3)) == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match=r"hard_concrete: strength: its schedule needs step="):
        gate.penalty(theta)


def test_projection_keeps_gates_within_their_bounds():
    gate = gates.hard_concrete(bounds=(-1.0, 2.0))
    theta = gates.Gated({"w": jnp.ones((1, 3))}, {"w": jnp.array([[0.0, 0.0, 1.5]])})
    updates = gates.Gated({"w": jnp.full((1, 3), 9.0)}, {"w": jnp.array([[-3.0, 0.25, 3.0]])})
    found, _ = gate.project().update(updates, gate.project().init(theta), theta)
    assert found.gates["w"].tolist() == [[-1.0, 0.25, 0.5]]
    assert found.params["w"].tolist() == [[9.0, 9.0, 9.0]]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"stretch": (0.0, 1.1)}, r"stretch=\(0.0, 1.1\)"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0"),
        ({"bounds": (4.0, -4.0)}, r"bounds=\(4.0, -4.0\)"),
        ({"dropout_rate": {"w": 1.0}}, "dropout_rate=.*both excluded"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        gates.hard_concrete(**wrong)


@pytest.mark.parametrize("wrong", [{"stretch": (-0.1, 1.1, 2.0)}, {"bounds": None}])
def test_what_is_no_pair_is_refused(wrong):
    with pytest.raises(TypeError, match="a pair of numbers is needed, not"):
        gates.hard_concrete(**wrong)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dropout_rate": {"v": 0.5}}, "dropout_rate: 'v' matches no leaf"),
        ({"strength": {"w1": 0.5}}, "strength: nothing matches 'w2'"),
        ({"pattern": jp.patterns.groups(4)}, "'w1' has 3 weights along axis -2"),
    ],
)
def test_leaves_that_do_not_fit_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        gates.hard_concrete(**wrong).init(
            {"w1": jnp.ones((3, 2)), "w2": jnp.ones((3, 2))}, jax.random.key(0)
        )
