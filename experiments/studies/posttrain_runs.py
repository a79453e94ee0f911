"""What `experiments.posttrain` runs: the dense model, then each row for each seed."""

import functools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError
from experiments.config.fields import DENSE
from experiments.reports.posttrain import KERNELS_FILE, REPORT
from experiments.reports.report import write_report
from experiments.runs.files import read_sealed, write_sealed
from experiments.runs.folder import Folder, RunFolder, run_path
from experiments.runs.options import Options
from experiments.runs.progress import Progress
from experiments.studies.posttrain_rows import built_row, check_rows
from experiments.studies.posttrain_subject import Subject, plan_of, subject_of
from jaxprune import models, posttrain
from jaxprune.wording import counted

__all__ = ["run"]


class _StoppedError(Exception):
    """A signal asked for an end; what is done is stored."""


def run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    """Runs, or goes on with, all rows; then writes the report.

    Args:
      cfg: the config, with hashes of the user's files.
      section: the fields of its section.
      options: of the command line.
    """
    rows = {label: built_row(label, row) for label, row in section["rows"].items()}
    if options.dry_run:
        print(_planned(section, _checked_subject(section, rows, cfg.seeds), len(cfg.seeds)))
        return
    path = run_path(options.workdir, options.config_name, cfg, "posttrain")
    subject = None
    if not (path / "done").is_file():
        subject = _checked_subject(section, rows, cfg.seeds)
    with RunFolder.open(
        options.workdir, options.config_name, cfg, "posttrain", options.seeds_from
    ) as folder:
        if not folder.done:
            try:
                subject = subject or _checked_subject(section, rows, cfg.seeds)
                _finish(folder, cfg, section, rows, subject, options)
            except _StoppedError:
                return
        print(f"Report: {write_report(folder.path, REPORT)}")


def _finish(
    folder: RunFolder,
    cfg: ConfigDict,
    section: dict[str, Any],
    rows: dict,
    subject: Subject,
    options: Options,
) -> None:
    test = subject.windows("test", section["test"], None)
    dense = Folder(folder.path / DENSE)
    if not dense.done:
        try:
            perplexity = models.dense_perplexity(
                subject.apply, subject.params, test, expected=subject.expected or None
            )
        except ValueError as e:
            raise UserError(f"config.posttrain.model: {e}") from e
        if not math.isfinite(perplexity):
            raise UserError(
                f"config.posttrain.model: the dense network has the perplexity {perplexity}; look for NaN in "
                "its parameters."
            )
        dense.finish(_measured(perplexity))
    network = _Network(section, subject, test)
    results: list[dict[str, Any]] = []
    with Progress(len(rows) * len(cfg.seeds), "starting") as progress:
        for seed in cfg.seeds:
            of_rows: dict[str, Any] = {}
            for label, row in rows.items():
                done_count = sum(len(of_seed["rows"]) for of_seed in results) + len(of_rows)
                tell = functools.partial(_tell, progress, done_count, f"seed {seed} · {label}")
                row_folder = Folder(folder.path / f"seed_{seed}" / label)
                if not row_folder.done:
                    segments = row_folder.path / "segments"
                    row_folder.finish(network.pruned(row, seed, segments, tell, options))
                    shutil.rmtree(segments, ignore_errors=True)  # of our own making, and used up
                    (row_folder.path / "spent.json").unlink(missing_ok=True)
                of_rows[label] = row_folder.results
            results.append({"seed": seed, "rows": of_rows})
    kernels = {str(of_seed["seed"]): _kernels(of_seed) for of_seed in results}
    write_sealed(folder.path / KERNELS_FILE, kernels)
    folder.finish(
        {
            "kind": "posttrain",
            "config": cfg.to_dict(),
            "paper": cfg.paper.to_dict(),
            "asked": section,
            "rows": list(rows),
            "dense": dense.results,
            "test_tokens": int(test.size),
            "seeds": [_without_kernels(of_seed) for of_seed in results],
        }
    )


def _checked_subject(
    section: Mapping[str, Any], rows: Mapping[str, Any], seeds: Sequence[int]
) -> Subject:
    """Returns model and text, after a look at all that can be wrong before something is computed.

    Raises:
      UserError: model or text are missing, there are too few windows, or a row does not fit the kernels.
    """
    subject = subject_of(section)
    for part in models.text.PARTS:
        subject.windows(part, section[part], seeds[0] if part == "calibration" else None)
    check_rows(plan_of(section, subject), rows, section["rows"])
    return subject


def _tell(progress: Progress, done_count: int, label: str, text: str) -> None:
    progress.update(done_count, f"{label} · {text}")


