"""Scores of float16 leaves are those of the same numbers in float32: no product of small numbers is lost."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)
INPUTS, OUTPUTS = 8, 6


def small_numbers(size, shape=(INPUTS, OUTPUTS), positive=False):
    numbers = size * RNG.normal(size=shape)
    return {"w": (np.abs(numbers) if positive else numbers).astype(np.float16)}


PARAMS, GRADS = small_numbers(1e-2), small_numbers(1e-6)
SIGNALS = {
    **dict.fromkeys(["grads", "hessian_gradient", "synaptic_flow", "momentum"], GRADS),
    **dict.fromkeys(["gradient_sum", "movement_sum", "unit_taylor", "hessian_diagonal"], GRADS),
    **dict.fromkeys(
        ["fisher", "second_moment", "gauss_newton_diagonal"], small_numbers(1e-6, positive=True)
    ),
    "initial_params": small_numbers(1e-2),
    "input_moments": small_numbers(1e-6, (INPUTS, 1), positive=True),
    "grams": {"w": (np.eye(INPUTS) * 1e-2 + 1e-3).astype(np.float16)},
    "inverse_fisher": {"w": np.tile(np.eye(4) + 1e-3, (12, 1, 1)).astype(np.float16)},
    **dict.fromkeys(
        ["unit_zeros", "unit_entropies", "unit_ranks", "batchnorm_scales"],
        small_numbers(1e-3, (1, OUTPUTS), positive=True),
    ),
}
DTYPES = [jnp.float16, jnp.float32]


def read(dtype, tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def scores_in(dtype, criterion):
    known = {name: read(dtype, tree) for name, tree in SIGNALS.items()}
    scores = criterion(read(dtype, PARAMS), **known, key=jax.random.key(0))
    return np.asarray(scores["w"], np.float64)


@pytest.mark.parametrize("name", jp.criteria.__all__)
def test_every_criterion(name):
    criterion = getattr(jp.criteria, name)
    narrow, wide = (scores_in(dtype, criterion) for dtype in DTYPES)
    assert np.isfinite(wide).all()
    assert len(np.unique(wide)) > 2
    assert (narrow == wide).all()


@functools.cache
def memories():
    needed = [jp.signals.needed([getattr(jp.criteria, name)]) for name in jp.criteria.__all__]
    return dict(item for each in needed for item in each.items()) | {
        "products": jp.signals.running_sum(lambda w, g: w * g),
        "squares": jp.signals.moving_average(lambda w, g: g * g),
    }


@pytest.mark.parametrize("name", sorted(memories()))
def test_every_memory(name):
    memory = memories()[name]

    def remembered(dtype):
        params, grads = read(dtype, PARAMS), read(dtype, GRADS)
        signal = memory.init(params)
        for _ in range(3):
            signal = memory.update(signal, params, grads)
        return np.asarray(signal["w"], np.float64)

    narrow, wide = map(remembered, DTYPES)
    assert (wide != 0).any()
    assert (narrow == wide).all()


def own_criterion(params, *, grads, **_):
    return jax.tree.map(lambda w, g: w * g, params, grads)


@pytest.mark.parametrize("criterion", [own_criterion, jp.criteria.taylor, jp.criteria.movement])
def test_masks_are_those_of_float32(criterion):
    method = jp.Method(criterion, schedule=jp.schedules.one_shot(sparsity=0.5, at=1))

    def masks_in(dtype):
        params, grads = read(dtype, PARAMS), read(dtype, GRADS)
        tx = jp.sparsify(optax.sgd(0.0), method)
        state = tx.init(params)
        for _ in range(2):
            _, state = jax.jit(tx.update)(grads, state, params)
        return np.asarray(jp.masks_of(state)["w"])

    narrow, wide = map(masks_in, DTYPES)
    assert wide.sum() == wide.size // 2
    assert (narrow == wide).all()
