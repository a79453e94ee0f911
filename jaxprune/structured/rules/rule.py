"""What a rule is, and what rules share."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels

__all__ = ["Kept", "Label", "Rule", "Step", "again", "cut", "each_its_own", "left", "shapes_of"]

Kept = Callable[[np.ndarray], np.ndarray]  # labels -> which of them are left


class Step(NamedTuple):
    """An equation that was met.

    Attributes:
      equation: of the program.
      inputs, outputs: labels of what goes in and comes out.
      more: what the rule wants to remember.
      reads, writes: numbers of the values that go in (`None`: a constant) and come out.
    """

    equation: Any
    inputs: list[Axes]
    outputs: list[Axes]
    more: Any = None
    reads: tuple[int | None, ...] = ()
    writes: tuple[int, ...] = ()


Label = Callable[[Labels, Any, list[Axes]], Any]
Replay = Callable[[Any, list[Any], Step, Kept], Any]


class Rule(NamedTuple):
    """What is known of a primitive.

    Attributes:
      label: (labels, equation, axes of the inputs) -> axes of the outputs, or these and what to remember.
      replay: (equation, arrays, step, kept) -> outputs; `None`: the primitive as it stands.
    """

    label: Label
    replay: Replay | None = None


def each_its_own(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Each output is like the input of the same number."""
    return list(inputs)


def shapes_of(equation: Any) -> list[tuple[int, ...]]:
    """Of the outputs."""
    return [tuple(v.aval.shape) for v in equation.outvars]


def left(axes: Axes, kept: Kept) -> tuple[int, ...]:
    """The shape that is left."""
    return tuple(int(kept(axis).sum()) for axis in axes)


def again(equation: Any, arrays: Sequence[Any], **changed: Any) -> list[Any]:
    """The equation with some of its parameters changed."""
    return programs.bind_with(equation, arrays, {**equation.params, **changed})


def cut(value: Any, axes: Axes, kept: Kept) -> Any:
    """What is left of an array."""
    for i, axis in enumerate(axes):
        alive = kept(axis)
        if not alive.all():
            value = jnp.take(jnp.asarray(value), np.flatnonzero(alive), axis=i)
    return value
