"""Masks of a ticket by other criteria, and the similarity of the masks of two tickets.

Masks are shuffled by `jaxprune.masks.shuffle`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import checks, criteria, trees
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree, layer_axes, of_leaves
from jaxprune.pruning.scoring import scores_of
from jaxprune.selection import top_along
from jaxprune.trees.alike import check_alike
from jaxprune.types import Criterion, Masks, Params

__all__ = ["CRITERIA", "Overlap", "masks_like", "overlap"]

# The mask criteria of Zhou et al. (2019), by the names of the paper.
CRITERIA: Mapping[str, Criterion] = {
    "large_final": criteria.magnitude,
    "small_final": criteria.small_final,
    "large_init": criteria.large_init,
    "small_init": criteria.small_init,
    "large_init_large_final": criteria.large_init_large_final,
    "small_init_small_final": criteria.small_init_small_final,
    "magnitude_increase": criteria.magnitude_increase,
    "movement": criteria.weight_change,
    "large_final_same_sign": criteria.large_final_same_sign,
    "random": criteria.random,
}


class Overlap(NamedTuple):
    """How similar two masks are.

    Attributes:
      jaccard: share of the weights kept by both among those kept by either.
      expected: about the same share for random masks that keep as many weights of each layer: the expected
        number kept by both over the expected number kept by either.
    """

    jaccard: float
    expected: float


def masks_like(
    masks: Masks,
    params: Params,
    criterion: Criterion,
    *,
    axes: AxesTree | None = None,
    **signals: Any,
) -> Masks:
    """Returns masks by another criterion that keep exactly as many weights of each layer as given masks.

    Args:
      masks: bool arrays, `None` at leaves that are never pruned; their counts alone are read.
      params: tree of arrays that the criterion scores, such as the trained dense weights.
      criterion: any of `jaxprune.criteria`, or of `CRITERIA` by its name in the paper. Of equal scores the
        first by position are kept.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.
      **signals: what the criterion reads: `initial_params`, `key`, ...

    Returns:
      Bool arrays beside `params`, `None` at leaves that are never pruned.

    Raises:
      ValueError: if masks, signals or scores are other trees than the parameters, or a weight has the score
        NaN or none.
      TypeError: if a signal is missing that the criterion reads.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).
      Departure: the paper breaks ties at random.

    >>> ticket = {"w": jnp.array([True, False, False])}
    >>> start, trained = {"w": jnp.array([0.1, -3.0, 2.0])}, {"w": jnp.array([4.0, -3.5, 0.0])}
    >>> masks_like(ticket, trained, CRITERIA["magnitude_increase"], initial_params=start)
    {'w': Array([ True, False, False], dtype=bool)}
    >>> masks_like(ticket, trained, CRITERIA["large_init"], initial_params=start)
    {'w': Array([False,  True, False], dtype=bool)}
    """
    checks.check("masks_like", masks=(masks, masks_lib.MASKS), params=(params, checks.TREE))
    checks.check("masks_like", criterion=(criterion, checks.FUNCTION))
    masks_lib.check_order("masks_like", params, masks)
    remedy = "give masks of the same parameters"
    check_alike("masks_like", "masks", params, masks_lib.unpack(masks), remedy)
    params = trees.plain(params)
    known_axes = of_leaves(axes, params)
    leaf_masks = masks_lib.beside(params, masks_lib.unpack(masks))
    masked_indices = [index for index, mask in enumerate(leaf_masks) if mask is not None]
    scores = scores_of(criterion, params, signals, masked_indices, known_axes)

    def keep_highest(path: str, mask: Any, leaf_scores: Any, leaf_axes: Any) -> Any:
        if mask is None:
            return None
        if bool(jnp.isnan(leaf_scores).any()):
            raise ValueError(
                f"masks_like: the criterion gives weights of {path!r} no number to rank them by; train "
                "without NaN, or choose a criterion that scores this leaf."
            )
        contest_axes = [a for a in range(mask.ndim) if a not in layer_axes(leaf_axes)]
        counts = jnp.sum(mask, contest_axes, dtype=jnp.int32, keepdims=True)
        return top_along(leaf_scores, counts, contest_axes)

    rows = zip(
        masks_lib.paths(params),
        leaf_masks,
        scores,
        known_axes,
        strict=True,
    )
    return jax.tree.structure(params).unflatten([keep_highest(*row) for row in rows])


def overlap(a: Masks, b: Masks, axes: AxesTree | None = None) -> Overlap:
    """Returns the overlap of the kept weights of two masks, and the overlap expected by chance.

    Args:
      a: bool arrays, `None` at leaves that are never pruned: the ticket of one seed.
      b: masks of the same parameters: the ticket of another.
      axes: which axes of the leaves are layers: `jaxprune.axes(apply, params, *inputs)`; `None`: each leaf is
        a layer.

    Returns:
      Jaccard index and expectation.

    Raises:
      ValueError: if the two are not of the same leaves and shapes, or keep nothing.

    >>> a, b = {"w": jnp.arange(100) < 50}, {"w": jnp.arange(100) >= 25}
    >>> overlap(a, b)  # both keep 25; by chance 37.5 of 87.5
    Overlap(jaccard=0.25, expected=0.42857142857142855)
    """
    jaccard = float(masks_lib.jaccard(a, b))
    other_rows = {row["leaf"]: row for row in masks_lib.summary(b, axes)}
    expected_both = 0.0
    kept_count = 0
    for row in masks_lib.summary(a, axes):
        other_row = other_rows[row["leaf"]]
        expected_both += row["kept"] * other_row["kept"] / max(row["weights"], 1)
        kept_count += row["kept"] + other_row["kept"]
    if not kept_count:
        raise ValueError("overlap: neither of the masks keeps a weight; give masks that keep some.")
    return Overlap(jaccard, expected_both / (kept_count - expected_both))
