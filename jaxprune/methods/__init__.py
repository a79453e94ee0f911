"""Published methods as sentences: criterion · pattern · allocation · schedule · update."""

from jaxprune.methods.dense_to_sparse import ac_dc as ac_dc
from jaxprune.methods.dense_to_sparse import cyclical as cyclical
from jaxprune.methods.dense_to_sparse import global_magnitude as global_magnitude
from jaxprune.methods.dense_to_sparse import gmp as gmp
from jaxprune.methods.dense_to_sparse import granet as granet
from jaxprune.methods.dense_to_sparse import iterative as iterative
from jaxprune.methods.dense_to_sparse import lamp as lamp
from jaxprune.methods.dense_to_sparse import magnitude as magnitude
from jaxprune.methods.dense_to_sparse import magnitude_increase as magnitude_increase
from jaxprune.methods.dense_to_sparse import movement as movement
from jaxprune.methods.dense_to_sparse import none as none
from jaxprune.methods.dense_to_sparse import random as random
from jaxprune.methods.dense_to_sparse import saliency as saliency
from jaxprune.methods.dense_to_sparse import std_threshold as std_threshold
from jaxprune.methods.dense_to_sparse import weight_change as weight_change
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
