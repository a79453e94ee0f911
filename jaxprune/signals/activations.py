"""Signals of what enters each kernel: mean squares, and Gram matrices."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxprune.signals import kernels
from jaxprune.signals.gather import mean_over
from jaxprune.signals.kernels import Mean
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import matrices, ratio, read, spread
from jaxprune.types import Params

__all__ = ["grams", "input_moments"]

Apply = Callable[[Params, Any], Any]
Progress = Callable[[int], Any] | None


def input_moments(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns $\mathrm{E}\,x_i^2$ of what each weight is multiplied with, per kernel.

    Kernels are found in the program of `apply`, which is not edited, however they are stored: transposed,
    stacked for a loop, sliced, beside each other (see `jaxprune.axes`). A kernel that is used several times
    has the mean over its uses; each layer, expert and group, and each place in the window of a convolution,
    has moments of its own. Those of an expert are over the rows that are routed to it, 0 without any; of
    conditions the branches that are taken count.

    Args:
      apply: (params, batch) -> anything.
      params: tree of arrays.
      batches: trees of arrays whose first axis is that of the examples.
      progress: called with the number of batches done.

    Returns:
      A tree like `params`: float32 arrays that broadcast against the kernels, with the length 1 along axes
      that make no difference. `None` at leaves that are no factor of a product, and where it is not known
      which of their elements are: looked up by inputs (`w[expert]`), in a `while` loop without a known end,
      on shards of their own, factors of a product of parameters.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: x @ params["w"]
    >>> input_moments(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5.],
           [2.]], dtype=float32)}
    """
    check_function("input_moments", params, apply=apply)
    more: Any = {"progress": progress, "who": "input_moments"}
    found = mean_over(_moments, params, batches, static=(apply,), **more)
    return _tree(params, {leaf: ratio(mean) for leaf, mean in found.items()})


def grams(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns $\mathrm{E}\,x x^\top$ of what enters each kernel: the Hessian of its squared error, halved.

    There is one matrix for each input: kernels that are multiplied with the same value have the same array.
    Kernels are found as by `input_moments`. Memory: the square of the entries that are summed over, for each
    input and layer at once.

    Args:
      apply: (params, batch) -> anything.
      params: tree of arrays.
      batches: trees of arrays whose first axis is that of the examples.
      progress: called with the number of batches done.

    Returns:
      A tree like `params`: float32 `[*layers, entries, entries]`, where entries are the kernel's inputs and
      the window of a convolution, in the order of its own axes. `None` where there is none, and where the
      outputs of a kernel have different inputs: grouped convolutions, slices of one kernel.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: x @ params["w"]
    >>> grams(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5., 1.],
           [1., 2.]], dtype=float32)}
    """
    check_function("grams", params, apply=apply)
    more: Any = {"progress": progress, "who": "grams"}
    found = mean_over(_grams, params, batches, static=(apply,), **more)
    by_leaf: dict[int, jax.Array] = {}
    for leaves, mean in found.items():
        by_leaf |= dict.fromkeys(leaves, ratio(mean))
    return _tree(params, by_leaf)


def _moments(apply: Apply, params: Params, batch: Any) -> dict[int, Mean]:
    """By leaf."""
    found = read(apply, params, batch, kernels.input_moments)
    return {
        leaf: spread(found, leaf, records, [found.observed.emitted[r.statistic] for r in records])
        for leaf, records in found.records().items()
    }


def _grams(apply: Apply, params: Params, batch: Any) -> dict[tuple[int, ...], Mean]:
    """By the leaves that share an input."""
    return matrices(read(apply, params, batch, kernels.grams))


def _tree(params: Params, by_leaf: dict[int, Any]) -> Params:
    """A tree like `params` of what is known by leaf, `None` elsewhere."""
    treedef = jax.tree.structure(params)
    return treedef.unflatten([by_leaf.get(leaf) for leaf in range(treedef.num_leaves)])
