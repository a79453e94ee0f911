"""Signals from the inputs of each kernel: mean squares, and Gram matrices."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

from jaxprune.signals import kernels
from jaxprune.signals.batches import mean_over
from jaxprune.signals.kernels import Mean
from jaxprune.signals.losses import check_function
from jaxprune.signals.means import input_matrices, mean_over_uses, ratio, read_kernels
from jaxprune.types import Params

__all__ = ["grams", "input_moments"]

Apply = Callable[[Params, Any], Any]
Progress = Callable[[int], Any] | None


def input_moments(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns the mean square $\mathrm{E}\,x_i^2$ of the input by which each weight is multiplied.

    Kernels are found in the program of `apply`, whether they are stored transposed, stacked for a loop,
    sliced or side by side (see `jaxprune.axes`). A kernel that is used several times has the mean over its
    uses. Each layer, expert and group, and each position in the window of a convolution, has its own
    moments. For an expert only the rows that are routed to it count (0 if there are none); for conditions
    only the branches that are taken.

    Args:
      apply: (params, batch) -> outputs, whatever they are.
      params: tree of arrays.
      batches: trees of arrays [examples, ...].
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params` of float32 arrays that broadcast against the kernels; axes along which the moments
      do not vary have length 1. `None` at leaves that are not a factor of a product, and at leaves of which
      the elements used are not known: looked up by inputs (`w[expert]`), used in a `while` loop of unknown
      length, split inside a `shard_map`, factors of a product of parameters.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: x @ params["w"]
    >>> input_moments(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5.],
           [2.]], dtype=float32)}
    """
    check_function("input_moments", params, apply=apply)
    options: Any = {"progress": progress, "who": "input_moments"}
    mean_by_leaf = mean_over(_moments, params, batches, static=(apply,), **options)
    return _tree(params, {leaf: ratio(mean) for leaf, mean in mean_by_leaf.items()})


def grams(
    apply: Apply, params: Params, batches: Iterable[Any], *, progress: Progress = None
) -> Params:
    r"""Returns the Gram matrix $\mathrm{E}\,x x^\top$ of the inputs of each kernel.

    It is half the Hessian of the mean squared error of one output with respect to its weights. Kernels that
    are multiplied by the same value share one array. Kernels are found as by `input_moments`. Memory:
    entries x entries numbers for each layer and each distinct input, all at the same time.

    Args:
      apply: (params, batch) -> outputs, whatever they are.
      params: tree of arrays.
      batches: trees of arrays [examples, ...].
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params` of float32 arrays `[*layers, entries, entries]`. The entries are the axes that the
      product sums over (inputs and window of a convolution), in the order of the kernel's axes. `None` where
      the inputs are not known, and where the outputs of a kernel have different inputs: grouped convolutions,
      slices of one kernel.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: x @ params["w"]
    >>> grams(apply, {"w": jnp.ones((2, 3))}, [jnp.array([[1.0, 2.0], [3.0, 0.0]])])
    {'w': Array([[5., 1.],
           [1., 2.]], dtype=float32)}
    """
    check_function("grams", params, apply=apply)
    options: Any = {"progress": progress, "who": "grams"}
    mean_by_leaves = mean_over(_grams, params, batches, static=(apply,), **options)
    gram_by_leaf: dict[int, jax.Array] = {}
    for leaves, mean in mean_by_leaves.items():
        gram_by_leaf |= dict.fromkeys(leaves, ratio(mean))
    return _tree(params, gram_by_leaf)


def _moments(apply: Apply, params: Params, batch: Any) -> dict[int, Mean]:
    """Returns the mean squares of a batch by index of the leaf."""
    kernels_read = read_kernels(apply, params, batch, kernels.input_moments)
    return {
        leaf: mean_over_uses(
            kernels_read,
            leaf,
            records,
            [kernels_read.observed.emitted[record.statistic] for record in records],
        )
        for leaf, records in kernels_read.records().items()
    }


def _grams(apply: Apply, params: Params, batch: Any) -> dict[tuple[int, ...], Mean]:
    """Returns the Gram matrices of a batch by indices of the leaves that share an input."""
    return input_matrices(read_kernels(apply, params, batch, kernels.grams))


def _tree(params: Params, value_by_leaf: dict[int, Any]) -> Params:
    """Returns a tree like `params` of the values of some leaves, `None` at the others."""
    treedef = jax.tree.structure(params)
    return treedef.unflatten([value_by_leaf.get(leaf) for leaf in range(treedef.num_leaves)])
