"""Where Gram matrices are most of what is kept, the plan's promise holds."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.posttrain import solvers

MODULE = importlib.import_module("jaxprune.posttrain.solvers.sparsegpt")
USES = 8


def drawn(width):
    """Parameters and two batches."""
    draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape))
    return {"w": draw(0, width, 2)}, [draw(1, 16, width), draw(2, 16, width)]


def used_often(p, x):
    """One small kernel with several large inputs."""
    return sum(jnp.tanh(x * (1 + use)) @ p["w"] for use in range(USES))


@pytest.mark.parametrize(("width", "hold_out"), [(256, None), (256, 2), (130, None)])
def test_the_promise_holds_where_grams_are_most(monkeypatch, width, hold_out):
    params, batches = drawn(width)
    plan = jp.posttrain.plan(used_often, params, batches[0])
    assert [len(kernel.inputs) for kernel in plan.kernels] == [USES]
    alive = lambda: sum(array.nbytes for array in jax.live_arrays())
    solved = MODULE._solve_layers
    before = alive()
    seen = []

    def watched(*args):
        analysis = solved.lower(*args).compile().memory_analysis()
        seen.append(alive() - before + analysis.temp_size_in_bytes + analysis.output_size_in_bytes)
        return solved(*args)

    monkeypatch.setattr(MODULE, "_solve_layers", watched)
    jp.posttrain.prune(plan, params, batches, solver=solvers.sparsegpt(), hold_out=hold_out)
    [most] = seen
    bound = plan.bytes_needed(len(batches), hold_out=hold_out is not None)
    assert 0.6 * bound < most < bound


def test_each_use_counts_the_same():
    found = {}

    def solver(kernels, contests, *, grams):
        found["grams"] = grams
        return solvers.sparsegpt()(kernels, contests, grams=grams)

    params, batches = drawn(16)
    plan = jp.posttrain.plan(used_often, params, batches[0])
    jp.posttrain.prune(plan, params, batches, solver=solver)
    expected = jp.posttrain.gather(plan, params, batches, ("grams",))["w"]["grams"]
    np.testing.assert_allclose(found["grams"], expected, rtol=1e-5, atol=1e-6)
