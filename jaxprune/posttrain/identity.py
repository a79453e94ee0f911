"""Checksums that identify a run: of its program, constants, parameters, data, and the code of functions."""

import dataclasses
import dis
import enum
import functools
import hashlib
import itertools
import re
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune.calls import Call, Part
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.store import fingerprint

__all__ = ["UnknownError", "identity", "object_checksum"]

_PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    type(...),
    range,
    slice,
    np.dtype,
    Path,
)


class UnknownError(TypeError):
    """Raised for an object whose content can be neither read nor compared."""


def identity(plan: Plan, settings: Sequence[str], arrays: Iterable[Any]) -> str:
    """Returns a checksum of a run: runs with the same one give the same results.

    Args:
      plan: program, constants and the choice of kernels are taken from it.
      settings: texts that describe solver, pattern, rates and options.
      arrays: parameters, data, keys; read one after the other.
    """
    texts = [
        jax.__version__,
        jax.default_backend(),
        str(jax.config.values["jax_default_matmul_precision"]),
    ]
    texts += [*settings, *plan.names, str(plan.chosen), str(plan.vectors), str(plan.branch_blocks)]
    texts += [segment.piece.key() + str(segment.piece.starts) for segment in plan.segments]
    for kernel in plan.kernels:
        view = kernel.view
        texts.append(
            f"{kernel.name} {kernel.inputs} {view.leaves} {view.piece.starts} {view.key()}"
        )
    for each in plan.inputs:
        texts.append(f"{each.position} {each.operand} {each.order} {each.size} {each.kernels}")
    constants = [*plan.flat.consts.values(), *_constants(plan.flat.jaxpr)]
    return fingerprint(texts, itertools.chain(constants, arrays))


def _constants(jaxpr: Any) -> Iterator[Any]:
    """Yields the arrays that programs within a program are closed over, and those among its operands."""
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            if hasattr(atom, "val") and np.ndim(atom.val):
                yield atom.val
        for value in equation.params.values():
            for member in value if isinstance(value, tuple | list) else [value]:
                yield from getattr(member, "consts", ())
                inner_jaxpr = getattr(member, "jaxpr", member)
                if hasattr(inner_jaxpr, "eqns"):
                    yield from _constants(inner_jaxpr)


def object_checksum(value: Any) -> str:
    """Returns a checksum of a function, a part of a method or what they are made of.

    Functions of libraries and calls of factories count by name; of other functions, the code counts, with
    constants, defaults, what they are closed over and the globals that they read.

    Raises:
      UnknownError: of an object that can be neither read nor compared.

    >>> scaled = lambda factor: lambda x: factor * x
    >>> doubling, doubling_too, tripling = map(object_checksum, (scaled(2), scaled(2), scaled(3)))
    >>> doubling == doubling_too, doubling == tripling
    (True, False)
    """
    return _Describer().checksum(value)


