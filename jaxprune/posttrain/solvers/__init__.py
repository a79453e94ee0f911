"""Solvers: masks and weights of kernels from statistics of what enters them.

Each is `(kernels, contests, *, <statistics>, **_) -> list of Solved`, over the kernels of one input; its
signature says what is to be gathered.
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
