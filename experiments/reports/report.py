"""The report of a run folder, and the table of all results: tables, plots, verdicts beside the paper's."""

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.config import UserError
from experiments.reports import claims, stats
from experiments.reports import compare as compare_report
from experiments.reports import posttrain as posttrain_report
from experiments.reports import sensitivity as sensitivity_report
from experiments.reports.markdown import gap, part, percent, table
from experiments.runs.files import is_sealed, read_sealed, write_json, write_text
from experiments.runs.folder import read_starts

__all__ = ["results_table", "write_report"]

_HEAD = """# Results

Written by `python -m experiments.report --table results` from the files beside it. Verdicts follow the rule
in `experiments/reports/stats.py`: a claim holds if the one-sided 95 % lower bound of what it says, paired
over n seeds, is above what it needs; it is refuted if the upper bound is below; otherwise it is open.
Bounds stand in brackets, ± is a standard deviation. Each bound is wrong in 5 % of cases; margins that are
themselves measured, as the spread of dense, make that approximate. Digits are those of one machine: on
another processor the same seed can give other ones.

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
_PARTS = (
    "data",
    "model",
    "optimizer",
    "method",
    "gate",
    "gate_optimizer",
    "penalty",
    "subgradient",
    "preconditioner",
)


def write_report(folder: Path | str) -> Path:
    """Writes `report.md`, `acceptance.json` and plots from the `results.json` of a run folder.

    Args:
      folder: a run folder, finished or not, as long as it holds results.

    Returns:
      The path of the report.
    """
    folder = Path(folder)
    results = _read(folder / "results.json")
    with _shaped(folder / "results.json", results):
        return _written(folder, results)


def _written(folder: Path, results: Mapping[str, Any]) -> Path:
    outcomes = claims.check(results)
    write_json(folder / "acceptance.json", [o._asdict() for o in outcomes])
    body = _BODIES.get(results["kind"], _training)
    parts = [
        f"# {folder.resolve().name}",
        _setting(results),
        _claims(outcomes),
        _plots(results, folder),
        *body(results),
        _cost(results),
        _environment(folder),
    ]
    path = folder / "report.md"
    write_text(path, "\n\n".join(part for part in parts if part) + "\n")
    return path


def results_table(folder: Path | str) -> Path:
    """Writes `README.md` of a folder of results: a row per claim, ours beside the paper's.

    Args:
      folder: holds the `results.json` of finished runs under names of their own.

    Returns:
      The path of the table.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no JSON files; copy the results.json of runs there.")
    rows, judged = [], []
    for file in files:
        results = _read(file)
        with _shaped(file, results):
            source = _source(results.get("paper") or {})
            outcomes = claims.check(results)
            shown = outcomes or [_headline(results)]
        judged += outcomes
        first = f"[{file.stem}]({file.name})"
        for outcome in shown:
            paper = ": ".join(text for text in (source, outcome.published) if text)
            claim = f"{outcome.name}: {outcome.ours} (n = {outcome.n})"
            verdict = outcome.verdict + (f" (needs {outcome.needed})" if outcome.needed else "")
            rows.append([first, paper, claim, verdict])
            first, source = "", ""
    path = folder / "README.md"
    text = [_HEAD.strip(), claims.count(judged), table(["run", "paper", "ours", "verdict"], rows)]
    write_text(path, "\n\n".join(text) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path} is missing; the run has no results yet.")
    results = read_sealed(path)
    if not {"kind", "seeds"} <= results.keys():
        raise UserError(f"{path} holds no results: 'kind' and 'seeds' are missing.")
    seeds = results["seeds"]
    if not isinstance(seeds, list) or not all(isinstance(seed, dict) for seed in seeds):
        raise UserError(f"{path} holds no results: 'seeds' is no list of objects.")
    if not seeds:
        raise UserError(f"{path} holds no seed's results.")
    return results