class _Spent:
    """Seconds that a row has taken, of all processes that worked on it."""

    def __init__(self, path: Path):
        self.path = path
        self.before = read_sealed(path, required=True) if path.exists() else {}
        self.wall = time.time()
        self.cpu = time.process_time()

    def so_far(self) -> dict[str, float]:
        """Returns them with those of earlier processes, up to their last finished segment."""
        return {
            "seconds": self.before.get("seconds", 0.0) + time.time() - self.wall,
            "cpu_seconds": self.before.get("cpu_seconds", 0.0) + time.process_time() - self.cpu,
        }

    def store(self) -> None:
        """Stores them for the next process, should this one end."""
        write_sealed(self.path, self.so_far())


class _Network:
    """The dense network, its plan, and what rows are compared on."""

    def __init__(self, section: Mapping[str, Any], subject: Subject, test: np.ndarray):
        self.section = section
        self.subject = subject
        self.test = test
        self.plan = plan_of(section, subject)
        self.held_out = None
        if section["validation"]:
            windows = subject.windows("validation", section["validation"], None)
            batches = [jnp.asarray(window[None]) for window in windows]
            plan = plan_of(section, subject, batch=1)
            self.held_out = posttrain.gather(plan, subject.params, batches, ("grams",))

    def pruned(
        self,
        row: Mapping[str, Any],
        seed: int,
        segments: Path,
        tell: Callable[[str], Any],
        options: Options,
    ) -> dict[str, Any]:
        """Prunes, and measures what came of it.

        Args:
          row: parts of the row, built.
          seed: draws the calibration windows.
          segments: folder for what is done so far.
          tell: is told what is being done.
          options: of the command line.

        Returns:
          Perplexity, sparsity, seconds, and the report of kernels and blocks.
        """
        section = self.section
        spent = _Spent(segments.parent / "spent.json")

        def progress(step: posttrain.Progress) -> None:
            tell(str(step))
            spent.store()
            if options.stopper.requested:
                raise _StoppedError

        windows = self.subject.windows("calibration", section["calibration"], seed)
        batches = list(jnp.asarray(windows.reshape(-1, section["batch"], section["length"])))
        try:
            result = posttrain.prune(
                self.plan,
                self.subject.params,
                batches,
                **row,
                folder=segments,
                key=jax.random.key(seed),
                progress=progress,
            )
        except (TypeError, ValueError) as e:
            label = segments.parent.name
            raise UserError(f"config.posttrain.rows[{label!r}]: {e}") from e
        seconds = spent.so_far()
        tell("perplexity")
        perplexity = models.perplexity(self.subject.apply, result.params, self.test)
        if not math.isfinite(perplexity):
            raise UserError(
                f"config.posttrain.rows[{segments.parent.name!r}]: the pruned network has the perplexity "
                f"{perplexity}, which is no result; leave the row out, or prune less."
            )
        kernels = [kernel._asdict() for kernel in result.report.rows]
        if self.held_out is not None:
            errors = posttrain.output_errors(
                self.plan, self.subject.params, result.params, self.held_out
            )
            kernels = [{**kernel, "held_out_error": errors[kernel["name"]]} for kernel in kernels]
        return {
            **_measured(perplexity),
            "sparsity": jp.masks.sparsity(result.masks),
            **seconds,
            "kernels": kernels,
            "blocks": [block._asdict() for block in result.report.blocks],
        }


def _planned(section: Mapping[str, Any], subject: Subject, seeds: int) -> str:
    plan = plan_of(section, subject)
    batches = section["calibration"] // section["batch"]
    recover = any(row.get("recover") is not None for row in section["rows"].values())
    propagate = any(row.get("propagate", 0.0) > 0 for row in section["rows"].values())
    needed = plan.bytes_needed(batches, recover=recover, propagate=propagate)
    row_names = section["rows"]
    runs = f"{counted(len(row_names), 'row')} x {counted(seeds, 'seed')}: {', '.join(row_names)}"
    batches_text = counted(batches, "batch", "batches")
    return f"{plan}\n{runs}\n{batches_text}: at most {needed / 1e9:.2f} GB on the device."


def _measured(perplexity: float) -> dict[str, float]:
    return {"perplexity": perplexity, "log_perplexity": math.log(perplexity)}


def _kernels(seed: Mapping[str, Any]) -> dict[str, Any]:
    return {label: row["kernels"] for label, row in seed["rows"].items()}


def _without_kernels(seed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the results of a seed, with what the table says of its kernels in their place."""
    return {**seed, "rows": {label: _summary(row) for label, row in seed["rows"].items()}}


def _summary(row: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: value for name, value in row.items() if name != "kernels"}
    errors = [kernel.get("held_out_error") for kernel in row["kernels"]]
    if None not in errors:
        figures["held_out_error"] = float(np.mean(errors))
    return {**figures, "largest_damping": max(kernel["damp"] for kernel in row["kernels"])}
