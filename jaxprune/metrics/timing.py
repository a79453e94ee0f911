"""Measures and compares the run times of functions."""

import time
from collections.abc import Callable
from typing import Any

import jax

__all__ = ["seconds"]


def seconds(*functions: Callable[[], Any], repeats: int = 10) -> list[float]:
    """Returns the shortest time of several runs of each function, in seconds.

    The functions run in turn, so that other load of the machine affects all of them equally.

    Args:
      *functions: functions without arguments; each is called once before, as the first call may compile.
      repeats: measured runs of each function.

    Returns:
      A list of one time per function; a time ends when the result is ready.

    >>> all(time > 0 for time in seconds(lambda: jax.numpy.ones(3), lambda: 1, repeats=2))
    True
    """
    least_times = [float("inf")] * len(functions)
    for run_index in range(repeats + 1):
        for index, function in enumerate(functions):
            start = time.perf_counter()
            jax.block_until_ready(function())
            elapsed = time.perf_counter() - start
            if run_index:
                least_times[index] = min(least_times[index], elapsed)
    return least_times
