"""The type of rules, and helpers that rules share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels, Labels

__all__ = ["Kept", "Label", "Rule", "Step", "again", "cut", "each_its_own", "left", "shapes_of"]

Kept = Callable[[np.ndarray], np.ndarray]  # labels -> which of them are left


class Step(NamedTuple):
    """An equation of a program, with labels.

    Attributes:
      equation: of the program.
      inputs, outputs: labels of the values that go in and come out.
      more: what the rule remembers for its replay.
      reads, writes: indices of the values that go in (`None`: a constant) and come out, in the order in which
        the program makes them.
    """

    equation: Any
    inputs: list[AxisLabels]
    outputs: list[AxisLabels]
    more: Any = None
    reads: tuple[int | None, ...] = ()
    writes: tuple[int, ...] = ()


Label = Callable[[Labels, Any, list[AxisLabels]], Any]
Replay = Callable[[Any, list[Any], Step, Kept], Any]


class Rule(NamedTuple):
    """How labels go through a primitive, and how it runs on smaller arrays.

    Attributes:
      label: (labels, equation, axes of the inputs) -> axes of the outputs, or these and what to remember.
      replay: (equation, arrays, step, kept) -> outputs; `None`: the primitive as it stands.
    """

    label: Label
    replay: Replay | None = None


def each_its_own(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Returns the labels of each input as those of the output of the same index.

    Args:
      labels: of the program; nothing is added to them.
      equation: any that has as many outputs as inputs, each like its input.
      inputs: labels of the axes of each input.
    """
    return list(inputs)


def shapes_of(equation: Any) -> list[tuple[int, ...]]:
    """Returns the shapes of the outputs of an equation.

    Args:
      equation: of a jaxpr.

    >>> import jax
    >>> shapes_of(jax.make_jaxpr(lambda x: x.T)(jnp.ones((2, 3))).eqns[0])
    [(3, 2)]
    """
    return [tuple(variable.aval.shape) for variable in equation.outvars]


def left(axes: AxisLabels, kept: Kept) -> tuple[int, ...]:
    """Returns the shape that is left of a value.

    Args:
      axes: labels of its axes.
      kept: labels -> which of them are left.

    >>> left((np.arange(3), np.arange(3, 7)), lambda labels: labels != 1)
    (2, 4)
    """
    return tuple(int(kept(axis).sum()) for axis in axes)


def again(equation: Any, arrays: Sequence[Any], **changed: Any) -> list[Any]:
    """Runs an equation with some of its parameters changed, and returns its outputs.

    Args:
      equation: of a jaxpr.
      arrays: its inputs.
      **changed: the parameters of the primitive that are others, by name, as `shape=`.

    >>> import jax
    >>> equation = jax.make_jaxpr(lambda x: jnp.broadcast_to(x, (3, 1)))(1.0).eqns[0]
    >>> again(equation, [1.0], shape=(2, 1))[0].shape
    (2, 1)
    """
    return programs.bind_with(equation, arrays, {**equation.params, **changed})


def cut(value: Any, axes: AxisLabels, kept: Kept) -> Any:
    """Returns what is left of an array: its slices whose labels are left.

    Args:
      value: an array.
      axes: labels of its axes.
      kept: labels -> which of them are left.

    >>> cut(jnp.array([5.0, 6.0, 7.0]), (np.arange(3),), lambda labels: labels != 1).tolist()
    [5.0, 7.0]
    """
    for axis_index, axis in enumerate(axes):
        alive = kept(axis)
        if not alive.all():
            value = jnp.take(jnp.asarray(value), np.flatnonzero(alive), axis=axis_index)
    return value
