"""Leaves of a tree that are still in a file: shape and dtype are known, the numbers come when asked for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

__all__ = ["LazyLeaf", "read_leaves"]


@dataclasses.dataclass(frozen=True, eq=False)
class LazyLeaf:
    """An array in a file. `read` gives its numbers; `numpy.asarray` does too.

    Attributes:
      shape: of the array.
      dtype: of the array that `read` gives.
      load: function that reads it, anew at each call: nothing is kept.

    >>> leaf = LazyLeaf((2,), np.dtype("float32"), lambda: np.ones(2, np.float32))
    >>> leaf.size, np.asarray(leaf).tolist()
    (2, [1.0, 1.0])
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], np.ndarray] = dataclasses.field(repr=False)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the array in memory."""
        return self.size * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """Returns the numbers in a new array.

        Raises:
          ValueError: if `load` gives another shape or dtype.
        """
        array = self.load()
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"LazyLeaf: an array {array.dtype}{list(array.shape)} was read where "
                f"{self.dtype}{list(self.shape)} was expected; `load` must keep to both."
            )
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(
                "LazyLeaf: its numbers are in a file; they cannot be had without a copy."
            )
        return self.read().astype(dtype or self.dtype, copy=False)


def read_leaves(tree: Any) -> Any:
    """Returns the tree with an array in place of each `LazyLeaf`; other leaves stay as they are.

    Args:
      tree: any tree.

    >>> read_leaves({"a": LazyLeaf((1,), np.dtype("int8"), lambda: np.ones(1, np.int8)), "b": 2})
    {'a': array([1], dtype=int8), 'b': 2}
    """
    return jax.tree.map(lambda leaf: leaf.read() if isinstance(leaf, LazyLeaf) else leaf, tree)
