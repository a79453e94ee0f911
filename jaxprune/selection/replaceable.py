"""Jitted functions that `selection.deferred.run_deferred` finds in a program, and runs in a way of its own.

A program tells its jitted functions apart by their names alone. Those that are replaced have names that no
function of a user has: a criterion's own `top` or `count_true` stays what it is.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

__all__ = ["replaceable"]


def replaceable(*, static: Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Decorates a function as `jax.jit` does, and names it by its module in programs.

    Args:
      static: names of the arguments that are not arrays.

    Returns:
      The decorator.

    >>> @replaceable()
    ... def double(x):
    ...     return 2 * x
    >>> jax.make_jaxpr(double)(1.0).eqns[0].params["name"] == f"{__name__}.double"
    True
    """

    def mark(fn: Callable) -> Callable:
        @functools.wraps(fn)
        def named(*args: Any, **kwargs: Any) -> Any:
            return fn(*args, **kwargs)

        named.__name__ = f"{fn.__module__}.{fn.__qualname__}"
        return jax.jit(named, static_argnames=tuple(static))

    return mark
