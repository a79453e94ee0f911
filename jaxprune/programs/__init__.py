"""Reads and runs programs (jaxprs): the one place that knows JAX's primitives.

===============  ======================================================================================
`interpreter`    runs a program with a rule of one's own for each equation
`dead_code`      removes equations that no output needs
`slicing`        computes outputs without effects, and without what they do not need
`primitives`     families of operations, by what they do
`fills`          which number a lookup gives outside of its operand
`axis_order`     in which order a reshape reads the axes of its operand
`constants`      constant propagation: which values are the same number everywhere
`contractions`   roles of the axes of a product or convolution, and its number of multiplications
`digits`         how axes of one size are split and merged into axes of another
`views`          which indices of a parameter lie along which axis of a value made of it
`tracked`        a value of the program with the views of parameters that it holds
`moves`          views after a rearrangement (transpose, slice, concatenate, ...)
`factors`        views after a product, and which of its operands is a kernel
`uses`           what is found: the products that a parameter is a factor of, and operations
`kernels`        follows parameters through a program; `equation_follower`: through one equation
`evaluation`     runs a program while parameters are followed, and reads statistics off its products
`readings`       what is read
===============  ======================================================================================
"""

from jaxprune.programs.axis_order import axes_as_read as axes_as_read
from jaxprune.programs.dead_code import remove_dead_equations as remove_dead_equations
from jaxprune.programs.fills import fill_of_lookup as fill_of_lookup
from jaxprune.programs.interpreter import Rule as Rule
from jaxprune.programs.interpreter import bind as bind
from jaxprune.programs.interpreter import bind_with as bind_with
from jaxprune.programs.interpreter import called_program as called_program
from jaxprune.programs.interpreter import count_scan_inputs as count_scan_inputs
from jaxprune.programs.interpreter import evaluate as evaluate
from jaxprune.programs.interpreter import is_call as is_call
from jaxprune.programs.interpreter import linear_solvers as linear_solvers
from jaxprune.programs.interpreter import run as run
from jaxprune.programs.interpreter import run_scan as run_scan
from jaxprune.programs.interpreter import trace as trace
from jaxprune.programs.slicing import evaluate_slice as evaluate_slice

__all__ = [
    "Rule",
    "axes_as_read",
    "bind",
    "bind_with",
    "called_program",
    "count_scan_inputs",
    "evaluate",
    "evaluate_slice",
    "fill_of_lookup",
    "is_call",
    "linear_solvers",
    "remove_dead_equations",
    "run",
    "run_scan",
    "trace",
]
