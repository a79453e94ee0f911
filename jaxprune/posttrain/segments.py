"""A flat program cut where kernels meet their inputs, and where nothing but the residual stream is alive.

Segments run one after the other, each for all batches before the next. The activations that are alive at a
cut are all that is kept of a batch.
"""

import bisect
import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.posttrain.kernels import Input, Kernel
from jaxprune.posttrain.pieces import Flat, Piece, variables

__all__ = ["Cut", "Segment", "bytes_of", "cuts", "segments"]

_LONG = 8  # cuts, from which on an activation that crosses most of them (a mask, say) is no residual stream


@dataclasses.dataclass(frozen=True)
class Cut:
    """A position between two equations where the program is cut.

    Attributes:
      position: index of the equation behind it.
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
      piece: computes them; its results are the activations computed here that are alive at the cut, then the
        values that statistics are of.
      made: number of these activations.
      alive: the activations at the cut, those that are only passed on included.
      size: bytes of the activations at the cut, for one batch.
      temporaries: bytes of all values computed in the segment, for one batch: more than are alive at once.
    """

    piece: Piece
    made: int
    alive: tuple[Any, ...]
    size: int
    temporaries: int


def cuts(flat: Flat, kernels: Sequence[Kernel], inputs: Sequence[Input]) -> list[Cut]:
    """Returns the cuts of a program, in order: one before each input's kernels, one at each branch's end.

    Args:
      flat: the program.
      kernels: all kernels.
      inputs: of the kernels, in the order of the program.
    """
    positions = [(kernel_input.position, index) for index, kernel_input in enumerate(inputs)]
    residuals = _residuals(flat, [position for position, _ in positions])
    cut_list: list[Cut] = []
    branch = 0
    for index, (position, input_index) in enumerate(positions):
        cut_list.append(Cut(position, input_index, None, branch))
        residual = residuals[index]
        if residual is not None:
            cut_list.append(Cut(residual[0], None, residual[1], branch))
            branch += 1
    return cut_list


def _residuals(flat: Flat, positions: Sequence[int]) -> list[tuple[int, Any] | None]:
    """Returns, behind each position and before the next, the first cut where only one activation is alive.

    Args:
      flat: the program.
      positions: where kernels meet their inputs, ascending.

    Returns:
      For each position, that cut's position and the activation; `None` if there is no such cut.
    """
    computed_at = dict.fromkeys(flat.inputs, -1) | flat.source
    last_read_at: dict[Any, int] = {}
    mixed_variables = _mixed(flat)
    for position, equation in enumerate(flat.jaxpr.eqns):
        last_read_at |= dict.fromkeys(variables(equation), position)
    for atom in flat.jaxpr.outvars:
        if not hasattr(atom, "val"):
            last_read_at[atom] = len(flat.jaxpr.eqns)

    def crossed_count(variable: Any) -> int:
        """At how many of the positions a variable is alive."""
        return bisect.bisect_right(positions, last_read_at[variable]) - bisect.bisect_right(
            positions, computed_at[variable]
        )

    is_long = len(positions) >= _LONG
    float_inputs = [
        variable for variable in flat.inputs if jnp.issubdtype(variable.aval.dtype, jnp.floating)
    ]
    candidates = [
        variable
        for variable in [*float_inputs, *mixed_variables]
        if variable in last_read_at
        and not (is_long and 2 * crossed_count(variable) > len(positions))
    ]
    waiting = collections.deque(sorted(candidates, key=computed_at.__getitem__))
    nearby: list[Any] = []
    residuals: list[tuple[int, Any] | None] = []
    for position, behind in zip(positions, [*positions[1:], len(flat.jaxpr.eqns)], strict=True):
        while waiting and computed_at[waiting[0]] < behind:
            nearby.append(waiting.popleft())
        nearby = [variable for variable in nearby if last_read_at[variable] > position]
        residuals.append(None)
        for cut_position in range(position + 1, behind + 1):
            alive_variables = [
                variable
                for variable in nearby
                if computed_at[variable] < cut_position <= last_read_at[variable]
            ]
            if len(alive_variables) == 1 and jnp.issubdtype(
                alive_variables[0].aval.dtype, jnp.floating
            ):
                residuals[-1] = (cut_position, alive_variables[0])
                break
    return residuals


def _mixed(flat: Flat) -> list[Any]:
    """Returns the variables that depend on the batch and on parameters."""
    learned: set[Any] = set(flat.leaves)
    for equation in flat.jaxpr.eqns:
        if any(variable in learned for variable in variables(equation)):
            learned.update(equation.outvars)
    return [variable for variable in flat.source if variable in flat.active and variable in learned]


def segments(flat: Flat, cut_points: Sequence[Cut], inputs: Sequence[Input]) -> list[Segment]:
    """Returns the segment before each cut, without equations that nothing behind them needs.

    Args:
      flat: the program.
      cut_points: the cuts, in order.
      inputs: all inputs of kernels, to which cuts refer by index.
    """
    alive: dict[Any, None] = {}
    segment_list: list[Segment] = []
    begin_positions = [0, *(cut.position for cut in cut_points[:-1])]
    for cut, begin_position in zip(reversed(cut_points), reversed(begin_positions), strict=True):
        input_variables = () if cut.input is None else inputs[cut.input].variables
        end_variables = [*input_variables, *([] if cut.residual is None else [cut.residual])]
        alive |= dict.fromkeys(variable for variable in end_variables if variable in flat.active)
        alive_at_cut = tuple(sorted(alive, key=lambda variable: _order(flat, variable)))
        positions: list[int] = []
        for position in range(cut.position - 1, begin_position - 1, -1):
            equation = flat.jaxpr.eqns[position]
            if any(variable in alive for variable in equation.outvars):
                positions.append(position)
                for variable in equation.outvars:
                    alive.pop(variable, None)
                alive |= dict.fromkeys(
                    variable for variable in variables(equation) if variable in flat.active
                )
        new_activations = [
            variable for variable in alive_at_cut if flat.source.get(variable, -1) in set(positions)
        ]
        operands = [
            variable for position in positions for variable in variables(flat.jaxpr.eqns[position])
        ]
        constant_positions = flat.constant_ancestors([*operands, *input_variables])
        piece = Piece.of(
            flat, sorted({*positions, *constant_positions}), [*new_activations, *input_variables]
        )
        temporaries = sum(
            bytes_of(variable) for equation in piece.equations for variable in equation.outvars
        )
        segment_list.append(
            Segment(
                piece,
                len(new_activations),
                alive_at_cut,
                sum(map(bytes_of, alive_at_cut)),
                temporaries,
            )
        )
    return segment_list[::-1]


def _order(flat: Flat, variable: Any) -> tuple[int, int]:
    position = flat.source.get(variable, -1)
    siblings = flat.inputs if position < 0 else flat.jaxpr.eqns[position].outvars
    return position, list(siblings).index(variable)


def bytes_of(value: Any) -> int:
    """Returns the bytes of an array, or of a variable."""
    aval = getattr(value, "aval", value)
    dtype = getattr(aval, "dtype", None)
    itemsize = dtype.itemsize if dtype is not None else 4
    return int(np.prod(aval.shape, dtype=np.int64)) * itemsize
