"""Solvers: compute masks and weights of kernels from statistics of their inputs.

A solver is `(kernels, contests, *, <statistics>, **_) -> list of Solved`. It solves all kernels that share
one input. The statistics that its signature names are gathered for it.
"""

from jaxprune.posttrain.contests import Contest as Contest
from jaxprune.posttrain.contests import Solved as Solved
from jaxprune.posttrain.solvers.admm import admm as admm
from jaxprune.posttrain.solvers.least_squares import least_squares as least_squares
from jaxprune.posttrain.solvers.obc import obc as obc
from jaxprune.posttrain.solvers.solver import Solver as Solver
from jaxprune.posttrain.solvers.solver import by_criterion as by_criterion
from jaxprune.posttrain.solvers.sparsegpt import sparsegpt as sparsegpt
from jaxprune.posttrain.solvers.swaps import swaps as swaps

__all__ = [
    "Contest",
    "Solved",
    "Solver",
    "admm",
    "by_criterion",
    "least_squares",
    "obc",
    "sparsegpt",
    "swaps",
]


def __dir__() -> list[str]:
    return sorted(__all__)
