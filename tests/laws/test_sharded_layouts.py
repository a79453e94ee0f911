"""Kernels of attention stacked for a scan, sharded over eight devices: the same masks as on one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp

LAYERS, WIDTH, HEADS, SIZE = 2, 16, 4, 4
SPECS = {"q": P("model", "data"), "o": P(None, "model", None, "data")}
AXES = {
    "q": jp.Axes(in_axis=1, out_axis=(2, 3), batch_axis=0),
    "o": jp.Axes(in_axis=(1, 2), out_axis=3, batch_axis=0),
}
PARTS = {
    "unstructured": {},
    "2:4": {"pattern": jp.patterns.groups(4)},
    "groups across heads": {"pattern": jp.patterns.groups(8)},  # merges a sharded axis
    "per output": {"pattern": jp.patterns.groups()},
    "blocks across heads": {"pattern": jp.patterns.block((8, 8))},
    "channels": {"pattern": jp.patterns.channel()},
    "erk": {"allocation": jp.allocation.erk()},
    "global": {"allocation": jp.allocation.global_budget()},
    "lamp": {"allocation": jp.allocation.global_budget("lamp")},
    "global with a floor": {"allocation": jp.allocation.global_budget(at_least=90, at_most=0.6)},
    "cut blocks": {"pattern": jp.patterns.block((3, 5), reduce="max", pad=True)},
    "costs": {"allocation": jp.allocation.cost_budget({"q": 1.0, "o": 2.0})},
}


@pytest.mark.slow
def test_on_eight_devices():
    """Starts this file again, with eight devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check():
    rng = np.random.default_rng(0)
    host = {
        "q": rng.standard_normal((LAYERS, WIDTH, HEADS, SIZE), np.float32),
        "o": rng.standard_normal((LAYERS, HEADS, SIZE, WIDTH), np.float32),
    }
    for name, parts in PARTS.items():
        schedule = jp.schedules.one_shot(sparsity=0.5)
        method = jp.Method(jp.criteria.magnitude, schedule=schedule, **parts)
        choose = jax.jit(lambda params, method=method: jp.prune(params, method, axes=AXES)[1])
        expected = choose(host)
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4, 2), ("data", "model"), (kind, kind))
            put = {k: jax.device_put(w, NamedSharding(mesh, SPECS[k])) for k, w in host.items()}
            found = choose(put)
            for leaf, mask in found.items():
                np.testing.assert_array_equal(mask, expected[leaf], err_msg=f"{name}, {leaf}")
                if kind is AxisType.Explicit:
                    assert jax.typeof(mask).sharding.spec == jax.typeof(put[leaf]).sharding.spec
        assert 0.4 < float(jp.masks.sparsity(expected)) < 0.6
    check_codebooks(host)
    check_branches(host)


def check_codebooks(host):
    """Weights of few values lie where the weights did, and train there."""
    masks = jp.prune(host, jp.methods.magnitude(sparsity=0.5), axes=AXES)[1]
    expected, expected_updates = train_codebooks(host, masks)
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((4, 2), ("data", "model"), (kind, kind))
        put = {k: jax.device_put(w, NamedSharding(mesh, SPECS[k])) for k, w in host.items()}
        with jax.set_mesh(mesh):
            coded, updates = train_codebooks(put, masks)
        for leaf, weights in coded.items():
            np.testing.assert_array_equal(weights, expected[leaf])
            assert weights.sharding.is_equivalent_to(put[leaf].sharding, weights.ndim)
            np.testing.assert_allclose(updates[leaf], expected_updates[leaf], 1e-4, 1e-6)


def train_codebooks(params, masks):
    """Returns weights of few values, and their first update."""
    books = jp.quantise.codebooks(params, masks, bits=2)
    coded = jp.quantise.dense(books, params)
    tx = jp.quantise.shared(optax.sgd(0.1), books)
    return coded, jax.jit(tx.update)(params, tx.init(coded), coded)[0]


def check_branches(host):
    """What is made of a ticket on a mesh of explicit axes is what is made of it on one device."""
    masks = jp.prune(host, jp.methods.magnitude(sparsity=0.5), axes=AXES)[1]
    key = jax.random.key(0)
    makers = {
        "shuffle": lambda _, masks: jp.masks.shuffle(masks, key),
        "shuffle rows": lambda _, masks: jp.masks.shuffle(masks, key, AXES, within="rows"),
        "shuffle tree": lambda _, masks: jp.masks.shuffle(masks, key, within="tree"),
        "reshuffle": lambda params, masks: jp.lottery.reshuffle(params, masks, key, axes=AXES),
        "constant": lambda params, masks: jp.lottery.constant(params, masks, axes=AXES),
        "constant, new signs": lambda params, masks: jp.lottery.constant(params, masks, key),
    }
    mesh = jax.make_mesh((4, 2), ("data", "model"), (AxisType.Explicit,) * 2)
    put, put_masks = (
        {k: jax.device_put(x, NamedSharding(mesh, SPECS[k])) for k, x in tree.items()}
        for tree in (host, masks)
    )
    for name, make in makers.items():
        expected = make(host, masks)
        with jax.set_mesh(mesh):
            found = make(put, put_masks)
        for leaf, values in found.items():
            np.testing.assert_allclose(values, expected[leaf], 1e-6, err_msg=f"{name}, {leaf}")
            assert values.sharding.is_equivalent_to(put[leaf].sharding, values.ndim)


if __name__ == "__main__":
    check()
