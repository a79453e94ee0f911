"""The rooms of `experiments`: imports point one way, and what runs before JAX stays without it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import experiments

ROOT = Path(experiments.__file__).parent
# Each room may import from those before it, never from those after; at the end the binaries.
ROOMS = ["config", "runs", "training", "ways", "metrics", "reports", "studies", "cli"]
BINARIES = [
    "train",
    "compare",
    "lottery",
    "branches",
    "structured",
    "sensitivity",
    "posttrain",
    "report",
    "data",
]


def modules():
    return sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)


def name_of(path):
    inner = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("experiments", *(part for part in inner if part != "__init__")))


def imports_of(path):
    """The modules of `experiments` that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "experiments":
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split(".")[1:], alias.name)
                is_module = inner.is_dir() or inner.with_name(f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("experiments."))


def room_of(module):
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_room():
    known = {"", *ROOMS, *BINARIES}
    assert {room_of(name_of(path)) for path in modules()} <= known


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_rooms_import_what_stands_before_them(path):
    order = [*ROOMS, "binaries"]
    place = lambda module: order.index(room_of(module)) if room_of(module) in ROOMS else len(ROOMS)
    own = name_of(path)
    for imported in imports_of(path):
        allowed = place(imported) <= place(own) and room_of(imported) not in BINARIES
        assert allowed, f"{own} imports {imported}"


def test_there_is_no_circle_within_a_room():
    graph = {name_of(path): set(imports_of(path)) for path in modules()}
    finished = set()

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        if module not in finished:
            for imported in graph.get(module, ()):
                visit(imported, [*trail, module])
            finished.add(module)

    for module in graph:
        visit(module, [])


def test_configs_are_read_and_checked_without_jax():
    code = (
        "import sys; from experiments import cli, config\n"
        "cfg = cli.load_config('configs/compare/criteria.py'); config.validate(cfg)\n"
        "from experiments import branches, compare, lottery, posttrain, sensitivity, structured, train\n"
        "assert not {'jax', 'jaxprune', 'optax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
