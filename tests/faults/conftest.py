"""Attacks: each proves that its fault happened, counts what came of it, and fails if anything was silent.

`make test` runs a small part of each attack; `make faults` runs all of it (FAULTS=all) and writes the table
of tried, survived and silent cases to the file that FAULTS_TABLE names.
"""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from experiments.reports.markdown import table

WHOLE = os.environ.get("FAULTS") == "all"
COLUMNS = ("attack", "what", "tried", "survived", "silent", "other errors")


@dataclasses.dataclass
class Attack:
    """The tally of one attack.

    A case survives if the answer is exact or one sentence that says what is wrong. It is silent if a wrong
    value came back without a word, and foreign if the error speaks in another library's words.
    """

    name: str
    what: str
    least: int
    tried: int = 0
    survived: int = 0
    silent: list[str] = dataclasses.field(default_factory=list)
    foreign: list[str] = dataclasses.field(default_factory=list)

    def happened(self, fault: bool, case: str) -> None:
        """Asserts that the fault of this case was really there, and counts the case as tried."""
        assert fault, f"{self.name}: the fault of case {case} did not happen"
        self.tried += 1

    def survive(self) -> None:
        """The case was answered exactly or in one sentence."""
        self.survived += 1

    def close(self) -> None:
        """Fails if a case was silent or foreign, or if too few were tried."""
        assert not self.silent, f"{self.name}: silent: {self.silent[:5]}"
        assert not self.foreign, f"{self.name}: another library's words: {self.foreign[:5]}"
        assert self.survived == self.tried, f"{self.name}: {self.survived} of {self.tried}"
        assert self.tried >= self.least, (
            f"{self.name}: only {self.tried} of {self.least} were tried"
        )


@pytest.fixture
def attack():
    """Makes tallies, `attack(name, what, least=n)`: closed, and written down, when the test ends."""
    made = []

    def start(name: str, what: str, least: int) -> Attack:
        made.append(Attack(name, what, least))
        return made[-1]

    yield start
    for tally in made:
        _write_down(tally)
    for tally in made:
        tally.close()


@pytest.fixture
def amount():
    """`amount(quick, whole)`: how many cases to try, the second number under `make faults`."""
    return lambda quick, whole: whole if WHOLE else quick


def _write_down(tally: Attack) -> None:
    """Adds one row to the table, which is kept as JSON in a folder of its name."""
    if "FAULTS_TABLE" not in os.environ:
        return
    markdown = Path(os.environ["FAULTS_TABLE"])
    rows_file = markdown.with_suffix("") / "rows.json"
    rows_file.parent.mkdir(parents=True, exist_ok=True)
    rows = json.loads(rows_file.read_text(encoding="utf-8")) if rows_file.exists() else {}
    counts = [tally.tried, tally.survived, len(tally.silent), len(tally.foreign)]
    rows[f"{tally.name}: {tally.what}"] = [tally.name, tally.what, *map(str, counts)]
    ordered = dict(sorted(rows.items(), key=lambda row: _natural(row[0])))
    rows_file.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    lines = ["# Faults", __doc__.strip(), table(COLUMNS, list(ordered.values()))]
    markdown.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


def _natural(name: str) -> tuple:
    """R2 before R10."""
    letters = name.split(":")[0].lstrip("R")
    return (int(letters) if letters.isdigit() else 99, name)
