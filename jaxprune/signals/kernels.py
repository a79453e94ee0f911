"""What enters and leaves each kernel, found in the program of a function that is not edited."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import programs
from jaxprune.types import Params

__all__ = ["ELEMENTWISE", "Product", "products", "units_of"]

# fmt: off
ELEMENTWISE = {
    "abs", "add", "add_any", "and", "atan2", "cbrt", "ceil", "clamp", "copy",
    "convert_element_type", "cos", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "log", "log1p", "logistic",
    "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "pow", "reduce_precision",
    "rem", "round", "rsqrt", "select_n", "sign", "sin", "sqrt", "square", "stop_gradient",
    "sub", "tan", "tanh",
}
# fmt: on
_SAME_KERNEL = ("convert_element_type", "copy", "reduce_precision", "stop_gradient")


class Product(NamedTuple):
    """One matrix product or convolution of a kernel with an activation.

    Attributes:
      leaf: path of the kernel.
      shape: of the kernel.
      axes: of the kernel that are summed over, in its own order.
      inputs: `[positions, entries]`: what the entries along these axes are multiplied with, each position of
        each example a row.
      outputs: the product, or what elementwise operations on it and on parameters (bias, statistics of
        BatchNorm, nonlinearity) make of it before other activations join.
      features: the axis of `outputs` along which its units lie, and their axis of the kernel; `None` if
        there are several.
    """

    leaf: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    inputs: jax.Array
    outputs: jax.Array
    features: tuple[int, int] | None

    def beside(self, entries: jax.Array) -> jax.Array:
        """One number per entry, in the shape that broadcasts against the kernel."""
        return entries.reshape([n if i in self.axes else 1 for i, n in enumerate(self.shape)])


def units_of(equation: Any, at: int, ndim: int) -> int | None:
    """The axis of the kernel along which the units of a product lie; `None` if it has not exactly one.

    Args:
      equation: of a program.
      at: which of its inputs is the kernel.
      ndim: of the kernel.
    """
    if equation.primitive.name == "dot_general":
        contracted, batch = equation.params["dimension_numbers"]
        free = [i for i in range(ndim) if i not in contracted[at]]
        return free[0] if len(free) == 1 and not batch[0] else None
    if equation.primitive.name == "conv_general_dilated" and at == 1:
        return int(equation.params["dimension_numbers"].rhs_spec[0])
    return None


class _Kernel(NamedTuple):
    value: Any
    leaf: str


class _Active(NamedTuple):
    """What depends on the inputs; `product`: whose elementwise consequence it is, if it is one's."""

    value: Any
    product: int | None = None


def products(apply: Callable[..., Any], params: Params, *inputs: Any) -> list[Product]:
    """Returns the products of `apply(params, *inputs)` with a parameter as one factor, in order.

    Traces the function; inside `jit` nothing is computed that is not used. Not found are kernels of grouped
    convolutions, of products with batch axes, of loops over layers (`scan`) and on shards, and those that
    are transposed or computed first (`x @ w.T`, `x @ (2 * w)`).

    Args:
      apply: any JAX function; its outputs do not matter.
      params: tree of arrays.
      *inputs: trees of arrays.
    """
    program, _ = programs.trace(apply, params, *inputs)
    watch = _Watch()
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True)
    values = [*(_Kernel(w, name) for name, w in named), *map(_Active, jax.tree.leaves(inputs))]
    programs.run(program, values, watch.rule)
    return [p._replace(outputs=watch.latest[i]) for i, p in enumerate(watch.found)]


