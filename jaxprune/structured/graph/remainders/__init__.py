"""Remainders: what the whole function holds in the places of removed units, followed through its program.

The parameters hold zeros there. Most operations pass zeros on, some make another number of them
($\\cos 0 = 1$, $0 - \\mu$, a table of positions that is added). As long as a product with zeros of another
parameter takes it back, the small function needs to know nothing of it. Where a sum runs over the units it
does: what removed ones would have added is added then, so that a mean or a variance stays that of the whole.
Where neither is possible the units are no exact group (`structured.graph.exactness`).

==============  ======================================================================================
`values`        a value with its remainders: what it would hold in the places that were removed
`entrywise`     remainders of elementwise operations
`arrangements`  remainders of operations that arrange axes anew
`slicing`       remainders of slices, joins and padding
`indexing`      remainders of lookups and writes at computed indices, and of random numbers
`lines`         remainders of sorts, cumulative sums and the like along axes of which everything stays
`computed`      remainders of scatters, collectives and linear solves
`sums`          remainders of reductions and products, and what these owe to removed units
`follow`        chooses among these by an equation's primitive
==============  ======================================================================================
"""

from jaxprune.structured.graph.remainders.follow import follow_remainders as follow_remainders
from jaxprune.structured.graph.remainders.values import Leak as Leak
from jaxprune.structured.graph.remainders.values import Lost as Lost
from jaxprune.structured.graph.remainders.values import Places as Places
from jaxprune.structured.graph.remainders.values import Value as Value
from jaxprune.structured.graph.remainders.values import constant_value as constant_value

__all__ = ["Leak", "Lost", "Places", "Value", "constant_value", "follow_remainders"]
