"""NaN in batches and in signals: counted on the device, reported once at the end."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.calls import is_traced
from jaxprune.masks import paths
from jaxprune.types import Params

__all__ = ["Watch"]


class Watch:
    """Counts NaN in batches and in a signal; `check` says of the first batch what is wrong with it.

    Infinities are no mistake: masks of attention hold them. Nothing waits for the device before `check`, and
    nothing is known of what is traced.

    >>> watch = Watch("grads")
    >>> [batch] = watch.batches([{"x": np.array([1.0, np.nan])}])
    >>> watch.check({})
    Traceback (most recent call last):
    ValueError: grads: batch 0 (counted from 0) has 1 NaN among the 2 numbers of its leaf 'x'; mend ...
    """

    def __init__(self, who: str) -> None:
        self._who = who
        self._batches: list[dict[str, tuple[Any, int]]] = []  # by leaf: NaN, numbers
        self._signals: list[list[Any]] = []  # after each batch, of each leaf: NaN

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Passes the batches on, and counts NaN in each."""
        for batch in batches:
            named_leaves = zip(paths(batch), jax.tree.leaves(batch), strict=True)
            floating_leaves = {path: leaf for path, leaf in named_leaves if _is_inexact(leaf)}
            nan_counts = zip(
                floating_leaves, _count_nans(list(floating_leaves.values())), strict=True
            )
            self._batches.append(
                {
                    path: (nan_count, np.size(floating_leaves[path]))
                    for path, nan_count in nan_counts
                }
            )
            yield batch

    def signal(self, signal: Any) -> None:
        """Counts NaN in a signal, as the last batch has left it."""
        self._signals.append(
            _count_nans([leaf for leaf in jax.tree.leaves(signal) if _is_inexact(leaf)])
        )

    def check(self, params: Params) -> None:
        """Raises `ValueError` if there was NaN.

        Args:
          params: that the signal is of, to be named if they are the cause.
        """
        batches, signals = jax.device_get(jax.tree.map(_untraced, (self._batches, self._signals)))
        for index, counts in enumerate(batches):
            for path, (nans, size) in counts.items():
                if nans:
                    leaf = f"leaf {path!r}" if path else "only leaf"
                    raise ValueError(
                        f"{self._who}: batch {index} (counted from 0) has {int(nans):,} NaN among the "
                        f"{size:,} numbers of its {leaf}; mend or leave out these examples."
                    )
        for index, counts in enumerate(signals):
            if any(counts):
                raise ValueError(
                    f"{self._who}: the signal is NaN from batch {index} (counted from 0) on, though no batch "
                    f"holds NaN: {_describe_cause(params)}."
                )


def _describe_cause(params: Params) -> str:
    named_leaves = zip(paths(params), jax.tree.leaves(params), strict=True)
    floating_leaves = [(path, leaf) for path, leaf in named_leaves if _is_inexact(leaf)]
    nan_counts = _count_nans([leaf for _, leaf in floating_leaves])
    paths_with_nan = [
        path for (path, _), nan_count in zip(floating_leaves, nan_counts, strict=True) if nan_count
    ]
    if paths_with_nan:
        return f"the parameters do, at {paths_with_nan[0]!r}; give those of a training that did not diverge"
    return (
        "on these numbers the function overflows, or divides by zero; look at what it gives for this batch, "
        "in a wider type"
    )


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(
        leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf), jnp.inexact
    )


def _count_nans(leaves: list[Any]) -> list[Any]:
    """Returns the count of NaN in each leaf; NumPy's arrays are counted on the host, to be moved once."""
    device_leaves = [leaf for leaf in leaves if isinstance(leaf, jax.Array)]
    device_counts = iter(_count_nans_on_device(device_leaves))
    return [
        next(device_counts) if isinstance(leaf, jax.Array) else np.isnan(leaf).sum()
        for leaf in leaves
    ]


@jax.jit
def _count_nans_on_device(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(jnp.isnan(leaf), dtype=jnp.int32) for leaf in leaves]


def _untraced(count: Any) -> Any:
    """Returns the count, or 0 if it is traced."""
    return 0 if is_traced(count) else count
