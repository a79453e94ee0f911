"""What a line search keeps in its state: the loss and its gradient at the point where it stopped.

`optax.value_and_grad_from_state` takes them for those of the parameters in the next update, unless the loss
is infinite, as it is at first. They are no moments, and of that point alone: where the weights land elsewhere
they must be computed anew.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

__all__ = ["evaluations", "forget_evaluations"]


def evaluations(state: optax.OptState) -> list[bool]:
    """Returns, per leaf of a state, whether it is of a loss or a gradient that a line search keeps.

    >>> evaluations(optax.scale_by_backtracking_linesearch(15, store_grad=True).init(jnp.ones(2)))
    [False, True, True, False, False]
    """

    def mark(node: Any) -> Any:
        if not _is_line_search(node):
            return False
        marks = {
            name: jax.tree.map(lambda _, name=name: name in ("value", "grad"), field)
            for name, field in node._asdict().items()
        }
        return node._replace(**marks)

    return jax.tree.leaves(jax.tree.map(mark, state, is_leaf=_is_line_search))


def forget_evaluations(state: optax.OptState, when: jax.Array | bool = True) -> optax.OptState:
    """Returns the state with an infinite loss in each line search: loss and gradient are computed anew.

    Args:
      state: of an optimizer.
      when: whether that is done.
    """

    def forget(node: Any) -> Any:
        if not _is_line_search(node):
            return node
        value = jnp.asarray(node.value)
        return node._replace(value=jnp.where(when, jnp.full_like(value, jnp.inf), value))

    return jax.tree.map(forget, state, is_leaf=_is_line_search)


def _is_line_search(node: Any) -> bool:
    """Whether a node is the state of a line search: `optax` looks for the two by these names."""
    fields = getattr(node, "_fields", ())
    return "value" in fields and "grad" in fields and jnp.shape(node.value) == ()
