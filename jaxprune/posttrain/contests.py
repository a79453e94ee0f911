"""Contests: which weights in the matrices of a kernel compete with each other, and how many survive."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import allocation
from jaxprune.allocation.counts import check_countable
from jaxprune.calls import text
from jaxprune.posttrain.views import Layout
from jaxprune.types import Axes, Pattern

__all__ = ["Contest", "Solved", "contest", "pattern_view"]


class Solved(NamedTuple):
    """A solver's result for one kernel.

    Attributes:
      kernel: new weights `[layers, inputs, outputs]`, 0 where the mask is False.
      mask: bool of the same shape, True where a weight is kept.
      damp: per layer, the damping that was used, as a share of the mean of the Gram's diagonal; 0 without.
    """

    kernel: jax.Array
    mask: jax.Array
    damp: jax.Array


@dataclasses.dataclass(frozen=True)
class Contest:
    """How the weights of a kernel `[layers, inputs, outputs]` compete.

    Attributes:
      pattern: which weights are removed together and which compete.
      window: number of positions in the window of a convolution: inputs are `window` times the channels.
      among: "layer": all weights of a layer are one contest; "inputs": `members` neighbouring inputs of each
        output are; `None`: several weights are one unit.
      members: number of units in one contest.
      keep: number of survivors in one contest.
    """

    pattern: Pattern
    window: int
    among: Literal["layer", "inputs"] | None
    members: int
    keep: int

    def one_weight_each(self, who: str) -> None:
        """Refuses patterns in which a unit is more than one weight.

        Args:
          who: name of the solver, for the message.

        Raises:
          ValueError: if several weights live and die together.
        """
        if self.among is None:
            raise ValueError(
                f"{who}: with the pattern {text(self.pattern)} several weights die together, but this solver "
                "removes single weights; give patterns.unstructured(), groups() or groups(m), or another "
                "solver."
            )


def contest(pattern: Pattern, layout: Layout, sparsity: float, name: str) -> Contest:
    """Returns how the weights of a kernel compete.

    Args:
      pattern: which weights are removed together and which compete.
      layout: of the kernel.
      sparsity: fraction of the weights removed.
      name: of the kernel, for messages.

    Returns:
      A `Contest`.

    Raises:
      ValueError: if the kernel does not fit the pattern, or nothing of a contest would be left.

    >>> from jaxprune import patterns
    >>> two_of_four = contest(patterns.groups(4), Layout((8, 2), (), (0,), (1,)), 0.5, "w")
    >>> two_of_four.among, two_of_four.members, two_of_four.keep
    ('inputs', 4, 2)
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"posttrain: the sparsity of {name!r} is {sparsity:g}; it lies in [0, 1).")
    shape = layout.size if layout.window == 1 else _with_window(layout)
    axes = _axes(layout.window)
    fault = pattern.check(shape, axes)
    if fault:
        raise ValueError(fault.format(leaf=repr(name)) + ".")
    contest_axes, layers = pattern.contests(shape, axes)
    unit_shape = jax.eval_shape(
        lambda scores: pattern.to_groups(scores, axes), jax.ShapeDtypeStruct(shape, jnp.float32)
    ).shape
    if contest_axes is None:
        competing_axes = tuple(axis for axis in range(len(unit_shape)) if axis not in layers)
    else:
        competing_axes = (contest_axes,) if isinstance(contest_axes, int) else contest_axes
    members = math.prod(unit_shape[axis] for axis in competing_axes)
    layer_count = math.prod(unit_shape[axis] for axis in layers)
    contest_count = math.prod(unit_shape) // max(layer_count * members, 1)
    check_countable(f"a layer of {name!r}", members)
    with jax.ensure_compile_time_eval():
        keep = int(allocation.survivors(members, sparsity))
    if not keep and contest_count * layer_count > 1:
        raise ValueError(
            f"posttrain: a sparsity of {sparsity:g} leaves none of the {members} weights that compete with "
            f"each other in {name!r}; give a lower sparsity, or leave it out with exclude=."
        )
    is_single = math.prod(unit_shape) == math.prod(shape)
    scope: Any = "layer" if contest_axes is None else "inputs"
    return Contest(pattern, layout.window, scope if is_single else None, members, max(keep, 1))


def pattern_view(matrices: Any, window: int) -> tuple[Any, Axes]:
    """Returns matrices `[layers, inputs, outputs]` in the shape that patterns take, and its axes.

    Args:
      matrices: of a kernel.
      window: number of positions in the window of a convolution, which becomes an axis of its own if it is
        not 1.
    """
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
    """Returns the survivors of each part of a contest, in proportion to its length; exactly `keep` in all.

    Args:
      keep: number of survivors of the contest.
      ends: where its parts end.
      members: length of the contest.

    >>> quotas(5, np.array([4, 8, 9]), 9).tolist()
    [2, 2, 1]
    """
    # keep * end / members, rounded to the nearest whole number without leaving the integers
    ends_within = np.minimum(ends, members).astype(np.int64)
    cumulative_keep = (2 * keep * ends_within + members) // (2 * members)
    return np.diff(cumulative_keep, prepend=0).astype(np.int32)
