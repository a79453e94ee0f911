"""What is alive of each batch between segments, on the device or on the host; checks of what is given."""

import copy
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.work import Stream, Work
from jaxprune.signals.gather import with_example_counts
from jaxprune.types import Params

__all__ = ["Streams", "checked"]


class Streams:
    """The streams of all batches, by the number of the batch.

    Attributes:
      examples: in all batches.
    """

    def __init__(self, plan: Plan, work: Work, batches: Iterable[Any], where: str) -> None:
        if where not in ("device", "host"):
            raise ValueError(f'posttrain.prune(streams={where!r}): "device" or "host" is needed.')
        self._on_host = where == "host"
        self._streams: list[Stream] = []
        self._counts: list[int] = []
        for batch, count in with_example_counts(batches):
            _check_batch(plan, batch, len(self._counts))
            self._counts.append(count)
            self._streams.append(work.first_stream(batch))
        self.examples = sum(self._counts)

    def copy(self) -> "Streams":
        """The same streams, which go on by themselves."""
        other = copy.copy(self)
        other._streams = list(self._streams)
        return other

    def examples_of(self, batches: Collection[int]) -> int:
        """Examples in some batches."""
        return sum(self._counts[batch] for batch in batches)

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, batch: int) -> tuple[Stream, int]:
        return self._streams[batch], self._counts[batch]

    def __setitem__(self, batch: int, stream: Stream) -> None:
        if self._on_host:
            stream = {variable: _to_host(array) for variable, array in stream.items()}
        self._streams[batch] = stream


def _to_host(array: Any) -> Any:
    typed_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return array if typed_key else np.array(array)  # a copy: on CPU a view would hold the array


def checked(plan: Plan, params: Params) -> list[Any]:
    """The leaves of parameters, if they are those that the plan is for."""
    plain = trees.plain(params)
    leaves = jax.tree.leaves(plain)
    names = trees.paths(plain)
    needed = {plan.names[leaf]: v.aval for v, leaf in plan.flat.leaves.items()}
    if names != plan.names:
        differ = set(names) ^ set(plan.names)
        raise ValueError(
            f"posttrain.prune: the parameters are not those of the plan; "
            f"{trees.quote_names(sorted(differ))} are in one of them only. Make a plan of these parameters."
        )
    for name, leaf in zip(names, leaves, strict=True):
        if np.shape(leaf) != needed[name].shape or jax.dtypes.canonicalize_dtype(
            leaf.dtype
        ) != jax.dtypes.canonicalize_dtype(needed[name].dtype):
            raise ValueError(
                f"posttrain.prune: {name!r} is {leaf.dtype}{list(np.shape(leaf))}, in the plan "
                f"{needed[name].str_short()}; make a plan of these parameters."
            )
    return leaves


def _check_batch(plan: Plan, batch: Any, index: int) -> None:
    needed, structure = jax.tree.flatten(plan.batch)
    leaves, found = jax.tree.flatten(batch)
    if found != structure:
        raise ValueError(
            f"posttrain.prune: batch {index} (counted from 0) is {found}, that of the plan {structure}."
        )
    for leaf, shape in zip(leaves, needed, strict=True):
        if np.shape(leaf) != shape.shape:
            raise ValueError(
                f"posttrain.prune: batch {index} (counted from 0) has an array {np.shape(leaf)}, the plan is "
                f"for {shape.shape}; all batches must have one shape: leave out or fill the last."
            )
        if _dtype(leaf) != _dtype(shape):
            raise ValueError(
                f"posttrain.prune: batch {index} (counted from 0) has an array of {_dtype(leaf)}, the plan "
                f"is for {_dtype(shape)}; cast it, or make a plan for such batches."
            )


def _dtype(array: Any) -> Any:
    """The type that numbers have on the device."""
    dtype = getattr(array, "dtype", None)
    dtype = np.asarray(array).dtype if dtype is None else dtype
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
