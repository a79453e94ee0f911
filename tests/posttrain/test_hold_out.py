"""What is held out is neither calibrated nor trained on; blocks are found behind a stem."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.posttrain import solvers

DRAW = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape)) / 3
PARAMS = [{"up": DRAW(2 * i, 4, 8), "down": DRAW(2 * i + 1, 8, 4)} for i in range(2)]
BATCHES = [DRAW(i, 16, 4) for i in (20, 21, 22, 23)]
SPARSEGPT = solvers.sparsegpt()


def residual(params, x):
    for p in params:
        x = x + jnp.tanh(x @ p["up"]) @ p["down"]
    return x


def pruned(batches, **more):
    plan = jp.posttrain.plan(residual, PARAMS, batches[0])
    return jp.posttrain.prune(plan, PARAMS, batches, solver=SPARSEGPT, **more)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_recovery_is_not_trained_on_what_is_held_out():
    more = {"recover": jp.posttrain.reconstruct(optax.sgd(0.1), steps=4)}
    with_held, alone = pruned(BATCHES, hold_out=2, **more), pruned(BATCHES[::2], **more)
    same(with_held.params, alone.params)
    assert with_held.report.blocks == alone.report.blocks


def test_rates_are_not_set_by_what_is_held_out():
    batches = [BATCHES[0], BATCHES[1] * np.array([[30.0, 1, 1, 1]], np.float32)]
    more = {"rates": jp.posttrain.rates.owl(0.5, outlier=1.5)}
    same(pruned(batches, hold_out=2, **more).masks, pruned(batches[:1], **more).masks)
    other = pruned(batches, **more).report.rows
    kept = lambda rows: [row.kept for row in rows]
    assert kept(other) != kept(pruned(batches[:1], **more).report.rows)


def test_dense_statistics_and_recovery_are_refused():
    recover = jp.posttrain.reconstruct(optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match=r'calibrate="dense", recover=.*leave one of them out'):
        pruned(BATCHES, calibrate="dense", recover=recover)


def test_batches_of_another_dtype_are_refused():
    with pytest.raises(
        ValueError, match=r"batch 1 .* an array of bfloat16, the plan is for float32"
    ):
        pruned([BATCHES[0], jnp.asarray(BATCHES[1], jnp.bfloat16)])


def test_a_stem_does_not_shift_the_blocks():
    layer = lambda: {
        "attention": {"in": jnp.ones((4, 12)), "out": jnp.ones((4, 4))},
        "mlp": {"in": jnp.ones((4, 8)), "out": jnp.ones((8, 4))},
    }
    params = {
        "stem": jnp.ones((6, 4)),
        "layers": [layer() for _ in range(4)],
        "head": jnp.ones((4, 3)),
    }

    def apply(p, x):
        x = x @ p["stem"]
        for each in p["layers"]:
            query, key, value = jnp.split(x @ each["attention"]["in"], 3, 1)
            x = x + (jax.nn.softmax(query @ key.T) @ value) @ each["attention"]["out"]
            x = x + jnp.tanh(x @ each["mlp"]["in"]) @ each["mlp"]["out"]
        return x @ p["head"]

    for stem, head in ((True, True), (True, False), (False, True)):
        network = {**params, "head": params["head"] if head else jnp.eye(4)[:, :3]}
        exclude = [] if stem else ["stem"]
        exclude += [] if head else ["head"]
        plan = jp.posttrain.plan(apply, network, np.ones((5, 6), np.float32), exclude=exclude)
        expected = [0] if stem else []
        for block in range(4):
            expected += [block + stem] * 4
        expected += [4 + stem] if head else []
        assert plan.blocks == expected


def test_a_kernel_that_meets_a_later_input_first():
    apply = lambda p, x: jax.nn.relu(x @ p["v"]) @ p["w"] + x @ p["w"]
    params = {"v": DRAW(0, 4, 4), "w": DRAW(1, 4, 4)}
    plan = jp.posttrain.plan(apply, params, BATCHES[0])
    assert {kernel.name: kernel.inputs for kernel in plan.kernels} == {"v": (0,), "w": (0, 1)}
    found = jp.posttrain.prune(plan, params, BATCHES, solver=SPARSEGPT)
    assert jp.masks.sparsity(found.masks) == 0.5


def test_swaps_give_a_refit_what_it_reads():
    seen = []

    def refit(kernels, contests, *, input_moments, key, masks=None):
        seen.append((input_moments.shape, key.shape))
        return [
            solvers.Solved(jnp.where(mask, kernel, 0), mask, jnp.zeros(len(kernel)))
            for kernel, mask in zip(kernels, masks, strict=True)
        ]

    plan = jp.posttrain.plan(residual, PARAMS, BATCHES[0])
    solver = solvers.swaps(refit=refit)
    jp.posttrain.prune(plan, PARAMS, BATCHES, solver=solver, key=jax.random.key(0))
    assert seen[0] == ((1, 4, 1), ())
