"""Functions that stay functions in the compiled program, so that equal calls share their kernels.

XLA writes called functions out, each call by itself, and XLA:CPU compiles what then lies side by side anew. A
function marked here stays one: what is called for many leaves of one shape is compiled once, and as leaves
are worked on one after the other, what one needs in between can be used by the next. On other platforms, and
for JAX without the setting, the calls are written out as usual, and mean the same.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax

__all__ = ["compiled_once", "stays_called"]


def compiled_once(*, static: Sequence[str] = ()) -> Callable[[Callable], Callable]:
    """Marks a function of arrays that equal calls shall share.

    Args:
      static: arguments, given by name, that are not arrays.
    """

    def mark(fn: Callable) -> Callable:
        @functools.partial(jax.jit, static_argnames=tuple(static))
        @functools.wraps(fn)
        def body(*args: Any, **kwargs: Any) -> Any:
            with _set(None):  # what it calls itself is written out
                return fn(*args, **kwargs)

        @functools.wraps(fn)
        def call(*args: Any, **kwargs: Any) -> Any:
            with _set("false"):
                return body(*args, **kwargs)

        return call

    return mark


def stays_called() -> bool:
    """Whether marked functions stay functions here."""
    return jax.default_backend() == "cpu"


def _set(inlineable: str | None) -> AbstractContextManager:
    if not stays_called():
        return nullcontext()
    try:
        from jax.experimental.xla_metadata import set_xla_metadata
    except ImportError:
        return nullcontext()
    return set_xla_metadata(inlineable=inlineable)
