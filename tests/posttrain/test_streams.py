"""Activations wait on the device, on the host or in a file; the bits are the same, and no file is left."""

import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.posttrain import shelves, solvers

WIDTH = 8
WANDA = solvers.by_criterion(jp.criteria.wanda)
RECOVER = jp.posttrain.reconstruct(optax.adam(1e-2), steps=7)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32) / 3


def residual(params, batch):
    x, key = batch["x"], batch["key"]
    for layer in params:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return (
        x
        + jax.vmap(lambda k: jax.random.normal(k, (WIDTH,)))(key)
        @ params[0]["up"]
        @ params[0]["down"]
    )


PARAMS = [{"up": draw(i, WIDTH, 16), "down": draw(9 + i, 16, WIDTH)} for i in range(2)]
BATCHES = [
    {"x": draw(20 + i, 12, WIDTH), "key": jax.random.split(jax.random.key(i), 12)} for i in range(5)
]


@pytest.fixture
def plan():
    return jp.posttrain.plan(residual, PARAMS, BATCHES[0], prunable="up|down")


@pytest.mark.parametrize("recover", [None, RECOVER])
@pytest.mark.parametrize("batches_in_memory", [0, 2])
def test_activations_in_a_file_give_the_same_bits(plan, recover, batches_in_memory, monkeypatch):
    more = {"solver": solvers.sparsegpt(), "rates": jp.posttrain.rates.owl(0.5), "recover": recover}
    if recover is not None:
        more |= {"hold_out": 3}
    usual = jp.posttrain.prune(plan, PARAMS, BATCHES, **more)
    writes = []
    write = shelves._FiledStream.write
    monkeypatch.setattr(
        shelves._FiledStream,
        "write",
        lambda filed, stream: (writes.append(1), write(filed, stream)),
    )
    budget = batches_in_memory * plan.slot_bytes * (1 if recover is None else 3)
    for streams in ("device", "host"):
        filed = jp.posttrain.prune(
            plan, PARAMS, iter(BATCHES), streams=streams, stream_budget=budget, **more
        )
        jax.tree.map(np.testing.assert_array_equal, usual[:2], filed[:2])
        assert [row[:-1] for row in filed.report.rows] == [row[:-1] for row in usual.report.rows]
        assert filed.report.blocks == usual.report.blocks
    assert len(writes) >= 2 * (5 - batches_in_memory) * 4


def test_slots_are_used_again_and_no_file_is_left(plan, tmp_path, monkeypatch):
    ends = set()
    write = shelves._FiledStream.write

    def watched(filed, stream):
        write(filed, stream)
        ends.add(os.fstat(filed._file.fileno()).st_size)

    monkeypatch.setattr(shelves._FiledStream, "write", watched)
    jp.posttrain.prune(plan, PARAMS, BATCHES, solver=WANDA, stream_budget=0, folder=tmp_path)
    assert 0 < max(ends) <= (len(BATCHES) + 1) * plan.slot_bytes
    assert all(
        path.suffix in (".npz", ".json") or path.name == "lock" for path in tmp_path.iterdir()
    )


def test_the_plan_says_where_they_are(plan):
    assert plan.slot_bytes >= plan.stream_bytes
    sentence = plan.stream_places(5, 2 * plan.slot_bytes)
    assert sentence.startswith("streams: 2 of 5 batches in memory")
    assert sentence.endswith(f", 3 in a file ({3 * plan.slot_bytes / 1000:.3g} kB)")
    all_in_memory = plan.bytes_needed(500)
    assert plan.bytes_needed(500, stream_budget=0) < all_in_memory - 490 * plan.slot_bytes
    assert plan.bytes_needed(5, stream_budget=10**9) == plan.bytes_needed(5)


def test_a_budget_below_nothing_is_refused(plan):
    with pytest.raises(ValueError, match=r"stream_budget=-1\): at least 0 bytes"):
        jp.posttrain.prune(plan, PARAMS, BATCHES, solver=WANDA, stream_budget=-1)


def test_a_full_disk_is_said(plan, monkeypatch):
    def full(filed, stream):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shelves._FiledStream, "write", full)
    with pytest.raises(OSError, match=r"stream_budget=.*make room there, or give") as caught:
        jp.posttrain.prune(plan, PARAMS, BATCHES, solver=WANDA, stream_budget=0)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("where", [{}, {"streams": "host"}, {"stream_budget": 0}])
def test_batches_are_those_that_were_handed_over(where):
    def apply(params, x):
        return jnp.tanh(x @ params["up"]) @ params["down"]

    def one_buffer(batches):
        buffer = np.empty_like(batches[0])
        for batch in batches:
            buffer[:] = batch
            yield buffer

    params = {"up": draw(1, 8, 2), "down": draw(2, 2, 8)}
    batches = [draw(seed, 16, 8) for seed in range(3)]
    small_plan = jp.posttrain.plan(apply, params, batches[0])
    wide = [batch.astype(np.float64) for batch in batches]  # takes twice the bytes of the device's
    expected, one, two = (
        jp.posttrain.prune(small_plan, params, each, solver=solvers.sparsegpt(), **more)
        for each, more in ((batches, {}), (wide, where), (one_buffer(batches), where))
    )
    jax.tree.map(np.testing.assert_array_equal, [expected.params] * 2, [one.params, two.params])
