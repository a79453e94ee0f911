"""Rules of what takes in some axes whole, once for each index of all others.

Sorts and cumulative sums, the largest entries, Fourier transforms, factorizations of matrices: the axes they
go along stay as they are, and the others are none of their business.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.rules.rule import Label, Rule, shapes_of

__all__ = ["RULES"]


def _along(parameter: str) -> Label:
    """What goes along the one axis that a parameter of the equation names."""

    def label(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
        axis = equation.params[parameter] % len(inputs[0])
        for axes in inputs:
            labels.pin(axes[axis])
            labels.tie_all(inputs[0], axes)
        outputs = []
        for shape in shapes_of(equation):
            same = shape[axis] == len(inputs[0][axis])
            own = inputs[0][axis] if same else labels.fresh(shape[axis], pinned=True)
            outputs.append((*inputs[0][:axis], own, *inputs[0][axis + 1 :]))
        return outputs

    return label


def _last(ranks: Callable[[Any], Sequence[int]]) -> Label:
    """What takes in the last axes of its inputs.

    Args:
      ranks: equation -> per input, how many of its last axes; the axes before them, and as many of each
        output, are the same ones.
    """

    def label(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
        batches = []
        for axes, rank in zip(inputs, ranks(equation), strict=True):
            batches.append(axes[: len(axes) - rank])
            labels.pin(*axes[len(axes) - rank :])
        for batch in batches[1:]:
            labels.tie_all(batches[0], batch)
        count = len(batches[0])
        return [
            (*batches[0], *(labels.fresh(n, pinned=True) for n in shape[count:]))
            for shape in shapes_of(equation)
        ]

    return label


def _solve(labels: Labels, equation: Any, inputs: list[Axes]) -> list[Axes]:
    """Each column of the right-hand side, or each row, is solved for by itself."""
    *matrix, right = inputs
    count = len(right) - 2  # of axes that number systems of equations
    for axes in matrix:
        labels.pin(*axes[count:])
        labels.tie_all(axes[:count], right[:count])
    labels.pin(right[-2] if equation.params.get("left_side", True) else right[-1])
    return [right]


# Per input, the last axes that make up one matrix or vector.
_MATRICES = {
    "cholesky": (2,),
    "eig": (2,),
    "eigh": (2,),
    "geqrf": (2,),
    "hessenberg": (2,),
    "householder_product": (2, 1),
    "lu": (2,),
    "lu_pivots_to_permutation": (1,),
    "qr": (2,),
    "schur": (2,),
    "svd": (2,),
    "tridiagonal": (2,),
}

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "top_k"), Rule(_along("axis"))
    ),
    "sort": Rule(_along("dimension")),
    "approx_top_k": Rule(_along("reduction_dimension")),
    "fft": Rule(_last(lambda equation: [len(equation.params["fft_lengths"])])),
    **{name: Rule(_last(lambda equation, ranks=ranks: ranks)) for name, ranks in _MATRICES.items()},
    **dict.fromkeys(("triangular_solve", "tridiagonal_solve"), Rule(_solve)),
}
