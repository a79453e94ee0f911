"""Families of primitives: what JAX's operations do to the arrangement and to the values of their operands."""

__all__ = [
    "ADDITIONS",
    "ELEMENTWISE",
    "IDENTITIES",
    "JOINING",
    "PRODUCTS",
    "REARRANGING",
    "REDUCING",
]

# Each output is an input as it stands, value by value.
IDENTITIES = frozenset(
    {
        "copy",
        "copy_p",
        "device_put",
        "layout_constraint",
        "mesh_cast",
        "name",
        "optimization_barrier",
        "pvary",
        "reduce_precision",
        "reshard",
        "sharding_constraint",
        "stop_gradient",
    }
)
ADDITIONS = frozenset({"add", "add_any"})
# One result for each index; operands have its shape, or are scalars.
# fmt: off
ELEMENTWISE = IDENTITIES | ADDITIONS | frozenset({
    "abs", "acos", "acosh", "and", "asin", "asinh", "atan", "atan2", "atanh", "bessel_i0e",
    "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "cos",
    "cosh", "digamma", "div", "eq", "eq_to", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1",
    "floor", "ge", "gt", "igamma", "igamma_grad_a", "igammac", "imag", "integer_pow", "is_finite",
    "le", "le_to", "lgamma", "log", "log1p", "logistic", "lt", "lt_to", "max", "min", "mul",
    "mulhi", "ne", "neg", "nextafter", "not", "or", "polygamma", "population_count", "pow",
    "random_gamma_grad", "real", "regularized_incomplete_beta", "rem", "round", "rsqrt", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt",
    "square", "sub", "tan", "tanh", "xor", "zeros_like", "zeta",
})
# fmt: on
# The same numbers in another arrangement, or some of them.
REARRANGING = frozenset(
    {
        "broadcast_in_dim",
        "dynamic_slice",
        "expand_dims",
        "gather",
        "reshape",
        "rev",
        "slice",
        "squeeze",
        "transpose",
    }
)
# Numbers of several operands beside each other.
JOINING = frozenset({"concatenate", "dynamic_update_slice", "pad"})
REDUCING = frozenset(
    {
        "argmax",
        "argmin",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_prod",
        "reduce_sum",
        "reduce_xor",
    }
)
PRODUCTS = frozenset({"conv_general_dilated", "dot_general", "ragged_dot", "ragged_dot_general"})
