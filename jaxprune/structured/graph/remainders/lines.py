"""Remainders of operations along axes of which everything stays: sorts, cumulative sums, windows."""

from collections.abc import Sequence
from typing import Any

from jaxprune import programs
from jaxprune.structured.graph.remainders.values import (
    Lost,
    Places,
    Remainders,
    Value,
    broadcast_content,
    evaluate_or_shape,
    is_number,
    is_zero,
    regions_of,
)
from jaxprune.structured.graph.rules import Step

__all__ = ["LINES", "line_remainders"]

# A line is all that is mixed for one place of the other axes. If one number is everywhere along it, these
# give the same number ...
_SAME = frozenset({"cummax", "cummin", "reduce_window_max", "reduce_window_min", "sort"})
# ... and these do so if it is zero; the first of equal ones is at index 0.
_ZEROS = frozenset(
    {"argmax", "argmin", "bitcast_convert_type", "cumprod", "cumsum", "fft"} | {"reduce_window_sum"}
)
_MATRICES = frozenset(
    {"cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur"}
    | {"lu_pivots_to_permutation", "svd", "tridiagonal"}
)
LINES = _SAME | _ZEROS | _MATRICES | {"approx_top_k", "cumlogsumexp", "top_k"}


def line_remainders(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[Remainders]:
    """Returns the remainders of each output."""
    name = equation.primitive.name
    reduced_axes = equation.params.get("axes", ())
    input_axis_of = [axis for axis in range(len(step.inputs[0])) if axis not in reduced_axes]
    outputs: list[Remainders] = [{} for _ in step.outputs]
    for region in regions_of(places.cut(step.outputs[0])):
        input_region = frozenset(input_axis_of[axis] for axis in region)
        contents = [value.at(input_region) for value in values]
        if name in _ZEROS and all(map(is_zero, contents)):
            continue
        if name.startswith("arg") and is_number(contents[0]):
            continue
        if name in _SAME and all(map(is_number, contents)):
            output_contents = contents
        elif lost_contents := [content for content in contents if isinstance(content, Lost)]:
            output_contents = lost_contents[:1] * len(step.outputs)
        else:
            sizes = [places.sizes(axes, input_region) for axes in step.inputs]
            output_contents = _run_equation(equation, contents, sizes)
        for remainders, content in zip(outputs, output_contents, strict=True):
            if not is_zero(content):
                remainders[region] = content
    return outputs


def _run_equation(
    equation: Any, contents: Sequence[Any], sizes: Sequence[Sequence[int]]
) -> list[Any]:
    """Returns what an equation makes of the contents of a region, whose shapes are given."""
    dtypes = [variable.aval.dtype for variable in equation.invars]

    def run(*operands: Any) -> list[Any]:
        triples = zip(operands, sizes, dtypes, strict=True)
        arrays = [broadcast_content(x, size, len(size), dtype) for x, size, dtype in triples]
        return programs.bind(equation, arrays)

    return evaluate_or_shape(run, *contents)
