r"""The factor by which an adaptive optimizer scales the step of each weight, computed from its state.

Adam moves a weight by its learning rate times $1 / (\sqrt{\hat\nu_i} + \epsilon)$ times a mean gradient.
`jaxprune.proximal` needs this factor: with it, the proximal step is taken in the metric in which the
optimizer moves, and both have the same minimum. Give each function the hyperparameters of the optimizer, as
its state does not hold them. Scalings of updates after the named transform (clipping, a trust ratio) are not
part of the factor.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import widen
from jaxprune.calls import is_traced
from jaxprune.trees.alike import check_alike
from jaxprune.types import Params

__all__ = ["adagrad", "adam", "rms"]


def __dir__() -> list[str]:
    return sorted(__all__)


Preconditioner = Callable[[optax.OptState, Params], Any]


def adam(*, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 0.0) -> Preconditioner:
    r"""Returns Adam's factor, $1 / (\sqrt{\nu / (1 - \beta_2^t) + \epsilon_0} + \epsilon)$.

    For `optax.adam`, `adamw`, `nadam`, `adabelief` and others that keep `count`, `mu` and `nu` in the same
    sense; not for `adamax`, which keeps other values. A weight that never had a gradient has the factor
    $1 / \epsilon$, so a penalty removes it at once. If no weight of a leaf has had a gradient, their factor
    is 0: nothing is known of the leaf yet, as after a first step of NaN that `optax.zero_nans` has cleared.

    Args:
      b2: decay of the second moment, $\beta_2$.
      eps: $\epsilon$, added to the root.
      eps_root: $\epsilon_0$, added under the root.

    Returns:
      A function: (state of the optimizer after an update, parameters) -> tree of factors, shaped like the
      parameters, float32 or wider; `None` at leaves for which the optimizer keeps no moments.

    >>> tx, params = optax.adam(0.1), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params))
    >>> adam()(state, params)["w"].round(4)
    Array([0.5 , 0.25], dtype=float32)
    """

    _check("adam", b2=b2, eps=eps, eps_root=eps_root)

    def factors(state: optax.OptState, params: Params) -> Any:
        adam_state = _find_state("adam", state, ("count", "mu", "nu"))
        moments = _correct_bias(adam_state.nu, b2, adam_state.count)
        return _map_moments(
            "adam", params, moments, lambda moment: 1 / (jnp.sqrt(moment + eps_root) + eps)
        )

    return factors


def rms(
    *, eps: float = 1e-8, eps_in_sqrt: bool = True, decay: float | None = None
) -> Preconditioner:
    r"""Returns the factor of `optax.rmsprop`, $1 / \sqrt{\nu + \epsilon}$, without centering.

    As in `adam`, it is 0 for a leaf that never had a gradient.

    Args:
      eps: $\epsilon$.
      eps_in_sqrt: whether $\epsilon$ is added under the root, as in optax by default, or to the root.
      decay: decay of the second moment; needed if the optimizer corrects its bias.

    Returns:
      A function as of `adam`.

    >>> tx, params = optax.rmsprop(0.1, decay=0.75), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 4.0])}, tx.init(params))
    >>> rms()(state, params)["w"].round(4)  # moments 1 and 4
    Array([1. , 0.5], dtype=float32)
    """

    _check("rms", eps=eps, decay=decay)

    def factors(state: optax.OptState, params: Params) -> Any:
        rms_state = _find_state("rms", state, ("nu",), ("count", "nu"))
        moments = rms_state.nu
        if hasattr(rms_state, "_fields") and "count" in rms_state._fields:
            if decay is None:
                raise ValueError(
                    "preconditioners.rms: this optimizer corrects the bias of its moments, for which their "
                    "decay is needed; give decay= what the optimizer was given."
                )
            moments = _correct_bias(moments, decay, rms_state.count)
        if eps_in_sqrt:
            return _map_moments("rms", params, moments, lambda moment: jax.lax.rsqrt(moment + eps))
        return _map_moments("rms", params, moments, lambda moment: 1 / (jnp.sqrt(moment) + eps))

    return factors


def adagrad(*, eps: float = 1e-7) -> Preconditioner:
    r"""Returns the factor of `optax.adagrad`, $1 / \sqrt{\sum_t g_t^2 + \epsilon}$; 0 while the sum is 0.

    The sum includes the optimizer's `initial_accumulator_value`.

    Args:
      eps: $\epsilon$.

    Returns:
      A function as of `adam`.

    >>> tx, params = optax.adagrad(0.1, initial_accumulator_value=0.0), {"w": jnp.zeros(2)}
    >>> _, state = tx.update({"w": jnp.array([2.0, 0.0])}, tx.init(params))
    >>> adagrad()(state, params)["w"].round(4)
    Array([0.5, 0. ], dtype=float32)
    """

    _check("adagrad", eps=eps)

    def factors(state: optax.OptState, params: Params) -> Any:
        adagrad_state = _find_state("adagrad", state, ("sum_of_squares",))
        return _map_moments(
            "adagrad",
            params,
            adagrad_state.sum_of_squares,
            lambda total: jnp.where(total > 0, jax.lax.rsqrt(total + eps), 0.0),
        )

    return factors


def _check(who: str, **numbers: Any) -> None:
    """Raises an error unless each is a number that an optimizer can have: decays below 1, none negative."""
    for name, number in numbers.items():
        if number is None or is_traced(number):
            continue
        checks.check(f"preconditioners.{who}", **{name: (number, checks.NUMBER)})
        limit = 1.0 if name in ("b2", "decay") else math.inf
        if not 0 <= number < limit:
            raise ValueError(
                f"preconditioners.{who}({name}={number}): a number in [0, {limit:g}) is needed, the one that "
                "the optimizer was given."
            )


_REMEDY = "give the preconditioner that fits the optimizer, or write one: (state, params) -> tree of factors"


def _find_state(who: str, state: optax.OptState, *fields: tuple[str, ...]) -> Any:
    """Returns the one part of an optimizer state that has such fields, at any depth."""

    def has_fields(node: Any) -> bool:
        return isinstance(node, tuple) and getattr(node, "_fields", None) in fields

    parts = [node for node in jax.tree.leaves(state, is_leaf=has_fields) if has_fields(node)]
    if len(parts) != 1:
        raise ValueError(
            f"preconditioners.{who}: {len(parts) or 'no'} states with the fields "
            f"{' or '.join(map(str, fields))} in this optimizer, one is needed; {_REMEDY}."
        )
    return parts[0]


def _correct_bias(moments: Any, decay: float, count: jax.Array) -> Any:
    """Returns moving averages over the sum of their weights after `count` updates."""
    # Before the first update, as while optax.MultiSteps gathers, there is nothing to correct.
    weight_sum = jnp.where(count > 0, 1 - decay**count, 1.0)
    return jax.tree.map(lambda moment: widen(moment) / weight_sum, moments)


def _map_moments(
    who: str, params: Params, tree: Any, function: Callable[[jax.Array], jax.Array]
) -> Any:
    """Returns a function of the moments at the leaves of `params`; `None` where `optax.masked` keeps none.

    It is 0 for a leaf whose moments are all 0.
    """
    check_alike(f"preconditioners.{who}", "moments", params, tree, _REMEDY)

    def value(moment: jax.Array) -> jax.Array:
        return jnp.where((moment == 0).all(), 0.0, function(widen(moment)))

    moments = (
        None if isinstance(entry, optax.MaskedNode) else entry
        for entry in masks_lib.beside(params, tree)
    )
    return jax.tree.structure(params).unflatten(
        None if moment is None else value(moment) for moment in moments
    )
