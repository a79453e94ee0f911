"""Codebooks: k-means finds few values that the weights of a leaf share."""

import operator
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune.trees.alike import entries_beside
from jaxprune.types import Masks, Params

__all__ = ["Codebook", "books_of", "check_shared", "codebooks", "dense", "updated", "values_at"]

Start = Literal["linear", "density", "random"]
_MOST_BITS = 8


class Codebook(NamedTuple):
    """A leaf of few values, `values[indices]`.

    Attributes:
      indices: uint8, in the shape of the leaf; 0 where it is pruned.
      values: float32 [2**bits], the first of them 0.0.
    """

    indices: jax.Array
    values: jax.Array

    @property
    def bits(self) -> int:
        """Number of bits of an index."""
        return int(self.values.shape[0]).bit_length() - 1


def codebooks(
    params: Params,
    masks: Masks,
    *,
    bits: int | Mapping[str, int],
    start: Start = "linear",
    iterations: int = 100,
    key: jax.Array | None = None,
) -> Any:
    r"""Finds the values that the surviving weights of each leaf share, by k-means.

    Each leaf is clustered alone, into $2^b - 1$ values that minimise $\sum_i (w_i - c_{a(i)})^2$ locally;
    pruned weights have index 0. The clustering works on sorted numbers and is deterministic, except for
    `start="random"`.

    Args:
      params: tree of arrays.
      masks: bool arrays; leaves without one (`None`) get no codebook.
      bits: number of bits of an index, from 1 to 8, or numbers by regular expression, searched in the paths;
        the first that matches counts, and each must match a leaf.
      start: initial values: "linear", evenly from the smallest to the largest weight, which keeps values near
        the large weights; "density", at even quantiles; "random", weights drawn by `key`.
      iterations: largest number of k-means iterations, 0 or more; it stops earlier if nothing changes.
      key: PRNG key, for `start="random"` alone.

    Returns:
      A tree like the parameters, of `Codebook`s; `None` at leaves without one.

    Raises:
      ValueError: if a leaf has NaN or infinite weights, or no bits are given for it, or an argument is out of
        its range.
      TypeError: if `start="random"` and `key` is missing, or an argument is of the wrong kind.

    References:
      Han, Mao & Dally, "Deep Compression", ICLR 2016, section 3. There the zeros that fill long gaps have no
      index of their own; here they have index 0, so that there is one value less.

    >>> params, masks = {"w": jnp.array([1.0, 1.2, -2.0, 0.1])}, {"w": jnp.array([1, 1, 1, 0], bool)}
    >>> books = codebooks(params, masks, bits=2)
    >>> books["w"].indices.tolist(), [round(v, 2) for v in books["w"].values.tolist()]
    ([3, 3, 1, 0], [0.0, -2.0, -0.4, 1.1])
    """
    checks.check("quantise.codebooks", params=(params, checks.TREE))
    checks.check(
        "quantise.codebooks",
        iterations=(iterations, checks.INTEGER),
        key=(key, checks.optional(checks.KEY)),
    )
    masks_lib.validate(params, masks)
    if start not in ("linear", "density", "random"):
        raise ValueError(
            f'quantise.codebooks(start={start!r}): "linear", "density" or "random" is needed.'
        )
    if start == "random" and key is None:
        raise TypeError('quantise.codebooks(start="random"): give key=jax.random.key(0).')
    if iterations < 0:
        raise ValueError(f"quantise.codebooks(iterations={iterations}): 0 or more are needed.")
    leaf_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    paths = trees.paths(params)
    bits_of_leaves = [
        None if mask is None else _bits_of(path, bits)
        for path, mask in zip(paths, leaf_masks, strict=True)
    ]
    if isinstance(bits, Mapping):
        trees.check_matches("quantise.codebooks(bits=)", bits, paths)
    books = []
    for leaf_index, (path, leaf, mask, index_bits) in enumerate(
        zip(paths, jax.tree.leaves(params), leaf_masks, bits_of_leaves, strict=True)
    ):
        leaf_key = None if key is None else jax.random.fold_in(key, leaf_index)
        books.append(
            None
            if index_bits is None
            else _codebook(path, leaf, mask, index_bits, start, iterations, leaf_key)
        )
    return jax.tree.structure(params).unflatten(books)


