"""A folder holds one run: another is refused, and the same one goes on."""

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.posttrain import solvers
from jaxprune.posttrain.identity import object_checksum

DRAW = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape)) / 3
BATCHES = [DRAW(i, 8, 4) for i in (7, 8)]
PARAMS = {"a": DRAW(0, 4, 4), "b": DRAW(1, 4, 4), "c": DRAW(2, 4, 4)}
MAGNITUDE = solvers.by_criterion(jp.criteria.magnitude)
OTHERS = "other parameters, data or settings"


def chain(p, x):
    return jnp.tanh(jnp.tanh(jnp.tanh(x @ p["a"]) @ p["b"]) @ p["c"])


def run(folder, apply=chain, params=PARAMS, solver=MAGNITUDE, prunable=None, **more):
    plan = jp.posttrain.plan(apply, params, BATCHES[0], prunable=prunable)
    return jp.posttrain.prune(plan, params, BATCHES, solver=solver, folder=folder, **more)


def test_other_kernels_are_refused(tmp_path):
    """In the same program, with the same cuts, whichever is pruned."""
    product = lambda p, x: x @ (p["a"] * p["b"]) @ p["c"]
    run(tmp_path, product, prunable="a|c")
    with pytest.raises(ValueError, match=OTHERS):
        run(tmp_path, product, prunable="b|c")


def test_what_is_stored_is_stored_by_name(tmp_path):
    run(tmp_path)
    [first, *_] = sorted(tmp_path.glob("00000*.npz"))
    with np.load(first) as file:
        assert {"kernel 0 a", "mask 0 a"} < set(file.files)


def test_other_constants_are_refused(tmp_path):
    def with_constant(table):
        return lambda p, x: chain(p, x + jnp.asarray(table))

    run(tmp_path, with_constant(DRAW(3, 8, 4)))
    run(tmp_path, with_constant(DRAW(3, 8, 4)))
    with pytest.raises(ValueError, match=OTHERS):
        run(tmp_path, with_constant(DRAW(4, 8, 4)))


HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("process 7 on elsewhere", file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError, match=r"in use by process 7 on elsewhere; wait until"):
            run(tmp_path)
        assert not list(tmp_path.glob("*.npz"))
        first.kill()
    run(tmp_path)


def test_a_folder_is_locked_as_long_as_the_run_goes_on(tmp_path):
    def second(step):
        with pytest.raises(BlockingIOError, match=rf"in use by process {os.getpid()} on "):
            run(tmp_path)

    run(tmp_path, progress=second)
    run(tmp_path)


def keeps(threshold):
    def solver(kernels, contests):
        masks = [jnp.abs(kernel) > threshold for kernel in kernels]
        pairs = zip(kernels, masks, strict=True)
        return [solvers.Solved(jnp.where(m, k, 0), m, jnp.zeros(len(k))) for k, m in pairs]

    return solver


def test_another_solver_of_the_same_name_is_refused(tmp_path):
    run(tmp_path, solver=keeps(0.1))
    run(tmp_path, solver=keeps(0.1))
    with pytest.raises(ValueError, match=OTHERS):
        run(tmp_path, solver=keeps(0.3))
    by = lambda power: solvers.by_criterion(lambda params: jnp.abs(params) ** power)
    assert object_checksum(by(1)) == object_checksum(by(1)) != object_checksum(by(2))


SCALE = 2.0


def scaled(x):
    return SCALE * x


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x


def test_functions_are_told_apart_by_what_they_do(monkeypatch):
    same = lambda x, by=1: x * by + 1
    other = lambda x, by=2: x * by + 1
    third = lambda x, by=1: x * by + 2
    assert len({object_checksum(each) for each in (same, other, third)}) == 3
    known = object_checksum(scaled)
    assert known == object_checksum(scaled)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert known != object_checksum(scaled)
    assert object_checksum(Scaled(1)) == object_checksum(Scaled(1)) != object_checksum(Scaled(2))
    assert object_checksum(jax.jit(same)) != object_checksum(jax.jit(third))
    assert object_checksum(solvers.sparsegpt()) != object_checksum(solvers.sparsegpt(damp=0.1))


def test_what_cannot_be_compared_is_refused(tmp_path):
    lock = threading.Lock()

    def solver(kernels, contests):
        with lock:
            return keeps(0.1)(kernels, contests)

    with pytest.raises(ValueError, match=r"solver holds a lock, .* or leave out folder="):
        run(tmp_path, solver=solver)
    run(None, solver=solver)


def test_another_optimizer_is_refused_if_it_differs_late(tmp_path):
    def recover(end):
        plain, least = optax.sgd(1e-2), [end]

        def update(updates, state, params=None):
            updates, _ = plain.update(updates, (optax.EmptyState(), optax.EmptyState()), params)
            slow = jnp.where(state >= 5, least[0], 1.0)
            return jax.tree.map(lambda u: slow * u, updates), state + 1

        transform = optax.GradientTransformation(lambda params: jnp.int32(0), update)
        return jp.posttrain.reconstruct(transform, steps=8)

    run(tmp_path, recover=recover(0.5))
    with pytest.raises(ValueError, match=OTHERS):
        run(tmp_path, recover=recover(0.1))
    clipped = optax.chain(optax.clip(100.0), optax.sgd(1e-2))  # which no gradient of a probe meets
    with pytest.raises(ValueError, match=OTHERS):
        run(tmp_path, recover=jp.posttrain.reconstruct(clipped, steps=8))


def test_recovery_goes_on_with_float64_of_numpy(tmp_path):
    params = {**PARAMS, "bias": np.zeros((1, 4))}
    biased = lambda p, x: chain(p, x + p["bias"])
    recover = jp.posttrain.reconstruct(optax.sgd(1e-2), steps=2)
    first = run(tmp_path, biased, params, recover=recover)
    again = run(tmp_path, biased, params, recover=recover)
    assert np.any(again.params["bias"])
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
