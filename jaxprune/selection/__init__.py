"""Exact selection of the k largest scores by counting: no sort, no gather.

`counting` finds the cut, `searches` reads the scores of one device where they are, `sharded` counts parts on
any mesh of devices where they lie; `exact` tells them who competes with whom.
"""

from jaxprune.selection.exact import top as top
from jaxprune.selection.exact import top_along as top_along
from jaxprune.selection.exact import top_each as top_each
from jaxprune.selection.replacements import REPLACEMENTS as REPLACEMENTS

__all__ = [
    "REPLACEMENTS",
    "top",
    "top_along",
    "top_each",
]
