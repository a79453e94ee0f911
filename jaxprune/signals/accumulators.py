"""Signals that accumulate over the updates, such as running sums and moving averages.

Gradients and keys are signals of the current update. A `Memory` defines a signal that is accumulated: its
initial value, and how each update changes it. `needs` attaches it to the criterion that reads it. Wherever
the criterion is used, the transform keeps the memory in the optimizer's state.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxprune.arrays.precision import widen
from jaxprune.calls import text
from jaxprune.types import Criterion, Params

__all__ = ["Memory", "initial_params", "moving_average", "needed", "needs", "running_sum"]

PerWeight = Callable[[jax.Array, jax.Array], jax.Array]
_C = TypeVar("_C", bound=Callable[..., Any])


class Memory(NamedTuple):
    """A signal that is accumulated from update to update.

    Attributes:
      init: parameters -> the signal before the first update, a tree like them.
      update: (signal, parameters, gradients) -> the signal with this update in it. The gradients are
        those of the loss, off the masks too.
      restarts: whether it starts again from `init` when the masks have changed.
      reads_gradients: whether every update needs the gradients of all weights, those off the masks too.
    """

    init: Callable[[Params], Any]
    update: Callable[[Any, Params, Params], Any]
    restarts: bool = False
    reads_gradients: bool = True


def needs(**memories: Memory) -> Callable[[_C], _C]:
    """Returns a decorator that declares which accumulated signals a criterion reads.

    Args:
      **memories: the memories, by the keyword under which the criterion receives each; they are added to
        those declared before.

    Returns:
      A decorator of criteria: it returns a new criterion of the same name, and does not change the given one.

    Raises:
      ValueError: by the decorator, if the criterion already declares another memory for one keyword.

    >>> @needs(movement_sum=running_sum(lambda w, g: -w * g))
    ... def movement(params, *, movement_sum, **_):
    ...     return movement_sum
    >>> list(needed([movement]))
    ['movement_sum']
    """

    def declare(criterion: _C) -> _C:
        declared = needed([criterion])

        @functools.wraps(criterion)
        def declaring(*args: Any, **kwargs: Any) -> Any:
            return criterion(*args, **kwargs)

        for name, memory in memories.items():
            if declared.setdefault(name, memory) != memory:
                raise ValueError(
                    f"needs({name}=): {text(criterion)} declares another memory by this keyword; declare "
                    "one of them, or read it by another keyword."
                )
        declaring.__name__ = text(criterion)
        declaring.needs = declared  # type: ignore[attr-defined]
        return declaring  # type: ignore[return-value]

    return declare


def needed(criteria: Iterable[Criterion | None]) -> dict[str, Memory]:
    """Returns the memories that criteria read, by keyword.

    Args:
      criteria: all criteria of one run; `None` is skipped.

    Returns:
      A dict: keyword -> memory.

    Raises:
      ValueError: if two criteria declare different memories for one keyword.

    >>> from jaxprune import criteria
    >>> list(needed([criteria.magnitude, criteria.movement, None]))
    ['movement_sum']
    """
    memories: dict[str, Memory] = {}
    for criterion in criteria:
        function = criterion
        while isinstance(function, functools.partial):
            function = function.func
        for name, memory in getattr(function, "needs", {}).items():
            if memories.setdefault(name, memory) != memory:
                raise ValueError(
                    f"{getattr(function, '__name__', 'criterion')}: needs a signal {name!r}, but another "
                    "criterion of the same run means a different one by it; rename one of them."
                )
    return memories


def running_sum(f: PerWeight, *, restarts: bool = False) -> Memory:
    r"""Returns the memory of a running sum: $\sum_t f(w_t, g_t)$ over the updates, in float32.

    Args:
      f: (weights, gradients) of one leaf -> array of their shape.
      restarts: whether to sum over the updates since the last change of the masks, instead of over all.

    Returns:
      A `Memory`, for `needs`.

    >>> movement_sum = running_sum(lambda w, g: -w * g)
    >>> params, grads = {"w": jnp.array([2.0])}, {"w": jnp.array([-1.0])}
    >>> moved = movement_sum.update(movement_sum.init(params), params, grads)
    >>> movement_sum.update(moved, params, grads)
    {'w': Array([4.], dtype=float32)}
    """
    return Memory(_zeros, _leafwise(lambda running_sum, value: running_sum + value, f), restarts)


def moving_average(f: PerWeight, decay: float = 0.9) -> Memory:
    r"""Returns the memory of a moving average: $m \leftarrow \beta m + (1 - \beta) f(w, g)$, $m_0 = 0$.

    Args:
      f: (weights, gradients) of one leaf -> array of their shape.
      decay: $\beta$ in [0, 1), the share of the old average that each update keeps.

    Returns:
      A `Memory`, for `needs`; the average is float32.

    Raises:
      ValueError: `decay` is not in [0, 1).

    >>> average = moving_average(lambda w, g: g, decay=0.75)
    >>> params, grads = {"w": jnp.array([2.0])}, {"w": jnp.array([4.0])}
    >>> average.update(average.init(params), params, grads)
    {'w': Array([1.], dtype=float32)}
    """
    if not 0 <= decay < 1:
        raise ValueError(f"moving_average(decay={decay}): a number in [0, 1) is needed.")
    return Memory(
        _zeros, _leafwise(lambda average, value: decay * average + (1 - decay) * value, f)
    )


def initial_params() -> Memory:
    """Returns the memory of the weights at the start of training, or of this level of a lottery ticket.

    Returns:
      A `Memory`, for `needs`.

    >>> initial_params().init({"w": jnp.array([2.0])})
    {'w': Array([2.], dtype=float32)}
    """
    return Memory(_copied, _unchanged, reads_gradients=False)


def _copied(params: Params) -> Any:
    return jax.tree.map(jnp.copy, params)


def _unchanged(initial_params: Any, params: Params, grads: Params) -> Any:
    return initial_params


def _zeros(params: Params) -> Any:
    return jax.tree.map(lambda p: jnp.zeros_like(p, jnp.float32), params)


def _leafwise(carry: Callable[[Any, Any], jax.Array], f: PerWeight) -> Callable[..., Any]:
    """Returns an update of a memory leaf by leaf; the zeros of leaves that are not floating stay.

    Weights and gradients reach `f` in float32 at least, as float16 cannot hold their products.
    """

    def update_leaf(parameter: jax.Array, gradient: Any, signal: jax.Array) -> jax.Array:
        if not jnp.issubdtype(jnp.result_type(parameter), jnp.floating):
            return signal
        return carry(signal, f(widen(parameter), widen(gradient)).astype(jnp.float32))

    return lambda signal, params, grads: jax.tree.map(update_leaf, params, grads, signal)
