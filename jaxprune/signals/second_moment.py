"""The second moment of gradients, as Adam and its like keep it: a signal that costs nothing."""

from typing import Any

import jax
import optax

from jaxprune.types import Params

__all__ = ["second_moment"]


def second_moment(opt_state: Any) -> Params:
    r"""Returns the moving average of squared gradients that an optimizer's state holds.

    $\nu \leftarrow \beta_2 \nu + (1 - \beta_2) g^2$. The state is searched, so chains and wrappers may
    surround it, `jaxprune.sparsify` among them: Adam, AdamW, NAdam, LAMB, RMSprop and what else keeps an
    array called `nu` for each parameter. It is as it is kept, not divided by $1 - \beta_2^t$, which is the
    same for all weights. The state of Adamax has that name too, but keeps maxima.

    Args:
      opt_state: state of an optimizer; under `jaxprune.sparsify` zero at removed weights, and begun anew at
        those that came back.

    Returns:
      A tree like the parameters, `None` where the optimizer was masked. What the criterion
      `adam_second_moment` reads.

    Raises:
      ValueError: if the state holds none (SGD, Lion, Adafactor), or several (`optax.partition`).

    >>> import jax.numpy as jnp
    >>> tx, params = optax.adamw(1e-3, b2=0.75), {"w": jnp.ones(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params), params)
    >>> second_moment(state)  # a quarter of the squares
    {'w': Array([1., 4.], dtype=float32)}
    """
    has = lambda node, field: isinstance(node, tuple) and field in getattr(node, "_fields", ())
    holds, rewinds = (lambda node: has(node, "nu")), (lambda node: has(node, "point"))
    now = lambda node: (
        node._replace(point=None) if rewinds(node) else node
    )  # not where it rewinds to
    current = jax.tree.map(now, opt_state, is_leaf=rewinds)
    found = [node for node in jax.tree.leaves(current, is_leaf=holds) if holds(node)]
    if len(found) != 1:
        raise ValueError(
            f"second_moment: {len(found) or 'no'} second moments (nu) in this optimizer state, one is "
            "needed; give the state that Adam or RMSprop made, or the part of it that is meant."
        )
    masked = lambda node: isinstance(node, optax.MaskedNode)
    return jax.tree.map(lambda x: None if masked(x) else x, found[0].nu, is_leaf=masked)