class _Watch:
    """Follows kernels into products, and products through what is done to them entry by entry."""

    def __init__(self) -> None:
        self.found: list[Product] = []
        self.latest: list[jax.Array] = []  # of each product, how far it has been followed
        self.ended: set[int] = set()  # products that something else has been made of

    def rule(self, equation: Any, inputs: list[Any]) -> list[Any]:
        name, inner = equation.primitive.name, programs.called(equation)
        if inner is not None:
            return programs.run(inner, inputs, self.rule)
        plain = [getattr(v, "value", v) if isinstance(v, _Kernel | _Active) else v for v in inputs]
        outputs = programs.bind(equation, plain)
        kernels = [i for i, v in enumerate(inputs) if isinstance(v, _Kernel)]
        active = [v.product for v in inputs if isinstance(v, _Active)]
        if name in _READ and kernels and active:
            (at,) = kernels
            product = _READ[name](equation, inputs[at].leaf, plain, at, outputs[0])
            if product is not None:
                self._end(name, active)
                self.found.append(product)
                self.latest.append(outputs[0])
                return [_Active(outputs[0], len(self.found) - 1)]
        if name in _SAME_KERNEL and kernels:
            return [_Kernel(outputs[0], inputs[0].leaf)]
        if not active:
            return outputs
        product = active[0] if name in ELEMENTWISE and len(set(active)) == 1 else None
        if product is not None and outputs[0].shape == self.latest[product].shape:
            here = any(v.value is self.latest[product] for v in inputs if isinstance(v, _Active))
            floating = jnp.issubdtype(outputs[0].dtype, jnp.floating)
            if here and floating and product not in self.ended:
                self.latest[product] = outputs[0]
            return [_Active(outputs[0], product)]
        self._end(name, active)
        return [_Active(out) for out in outputs]

    def _end(self, name: str, active: list[int | None]) -> None:
        """What is done to an activation after this is a side branch; sums on the side end nothing."""
        if not name.startswith(("reduce_", "broadcast", "arg")):
            self.ended |= {product for product in active if product is not None}


def _dot(equation: Any, leaf: str, values: list[Any], at: int, out: jax.Array) -> Product | None:
    (contracted, batch) = equation.params["dimension_numbers"]
    if batch[0]:
        return None
    kernel, x = values[at], values[1 - at]
    pairs = sorted(zip(contracted[at], contracted[1 - at], strict=True))
    axes, summed = tuple(int(a) for a, _ in pairs), tuple(int(b) for _, b in pairs)
    others = tuple(i for i in range(x.ndim) if i not in summed)
    rows = jnp.transpose(x, (*others, *summed)).reshape(-1, math.prod(x.shape[i] for i in summed))
    free = [i for i in range(kernel.ndim) if i not in axes]
    features = None
    if len(free) == 1:  # of the output: the axes of the left factor come first
        features = (out.ndim - 1 if at == 1 else 0, free[0])
    return Product(leaf, kernel.shape, axes, rows, out, features)


def _conv(equation: Any, leaf: str, values: list[Any], at: int, out: jax.Array) -> Product | None:
    p = equation.params
    if at != 1 or p["feature_group_count"] != 1 or p["batch_group_count"] != 1:
        return None
    x, kernel = values
    spec = p["dimension_numbers"]
    _, entering, *window = spec.rhs_spec
    patches = jax.lax.conv_general_dilated_patches(
        x,
        [kernel.shape[i] for i in window],
        p["window_strides"],
        p["padding"],
        p["lhs_dilation"],
        p["rhs_dilation"],
        dimension_numbers=spec,
    )
    # The entries of a patch are ordered by channel, then by place in the window.
    patches = jnp.moveaxis(patches, spec.out_spec[1], -1)
    order = (entering, *window)
    entries = patches.reshape(-1, *(kernel.shape[i] for i in order))
    axes = tuple(sorted(int(i) for i in order))
    rows = jnp.transpose(entries, (0, *(1 + order.index(i) for i in axes)))
    features = (int(spec.out_spec[1]), int(spec.rhs_spec[0]))
    return Product(leaf, kernel.shape, axes, rows.reshape(len(rows), -1), out, features)


_READ = {"dot_general": _dot, "conv_general_dilated": _conv}
