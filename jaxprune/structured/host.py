"""Arrays that NumPy may work on: XLA would compile a program for each of their shapes, once, for nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxprune import programs
from jaxprune.coupling import everywhere
from jaxprune.host_arrays import Blockwise, take_indices

__all__ = ["cut", "on_host", "run_on_host", "to_device"]


def on_host(x: Any) -> np.ndarray | None:
    """An array of one device as NumPy has it; `None` for one that is traced, or lies on several.

    >>> on_host(jax.numpy.ones(2))
    array([1., 1.], dtype=float32)
    """
    if not isinstance(x, jax.Array) or isinstance(x, Tracer):
        return None
    return np.asarray(x) if len(x.sharding.device_set) == 1 else None


def to_device(arrays: Sequence[np.ndarray]) -> list[jax.Array]:
    """Arrays of NumPy as JAX has them, all moved at once: no program copies what a view repeats."""
    with jax.ensure_compile_time_eval():  # in a traced function, too, they are numbers
        return jax.device_put([np.ascontiguousarray(x) for x in arrays])


def cut(x: Any, kept: Mapping[int, Sequence[int]]) -> Any:
    """What is left of an array, of NumPy or of JAX, if of some axes only some indices are kept.

    >>> cut(np.array([[1, 2, 3], [4, 5, 6]]), {1: [0, 2]})
    array([[1, 3],
           [4, 6]])
    """
    if not kept:
        return x
    if isinstance(x, np.ndarray):
        return take_indices(x, kept)
    if (whole := on_host(x)) is not None:
        return jax.device_put(take_indices(whole, kept), x.sharding, may_alias=True)
    x = everywhere(x)
    for axis, indices in kept.items():
        x = jnp.take(x, np.asarray(indices, np.int32), axis=axis)
    return x


class _InexactError(Exception):
    """NumPy would not give the numbers that XLA gives."""


def run_on_host(fn: Callable[[Any], Any], tree: Any) -> Any:
    """What a function makes of a tree of arrays, by NumPy; `None` where it may differ from what XLA makes.

    Nothing is computed before it is read, and then block by block (`jaxprune.host_arrays`). Only absolute
    values and signs of real numbers are the same to the last bit: XLA flushes the smallest products to zero,
    and adds to a product without rounding it.

    >>> np.asarray(run_on_host(jax.numpy.abs, jax.numpy.array([-1.0, 2.0])))
    array([1., 2.], dtype=float32)
    >>> run_on_host(jax.numpy.exp, jax.numpy.ones(2))
    """
    leaves = [on_host(x) for x in jax.tree.leaves(tree)]
    if any(x is None for x in leaves):
        return None
    program, structure = programs.trace(fn, tree)
    lazy = [Blockwise(x) for x in leaves if x is not None]
    try:
        return structure.unflatten(programs.run(program, lazy, _exactly))
    except _InexactError:
        return None


def _exactly(equation: Any, values: list[Any]) -> list[Any]:
    """What NumPy makes of values by an equation, if XLA makes the same."""
    operation = _EXACT.get(equation.primitive.name)
    match values:
        case [Blockwise(source=source) as value] if operation and not np.iscomplexobj(source):
            return [value.then(operation)]
    raise _InexactError(equation.primitive.name)


_EXACT: dict[str, Callable[..., Any]] = {"abs": np.abs, "neg": np.negative}
