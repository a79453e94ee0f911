"""Functions that stay functions in the compiled program, so that equal calls share their kernels.

XLA writes called functions out, each call by itself, and XLA:CPU compiles what then lies side by side anew. A
function marked here stays one: what is called for many leaves of one shape is compiled once, and as leaves
are worked on one after the other, what one needs in between can be used by the next. On other platforms, and
for JAX without the setting, the calls are written out as usual, and mean the same.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

__all__ = ["compiled_once", "stays_called", "unseen"]


def compiled_once(*, static: Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Decorates a function of arrays so that equal calls share one compiled function.

    Args:
      static: names of the arguments that are not arrays; they are given by name.

    Returns:
      The decorator.
    """

    def mark(fn: Callable) -> Callable:
        @functools.partial(jax.jit, static_argnames=tuple(static))
        @functools.wraps(fn)
        def body(*args: Any, **kwargs: Any) -> Any:
            with _inlining(None):  # what it calls itself is written out
                return fn(*args, **kwargs)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _inlining("false"):
                return body(*args, **kwargs)

        return call

    return mark


def unseen(numbers: Iterable[int]) -> list[Array]:
    """Returns numbers as uint32 scalars that the compiler does not see, so that it makes no kernel for each.

    >>> [int(number) for number in unseen([3, 0, 3])]
    [3, 0, 3]
    """
    numbers = tuple(numbers)
    distinct_numbers = tuple(dict.fromkeys(numbers))
    scalars = dict(zip(distinct_numbers, _unseen(numbers=distinct_numbers), strict=True))
    return [scalars[number] for number in numbers]


@compiled_once(static=["numbers"])
def _unseen(*, numbers: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(map(jnp.uint32, numbers))


def stays_called() -> bool:
    """Returns whether functions with `compiled_once` stay functions in a program for this platform."""
    return jax.default_backend() == "cpu"


def _inlining(inlineable: str | None) -> AbstractContextManager:
    """Returns a context whose calls XLA may write out or not; `None`: as it likes."""
    if not stays_called():
        return nullcontext()
    try:
        from jax.experimental.xla_metadata import set_xla_metadata
    except ImportError:
        return nullcontext()
    return set_xla_metadata(inlineable=inlineable)
