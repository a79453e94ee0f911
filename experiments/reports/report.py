"""The report of a run folder, and the table of all results: tables, plots, verdicts beside the paper's."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.config import UserError
from experiments.config.fields import STUDIES, WAYS
from experiments.reports import claims
from experiments.reports.kind import Outcome, ReportKind
from experiments.reports.markdown import part, table
from experiments.runs.files import is_sealed, read_json, read_sealed, write_json, write_text
from experiments.runs.folder import done_checksum
from experiments.runs.starts import read_starts

__all__ = ["read_results", "results_table", "write_report"]

_HEAD = """# Results

What the runs of this repository say about published claims: one row per claim, with its verdict. The page
is written by `python -m experiments.report --table results` from the JSON files beside it.

- Verdict: a claim holds if the one-sided 95 % lower bound of its figure, paired over n seeds, is above what
  it needs; it is refuted if the upper bound is below; otherwise it is open
  (`experiments/reports/stats.py`).
- Notation: bounds are in brackets, ± is a standard deviation or the tolerance of a needed figure, pp are
  percentage points. In claims called "error" our figure and the needed one are accuracies, 100 % minus the
  error. For language models figures are differences of log-perplexity: at most 2.1 times dense needs > -ln
  2.1 = -0.7419.
- Held against: a paper's own figure ("figure"), a paper's figure by a shortened protocol ("shortened"; the
  last column says how), a published order or statement ("order"), or a bar of our own ("own").
- Each bound is wrong in 5 % of cases; margins that are themselves measured, such as the spread of dense,
  make that approximate. Digits are those of one machine: on another processor the same seed can give other
  digits.
- Claims are written down before a run. Only claims whose bar is a paper's own figure were added to finished
  runs.

"""
_OTHER_SHAPES = (
    AttributeError,
    IndexError,
    KeyError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
    ZeroDivisionError,
)
_PARTS = ("data", "model", "optimizer", *WAYS, "gate_optimizer", "preconditioner")


def write_report(folder: Path | str, kind: ReportKind) -> Path:
    """Writes `report.md`, `acceptance.json` and plots from the `results.json` of a run folder.

    Args:
      folder: a run folder, finished or not, as long as it holds results; `paper` is that of its config.
      kind: of its study.

    Returns:
      The path of the report.
    """
    folder = Path(folder)
    results = read_results(folder / "results.json")
    paper = _current_paper(folder, results)
    with _naming_file(folder / "results.json", results):
        claims_changed = _what_is_claimed(paper) != _what_is_claimed(results.get("paper"))
        return _write_files(folder, {**results, "paper": paper}, kind, claims_changed)


def _current_paper(folder: Path, results: Mapping[str, Any]) -> Any:
    """Returns the `paper` of the folder's config, which may have been corrected after the run."""
    path = folder / "config.json"
    stored = results.get("paper") or {}
    return read_json(path, dict).get("paper", stored) if path.exists() else stored


def _what_is_claimed(paper: Mapping[str, Any] | None) -> tuple[Any, ...]:
    paper = paper or {}
    return paper.get("accept") or (), paper.get("against")


def _write_files(
    folder: Path, results: Mapping[str, Any], kind: ReportKind, claims_changed: bool
) -> Path:
    outcomes = claims.check(results, kind)
    write_json(folder / "acceptance.json", [outcome._asdict() for outcome in outcomes])
    sections = [
        f"# {folder.resolve().name}",
        _setting(results, kind),
        _claims(outcomes, results),
        "These claims are not those that the run was made with: they were changed after it."
        if claims_changed
        else "",
        _plots(results, folder, kind),
        *kind.body(results),
        _cost(results),
        _environment(results, folder),
    ]
    path = folder / "report.md"
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def results_table(folder: Path | str, kind_of: Callable[[str], ReportKind]) -> Path:
    """Writes `README.md` of a folder of results: a row per claim, ours beside the paper's.

    Args:
      folder: holds the `results.json` of finished runs under names of their own.
      kind_of: returns the report kind of the study that the "kind" of results names.

    Returns:
      The path of the table.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no JSON files; copy the results.json of runs there.")
    rows = []
    all_outcomes = []
    for file in files:
        results = read_results(file)
        kind = kind_of(results["kind"])
        with _naming_file(file, results):
            source = _source(results.get("paper") or {})
            outcomes = claims.check(results, kind)
            shown_outcomes = outcomes or [kind.headline(results)]
        all_outcomes += outcomes
        # Only the first row of a run shows its name, the paper and the departures from it.
        departures = (results.get("paper") or {}).get("departures", "")
        run_cell = f"[{file.stem}]({file.name})"
        for outcome in shown_outcomes:
            paper = ": ".join(text for text in (source, outcome.published) if text)
            ours = f"{outcome.name}: {outcome.ours} (n = {outcome.n})"
            verdict = outcome.verdict + (f" (needs {outcome.needed})" if outcome.needed else "")
            rows.append([run_cell, paper, outcome.against, ours, verdict, departures])
            run_cell = source = departures = ""
    path = folder / "README.md"
    sections = [
        _HEAD.strip(),
        claims.count(all_outcomes),
        claims.count_table(all_outcomes),
        table(["run", "paper", "held against", "ours", "verdict", "departures"], rows),
    ]
    write_text(path, "\n\n".join(sections) + "\n")
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Returns the results of a run.

    Args:
      path: of a `results.json`.

    Raises:
      UserError: there is no such file, or it holds no results.
    """
    if not path.exists():
        raise UserError(f"{path} is missing; the run has no results yet.")
    results = read_sealed(path, done_checksum(path.parent))
    if not {"kind", "seeds"} <= results.keys():
        raise UserError(f"{path} holds no results: 'kind' and 'seeds' are missing.")
    if results["kind"] not in STUDIES:
        raise UserError(
            f"{path} holds results of the kind {results['kind']!r}; "
            f"there are reports of {', '.join(STUDIES)}."
        )
    seeds = results["seeds"]
    if not isinstance(seeds, list) or not all(isinstance(seed, dict) for seed in seeds):
        raise UserError(f"{path} holds no results: 'seeds' is no list of objects.")
    if not seeds:
        raise UserError(f"{path} holds no seed's results.")
    return results


