"""A module of Flax NNX as a pure function and its parameters: what pruning and optax work on."""

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Functional", "from_nnx"]


class Functional(NamedTuple):
    """A module taken apart.

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

    Other variables (statistics of batch norms, keys of dropout, caches) are kept as they are now; what a call
    does to them is forgotten.

    Args:
      module: an `nnx.Module`.
      call: (module, *inputs) -> outputs; `None`: a plain call.

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
    definition, params, others = nnx.split(module, nnx.Param, ...)
    if not nnx.to_flat_state(params):
        raise ValueError("from_nnx: the module has no nnx.Param; there is nothing to prune.")
    copy = nnx.merge(definition, params, others)
    copy.eval()
    evaluating, _, fixed = nnx.split(copy, nnx.Param, ...)

    def apply(params: Any, *inputs: Any) -> Any:
        own = nnx.merge(evaluating, params, fixed)
        return own(*inputs) if call is None else call(own, *inputs)

    return Functional(apply, params, lambda params: nnx.merge(definition, params, others))