def _codebook(
    path: str,
    leaf: jax.Array,
    mask: jax.Array,
    index_bits: int,
    start: Start,
    iterations: int,
    key: jax.Array | None,
) -> Codebook:
    """Returns the codebook of one leaf."""
    weights = np.asarray(leaf, np.float64)
    is_kept = np.asarray(mask)
    surviving_weights = np.sort(weights[is_kept])
    if not np.isfinite(surviving_weights).all():
        raise ValueError(
            f"quantise.codebooks: {path!r} has NaN or infinite weights, which no values stand for."
        )
    centroids = _kmeans(surviving_weights, 2**index_bits - 1, start, iterations, key)
    boundaries = (centroids[1:] + centroids[:-1]) / 2
    indices = np.where(is_kept, np.searchsorted(boundaries, weights) + 1, 0).astype(np.uint8)
    values = np.concatenate([[0.0], centroids]).astype(np.float32)
    is_on_mesh = isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1
    placed_indices = jax.device_put(indices, leaf.sharding) if is_on_mesh else jnp.asarray(indices)
    return Codebook(placed_indices, jnp.asarray(values))


def _bits_of(path: str, bits: int | Mapping[str, int]) -> int:
    """Returns the number of bits of a leaf's indices, after checking it."""
    if isinstance(bits, Mapping):
        for pattern in bits:
            checks.expression("quantise.codebooks(bits=)", pattern)
        matching_bits = [
            index_bits for pattern, index_bits in bits.items() if re.search(pattern, path)
        ]
        if not matching_bits:
            raise ValueError(
                f"quantise.codebooks: {path!r} has a mask, but none of bits={dict(bits)} is for it."
            )
        bits = matching_bits[0]
    if not checks.INTEGER.fits(bits) or not 1 <= bits <= _MOST_BITS:
        raise ValueError(
            f"quantise.codebooks(bits={bits!r}): a whole number from 1 to {_MOST_BITS} is needed."
        )
    return operator.index(bits)


def _kmeans(
    ordered: np.ndarray, count: int, start: Start, iterations: int, key: jax.Array | None
) -> np.ndarray:
    """Returns the centroids of sorted numbers, ascending; empty clusters keep theirs.

    Clusters of sorted numbers are intervals, so that sums over them are differences of cumulative sums.
    """
    if not len(ordered):
        return np.zeros(count)
    centroids = _initial_centroids(ordered, count, start, key)
    cumulative_sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(iterations):
        boundaries = (centroids[1:] + centroids[:-1]) / 2
        cluster_ends = np.concatenate([[0], np.searchsorted(ordered, boundaries), [len(ordered)]])
        cluster_sizes = np.diff(cluster_ends)
        cluster_sums = np.diff(cumulative_sums[cluster_ends])
        next_centroids = np.where(
            cluster_sizes > 0, cluster_sums / np.maximum(cluster_sizes, 1), centroids
        )
        if np.array_equal(next_centroids, centroids):
            break
        centroids = np.sort(next_centroids)  # rounding must not disorder equal ones
    return centroids


def _initial_centroids(
    ordered: np.ndarray, count: int, start: Start, key: jax.Array | None
) -> np.ndarray:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.quantile(ordered, (np.arange(count) + 0.5) / count)
    assert key is not None
    drawn_indices = jax.random.randint(key, (count,), 0, len(ordered))
    return np.sort(ordered[np.asarray(drawn_indices)])


def dense(codebooks: Any, params: Params) -> Params:
    """Returns the parameters with the values of their codebooks, in their own dtype, zero where pruned.

    Args:
      codebooks: from `jaxprune.quantise.codebooks`.
      params: tree of arrays; leaves without a codebook stay as they are.

    Returns:
      A tree like the parameters.

    Raises:
      ValueError: if the codebooks are those of other leaves or shapes.

    >>> book = Codebook(jnp.array([1, 0], jnp.uint8), jnp.array([0.0, 2.0]))
    >>> dense({"w": book}, {"w": jnp.array([1.9, 0.3])})
    {'w': Array([2., 0.], dtype=float32)}
    """
    books = books_of(params, codebooks)
    leaves = [
        leaf if book is None else values_at(book.values, book.indices).astype(leaf.dtype)
        for leaf, book in zip(jax.tree.leaves(params), books, strict=True)
    ]
    return jax.tree.structure(params).unflatten(leaves)


