"""Rules of random numbers: drawn as for the whole, so that what is left sees what it saw before."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.entries import elementwise
from jaxprune.structured.rules.rule import Kept, Rule, Step, cut, shapes_of

__all__ = ["RULES"]


def _keys(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """PRNG keys made of others: nothing of them can go."""
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shape, pinned=True) for shape in shapes_of(equation)]


def _bits(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shapes_of(equation)[0])]


def _generator(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """A new state and bits."""
    state, bits = shapes_of(equation)
    labels.pin(*inputs[0])
    return [labels.fresh_like(state, pinned=True), labels.fresh_like(bits)]


def _gamma(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """A key, and a parameter of the distribution for each number."""
    labels.pin(*inputs[0])
    return [inputs[1]]


def _drawn_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    drawn = programs.bind(equation, arrays)
    return [cut(out, axes, kept) for out, axes in zip(drawn, step.outputs, strict=True)]


def _gamma_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """The parameters of what is gone are ones: they are drawn, and cut away."""
    key, shapes = arrays
    alive = [np.flatnonzero(kept(axis)) for axis in step.inputs[1]]
    whole = jnp.ones([len(axis) for axis in step.inputs[1]], shapes.dtype)
    whole = whole.at[np.ix_(*alive)].set(shapes) if alive else shapes
    return _drawn_again(equation, [key, whole], step, kept)


RULES: dict[str, Rule] = {
    "random_bits": Rule(_bits, _drawn_again),
    "rng_bit_generator": Rule(_generator, _drawn_again),
    "random_gamma": Rule(_gamma, _gamma_again),
    **dict.fromkeys(
        ("threefry2x32", "threefry4x32", "philox2x32", "philox4x32"), Rule(elementwise)
    ),
    **dict.fromkeys(
        (
            "random_clone",
            "random_fold_in",
            "random_seed",
            "random_split",
            "random_unwrap",
            "random_wrap",
        ),
        Rule(_keys),
    ),
}
