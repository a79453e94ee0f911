"""Pruning after training, of any function of parameters and a batch, segment by segment in bounded memory.

`sparsegpt`, `wanda`, `ria`, `magnitude`, `obc` and `admm` take a function, parameters and batches. `plan`
says what will be done, `prune` does it with any solver, pattern, rates and recovery (`reconstruct`), and can
be stopped and called again.
"""

from jaxprune.posttrain import rates as rates
from jaxprune.posttrain import solvers as solvers
from jaxprune.posttrain.driver import Result as Result
from jaxprune.posttrain.driver import prune as prune
from jaxprune.posttrain.errors import output_errors as output_errors
from jaxprune.posttrain.methods import admm as admm
from jaxprune.posttrain.methods import magnitude as magnitude
from jaxprune.posttrain.methods import obc as obc
from jaxprune.posttrain.methods import ria as ria
from jaxprune.posttrain.methods import sparsegpt as sparsegpt
from jaxprune.posttrain.methods import wanda as wanda
from jaxprune.posttrain.passes import gather as gather
from jaxprune.posttrain.plan import Plan as Plan
from jaxprune.posttrain.planning import plan as plan
from jaxprune.posttrain.reconstruct import reconstruct as reconstruct
from jaxprune.posttrain.report import Progress as Progress
from jaxprune.posttrain.report import Report as Report

__all__ = [
    "Plan",
    "Progress",
    "Report",
    "Result",
    "admm",
    "gather",
    "magnitude",
    "obc",
    "output_errors",
    "plan",
    "prune",
    "rates",
    "reconstruct",
    "ria",
    "solvers",
    "sparsegpt",
    "wanda",
]


def __dir__() -> list[str]:
    return sorted(__all__)
