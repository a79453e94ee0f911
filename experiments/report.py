"""Writes report.md of a run folder: tables, plots, and our numbers beside the paper's.

Run: python -m experiments.report RUN_FOLDER
     python -m experiments.report --table results
"""

import argparse
from collections.abc import Sequence

from experiments import cli
from experiments.reports.report import results_table, write_report

__all__ = ["main", "results_table", "write_report"]


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and calls `write_report` or `results_table`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("run_folder", nargs="?", help="folder with results.json")
    what.add_argument("--table", metavar="RESULTS", help="write README.md for the JSON files there")
    args = parser.parse_args(argv)
    with cli.one_line_errors():
        print(results_table(args.table) if args.table else write_report(args.run_folder))


if __name__ == "__main__":
    main()
