"""Leaves of a tree by name, and trees compared with each other."""

from jaxprune.trees.named import beside as beside
from jaxprune.trees.named import check_distinct as check_distinct
from jaxprune.trees.named import check_matches as check_matches
from jaxprune.trees.named import content as content
from jaxprune.trees.named import differences as differences
from jaxprune.trees.named import is_box as is_box
from jaxprune.trees.named import is_placeholder as is_placeholder
from jaxprune.trees.named import layer_names as layer_names
from jaxprune.trees.named import leaves_with_keys as leaves_with_keys
from jaxprune.trees.named import names_beside as names_beside
from jaxprune.trees.named import paths as paths
from jaxprune.trees.named import plain as plain
from jaxprune.trees.named import quote_names as quote_names
from jaxprune.trees.named import unboxed as unboxed

__all__ = [
    "beside",
    "check_distinct",
    "check_matches",
    "content",
    "differences",
    "is_box",
    "is_placeholder",
    "layer_names",
    "leaves_with_keys",
    "names_beside",
    "paths",
    "plain",
    "quote_names",
    "unboxed",
]
