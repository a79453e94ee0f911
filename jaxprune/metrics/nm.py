"""Checks N:M sparsity of weights or masks along the input axis: at most N nonzeros in M neighbours."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, patterns, trees
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.types import Params
from jaxprune.wording import counted

__all__ = ["check_nm", "nm_faults"]


def nm_faults(
    tree: Params, n: int, m: int, *, prunable: Prunable = None, axes: AxesTree | None = None
) -> dict[str, int]:
    """Returns for each path the number of groups of `m` neighbouring inputs with more than `n` nonzeros.

    Args:
      tree: parameters, or masks; leaves that are `None` are left out.
      n: largest number of nonzeros in a group.
      m: neighbours in a group.
      prunable: which leaves are looked at (see `jaxprune.masks.make`); `None`: all that have masks.
      axes: which axes of the leaves are inputs: `jaxprune.axes(apply, params, *inputs)`; `None`: guessed from
        their shapes, or else refused.

    Returns:
      A dict: path -> number of groups, 0 for leaves that are N:M sparse.

    Raises:
      ValueError: if not 1 <= n <= m, or a leaf has no groups of `m` along its inputs.

    >>> nm_faults({"a": jnp.array([[1.0], [0.0], [2.0], [3.0]]), "b": jnp.eye(4)}, 2, 4)
    {'a': 1, 'b': 0}
    """
    checks.check("nm_faults", n=(n, checks.INTEGER), m=(m, checks.INTEGER))
    if not 0 < n <= m:
        raise ValueError(
            f"nm_faults(n={n}, m={m}): n of m neighbours, with 1 <= n <= m, are needed."
        )
    tree = jax.tree.map(
        lambda leaf: leaf if hasattr(leaf, "dtype") else np.asarray(leaf), masks_lib.unpack(tree)
    )
    trees.check_distinct("nm_faults", masks_lib.paths(tree))
    pattern = patterns.groups(m)
    faults = {}
    rows = zip(masks_lib.paths(tree), jax.tree.leaves(tree), of_leaves(axes, tree), strict=True)
    checked_paths = _checked_paths(tree, prunable, axes)
    for path, leaf, leaf_axes in rows:
        if path not in checked_paths:
            continue
        if misfit := pattern.check(jnp.shape(leaf), leaf_axes):
            raise ValueError(f"{misfit.format(leaf=repr(path))}.")
        nonzero = pattern.to_groups((leaf != 0).astype(jnp.float32), leaf_axes)
        member_axes = pattern.contests(jnp.shape(leaf), leaf_axes).axis
        faults[path] = int(jnp.sum(jnp.sum(nonzero, member_axes) > n))
    return faults


def check_nm(
    tree: Params, n: int, m: int, *, prunable: Prunable = None, axes: AxesTree | None = None
) -> None:
    """Checks that weights or masks are N:M sparse.

    Args:
      tree: parameters, or masks; leaves that are `None` are left out.
      n: largest number of nonzeros in a group.
      m: neighbours in a group.
      prunable: which leaves are checked (see `jaxprune.masks.make`); `None`: all that have masks.
      axes: which axes of the leaves are inputs, as for `nm_faults`.

    Raises:
      ValueError: if they are not; it names the leaf with the most groups of more than `n` nonzeros, and the
        number of these groups.

    >>> check_nm({"a": jnp.array([[1.0], [4.0], [2.0], [0.0]])}, 2, 4)
    Traceback (most recent call last):
    ValueError: check_nm: 'a' has 1 of 1 groups of 4 with more than 2 nonzeros; it is not 2:4 sparse.
    """
    faults = nm_faults(tree, n, m, prunable=prunable, axes=axes)
    counts = {path: count for path, count in faults.items() if count}
    if not counts:
        return
    bare = masks_lib.unpack(tree)
    sizes = dict(zip(masks_lib.paths(bare), map(jnp.size, jax.tree.leaves(bare)), strict=True))
    worst = max(counts, key=counts.__getitem__)
    other_count = len(counts) - 1
    others = f" (and {counted(other_count, 'more leaf has', 'more leaves have')} some)"
    raise ValueError(
        f"check_nm: {worst!r} has {counts[worst]} of {sizes[worst] // m} groups of {m} with more than {n} "
        f"nonzeros{others if other_count else ''}; it is not {n}:{m} sparse."
    )


def _checked_paths(tree: Params, prunable: Prunable, axes: AxesTree | None) -> set[str]:
    """Returns the paths of the leaves that are looked at: those of masks, or of prunable parameters."""
    leaf_by_path = dict(zip(masks_lib.paths(tree), jax.tree.leaves(tree), strict=True))
    if prunable is None and all(jnp.issubdtype(leaf.dtype, bool) for leaf in leaf_by_path.values()):
        return set(leaf_by_path)
    floats = jax.tree.map(lambda leaf: (leaf != 0).astype(jnp.float32), tree)
    masks = masks_lib.beside(tree, masks_lib.make(floats, prunable, axes=axes))
    return {path for path, mask in zip(leaf_by_path, masks, strict=True) if mask is not None}
