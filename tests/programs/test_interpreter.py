"""Programs run equation by equation, by a rule of one's own."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs

X = jnp.arange(3.0)


def test_evaluation_gives_what_the_function_gives():
    def fn(x):
        return jnp.sort(x[::-1]), {"sum": jnp.sum(jax.jit(jnp.sin)(x))}

    program, structure = programs.trace(fn, X)
    values, sums = structure.unflatten(programs.evaluate(program, [X]))
    np.testing.assert_array_equal(values, X)
    np.testing.assert_array_equal(sums["sum"], jnp.sum(jnp.sin(X)))


def test_called_programs_are_run_in_place_unless_told_otherwise():
    program, _ = programs.trace(lambda x: jax.jit(jax.jit(jnp.sin))(x) + 1, X)
    names = []

    def rule(equation, values):
        names.append(equation.primitive.name)
        return programs.bind(equation, values)

    programs.run(program, [X], rule)
    assert names == ["sin", "add"]
    names.clear()
    programs.run(program, [X], rule, enters=lambda equation: False)
    assert programs.is_call(names[0])
    assert names[1] == "add"


def test_a_scan_runs_with_another_body():
    def body(carry, row):
        return carry + row, carry

    program, _ = programs.trace(lambda x: jax.lax.scan(body, jnp.float32(0), x), X)
    (scan,) = (e for e in program.jaxpr.eqns if e.primitive.name == "scan")
    assert programs.count_scan_inputs(scan) == (0, 1)

    def iteration(arrays):
        carry, row = arrays
        return [carry + 2 * row, carry, row]  # one kind of rows more

    total, sums, rows = programs.run_scan(scan, [jnp.float32(0), X], iteration, 3)
    assert total == 6
    np.testing.assert_array_equal(sums, [0, 0, 2])
    np.testing.assert_array_equal(rows, X)
