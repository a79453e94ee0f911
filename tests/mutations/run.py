"""Breaks one invariant after the other and runs the tests that must notice.

Run: PYTHONPATH=tests python -m mutations.run [--only WORDS] [--missing]   (or all: `make mutations`)

Each mutation is made in a copy of the tree, never in the tree itself. First its tests run without it: they
must be green. A mutation is red if a test fails then, survives if all pass, and is broken if the tests cannot
even be collected. `results/mutations.md` is written after each; the status is 1 unless all were red.
"""

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import flax.linen  # noqa: F401 - imported once, for all children
import jax  # noqa: F401
import optax  # noqa: F401
import pytest
from mutations.catalogue import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "mutations.md"
HERE = (ROOT, ROOT / "tests")
LIMIT = 600  # seconds for the tests of one mutation
RED, SURVIVES = "red", "**survives**"


def main() -> int:
    """Runs the mutations that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="mutations with these words in their name")
    parser.add_argument("--missing", action="store_true", help="those without a result so far")
    asked = parser.parse_args()
    results = _known()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if asked.only in mutation.name and not (asked.missing and mutation.name in results)
    ]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        _copy(copy)
        green: set[str] = set()
        for mutation in chosen:
            before = [test for test in mutation.tests if test not in green]
            if before and _pytest(copy, before) != 0:
                results[mutation.name] = "not green without it"
            else:
                green.update(before)
                results[mutation.name] = _outcome(copy, mutation)
            print(f"{results[mutation.name]:20}  {mutation.name}", flush=True)
            TABLE.write_text(_table(results), encoding="utf-8")
    return int(any(results[mutation.name] != RED for mutation in chosen))


def _known() -> dict[str, str]:
    """The results in the table, by the names of the mutations."""
    lines = TABLE.read_text(encoding="utf-8").splitlines() if TABLE.exists() else []
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")][1:]
    found = {row[0].strip(): row[-1].strip() for row in rows if len(row) == 4}
    return {name: result for name, result in found.items() if result in (RED, SURVIVES)}


def _copy(target: Path) -> None:
    """The tracked files, and those that git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        source = ROOT / name
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def _outcome(copy: Path, mutation: Mutation) -> str:
    """Makes a mutation, runs its tests, and takes it back."""
    path = copy / mutation.file
    whole = path.read_text(encoding="utf-8")
    assert whole.count(mutation.old) == 1, mutation.name
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return {0: SURVIVES, 1: RED}.get(_pytest(copy, mutation.tests), "broken")
    finally:
        path.write_text(whole, encoding="utf-8")


def _pytest(copy: Path, tests) -> int:
    """The status of pytest in a child of this process; what hangs counts as a failure.

    The child inherits the libraries that this process has imported, which takes longer than most tests.
    """
    options = ["-q", "-x", "-p", "no:cacheprovider", "--override-ini=addopts="]
    options += ["--doctest-modules", "--import-mode=importlib", "-m", "not gpu and not slow"]
    child = multiprocessing.get_context("fork").Process(
        target=_in_child, args=(copy, [*options, *tests])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no thread of JAX runs yet
        child.start()
    child.join(LIMIT)
    if child.is_alive():
        child.kill()
        child.join()
        return 1
    return 1 if child.exitcode is None or child.exitcode < 0 else child.exitcode


def _in_child(copy: Path, arguments: list[str]) -> None:
    os.chdir(copy)
    os.environ |= {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [
        str(copy),
        *(path for path in sys.path if Path(path or ".").resolve() not in HERE),
    ]
    for name in [name for name in sys.modules if name.split(".")[0] in ("mutations", "tests")]:
        del sys.modules[name]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    status = int(pytest.ExitCode.INTERNAL_ERROR)  # unless pytest says otherwise
    try:
        status = int(pytest.main(arguments))
    finally:
        os._exit(status)


def _table(results: dict[str, str]) -> str:
    red = sum(results.get(mutation.name) == RED for mutation in MUTATIONS)
    lines = [
        "# Mutations",
        "",
        f"{red} of {len(MUTATIONS)} are red: a test fails when the invariant is broken on purpose. Made by",
        "`make mutations`; the list is `tests/mutations/catalogue.py`.",
        "",
        "| mutation | file | tests | result |",
        "| --- | --- | --- | --- |",
    ]
    for mutation in MUTATIONS:
        tests = "<br>".join(f"`{test}`" for test in mutation.tests)
        result = results.get(mutation.name, "not run")
        lines.append(f"| {mutation.name} | `{mutation.file}` | {tests} | {result} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
