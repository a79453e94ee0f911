"""jaxprune: prune and sparsely train neural networks in JAX.

Masks are pytrees beside the parameters; sparsity is an optax gradient transformation.

    tx = jaxprune.sparsify(optax.adamw(1e-3), jaxprune.methods.rigl(...), key=key)

A method is one choice of criterion, pattern, allocation, schedule and update (the modules `criteria`,
`patterns`, `allocation`, `schedules`, `updates`); see `jaxprune.Method`. `jaxprune.methods` has the published
ones, `jaxprune.prune` prunes once, outside training.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxprune import allocation as allocation
from jaxprune import at_init as at_init
from jaxprune import compensation as compensation
from jaxprune import criteria as criteria
from jaxprune import gates as gates
from jaxprune import lottery as lottery
from jaxprune import masks as masks
from jaxprune import methods as methods
from jaxprune import metrics as metrics
from jaxprune import patterns as patterns
from jaxprune import penalties as penalties
from jaxprune import preconditioners as preconditioners
from jaxprune import schedules as schedules
from jaxprune import sensitivity as sensitivity
from jaxprune import signals as signals
from jaxprune import types as types
from jaxprune import updates as updates
from jaxprune.kernel_axes import axes as axes
from jaxprune.lottery import lottery_ticket as lottery_ticket
from jaxprune.method import Method as Method
from jaxprune.method import partition as partition
from jaxprune.pruning.by_method import next_masks as next_masks
from jaxprune.pruning.by_method import prune as prune
from jaxprune.pruning.on_data import prune_on as prune_on
from jaxprune.transforms import add_penalty as add_penalty
from jaxprune.transforms import average_of as average_of
from jaxprune.transforms import averaged as averaged
from jaxprune.transforms import fixed as fixed
from jaxprune.transforms import forward_params as forward_params
from jaxprune.transforms import growing as growing
from jaxprune.transforms import masks_of as masks_of
from jaxprune.transforms import proximal as proximal
from jaxprune.transforms import record_of as record_of
from jaxprune.transforms import recorded as recorded
from jaxprune.transforms import sparsify as sparsify
from jaxprune.transforms import straight_through as straight_through
from jaxprune.types import Axes as Axes

if TYPE_CHECKING:
    from jaxprune import data as data
    from jaxprune import models as models
    from jaxprune import nn as nn
    from jaxprune import posttrain as posttrain
    from jaxprune import quantise as quantise
    from jaxprune import structured as structured

__version__ = "0.1.0"

__all__ = [
    "Axes",
    "Method",
    "add_penalty",
    "allocation",
    "at_init",
    "average_of",
    "averaged",
    "axes",
    "compensation",
    "criteria",
    "data",
    "fixed",
    "forward_params",
    "gates",
    "growing",
    "lottery",
    "lottery_ticket",
    "masks",
    "masks_of",
    "methods",
    "metrics",
    "models",
    "next_masks",
    "nn",
    "partition",
    "patterns",
    "penalties",
    "posttrain",
    "preconditioners",
    "proximal",
    "prune",
    "prune_on",
    "quantise",
    "record_of",
    "recorded",
    "schedules",
    "sensitivity",
    "signals",
    "sparsify",
    "straight_through",
    "structured",
    "types",
    "updates",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# They import flax or scipy, read files, or are large: not needed to prune weights.
_LAZY = {"data", "models", "nn", "posttrain", "quantise", "structured"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"jaxprune.{name}")
    raise AttributeError(f"module 'jaxprune' has no attribute {name!r}")
