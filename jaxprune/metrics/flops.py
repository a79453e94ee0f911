"""Counts the floating-point operations of a function's matrix products and convolutions, from its program."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune import checks, programs
from jaxprune.programs.kernels import follow_program
from jaxprune.programs.uses import Operations
from jaxprune.types import Params

__all__ = ["flops", "total_flops"]


def flops(fn: Callable[..., Any], params: Params, *inputs: Any) -> Params:
    r"""Returns, for each parameter, the number of operations in a call of `fn(params, *inputs)`.

    Matrix products and convolutions are counted, with two operations for a multiplication and its addition:
    $2 b m n$ for a dense layer ($b$ examples, $m$ inputs, $n$ outputs), $2 b h w k_h k_w c_{in} c_{out}$ for
    a convolution with $h \times w$ outputs, products with padding included. Other additions, norms and
    lookups are not counted. Products of two activations (attention scores) belong to no parameter;
    `total_flops` counts them too. A scan counts every iteration, a condition its costliest branch, a `while`
    loop one iteration. Operations that no output needs are not counted. If parameters are multiplied together
    (a mask, the factors of a low-rank update), each gets the operations of the product in which the result is
    used.

    Args:
      fn: any JAX function; it is traced, not run.
      params: tree of arrays.
      *inputs: further arguments of `fn`: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      A tree like `params` of Python integers.

    >>> import jax.numpy as jnp
    >>> params = {"kernel": jnp.ones((3, 4)), "scale": jnp.ones(())}
    >>> flops(lambda p, x: x @ p["kernel"] * p["scale"], params, jnp.ones((2, 3)))
    {'kernel': 48, 'scale': 0}
    """
    checks.check("flops", fn=(fn, checks.FUNCTION), params=(params, checks.TREE))
    counts = _operations(fn, params, *inputs).leaves
    treedef = jax.tree.structure(params)
    return treedef.unflatten([counts[leaf] for leaf in range(treedef.num_leaves)])


def total_flops(fn: Callable[..., Any], params: Params, *inputs: Any) -> int:
    """Returns how many operations all products of `fn(params, *inputs)` take, also those of two activations.

    Of the unpruned network `jaxprune.structured.flops` counts the same.

    Args:
      fn: any JAX function; it is traced, not run.
      params: tree of arrays.
      *inputs: further arguments of `fn`: arrays or `jax.ShapeDtypeStruct`s.

    Returns:
      An integer, two operations per multiply-add.

    >>> import jax.numpy as jnp
    >>> attend = lambda p, x: (x @ p["query"]) @ x.T  # 2 * 5 * 4 * 4, and 2 * 5 * 4 * 5
    >>> total_flops(attend, {"query": jnp.ones((4, 4))}, jnp.ones((5, 4)))
    360
    """
    checks.check("total_flops", fn=(fn, checks.FUNCTION), params=(params, checks.TREE))
    return _operations(fn, params, *inputs).total


def _operations(fn: Callable[..., Any], params: Params, *inputs: Any) -> Operations:
    """Returns the operations of what the outputs of a function need."""
    program, _ = programs.trace(fn, params, *inputs)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    return follow_program(programs.remove_dead_equations(program), shapes).operations
