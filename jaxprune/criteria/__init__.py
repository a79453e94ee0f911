"""Criteria: pure functions `(params, *, <signals>, **_) -> scores`; the weights of highest score are kept.

Signals are passed by keyword: `sparsify` passes `grads`, `key` and those that it accumulates in its state
(`jaxprune.signals.needs`); others come from the caller, of `jaxprune.prune` for instance. A missing signal is
a `TypeError` that names it.
"""

from jaxprune.criteria.activation import apoz as apoz
from jaxprune.criteria.activation import bn_scale as bn_scale
from jaxprune.criteria.activation import entropy as entropy
from jaxprune.criteria.activation import hrank as hrank
from jaxprune.criteria.activation import ria as ria
from jaxprune.criteria.activation import wanda as wanda
from jaxprune.criteria.curvature import adam_second_moment as adam_second_moment
from jaxprune.criteria.curvature import fisher as fisher
from jaxprune.criteria.curvature import obd as obd
from jaxprune.criteria.curvature import obs as obs
from jaxprune.criteria.curvature import second_order_taylor as second_order_taylor
from jaxprune.criteria.curvature import woodfisher as woodfisher
from jaxprune.criteria.gradient import accumulated_gradient as accumulated_gradient
from jaxprune.criteria.gradient import gradient as gradient
from jaxprune.criteria.gradient import magnitude_and_gradient as magnitude_and_gradient
from jaxprune.criteria.gradient import momentum as momentum
from jaxprune.criteria.gradient import taylor as taylor
from jaxprune.criteria.gradient import unit_taylor as unit_taylor
from jaxprune.criteria.initial_and_final import large_final_same_sign as large_final_same_sign
from jaxprune.criteria.initial_and_final import large_init as large_init
from jaxprune.criteria.initial_and_final import large_init_large_final as large_init_large_final
from jaxprune.criteria.initial_and_final import small_final as small_final
from jaxprune.criteria.initial_and_final import small_init as small_init
from jaxprune.criteria.initial_and_final import small_init_small_final as small_init_small_final
from jaxprune.criteria.initialisation import grasp as grasp
from jaxprune.criteria.initialisation import snip as snip
from jaxprune.criteria.initialisation import synflow as synflow
from jaxprune.criteria.magnitude import fpgm as fpgm
from jaxprune.criteria.magnitude import l2 as l2
from jaxprune.criteria.magnitude import magnitude as magnitude
from jaxprune.criteria.magnitude import normalized_magnitude as normalized_magnitude
from jaxprune.criteria.movement import magnitude_increase as magnitude_increase
from jaxprune.criteria.movement import movement as movement
from jaxprune.criteria.movement import weight_change as weight_change
from jaxprune.criteria.random import random as random

__all__ = [
    "accumulated_gradient",
    "adam_second_moment",
    "apoz",
    "bn_scale",
    "entropy",
    "fisher",
    "fpgm",
    "gradient",
    "grasp",
    "hrank",
    "l2",
    "large_final_same_sign",
    "large_init",
    "large_init_large_final",
    "magnitude",
    "magnitude_and_gradient",
    "magnitude_increase",
    "momentum",
    "movement",
    "normalized_magnitude",
    "obd",
    "obs",
    "random",
    "ria",
    "second_order_taylor",
    "small_final",
    "small_init",
    "small_init_small_final",
    "snip",
    "synflow",
    "taylor",
    "unit_taylor",
    "wanda",
    "weight_change",
    "woodfisher",
]


def __dir__() -> list[str]:
    return sorted(__all__)
