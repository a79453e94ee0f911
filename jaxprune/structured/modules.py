"""What a module of a library is to a program: a function of a tree of arrays, in evaluation mode."""

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Call", "Parts", "parts_of"]

Call = Callable[..., Any]

# How modules say in their calls that they are evaluated.
_EVALUATING = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


class Parts(NamedTuple):
    """A module taken apart.

    Attributes:
      params: its arrays.
      fn: (params, *inputs) -> outputs, in evaluation mode.
      merge: params -> the module as it was given, in its own mode, with these arrays: for functions to train
        with. Of a function that came with its parameters, they themselves.
    """

    params: Any
    fn: Callable[..., Any]
    merge: Callable[[Any], Any]


def parts_of(module: Any, call: Call | None = None) -> Parts:
    """Returns the parts of a module; it is copied, and stays as it is.

    Args:
      module: an NNX module, an Equinox module or another pytree that can be called, or a pair of a linen
        module and its variables, or of a function and its parameters.
      call: (module, *inputs) -> outputs, in place of a plain call: `lambda m, x: jax.vmap(m)(x)`. Of a linen
        module it gets the bound module.

    Raises:
      TypeError: if it is none of these.
    """
    if isinstance(module, tuple) and len(module) == 2:
        return _pair(*module, call)
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(module, nnx.Module):
        return _nnx(nnx, module, call)
    arrays = [x for x in jax.tree.leaves(module) if _is_array(x)]
    if callable(module) and arrays and arrays != [module]:
        return _pytree(module, call)
    raise TypeError(
        f"structured.smaller: an object of the type {type(module).__name__} is no module whose arrays can be "
        "told; give an NNX or Equinox module, or a pair (linen module or function, its parameters)."
    )


def _pair(first: Any, params: Any, call: Call | None) -> Parts:
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(first, linen.Module):
        mode = _mode(type(first).__call__) if call is None else {}

        def apply(variables: Any, *inputs: Any) -> Any:
            if call is not None:
                return first.apply(variables, *inputs, method=call)
            return first.apply(variables, *inputs, **mode)

        return Parts(params, apply, first.bind)
    if not callable(first):
        raise TypeError(
            f"structured.smaller: the first of the pair, of the type {type(first).__name__}, cannot be "
            "called; give (linen module or function, its parameters)."
        )
    if call is not None:
        return Parts(params, lambda p, *xs: call(lambda *own: first(p, *own), *xs), lambda p: p)
    return Parts(params, first, lambda p: p)


def _mode(called: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a call that say that a module is evaluated."""
    names = inspect.signature(called).parameters
    return {name: value for name, value in _EVALUATING.items() if name in names}


def _nnx(nnx: Any, module: Any, call: Call | None) -> Parts:
    definition, state = nnx.split(module)
    copy = nnx.merge(definition, state)
    copy.eval()
    evaluating, _ = nnx.split(copy)
    mode = _mode(type(module).__call__) if call is None else {}
    # Of the arguments only those that must be given: others are the module's own, which `eval` has set.
    needed = inspect.signature(type(module).__call__).parameters if call is None else {}
    mode = {n: v for n, v in mode.items() if needed[n].default is inspect.Parameter.empty}

    def fn(state: Any, *inputs: Any) -> Any:
        own = nnx.merge(evaluating, state)
        return own(*inputs, **mode) if call is None else call(own, *inputs)

    return Parts(state, fn, lambda state: nnx.merge(definition, state))


def _pytree(module: Any, call: Call | None) -> Parts:
    nothing = lambda x: x is None
    evaluated = _evaluating(module)
    leaves, treedef = jax.tree.flatten(module, is_leaf=nothing)
    others, structure = jax.tree.flatten(evaluated, is_leaf=nothing)
    params = treedef.unflatten([x if _is_array(x) else None for x in leaves])

    def together(treedef: Any, rest: list[Any], params: Any) -> Any:
        arrays = iter(jax.tree.leaves(params))
        return treedef.unflatten([next(arrays) if _is_array(x) else x for x in rest])

    def fn(params: Any, *inputs: Any) -> Any:
        own = together(structure, others, params)
        return own(*inputs) if call is None else call(own, *inputs)

    return Parts(params, fn, lambda params: together(treedef, leaves, params))


def _evaluating(module: Any) -> Any:
    """A pytree with the flags of Equinox's modules set for evaluation."""
    equinox = sys.modules.get("equinox")
    if equinox is not None and isinstance(module, equinox.Module):
        return equinox.nn.inference_mode(module)
    return module


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
