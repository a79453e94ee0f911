"""What `experiments.posttrain` runs: the dense model, then each row for each seed."""

import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import jaxprune as jp
from experiments import criterion_files
from experiments.cli import Options
from experiments.config import UserError, build
from experiments.contestants import DENSE
from experiments.files import read_json, write_json
from experiments.posttrain_config import checked, is_function
from experiments.progress import Progress
from experiments.report import write_report
from experiments.run_folder import Folder, RunFolder
from jaxprune import models, posttrain

__all__ = ["run"]


class _Subject(NamedTuple):
    """A model and its text.

    Attributes:
      apply: (params, tokens) -> logits.
      params: of the dense model.
      windows: (part, how many, seed) -> tokens [count, length].
      expected: perplexities of the dense model that are known, by the hash of the windows.
    """

    apply: Callable[..., jax.Array]
    params: Any
    windows: Callable[[str, int, int | None], np.ndarray]
    expected: Mapping[str, float]


class _StoppedError(Exception):
    """A signal asked for an end; what is done is stored."""


def run(cfg: ConfigDict, options: Options) -> None:
    """Runs, or goes on with, all rows; then writes the report."""
    asked = checked(cfg)
    rows = {label: _row(label, row) for label, row in asked["rows"].items()}
    if options.dry_run:
        print(_planned(asked, _subject(asked), len(cfg.seeds)))
        return
    with RunFolder.open(options.workdir, options.config_name, cfg) as folder:
        if not folder.done:
            try:
                _finish(folder, cfg, asked, rows, options)
            except _StoppedError:
                return
        print(f"Report: {write_report(folder.path)}")


def _finish(
    folder: RunFolder, cfg: ConfigDict, asked: dict[str, Any], rows: dict, options: Options
) -> None:
    started = time.time()
    subject = _subject(asked)
    test = subject.windows("test", asked["test"], None)
    dense = Folder(folder.path / DENSE)
    if not dense.done:
        try:
            found = models.dense_perplexity(
                subject.apply, subject.params, test, expected=subject.expected or None
            )
        except ValueError as e:
            raise UserError(f"config.posttrain.model: {e}") from e
        dense.finish(_measured(found))
    network = _Network(asked, subject, test)
    seeds: list[dict[str, Any]] = []
    with Progress(len(rows) * len(cfg.seeds), "starting") as progress:
        for seed in cfg.seeds:
            found: dict[str, Any] = {}
            for label, row in rows.items():
                done = sum(len(s["rows"]) for s in seeds) + len(found)
                tell = lambda text, label=label, seed=seed, done=done: progress.update(
                    done, f"seed {seed} · {label} · {text}"
                )
                own = Folder(folder.path / f"seed_{seed}" / label)
                if not own.done:
                    segments = own.path / "segments"
                    own.finish(network.pruned(row, seed, segments, tell, options))
                    shutil.rmtree(segments, ignore_errors=True)  # of our own making, and used up
                    (own.path / "spent.json").unlink(missing_ok=True)
                found[label] = own.results
            seeds.append({"seed": seed, "rows": found})
    folder.finish(
        {
            "kind": "posttrain",
            "config": cfg.to_dict(),
            "paper": cfg.paper.to_dict(),
            "asked": asked,
            "rows": list(rows),
            "dense": dense.results,
            "test_tokens": int(test.size),
            "seeds": seeds,
            "cost": {
                "wall_seconds": time.time() - started,
                "cpu_seconds": sum(r["cpu_seconds"] for s in seeds for r in s["rows"].values()),
            },
        }
    )
    write_json(folder.path / "kernels.json", {s["seed"]: _kernels(s) for s in seeds})


