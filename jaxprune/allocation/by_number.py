"""An allocation that counts: so many units go, whatever fraction that is."""

import operator
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks, selection, trees
from jaxprune.allocation.choice import keep_chosen
from jaxprune.allocation.counts import Layers
from jaxprune.parts import factory
from jaxprune.types import Allocation, Params, Sparsity, Units

__all__ = ["removing"]

_is_units = lambda x: isinstance(x, Units)


@factory
def removing(count: int, *, of_tree: bool = False) -> Allocation:
    """So many units go: of each layer, or of the whole tree; the schedule's sparsity is not read.

    Units are those of the pattern: weights, channels, blocks. Where the rounds of a lottery ticket count what
    is alive, so many more go in each round.

    Args:
      count: units removed.
      of_tree: the worst of all leaves together go, instead of so many of each layer; a layer whose units are
        all worse than others can lose all of them.

    Raises:
      ValueError: when it is asked, if a layer, or the tree, has no more units than that.

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

    def of_each_layer(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del sparsity
        entries = trees.beside(params, units)
        for path, unit in zip(trees.paths(params), entries, strict=True):
            if unit is not None and count >= (size := unit.members * unit.contests):
                raise ValueError(
                    f"removing({count}): a layer of {path!r} has {size} units; give a smaller number, or "
                    "exclude the leaf with prunable=."
                )
        layers = Layers([unit for unit in entries if unit is not None])
        kept = iter(layers.in_contests(jnp.maximum(layers.sizes - count, layers.floors(1))))
        return jax.tree.structure(params).unflatten(
            None if unit is None else next(kept) for unit in entries
        )

    def of_whole_tree(params: Params, units: Any, sparsity: Sparsity) -> Any:
        del params, sparsity
        leaves, treedef = jax.tree.flatten(units, is_leaf=_is_units)
        size = sum(unit.scores.size for unit in leaves)
        if count >= size:
            raise ValueError(
                f"removing({count}, of_tree=True): there are {size} units; give a smaller number."
            )
        total = jnp.maximum(jnp.sum(Layers(leaves).sizes) - count, 1)
        chosen = selection.top([u.scores for u in leaves], total, [u.among for u in leaves])
        return jax.tree.unflatten(treedef, map(keep_chosen, leaves, chosen))

    return Allocation(of_whole_tree if of_tree else of_each_layer)
