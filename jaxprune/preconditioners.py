r"""The factor by which an adaptive optimizer scales each coordinate's step, read off its state.

Adam moves a weight by its learning rate times $1 / (\sqrt{\hat\nu_i} + \epsilon)$ times a mean gradient.
`jaxprune.proximal` needs this factor: with it, the proximal step is taken in the metric in which the
optimizer moves, and both look for the same minimum. Give each function here what the optimizer was given;
the state does not hold it. What scales updates after the named transform (clipping, a trust ratio) is not
part of the factor.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_lib
from jaxprune.precision import at_least_float32
from jaxprune.types import Params

__all__ = ["adagrad", "adam", "rms"]

Preconditioner = Callable[[optax.OptState, Params], Any]


def adam(*, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0) -> Preconditioner:
    r"""Adam's factor, $1 / (\sqrt{\nu / (1 - \beta_2^t) + \epsilon_0} + \epsilon)$.

    For `optax.adam`, `adamw`, `nadam`, `adabelief` and what else keeps `count`, `mu` and `nu` in the same
    sense. `adamax` keeps them in another, and is not for this. A weight that never had a gradient has the
    factor $1 / \epsilon$: a penalty removes it at once.

    Args:
      b2: decay of the second moment, $\beta_2$.
      eps: $\epsilon$, beside the root.
      eps_root: $\epsilon_0$, within the root.

    Returns:
      A function: (state of the optimizer after an update, parameters) -> tree of factors, `None` at leaves
      of which this optimizer keeps no moments.

    >>> tx, params = optax.adam(0.1), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params))
    >>> adam()(state, params)["w"].round(4)
    Array([0.5 , 0.25], dtype=float32)
    """

    def factors(state: optax.OptState, params: Params) -> Any:
        found = _only("adam", state, ("count", "mu", "nu"))
        nu = _corrected(found.nu, b2, found.count)
        return _each(params, nu, lambda n: 1 / (jnp.sqrt(n + eps_root) + eps))

    return factors


def rms(
    *, eps: float = 1e-8, eps_in_sqrt: bool = True, decay: float | None = None
) -> Preconditioner:
    r"""The factor of `optax.rmsprop`, $1 / \sqrt{\nu + \epsilon}$, not of its centered variant.

    Args:
      eps: $\epsilon$.
      eps_in_sqrt: whether it stands within the root, as in optax by default, or beside it.
      decay: decay of the second moment; needed if the optimizer corrects its bias.

    Returns:
      As of `adam`.

    >>> tx, params = optax.rmsprop(0.1, decay=0.75), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params))
    >>> rms()(state, params)["w"].round(4)  # moments 1 and 4
    Array([1. , 0.5], dtype=float32)
    """

    def factors(state: optax.OptState, params: Params) -> Any:
        found = _only("rms", state, ("nu",), ("count", "nu"))
        nu = found.nu
        if hasattr(found, "_fields") and "count" in found._fields:
            if decay is None:
                raise ValueError(
                    "preconditioners.rms: this optimizer corrects the bias of its moments, for which their "
                    "decay is needed; give decay= what the optimizer was given."
                )
            nu = _corrected(nu, decay, found.count)
        if eps_in_sqrt:
            return _each(params, nu, lambda n: jax.lax.rsqrt(n + eps))
        return _each(params, nu, lambda n: 1 / (jnp.sqrt(n) + eps))

    return factors


def adagrad(*, eps: float = 1e-7) -> Preconditioner:
    r"""The factor of `optax.adagrad`, $1 / \sqrt{\sum_t g_t^2 + \epsilon}$; 0 while the sum is 0.

    Args:
      eps: $\epsilon$.

    Returns:
      As of `adam`.

    >>> tx, params = optax.adagrad(0.1, initial_accumulator_value=0.0), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 0.0])}, tx.init(params))
    >>> adagrad()(state, params)["w"].round(4)
    Array([0.5, 0. ], dtype=float32)
    """

    def factors(state: optax.OptState, params: Params) -> Any:
        found = _only("adagrad", state, ("sum_of_squares",))
        scale = lambda n: jnp.where(n > 0, jax.lax.rsqrt(n + eps), 0.0)
        return _each(params, found.sum_of_squares, scale)

    return factors


def _only(who: str, state: optax.OptState, *fields: tuple[str, ...]) -> Any:
    """The one part of an optimizer state that has such fields, wherever it stands."""
    holds = lambda node: isinstance(node, tuple) and getattr(node, "_fields", None) in fields
    found = [node for node in jax.tree.leaves(state, is_leaf=holds) if holds(node)]
    if len(found) != 1:
        raise ValueError(
            f"preconditioners.{who}: {len(found) or 'no'} states with the fields "
            f"{' or '.join(map(str, fields))} in this optimizer, one is needed; give the preconditioner that "
            "fits the optimizer, or write one: (state, params) -> tree of factors."
        )
    return found[0]


def _corrected(nu: Any, decay: float, count: jax.Array) -> Any:
    # Before the first update, as while optax.MultiSteps gathers, there is nothing to correct.
    share = jnp.where(count > 0, 1 - decay**count, 1.0)
    return jax.tree.map(lambda n: n.astype(at_least_float32(n.dtype)) / share, nu)


def _each(params: Params, tree: Any, f: Callable[[jax.Array], jax.Array]) -> Any:
    """The factors at the leaves of `params`; the places that `optax.masked` leaves empty become `None`."""
    treedef, entries = jax.tree.structure(params), masks_lib.beside(params, tree)
    numbers = (None if isinstance(entry, optax.MaskedNode) else entry for entry in entries)
    return treedef.unflatten(None if n is None else f(n) for n in numbers)
