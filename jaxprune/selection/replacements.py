"""What runs in place of jitted functions where scores are computed where they are read."""

from jaxprune.selection.counts_by_leaf import count_masks_by_leaf, count_where_read
from jaxprune.selection.deferred import Replacements, called_once_per_kind, computed_by_call
from jaxprune.selection.draws import threefry_uniform
from jaxprune.selection.exact import SEARCHES, compare_slices
from jaxprune.selection.mask_counts import count_true, mean_marked

__all__ = ["REPLACEMENTS"]

REPLACEMENTS: Replacements = {
    **SEARCHES,
    count_masks_by_leaf: count_where_read,
    threefry_uniform: computed_by_call,
    count_true: called_once_per_kind,
    mean_marked: called_once_per_kind,
    compare_slices: called_once_per_kind,
}
