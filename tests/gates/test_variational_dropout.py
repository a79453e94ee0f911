import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import gates

POINTS = np.linspace(-12, 12, 1_200_001)
DENSITY = np.exp(-(POINTS**2) / 2) / math.sqrt(2 * math.pi) * (POINTS[1] - POINTS[0])


def divergence(log_alpha):
    r"""KL(N(w, a w^2) || log-uniform), which is $-\tfrac12 \log a + E \log|1 + \sqrt a \epsilon|$ + constant.

    The constant is the one with which it falls to zero: $-E \log|\epsilon| = (\gamma + \log 2) / 2$.
    """
    spread = np.abs(1 + math.exp(log_alpha / 2) * POINTS)
    logs = (np.log(np.maximum(spread, 1e-12)) * DENSITY).sum()
    return logs - log_alpha / 2 + (np.euler_gamma + math.log(2)) / 2


def test_the_fit_is_near_the_divergence():
    grid = np.linspace(-8, 8, 33)
    found = np.asarray(gates.kl_log_uniform(jnp.asarray(grid)))
    exact = np.array([divergence(a) for a in grid])
    assert np.abs(found - exact).max() < 0.01
    assert (np.diff(found) < 0).all()


def test_slopes_of_the_fit():
    with jax.enable_x64(True):
        grid = jnp.linspace(-8.0, 8.0, 17)
        numeric = (gates.kl_log_uniform(grid + 1e-5) - gates.kl_log_uniform(grid - 1e-5)) / 2e-5
        assert jnp.allclose(jax.vmap(jax.grad(gates.kl_log_uniform))(grid), numeric, atol=1e-8)
    far = jnp.array([-500.0, 500.0])
    assert gates.kl_log_uniform(far) == pytest.approx([250.63576, 0.0], rel=1e-5)
    assert jax.vmap(jax.grad(gates.kl_log_uniform))(far) == pytest.approx([-0.5, 0.0])


def test_penalty_by_hand():
    """log alpha is log sigma^2 - log w^2, within the bound; a schedule warms the divergence up."""
    w, log_variance = np.array([[0.5, -2.0, 1e-6, 0.0]]), np.array([[-1.0, -4.0, -3.0, -3.0]])
    theta = gates.Gated(
        {"w": jnp.asarray(w, jnp.float32)}, {"w": jnp.asarray(log_variance, jnp.float32)}
    )
    alphas = jnp.array([-1 - math.log(0.25), -4 - math.log(4.0), 8.0, 8.0])
    expected = float(gates.kl_log_uniform(alphas).sum())
    gate = gates.variational_dropout(strength=lambda step: step / 10)
    assert float(gate.penalty(theta, step=5)) == pytest.approx(expected / 2, rel=1e-5)
    slopes = jax.grad(lambda theta: gate.penalty(theta, step=10))(theta)
    inner = jax.vmap(jax.grad(gates.kl_log_uniform))(alphas)[None, :2]
    assert slopes.gates["w"][:, :2] == pytest.approx(np.asarray(inner), rel=1e-4)
    assert slopes.params["w"][:, :2] == pytest.approx(np.asarray(-2 * inner) / w[:, :2], rel=1e-4)
    assert (slopes.gates["w"][:, 2:] == 0).all(), "beyond the bound nothing pulls"
    assert (slopes.params["w"][:, 2:] == 0).all()


def test_weights_are_normal():
    gate = gates.variational_dropout()
    count = 100_000
    params = {"w": jnp.broadcast_to(jnp.array([[1.0], [-2.0]]), (2, count))}
    gates_ = {"w": jnp.broadcast_to(jnp.array([[-1.0], [2.0]]), (2, count))}
    w = np.asarray(gate.sample(gates.Gated(params, gates_), jax.random.key(0))["w"])
    sigma = np.exp([-0.5, 1.0])
    assert np.abs(w.mean(1) - [1, -2]) == pytest.approx(0, abs=3 * sigma.max() / math.sqrt(count))
    assert (np.abs(w.var(1) / sigma**2 - 1) < 3 * math.sqrt(2 / count)).all()


def test_weights_beyond_the_threshold_have_no_mean():
    w = jnp.array([[1.0, 1.0]])
    theta = gates.Gated({"w": w}, {"w": jnp.array([[2.9, 3.1]])})
    for clip, means in ((True, [[1.0, 0.0]]), (False, [[1.0, 1.0]])):
        gate = gates.variational_dropout(clip_in_training=clip)
        mean, variance = gate.moments(theta)
        assert mean["w"].tolist() == means
        assert variance["w"] == pytest.approx(np.exp([[2.9, 3.1]]), rel=1e-5)
        network, masks = gate.finalize(theta)
        assert network["w"].tolist() == [[1.0, 0.0]]
        assert masks["w"].tolist() == [[True, False]]
        assert float(gate.expected_l0(theta)) == 1


def test_noise_is_bounded_by_the_weight():
    theta = gates.Gated({"w": jnp.array([[0.1, 10.0]])}, {"w": jnp.array([[9.0, -9.0]])})
    variance = gates.variational_dropout(bound=5.0).moments(theta)[1]["w"]
    assert variance == pytest.approx(np.array([[math.exp(5) * 0.01, math.exp(-5) * 100]]), rel=1e-5)


def test_a_threshold_that_nothing_reaches_is_refused():
    with pytest.raises(ValueError, match=r"threshold=9.0, bound=8.0"):
        gates.variational_dropout(threshold=9.0)