def values_at(values: jax.Array, indices: jax.Array) -> jax.Array:
    """Returns the value of each index, sharded as the indices are."""
    sharding = jax.typeof(indices).sharding
    if not sharding.mesh.explicit_axes:
        return values[indices]
    return values.at[indices].get(out_sharding=sharding)


def updated(codebooks: Any, params: Params) -> Any:
    """Returns the codebooks with the values that parameters trained by `shared` have now.

    Args:
      codebooks: those that `shared` was given.
      params: tree of arrays, after training.

    Returns:
      A tree like the codebooks, with the same indices.

    Raises:
      ValueError: if weights of one index differ, as they do where something else has changed them, or the
        codebooks are those of other leaves or shapes.

    >>> book = Codebook(jnp.array([1, 0, 1], jnp.uint8), jnp.array([0.0, 2.0]))
    >>> updated({"w": book}, {"w": jnp.array([3.0, 0.0, 3.0])})["w"].values.tolist()
    [0.0, 3.0]
    """
    books = []
    old_books = books_of(params, codebooks)
    for path, leaf, old_book in zip(
        trees.paths(params), jax.tree.leaves(params), old_books, strict=True
    ):
        if old_book is None:
            books.append(None)
            continue
        remedy = "train them with quantise.shared alone"
        values = _values_in_use("quantise.updated", path, leaf, old_book, remedy)
        books.append(Codebook(old_book.indices, jnp.asarray(values)))
    return jax.tree.structure(params).unflatten(books)


def _values_in_use(who: str, path: str, leaf: Any, book: Codebook, remedy: str) -> np.ndarray:
    """Returns the value that the weights of each index have, or the book's where none has the index.

    Args:
      who: the function that was called.
      path: of the leaf.
      leaf: its weights.
      book: their codebook.
      remedy: what to do.

    Raises:
      ValueError: if weights of one index differ, or pruned ones are not zero.
    """
    indices = np.asarray(book.indices)
    weights = np.asarray(leaf, np.float32)
    values = np.array(book.values)
    values[indices] = weights
    values[0] = 0
    check_shared(who, path, int((values[indices] != weights).sum()), weights.size, remedy)
    return values


def check_shared(who: str, path: str, differing: int, weight_count: int, remedy: str) -> None:
    """Raises `ValueError` if weights of a leaf have another value than their index says.

    Args:
      who: the function that was called.
      path: of the leaf.
      differing: how many have.
      weight_count: of how many.
      remedy: what to do.
    """
    if differing:
        raise ValueError(
            f"{who}: weights of {path!r} with one index differ, or pruned ones are not zero "
            f"({differing} of {weight_count}); {remedy}."
        )


def books_of(params: Params, codebooks: Any) -> list[Codebook | None]:
    """Returns the codebook at each leaf of the parameters, or `None`, in whatever containers they are.

    Raises:
      ValueError: if they are those of other leaves or shapes.
    """

    def refusal(differ: str) -> str:
        return f"quantise: the codebooks are those of another tree than the parameters ({differ})."

    opaque_books = jax.tree.map(
        _OpaqueBook, codebooks, is_leaf=lambda node: node is None or isinstance(node, Codebook)
    )
    books = [opaque.book for opaque in entries_beside(params, opaque_books, refusal)]
    for path, leaf, book in zip(trees.paths(params), jax.tree.leaves(params), books, strict=True):
        if book is not None and jnp.shape(book.indices) != jnp.shape(leaf):
            raise ValueError(
                f"quantise: the codebook of {path!r} has the shape {jnp.shape(book.indices)}, its weights "
                f"{jnp.shape(leaf)}; give the codebooks of these parameters."
            )
    return books


class _OpaqueBook:
    """A codebook, or `None`, that JAX takes for one leaf of a tree."""

    def __init__(self, book: Codebook | None):
        self.book = book
