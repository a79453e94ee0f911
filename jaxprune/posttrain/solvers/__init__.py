"""Solvers: masks and weights of kernels from statistics of what enters them.

Each is `(kernels, contests, *, <statistics>, **_) -> list of Solved`, over the kernels of one input; its
signature says what is to be gathered.
"""

from jaxprune.posttrain.contests import Contest as Contest
from jaxprune.posttrain.contests import Solved as Solved
from jaxprune.posttrain.solvers.solver import Solver as Solver
from jaxprune.posttrain.solvers.solver import by_criterion as by_criterion
from jaxprune.posttrain.solvers.sparsegpt import sparsegpt as sparsegpt

__all__ = ["Contest", "Solved", "Solver", "by_criterion", "sparsegpt"]