def _row(label: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a row, built."""
    solver = row["solver"]
    if isinstance(solver, str):
        where = f"config.posttrain.rows[{label!r}].solver"
        criterion = criterion_files.load(solver, where, ("input_moments", "grams", "key"))
        built = posttrain.solvers.by_criterion(criterion)
    else:
        built = build("solver", solver)
    rates = row.get("rates", 0.5)
    is_part = isinstance(rates, Mapping) and "name" in rates
    return {
        "solver": built,
        "pattern": build("pattern", row.get("pattern")),
        "rates": build("rates", rates) if is_part else rates,
        "recover": build("recover", row.get("recover")),
    }


def _subject(asked: Mapping[str, Any]) -> _Subject:
    name, length = asked["model"], asked["length"]
    if is_function(name):
        return _own(name, length)
    try:
        model = models.load(name)
        tokens = {part: models.text.tokens(model.tokenizer, part) for part in models.text.PARTS}
    except (FileNotFoundError, ImportError, ValueError) as e:
        raise UserError(f"config.posttrain.model: {e}") from e

    def windows(part: str, count: int, seed: int | None) -> np.ndarray:
        try:
            return models.text.cut(tokens[part], length, count=count, seed=seed)
        except ValueError as e:
            raise UserError(f"config.posttrain.{part}: {e}") from e

    return _Subject(model.apply, model.params, windows, model.perplexities)


def _own(name: str, length: int) -> _Subject:
    """A model and windows from a function of the user's."""
    made = criterion_files.run(name, "config.posttrain.model")()
    if not isinstance(made, tuple) or len(made) != 3 or not set(models.text.PARTS) <= set(made[2]):
        raise UserError(
            f"config.posttrain.model: {name} must return (apply, params, windows), with windows for "
            f"{', '.join(models.text.PARTS)}."
        )
    apply, params, arrays = made

    def windows(part: str, count: int, seed: int | None) -> np.ndarray:
        found = np.asarray(arrays[part], np.int32)
        if found.ndim != 2 or found.shape[1] != length or len(found) < count:
            raise UserError(
                f"config.posttrain.{part}={count} of length={length}: {name} has windows of the shape "
                f"{found.shape}."
            )
        order = (
            np.arange(len(found))
            if seed is None
            else np.random.default_rng(seed).permutation(len(found))
        )
        return found[order[:count]]

    return _Subject(apply, params, windows, {})


class _Spent:
    """Seconds that a row has taken, of all processes that worked on it."""

    def __init__(self, path: Path):
        self.path = path
        self.before = read_json(path, dict) if path.exists() else {}
        self.wall = time.time()
        self.cpu = time.process_time()

    def so_far(self) -> dict[str, float]:
        """With those of earlier processes, up to their last finished segment."""
        return {
            "seconds": self.before.get("seconds", 0.0) + time.time() - self.wall,
            "cpu_seconds": self.before.get("cpu_seconds", 0.0) + time.process_time() - self.cpu,
        }

    def store(self) -> None:
        """For the next process, should this one end."""
        write_json(self.path, self.so_far())


class _Network:
    """The dense network, its plan, and what rows are compared on."""

    def __init__(self, asked: Mapping[str, Any], subject: _Subject, test: np.ndarray):
        self.asked, self.subject, self.test = asked, subject, test
        self.plan = _plan(asked, subject)
        held = (
            subject.windows("validation", asked["validation"], None) if asked["validation"] else ()
        )
        batches = [jnp.asarray(window[None]) for window in held]
        one = _plan(asked, subject, batch=1) if batches else None
        self.held = posttrain.gather(one, subject.params, batches, ("grams",)) if one else None

    def pruned(
        self,
        row: Mapping[str, Any],
        seed: int,
        segments: Path,
        tell: Callable[[str], Any],
        options: Options,
    ) -> dict[str, Any]:
        """Prunes, and measures what came of it."""
        asked = self.asked
        spent = _Spent(segments.parent / "spent.json")

        def progress(at: posttrain.Progress) -> None:
            tell(str(at))
            spent.store()
            if options.stopper.requested:
                raise _StoppedError

        windows = self.subject.windows("calibration", asked["calibration"], seed)
        batches = list(jnp.asarray(windows.reshape(-1, asked["batch"], asked["length"])))
        try:
            found = posttrain.prune(
                self.plan,
                self.subject.params,
                batches,
                **row,
                folder=segments,
                key=jax.random.key(seed),
                progress=progress,
            )
        except (TypeError, ValueError) as e:
            raise UserError(f"config.posttrain.rows: {e}") from e
        seconds = spent.so_far()
        tell("perplexity")
        measured = models.perplexity(self.subject.apply, found.params, self.test)
        kernels = [each._asdict() for each in found.report.rows]
        if self.held is not None:
            errors = posttrain.output_errors(
                self.plan, self.subject.params, found.params, self.held
            )
            kernels = [{**each, "held_out_error": errors[each["name"]]} for each in kernels]
        return {
            **_measured(measured),
            "sparsity": jp.masks.sparsity(found.masks),
            **seconds,
            "kernels": kernels,
            "blocks": [each._asdict() for each in found.report.blocks],
        }


def _plan(asked: Mapping[str, Any], subject: _Subject, batch: int | None = None) -> posttrain.Plan:
    tokens = jax.ShapeDtypeStruct((batch or asked["batch"], asked["length"]), jnp.int32)
    names = {"prunable": asked["prunable"] or None, "exclude": asked["exclude"] or ()}
    try:
        return posttrain.plan(subject.apply, subject.params, tokens, **names)
    except ValueError as e:
        raise UserError(f"config.posttrain: {e}") from e


def _planned(asked: Mapping[str, Any], subject: _Subject, seeds: int) -> str:
    plan = _plan(asked, subject)
    batches = asked["calibration"] // asked["batch"]
    recover = any(row.get("recover") is not None for row in asked["rows"].values())
    needed = plan.bytes_needed(batches, recover=recover)
    runs = f"{len(asked['rows'])} rows x {seeds} seeds: {', '.join(asked['rows'])}"
    return f"{plan}\n{runs}\n{batches} batches: at most {needed / 1e9:.2f} GB on the device."


def _measured(perplexity: float) -> dict[str, float]:
    return {"perplexity": perplexity, "log_perplexity": math.log(perplexity)}


def _kernels(seed: Mapping[str, Any]) -> dict[str, Any]:
    return {label: row["kernels"] for label, row in seed["rows"].items()}
