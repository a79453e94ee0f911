"""Remainders of what runs along axes of which everything stays: sorting, running sums, windows."""

from collections.abc import Sequence
from typing import Any

from jaxprune import programs
from jaxprune.structured.remainders.values import (
    Lost,
    Places,
    Region,
    Value,
    evaluated,
    is_number,
    is_zero,
    regions_of,
    spread,
)
from jaxprune.structured.rules import Step

__all__ = ["LINES", "along"]

# Whatever number is everywhere along a line, they give the same ...
_SAME = frozenset({"cummax", "cummin", "reduce_window_max", "reduce_window_min", "sort"})
# ... or do so with zeros; the first of equal ones is at 0.
_ZEROS = frozenset(
    {"argmax", "argmin", "bitcast_convert_type", "cumprod", "cumsum", "fft"} | {"reduce_window_sum"}
)
_MATRICES = frozenset(
    {"cholesky", "eig", "eigh", "geqrf", "hessenberg", "householder_product", "lu", "qr", "schur"}
    | {"lu_pivots_to_permutation", "svd", "tridiagonal"}
)
LINES = _SAME | _ZEROS | _MATRICES | {"approx_top_k", "cumlogsumexp", "top_k"}


def along(
    equation: Any, values: Sequence[Value], step: Step, places: Places
) -> list[dict[Region, Any]]:
    """The remainders of the outputs, for each of them by region."""
    name, gone = equation.primitive.name, equation.params.get("axes", ())
    source = [i for i in range(len(step.inputs[0])) if i not in gone]
    found: list[dict[Region, Any]] = [{} for _ in step.outputs]
    for region in regions_of(places.cut(step.outputs[0])):
        own = frozenset(source[i] for i in region)
        contents = [value.at(own) for value in values]
        if name in _ZEROS and all(map(is_zero, contents)):
            continue
        if name.startswith("arg") and is_number(contents[0]):
            continue
        if name in _SAME and all(map(is_number, contents)):
            results = contents
        elif lost := [c for c in contents if isinstance(c, Lost)]:
            results = lost[:1] * len(step.outputs)
        else:
            results = _computed(equation, contents, [places.sizes(a, own) for a in step.inputs])
        for remainders, content in zip(found, results, strict=True):
            if not is_zero(content):
                remainders[region] = content
    return found


def _computed(equation: Any, contents: Sequence[Any], sizes: Sequence[Sequence[int]]) -> list[Any]:
    dtypes = [atom.aval.dtype for atom in equation.invars]

    def run(*xs: Any) -> list[Any]:
        triples = zip(xs, sizes, dtypes, strict=True)
        arrays = [spread(x, own, len(own), dtype) for x, own, dtype in triples]
        return programs.bind(equation, arrays)

    return evaluated(run, *contents)
