import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

W = jnp.array([[1.0, -2.0, 3.0, 0.5]])
X = jnp.array([[4.0, 1.0, 0.5, 2.0], [2.0, 1.0, 0.5, 2.0]])
linear = lambda params, x: jnp.mean(x @ params["w"][0])


def test_snip_by_hand():
    # mean gradients 3, 1, 0.5, 2: sensitivities 3, 2, 1.5, 1 of 7.5 in all
    params, masks = jp.at_init.snip(linear, {"w": W}, [X[:1], X[1:]], sparsity=0.5)
    assert masks["w"].tolist() == [[True, True, False, False]]
    assert params["w"].tolist() == [[1.0, -2.0, 0.0, 0.0]]
    grads = jp.signals.grads(linear, {"w": W}, [X])
    shares = jp.criteria.snip({"w": W}, grads=grads)["w"]
    np.testing.assert_allclose(shares, [[0.4, 4 / 15, 0.2, 2 / 15]], rtol=1e-6)


def quadratic(params, x):
    w = params["w"][0]
    return jnp.mean(x) * 0.5 * jnp.sum(jnp.array([1.0, 0.5, -1.0, 3.0]) * w**2) + w[0] * w[2]


def test_grasp_by_hand():
    # H = diag(1, 0.5, -1, 3) with 1 between weights 0 and 2; g = H w = 4, -1, -2, 1.5
    # H g = 2, -0.5, 6, 4.5; w H g = 2, 1, 18, 2.25
    _, masks = jp.at_init.grasp(quadratic, {"w": W}, [jnp.ones(2)], sparsity=0.5)
    assert masks["w"].tolist() == [[False, False, True, True]]


def test_a_temperature_is_part_of_grasps_loss():
    """L = w0^3 x / T + (w1 x / T)^2: the first part of w H g falls as T^-2, the second as T^-4."""
    apply = lambda params, x: jnp.stack([params["w"][0, 0] ** 3 * x, params["w"][0, 1] * x], -1)
    output_loss = lambda outputs, x: jnp.mean(outputs[:, 0] + outputs[:, 1] ** 2)
    params, batches = {"w": jnp.array([[1.0, 2.0]])}, [jnp.ones(2)]
    # at T = 1: w H g = 1 * 6 * 3 = 18 and 2 * 2 * 4 = 16; at T = 200 divided by T^2 and T^4
    for temperature, expected in ((1.0, [[18, 16]]), (200.0, [[18 / 200**2, 16 / 200**4]])):
        product = jp.signals.hessian_gradient(
            apply, output_loss, params, batches, temperature=temperature
        )
        found = jp.criteria.grasp(params, hessian_gradient=product)["w"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    of_outputs = {"apply": apply, "output_loss": output_loss}
    gathered = jp.signals.gatherers(batches, **of_outputs)["hessian_gradient"](params)
    np.testing.assert_allclose(gathered["w"], product["w"], rtol=1e-6)
    plain = jp.signals.gatherers(batches, loss=jp.signals.loss_of_outputs(**of_outputs))
    np.testing.assert_allclose(plain["hessian_gradient"](params)["w"], [[18, 8]], rtol=1e-5)
    loss = jp.signals.loss_of_outputs(**of_outputs, temperature=200)
    assert loss == jp.signals.loss_of_outputs(**of_outputs, temperature=200.0)
    _, masks = jp.at_init.grasp(loss, params, batches, sparsity=0.5)
    assert masks["w"].tolist() == [[True, False]]
    with pytest.raises(ValueError, match=r"temperature=0\): a number above 0"):
        jp.signals.loss_of_outputs(**of_outputs, temperature=0)


def test_grasp_has_the_sign_that_keeps_gradient():
    loss = lambda params, x: quadratic(params, x)
    norm = lambda w: float(jnp.sum(jax.grad(loss)({"w": w}, X[0])["w"] ** 2))
    params, batches = {"w": W}, [X[0]]
    grads = jp.signals.grads(loss, params, batches)
    product = jp.signals.hessian_vector(loss, params, batches, grads)
    scores = jp.criteria.grasp(params, hessian_gradient=product)["w"][0]
    small = 1e-3  # of a weight, not the whole: then the first order is what counts
    lost = [(norm(W) - norm(W.at[0, i].multiply(1 - small))) / (2 * small) for i in range(4)]
    np.testing.assert_allclose(scores, lost, rtol=0.05)


def test_grasp_reads_twice_and_says_so():
    seen = []
    jp.at_init.grasp(quadratic, {"w": W}, [jnp.ones(2)] * 2, sparsity=0.5, progress=seen.append)
    assert seen == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"grasp reads batches twice, but a generator .* list"):
        jp.at_init.grasp(quadratic, {"w": W}, (x for x in [X]), sparsity=0.5)


