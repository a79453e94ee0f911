"""Trains shared values: all weights of one index get one update."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.quantise.codebooks import Codebook, books_of
from jaxprune.types import Params

__all__ = ["SharedState", "shared"]


class SharedState(NamedTuple):
    """State of `shared`.

    Attributes:
      inner: the inner optimizer's state, for a vector of values in the place of each leaf with a codebook.
    """

    inner: optax.OptState


def shared(
    inner: optax.GradientTransformation, codebooks: Any
) -> optax.GradientTransformationExtraArgs:
    r"""Trains the values of codebooks: the gradient of a value is the sum of those of its weights.

    $\partial L / \partial c_k = \sum_{i: a(i) = k} \partial L / \partial w_i$. Weights that are equal stay
    equal, to the last bit, and pruned ones stay zero; leaves without a codebook are trained as usual.

    Args:
      inner: any optax optimizer; it sees one vector for each leaf with a codebook.
      codebooks: of `jaxprune.quantise.codebooks`. The parameters begin as `jaxprune.quantise.dense` gives
        them; `jaxprune.quantise.updated` reads the values afterwards.

    Returns:
      A gradient transformation whose `update` needs `params`.

    Raises:
      ValueError: in `update`, if `params` is missing.

    References:
      Han, Mao & Dally, "Deep Compression", ICLR 2016, section 3.3.

    >>> book = Codebook(jnp.array([1, 1, 0], jnp.uint8), jnp.array([0.0, 2.0]))
    >>> tx, params = shared(optax.sgd(0.5), {"w": book}), {"w": jnp.array([2.0, 2.0, 0.0])}
    >>> updates, _ = tx.update({"w": jnp.array([1.0, 2.0, 3.0])}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.5, 0.5, 0. ], dtype=float32)}
    """
    inner = optax.with_extra_args_support(inner)

    def books(params: Params) -> list[Codebook | None]:
        return books_of(params, codebooks)

    def values(params: Params) -> Params:
        leaves_and_books = zip(jax.tree.leaves(params), books(params), strict=True)
        return jax.tree.structure(params).unflatten(
            [leaf if book is None else _values(leaf, book) for leaf, book in leaves_and_books]
        )

    def init(params: Params) -> SharedState:
        return SharedState(inner.init(values(params)))

    def update(
        grads: Params, state: SharedState, params: Params = None, **extra: Any
    ) -> tuple[Params, SharedState]:
        if params is None:
            raise ValueError(
                "quantise.shared: update needs params; write tx.update(grads, state, params)."
            )
        grads_and_books = zip(jax.tree.leaves(grads), books(params), strict=True)
        value_gradients = jax.tree.structure(params).unflatten(
            [
                grad if book is None else _value_gradient(grad, book)
                for grad, book in grads_and_books
            ]
        )
        value_updates, inner_state = inner.update(
            value_gradients, state.inner, values(params), **extra
        )
        updates_and_books = zip(jax.tree.leaves(value_updates), books(params), strict=True)
        updates = [
            value_update if book is None else _weight_update(value_update, book)
            for value_update, book in updates_and_books
        ]
        return jax.tree.structure(params).unflatten(updates), SharedState(inner_state)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _values(leaf: jax.Array, book: Codebook) -> jax.Array:
    """Returns the value that the weights of each index have now; weights of one index are equal."""
    flat_indices = np.asarray(book.indices).ravel()
    used_indices, first_positions = np.unique(flat_indices, return_index=True)
    values = jnp.asarray(book.values, leaf.dtype)
    return values.at[used_indices].set(leaf.ravel()[first_positions]).at[0].set(0)


def _value_gradient(grad: jax.Array, book: Codebook) -> jax.Array:
    """Returns the gradient of each value: the sum over its weights; 0 for pruned ones."""
    flat_indices = book.indices.ravel().astype(jnp.int32)
    gradient_sums = jax.ops.segment_sum(grad.ravel(), flat_indices, len(book.values))
    return gradient_sums.at[0].set(0)


def _weight_update(step: jax.Array, book: Codebook) -> jax.Array:
    """Returns the update of each weight: that of its value; 0 for pruned ones."""
    return step.at[0].set(0)[book.indices]
