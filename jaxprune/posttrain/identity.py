"""What tells one run from another: its program, constants, parameters and data, and the code of functions."""

import dataclasses
import dis
import enum
import functools
import hashlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprune.calls import Call, Part
from jaxprune.posttrain.plan import Plan
from jaxprune.posttrain.store import fingerprint

__all__ = ["UnknownError", "described", "identity"]

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
    """Of an object that holds what can be neither read nor compared."""


def identity(plan: Plan, settings: Sequence[str], arrays: Sequence[Any]) -> str:
    """Returns a checksum that differs between runs that need not give the same.

    Args:
      plan: its program, constants, and which kernels are pruned, count.
      settings: texts that say what is done.
      arrays: parameters, data, keys.
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
    return fingerprint(texts, [*constants, *arrays])


def _constants(jaxpr: Any) -> Iterator[Any]:
    """Arrays that the programs within a program are closed over, and those among its operands."""
    for equation in jaxpr.eqns:
        for atom in equation.invars:
            if hasattr(atom, "val") and np.ndim(atom.val):
                yield atom.val
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                yield from getattr(part, "consts", ())
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from _constants(inner)


def described(value: Any) -> str:
    """Returns a checksum of a function, a part of a method or what they are made of.

    Functions of libraries and calls of factories count by name; of other functions, the code counts, with
    constants, defaults, what they are closed over and the globals that they read.

    Raises:
      UnknownError: of an object that can be neither read nor compared.

    >>> scaled = lambda factor: lambda x: factor * x
    >>> described(scaled(2)) == described(scaled(2)), described(scaled(2)) == described(scaled(3))
    (True, False)
    """
    return _Describer().checksum(value)


class _Describer:
    """Goes through objects; what comes again is named by the order in which it came first."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []  # an identity is one as long as its object lives

    def checksum(self, value: Any) -> str:
        found = hashlib.sha256()
        for part in self._parts(value):
            text = part if isinstance(part, str) else self.checksum(part.value)
            found.update(f"{len(text)} {text}".encode())
        return found.hexdigest()

    def _parts(self, value: Any) -> Iterator[Any]:
        """Texts, and objects (`_Inner`) that have checksums of their own."""
        if isinstance(value, _PLAIN):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, types.CodeType):
            yield from _inner(value.co_code.hex(), value.co_varnames, value.co_freevars)
            yield from _inner(value.co_names, value.co_consts, value.co_flags)
        elif id(value) in self._numbers:
            yield f"again {self._numbers[id(value)]}"
        else:
            self._numbers[id(value)] = len(self._numbers)
            self._kept.append(value)
            yield f"{type(value).__module__}.{type(value).__qualname__}"
            yield from self._of_object(value)

    def _of_object(self, value: Any) -> Iterator[Any]:
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
            yield from sorted(map(described, value))
        elif isinstance(value, tuple | list):
            yield from _inner(*value)
        elif isinstance(value, functools.partial):
            yield from _inner(value.func, value.args, value.keywords)
        elif isinstance(value, types.MethodType):
            yield from _inner(value.__func__, value.__self__)
        elif isinstance(value, types.ModuleType):
            file = getattr(value, "__file__", None)
            yield value.__name__
            if file is not None and not _of_library(value.__name__):
                yield Path(file).read_bytes().hex()
        elif isinstance(value, re.Pattern | enum.Enum):
            yield repr(value)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            yield value.__name__
        elif isinstance(value, type):
            yield name
            if not _of_library(value.__module__):
                own = [item for item in vars(value).items() if not _is_made(*item)]
                yield from _inner(value.__bases__, own)
        elif callable(value) and _named(value):
            yield name
        elif isinstance(value, types.FunctionType):
            yield from _inner(value.__code__, value.__defaults__, value.__kwdefaults__)
            for cell in value.__closure__ or ():
                yield from _inner(cell.cell_contents)
            for read in sorted(set(_globals(value.__code__))):
                if read in value.__globals__:
                    yield from _inner(read, value.__globals__[read])
        elif isinstance(value, staticmethod | classmethod | property):
            accessor = value.fget if isinstance(value, property) else value.__func__
            yield from _inner(accessor)
        elif callable(value) and hasattr(value, "__wrapped__"):
            yield from _inner(value.__wrapped__)
        elif dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            yield from _inner(type(value), [(each, getattr(value, each)) for each in names])
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
    """Names of the globals that a function reads, and those that functions within it read."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _globals(const)


def _of_library(module: str) -> bool:
    """Whether a module is Python's, this package's or an installed one: known by name and version."""
    top = module.partition(".")[0]
    if top == "jaxprune" or (top in sys.stdlib_module_names and top != "__main__"):
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _named(value: Any) -> bool:
    """Whether a name in a library leads to an object."""
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or not _of_library(module):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _is_made(name: str, value: Any) -> bool:
    """Whether Python puts something into a class by itself."""
    skipped = ("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__")
    return name in skipped or isinstance(
        value, types.GetSetDescriptorType | types.MemberDescriptorType
    )


def _is_pure(kind: type) -> bool:
    """Whether all that objects of a class hold is in their `__dict__`."""
    return all(base is object or base.__flags__ & (1 << 9) for base in kind.__mro__)  # heap types
