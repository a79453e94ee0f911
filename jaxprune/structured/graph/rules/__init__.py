"""One rule per primitive: how labels go through it, and how it runs on smaller arrays.

A new primitive needs a function `(labels, equation, inputs) -> outputs` on `AxisLabels`, and, if its
parameters hold sizes, one more that binds it with those of smaller arrays; both go into a table here, or are
told to `register`. What has no rule is pinned, never guessed.
"""

from jaxprune.structured.graph.rules.entrywise import elementwise
from jaxprune.structured.graph.rules.registry import RULES, register, rule_of
from jaxprune.structured.graph.rules.rule import (
    Kept,
    Rule,
    Step,
    again,
    cut,
    each_its_own,
    left,
    shapes_of,
)

__all__ = [
    "RULES",
    "Kept",
    "Rule",
    "Step",
    "again",
    "cut",
    "each_its_own",
    "elementwise",
    "left",
    "register",
    "rule_of",
    "shapes_of",
]


def __dir__() -> list[str]:
    return sorted(__all__)
