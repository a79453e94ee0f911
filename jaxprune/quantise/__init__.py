"""Quantisation of pruned networks: few values per leaf, their training, and their size in a file.

`codebooks` finds the values by k-means, `shared` trains them with any optax optimizer, and `pack` writes
pruned and quantised leaves as Deep Compression does (Han, Mao & Dally 2016), to the byte.

    books = jp.quantise.codebooks(params, masks, bits=5)
    params = jp.quantise.dense(books, params)
    tx = jp.quantise.shared(optax.sgd(1e-3), books)
    ...
    report = jp.quantise.report(params, jp.quantise.updated(books, params))
"""

from jaxprune.quantise.codebooks import Codebook as Codebook
from jaxprune.quantise.codebooks import codebooks as codebooks
from jaxprune.quantise.codebooks import dense as dense
from jaxprune.quantise.codebooks import updated as updated
from jaxprune.quantise.packing import Packed as Packed
from jaxprune.quantise.packing import pack as pack
from jaxprune.quantise.packing import report as report
from jaxprune.quantise.packing import unpack as unpack
from jaxprune.quantise.shared import SharedState as SharedState
from jaxprune.quantise.shared import shared as shared

__all__ = [
    "Codebook",
    "Packed",
    "SharedState",
    "codebooks",
    "dense",
    "pack",
    "report",
    "shared",
    "unpack",
    "updated",
]


def __dir__() -> list[str]:
    return sorted(__all__)
