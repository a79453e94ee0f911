"""Writes report.md into a run folder: tables, plots, and our numbers beside the paper's.

With --table it writes the README.md of a folder of results instead.

Run: python -m experiments.report RUN_FOLDER
     python -m experiments.report --table results
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import cli
from experiments.reports import claims, report
from experiments.reports.kind import Outcome, ReportKind
from experiments.studies.study import study_of

__all__ = ["check_claims", "main", "results_table", "write_report"]


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and calls `write_report` or `results_table`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source_group = parser.add_mutually_exclusive_group(required=True)
    source_group.add_argument("run_folder", nargs="?", help="folder of a run, with results.json")
    source_group.add_argument(
        "--table",
        metavar="RESULTS",
        help="write README.md for the JSON files in the folder RESULTS",
    )
    args = parser.parse_args(argv)
    with cli.one_line_errors():
        print(results_table(args.table) if args.table else write_report(args.run_folder))


def write_report(folder: Path | str) -> Path:
    """Writes the report of a run folder of any study; returns its path."""
    results = report.read_results(Path(folder) / "results.json")
    return report.write_report(folder, _kind_of(results["kind"]))


def results_table(folder: Path | str) -> Path:
    """Writes `README.md` of a folder of results; returns its path."""
    return report.results_table(folder, _kind_of)


def check_claims(results: Mapping[str, Any]) -> list[Outcome]:
    """Returns the outcome of each claim of a run."""
    return claims.check(results, _kind_of(results["kind"]))


def _kind_of(name: str) -> ReportKind:
    return study_of(name).report()


if __name__ == "__main__":
    main()
