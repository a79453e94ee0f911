"""Live activations of each batch between segments; checks of batches and parameters."""

import copy
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune import trees
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.shelves import Shelf
from jaxprune.posttrain.work import PruningState, Stream
from jaxprune.signals.batches import with_example_counts
from jaxprune.types import Params

__all__ = ["Streams", "checked_leaves"]


class Streams:
    """The live activations of all batches, by the index of the batch.

    Args:
      plan: of the network.
      state: gives the first stream of a batch.
      batches: are read once.
      where: "device" or "host": the memory that streams are in.
      stream_budget: bytes that streams may take there; those of further batches are in a file. `None`: no
        limit.
      sets: how many streams of each batch are kept at the same time.
      folder: of the file that the others are in; `None`: where Python makes temporary files.

    Raises:
      ValueError: if a batch is not as the plan's, or `where` is neither of the two.
    """

    def __init__(
        self,
        plan: Plan,
        state: PruningState,
        batches: Iterable[Any],
        where: str = "device",
        stream_budget: int | None = None,
        sets: int = 1,
        folder: Path | None = None,
    ) -> None:
        if where not in ("device", "host"):
            raise ValueError(f'posttrain.prune(streams={where!r}): "device" or "host" is needed.')
        in_memory = None if stream_budget is None else plan.batches_within(stream_budget, sets)
        self._shelf = Shelf(where == "host", in_memory, plan.slot_bytes, folder)
        self._kept: list[Any] = []
        self._counts: list[int] = []
        for batch, count in with_example_counts(batches):
            _check_batch(plan, batch, len(self._counts))
            stream = state.first_stream(jax.tree.map(_snapshot, batch))
            self._kept.append(self._shelf.first(len(self._kept), stream))
            self._counts.append(count)

    def copy(self) -> "Streams":
        """Returns an independent copy; arrays are shared."""
        return self.subset(range(len(self)))

    def subset(self, batches: Iterable[int]) -> "Streams":
        """Returns the streams of some batches, in this order; arrays are shared."""
        duplicate = copy.copy(self)
        batch_indices = list(batches)
        duplicate._kept = [self._kept[batch] for batch in batch_indices]
        duplicate._counts = [self._counts[batch] for batch in batch_indices]
        return duplicate

    def examples_of(self, batches: Collection[int]) -> int:
        """Returns the number of examples in the batches of these indices."""
        return sum(self._counts[batch] for batch in batches)

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, batch: int) -> tuple[Stream, int]:
        return self._shelf.read(self._kept[batch]), self._counts[batch]

    def __setitem__(self, batch: int, stream: Stream) -> None:
        self._kept[batch] = self._shelf.keep(batch, stream)


def checked_leaves(plan: Plan, params: Params) -> list[Any]:
    """Returns the leaves of parameters, after checking that the plan is for them.

    Raises:
      ValueError: if paths, shapes or dtypes are not those of the plan.
    """
    plain_tree = trees.plain(params)
    leaves = [
        leaf if hasattr(leaf, "dtype") else np.asarray(leaf) for leaf in jax.tree.leaves(plain_tree)
    ]
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


def _snapshot(array: Any) -> Any:
    """Returns an array in the dtype that it has on the device; its caller may write into the given one."""
    return array if isinstance(array, jax.Array) else np.array(array, _dtype(array))


def _dtype(array: Any) -> Any:
    """Returns the dtype that an array has on the device."""
    dtype = getattr(array, "dtype", None)
    dtype = np.asarray(array).dtype if dtype is None else dtype
    return jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True)
