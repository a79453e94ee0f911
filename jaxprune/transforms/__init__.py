"""Enforcement: how masks act on training, as optax gradient transformations."""

from jaxprune.transforms.average import AverageState as AverageState
from jaxprune.transforms.average import average_of as average_of
from jaxprune.transforms.average import averaged as averaged
from jaxprune.transforms.growing import GrowingState as GrowingState
from jaxprune.transforms.growing import growing as growing
from jaxprune.transforms.proximal import AddPenaltyState as AddPenaltyState
from jaxprune.transforms.proximal import ProximalState as ProximalState
from jaxprune.transforms.proximal import add_penalty as add_penalty
from jaxprune.transforms.proximal import proximal as proximal
from jaxprune.transforms.reading import masks_of as masks_of
from jaxprune.transforms.record import Record as Record
from jaxprune.transforms.record import record_of as record_of
from jaxprune.transforms.record import recorded as recorded
from jaxprune.transforms.sparsify import SparseState as SparseState
from jaxprune.transforms.sparsify import fixed as fixed
from jaxprune.transforms.sparsify import sparsify as sparsify
from jaxprune.transforms.straight_through import StraightThroughState as StraightThroughState
from jaxprune.transforms.straight_through import forward_params as forward_params
from jaxprune.transforms.straight_through import straight_through as straight_through

__all__ = [
    "AddPenaltyState",
    "AverageState",
    "GrowingState",
    "ProximalState",
    "Record",
    "SparseState",
    "StraightThroughState",
    "add_penalty",
    "average_of",
    "averaged",
    "fixed",
    "forward_params",
    "growing",
    "masks_of",
    "proximal",
    "record_of",
    "recorded",
    "sparsify",
    "straight_through",
]
