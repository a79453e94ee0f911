"""Patterns: which weights are removed together, and which compete with each other."""

from jaxprune.patterns.leafwise import block as block
from jaxprune.patterns.leafwise import channel as channel
from jaxprune.patterns.leafwise import groups as groups
from jaxprune.patterns.leafwise import unstructured as unstructured

__all__ = ["block", "channel", "groups", "unstructured"]


def __dir__() -> list[str]:
    return sorted(__all__)
