"""What becomes of finished parameters: a sink gets them one by one, or all are returned at the end."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune.posttrain.lifetimes import Lifetimes
from jaxprune.posttrain.work import PruningState

__all__ = ["FinishedParameters", "Sink"]

Sink = Callable[[str, np.ndarray], Any]


class FinishedParameters:
    """Gives a sink each parameter when it is finished, and forgets it; without a sink it keeps them all.

    Args:
      state: holds parameters and masks.
      lifetimes: says when they are finished.
      sink: takes path and array of a parameter; or `None`.
    """

    def __init__(self, state: PruningState, lifetimes: Lifetimes, sink: Sink | None) -> None:
        self._state = state
        self._lifetimes = lifetimes
        self._sink = sink
        self._packed_masks: dict[int, np.ndarray] = {}

    def after_segment(self, index: int) -> None:
        """Hands on the parameters that are finished behind a segment."""
        if self._sink is not None:
            for leaf_index in self._lifetimes.finished_at(index):
                self._hand_on(leaf_index)

    def results(self) -> tuple[list[Any], list[Any]]:
        """Returns all parameters, `None` where a sink took them, and masks, `None` of what is not pruned.

        Parameters that no segment needed are handed on now.
        """
        state = self._state
        state.release()
        indices = range(len(state.leaves))
        if self._sink is None:
            leaves = [_as_array(leaf) for leaf in state.leaves]
            return leaves, [state.mask(leaf_index) for leaf_index in indices]
        for leaf_index in indices:
            if leaf_index not in self._lifetimes.last:
                self._hand_on(leaf_index)
        return list(state.leaves), [self._mask(leaf_index) for leaf_index in indices]

    def _hand_on(self, leaf_index: int) -> None:
        assert self._sink is not None
        state = self._state
        self._sink(state.plan.names[leaf_index], np.asarray(state.leaves[leaf_index]))
        state.leaves[leaf_index] = None
        mask = state.mask(leaf_index)
        if mask is not None:
            self._packed_masks[leaf_index] = np.packbits(np.asarray(mask))
            state.masks[leaf_index] = None

    def _mask(self, leaf_index: int) -> np.ndarray | None:
        """Returns the mask of a parameter that was handed on."""
        if not self._state.plan.chosen[leaf_index]:
            return None
        shape = np.shape(self._state.dense[leaf_index])
        packed_mask = self._packed_masks.pop(leaf_index)
        bits = np.unpackbits(packed_mask, count=int(np.prod(shape)))
        return bits.view(bool).reshape(shape)


def _as_array(leaf: Any) -> Any:
    """Returns an array as it is, and anything else as NumPy reads it."""
    return leaf if isinstance(leaf, jax.Array | np.ndarray) else np.asarray(leaf)
