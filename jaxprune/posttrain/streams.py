"""Live activations of each batch between segments, on device or host; checks of batches and parameters."""

import copy
from collections.abc import Collection, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.work import Stream, Work
from jaxprune.signals.batches import with_example_counts
from jaxprune.types import Params

__all__ = ["Streams", "checked_leaves"]


class Streams:
    """The live activations of all batches, by the index of the batch.

    Attributes:
      examples: number of examples in all batches.
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
        """Returns an independent copy; arrays are shared."""
        duplicate = copy.copy(self)
        duplicate._streams = list(self._streams)
        return duplicate

    def examples_of(self, batches: Collection[int]) -> int:
        """Returns the number of examples in the batches of these indices."""
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


def checked_leaves(plan: Plan, params: Params) -> list[Any]:
    """Returns the leaves of parameters, after checking that the plan is for them.

    Raises:
      ValueError: if paths, shapes or dtypes are not those of the plan.
    """
    plain_tree = trees.plain(params)
    leaves = jax.tree.leaves(plain_tree)
    names = trees.paths(plain_tree)
    expected_avals = {
        plan.names[leaf_index]: variable.aval for variable, leaf_index in plan.flat.leaves.items()
    }
    if names != plan.names:
        differing_names = set(names) ^ set(plan.names)
        raise ValueError(
            "posttrain.prune: the parameters are not those of the plan; "
            f"{trees.quote_names(sorted(differing_names))} are in one of them only. "
            "Make a plan of these parameters."
        )
    for name, leaf in zip(names, leaves, strict=True):
        if np.shape(leaf) != expected_avals[name].shape or jax.dtypes.canonicalize_dtype(
            leaf.dtype
        ) != jax.dtypes.canonicalize_dtype(expected_avals[name].dtype):
            raise ValueError(
                f"posttrain.prune: {name!r} is {leaf.dtype}{list(np.shape(leaf))}, in the plan "
                f"{expected_avals[name].str_short()}; make a plan of these parameters."
            )
    return leaves


def _check_batch(plan: Plan, batch: Any, index: int) -> None:
    """Raises if a batch differs from the plan's in structure, shapes or dtypes."""
    expected_leaves, structure = jax.tree.flatten(plan.batch)
    leaves, batch_structure = jax.tree.flatten(batch)
    if batch_structure != structure:
        raise ValueError(
            f"posttrain.prune: batch {index} (counted from 0) is {batch_structure}, that of the plan "
            f"{structure}."
        )
    for array, expected in zip(leaves, expected_leaves, strict=True):
        if np.shape(array) != expected.shape:
            raise ValueError(
                f"posttrain.prune: batch {index} (counted from 0) has an array {np.shape(array)}, the plan "
                f"is for {expected.shape}; all batches must have one shape: leave out or fill the last."
            )
        if _dtype(array) != _dtype(expected):
            raise ValueError(
                f"posttrain.prune: batch {index} (counted from 0) has an array of {_dtype(array)}, the plan "
                f"is for {_dtype(expected)}; cast it, or make a plan for such batches."
            )


def _dtype(array: Any) -> Any:
    """Returns the dtype that an array has on the device."""
    dtype = getattr(array, "dtype", None)
    dtype = np.asarray(array).dtype if dtype is None else dtype
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