@contextlib.contextmanager
def _naming_file(path: Path, results: Mapping[str, Any]) -> Iterator[None]:
    """Names the file in the error if its results have another shape than those that runs write."""
    try:
        yield
    except _OTHER_SHAPES as e:
        if is_sealed(path):  # as a run has written them: the fault is ours
            raise
        raise UserError(
            f"{path} holds results of another shape than runs of kind {results['kind']!r} write "
            f"({type(e).__name__}: {e}); move it away and run the experiment again."
        ) from e


def _setting(results: Mapping[str, Any], kind: ReportKind) -> str:
    """Returns the paper, and the config in a few words."""
    config = results.get("config") or {}
    lines = [f"- {field}: {part(config[field])}" for field in _PARTS if config.get(field)]
    lines += kind.details(results)
    lines += [f"- {field}: {config[field]}" for field in kind.shown if config.get(field)]
    seeds = dict.fromkeys(str(seed["seed"]) for seed in results["seeds"])
    lines += [f"- seeds: {', '.join(seeds)}"]
    source = _source(results.get("paper") or {})
    return (f"Paper: {source}.\n\n" if source else "") + "\n".join(lines)


def _source(paper: Mapping[str, Any]) -> str:
    fields = ("citation", "table", "number")
    return ", ".join(str(paper[field]) for field in fields if paper.get(field))


def _claims(outcomes: Sequence[Outcome], results: Mapping[str, Any]) -> str:
    if not outcomes:
        return ""
    rows = [
        [
            outcome.name,
            outcome.against,
            outcome.published,
            outcome.ours,
            outcome.needed,
            str(outcome.n),
            outcome.verdict,
        ]
        for outcome in outcomes
    ]
    departures = (results.get("paper") or {}).get("departures")
    sections = [
        "## Claims",
        claims.count(outcomes),
        table(["claim", "held against", "paper", "ours", "needed", "n", "verdict"], rows),
        *([f"Departures from the paper: {departures}."] if departures else []),
    ]
    return "\n\n".join(sections)


def _plots(results: Mapping[str, Any], folder: Path, kind: ReportKind) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        notice = "No plots: matplotlib is not installed (pip install -e '.[report]')."
        print(notice, file=sys.stderr)
        return notice
    files = kind.plots(results, folder)
    return "\n\n".join(f"![{Path(file).stem.replace('_', ' ')}]({file})" for file in files)


def _cost(results: Mapping[str, Any]) -> str:
    cost = results.get("cost") or {}
    rows = [
        [name.replace("_", " "), f"{amount:,.1f}" if isinstance(amount, float) else str(amount)]
        for name, amount in cost.items()
    ]
    return "## Cost\n\n" + table(["what", "how much"], rows) if rows else ""


def _environment(results: Mapping[str, Any], folder: Path) -> str:
    """Returns the command lines, and the software and hardware of the starts, each different one once."""
    provenance = results.get("provenance") or {}  # of a run of an earlier version
    starts = provenance.get("starts") or read_starts(folder / "versions.json")
    if not starts:
        return ""
    commands = "\n".join(provenance.get("commands", ()))
    command_block = f"```\n{commands}\n```\n\n" if commands else ""
    different = [*dict.fromkeys(_start_in_words(start) for start in starts)]
    if len(different) > 1:
        different = [f"- {start}" for start in different]
    return f"## Made with\n\n{command_block}" + "\n".join(different)


def _start_in_words(start: Mapping[str, Any]) -> str:
    git = start.get("git") or {}
    dirty_note = " with uncommitted changes" if git.get("dirty") else ""
    revision = f", revision {git['revision'][:12]}{dirty_note}" if git else ""
    packages = ", ".join(
        f"{package} {start[package]}"
        for package in ("python", "jax", "flax", "optax")
        if start.get(package)
    )
    devices = ", ".join(start.get("devices", ()))
    return f"{packages}; {start.get('cpu')}, device {devices}{revision}."
