"""What can be read off a program (a jaxpr): the one place that knows JAX's primitives.

===============  ======================================================================================
`interpreter`    runs a program with a rule of one's own for each equation
`dead_code`      leaves out what a program computes for nobody
`primitives`     families of operations, by what they do
`constants`      which values are the same number everywhere, known before the program runs
`contractions`   what a product or convolution sums over, and how many operations it takes
`views`          which indices of a parameter lie along which axis of a value made of it
`tracked`        a value of the program with what it holds of the parameters
`moves`          what arranging a value anew makes of that; `factors`: what a product makes of it
`kernels`        which parameters are kernels of products, and how: `jaxprune.axes`
`evaluation`     running a program while parameters are followed, and reading something off products
`readings`       what is read
===============  ======================================================================================
"""

from jaxprune.programs.dead_code import live as live
from jaxprune.programs.interpreter import Rule as Rule
from jaxprune.programs.interpreter import bind as bind
from jaxprune.programs.interpreter import bound as bound
from jaxprune.programs.interpreter import called as called
from jaxprune.programs.interpreter import calls as calls
from jaxprune.programs.interpreter import evaluate as evaluate
from jaxprune.programs.interpreter import linear_solvers as linear_solvers
from jaxprune.programs.interpreter import repeated as repeated
from jaxprune.programs.interpreter import run as run
from jaxprune.programs.interpreter import scanned as scanned
from jaxprune.programs.interpreter import trace as trace

__all__ = [
    "Rule",
    "bind",
    "bound",
    "called",
    "calls",
    "evaluate",
    "linear_solvers",
    "live",
    "repeated",
    "run",
    "scanned",
    "trace",
]
