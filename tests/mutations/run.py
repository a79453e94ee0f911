"""Breaks one invariant after the other and runs the tests that must notice.

Run: PYTHONPATH=tests python -m mutations.run [--only WORDS] [--baseline]   (or all: `make mutations`)

Each mutation is made in a copy of the tree, never in the tree itself. First all the tests run without any:
they must be green. A mutation is red if a test fails, survives if all pass, and is broken if the tests cannot
even be collected. After a run of all, `results/mutations.md` is written; the status is 1 if one survived.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mutations.catalogue import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "results" / "mutations.md"
LIMIT = 600  # seconds for the tests of one mutation
_OUTCOMES = {0: "**survives**", 1: "red"}


def main() -> int:
    """Runs the mutations that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="mutations with these words in their name")
    parser.add_argument("--baseline", action="store_true", help="run the tests without a mutation")
    asked = parser.parse_args()
    chosen = [mutation for mutation in MUTATIONS if asked.only in mutation.name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        _copy(copy)
        tests = sorted({test for mutation in chosen for test in mutation.tests})
        if _pytest(copy, tests) != 0:
            print("the tests are not green without a mutation", file=sys.stderr)
            return 2
        if asked.baseline:
            return 0
        outcomes = [_outcome(copy, mutation) for mutation in chosen]
    if not asked.only:
        TABLE.write_text(_table(outcomes), encoding="utf-8")
    return int(any(outcome != "red" for outcome in outcomes))


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
    path, began = copy / mutation.file, time.perf_counter()
    whole = path.read_text(encoding="utf-8")
    assert whole.count(mutation.old) == 1, mutation.name
    path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        outcome = _OUTCOMES.get(_pytest(copy, mutation.tests), "broken")
    finally:
        path.write_text(whole, encoding="utf-8")
    print(f"{time.perf_counter() - began:6.1f} s  {outcome:12}  {mutation.name}", flush=True)
    return outcome


def _pytest(copy: Path, tests) -> int:
    """The status of pytest; what hangs counts as a failure."""
    options = ["-q", "-x", "-p", "no:cacheprovider", "--override-ini=addopts="]
    options += ["--doctest-modules", "--import-mode=importlib", "-m", "not gpu and not slow"]
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        return subprocess.run(
            command, cwd=copy, env=environment, timeout=LIMIT, check=False, **quiet
        ).returncode
    except subprocess.TimeoutExpired:
        return 1


def _table(outcomes: list[str]) -> str:
    red = outcomes.count("red")
    lines = [
        "# Mutations",
        "",
        f"{red} of {len(outcomes)} are red: a test fails when the invariant is broken on purpose. Made by",
        "`make mutations`; the list is `tests/mutations/catalogue.py`.",
        "",
        "| mutation | file | tests | result |",
        "| --- | --- | --- | --- |",
    ]
    for mutation, outcome in zip(MUTATIONS, outcomes, strict=True):
        tests = "<br>".join(f"`{test}`" for test in mutation.tests)
        lines.append(f"| {mutation.name} | `{mutation.file}` | {tests} | {outcome} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
