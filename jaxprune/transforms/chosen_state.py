"""Choosing between old and new state in the memory of one of them.

XLA copies what a conditional chooses, and keeps old state beside the new as long as anything reads it. Here
what changes seldom is written over the old by a loop of one iteration or none, and what changes always is
chosen element by element, in the pass that computes it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.calls import is_traced
from jaxprune.programs import interpreter
from jaxprune.types import Params

__all__ = ["replace_in_place", "select", "update_from_chosen_state"]


def replace_in_place(condition: jax.Array, new: Callable[[], Any], old: Any) -> Any:
    """Returns a tree, or a new one where a condition holds, written over it.

    Args:
      condition: bool scalar.
      new: computes the new tree.
      old: a tree of the same shapes.
    """
    if not is_traced(condition):
        return new() if bool(condition) else old
    return jax.lax.while_loop(
        lambda carry: carry[0], lambda carry: (jnp.zeros_like(carry[0]), new()), (condition, old)
    )[1]


def select(index: jax.Array, cases: Sequence[Any]) -> Any:
    """Returns one of several trees, chosen element by element; the only one, if there is only one.

    Args:
      index: int32 scalar, of the case.
      cases: trees of the same shapes.
    """
    if len(cases) == 1:
        return cases[0]
    return jax.tree.map(lambda *leaves: jax.lax.select_n(index, *leaves), *cases)


def update_from_chosen_state(
    inner: optax.GradientTransformationExtraArgs,
    grads: Params,
    inner_state: optax.OptState,
    params: Params,
    choose: Callable[[optax.OptState], optax.OptState],
    **extra: Any,
) -> tuple[Params, optax.OptState]:
    """Returns one update of `inner`, and the state that is chosen after it.

    The update is computed from what has been chosen, which is the same wherever it counts. Computed from the
    new state, XLA would compute that once more inside the update, from a copy of the old.

    Args:
      inner: the wrapped optimizer.
      grads: gradients.
      inner_state: its state.
      params: tree of arrays.
      choose: new state -> the state that is kept, a tree like it; where that is another one, the update means
        nothing.
      **extra: what `inner` is given besides.
    """
    program, structure = interpreter.trace(
        lambda grads, state, params: inner.update(grads, state, params, **extra),
        grads,
        inner_state,
        params,
    )
    inputs = jax.tree.leaves((grads, inner_state, params))
    computed: dict[int, tuple[list[Any], list[Any]]] = {}

    def bind_once(equation: Any, operands: list[Any]) -> list[Any]:
        """What the first run has computed of the same operands is not computed again, nor are effects."""
        if id(equation) in computed:
            known_operands, results = computed[id(equation)]
            if equation.effects or all(map(operator.is_, operands, known_operands)):
                return results
        results = interpreter.bind(equation, operands)
        computed[id(equation)] = (operands, results)
        return results

    outputs = interpreter.run(program, inputs, bind_once, enters=lambda equation: False)
    new_state = jax.tree.unflatten(structure, outputs)[1]
    chosen_state = choose(new_state)
    chosen_leaves = jax.tree.leaves(chosen_state)
    state_variables = program.jaxpr.outvars[len(outputs) - len(chosen_leaves) :]
    pairs = zip(state_variables, chosen_leaves, strict=True)
    chosen_values = {variable: leaf for variable, leaf in pairs if not hasattr(variable, "val")}

    def bind_chosen(equation: Any, operands: list[Any]) -> list[Any]:
        results = bind_once(equation, operands)
        pairs = zip(equation.outvars, results, strict=True)
        return [chosen_values.get(variable, result) for variable, result in pairs]

    outputs = interpreter.run(program, inputs, bind_chosen, enters=lambda equation: False)
    return jax.tree.unflatten(structure, outputs)[0], chosen_state
