"""A function's program as one flat list of equations: calls are written out, loops over layers are unrolled.

Cuts can then stand anywhere. Iteration `i` of a loop over stacked layers reads slice `i` of each stack, with
the index as a number in the program, so that equal layers remain recognisable as such.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from jaxprune.programs import bind, constants, count_scan_inputs, remove_dead_equations, run, trace
from jaxprune.programs.primitives import IDENTITIES, PRODUCTS, REARRANGING
from jaxprune.types import Params

__all__ = ["LONGEST", "flat_program"]

LONGEST = 256  # iterations of a loop that is unrolled


def flat_program(apply: Callable[..., Any], params: Params, batch: Any) -> Any:
    """Returns the program of `apply(params, batch)` without calls, and without loops over layers.

    Loops are unrolled whose products read parameters: slices of stacks, or the same kernel in each iteration.
    What no output needs is left out, and casts and rearrangements that several products make of one value
    are made once. Conditions, loops without a known end and long loops over time stay as they are.

    Args:
      apply: (params, batch) -> anything.
      params: tree of arrays, or of their shapes.
      batch: tree of arrays, or of their shapes.

    Returns:
      A `ClosedJaxpr`; its inputs are the leaves of `params`, then those of `batch`.

    >>> def apply(stack, x):
    ...     return jax.lax.scan(lambda x, w: (x @ w, None), x, stack)[0]
    >>> program = flat_program(apply, jnp.ones((2, 3, 3)), jnp.ones((1, 3)))
    >>> [equation.primitive.name for equation in program.eqns]
    ['dynamic_slice', 'squeeze', 'dot_general', 'dynamic_slice', 'squeeze', 'dot_general']
    """
    program, _ = trace(apply, params, batch)
    program = remove_dead_equations(program)
    count = len(jax.tree.leaves(params))

    def written_out(*arrays: Any) -> list[Any]:
        inputs = [_Value(a, index < count, index >= count) for index, a in enumerate(arrays)]
        outputs = _Writer().run(program, inputs)
        return [value.array if isinstance(value, _Value) else value for value in outputs]

    return remove_dead_equations(jax.make_jaxpr(written_out)(*program.in_avals))


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array while the program is traced anew.

    Attributes:
      array: a tracer.
      learned: whether it is made of parameters, and of nothing that depends on the batch.
      active: whether it depends on the batch.
    """

    array: Any
    learned: bool = False
    active: bool = False


def _beside(array: Any, inputs: Sequence[Any]) -> _Value:
    """What has been made of these values."""
    values = [value for value in inputs if isinstance(value, _Value)]
    active = any(value.active for value in values)
    return _Value(array, not active and any(value.learned for value in values), active)


class _Writer:
    """Binds equations anew, the iterations of loops one after the other."""

    def __init__(self) -> None:
        self._known: dict[Hashable, list[Any]] = {}
        self._kept: list[Any] = []  # what keys name by identity must stay

    def run(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        """What a program gives."""
        return run(program, inputs, self._rule)

    def _rule(self, equation: Any, inputs: list[Any]) -> list[Any]:
        if equation.primitive.name == "scan" and _over_layers(equation, inputs):
            return self._unrolled(equation, inputs)
        numbers = _numbers(equation, inputs)
        if numbers is not None:
            return numbers
        key = _same_again(equation, inputs)
        if key is not None and key in self._known:
            return self._known[key]
        arrays = [value.array if isinstance(value, _Value) else value for value in inputs]
        outputs: list[Any] = [_beside(array, inputs) for array in bind(equation, arrays)]
        if key is not None:
            self._known[key] = outputs
            self._kept.append(inputs)
        return outputs

    def _unrolled(self, equation: Any, inputs: list[Any]) -> list[Any]:
        params = equation.params
        fixed, carried = count_scan_inputs(equation)
        carry = inputs[fixed : fixed + carried]
        stacks = inputs[fixed + carried :]
        order = range(params["length"])
        emitted: list[list[Any]] = []
        for index in reversed(order) if params["reverse"] else order:
            rows = [self._row(stack, index) for stack in stacks]
            outputs = self.run(params["jaxpr"], [*inputs[:fixed], *carry, *rows])
            carry = outputs[:carried]
            emitted.append(outputs[carried:])
        if params["reverse"]:
            emitted.reverse()
        return [*carry, *(_stacked(rows) for rows in zip(*emitted, strict=True))]

    def _row(self, stack: Any, index: int) -> _Value:
        array = stack.array if isinstance(stack, _Value) else stack
        places = [index, *[0] * (array.ndim - 1)]
        row = lax.dynamic_slice(array, places, (1, *array.shape[1:]))
        return _beside(lax.squeeze(row, [0]), [stack])


def _stacked(rows: Sequence[Any]) -> _Value:
    arrays = [row.array if isinstance(row, _Value) else jnp.asarray(row) for row in rows]
    return _beside(lax.concatenate([lax.expand_dims(a, [0]) for a in arrays], 0), rows)


def _over_layers(equation: Any, inputs: Sequence[Any]) -> bool:
    """Whether a loop reads parameters in its products, and is short enough to be unrolled."""
    fixed, carried = count_scan_inputs(equation)
    learned = [isinstance(value, _Value) and value.learned for value in inputs]
    reads = any(learned[:fixed]) or any(learned[fixed + carried :])
    if not reads or equation.params["length"] > LONGEST:
        return False
    return _has_products(equation.params["jaxpr"].jaxpr)


def _has_products(jaxpr: Any) -> bool:
    """Whether anything is multiplied in a program, or in one within it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            return True
        for value in equation.params.values():
            parts = value if isinstance(value, tuple | list) else [value]
            inner = [getattr(part, "jaxpr", part) for part in parts]
            if any(hasattr(part, "eqns") and _has_products(part) for part in inner):
                return True
    return False


def _numbers(equation: Any, inputs: Sequence[Any]) -> list[Any] | None:
    """The outputs, if they are numbers that follow from numbers, as the counter of a loop does."""
    if any(isinstance(value, _Value | Tracer) for value in inputs):
        return None
    if not inputs or any(atom.aval.shape for atom in (*equation.invars, *equation.outvars)):
        return None
    facts = constants.propagate_equation(equation, inputs)
    return [fact.value for fact in facts] if all(fact.known for fact in facts) else None


def _same_again(equation: Any, inputs: Sequence[Any]) -> Hashable | None:
    """What tells whether an array was cast or arranged anew before in the same way."""
    name = equation.primitive.name
    if name not in REARRANGING | IDENTITIES | {"convert_element_type"}:
        return None
    operands: list[Hashable] = []
    for value, atom in zip(inputs, equation.invars, strict=True):
        if isinstance(value, _Value):
            operands.append(id(value.array))
        elif atom.aval.shape == () and not isinstance(value, Tracer):
            operands.append((str(atom.aval), str(value)))
        else:
            return None
    settings = str(sorted(equation.params.items(), key=lambda item: item[0]))
    return name, tuple(operands), settings
