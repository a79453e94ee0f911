"""Slices of programs give the same outputs, and leave out all else."""

import jax
import jax.numpy as jnp
import pytest

from jaxprune.programs import evaluate_slice

X = jnp.arange(4.0)


def branches(x):
    def first(x):
        jax.debug.callback(CALLS.append, 1)
        return jnp.sin(x), jnp.cos(x)

    def second(x):
        return x + 1, jax.lax.sort(-x)

    kept, _ = jax.lax.cond(x[0] > 0, first, second, x)
    return kept


def called(x):
    @jax.jit
    def inner(x):
        jax.debug.callback(CALLS.append, 1)
        return jnp.sort(x), x * 2

    return jax.nn.relu(inner(x)[1])


def looped(x):
    return jax.lax.scan(lambda total, row: (total + row, row), 0.0, x)[0], X, 3.0


def switched(x):
    return jax.lax.switch(x[2].astype(int), [jnp.sin, jnp.cos, jnp.tan, jnp.exp], x)


CALLS: list[int] = []


@pytest.mark.parametrize("fn", [branches, called, looped, switched])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_slice_has_the_same_outputs_and_no_effects(fn, sign):
    x = sign * (X + 0.5)
    outputs = jax.tree.leaves(fn(x))
    program = jax.make_jaxpr(fn)(x)
    jax.effects_barrier()
    CALLS.clear()
    for evaluate in (evaluate_slice, jax.jit(lambda p, x: evaluate_slice(p, x), static_argnums=0)):
        for found, output in zip(evaluate(program, [x]), outputs, strict=True):
            assert jnp.allclose(found, output, rtol=1e-6)
    jax.effects_barrier()
    assert not CALLS


def test_what_a_needed_output_reads_is_called():
    calls = []

    def fn(x):
        def read(x):
            calls.append(1)
            return x

        seen = jax.pure_callback(read, jax.ShapeDtypeStruct(x.shape, x.dtype), x)
        return seen * 2

    evaluate_slice(jax.make_jaxpr(fn)(X), [X])
    assert len(calls) == 1
