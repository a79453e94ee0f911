"""Equations that no output needs are removed, also within loops."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs

X = jnp.arange(3.0)


def primitives(jaxpr) -> list[str]:
    names = [equation.primitive.name for equation in jaxpr.eqns]
    inner = [p for e in jaxpr.eqns for p in e.params.values() if hasattr(p, "consts")]
    return names + [name for program in inner for name in primitives(program.jaxpr)]


def loop(x):
    """Counts to 5; sums are returned, sines are not."""

    def body(state):
        count, total, sines = state
        return count + 1, total + x, sines + jnp.sin(x)

    _, total, _ = jax.lax.while_loop(lambda state: state[0] < 5, body, (0, x, x))
    return total


def test_a_loop_carries_only_what_is_needed():
    program = jax.make_jaxpr(loop)(X)
    shortened = programs.remove_dead_equations(program)
    assert "sin" in primitives(program.jaxpr)
    assert "sin" not in primitives(shortened.jaxpr)
    (total,) = programs.evaluate(shortened, [X])
    np.testing.assert_array_equal(total, loop(X))


def test_equations_before_a_loop_that_only_dead_values_need_go_too():
    def fn(x):
        start = jnp.cos(x)

        def body(state):
            count, total, unused = state
            return count + 1, total + x, unused * 2

        return jax.lax.while_loop(lambda state: state[0] < 5, body, (0, x, start))[1]

    shortened = programs.remove_dead_equations(jax.make_jaxpr(fn)(X))
    assert "cos" not in primitives(shortened.jaxpr)


def test_inputs_stay():
    program = jax.make_jaxpr(lambda x, y: x + 1)(X, X)
    assert len(programs.remove_dead_equations(program).jaxpr.invars) == 2