@contextlib.contextmanager
def _shaped(path: Path, results: Mapping[str, Any]) -> Iterator[None]:
    """Names the file where results have another shape than those that runs write."""
    try:
        yield
    except _OTHER_SHAPES as e:
        if is_sealed(path):  # as a run has written them: the fault is ours
            raise
        raise UserError(
            f"{path} holds results of another shape than runs of kind {results['kind']!r} write "
            f"({type(e).__name__}: {e}); move it away and run the experiment again."
        ) from e


def _setting(results: Mapping[str, Any]) -> str:
    """The paper, and the config in a few words."""
    config = results.get("config") or {}
    lines = [f"- {kind}: {part(config[kind])}" for kind in _PARTS if config.get(kind)]
    plain: tuple[str, ...] = ("ema", "prunable", "steps")
    if results["kind"] == "posttrain":
        plain = ()
        lines += [f"- model: {results['asked']['model']}", f"- rows: {', '.join(results['rows'])}"]
    lines += [f"- {name}: {config[name]}" for name in plain if config.get(name)]
    lines += [f"- seeds: {', '.join(dict.fromkeys(str(s['seed']) for s in results['seeds']))}"]
    source = _source(results.get("paper") or {})
    return (f"Paper: {source}.\n\n" if source else "") + "\n".join(lines)


def _source(paper: Mapping[str, Any]) -> str:
    return ", ".join(str(paper[k]) for k in ("citation", "table", "number") if paper.get(k))


def _claims(outcomes: Sequence[claims.Outcome]) -> str:
    if not outcomes:
        return ""
    rows = [[o.name, o.published, o.ours, o.needed, str(o.n), o.verdict] for o in outcomes]
    return f"## Claims\n\n{claims.count(outcomes)}\n\n" + table(
        ["claim", "paper", "ours", "needed", "n", "verdict"], rows
    )


def _plots(results: Mapping[str, Any], folder: Path) -> str:
    if importlib.util.find_spec("matplotlib") is None:
        text = "No plots: matplotlib is not installed (pip install 'jaxprune[report]')."
        print(text, file=sys.stderr)
        return text
    from experiments.reports import plots

    kinds = {
        "lottery": plots.lottery,
        "compare": plots.comparison,
        "sensitivity": plots.sensitivity,
        "posttrain": plots.posttrain,
    }
    drawn = kinds.get(results["kind"])
    files = plots.training(folder) if drawn is None else drawn(results, folder)
    return "\n\n".join(f"![{Path(file).stem.replace('_', ' ')}]({file})" for file in files)


def _lottery(results: Mapping[str, Any]) -> list[str]:
    left = [f"{100 * remaining:.2f}" for remaining in claims.levels(results)]
    found = dict.fromkeys(b for level in results["seeds"][0]["levels"] for b in level["branches"])
    branches = sorted(found, key=lambda branch: branch != "ticket")  # the tickets first
    seeds = [f"seed {seed['seed']}" for seed in results["seeds"]]

    def by_level(head: Sequence[str], row: Callable[[int], list[str]]) -> str:
        rows = [[remaining, *row(level)] for level, remaining in enumerate(left)]
        return table(["weights left (%)", *head], rows)

    def at(branch: str, metric: str, level: int) -> list[float]:
        return claims.values(results, branch, metric, level)

    def each(metric: str, show: Callable[[list[float]], str]) -> str:
        return by_level(branches, lambda level: [show(at(b, metric, level)) for b in branches])

    def gaps(level: int) -> list[str]:
        ticket = at("ticket", "test_final", level)
        return [gap(ticket, at(b, "test_final", level)) for b in ("dense", *branches[1:])]

    def single(level: int) -> list[str]:
        final, early = at("ticket", "test_final", level), at("ticket", "early_step", level)
        return [*(f"{100 * x:.2f}" for x in final), *(f"{x:.0f}" for x in early)]

    n = len(seeds)
    counted = f"mean ± std over {n} seeds" if n > 1 else "one seed, so no bound can be given"
    return [
        f"## Test accuracy after training, % ({counted})",
        each("test_final", percent),
        "## Test accuracy at early stop, %",
        each("test_early", percent),
        "## Early-stop iteration (of the lowest validation loss)",
        each("early_step", _count),
        "## Ticket minus others after training, pp: mean (one-sided 95 % lower bound)",
        by_level(["dense", *branches[1:]], gaps),
        "## Tickets by seed: test accuracy after training (%), early-stop iteration",
        by_level([*seeds, *(f"{seed}, iteration" for seed in seeds)], single),
    ]


