"""Prints how the code's words measure, folder by folder, beside two libraries that read well.

Run: python docs/mirror.py [FOLDER ...]    (default: the folders of jaxprune/ and experiments/)

Local names are what functions bind: by assignment, `for`, `with`, comprehension and `:=`, each name once per
function; arguments are left out. A packed assignment binds several values that are written out side by side,
`a, b = x, y`; unpacking one value, `a, b = f(x)`, is not counted. It is a mirror for whoever changes code,
not a limit.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODELS = ("optax", "equinox")
COLUMNS = ("folder", "lines", "name length", "one letter", "packed /k", "lambdas /k", "long files")
LONG = 400  # lines


def main() -> None:
    """Prints one row per folder."""
    asked = [Path(name) for name in sys.argv[1:]]
    print(" | ".join(f"{column:>12}" for column in COLUMNS))
    for folder in asked or list(_own_folders()):
        print(_row(str(folder), sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]))
    for name in () if asked else MODELS:
        spec = importlib.util.find_spec(name)
        if spec and spec.origin:
            print(_row(name, [*Path(spec.origin).parent.rglob("*.py")]))


def _own_folders() -> Iterator[Path]:
    for package in (ROOT / "jaxprune", ROOT / "experiments"):
        yield package
        for folder in sorted(path for path in package.iterdir() if path.is_dir()):
            if any(folder.glob("*.py")):
                yield folder


def _row(name: str, files: list[Path]) -> str:
    sources = [
        path.read_text(encoding="utf-8") for path in files if not path.stem.endswith("_test")
    ]
    trees = [ast.parse(source) for source in sources]
    names = [name for tree in trees for name in _local_names(tree)]
    lines = max(sum(source.count("\n") for source in sources), 1)
    per_thousand = 1000 / lines
    shown = name.removeprefix(f"{ROOT}/")
    values = (
        shown,
        str(lines),
        f"{sum(map(len, names)) / max(len(names), 1):.1f}",
        f"{100 * sum(len(name) == 1 for name in names) / max(len(names), 1):.0f} %",
        f"{per_thousand * sum(map(_packed_assignments, trees)):.1f}",
        f"{per_thousand * sum(map(_named_lambdas, trees)):.1f}",
        str(sum(source.count("\n") > LONG for source in sources)),
    )
    return " | ".join(f"{value:>12}" for value in values)


def _local_names(tree: ast.AST) -> Iterator[str]:
    """Names that each function binds, once per function; `_` says nothing and is left out."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from {
                node.id
                for node in _body(function)
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id != "_"
            }


def _body(function: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions within it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _body(node)


def _packed_assignments(tree: ast.AST) -> int:
    return sum(
        isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
        for node in ast.walk(tree)
    )


def _named_lambdas(tree: ast.AST) -> int:
    return sum(
        isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda)
        for node in ast.walk(tree)
    )


if __name__ == "__main__":
    main()
