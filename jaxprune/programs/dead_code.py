"""What a program computes for nobody."""

from typing import Any

from jax.interpreters import partial_eval

__all__ = ["live"]


def live(program: Any) -> Any:
    """The program without the equations that no output needs, also within loops and called programs.

    Inputs stay, whether they are read or not, and so does what has effects, such as printing.

    >>> import jax, jax.numpy as jnp
    >>> def fn(x):
    ...     jnp.sort(x)
    ...     return x + 1
    >>> [equation.primitive.name for equation in live(jax.make_jaxpr(fn)(jnp.ones(3))).eqns]
    ['add']
    """
    jaxpr = program.jaxpr
    found, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return program.replace(jaxpr=found)
