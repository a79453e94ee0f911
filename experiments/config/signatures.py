"""Signatures read from source files: what a function takes, without importing it."""

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Signature", "keyword_default", "public", "sources"]


class Signature(NamedTuple):
    """What a call needs to know of a function."""

    module: str
    types: dict[str, str]  # argument -> annotation, or ""
    required: tuple[str, ...] = ()
    open: bool = False  # takes any keyword


def sources(pattern: str) -> Iterator[tuple[Path, str]]:
    """Files that match `package/...`, and their modules' names, without importing the package."""
    package = pattern.split("/")[0]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in sorted(Path(folder).parent.glob(pattern)):
            if not path.name.endswith("_test.py") and path.name != "__init__.py":
                yield path, ".".join(path.relative_to(Path(folder).parent).with_suffix("").parts)


@functools.cache
def public(path: Path, module: str, returns: str) -> list[tuple[str, Signature]]:
    """Functions that a file defines, or makes by `functools.partial`.

    Args:
      path: the file.
      module: its name for imports.
      returns: a regular expression, to be found in the return annotation.

    Returns:
      (name, signature) of those in `__all__`, or of those without a leading underscore.
    """
    found: dict[str, Signature] = {}
    exported = None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and re.search(returns, _text(node.returns)):
            found[node.name] = _of_function(node, module)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value
            if name == "__all__":
                exported = ast.literal_eval(value)
            elif isinstance(value, ast.Call) and _text(value.func) == "functools.partial":
                base = _text(value.args[0])
                if base in found:
                    found[name] = found[base]
    if exported is None:
        exported = [name for name in found if not name.startswith(("_", "scale_by_"))]
    return [(name, found[name]) for name in found if name in exported]


def keyword_default(path: Path, function: str, argument: str) -> Any:
    """Returns the default of a keyword-only argument, read from the source; `None` if there is none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            found = {a.arg: default for a, default in pairs if default is not None}
            return ast.literal_eval(found[argument]) if argument in found else None
    return None


def _of_function(node: ast.FunctionDef, module: str) -> Signature:
    a = node.args
    positional = a.posonlyargs + a.args
    defaults: list[Any] = [None] * (len(positional) - len(a.defaults)) + a.defaults
    pairs = list(zip(positional + a.kwonlyargs, defaults + a.kw_defaults, strict=True))
    return Signature(
        module,
        {argument.arg: _text(argument.annotation) for argument, _ in pairs},
        tuple(argument.arg for argument, default in pairs if default is None),
        a.kwarg is not None,
    )


def _text(node: ast.AST | None) -> str:
    return "" if node is None else ast.unparse(node)
