"""Criteria: what each weight is worth. Pure functions `(params, *, <signals>, **_) -> scores`.

Signals come by keyword: `grads` and `key` from `sparsify`, those with a memory (`jaxprune.signals`) from
its state, others from whoever calls. A missing one is Python's own `TypeError`. Higher scores are kept.
"""

from jaxprune.criteria.gradient import accumulated_gradient as accumulated_gradient
from jaxprune.criteria.gradient import gradient as gradient
from jaxprune.criteria.gradient import magnitude_and_gradient as magnitude_and_gradient
from jaxprune.criteria.gradient import momentum as momentum
from jaxprune.criteria.gradient import taylor as taylor
from jaxprune.criteria.magnitude import magnitude as magnitude
from jaxprune.criteria.movement import magnitude_increase as magnitude_increase
from jaxprune.criteria.movement import movement as movement
from jaxprune.criteria.movement import weight_change as weight_change
from jaxprune.criteria.random import random as random

__all__ = [
    "accumulated_gradient",
    "gradient",
    "magnitude",
    "magnitude_and_gradient",
    "magnitude_increase",
    "momentum",
    "movement",
    "random",
    "taylor",
    "weight_change",
]
