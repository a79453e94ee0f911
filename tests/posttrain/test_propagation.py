"""Kernels are corrected for what pruning has done to their inputs: by hand, and for each kind of product."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.posttrain import propagation, solvers

DRAW = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape), np.float32) / 3
MAGNITUDE = solvers.by_criterion(jp.criteria.magnitude)
PARAMS = {"a": DRAW(0, 8, 8), "b": DRAW(1, 8, 4)}
BATCHES = [DRAW(i, 40, 8) for i in (7, 8)]


def chain(p, x):
    return jnp.tanh(x @ p["a"]) @ p["b"]


def pruned(apply, params, batches, rates, **options):
    plan = jp.posttrain.plan(apply, params, batches[0])
    return jp.posttrain.prune(plan, params, batches, solver=MAGNITUDE, rates=rates, **options)


def test_the_correction_is_the_one_by_hand():
    """The second kernel loses nothing, so that all that is done to it is the correction."""
    result = pruned(chain, PARAMS, BATCHES, {"a": 0.5, "b": 0.0}, propagate=0.75)
    x = np.concatenate(BATCHES).astype(np.float64)
    a = np.asarray(result.params["a"], np.float64)
    dense, mine = np.tanh(x @ PARAMS["a"]), np.tanh(x @ a)
    gram = mine.T @ mine
    gram += propagation.DAMP * np.mean(np.diagonal(gram)) * np.eye(8)
    correction = np.linalg.solve(gram, mine.T @ (dense - mine) @ PARAMS["b"])
    np.testing.assert_allclose(result.params["b"], PARAMS["b"] + 0.75 * correction, atol=1e-5)
    assert np.array_equal(a != 0, result.masks["a"])
    np.testing.assert_array_equal(a, np.where(result.masks["a"], PARAMS["a"], 0))


def heads(p, x):
    hidden = jnp.tanh(jnp.einsum("btd,dnh->btnh", x, p["a"]))
    return jnp.einsum("btnh,nhd->btd", hidden, p["b"])


def experts(p, x):
    hidden = jnp.tanh(jnp.einsum("ecd,edh->ech", x, p["a"]))
    return jnp.einsum("ech,ehd->ecd", hidden, p["b"])


def images(p, x):
    convolve = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return convolve(jnp.tanh(convolve(x, p["a"])), p["b"], feature_group_count=2)


KINDS = {
    "heads": (heads, {"a": (8, 2, 4), "b": (2, 4, 8)}, (4, 10, 8)),
    "experts": (experts, {"a": (3, 8, 6), "b": (3, 6, 8)}, (3, 20, 8)),
    "grouped convolution": (images, {"a": (3, 3, 4, 8), "b": (3, 3, 4, 6)}, (2, 6, 7, 4)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_correction_solves_least_squares_of_every_product(kind):
    """The gradient of the damped squared error to the dense outputs is zero, as JAX derives it."""
    apply, shapes, size = KINDS[kind]
    params = {name: DRAW(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    batches = [DRAW(i, *size) for i in (7, 8)]
    result = pruned(apply, params, batches, {"a": 0.5, "b": 0.0}, propagate=1.0)
    plan = jp.posttrain.plan(apply, params, batches[0])
    with_pruned = {**params, "a": result.params["a"]}
    grams = jp.posttrain.gather(plan, with_pruned, batches, ("grams",))["b"]["grams"]
    rows = plan.inputs[-1].rows * len(batches)

    def loss(kernel):
        outputs = lambda a, b: jnp.stack([apply({"a": a, "b": b}, x) for x in batches])
        target = outputs(params["a"], params["b"])
        return 0.5 * jnp.sum((outputs(result.params["a"], kernel) - target) ** 2) / rows

    gradient = np.asarray(jax.grad(loss)(jnp.asarray(result.params["b"])))
    change = np.asarray(result.params["b"]) - params["b"]
    damping = [propagation.DAMP * np.mean(np.diagonal(gram)) for gram in np.asarray(grams)]
    stacked = {"experts": 0, "grouped convolution": 3}.get(kind)
    if stacked is not None:  # a damping for each expert, and for each group of outputs
        repeats = change.shape[stacked] // len(damping)
        shape = [-1 if axis == stacked else 1 for axis in range(change.ndim)]
        damping = np.repeat(damping, repeats).reshape(shape)
    np.testing.assert_allclose(gradient, -np.asarray(damping) * change, atol=2e-6)
    assert np.abs(change).max() > 0.01


def test_a_shared_kernel_is_corrected_by_the_mean_of_its_uses():
    apply = lambda p, x: jnp.tanh(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["b"])
    params = {"a": PARAMS["a"], "b": DRAW(3, 8, 8)}
    result = pruned(apply, params, BATCHES, {"a": 0.5, "b": 0.0}, propagate=1.0)
    run = lambda a: np.tanh(np.concatenate(BATCHES) @ a)
    dense, mine = run(params["a"]), run(np.asarray(result.params["a"]))
    first = [mine, np.tanh(mine @ params["b"])]  # the kernel is as it was until its last use
    target = [dense, np.tanh(dense @ params["b"])]
    gram = sum(x.T @ x for x in first)
    gram += propagation.DAMP * np.mean(np.diagonal(gram)) * np.eye(8)
    change = [x.T @ (y - x) @ params["b"] for x, y in zip(first, target, strict=True)]
    expected = params["b"] + np.linalg.solve(gram, sum(change))
    np.testing.assert_allclose(result.params["b"], expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_recovery_trains_to_what_kernels_are_corrected_for(weight):
    """To the dense block's outputs on the pruned inputs alone, it would undo the correction."""
    block = lambda x, kernel: x + jnp.tanh(x @ kernel)
    apply = lambda p, x: block(block(x, p["a"]), p["b"])
    params = {"a": PARAMS["a"], "b": DRAW(2, 8, 8)}
    recover = jp.posttrain.reconstruct(optax.sgd(0.0), steps=1)
    options = {"propagate": weight, "recover": recover}
    result = pruned(apply, params, BATCHES, {"a": 0.5, "b": 0.5}, **options)
    errors = []
    for x in BATCHES:
        inputs = block(x, result.params["a"])
        given, dense = block(inputs, params["b"]), apply(params, x)
        target = (1 - weight) * given + weight * dense
        change = block(inputs, result.params["b"]) - target
        errors.append(float(jnp.sum(change**2) / jnp.sum(target**2)))
    found = result.report.blocks[1]
    assert found.before == pytest.approx(np.mean(errors), rel=1e-4)
    assert found.after == pytest.approx(np.mean(errors), rel=1e-4)


