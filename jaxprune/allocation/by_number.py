"""An allocation by count: a number of units is removed, whatever fraction that is."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, selection, trees
from jaxprune.allocation.choice import is_units, keep_chosen
from jaxprune.allocation.counts import Layers, fill_pruned
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity
from jaxprune.wording import counted

__all__ = ["removing"]


@factory
def removing(count: int, *, of_tree: bool = False) -> Allocation:
    """Returns the allocation that removes a number of units of each layer, or of the whole tree.

    Units are those of the pattern: weights, channels, blocks. The schedule's sparsity is not read. In a
      lottery ticket each round removes `count` more.

    Args:
      count: units removed.
      of_tree: whether `count` units of the whole tree are removed, instead of `count` of each layer; a layer
        whose units are all worse than others can then lose all of them.

    Returns:
      An allocation.

    Raises:
      ValueError: if `count` is negative; when it is used, if a layer, or the tree, has no more units, or the
        contests of a layer (N:M) cannot lose the same number each.

    >>> from jaxprune.types import Units
    >>> params = {"a": jnp.array([3.0, 1.0, 2.0]), "b": jnp.array([2.5, 4.0])}
    >>> units = jax.tree.map(Units, params)
    >>> jax.tree.map(int, removing(1)(params, units, 0.0))
    {'a': 2, 'b': 1}
    >>> [int(keep.count) for keep in removing(2, of_tree=True)(params, units, 0.0).values()]
    [1, 2]
    """
    checks.check("removing", count=(count, checks.INTEGER), of_tree=(of_tree, checks.BOOLEAN))
    count = operator.index(count)
    if count < 0:
        raise ValueError(f"removing(count={count}): a number of units, 0 or above, is needed.")

    def allocate_by_layer(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del sparsity
        units_by_leaf = trees.beside(params, units)
        for path, leaf_units in zip(trees.paths(params), units_by_leaf, strict=True):
            if leaf_units is None:
                continue
            unit_count = leaf_units.members * leaf_units.contests
            if count >= unit_count:
                raise ValueError(
                    f"removing({count}): a layer of {path!r} has {counted(unit_count, 'unit')}; give a "
                    "smaller number, or exclude the leaf with prunable=."
                )
            if count % leaf_units.contests:
                raise ValueError(
                    f"removing({count}): a layer of {path!r} has {leaf_units.contests} contests, which lose "
                    f"the same number each; give a multiple of {leaf_units.contests}, or another pattern."
                )
        layers = Layers([leaf_units for leaf_units in units_by_leaf if leaf_units is not None])
        kept = layers.in_contests(jnp.maximum(layers.sizes - count, layers.floors(1)))
        return fill_pruned(params, units_by_leaf, kept)

    def allocate_over_tree(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del params, sparsity
        units_by_leaf, treedef = jax.tree.flatten(units, is_leaf=is_units)
        unit_count = sum(leaf_units.scores.size for leaf_units in units_by_leaf)
        if count >= unit_count:
            raise ValueError(
                f"removing({count}, of_tree=True): it has {counted(unit_count, 'unit')}; give a smaller "
                "number."
            )
        kept_count = jnp.maximum(Layers(units_by_leaf).total - count, 1)
        chosen = selection.top(
            [leaf_units.scores for leaf_units in units_by_leaf],
            kept_count,
            [leaf_units.among for leaf_units in units_by_leaf],
        )
        return jax.tree.unflatten(treedef, keep_chosen(units_by_leaf, chosen))

    return Allocation(allocate_over_tree if of_tree else allocate_by_layer)