def mlp(params, x):
    for i in range(len(params) - 1):
        x = jax.nn.relu(x @ params[f"fc{i}"])
    return x @ params[f"fc{len(params) - 1}"]


def network_loss(params, batch):
    x, y = batch
    return jnp.mean((mlp(params, x) - y) ** 2)


def deep(sizes):
    keys = jax.random.split(jax.random.key(0), len(sizes))
    shapes = itertools.pairwise(sizes)
    draw = lambda key, n, m: jax.random.normal(key, (n, m)) * jnp.sqrt(2 / n)
    return {f"fc{i}": draw(key, *s) for i, (key, s) in enumerate(zip(keys, shapes, strict=False))}


NETWORK = deep((10, 100, 40, 5))
DATA = (jax.random.normal(jax.random.key(1), (64, 10)), jnp.ones((64, 5)))
SPARSITY = 0.9994  # of 5,200 weights 3 are left: one path
emptied = lambda masks: sorted(name for name, mask in masks.items() if not mask.any())


@functools.cache
def by_flow(rounds):
    return jp.at_init.synflow(mlp, NETWORK, DATA[0][:1], sparsity=SPARSITY, rounds=rounds)


def test_synflow_empties_no_layer_where_others_do():
    _, masks = by_flow(100)
    assert sum(int(m.sum()) for m in masks.values()) == 3
    assert emptied(masks) == []
    alive = mlp({n: jnp.abs(w) for n, w in by_flow(100)[0].items()}, jnp.ones((1, 10)))
    assert float(alive.sum()) > 0, "a path is left"
    magnitude = jp.methods.magnitude(sparsity=SPARSITY, allocation=jp.allocation.global_budget())
    assert emptied(jp.prune(NETWORK, magnitude)[1])
    assert emptied(jp.at_init.snip(network_loss, NETWORK, [DATA], sparsity=SPARSITY)[1])


def test_one_round_of_synflow_empties_layers_too():
    _, masks = by_flow(1)
    assert sum(int(m.sum()) for m in masks.values()) == 3
    assert emptied(masks)


def test_synflow_follows_its_schedule_and_never_revives():
    schedule = jp.schedules.exponential(sparsity=0.99, begin=0, end=4)
    kept = [round(5_200 * (1 - float(schedule.sparsity(k)))) for k in range(1, 5)]
    np.testing.assert_allclose(kept, [5_200 * 0.01 ** (k / 4) for k in range(1, 5)], rtol=1e-2)
    seen = []
    example = jax.ShapeDtypeStruct((1, 10), jnp.float32)
    params, masks = jp.at_init.synflow(
        mlp, NETWORK, example, sparsity=0.99, rounds=4, progress=seen.append
    )
    assert seen == [1, 2, 3, 4]
    assert sum(int(m.sum()) for m in masks.values()) == kept[-1]
    jp.masks.check(params, masks)


def test_a_pattern_an_allocation_and_a_filter_for_a_list():
    loss = lambda params, x: linear({"w": params[1].T}, x) + jnp.sum(params[0])
    params, masks = jp.at_init.snip(
        loss,
        [W, W.T],
        [X],
        sparsity=0.5,
        prunable="1",
        pattern=jp.patterns.groups(2),
        allocation=jp.allocation.uniform(),
    )
    assert masks[0] is None
    assert params[0].tolist() == W.tolist()
    assert masks[1].ravel().tolist() == [True, False, True, False]


def test_bad_input_is_refused_before_data_is_read():
    unread = iter([X])
    with pytest.raises(ValueError, match="fraction removed"):
        jp.at_init.snip(linear, {"w": W}, unread, sparsity=90)
    assert list(unread), "nothing was read"
    with pytest.raises(TypeError, match=r"snip\(rounds=None\): an integer is needed"):
        jp.at_init.snip(lambda p, x: 0.0, NETWORK, [DATA[0]], sparsity=0.5, rounds=None)
    with pytest.raises(ValueError, match="rounds=0"):
        jp.at_init.synflow(mlp, NETWORK, DATA[0], sparsity=0.5, rounds=0)
    dead = NETWORK | {"fc1": jnp.zeros((100, 40))}
    with pytest.raises(ValueError, match="nothing flows"):
        jp.at_init.synflow(mlp, dead, DATA[0], sparsity=0.5)


def test_a_floor_and_a_cap_keep_layers_alive():
    pruned = lambda **how: jp.at_init.snip(network_loss, NETWORK, [DATA], sparsity=SPARSITY, **how)[
        1
    ]
    assert emptied(pruned())
    assert not emptied(pruned(at_least=1))
    assert not emptied(pruned(at_most=0.95))
    with pytest.raises(ValueError, match=r"at_least=1.*uniform\(\) itself"):
        pruned(at_least=1, allocation=jp.allocation.uniform())