class _Describer:
    """Walks through objects and their contents; an object met again is named by its index, to end cycles."""

    def __init__(self) -> None:
        self._index_by_id: dict[int, int] = {}
        self._kept_alive: list[Any] = []  # `id` may come again once its object is gone

    def checksum(self, value: Any) -> str:
        digest = hashlib.sha256()
        for part in self._parts(value):
            text = part if isinstance(part, str) else self.checksum(part.value)
            digest.update(f"{len(text)} {text}".encode())
        return digest.hexdigest()

    def _parts(self, value: Any) -> Iterator[Any]:
        """Yields texts, and objects (`_Inner`) that have checksums of their own."""
        if isinstance(value, _PLAIN):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, types.CodeType):
            yield from _inner(value.co_code.hex(), value.co_varnames, value.co_freevars)
            yield from _inner(value.co_names, value.co_consts, value.co_flags)
        elif id(value) in self._index_by_id:
            yield f"again {self._index_by_id[id(value)]}"
        else:
            self._index_by_id[id(value)] = len(self._index_by_id)
            self._kept_alive.append(value)
            yield f"{type(value).__module__}.{type(value).__qualname__}"
            yield from self._object_parts(value)

    def _object_parts(self, value: Any) -> Iterator[Any]:
        """Yields the texts and objects that an object consists of, by its kind."""
        name = f"{getattr(value, '__module__', None)}.{getattr(value, '__qualname__', None)}"
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            yield fingerprint([], [value])
        elif isinstance(value, Call):
            yield from _inner(value.factory, value.arguments)
        elif isinstance(value, Part):
            yield from _inner(value.identity())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from _inner(key, item)
        elif isinstance(value, set | frozenset):
            yield from sorted(map(object_checksum, value))
        elif isinstance(value, tuple | list):
            yield from _inner(*value)
        elif isinstance(value, functools.partial):
            yield from _inner(value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            yield from _inner(value.__func__, value.__self__)
        elif isinstance(value, types.ModuleType):
            source_file = getattr(value, "__file__", None)
            yield value.__name__
            if source_file is not None and not _is_library(value.__name__):
                yield Path(source_file).read_bytes().hex()
        elif isinstance(value, re.Pattern | enum.Enum):
            yield repr(value)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            yield value.__name__
        elif isinstance(value, type):
            yield name
            if not _is_library(value.__module__):
                class_items = [item for item in vars(value).items() if not _is_automatic(*item)]
                yield from _inner(value.__bases__, class_items)
        elif callable(value) and _has_library_name(value):
            yield name
        elif isinstance(value, types.FunctionType):
            yield from _inner(value.__code__, value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                yield from _inner(cell.cell_contents)
            for global_name in sorted(set(_globals(value.__code__))):
                if global_name in value.__globals__:
                    yield from _inner(global_name, value.__globals__[global_name])
        elif isinstance(value, staticmethod | classmethod | property):
            accessor = value.fget if isinstance(value, property) else value.__func__
            yield from _inner(accessor)
        elif callable(value) and hasattr(value, "__wrapped__"):
            yield from _inner(value.__wrapped__)
        elif dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            yield from _inner(
                type(value), [(field_name, getattr(value, field_name)) for field_name in names]
            )
        elif hasattr(value, "__dict__") and type(value).__module__ != "builtins":
            if not _is_pure(type(value)):
                raise UnknownError(f"a {type(value).__name__}")
            yield from _inner(type(value), vars(value))
        elif type(value) is not object:
            raise UnknownError(f"a {type(value).__name__}")


class _Inner:
    def __init__(self, value: Any) -> None:
        self.value = value


def _inner(*values: Any) -> list[_Inner]:
    return [_Inner(value) for value in values]


def _globals(code: Any) -> Iterator[str]:
    """Yields the names of the globals that a function reads, and those that functions within it read."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def _is_library(module: str) -> bool:
    """Returns whether a module is Python's, this package's or an installed one: known by name and version."""
    top_package = module.partition(".")[0]
    if top_package == "jaxprune" or (
        top_package in sys.stdlib_module_names and top_package != "__main__"
    ):
        return True
    source_file = getattr(sys.modules.get(top_package), "__file__", None) or ""
    return "site-packages" in source_file or "dist-packages" in source_file


def _has_library_name(value: Any) -> bool:
    """Returns whether an object can be reached by its name in a library."""
    module_name = getattr(value, "__module__", None)
    qualified_name = getattr(value, "__qualname__", None)
    if (
        not isinstance(module_name, str)
        or not isinstance(qualified_name, str)
        or not _is_library(module_name)
    ):
        return False
    attribute: Any = sys.modules.get(module_name)
    for part in qualified_name.split("."):
        attribute = getattr(attribute, part, None)
    return attribute is value


def _is_automatic(name: str, value: Any) -> bool:
    """Returns whether an item of a class is put there by Python itself."""
    automatic_names = ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__")
    return name in automatic_names or isinstance(
        value, types.GetSetDescriptorType | types.MemberDescriptorType
    )


def _is_pure(kind: type) -> bool:
    """Returns whether all that objects of a class hold is in their `__dict__`."""
    return all(base is object or base.__flags__ & (1 << 9) for base in kind.__mro__)  # heap types
