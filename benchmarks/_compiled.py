"""What compilation of a function costs, and what the program needs: from shapes alone, nothing runs."""

import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

__all__ = ["Program", "compiled", "sizes"]


class Program(NamedTuple):
    """A compiled program and its costs.

    Attributes:
      seconds: CPU seconds of tracing, lowering and compilation, all threads together.
      arguments: bytes of the arguments.
      temporaries: bytes that the program needs beside arguments and results.
    """

    seconds: float
    arguments: int
    temporaries: int


def compiled(function: Callable[..., Any], *arguments: Any, **options: Any) -> Program:
    """Compiles a function for arguments of these shapes, with nothing left from before.

    Args:
      function: to be compiled.
      *arguments: trees of arrays or of `jax.ShapeDtypeStruct`.
      **options: of `jax.jit`.
    """
    jax.clear_caches()
    cached = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)  # a program on disk costs nothing
    start = _cpu_seconds()
    # Adam reads no parameters, masks do: an argument counts whether it is read or not.
    program = jax.jit(function, keep_unused=True, **options).lower(*arguments).compile()
    seconds = _cpu_seconds() - start
    jax.config.update("jax_enable_compilation_cache", cached)
    memory = program.memory_analysis()
    return Program(seconds, memory.argument_size_in_bytes, memory.temp_size_in_bytes)


def sizes(tree: Any) -> int:
    """Returns the bytes of a tree of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _cpu_seconds() -> float:
    """Of this process, and of the assemblers that XLA may have started and waited for."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system
