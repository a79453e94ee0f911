"""Noise in activations instead of weights: the local reparameterization, for any JAX function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks, programs
from jaxprune import masks as masks_lib
from jaxprune.gates.gate import GATED, Gate, Gated
from jaxprune.types import Step

__all__ = ["apply"]

_PRODUCTS = ("dot_general", "conv_general_dilated")
_RELAYOUTS = ("reshape", "transpose", "squeeze", "expand_dims", "convert_element_type", "copy")


_GATE = checks.Kind(
    "a gate",
    lambda value: isinstance(value, Gate),
    lambda _: "such as gates.variational_dropout(), called",
)
_FUNCTION = checks.Kind(
    "a function", checks.is_function, lambda _: "(params, *inputs) -> outputs of the network"
)


class _Normal(NamedTuple):
    """A value whose entries are normally distributed, each on its own.

    Attributes:
      mean: array.
      variance: array of the same shape and dtype.
      draw: () -> an array from this distribution, the same one whenever it is asked.
    """

    mean: Any
    variance: Any
    draw: Callable[[], Any]


def apply(
    gate: Gate,
    fn: Callable[..., Any],
    theta: Gated,
    *inputs: Any,
    key: jax.Array,
    step: Step | None = None,
) -> Any:
    r"""Returns `fn(params, *inputs)` with the gates' noise, drawn where it costs least.

    For most gates this is `fn(gate.sample(theta, key, step), *inputs)`. Where weights are normally
    distributed (`variational_dropout`), a product $y = x W$ is normal too,
    $y \sim N(x \cdot \mathrm{E}W,\; x^2 \cdot \mathrm{Var}W)$, and is drawn itself: independent noise for
    each example, with less variance in the gradients and fewer draws. Products are found in the program of
    `fn`, so the model needs no edits. A weight that meets anything but a matrix product or a convolution (a
    lookup, a scan over layers) is drawn itself, once; in products that share a weight, the noise is
    independent. Where `fn` has `jax.checkpoint` around weights, nothing is recomputed.

    Args:
      gate: any.
      fn: the network, `(params, *inputs) -> outputs`.
      theta: parameters and gates.
      *inputs: trees of arrays.
      key: of this step.
      step: updates done.

    References: Kingma, Salimans & Welling, "Variational Dropout and the Local Reparameterization Trick"
    (2015).

    >>> from jaxprune import gates
    >>> gate = gates.variational_dropout(init=0.0)  # variance 1 for every weight
    >>> theta = gate.init({"w": jnp.ones((4, 1))}, jax.random.key(0))
    >>> fn = lambda params, x: x @ params["w"]
    >>> y = apply(gate, fn, theta, jnp.ones((100_000, 4)), key=jax.random.key(1))
    >>> round(float(y.var()), 1)  # four weights, and each example draws anew
    4.0
    """
    checks.check("gates.apply", gate=(gate, _GATE), fn=(fn, _FUNCTION), theta=(theta, GATED))
    if gate.moments is None:
        return fn(gate.sample(theta, key, step), *inputs)
    means, variances = gate.moments(theta, step)
    program, treedef = programs.trace(fn, theta.params, *inputs)
    names, leaves = masks_lib.paths(theta.params), jax.tree.leaves(theta.params)
    draws = _Draws(key)
    gated = lambda name, w: draws.normal(means[name], variances[name]) if name in means else w
    values = [*map(gated, names, leaves), *jax.tree.leaves(inputs)]
    return treedef.unflatten(map(_drawn, programs.run(program, values, draws.rule, enters=_never)))


class _Draws:
    """Draws from normal values where programs need numbers; the keys of the draws are counted."""

    def __init__(self, key: jax.Array):
        self.key, self.drawn = key, 0

    def rule(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """What an equation makes of values of which some are normal."""
        name, inner = equation.primitive.name, programs.called_program(equation)
        normal = [isinstance(value, _Normal) for value in inputs]
        if (
            any(normal) and inner is not None and not name.startswith("custom")
        ):  # with slopes of its own
            return [
                _drawn(value) for value in programs.run(inner, inputs, self.rule, enters=_never)
            ]
        if name in _RELAYOUTS and normal[0]:
            move = lambda part: programs.bind(equation, [part, *inputs[1:]])[0]
            mean, variance, draw = inputs[0]
            return [_Normal(move(mean), move(variance), functools.cache(lambda: move(draw())))]
        if name in _PRODUCTS and sum(normal) == 1:
            mean = [v.mean if n else v for v, n in zip(inputs, normal, strict=True)]
            spread = [
                v.variance if n else jnp.square(v) for v, n in zip(inputs, normal, strict=True)
            ]
            return [
                self.normal(
                    programs.bind(equation, mean)[0], programs.bind(equation, spread)[0]
                ).draw()
            ]
        return programs.bind(equation, [_drawn(value) for value in inputs])

    def normal(self, mean: Any, variance: Any) -> _Normal:
        """Normal values with noise of their own."""
        variance = variance.astype(mean.dtype)

        def draw() -> Any:
            self.drawn += 1
            noise = jax.random.normal(jax.random.fold_in(self.key, self.drawn), mean.shape)
            some = variance > 0
            deviation = jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1)), 0)  # finite slopes
            return mean + (deviation * noise).astype(mean.dtype)

        return _Normal(mean, variance, functools.cache(draw))


def _never(equation: Any) -> bool:
    return False  # a call of numbers alone stays a call


def _drawn(value: Any) -> Any:
    """A draw from a normal value; others are what they are."""
    return value.draw() if isinstance(value, _Normal) else value
