"""Noise in activations instead of weights: the local reparameterization, for any JAX function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks, programs
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import at_least_float32, widen
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
    """A value whose elements are normally distributed and independent.

    Attributes:
      mean: array.
      variance: array of the same shape, float32 or wider: float16 holds few squares.
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
    r"""Returns `fn(params, *inputs)` with the gates' noise, drawn in activations where that is possible.

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
      key: PRNG key of this step.
      step: number of updates done, where the gate needs it.

    Returns:
      What `fn` returns.

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
    checks.check("gates.apply", key=(key, checks.KEY))
    means, variances = gate.moments(theta, step)
    program, treedef = programs.trace(fn, theta.params, *inputs)
    draws = _Draws(key)
    weights = [
        draws.make_normal(means[path], variances[path]) if path in means else leaf
        for path, leaf in zip(
            masks_lib.paths(theta.params), jax.tree.leaves(theta.params), strict=True
        )
    ]
    program_inputs = [*weights, *jax.tree.leaves(inputs)]
    outputs = programs.run(program, program_inputs, draws.evaluate, enters=_never)
    return treedef.unflatten(map(_draw_value, outputs))


class _Draws:
    """Draws from normal values where programs need numbers; each draw has a key of its own.

    Attributes:
      key: PRNG key of this step.
      draw_count: number of draws so far.
    """

    def __init__(self, key: jax.Array):
        self.key = key
        self.draw_count = 0

    def evaluate(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of an equation of which some inputs are normal."""
        primitive_name = equation.primitive.name
        called_program = programs.called_program(equation)
        is_normal = [isinstance(value, _Normal) for value in inputs]
        # A custom derivative has slopes of its own, which the program within does not know.
        if (
            any(is_normal)
            and called_program is not None
            and not primitive_name.startswith("custom")
        ):
            outputs = programs.run(called_program, inputs, self.evaluate, enters=_never)
            return [_draw_value(value) for value in outputs]
        if primitive_name in _RELAYOUTS and is_normal[0]:
            mean, variance, draw = inputs[0]

            def move(array: Any) -> Any:
                return programs.bind(equation, [array, *inputs[1:]])[0]

            if primitive_name != "convert_element_type":
                variance = move(variance)
            return [_Normal(move(mean), variance, functools.cache(lambda: move(draw())))]
        if primitive_name in _PRODUCTS and sum(is_normal) == 1:
            flagged_inputs = list(zip(inputs, is_normal, strict=True))
            means = [
                value.mean if is_distribution else value
                for value, is_distribution in flagged_inputs
            ]
            variances = [
                value.variance if is_distribution else jnp.square(widen(value))
                for value, is_distribution in flagged_inputs
            ]
            wide_dtype = jnp.result_type(*variances)
            variances = [variance.astype(wide_dtype) for variance in variances]
            mean_of_product = programs.bind(equation, means)[0]
            wide_params = equation.params | {"preferred_element_type": wide_dtype}
            variance_of_product = programs.bind_with(equation, variances, wide_params)[0]
            return [self.make_normal(mean_of_product, variance_of_product).draw()]
        return programs.bind(equation, [_draw_value(value) for value in inputs])

    def make_normal(self, mean: Any, variance: Any) -> _Normal:
        """Returns normal values with noise of their own."""
        variance = variance.astype(at_least_float32(variance.dtype, mean.dtype))

        def draw() -> Any:
            self.draw_count += 1
            noise = jax.random.normal(jax.random.fold_in(self.key, self.draw_count), mean.shape)
            is_noisy = variance > 0  # the root has no finite slope at 0
            deviation = jnp.where(is_noisy, jnp.sqrt(jnp.where(is_noisy, variance, 1)), 0)
            return mean + (deviation * noise).astype(mean.dtype)

        return _Normal(mean, variance, functools.cache(draw))


def _never(equation: Any) -> bool:
    return False  # a call of numbers alone stays a call


def _draw_value(value: Any) -> Any:
    """Returns a draw from a normal value; other values as they are."""
    return value.draw() if isinstance(value, _Normal) else value
