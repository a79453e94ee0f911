"""Whether weights or masks are N:M sparse along the inputs of their kernels."""

import jax
import jax.numpy as jnp

from jaxprune import checks, patterns
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree, of_leaves
from jaxprune.masks import Prunable
from jaxprune.types import Params

__all__ = ["check_nm", "nm_faults"]


def nm_faults(
    tree: Params, n: int, m: int, *, prunable: Prunable = None, axes: AxesTree | None = None
) -> dict[str, int]:
    """Returns by path how many groups of `m` neighbours along the inputs have more than `n` nonzeros.

    Args:
      tree: parameters, or masks; leaves that are `None` are left out.
      n: nonzeros that a group may have.
      m: neighbours in a group.
      prunable: which leaves are looked at (see `jaxprune.masks.make`); `None`: all that have masks.
      axes: which axes of the leaves are inputs: `jaxprune.axes(apply, params, *inputs)`; `None`: their shapes
        tell, and others are refused.

    Raises:
      ValueError: if a leaf has no groups of `m` along its inputs.

    >>> nm_faults({"a": jnp.array([[1.0], [0.0], [2.0], [3.0]]), "b": jnp.eye(4)}, 2, 4)
    {'a': 1, 'b': 0}
    """
    checks.check("nm_faults", n=(n, checks.INTEGER), m=(m, checks.INTEGER))
    if not 0 < n <= m:
        raise ValueError(
            f"nm_faults(n={n}, m={m}): n of m neighbours, with 1 <= n <= m, are needed."
        )
    tree, pattern, found = masks_lib.unpack(tree), patterns.groups(m), {}
    leaves = zip(masks_lib.paths(tree), jax.tree.leaves(tree), of_leaves(axes, tree), strict=True)
    looked_at = _looked_at(tree, prunable, axes)
    for path, leaf, kernel in leaves:
        if path not in looked_at:
            continue
        if fault := pattern.check(jnp.shape(leaf), kernel):
            raise ValueError(f"{fault.format(leaf=repr(path))}.")
        nonzero = pattern.to_groups((leaf != 0).astype(jnp.float32), kernel)
        along = pattern.contests(jnp.shape(leaf), kernel).axis
        found[path] = int(jnp.sum(jnp.sum(nonzero, along) > n))
    return found


def check_nm(
    tree: Params, n: int, m: int, *, prunable: Prunable = None, axes: AxesTree | None = None
) -> None:
    """Refuses weights or masks that are not N:M sparse; takes what `nm_faults` takes.

    Raises:
      ValueError: the leaf with the most groups of more than `n` nonzeros, and how many it has.

    >>> check_nm({"a": jnp.array([[1.0], [4.0], [2.0], [0.0]])}, 2, 4)
    Traceback (most recent call last):
    ValueError: check_nm: 'a' has 1 of 1 groups of 4 with more than 2 nonzeros; it is not 2:4 sparse.
    """
    faults = nm_faults(tree, n, m, prunable=prunable, axes=axes)
    wrong = {path: count for path, count in faults.items() if count}
    if not wrong:
        return
    leaves = jax.tree.leaves(masks_lib.unpack(tree))
    sizes = dict(zip(masks_lib.paths(masks_lib.unpack(tree)), map(jnp.size, leaves), strict=True))
    worst = max(wrong, key=wrong.__getitem__)
    more = f" ({len(wrong) - 1} more leaves have some)" if len(wrong) > 1 else ""
    raise ValueError(
        f"check_nm: {worst!r} has {wrong[worst]} of {sizes[worst] // m} groups of {m} with more than {n} "
        f"nonzeros{more}; it is not {n}:{m} sparse."
    )


def _looked_at(tree: Params, prunable: Prunable, axes: AxesTree | None) -> set[str]:
    """Paths of the leaves that are to be N:M sparse: those with masks, or of parameters the prunable ones."""
    leaves = dict(zip(masks_lib.paths(tree), jax.tree.leaves(tree), strict=True))
    if prunable is None and all(jnp.issubdtype(leaf.dtype, bool) for leaf in leaves.values()):
        return set(leaves)
    floats = jax.tree.map(lambda leaf: (leaf != 0).astype(jnp.float32), tree)
    chosen = masks_lib.beside(tree, masks_lib.make(floats, prunable, axes=axes))
    return {path for path, mask in zip(leaves, chosen, strict=True) if mask is not None}
