"""One rule per primitive: what it says of labels, and how it runs on smaller arrays.

A new primitive needs a function `(labels, equation, inputs) -> outputs` on `Axes`, and, if its parameters
hold sizes, one more that binds it with those of smaller arrays; both go into a table here. What has no rule
is pinned, never guessed.
"""

from jaxprune.structured.rules import entries, pieces, places, products, shapes
from jaxprune.structured.rules.rule import Kept, Rule, Step, cut

__all__ = ["RULES", "Kept", "Rule", "Step", "cut", "rule_of"]

RULES: dict[str, Rule] = {
    name: rule
    for part in (entries, shapes, pieces, products, places)
    for name, rule in part.RULES.items()
}


def rule_of(name: str) -> Rule | None:
    """The rule of a primitive, or `None`: everything that it touches is pinned."""
    return RULES.get(name)
