"""The loop over batches that all signals share: means of what a function gives for a batch, and checks."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks
from jaxprune.arrays.precision import widen
from jaxprune.signals.finite import Watch
from jaxprune.types import Params

__all__ = [
    "check_rereadable",
    "check_several",
    "mean_over",
    "number_of_examples",
    "with_example_counts",
]

Progress = Callable[[int], Any]


def mean_over(
    fn: Callable[..., Any],
    params: Params,
    batches: Iterable[Any],
    *extra: Any,
    static: tuple[Any, ...] = (),
    key: jax.Array | None = None,
    progress: Progress | None = None,
    who: str = "mean_over",
) -> Any:
    r"""Returns the mean of `fn(params, batch)` over batches: $\sum_b n_b f(\theta, b) / \sum_b n_b$.

    The weight $n_b$ of a batch is its number of examples, the length of the leading axis of its first leaf.
    If `fn` is a mean over the batch, the result is the mean over all examples, whatever the batch sizes. Sums
    are float32 at least; products inside `fn` are taken in full float32 (on accelerators too). `fn` is
    compiled once per shape of batches, and not again in a later call with the same `fn` and `static`. Each
    batch is finished before the next is read, so that a long stream of them does not pile up in memory.

    Args:
      fn: (*static, params, batch, *extra) -> tree of arrays.
      params: tree of arrays.
      batches: trees of arrays, from any iterable; they may be sharded.
      *extra: more arguments, traced.
      static: leading arguments of `fn` that are compile-time constants; hashable, such as a loss.
      key: PRNG key; if given, `fn` receives a different key for each batch as its last argument.
      progress: called with the number of batches done, after each.
      who: function name in error messages.

    Returns:
      The tree that `fn` returns, with arrays of float32 or wider.

    Raises:
      ValueError: if there are no batches, or one has no examples. After all batches are read: if a batch
        holds NaN, or the sum became NaN although no batch does (not checked under tracing).

    >>> batches = [jnp.array([1.0, 2.0, 3.0]), jnp.array([6.0])]  # three examples and one
    >>> float(mean_over(lambda w, x: w * jnp.mean(x), jnp.array(2.0), batches))
    6.0
    """
    checks.check(who, fn=(fn, checks.FUNCTION), params=(params, checks.TREE))
    checks.check(who, key=(key, checks.optional(checks.KEY)))
    total = None
    examples = 0
    watch = Watch(who)
    for index, (batch, number_in_batch) in enumerate(
        with_example_counts(watch.batches(check_several(batches)), progress)
    ):
        batch_key = () if key is None else (jax.random.fold_in(key, index),)
        value = _weighted(fn, static, params, batch, float(number_in_batch), (*extra, *batch_key))
        total = value if total is None else _add(total, value)
        examples += number_in_batch
        jax.block_until_ready(total)
        watch.signal(total)
    watch.check(params)
    return jax.tree.map(lambda x: x / examples, total)


@functools.partial(jax.jit, static_argnames=("fn", "static"))
def _weighted(fn, static, params, batch, example_count, extra):
    with jax.default_matmul_precision("highest"):
        value = fn(*static, params, batch, *extra)
    return jax.tree.map(lambda x: example_count * widen(x), value)


@functools.partial(jax.jit, donate_argnums=0)
def _add(total, value):
    return jax.tree.map(jnp.add, total, value)


def check_several(batches: Iterable[Any]) -> Iterable[Any]:
    """Returns the batches if they are an iterable of batches: one array or dict would be taken apart.

    Raises:
      TypeError: if they are a batch, or nothing that can be read one by one.
    """
    checks.check("batches", batches=(batches, _SEVERAL))
    return batches


_SEVERAL = checks.Kind(
    "a list of batches",
    lambda value: (
        (hasattr(value, "__iter__") or hasattr(value, "__getitem__"))
        and not isinstance(value, Mapping | str | bytes | np.ndarray | jax.Array)
    ),
    lambda value: "of one batch make a list: [batch]",
)


def with_example_counts(
    batches: Iterable[Any], progress: Progress | None = None
) -> Iterator[tuple[Any, int]]:
    """Yields batches, each with its number of examples; calls `progress` when one has been dealt with.

    >>> [n for _, n in with_example_counts([jnp.ones((3, 2)), jnp.ones((1, 2))])]
    [3, 1]
    """
    batches_done = 0
    for batches_done, batch in enumerate(check_several(batches), 1):
        yield batch, number_of_examples(batch, batches_done - 1)
        if progress is not None:
            progress(batches_done)
    if not batches_done:
        raise ValueError(
            "batches: there is none; give a list, or another iterable, of at least one. An iterator that "
            "was read before is empty."
        )


def number_of_examples(batch: Any, index: int = 0, multiple_of: int | None = None) -> int:
    """Returns the number of examples of a batch: the leading axis of its first leaf.

    Args:
      batch: tree of arrays.
      index: of the batch among all, for messages.
      multiple_of: for a batch that is cut into groups of so many examples: all leaves must then share
        their leading axis, and groups must fill it.

    Raises:
      ValueError: if there is no such axis, it is empty, or cannot be cut.
    """
    leading_sizes = [
        jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in jax.tree.leaves(batch)
    ]
    if not leading_sizes or leading_sizes[0] is None:
        raise ValueError(
            f"batches: the first leaf of batch {index} has no leading axis to count examples along; give "
            "trees of arrays [examples, ...]."
        )
    if not leading_sizes[0]:
        raise ValueError(f"batches: batch {index} has no examples.")
    if multiple_of is not None:
        if set(leading_sizes) != {leading_sizes[0]}:
            raise ValueError(
                f"batches: the leaves of batch {index} have leading axes {leading_sizes}; to cut it into "
                "groups of examples, all must have the same."
            )
        if leading_sizes[0] % multiple_of:
            raise ValueError(
                f"batches: batch {index} has {leading_sizes[0]} examples, not a multiple of "
                f"examples={multiple_of}; leave the last ones out, or take groups of another size."
            )
    return leading_sizes[0]


def check_rereadable(batches: Iterable[Any], why: str) -> Iterable[Any]:
    """Returns the batches if they can be read more than once; `why` they must begins the error.

    Raises:
      ValueError: if they are an iterator, which can be read only once.
    """
    if iter(check_several(batches)) is batches:
        raise ValueError(
            f"{why}, but a {type(batches).__name__} can be read only once; give a list of them."
        )
    return batches
