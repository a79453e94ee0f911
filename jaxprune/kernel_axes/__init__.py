"""Inputs, outputs and layers of each kernel: read from a program, given by hand, or guessed from a shape."""

from jaxprune.kernel_axes.given import AxesTree as AxesTree
from jaxprune.kernel_axes.given import by_path as by_path
from jaxprune.kernel_axes.given import by_position as by_position
from jaxprune.kernel_axes.given import direction_fault as direction_fault
from jaxprune.kernel_axes.given import kernels_by_use as kernels_by_use
from jaxprune.kernel_axes.given import layer_axes as layer_axes
from jaxprune.kernel_axes.given import of_leaves as of_leaves
from jaxprune.kernel_axes.given import require_axes as require_axes
from jaxprune.kernel_axes.given import resolve_axes as resolve_axes
from jaxprune.kernel_axes.given import tree_beside as tree_beside
from jaxprune.kernel_axes.program import axes as axes
from jaxprune.kernel_axes.program import of_follower as of_follower

__all__ = [
    "AxesTree",
    "axes",
    "by_path",
    "by_position",
    "direction_fault",
    "kernels_by_use",
    "layer_axes",
    "of_follower",
    "of_leaves",
    "require_axes",
    "resolve_axes",
    "tree_beside",
]
