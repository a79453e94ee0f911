"""Takes modules of neural-network libraries apart: arrays, and a function of them in evaluation mode."""

import inspect
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

__all__ = ["Call", "ModuleParts", "split_module"]

Call = Callable[..., Any]

# How modules say in their calls that they are evaluated.
_EVALUATING = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
}


class ModuleParts(NamedTuple):
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


def split_module(module: Any, call: Call | None = None) -> ModuleParts:
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
        return _split_pair(*module, call)
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(module, nnx.Module):
        return _split_nnx(nnx, module, call)
    arrays = [x for x in jax.tree.leaves(module) if _is_array(x)]
    if callable(module) and arrays and arrays != [module]:
        return _split_pytree(module, call)
    raise TypeError(
        f"structured.smaller: an object of the type {type(module).__name__} is no module whose arrays can be "
        "told; give an NNX or Equinox module, or a pair (linen module or function, its parameters)."
    )


def _split_pair(first: Any, params: Any, call: Call | None) -> ModuleParts:
    linen = sys.modules.get("flax.linen")
    if linen is not None and isinstance(first, linen.Module):
        mode = _evaluation_arguments(type(first).__call__) if call is None else {}

        def apply(variables: Any, *inputs: Any) -> Any:
            if call is not None:
                return first.apply(variables, *inputs, method=call)
            return first.apply(variables, *inputs, **mode)

        return ModuleParts(params, apply, first.bind)
    if not callable(first):
        raise TypeError(
            f"structured.smaller: the first of the pair, of the type {type(first).__name__}, cannot be "
            "called; give (linen module or function, its parameters)."
        )
    if call is None:
        return ModuleParts(params, first, lambda p: p)

    def call_with(params: Any, *inputs: Any) -> Any:
        return call(lambda *first_inputs: first(params, *first_inputs), *inputs)

    return ModuleParts(params, call_with, lambda p: p)


def _evaluation_arguments(called: Callable[..., Any]) -> dict[str, Any]:
    """Returns the arguments of a call that say that a module is evaluated."""
    parameters = inspect.signature(called).parameters
    return {name: value for name, value in _EVALUATING.items() if name in parameters}


def _split_nnx(nnx: Any, module: Any, call: Call | None) -> ModuleParts:
    definition, state = nnx.split(module)
    evaluated_module = nnx.merge(definition, state)
    evaluated_module.eval()
    evaluating, _ = nnx.split(evaluated_module)
    accepted_mode = _evaluation_arguments(type(module).__call__) if call is None else {}
    # Of the arguments only those that must be given: others are the module's own, which `eval` has set.
    call_parameters = inspect.signature(type(module).__call__).parameters if call is None else {}
    mode = {
        name: value
        for name, value in accepted_mode.items()
        if call_parameters[name].default is inspect.Parameter.empty
    }

    def fn(state: Any, *inputs: Any) -> Any:
        called_module = nnx.merge(evaluating, state)
        return called_module(*inputs, **mode) if call is None else call(called_module, *inputs)

    return ModuleParts(state, fn, lambda state: nnx.merge(definition, state))


def _split_pytree(module: Any, call: Call | None) -> ModuleParts:
    def is_none(node: Any) -> bool:
        return node is None

    evaluated_module = _in_evaluation_mode(module)
    leaves, treedef = jax.tree.flatten(module, is_leaf=is_none)
    evaluated_leaves, evaluated_treedef = jax.tree.flatten(evaluated_module, is_leaf=is_none)
    params = treedef.unflatten([x if _is_array(x) else None for x in leaves])

    def merge_arrays(treedef: Any, other_leaves: list[Any], params: Any) -> Any:
        arrays = iter(jax.tree.leaves(params))
        return treedef.unflatten([next(arrays) if _is_array(x) else x for x in other_leaves])

    def fn(params: Any, *inputs: Any) -> Any:
        called_module = merge_arrays(evaluated_treedef, evaluated_leaves, params)
        return called_module(*inputs) if call is None else call(called_module, *inputs)

    return ModuleParts(params, fn, lambda params: merge_arrays(treedef, leaves, params))


def _in_evaluation_mode(module: Any) -> Any:
    """Returns a pytree with the flags of Equinox's modules set for evaluation."""
    equinox = sys.modules.get("equinox")
    if equinox is not None and isinstance(module, equinox.Module):
        return equinox.nn.inference_mode(module)
    return module


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