def _training(results: Mapping[str, Any]) -> list[str]:
    seeds = results["seeds"]
    names = [
        k
        for k, v in seeds[0].items()
        if isinstance(v, int | float) and k not in ("seed", "fold", "level")
    ]
    label = lambda s: f"{s['seed']}, fold {s['fold']}" if "fold" in s else str(s["seed"])
    rows = [[label(s), *(_value(name, [s[name]]) for name in names)] for s in seeds]
    if len(seeds) > 1:
        rows.append(["**mean ± std**", *(_value(k, [s[k] for s in seeds]) for k in names)])
    parts = ["## Results", table(["seed", *names], rows)]
    leaves = seeds[0].get("per_leaf")
    if leaves:
        shown = [[_cell(column, value) for column, value in leaf.items()] for leaf in leaves]
        parts += [f"## Leaves of seed {label(seeds[0])}", table(list(leaves[0]), shown)]
    return parts


def _headline(results: Mapping[str, Any]) -> claims.Outcome:
    """What to show of a run without claims."""
    n = len(results["seeds"])
    if results["kind"] == "compare":
        return compare_report.headline(results)
    if results["kind"] == "sensitivity":
        return sensitivity_report.headline(results)
    if results["kind"] == "posttrain":
        return posttrain_report.headline(results)
    if results["kind"] == "lottery":
        remaining = claims.levels(results)
        last = claims.values(results, "ticket", "test_final", len(remaining) - 1)
        name, ours = f"ticket at {100 * remaining[-1]:.3g} %", f"{percent(last)} %"
    else:
        name, ours = (
            "test accuracy",
            f"{percent([s['test_accuracy'] for s in results['seeds']])} %",
        )
    return claims.Outcome(name, "", ours, "", n)


def _cost(results: Mapping[str, Any]) -> str:
    cost = results.get("cost") or {}
    shown = lambda value: f"{value:,.1f}" if isinstance(value, float) else str(value)
    rows = [[name.replace("_", " "), shown(value)] for name, value in cost.items()]
    return "## Cost\n\n" + table(["what", "how much"], rows) if rows else ""


def _environment(folder: Path) -> str:
    """Software and hardware, from `versions.json`."""
    path = folder / "versions.json"
    starts = read_starts(path)
    if not starts:
        return ""
    git = starts[-1].get("git") or {}
    dirty = " with uncommitted changes" if git.get("dirty") else ""
    revision = f", revision {git['revision'][:12]}{dirty}" if git else ""
    packages = ", ".join(
        f"{k} {starts[-1][k]}" for k in ("python", "jax", "flax", "optax") if starts[-1].get(k)
    )
    note = f" The run was resumed under {len(starts)} settings." if len(starts) > 1 else ""
    devices = ", ".join(starts[-1].get("devices", ()))
    return f"## Made with\n\n{packages}; {starts[-1].get('cpu')}, device {devices}{revision}.{note}"


def _count(found: Sequence[float]) -> str:
    if len(found) < 2:
        return f"{found[0]:.0f}" if found else ""
    return f"{stats.mean(found):.0f} ± {stats.std(found):.0f}"


def _value(name: str, found: Sequence[float]) -> str:
    """Accuracies and sparsities as percentages, the rest as they are."""
    if "accuracy" in name or "sparsity" in name:
        return f"{stats.percent(found)} %"
    text = f"{stats.mean(found):.6g}"
    return text if len(found) < 2 else f"{text} ± {stats.std(found):.2g}"


def _cell(name: str, value: Any) -> str:
    if isinstance(value, list):  # a shape
        return "x".join(map(str, value))
    return _value(name, [value]) if isinstance(value, float) else str(value)


_BODIES = {
    "lottery": _lottery,
    "compare": compare_report.body,
    "sensitivity": sensitivity_report.body,
    "posttrain": posttrain_report.body,
}
