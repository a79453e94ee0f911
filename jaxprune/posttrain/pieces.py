"""Parts of a flat program as functions of arrays; equal parts are one function and are compiled once."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxprune.programs import bind

__all__ = ["Flat", "Piece", "ancestors", "compiled"]


class Flat:
    """A flat program, with the dependences of its values.

    Attributes:
      jaxpr: without calls (`flat_program`).
      consts: arrays that are part of the program, by variable.
      leaves: index of the parameter, by variable.
      inputs: variables of the batch.
      source: index of the equation that computes a variable, by variable.
      active: variables that depend on the batch.
    """

    def __init__(self, program: Any, leaves: int) -> None:
        self.jaxpr = program.jaxpr
        self.consts: dict[Any, Any] = dict(zip(self.jaxpr.constvars, program.consts, strict=True))
        self.leaves: dict[Any, int] = {
            variable: leaf_index for leaf_index, variable in enumerate(self.jaxpr.invars[:leaves])
        }
        self.inputs: list[Any] = list(self.jaxpr.invars[leaves:])
        self.source: dict[Any, int] = {}
        self.active: set[Any] = set(self.inputs)
        for position, equation in enumerate(self.jaxpr.eqns):
            self.source |= dict.fromkeys(equation.outvars, position)
            if any(variable in self.active for variable in variables(equation)):
                self.active.update(equation.outvars)

    def constant_ancestors(self, targets: Iterable[Any]) -> list[int]:
        """Returns the indices of the equations that variables follow from, none of the batch's among them."""
        return ancestors(self, [variable for variable in targets if variable not in self.active], 0)


def variables(equation: Any) -> list[Any]:
    """Returns the variables that an equation reads, without literals."""
    return [atom for atom in equation.invars if not hasattr(atom, "val")]


def ancestors(flat: Flat, targets: Iterable[Any], first_position: int) -> list[int]:
    """Returns the indices of the equations that variables follow from, ascending.

    Args:
      flat: the program.
      targets: the variables.
      first_position: equations before this index are left out.
    """
    positions: set[int] = set()
    pending = list(targets)
    while pending:
        position = flat.source.get(pending.pop(), -1)
        if position >= first_position and position not in positions:
            positions.add(position)
            pending += variables(flat.jaxpr.eqns[position])
    return sorted(positions)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some equations of a flat program, as a function.

    Attributes:
      equations: in order.
      reads: variables that are its arguments.
      writes: variables that are its results; an argument may be one.
      moving: indices of the equations that slice parameters or constants: where these slices begin is an
        argument, so that layers of one stack are the same piece.
    """

    equations: tuple[Any, ...]
    reads: tuple[Any, ...]
    writes: tuple[Any, ...]
    moving: tuple[int, ...]

    @classmethod
    def of(cls, flat: Flat, positions: Sequence[int], writes: Iterable[Any]) -> "Piece":
        """Returns the piece of the equations at some indices of a program, with these results."""
        equations = tuple(flat.jaxpr.eqns[position] for position in positions)
        writes = tuple(writes)
        computed: set[Any] = set()
        read_variables: dict[Any, None] = {}
        moving_indices: list[int] = []
        for index, equation in enumerate(equations):
            read_variables |= dict.fromkeys(
                variable for variable in variables(equation) if variable not in computed
            )
            computed.update(equation.outvars)
            if equation.outvars[0] not in flat.active and _starts(equation) is not None:
                moving_indices.append(index)
        read_variables |= dict.fromkeys(variable for variable in writes if variable not in computed)
        return cls(equations, tuple(read_variables), writes, tuple(moving_indices))

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Start indices of the slice of each equation in `moving`."""
        return tuple(_starts(self.equations[index]) or () for index in self.moving)

    def indices(self) -> dict[Any, int]:
        """Returns an index for each variable, in order of appearance: the same for equal pieces."""
        index_of: dict[Any, int] = {}
        for variable in self.reads:
            index_of.setdefault(variable, len(index_of))
        for equation in self.equations:
            for variable in equation.outvars:
                index_of.setdefault(variable, len(index_of))
        return index_of

    def key(self) -> str:
        """Returns a text that is the same for pieces that compute the same function."""
        index_of = self.indices()
        lines = [f"{index_of[variable]}: {variable.aval.str_short()}" for variable in self.reads]
        for index, equation in enumerate(self.equations):
            operands = [
                f"{atom.val!r}:{atom.aval.str_short()}" if hasattr(atom, "val") else index_of[atom]
                for atom in equation.invars
            ]
            if index in self.moving:
                operation = "slice"
                operands = operands[:1]
            else:
                operation = f"{equation.primitive.name}[{_settings(equation.params)}]"
            results = [
                f"{index_of[variable]}: {variable.aval.str_short()}"
                for variable in equation.outvars
            ]
            lines.append(f"{results} = {operation} {operands}")
        lines.append(str([index_of[variable] for variable in self.writes]))
        return "\n".join(lines)

    def values(self, arrays: Sequence[Any], starts: Sequence[Any]) -> dict[Any, Any]:
        """Computes all values of the piece, by variable.

        Args:
          arrays: values of `reads`.
          starts: where its slices begin.
        """
        values = dict(zip(self.reads, arrays, strict=True))
        start_of = dict(zip(self.moving, starts, strict=True))
        for index, equation in enumerate(self.equations):
            operands = [
                atom.val if hasattr(atom, "val") else values[atom] for atom in equation.invars
            ]
            if index in start_of:
                sizes = equation.outvars[0].aval.shape
                results = [lax.dynamic_slice(operands[0], start_of[index], sizes)]
            else:
                results = bind(equation, operands)
            values.update(zip(equation.outvars, results, strict=True))
        return values


def _starts(equation: Any) -> tuple[int, ...] | None:
    """Returns where a slice begins, if these are numbers in the program; `None` for other equations."""
    if equation.primitive.name == "slice" and equation.params["strides"] is None:
        return tuple(map(int, equation.params["start_indices"]))
    if equation.primitive.name != "dynamic_slice":
        return None
    start_atoms = equation.invars[1:]
    if not all(hasattr(atom, "val") for atom in start_atoms):
        return None
    return tuple(int(atom.val) for atom in start_atoms)


def _settings(params: dict[str, Any]) -> str:
    """Returns the parameters of an equation as text; constants of programs within it by identity."""
    setting_texts: list[str] = []
    for name, value in sorted(params.items()):
        if isinstance(value, np.ndarray):  # of which the text leaves out the middle
            value = f"{value.dtype}{value.shape} {value.tobytes()!r}"
        members = value if isinstance(value, tuple | list) else [value]
        constant_ids = [
            [id(constant) for constant in getattr(member, "consts", ())] for member in members
        ]
        setting_texts.append(f"{name}={value} {constant_ids if any(constant_ids) else ''}")
    return ", ".join(setting_texts)


def compiled(
    programs: dict[Any, Callable[..., Any]], key: Any, make: Callable[[], Callable[..., Any]]
) -> Callable[..., Any]:
    """Returns the compiled function of a key; makes and compiles it if there is none yet.

    Args:
      programs: compiled functions by key; a new one is added.
      key: equal for functions that do the same.
      make: returns the function.
    """
    if key not in programs:
        programs[key] = jax.jit(make())
    return programs[key]