def test_it_goes_with_recovery_files_and_resuming(tmp_path):
    def run(propagate=0.5, **options):
        recover = jp.posttrain.reconstruct(optax.sgd(1e-2), steps=2)
        rates = {"a": 0.5, "b": 0.25}
        return pruned(
            chain, PARAMS, BATCHES, rates, propagate=propagate, recover=recover, **options
        )

    usual = run()
    jax.tree.map(np.testing.assert_array_equal, usual[:2], run(stream_budget=0)[:2])
    jax.tree.map(np.testing.assert_array_equal, usual[:2], run(folder=tmp_path)[:2])
    jax.tree.map(np.testing.assert_array_equal, usual[:2], run(folder=tmp_path)[:2])
    (tmp_path / "00001.npz").unlink()
    jax.tree.map(np.testing.assert_array_equal, usual[:2], run(folder=tmp_path)[:2])
    for other in (0.25, 0.0):
        with pytest.raises(ValueError, match="other parameters, data or settings"):
            run(propagate=other, folder=tmp_path)


def test_what_is_held_out_corrects_nothing():
    held = [BATCHES[0], BATCHES[1], DRAW(9, 40, 8)]
    result = pruned(chain, PARAMS, held, {"a": 0.5, "b": 0.25}, propagate=1.0, hold_out=3)
    alone = pruned(chain, PARAMS, BATCHES, {"a": 0.5, "b": 0.25}, propagate=1.0)
    jax.tree.map(np.testing.assert_array_equal, result[:2], alone[:2])
    assert result.report.rows[1].held_error is not None


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"propagate=1\.5\): a weight from 0 to 1"):
        pruned(chain, PARAMS, BATCHES, 0.5, propagate=1.5)
    with pytest.raises(ValueError, match=r'calibrate="dense".*leave one of them out'):
        pruned(chain, PARAMS, BATCHES, 0.5, propagate=0.5, calibrate="dense")

    def sorted_rows(p, x):
        sizes = jnp.array([30, 10])
        return jax.lax.ragged_dot(jnp.tanh(x @ p["a"]), p["up"], sizes)

    params = {"a": PARAMS["a"], "up": DRAW(2, 2, 8, 4)}
    with pytest.raises(ValueError, match=r"rows of 'up' are sorted by expert, .*exclude="):
        pruned(sorted_rows, params, BATCHES, 0.5, propagate=0.5)
