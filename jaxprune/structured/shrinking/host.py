"""Work on arrays by NumPy, where XLA would compile a program for each of their shapes, used once."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.arrays.host_arrays import Blockwise, take_indices
from jaxprune.arrays.shardings import whole
from jaxprune.calls import is_traced

__all__ = ["cut", "on_host", "run_on_host", "to_device"]


def on_host(x: Any) -> np.ndarray | None:
    """Returns an array of one device as NumPy has it; `None` if it is traced, or lies on several devices.

    Args:
      x: anything; what is no array of JAX gives `None`.

    >>> on_host(jax.numpy.ones(2))
    array([1., 1.], dtype=float32)
    """
    if not isinstance(x, jax.Array) or is_traced(x):
        return None
    return np.asarray(x) if len(x.sharding.device_set) == 1 else None


def to_device(arrays: Sequence[np.ndarray]) -> list[jax.Array]:
    """Returns arrays of NumPy as JAX has them, all moved at once: no program copies what a view repeats.

    Args:
      arrays: of NumPy.
    """
    with jax.ensure_compile_time_eval():  # in a traced function, too, they are numbers
        return jax.device_put([np.ascontiguousarray(array) for array in arrays])


def cut(x: Any, kept: Mapping[int, Sequence[int]]) -> Any:
    """Returns what is left of an array, of NumPy or of JAX, if some axes keep only some indices.

    Args:
      x: the array.
      kept: axis -> the indices that are kept, ascending; an axis without an entry keeps all.

    >>> cut(np.array([[1, 2, 3], [4, 5, 6]]), {1: [0, 2]})
    array([[1, 3],
           [4, 6]])
    """
    if not kept:
        return x
    if isinstance(x, np.ndarray):
        return take_indices(x, kept)
    if (host_array := on_host(x)) is not None:
        return jax.device_put(take_indices(host_array, kept), x.sharding, may_alias=True)
    x = whole(x)
    for axis, indices in kept.items():
        x = jnp.take(x, np.asarray(indices, np.int32), axis=axis)
    return x


class _InexactError(Exception):
    """NumPy would not give the numbers that XLA gives."""


def run_on_host(fn: Callable[[Any], Any], tree: Any) -> Any:
    """Returns what a function makes of a tree, computed by NumPy; `None` where XLA may give other numbers.

    Nothing is computed before it is read, and then block by block (`arrays.host_arrays`). Only absolute
    values and negated real numbers are the same to the last bit: XLA flushes the smallest products to zero,
    and adds to a product without rounding it.

    Args:
      fn: a function of the tree, which is traced.
      tree: of arrays.

    >>> np.asarray(run_on_host(jax.numpy.abs, jax.numpy.array([-1.0, 2.0])))
    array([1., 2.], dtype=float32)
    >>> run_on_host(jax.numpy.exp, jax.numpy.ones(2))
    """
    leaves = [on_host(leaf) for leaf in jax.tree.leaves(tree)]
    if any(leaf is None for leaf in leaves):
        return None
    program, structure = programs.trace(fn, tree)
    lazy_leaves = [Blockwise(leaf) for leaf in leaves if leaf is not None]
    try:
        return structure.unflatten(programs.run(program, lazy_leaves, _run_exactly))
    except _InexactError:
        return None


def _run_exactly(equation: Any, values: list[Any]) -> list[Any]:
    """Returns the outputs of an equation by NumPy; raises `_InexactError` if XLA may give others."""
    operation = _EXACT_OPERATIONS.get(equation.primitive.name)
    match values:
        case [Blockwise(source=source) as value] if operation and not np.iscomplexobj(source):
            return [value.then(operation)]
    raise _InexactError(equation.primitive.name)


_EXACT_OPERATIONS: dict[str, Callable[..., Any]] = {"abs": np.abs, "neg": np.negative}
