"""Signatures read from sources: what the functions of a face take, without importing them.

A face is a module, or the `__init__.py` of a package, whose names are meant for others. Where a face says
`from x import y as y`, the source of `x` is read, however deep that goes: what is behind a face may move.
"""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Signature", "defining_file", "signature", "signatures"]


class Signature(NamedTuple):
    """What a call needs to know of a function.

    Attributes:
      module: the face to import it from.
      types: argument -> annotation, or "".
      required: arguments without a default.
      open: whether it takes any keyword.
    """

    module: str
    types: dict[str, str]
    required: tuple[str, ...] = ()
    open: bool = False


class _Imported(NamedTuple):
    """Where a name of a module comes from."""

    module: str
    name: str


def signature(face: str, name: str, returns: str = "") -> Signature | None:
    """Returns the signature of a public function of a face; `None` if there is none of that name.

    Args:
      face: name of a module.
      name: of the function.
      returns: a regular expression, to be found in the return annotation.
    """
    definition = _definition(face, name) if name in _public_names(face) else None
    if definition is None or not re.search(returns, _text(definition.returns)):
        return None
    arguments = definition.args
    positional = arguments.posonlyargs + arguments.args
    defaults: list[Any] = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    with_defaults = list(
        zip(positional + arguments.kwonlyargs, defaults + arguments.kw_defaults, strict=True)
    )
    return Signature(
        face,
        {argument.arg: _text(argument.annotation) for argument, _ in with_defaults},
        tuple(argument.arg for argument, default in with_defaults if default is None),
        arguments.kwarg is not None,
    )


def signatures(face: str, returns: str = "") -> Iterator[tuple[str, Signature]]:
    """Returns name and signature of all public functions of a face.

    Args:
      face: name of a module.
      returns: a regular expression, to be found in the return annotation.
    """
    for name in _public_names(face):
        function = signature(face, name, returns)
        if function is not None:
            yield name, function


def defining_file(face: str, name: str) -> Path | None:
    """Returns the source file that defines a name of a face; `None` if there is no such name.

    >>> defining_file("experiments.config", "part").name
    'parts.py'
    """
    origin = _names(face).get(name)
    if isinstance(origin, _Imported) and origin != (face, name):
        return defining_file(*origin)
    return None if origin is None else _file(face)


def _definition(module: str, name: str) -> ast.FunctionDef | None:
    """The definition of a function, in this module or where it is imported from."""
    origin = _names(module).get(name)
    if isinstance(origin, _Imported):
        return None if origin == (module, name) else _definition(*origin)
    return origin if isinstance(origin, ast.FunctionDef) else None


def _public_names(module: str) -> tuple[str, ...]:
    """What `__all__` lists, and all that a package imports; names with an underscore or `scale_by_` not."""
    names = _names(module)
    listed = names.get("__all__")
    if not isinstance(listed, ast.Assign):
        return tuple(name for name in names if not name.startswith(("_", "scale_by_")))
    path = _file(module)
    is_package = path is not None and path.name == "__init__.py"
    imported = [name for name, origin in names.items() if isinstance(origin, _Imported)]
    public = dict.fromkeys([*ast.literal_eval(listed.value), *(imported if is_package else ())])
    return tuple(name for name in public if not name.startswith(("_", "scale_by_")))


@functools.cache
def _names(module: str) -> Mapping[str, ast.stmt | _Imported]:
    """What the top level of a module defines, or imports from other modules."""
    path = _file(module)
    names: dict[str, ast.stmt | _Imported] = {}
    for node in ast.parse(path.read_bytes()).body if path else ():
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                names[alias.asname or alias.name] = _Imported(node.module, alias.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = names.get(_base_of_partial(node.value), node)
    return names


def _base_of_partial(value: ast.expr) -> str:
    """The function that `functools.partial` is called with; "" for any other expression."""
    if isinstance(value, ast.Call) and _text(value.func) == "functools.partial":
        return _text(value.args[0])
    return ""


@functools.cache
def _file(module: str) -> Path | None:
    """The source of a module, found without importing what it is in."""
    package, *inner = module.split(".")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder, *inner)
        for source in (path / "__init__.py", path.with_name(f"{path.name}.py")):
            if source.is_file():
                return source
    return None


def _text(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)
