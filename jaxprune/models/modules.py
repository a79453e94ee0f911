"""Splits a module of Flax NNX into a pure function and its parameters, as pruning and optax need them."""

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Functional", "from_nnx"]


class Functional(NamedTuple):
    """A module as a pure function and its parameters.

    Attributes:
      apply: (params, *inputs) -> outputs, in evaluation mode.
      params: an `nnx.State` of the module's `nnx.Param`: a tree of arrays.
      merge: params -> a module like the one given, in the mode that it was in, with these parameters.
    """

    apply: Callable[..., Any]
    params: Any
    merge: Callable[[Any], Any]


def from_nnx(module: Any, call: Callable[..., Any] | None = None) -> Functional:
    """Splits an NNX module into a pure function and its parameters; the module stays as it is.

    Other variables (statistics of batch norms, keys of dropout, caches) are kept as they are now; changes
    that a call makes to them are dropped.

    Args:
      module: an `nnx.Module`.
      call: (module, *inputs) -> outputs; `None`: a plain call.

    Returns:
      A `Functional`: apply, params, merge.

    Raises:
      TypeError: it is no NNX module.
      ValueError: it has no parameters.

    >>> from flax import nnx
    >>> import jax.numpy as jnp
    >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    >>> apply, params, merge = from_nnx(layer)
    >>> params["kernel"] = params["kernel"].replace(jnp.zeros((2, 3)))
    >>> apply(params, jnp.ones((1, 2))).tolist()
    [[0.0, 0.0, 0.0]]
    >>> merge(params).kernel[...].tolist(), bool(layer.kernel[...].any())
    ([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], True)
    """
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise TypeError(
            f"from_nnx: an object of the type {type(module).__name__} is no nnx.Module; of a linen module, "
            "give lambda params, *inputs: module.apply({'params': params}, *inputs) where apply is asked for."
        )
    definition, params, other_variables = nnx.split(module, nnx.Param, ...)
    if not nnx.to_flat_state(params):
        raise ValueError("from_nnx: the module has no nnx.Param; there is nothing to prune.")
    module_copy = nnx.merge(definition, params, other_variables)
    module_copy.eval()
    evaluation_definition, _, fixed_variables = nnx.split(module_copy, nnx.Param, ...)

    def apply(params: Any, *inputs: Any) -> Any:
        evaluated_module = nnx.merge(evaluation_definition, params, fixed_variables)
        return evaluated_module(*inputs) if call is None else call(evaluated_module, *inputs)

    return Functional(apply, params, lambda params: nnx.merge(definition, params, other_variables))
