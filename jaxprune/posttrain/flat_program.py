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

from jaxprune.calls import is_traced
from jaxprune.programs import bind, constants, count_scan_inputs, remove_dead_equations, run, trace
from jaxprune.programs.primitives import IDENTITIES, PRODUCTS, REARRANGING
from jaxprune.types import Params

__all__ = ["LONGEST", "flat_program"]

LONGEST = 256  # iterations of a loop that is unrolled


def flat_program(apply: Callable[..., Any], params: Params, batch: Any) -> Any:
    """Returns the program of `apply(params, batch)` without calls, and without loops over layers.

    Loops are unrolled whose products read parameters: slices of stacks, or the same kernel in each iteration.
    Equations that no output needs are left out; casts and rearrangements of one value by several products are
    made once. Conditions, loops without a known end and long loops over time stay as they are.

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
    leaf_count = len(jax.tree.leaves(params))

    def written_out(*arrays: Any) -> list[Any]:
        inputs = [
            _Value(array, position < leaf_count, position >= leaf_count)
            for position, array in enumerate(arrays)
        ]
        outputs = _Writer().run(program, inputs)
        return [value.array if isinstance(value, _Value) else value for value in outputs]

    return remove_dead_equations(jax.make_jaxpr(written_out)(*program.in_avals))


@dataclasses.dataclass(frozen=True)
class _Value:
    """An array while the program is traced anew.

    Attributes:
      array: a tracer.
      learned: whether it depends on parameters, but not on the batch.
      active: whether it depends on the batch.
    """

    array: Any
    learned: bool = False
    active: bool = False


def _derived_value(array: Any, inputs: Sequence[Any]) -> _Value:
    """Returns an array with the dependences of the values that it was computed from."""
    values = [value for value in inputs if isinstance(value, _Value)]
    is_active = any(value.active for value in values)
    return _Value(array, not is_active and any(value.learned for value in values), is_active)


class _Writer:
    """Binds equations anew, the iterations of loops one after the other."""

    def __init__(self) -> None:
        self._outputs_by_key: dict[Hashable, list[Any]] = {}
        self._kept_alive: list[Any] = []  # keys hold `id`s, so their objects must not be collected

    def run(self, program: Any, inputs: Sequence[Any]) -> list[Any]:
        """Returns the outputs of a program."""
        return run(program, inputs, self._bind)

    def _bind(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of one equation, bound anew, computed from constants, or known from before."""
        if equation.primitive.name == "scan" and _should_unroll(equation, inputs):
            return self._unroll(equation, inputs)
        scalar_outputs = _constant_outputs(equation, inputs)
        if scalar_outputs is not None:
            return scalar_outputs
        repeat_key = _repeat_key(equation, inputs)
        if repeat_key is not None and repeat_key in self._outputs_by_key:
            return self._outputs_by_key[repeat_key]
        arrays = [value.array if isinstance(value, _Value) else value for value in inputs]
        outputs: list[Any] = [_derived_value(array, inputs) for array in bind(equation, arrays)]
        if repeat_key is not None:
            self._outputs_by_key[repeat_key] = outputs
            self._kept_alive.append(inputs)
        return outputs

    def _unroll(self, equation: Any, inputs: list[Any]) -> list[Any]:
        """Returns the outputs of a loop, its iterations written out one after the other."""
        params = equation.params
        constant_count, carry_count = count_scan_inputs(equation)
        carry = inputs[constant_count : constant_count + carry_count]
        stacks = inputs[constant_count + carry_count :]
        iterations = range(params["length"])
        outputs_by_iteration: list[list[Any]] = []
        for iteration in reversed(iterations) if params["reverse"] else iterations:
            slices = [self._slice_at(stack, iteration) for stack in stacks]
            outputs = self.run(params["jaxpr"], [*inputs[:constant_count], *carry, *slices])
            carry = outputs[:carry_count]
            outputs_by_iteration.append(outputs[carry_count:])
        if params["reverse"]:
            outputs_by_iteration.reverse()
        return [*carry, *(_stack(slices) for slices in zip(*outputs_by_iteration, strict=True))]

    def _slice_at(self, stack: Any, index: int) -> _Value:
        """Returns one slice of a stack along its first axis; the index is a number in the program."""
        array = stack.array if isinstance(stack, _Value) else stack
        start_indices = [index, *[0] * (array.ndim - 1)]
        leading_slice = lax.dynamic_slice(array, start_indices, (1, *array.shape[1:]))
        return _derived_value(lax.squeeze(leading_slice, [0]), [stack])


def _stack(rows: Sequence[Any]) -> _Value:
    """Returns the outputs of all iterations, stacked along a new first axis."""
    arrays = [row.array if isinstance(row, _Value) else jnp.asarray(row) for row in rows]
    return _derived_value(
        lax.concatenate([lax.expand_dims(array, [0]) for array in arrays], 0), rows
    )


def _should_unroll(equation: Any, inputs: Sequence[Any]) -> bool:
    """Returns whether a loop reads parameters in its products and is short enough to be unrolled."""
    constant_count, carry_count = count_scan_inputs(equation)
    is_learned = [isinstance(value, _Value) and value.learned for value in inputs]
    reads_parameters = any(is_learned[:constant_count]) or any(
        is_learned[constant_count + carry_count :]
    )
    if not reads_parameters or equation.params["length"] > LONGEST:
        return False
    return _has_products(equation.params["jaxpr"].jaxpr)


def _has_products(jaxpr: Any) -> bool:
    """Returns whether a program, or one within it, has a product of matrices or a convolution."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            return True
        for value in equation.params.values():
            members = value if isinstance(value, tuple | list) else [value]
            inner_programs = [getattr(member, "jaxpr", member) for member in members]
            if any(hasattr(member, "eqns") and _has_products(member) for member in inner_programs):
                return True
    return False


def _constant_outputs(equation: Any, inputs: Sequence[Any]) -> list[Any] | None:
    """Returns the outputs if they are scalars that follow from constants, like a loop counter; or `None`."""
    if any(isinstance(value, _Value) or is_traced(value) for value in inputs):
        return None
    if not inputs or any(atom.aval.shape for atom in (*equation.invars, *equation.outvars)):
        return None
    facts = constants.propagate_equation(equation, inputs)
    return [fact.value for fact in facts] if all(fact.known for fact in facts) else None


def _repeat_key(equation: Any, inputs: Sequence[Any]) -> Hashable | None:
    """Returns a key that is equal for the same cast or rearrangement of the same array; `None` for others."""
    name = equation.primitive.name
    if name not in REARRANGING | IDENTITIES | {"convert_element_type"}:
        return None
    operands: list[Hashable] = []
    for value, atom in zip(inputs, equation.invars, strict=True):
        if isinstance(value, _Value):
            operands.append(id(value.array))
        elif atom.aval.shape == () and not is_traced(value):
            operands.append((str(atom.aval), str(value)))
        else:
            return None
    settings = str(sorted(equation.params.items(), key=lambda item: item[0]))
    return name, tuple(operands), settings
