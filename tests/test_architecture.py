"""Imports point one way, and what is public is documented."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import jaxprune as jp

ROOT = Path(jp.__file__).parent
CONCEPTS = ["criteria", "patterns", "allocation", "schedules"]
# Each may import what stands before it, never what stands after.
ORDER = [
    ["calls", "extras", "storage", "wording"],
    ["arrays"],
    ["types", "checks"],
    ["trees", "programs"],
    ["kernel_axes", "selection"],
    ["masks"],
    ["units"],
    ["parts", "hyperparameters"],
    ["signals"],
    CONCEPTS,
    ["penalties", "compensation", "preconditioners"],
    ["updates", "metrics"],
    ["method"],
    ["pruning"],
    ["transforms", "methods", "gates", "sensitivity"],
    ["lottery", "at_init", "quantise", "structured", "posttrain"],
]
ALONE = {
    "nn": {"types", "allocation", "extras", "selection", "wording"},
    "data": {"types", "extras", "storage"},
    "models": {"data", "extras", "storage", "wording"},
}
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxprune"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            found |= {n[1] for n in names if n[0] == "jaxprune" and len(n) > 1}
    return found


FILES = [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    here = path.relative_to(ROOT).parts[0].removesuffix(".py")
    others = imports_of(path) - {here}
    if here in ALONE:
        assert others <= ALONE[here], f"{here} stands on its own"
        return
    assert here in RANK, f"{here} has no place in the order"
    for other in others:
        assert other in RANK, f"{here} must not import {other}"
        assert RANK[other] < RANK[here], f"{here} must not import {other}"


def modules():
    yield jp
    for info in pkgutil.walk_packages(jp.__path__, "jaxprune."):
        yield importlib.import_module(info.name)


@pytest.mark.parametrize("module", list(modules()), ids=lambda m: m.__name__)
def test_what_is_public_is_documented(module):
    assert module.__doc__, f"{module.__name__} says nothing of itself"
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__, f"{module.__name__}.{name} says nothing of itself"


def test_importing_jaxprune_leaves_flax_and_data_alone():
    check = (
        "import sys, jaxprune; "
        "heavy = {'flax', 'orbax', 'tensorflow_datasets', 'matplotlib'} "
        "& set(sys.modules); assert not heavy, heavy; jaxprune.nn; assert 'flax' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


def test_dir_shows_the_public_names_and_nothing_else():
    waiting = [jp]
    seen = set()
    while waiting:
        module = waiting.pop()
        seen.add(module.__name__)
        assert dir(module) == sorted(module.__all__), module.__name__
        members = [getattr(module, name) for name in module.__all__]
        waiting += [m for m in members if inspect.ismodule(m) and m.__name__ not in seen]
    assert {"jaxprune", "jaxprune.criteria", "jaxprune.types"} <= seen
