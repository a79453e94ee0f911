"""Rules of random numbers: all are drawn as before, then cut, so what is left sees the same ones."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune import programs
from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.entrywise import elementwise
from jaxprune.structured.graph.rules.rule import Kept, Rule, Step, cut, shapes_of

__all__ = ["RULES"]


def _keys(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels PRNG keys made of others: all of them are pinned."""
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shape, pinned=True) for shape in shapes_of(equation)]


def _bits(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels random bits: their axes are free, those of the keys are pinned."""
    for axes in inputs:
        labels.pin(*axes)
    return [labels.fresh_like(shapes_of(equation)[0])]


def _generator(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels the new state of a generator, which is pinned, and its bits, which are free."""
    state, bits = shapes_of(equation)
    labels.pin(*inputs[0])
    return [labels.fresh_like(state, pinned=True), labels.fresh_like(bits)]


def _gamma(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels numbers of which each has a parameter of the distribution of its own."""
    labels.pin(*inputs[0])
    return [inputs[1]]


def _draw_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Draws all numbers, and cuts what is removed."""
    drawn = programs.bind(equation, arrays)
    return [cut(out, axes, kept) for out, axes in zip(drawn, step.outputs, strict=True)]


def _gamma_again(equation: Any, arrays: list[Any], step: Step, kept: Kept) -> list[Any]:
    """Draws all numbers, those that are removed with ones for parameters, and cuts them away."""
    key, concentrations = arrays
    alive_indices = [np.flatnonzero(kept(axis)) for axis in step.inputs[1]]
    all_concentrations = jnp.ones([len(axis) for axis in step.inputs[1]], concentrations.dtype)
    all_concentrations = (
        all_concentrations.at[np.ix_(*alive_indices)].set(concentrations)
        if alive_indices
        else concentrations
    )
    return _draw_again(equation, [key, all_concentrations], step, kept)


RULES: dict[str, Rule] = {
    "random_bits": Rule(_bits, _draw_again),
    "rng_bit_generator": Rule(_generator, _draw_again),
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
