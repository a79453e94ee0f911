"""NaN in batches and in what is gathered from them: counted on the device, looked at once."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

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
        """The batches, each counted as it passes."""
        for batch in batches:
            named = zip(paths(batch), jax.tree.leaves(batch), strict=True)
            floating = {path: leaf for path, leaf in named if _inexact(leaf)}
            counts = zip(floating, _nans(list(floating.values())), strict=True)
            self._batches.append({path: (n, np.size(floating[path])) for path, n in counts})
            yield batch

    def signal(self, signal: Any) -> None:
        """Counts NaN in a signal, as the last batch has left it."""
        self._signals.append(_nans([x for x in jax.tree.leaves(signal) if _inexact(x)]))

    def check(self, params: Params) -> None:
        """Raises `ValueError` if there was NaN.

        Args:
          params: that the signal is of, to be named if they are the cause.
        """
        batches, signals = jax.device_get(jax.tree.map(_known, (self._batches, self._signals)))
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
                    f"holds NaN: {_cause(params)}."
                )


def _cause(params: Params) -> str:
    named = zip(paths(params), jax.tree.leaves(params), strict=True)
    floating = [(path, leaf) for path, leaf in named if _inexact(leaf)]
    counts = _nans([leaf for _, leaf in floating])
    bad = [path for (path, _), n in zip(floating, counts, strict=True) if n]
    if bad:
        return f"the parameters do, at {bad[0]!r}; give those of a training that did not diverge"
    return (
        "on these numbers the function overflows, or divides by zero; look at what it gives for this batch, "
        "in a wider type"
    )


def _inexact(x: Any) -> bool:
    return jnp.issubdtype(x.dtype if hasattr(x, "dtype") else jnp.result_type(x), jnp.inexact)


def _nans(leaves: list[Any]) -> list[Any]:
    """How many, in each; of NumPy's arrays on the host, so that they are moved to the device only once."""
    on_device = [x for x in leaves if isinstance(x, jax.Array)]
    counted = iter(_nans_on_device(on_device))
    return [next(counted) if isinstance(x, jax.Array) else np.isnan(x).sum() for x in leaves]


@jax.jit
def _nans_on_device(leaves: list[jax.Array]) -> list[jax.Array]:
    return [jnp.sum(jnp.isnan(x), dtype=jnp.int32) for x in leaves]


def _known(count: Any) -> Any:
    """0 instead of what is traced."""
    return 0 if isinstance(count, Tracer) else count
