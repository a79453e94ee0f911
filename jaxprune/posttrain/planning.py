"""Makes the plan of a pruning after training from shapes alone."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, kernel_axes, trees
from jaxprune import masks as masks_lib
from jaxprune.checks import expression
from jaxprune.masks import Prunable
from jaxprune.posttrain import kernels as kernels_lib
from jaxprune.posttrain.flat_program import flat_program
from jaxprune.posttrain.kernels import Kernel
from jaxprune.posttrain.pieces import Flat
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.segments import cuts, segments
from jaxprune.types import Params

__all__ = ["plan"]


def plan(
    apply: Callable[..., Any],
    params: Params,
    batch: Any,
    *,
    prunable: Prunable = None,
    exclude: str | Iterable[str] = (),
) -> Plan:
    """Returns the plan by which `apply(params, batch)` is pruned segment by segment.

    Nothing is computed: shapes are enough. Loops over layers are unrolled, kernels are found whatever their
      layout, and equal segments share one program, whatever the number of layers.

    Args:
      apply: (params, batch) -> outputs; any JAX function, in evaluation mode.
      params: tree of arrays, or of their shapes.
      batch: tree of arrays or of shapes, as all batches will be.
      prunable: which parameters are pruned (see `jaxprune.masks.make`); `None`: kernels of products by their
        use in the program, without tables that are looked up and factors of low-rank updates.
      exclude: regular expressions, searched in the paths, of parameters that are not pruned.

    Returns:
      A `Plan`; `print` shows kernels, blocks and memory.

    Raises:
      ValueError: if one of the parameters to be pruned cannot be pruned: it is multiplied within a loop
        without a known end, its elements are looked up, or an unknown operation is between it and its
        product. Also if nothing is to be pruned, or an expression matches nothing.

    >>> import jax.numpy as jnp
    >>> apply = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"].T
    >>> params = {"a": jnp.ones((4, 6)), "b": jnp.ones((2, 6))}
    >>> kernels = plan(apply, params, jnp.ones((3, 4))).kernels  # sizes are layers, inputs, outputs
    >>> [(kernel.name, kernel.view.layout.size) for kernel in kernels]
    [('a', (1, 4, 6)), ('b', (1, 6, 2))]
    """
    checks.check("posttrain.plan", apply=(apply, checks.FUNCTION), params=(params, checks.TREE))
    if not isinstance(exclude, str | Iterable):
        checks.expression("posttrain.plan(exclude=)", exclude)
    shapes = jax.tree.map(_shape, trees.plain(params))
    shaped_params = jax.tree.structure(params).unflatten(jax.tree.leaves(shapes))
    batch = jax.tree.map(_shape, batch)
    names = trees.paths(shapes)
    flat = Flat(flat_program(apply, shaped_params, batch), len(names))
    followed_program = kernels_lib.follow_parameters(flat)
    structure = jax.tree.structure(shapes)
    leaf_shapes = [np.shape(leaf) for leaf in jax.tree.leaves(shapes)]
    axes = kernel_axes.of_follower(followed_program.follower, leaf_shapes)
    is_pruned = _choose_pruned(shapes, structure.unflatten(axes), names, prunable, exclude)
    kernels, inputs, reasons = kernels_lib.find_kernels(flat, followed_program, names, is_pruned)
    _check_all_found(names, is_pruned, kernels, reasons)
    cut_points = cuts(flat, kernels, inputs)
    plan_segments = segments(flat, cut_points, inputs)
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(shapes)]
    is_vector = [
        leaf_axes is None and is_float for leaf_axes, is_float in zip(axes, floating, strict=True)
    ]
    return Plan(
        flat,
        names,
        is_pruned,
        kernels,
        inputs,
        cut_points,
        plan_segments,
        is_vector,
        structure,
        batch,
    )


def _choose_pruned(
    shapes: Params,
    axes: Any,
    names: Sequence[str],
    prunable: Prunable,
    exclude: str | Iterable[str],
) -> list[bool]:
    """Returns whether each parameter is to be pruned, by `prunable` and `exclude` of `plan`."""
    mask_shapes = jax.eval_shape(lambda tree: masks_lib.make(tree, prunable, axes=axes), shapes)
    is_pruned = [mask is not None for mask in trees.beside(shapes, mask_shapes)]
    for pattern in [exclude] if isinstance(exclude, str) else exclude:
        expression("exclude", pattern)
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"exclude: {pattern!r} matches none of {trees.quote_names(names)}.")
        is_pruned = [
            pruned and not re.search(pattern, name)
            for pruned, name in zip(is_pruned, names, strict=True)
        ]
    return is_pruned


def _check_all_found(
    names: Sequence[str],
    is_pruned: Sequence[bool],
    kernels: Sequence[Kernel],
    reasons: dict[int, str],
) -> None:
    """Raises if a parameter that is to be pruned is no kernel, with the reason; or if there is no kernel."""
    reasons = dict(reasons)
    kernel_leaves = {leaf_index for kernel in kernels for leaf_index in kernel.leaves}
    for leaf_index in range(len(names)):
        if is_pruned[leaf_index] and leaf_index not in kernel_leaves and leaf_index not in reasons:
            reasons[leaf_index] = "no product with the inputs was found that it is a factor of"
    if reasons:
        reason_texts = [
            f"{names[leaf_index]!r}: {reason}" for leaf_index, reason in sorted(reasons.items())
        ]
        others_text = f" (and {len(reason_texts) - 3} more)" if len(reason_texts) > 3 else ""
        raise ValueError(
            f"posttrain.plan: {'; '.join(reason_texts[:3])}{others_text}; leave such parameters out with "
            "exclude=, or give prunable= a regular expression of those that are meant."
        )
    if not kernels:
        raise ValueError(
            f"posttrain.plan: nothing is left to prune of {trees.quote_names(names)}; "
            "change prunable= or exclude=."
        )


def _shape(leaf: Any) -> Any:
    """Returns shape and dtype of a leaf, the dtype as JAX makes it of NumPy's or Python's."""
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        leaf = np.asarray(leaf)
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    return jax.ShapeDtypeStruct(np.shape(leaf), dtype)
