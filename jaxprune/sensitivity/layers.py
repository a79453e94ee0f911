"""The layers that are pruned one at a time: leaves, and slices of leaves in which layers are stacked."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune import trees
from jaxprune.kernel_axes import AxesTree, layer_axes, of_leaves
from jaxprune.types import Params

__all__ = ["Layer", "layers_by_path", "with_layer"]


class Layer(NamedTuple):
    """A leaf, or a slice of one that is a layer of its own.

    Attributes:
      name: of the layer.
      path: of the leaf.
      index: of the layer in the leaf; `...` for all of it.
    """

    name: str
    path: str
    index: Any


def layers_by_path(params: Params, axes: AxesTree | None) -> dict[str, list[Layer]]:
    """The layers of each leaf, by its path; refuses two leaves of the same path."""
    paths = masks_lib.paths(params)
    trees.check_distinct("sensitivity", paths)
    rows = zip(paths, jax.tree.leaves(params), of_leaves(axes, params), strict=True)
    return {
        path: _layers_of_leaf(path, jnp.shape(leaf), layer_axes(leaf_axes))
        for path, leaf, leaf_axes in rows
    }


def _layers_of_leaf(path: str, shape: tuple[int, ...], stack_axes: tuple[int, ...]) -> list[Layer]:
    if not stack_axes:
        return [Layer(path, path, ...)]
    stack_shape = [shape[axis] for axis in stack_axes]
    names = trees.layer_names(path, stack_shape)
    layers = []
    for name, position in zip(names, np.ndindex(*stack_shape), strict=True):
        index: list[Any] = [slice(None)] * len(shape)
        for axis, layer_index in zip(stack_axes, position, strict=True):
            index[axis] = layer_index
        layers.append(Layer(name, path, tuple(index)))
    return layers


def with_layer(others: Params, source: Params, layer: Layer) -> Params:
    """The tree `others`, with one layer taken from `source`, which may be in other containers."""
    treedef = jax.tree.structure(others)
    rows = zip(
        masks_lib.paths(others),
        jax.tree.leaves(others),
        trees.beside(others, source),
        strict=True,
    )

    def replace_layer(leaf: Any, source_leaf: Any) -> Any:
        if layer.index is ...:
            return source_leaf
        return jnp.asarray(leaf).at[layer.index].set(source_leaf[layer.index])

    return treedef.unflatten(
        [
            replace_layer(leaf, source_leaf) if path == layer.path else leaf
            for path, leaf, source_leaf in rows
        ]
    )
