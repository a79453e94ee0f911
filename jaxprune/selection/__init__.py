"""Exact selection of the k largest scores by counting: no sort, no gather.

`counting` finds the cut, `searches` reads the scores of one device where they are. Here is who competes with
whom, and how parts on any mesh of devices are counted where they lie: a few integers per pass travel.
"""

from jaxprune.selection.exact import WHERE_READ as WHERE_READ
from jaxprune.selection.exact import top as top
from jaxprune.selection.exact import top_along as top_along
from jaxprune.selection.exact import top_each as top_each

__all__ = [
    "WHERE_READ",
    "top",
    "top_along",
    "top_each",
]
