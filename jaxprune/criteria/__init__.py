"""Criteria: what each weight is worth. Pure functions `(params, *, <signals>, **_) -> scores`.

Signals come by keyword: `grads` and `key` from `sparsify`, others from whoever calls. A missing one is
Python's own `TypeError`. Higher scores are kept.
"""

from jaxprune.criteria.gradient import gradient as gradient
from jaxprune.criteria.gradient import taylor as taylor
from jaxprune.criteria.magnitude import magnitude as magnitude
from jaxprune.criteria.random import random as random

__all__ = ["gradient", "magnitude", "random", "taylor"]
