"""Trains shared values: all weights of one index get one update."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import trees
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import whole
from jaxprune.calls import is_traced
from jaxprune.quantise.codebooks import Codebook, books_of, check_shared, values_at
from jaxprune.transforms.checking import check_transform
from jaxprune.types import Masks, Params

__all__ = ["SharedState", "shared"]


class SharedState(NamedTuple):
    """State of `shared`.

    Attributes:
      inner: the inner optimizer's state, for a vector of values in the place of each leaf with a codebook.
      codebooks: those given, with the initial values; `updated` reads the current values.
      masks: bool arrays, `None` at leaves without a codebook; what `jaxprune.masks_of` reads.
    """

    inner: optax.OptState
    codebooks: Any
    masks: Masks


def shared(
    inner: optax.GradientTransformation, codebooks: Any
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that trains the values of codebooks, each by the sum of its weights' gradients.

    $\partial L / \partial c_k = \sum_{i: a(i) = k} \partial L / \partial w_i$. Weights that are equal stay
    equal, to the last bit, and pruned ones stay zero; leaves without a codebook are trained as usual.

    Args:
      inner: any optax optimizer; it sees one vector for each leaf with a codebook.
      codebooks: from `jaxprune.quantise.codebooks`. Start from the parameters that `jaxprune.quantise.dense`
        returns; `init` refuses others. `jaxprune.quantise.updated` reads the trained values afterwards. They
        go into the state, so that one compiled update serves networks with other codebooks of the same
        shapes.

    Returns:
      A gradient transformation whose `update` needs `params`. Read its masks with `jaxprune.masks_of`.

    Raises:
      ValueError: in `init`, if weights of one index differ (not when they are traced); in `update`, if
        `params` is missing.
      TypeError: if `inner` is no optimizer.

    References:
      Han, Mao & Dally, "Deep Compression", ICLR 2016, section 3.3.

    >>> book = Codebook(jnp.array([1, 1, 0], jnp.uint8), jnp.array([0.0, 2.0]))
    >>> tx, params = shared(optax.sgd(0.5), {"w": book}), {"w": jnp.array([2.0, 2.0, 0.0])}
    >>> updates, _ = tx.update({"w": jnp.array([1.0, 2.0, 3.0])}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    {'w': Array([0.5, 0.5, 0. ], dtype=float32)}
    """
    check_transform("quantise.shared", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> SharedState:
        books = books_of(params, codebooks)
        remedy = "begin with params = quantise.dense(codebooks, params)"
        values = _shared_values(params, books)
        rows = zip(
            trees.paths(params),
            jax.tree.leaves(params),
            jax.tree.leaves(values),
            books,
            strict=True,
        )
        for path, leaf, leaf_values, book in rows:
            if book is not None and not any(map(is_traced, (leaf, *book))):
                differing = jnp.count_nonzero(values_at(leaf_values, book.indices) != leaf)
                check_shared("quantise.shared", path, int(differing), jnp.size(leaf), remedy)
        masks = [None if book is None else book.indices != 0 for book in books]
        return SharedState(
            inner.init(values),
            codebooks,
            jax.tree.structure(params).unflatten(masks),
        )

    def update(
        grads: Params, state: SharedState, params: Params = None, **extra: Any
    ) -> tuple[Params, SharedState]:
        if params is None:
            raise ValueError(
                "quantise.shared: update needs params; write tx.update(grads, state, params)."
            )
        books = books_of(params, state.codebooks)
        value_gradients = [
            grad if book is None else _value_gradient(grad, book)
            for grad, book in zip(jax.tree.leaves(grads), books, strict=True)
        ]
        structure = jax.tree.structure(params)
        value_updates, inner_state = inner.update(
            structure.unflatten(value_gradients),
            state.inner,
            _shared_values(params, books),
            **extra,
        )
        updates = [
            value_update if book is None else _weight_update(value_update, book)
            for value_update, book in zip(jax.tree.leaves(value_updates), books, strict=True)
        ]
        return structure.unflatten(updates), state._replace(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def _shared_values(params: Params, books: Sequence[Codebook | None]) -> Params:
    """Returns the parameters with a vector of values in the place of each leaf with a codebook."""
    leaves_and_books = zip(jax.tree.leaves(params), books, strict=True)
    return jax.tree.structure(params).unflatten(
        [leaf if book is None else _values(leaf, book) for leaf, book in leaves_and_books]
    )


def _values(leaf: jax.Array, book: Codebook) -> jax.Array:
    """Returns the value that the weights of each index have now, or the first one where none has it."""
    flat_indices = _flat(book.indices).astype(jnp.int32)
    # Weights of one index are equal, so that their maximum is each of them.
    values = jax.ops.segment_max(_flat(leaf), flat_indices, len(book.values))
    is_used = jax.ops.segment_max(jnp.ones_like(flat_indices), flat_indices, len(book.values)) > 0
    first_values = jnp.asarray(book.values, leaf.dtype)
    return jnp.where(is_used, values, first_values).at[0].set(0)


def _value_gradient(grad: jax.Array, book: Codebook) -> jax.Array:
    """Returns the gradient of each value: the sum over its weights; 0 for pruned ones."""
    flat_indices = _flat(book.indices).astype(jnp.int32)
    gradient_sums = jax.ops.segment_sum(widen(_flat(grad)), flat_indices, len(book.values))
    return gradient_sums.at[0].set(0).astype(grad.dtype)


def _flat(leaf: jax.Array) -> jax.Array:
    """Returns a leaf in one row, whole on each device of an explicit mesh."""
    return whole(leaf).ravel()


def _weight_update(step: jax.Array, book: Codebook) -> jax.Array:
    """Returns the update of each weight: that of its value; 0 for pruned ones."""
    return values_at(step.at[0].set(0), book.indices)
