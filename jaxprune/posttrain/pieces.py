"""Parts of a flat program as functions of arrays; equal parts are one function, and are compiled once."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax

from jaxprune.programs import bind

__all__ = ["Flat", "Piece", "compiled", "leads_to"]


class Flat:
    """A flat program, with what its values depend on.

    Attributes:
      jaxpr: without calls (`flat_program`).
      consts: arrays by variable that are part of the program.
      leaves: index of the parameter by variable.
      inputs: variables of the batch.
      source: position of the equation that makes a variable.
      active: variables that depend on the batch.
    """

    def __init__(self, program: Any, leaves: int) -> None:
        self.jaxpr = program.jaxpr
        self.consts: dict[Any, Any] = dict(zip(self.jaxpr.constvars, program.consts, strict=True))
        self.leaves: dict[Any, int] = {v: i for i, v in enumerate(self.jaxpr.invars[:leaves])}
        self.inputs: list[Any] = list(self.jaxpr.invars[leaves:])
        self.source: dict[Any, int] = {}
        self.active: set[Any] = set(self.inputs)
        for position, equation in enumerate(self.jaxpr.eqns):
            self.source |= dict.fromkeys(equation.outvars, position)
            if any(v in self.active for v in variables(equation)):
                self.active.update(equation.outvars)

    def leads_to(self, wanted: Iterable[Any]) -> list[int]:
        """Positions of the equations that variables follow from and that do not depend on the batch."""
        return leads_to(self, [v for v in wanted if v not in self.active], 0)


def variables(equation: Any) -> list[Any]:
    """What an equation reads, without literals."""
    return [atom for atom in equation.invars if not hasattr(atom, "val")]


def leads_to(flat: Flat, wanted: Iterable[Any], begin: int) -> list[int]:
    """Positions, from `begin` on, of the equations that variables follow from; ascending."""
    found: set[int] = set()
    open_ends = list(wanted)
    while open_ends:
        position = flat.source.get(open_ends.pop(), -1)
        if position >= begin and position not in found:
            found.add(position)
            open_ends += variables(flat.jaxpr.eqns[position])
    return sorted(found)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Some equations of a flat program.

    Attributes:
      equations: in order.
      reads: variables that come from elsewhere.
      writes: variables that are asked for; some of them may be read as they are.
      moving: indices of the equations that slice what the batch does not decide: where slices begin is an
        argument, so that layers of one stack are the same piece.
    """

    equations: tuple[Any, ...]
    reads: tuple[Any, ...]
    writes: tuple[Any, ...]
    moving: tuple[int, ...]

    @classmethod
    def of(cls, flat: Flat, positions: Sequence[int], writes: Iterable[Any]) -> "Piece":
        """The equations at some positions of a program."""
        equations = tuple(flat.jaxpr.eqns[position] for position in positions)
        writes = tuple(writes)
        made: set[Any] = set()
        reads: dict[Any, None] = {}
        moving: list[int] = []
        for index, equation in enumerate(equations):
            reads |= dict.fromkeys(v for v in variables(equation) if v not in made)
            made.update(equation.outvars)
            if equation.outvars[0] not in flat.active and _starts(equation) is not None:
                moving.append(index)
        reads |= dict.fromkeys(v for v in writes if v not in made)
        return cls(equations, tuple(reads), writes, tuple(moving))

    @property
    def starts(self) -> tuple[tuple[int, ...], ...]:
        """Where the slices begin."""
        return tuple(_starts(self.equations[index]) or () for index in self.moving)

    def numbers(self) -> dict[Any, int]:
        """Variables by number, in order of appearance: the same for equal pieces."""
        found: dict[Any, int] = {}
        for variable in self.reads:
            found.setdefault(variable, len(found))
        for equation in self.equations:
            for variable in equation.outvars:
                found.setdefault(variable, len(found))
        return found

    def key(self) -> str:
        """A text that is the same for equal pieces: of one do what the other does."""
        numbers = self.numbers()
        lines = [f"{numbers[v]}: {v.aval.str_short()}" for v in self.reads]
        for index, equation in enumerate(self.equations):
            given = [
                f"{atom.val!r}:{atom.aval.str_short()}" if hasattr(atom, "val") else numbers[atom]
                for atom in equation.invars
            ]
            if index in self.moving:
                how, given = "slice", given[:1]
            else:
                how = f"{equation.primitive.name}[{_settings(equation.params)}]"
            made = [f"{numbers[v]}: {v.aval.str_short()}" for v in equation.outvars]
            lines.append(f"{made} = {how} {given}")
        lines.append(str([numbers[v] for v in self.writes]))
        return "\n".join(lines)

    def values(self, arrays: Sequence[Any], starts: Sequence[Any]) -> dict[Any, Any]:
        """All values of the piece, by variable.

        Args:
          arrays: what it reads.
          starts: where its slices begin.
        """
        known = dict(zip(self.reads, arrays, strict=True))
        begins = dict(zip(self.moving, starts, strict=True))
        for index, equation in enumerate(self.equations):
            given = [atom.val if hasattr(atom, "val") else known[atom] for atom in equation.invars]
            if index in begins:
                sizes = equation.outvars[0].aval.shape
                made = [lax.dynamic_slice(given[0], begins[index], sizes)]
            else:
                made = bind(equation, given)
            known.update(zip(equation.outvars, made, strict=True))
        return known


def _starts(equation: Any) -> tuple[int, ...] | None:
    """Where a slice begins, if the program says so in numbers; `None` of anything else."""
    if equation.primitive.name == "slice" and equation.params["strides"] is None:
        return tuple(map(int, equation.params["start_indices"]))
    if equation.primitive.name != "dynamic_slice":
        return None
    places = equation.invars[1:]
    if not all(hasattr(atom, "val") for atom in places):
        return None
    return tuple(int(atom.val) for atom in places)


def _settings(params: dict[str, Any]) -> str:
    """The parameters of an equation as text; constants of programs within it by identity."""
    parts: list[str] = []
    for name, value in sorted(params.items()):
        if isinstance(value, np.ndarray):  # of which the text leaves out the middle
            value = f"{value.dtype}{value.shape} {value.tobytes()!r}"
        inner = value if isinstance(value, tuple | list) else [value]
        consts = [[id(const) for const in getattr(part, "consts", ())] for part in inner]
        parts.append(f"{name}={value} {consts if any(consts) else ''}")
    return ", ".join(parts)


def compiled(
    programs: dict[Any, Callable[..., Any]], key: Any, make: Callable[[], Callable[..., Any]]
) -> Callable[..., Any]:
    """The compiled function of a key; it is made if there is none yet."""
    if key not in programs:
        programs[key] = jax.jit(make())
    return programs[key]
