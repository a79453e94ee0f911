"""How long compiled functions take, beside each other."""

import time
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["seconds"]


def seconds(*functions: Callable[[], Any], repeats: int = 10) -> list[float]:
    """Returns the least time of each, of several runs in turn: what else the machine does strikes all alike.

    Args:
      *functions: called once before, as the first call may compile.
      repeats: runs of each.

    >>> all(time > 0 for time in seconds(lambda: jax.numpy.ones(3), lambda: 1, repeats=2))
    True
    """
    found = [float("inf")] * len(functions)
    for run in range(repeats + 1):
        for i, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function())
            took = time.perf_counter() - start
            found[i] = min(found[i], took) if run else found[i]
    return found
