"""Who competes with whom in the matrices of a kernel, and how many survive."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import allocation
from jaxprune.calls import text
from jaxprune.posttrain.views import Layout
from jaxprune.types import Axes, Pattern

__all__ = ["Contest", "Solved", "contest", "seen_by_patterns"]


class Solved(NamedTuple):
    """What a solver makes of one kernel.

    Attributes:
      kernel: `[layers, inputs, outputs]`, 0 where nothing is kept.
      mask: bool of the same shape.
      damp: per layer, the damping that was used, as a share of the mean of the Gram's diagonal; 0 without.
    """

    kernel: jax.Array
    mask: jax.Array
    damp: jax.Array


@dataclasses.dataclass(frozen=True)
class Contest:
    """How the weights of a kernel `[layers, inputs, outputs]` compete.

    Attributes:
      pattern: what dies together, and who competes.
      window: places in the window of a convolution: inputs are `window` times the channels.
      among: "layer": all weights of a layer are one contest; "inputs": `members` neighbouring inputs of each
        output are; `None`: several weights are one unit.
      members: units in one contest.
      keep: survivors in one contest.
    """

    pattern: Pattern
    window: int
    among: Literal["layer", "inputs"] | None
    members: int
    keep: int

    def one_weight_each(self, who: str) -> None:
        """Refuses patterns under which several weights live and die together."""
        if self.among is None:
            raise ValueError(
                f"{who}: with the pattern {text(self.pattern)} several weights die together, but this solver "
                "removes single weights; give patterns.unstructured(), groups() or groups(m), or another "
                "solver."
            )


def contest(pattern: Pattern, layout: Layout, sparsity: float, name: str) -> Contest:
    """Returns how the weights of a kernel compete.

    Args:
      pattern: what dies together, and who competes.
      layout: of the kernel.
      sparsity: fraction of the weights removed.
      name: of the kernel, for messages.

    Raises:
      ValueError: if the kernel does not fit the pattern, or nothing of a contest would be left.

    >>> from jaxprune import patterns
    >>> found = contest(patterns.groups(4), Layout((8, 2), (), (0,), (1,)), 0.5, "w")
    >>> found.among, found.members, found.keep
    ('inputs', 4, 2)
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"posttrain: the sparsity of {name!r} is {sparsity:g}; it lies in [0, 1).")
    shape = layout.size if layout.window == 1 else _with_window(layout)
    axes = _axes(layout.window)
    wrong = pattern.check(shape, axes)
    if wrong:
        raise ValueError(wrong.format(leaf=repr(name)) + ".")
    along, layers = pattern.contests(shape, axes)
    units = jax.eval_shape(
        lambda scores: pattern.to_groups(scores, axes), jax.ShapeDtypeStruct(shape, jnp.float32)
    ).shape
    competing = tuple(a for a in range(len(units)) if a not in layers) if along is None else along
    competing = (competing,) if isinstance(competing, int) else competing
    members = math.prod(units[axis] for axis in competing)
    contests = math.prod(units) // max(math.prod(units[axis] for axis in layers) * members, 1)
    with jax.ensure_compile_time_eval():
        keep = int(allocation.survivors(members, sparsity))
    if not keep and contests > 1:
        raise ValueError(
            f"posttrain: a sparsity of {sparsity:g} leaves none of the {members} weights that compete with "
            f"each other in {name!r}; give a lower sparsity, or leave it out with exclude=."
        )
    single = math.prod(units) == math.prod(shape)
    among: Any = "layer" if along is None else "inputs"
    return Contest(pattern, layout.window, among if single else None, members, max(keep, 1))


def seen_by_patterns(matrices: Any, window: int) -> tuple[Any, Axes]:
    """Matrices `[layers, inputs, outputs]` in the shape that patterns see, and what its axes are."""
    layers, inputs, outputs = matrices.shape
    if window == 1:
        return matrices, _axes(window)
    return matrices.reshape(layers, window, inputs // window, outputs), _axes(window)


def _axes(window: int) -> Axes:
    if window == 1:
        return Axes(in_axis=1, out_axis=2, batch_axis=0)
    return Axes(in_axis=2, out_axis=3, batch_axis=0)


def _with_window(layout: Layout) -> tuple[int, ...]:
    layers, inputs, outputs = layout.size
    return layers, layout.window, inputs // layout.window, outputs


def quotas(keep: int, ends: np.ndarray, members: int) -> np.ndarray:
    """Survivors in each part of a contest, in proportion to its length; together exactly `keep`.

    Args:
      keep: survivors of the contest.
      ends: where its parts end.
      members: its length.

    >>> quotas(5, np.array([4, 8, 9]), 9).tolist()
    [2, 2, 1]
    """
    reached = (2 * keep * np.minimum(ends, members).astype(np.int64) + members) // (2 * members)
    return np.diff(reached, prepend=0).astype(np.int32)
