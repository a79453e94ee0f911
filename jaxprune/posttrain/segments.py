"""A flat program cut where kernels meet their inputs, and where nothing but the residual stream is alive.

Segments run one after the other, each for all batches before the next. What is alive at a cut is all that is
kept of a batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.posttrain.kernels import Input, Kernel
from jaxprune.posttrain.pieces import Flat, Piece, variables

__all__ = ["Cut", "Segment", "bytes_of", "cuts", "segments"]

_LONG = 8  # cuts, from which on it is told what is alive all the way


@dataclasses.dataclass(frozen=True)
class Cut:
    """A place between two equations.

    Attributes:
      position: of the equation behind it.
      input: index of the input whose kernels stand behind it; `None` where a branch of the network ends.
      residual: the only activation that is alive where a branch ends.
      branch: index of the branch that the cut lies in, or that ends with it.
    """

    position: int
    input: int | None
    residual: Any
    branch: int


@dataclasses.dataclass(frozen=True)
class Segment:
    """The equations before a cut, from the cut before on.

    Attributes:
      piece: that computes them; it writes the activations that are made here and are alive at the cut, then
        what statistics are of.
      made: how many of these are activations.
      alive: the activations at the cut, those that are only passed on included.
      size: bytes of what is alive, of one batch.
      temporaries: bytes of all that is computed on the way, of one batch: more than are alive at once.
    """

    piece: Piece
    made: int
    alive: tuple[Any, ...]
    size: int
    temporaries: int


def cuts(flat: Flat, kernels: Sequence[Kernel], inputs: Sequence[Input]) -> list[Cut]:
    """Returns where a program is cut, in order; the branches are numbered."""
    places = [(each.position, index) for index, each in enumerate(inputs)]
    residuals = _residuals(flat, [position for position, _ in places])
    found: list[Cut] = []
    branch = 0
    for index, (position, which) in enumerate(places):
        found.append(Cut(position, which, None, branch))
        end = residuals[index]
        if end is not None:
            found.append(Cut(end[0], None, end[1], branch))
            branch += 1
    return found


def _residuals(flat: Flat, positions: Sequence[int]) -> list[tuple[int, Any] | None]:
    """Behind each of some positions, and before the next, the first place where one activation is alive."""
    made = dict.fromkeys(flat.inputs, -1) | flat.source
    last: dict[Any, int] = {}
    mixed = _mixed(flat)
    for position, equation in enumerate(flat.jaxpr.eqns):
        last |= dict.fromkeys(variables(equation), position)
    for atom in flat.jaxpr.outvars:
        if not hasattr(atom, "val"):
            last[atom] = len(flat.jaxpr.eqns)
    crossed = lambda v: sum(made[v] < position <= last[v] for position in positions)
    lasting = len(positions) >= _LONG
    floats = [v for v in flat.inputs if jnp.issubdtype(v.aval.dtype, jnp.floating)]
    present = [
        v
        for v in [*floats, *mixed]
        if v in last and not (lasting and 2 * crossed(v) > len(positions))
    ]
    found: list[tuple[int, Any] | None] = []
    for position, behind in zip(positions, [*positions[1:], len(flat.jaxpr.eqns)], strict=True):
        near = [v for v in present if made[v] < behind and last[v] > position]
        found.append(None)
        for place in range(position + 1, behind + 1):
            alive = [v for v in near if made[v] < place <= last[v]]
            if len(alive) == 1 and jnp.issubdtype(alive[0].aval.dtype, jnp.floating):
                found[-1] = (place, alive[0])
                break
    return found


def _mixed(flat: Flat) -> list[Any]:
    """Variables that depend on the batch and on parameters."""
    learned: set[Any] = set(flat.leaves)
    for equation in flat.jaxpr.eqns:
        if any(v in learned for v in variables(equation)):
            learned.update(equation.outvars)
    return [v for v in flat.source if v in flat.active and v in learned]


def segments(flat: Flat, places: Sequence[Cut], inputs: Sequence[Input]) -> list[Segment]:
    """Returns the segment before each cut; what nobody behind needs is left out.

    Args:
      flat: the program.
      places: the cuts.
      inputs: that they name.
    """
    alive: dict[Any, None] = {}
    found: list[Segment] = []
    begins = [0, *(cut.position for cut in places[:-1])]
    for cut, begin in zip(reversed(places), reversed(begins), strict=True):
        read = () if cut.input is None else inputs[cut.input].variables
        ends = [*read, *([] if cut.residual is None else [cut.residual])]
        alive |= dict.fromkeys(v for v in ends if v in flat.active)
        at_cut = tuple(sorted(alive, key=lambda v: _order(flat, v)))
        positions: list[int] = []
        for position in range(cut.position - 1, begin - 1, -1):
            equation = flat.jaxpr.eqns[position]
            if any(v in alive for v in equation.outvars):
                positions.append(position)
                for variable in equation.outvars:
                    alive.pop(variable, None)
                alive |= dict.fromkeys(v for v in variables(equation) if v in flat.active)
        made = [v for v in at_cut if flat.source.get(v, -1) in set(positions)]
        still = [v for p in positions for v in variables(flat.jaxpr.eqns[p])]
        needed = flat.leads_to([*still, *read])
        piece = Piece.of(flat, sorted({*positions, *needed}), [*made, *read])
        temporaries = sum(bytes_of(v) for equation in piece.equations for v in equation.outvars)
        found.append(Segment(piece, len(made), at_cut, sum(map(bytes_of, at_cut)), temporaries))
    return found[::-1]


def _order(flat: Flat, variable: Any) -> tuple[int, int]:
    position = flat.source.get(variable, -1)
    among = flat.inputs if position < 0 else flat.jaxpr.eqns[position].outvars
    return position, list(among).index(variable)


def bytes_of(value: Any) -> int:
    """Bytes of an array, or of a variable."""
    aval = getattr(value, "aval", value)
    dtype = getattr(aval, "dtype", None)
    itemsize = dtype.itemsize if dtype is not None else 4
    return int(np.prod(aval.shape, dtype=np.int64)) * itemsize
