"""The second moment of gradients, as Adam and its like keep it: a signal that costs nothing."""

from typing import Any

import jax
import optax

from jaxprune.types import Params

__all__ = ["second_moment"]


def second_moment(opt_state: Any) -> Params:
    r"""Returns the moving average of squared gradients that an optimizer's state holds.

    $\nu \leftarrow \beta_2 \nu + (1 - \beta_2) g^2$. The state is searched for the field `nu`, one array per
    parameter, as Adam, AdamW, NAdam, LAMB and RMSprop keep it; chains and wrappers such as
    `jaxprune.sparsify` may surround it. The stored value is returned: it is not divided by $1 - \beta_2^t$,
    which is the same for all weights. Some optimizers keep something else under this name: Adamax maxima,
    AdaBelief squared deviations of gradients from their average, Sophia curvatures.

    Args:
      opt_state: state of an optimizer. Under `jaxprune.sparsify` the moment is zero at removed weights and
        starts again at weights that came back.

    Returns:
      A tree like the parameters; `None` at leaves that `optax.masked` keeps from the optimizer. The criterion
      `adam_second_moment` reads it.

    Raises:
      ValueError: if the state holds no `nu` (SGD, Lion, Adafactor), or several (`optax.partition`).

    >>> import jax.numpy as jnp
    >>> tx, params = optax.adamw(1e-3, b2=0.75), {"w": jnp.ones(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params), params)
    >>> second_moment(state)  # a quarter of the squares
    {'w': Array([1., 4.], dtype=float32)}
    """
    current = jax.tree.map(_without_rewinding_point, opt_state, is_leaf=_has_rewinding_point)
    nodes = jax.tree.leaves(current, is_leaf=_has_second_moment)
    adaptive_states = [node for node in nodes if _has_second_moment(node)]
    if len(adaptive_states) != 1:
        raise ValueError(
            f"second_moment: {len(adaptive_states) or 'no'} second moments (nu) in this optimizer state, one "
            "is needed; give the state that Adam or RMSprop made, or the part of it that is meant."
        )
    moments = adaptive_states[0].nu
    return jax.tree.map(
        lambda node: None if _is_masked(node) else node, moments, is_leaf=_is_masked
    )


def _has_field(node: Any, field: str) -> bool:
    return isinstance(node, tuple) and field in getattr(node, "_fields", ())


def _has_second_moment(node: Any) -> bool:
    return _has_field(node, "nu")


def _has_rewinding_point(node: Any) -> bool:
    return _has_field(node, "point")


def _without_rewinding_point(node: Any) -> Any:
    """Returns the state without the one that a lottery ticket will rewind to, which holds moments too."""
    return node._replace(point=None) if _has_rewinding_point(node) else node


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
