"""The scale by which a normalisation multiplies each unit of a kernel, found in the program of a function."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import programs
from jaxprune.signals.kernels import ELEMENTWISE, units_of
from jaxprune.types import Params

__all__ = ["scales"]


class _Weight(NamedTuple):
    """A value that parameters alone decide; `whole`: it is a parameter as it stands."""

    value: Any
    leaves: frozenset[str]
    whole: bool = False


class _Active(NamedTuple):
    value: Any
    kernel: str | None = None  # whose product it is, but for what is done unit by unit


def scales(apply: Callable[..., Any], params: Params, batch: Any) -> Params:
    """Returns for each kernel the size of the scales of its units, as a BatchNorm after it multiplies them.

    A scale is a parameter with one number per unit that a product is multiplied by before other activations
    join. Nothing is computed: the function is traced.

    Args:
      apply: (params, batch) -> anything, in evaluation mode, its statistics constant.
      params: tree of arrays.
      batch: tree of arrays, or of their shapes.

    Returns:
      A tree like `params` of arrays that broadcast against the kernels: length 1 along all axes but that of
      the units; `None` at leaves whose units nothing scales. What the criterion `bn_scale` reads.

    References:
      Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (2017).

    >>> apply = lambda p, x: jax.nn.relu(x @ p["w"] * p["scale"] + p["bias"])
    >>> params = {"w": jnp.ones((2, 3)), "scale": jnp.array([[1.0, -2.0, 0.0]]), "bias": 1.0}
    >>> scales(apply, params, jnp.ones((1, 2)))
    {'bias': None, 'scale': None, 'w': Array([[1., 2., 0.]], dtype=float32)}
    """
    names, leaves = masks_lib.paths(params), jax.tree.leaves(params)
    sizes = {name: jnp.size(leaf) for name, leaf in zip(names, leaves, strict=True)}
    found: dict[str, str] = {}  # scale by kernel
    axes: dict[
        str, tuple[int, int, int]
    ] = {}  # of a kernel: its dimensions, axis and number of units

    def rule(equation: Any, inputs: list[Any]) -> list[Any]:
        name, inner = equation.primitive.name, programs.called(equation)
        if inner is not None:
            return programs.run(inner, inputs, rule)
        outputs = programs.bind(equation, [getattr(v, "value", v) for v in inputs])
        weights = [v for v in inputs if isinstance(v, _Weight)]
        active = [v for v in inputs if isinstance(v, _Active)]
        if not active:
            union = frozenset().union(*(w.leaves for w in weights))
            return [_Weight(out, union) for out in outputs] if weights else outputs
        if len(active) == 1 and len(weights) == 1 and weights[0].whole:
            (kernel,) = weights[0].leaves
            at = next(i for i, v in enumerate(inputs) if isinstance(v, _Weight))
            unit = units_of(equation, at, weights[0].value.ndim)
            if unit is not None:
                axes[kernel] = (weights[0].value.ndim, unit, weights[0].value.shape[unit])
                return [_Active(outputs[0], kernel)]
        kernel = active[0].kernel
        alone = all(v.kernel == kernel for v in active)
        same = outputs[0].shape == active[0].value.shape
        if kernel is None or not alone or not same or name not in ELEMENTWISE:
            return [_Active(out) for out in outputs]
        if name == "mul":
            fit = {n for w in weights for n in w.leaves if sizes[n] == axes[kernel][2]}
            if len(fit) == 1:
                found.setdefault(kernel, *fit)
        return [_Active(outputs[0], kernel)]

    def look(params: Params, batch: Any) -> None:
        program, _ = programs.trace(apply, params, batch)
        pairs = zip(names, jax.tree.leaves(params), strict=True)
        values = [_Weight(leaf, frozenset({name}), whole=True) for name, leaf in pairs]
        programs.run(program, [*values, *map(_Active, jax.tree.leaves(batch))], rule)

    jax.eval_shape(look, params, batch)
    of_leaf = dict(zip(names, leaves, strict=True))

    def beside(name: str) -> jax.Array | None:
        if name not in found:
            return None
        ndim, axis, _ = axes[name]
        return jnp.abs(of_leaf[found[name]]).reshape([-1 if i == axis else 1 for i in range(ndim)])

    return jax.tree.structure(params).unflatten(map(beside, names))
