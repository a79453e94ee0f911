"""Published pruning methods, each a combination of criterion, pattern, allocation, schedule and update."""

from jaxprune.methods.gradual import global_magnitude as global_magnitude
from jaxprune.methods.gradual import gmp as gmp
from jaxprune.methods.gradual import lamp as lamp
from jaxprune.methods.gradual import magnitude_increase as magnitude_increase
from jaxprune.methods.gradual import movement as movement
from jaxprune.methods.gradual import saliency as saliency
from jaxprune.methods.gradual import weight_change as weight_change
from jaxprune.methods.one_shot import magnitude as magnitude
from jaxprune.methods.one_shot import none as none
from jaxprune.methods.one_shot import random as random
from jaxprune.methods.repeated import ac_dc as ac_dc
from jaxprune.methods.repeated import cyclical as cyclical
from jaxprune.methods.repeated import granet as granet
from jaxprune.methods.repeated import iterative as iterative
from jaxprune.methods.repeated import std_threshold as std_threshold
from jaxprune.methods.sparse_to_sparse import dsr as dsr
from jaxprune.methods.sparse_to_sparse import itop as itop
from jaxprune.methods.sparse_to_sparse import mest as mest
from jaxprune.methods.sparse_to_sparse import rigl as rigl
from jaxprune.methods.sparse_to_sparse import set_ as set_
from jaxprune.methods.sparse_to_sparse import snfs as snfs
from jaxprune.methods.sparse_to_sparse import static as static
from jaxprune.methods.straight_through import sr_ste as sr_ste
from jaxprune.methods.straight_through import ste as ste
from jaxprune.methods.straight_through import surgery as surgery
from jaxprune.methods.straight_through import top_kast as top_kast

__all__ = [
    "ac_dc",
    "cyclical",
    "dsr",
    "global_magnitude",
    "gmp",
    "granet",
    "iterative",
    "itop",
    "lamp",
    "magnitude",
    "magnitude_increase",
    "mest",
    "movement",
    "none",
    "random",
    "rigl",
    "saliency",
    "set_",
    "snfs",
    "sr_ste",
    "static",
    "std_threshold",
    "ste",
    "surgery",
    "top_kast",
    "weight_change",
]


def __dir__() -> list[str]:
    return sorted(__all__)
