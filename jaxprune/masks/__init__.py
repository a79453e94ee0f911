"""Masks are bool trees beside the parameters: made, applied, compared, packed, stored and checked here.

A leaf that is never pruned has the mask `None`. Map a function over **params first**, masks second:
`jax.tree.map(f, params, masks)` hands the `None` to `f`. Every function here also takes packed masks, and
masks in other containers than the parameters': `nnx.State`, `FrozenDict` and plain dicts hold the same leaves
under the same names.
"""

from jaxprune.masks.comparing import hamming as hamming
from jaxprune.masks.comparing import jaccard as jaccard
from jaxprune.masks.comparing import leaves as leaves
from jaxprune.masks.comparing import shuffle as shuffle
from jaxprune.masks.comparing import sparsity as sparsity
from jaxprune.masks.comparing import summary as summary
from jaxprune.masks.comparing import table as table
from jaxprune.masks.files import load as load
from jaxprune.masks.files import save as save
from jaxprune.masks.fitting import apply as apply
from jaxprune.masks.fitting import check as check
from jaxprune.masks.fitting import check_order as check_order
from jaxprune.masks.fitting import validate as validate
from jaxprune.masks.fitting import where as where
from jaxprune.masks.making import PRUNABLE as PRUNABLE
from jaxprune.masks.making import Prunable as Prunable
from jaxprune.masks.making import is_prunable as is_prunable
from jaxprune.masks.making import make as make
from jaxprune.masks.making import of_zeros as of_zeros
from jaxprune.masks.packing import MASKS as MASKS
from jaxprune.masks.packing import PackedMask as PackedMask
from jaxprune.masks.packing import pack as pack
from jaxprune.masks.packing import unpack as unpack
from jaxprune.trees import beside as beside
from jaxprune.trees import paths as paths

__all__ = [
    "PackedMask",
    "Prunable",
    "apply",
    "beside",
    "check",
    "hamming",
    "is_prunable",
    "jaccard",
    "leaves",
    "load",
    "make",
    "of_zeros",
    "pack",
    "paths",
    "save",
    "shuffle",
    "sparsity",
    "summary",
    "table",
    "unpack",
    "validate",
    "where",
]


def __dir__() -> list[str]:
    return sorted(__all__)
