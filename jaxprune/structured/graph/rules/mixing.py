"""Rules of operations that mix all elements along some axes, for each index of the others by itself.

Sorts and cumulative sums, the largest elements, Fourier transforms, factorizations of matrices: the axes they
go along are pinned, the others are free.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.rules.rule import Label, Rule, shapes_of

__all__ = ["RULES"]


def _mixing_along(parameter: str) -> Label:
    """Returns the rule of operations along the one axis that a parameter of the equation names."""

    def label(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
        axis = equation.params[parameter] % len(inputs[0])
        for axes in inputs:
            labels.pin(axes[axis])
            labels.tie_all(inputs[0], axes)
        outputs = []
        for shape in shapes_of(equation):
            same_size = shape[axis] == len(inputs[0][axis])
            mixed_axis = inputs[0][axis] if same_size else labels.fresh(shape[axis], pinned=True)
            outputs.append((*inputs[0][:axis], mixed_axis, *inputs[0][axis + 1 :]))
        return outputs

    return label


def _mixing_last_axes(ranks: Callable[[Any], Sequence[int]]) -> Label:
    """Returns the rule of operations on the last axes of their inputs.

    Args:
      ranks: equation -> per input, how many of its last axes; the axes before them, and as many of each
        output, are the same ones.
    """

    def label(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
        batches = []
        for axes, rank in zip(inputs, ranks(equation), strict=True):
            batches.append(axes[: len(axes) - rank])
            labels.pin(*axes[len(axes) - rank :])
        for batch in batches[1:]:
            labels.tie_all(batches[0], batch)
        batch_rank = len(batches[0])
        return [
            (*batches[0], *(labels.fresh(size, pinned=True) for size in shape[batch_rank:]))
            for shape in shapes_of(equation)
        ]

    return label


def _solve(labels: Labels, equation: Any, inputs: list[AxisLabels]) -> list[AxisLabels]:
    """Labels systems of equations: each column of the right side, or each row, is solved for by itself."""
    *matrices, right_side = inputs
    batch_rank = len(right_side) - 2
    for axes in matrices:
        labels.pin(*axes[batch_rank:])
        labels.tie_all(axes[:batch_rank], right_side[:batch_rank])
    labels.pin(right_side[-2] if equation.params.get("left_side", True) else right_side[-1])
    return [right_side]


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
        ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "top_k"),
        Rule(_mixing_along("axis")),
    ),
    "sort": Rule(_mixing_along("dimension")),
    "approx_top_k": Rule(_mixing_along("reduction_dimension")),
    "fft": Rule(_mixing_last_axes(lambda equation: [len(equation.params["fft_lengths"])])),
    **{
        name: Rule(_mixing_last_axes(lambda equation, ranks=ranks: ranks))
        for name, ranks in _MATRICES.items()
    },
    **dict.fromkeys(("triangular_solve", "tridiagonal_solve"), Rule(_solve)),
}
