"""A signal without data: how much flows through each connection of a network of positive weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.arrays.precision import at_least_float32, widen
from jaxprune.calls import is_traced
from jaxprune.signals.leaves import are_floating, chosen_leaves, fill_tree, with_leaves
from jaxprune.signals.losses import check_function
from jaxprune.types import Params

__all__ = ["synaptic_flow"]


def synaptic_flow(apply: Callable[[Params, Any], Any], params: Params, example: Any) -> Params:
    r"""Returns the gradient of the sum of outputs $R = \mathbf{1}^\top f(|w|, \mathbf{1})$ by $|w|$.

    Multiplied by $|w|$ it is the flow through a weight, the score of the criterion `synflow`: for each path
    through the weight the product of all $|w|$ on the path, added over paths. In a ReLU network without
    biases the flow into a hidden unit equals the flow out of it, so the scores of each layer have the same
    sum. The proof does not cover normalisation with batch statistics, dropout, or saturating activations.

    $R$ grows with width to the power of depth. Where float32 cannot hold it, use float64: call this
    within `jax.enable_x64(True)` with parameters of that type.

    Args:
      apply: (params, inputs) -> outputs in evaluation mode, a tree of arrays; logits, because the sum of
        probabilities is constant.
      params: tree of arrays.
      example: inputs, of which only shapes and dtypes are used (`jax.ShapeDtypeStruct`s will do); one
        example is enough.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating.

    Raises:
      ValueError: if $R$ is 0 or overflows its dtype (not checked under tracing).

    References:
      Tanaka, Kunin, Yamins & Ganguli, "Pruning neural networks without any data by iteratively conserving
      synaptic flow" (2020).

    >>> apply = lambda params, x: x @ params["a"] @ params["b"]
    >>> params = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array([[3.0], [0.5]])}
    >>> flow = synaptic_flow(apply, params, jnp.zeros((1, 1)))
    >>> flow["a"], flow["b"].T  # times the weights: 3 and 1 into the hidden units, 3 and 1 out of them
    (Array([[3. , 0.5]], dtype=float32), Array([[1., 2.]], dtype=float32))
    """
    check_function("synaptic_flow", params, apply=apply)
    inputs = jax.tree.map(_ones, example)
    total, flow = _flow(apply, params, inputs)
    if not is_traced(total):
        if not jnp.isfinite(total):
            raise ValueError(
                f"synaptic_flow: the sum of the outputs is {total}, beyond {total.dtype}; call it within "
                "jax.enable_x64(True) with float64 parameters, or scale layers down."
            )
        if total == 0:
            raise ValueError(
                "synaptic_flow: nothing flows from inputs to outputs: a layer is zero throughout (is one "
                "initialised so?), or products of weights are too small for float32 (use float64)."
            )
    return flow


@functools.partial(jax.jit, static_argnames="apply")
def _flow(apply, params, inputs):
    is_floating = are_floating(params)

    def sum_of_outputs(values: list[jax.Array]) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            outputs = apply(with_leaves(params, is_floating, values), inputs)
        return sum(jnp.sum(widen(output)) for output in jax.tree.leaves(outputs))  # type: ignore

    total_output, flow = jax.value_and_grad(sum_of_outputs)(
        [widen(jnp.abs(weights)) for weights in chosen_leaves(params, is_floating)]
    )
    return total_output, fill_tree(params, is_floating, flow)


def _ones(array: Any) -> jax.Array:
    dtype = jnp.result_type(array)
    is_floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.ones(jnp.shape(array), at_least_float32(dtype) if is_floating else dtype)
