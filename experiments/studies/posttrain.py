"""The study of pruning a trained language model: the loss of perplexity, with and without recovery."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import (
    UserError,
    check_part,
    check_type,
    data_catalogue,
    unknown,
    user_files,
)
from experiments.config.claim_sides import Side, check_claims
from experiments.config.fields import DEFAULTS, DENSE
from experiments.config.sections import check_expression, check_integer
from experiments.runs.labels import check_label
from experiments.runs.options import Options
from experiments.studies.study import Study

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["FIELDS", "ROW", "STUDY", "checked", "with_digests"]

FIELDS: dict[str, Any] = {
    # a name of `jaxprune.models`, a .gguf file, a folder of safetensors, or "path/to/file.py:function"
    "model": "smollm2-135m",
    # label -> dict(solver=..., pattern=..., rates=..., recover=..., propagate=...); only solver is required.
    # solver: part of `jaxprune.posttrain.solvers`, or "path/to/file.py:function", a criterion. pattern: part;
    # left out: single weights. rates: fraction removed, dict of regular expression -> fraction, or part;
    # default 0.5. recover: part, the training after pruning; left out: none. propagate: from 0 to 1, how
    # strongly a kernel is corrected for the errors of the kernels before it; default 0.
    "rows": {},
    "calibration": 16,  # number of windows from which statistics are computed; a multiple of batch
    "validation": 4,  # number of windows on which the errors of layers are measured; 0: not measured
    "test": 16,  # number of windows on which perplexity is measured
    "length": 512,  # tokens per window
    "batch": 2,  # number of windows that are processed at a time
    "prunable": "",  # regular expression, searched in paths of kernels; "": all kernels of matrix products
    "exclude": "embed|head",  # the same, for kernels that are not pruned; "": none
}
ROW = ("solver", "pattern", "rates", "recover", "propagate")
_BELOW_ONE = math.nextafter(1, 0)
_FRACTION = "a fraction removed, from 0 to below 1,"
_READ = ("posttrain", "seeds", "paper")  # common fields of a config that this study reads
_DIGESTS = "files"  # hashes of the user's files


def checked(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.posttrain`, with the defaults of those that it leaves out.

    Raises:
      UserError: a field of `config.posttrain`, or a common field of the config, is not valid.
    """
    where = "config.posttrain"
    stored = cfg.posttrain.to_dict()
    given_fields = {name: value for name, value in stored.items() if name != _DIGESTS}
    if not given_fields:
        raise UserError(
            f"{where} is empty; this binary prunes after training, and needs {where}.rows. Configs for it "
            "are in configs/posttrain."
        )
    for name in given_fields:
        if name not in FIELDS:
            raise UserError(unknown(f"{where}: no field", name, FIELDS, "Fields"))
    section = {**FIELDS, **given_fields}
    _check_model(section["model"], f"{where}.model")
    for name, least in (
        ("calibration", 1),
        ("validation", 0),
        ("test", 1),
        ("length", 2),
        ("batch", 1),
    ):
        check_integer(section[name], f"{where}.{name}", least)
    for name in ("prunable", "exclude"):
        check_expression(section[name], f"{where}.{name}")
    _check_common(cfg)
    if section["calibration"] % section["batch"]:
        raise UserError(
            f"{where}.calibration={section['calibration']}: a multiple of {where}.batch={section['batch']} "
            "is needed, since all batches have one shape."
        )
    if not section["rows"]:
        raise UserError(f"{where}.rows is empty; name at least one row.")
    folders: dict[str, str] = {DENSE: DENSE}
    for label, row in section["rows"].items():
        _check_row(label, row, f"{where}.rows[{label!r}]")
        other = folders.setdefault(label.casefold(), label)
        if other != label:
            raise UserError(
                f"{where}.rows: {other!r} and {label!r} are one folder where letters' case does not count; "
                "choose another label."
            )
    return section


def with_digests(cfg: ConfigDict) -> ConfigDict:
    """Returns the config with hashes of the user's files, so that each version has its own run folder."""
    section = checked(cfg)
    references = [section["model"], *(row["solver"] for row in section["rows"].values())]
    files = {name for name in references if isinstance(name, str) and user_files.is_function(name)}
    digests = [user_files.digest(name) for name in sorted(files)]
    model = section["model"]
    if model not in files and model not in data_catalogue()["WEIGHTS"]:
        digests.append(user_files.digest_of_model(Path(model)))
    if not digests:
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.posttrain[_DIGESTS] = tuple(digests)
    return cfg


def _check_model(model: Any, where: str) -> None:
    check_type("str", model, where)
    if user_files.is_function(model):
        user_files.check(model, where)
    elif model not in data_catalogue()["WEIGHTS"] and not (model and Path(model).exists()):
        known = data_catalogue()["WEIGHTS"]
        raise UserError(unknown(f"{where}: no model, file or folder", model, known, "Known models"))


def _check_row(label: Any, row: Any, where: str) -> None:
    if not isinstance(label, str) or label == DENSE:
        raise UserError(f"{where}: a label of your own is needed, and not {DENSE!r}.")
    check_label(label, where, also=":")
    if not isinstance(row, dict) or "solver" not in row:
        raise UserError(f"{where}: write dict(solver=part(...), rates=0.5, ...).")
    for name in row:
        if name not in ROW:
            raise UserError(unknown(f"{where}: no field", name, ROW, "Fields"))
    if isinstance(row["solver"], str):
        user_files.check(row["solver"], f"{where}.solver")
    else:
        check_part("solver", row["solver"], f"{where}.solver")
    for name in ("pattern", "recover"):
        if row.get(name) is not None:
            check_part(name, row[name], f"{where}.{name}")
    _check_fraction(row.get("propagate", 0.0), f"{where}.propagate", "a weight from 0 to 1", 1)
    rates = row.get("rates", 0.5)
    if isinstance(rates, dict) and "name" in rates:
        check_part("rates", rates, f"{where}.rates")
    elif isinstance(rates, dict):
        if not rates:
            raise UserError(f"{where}.rates is empty; give a fraction, or fractions by expression.")
        for pattern, rate in rates.items():
            check_expression(pattern, f"{where}.rates")
            _check_fraction(rate, f"{where}.rates[{pattern!r}]", _FRACTION, _BELOW_ONE)
    else:
        _check_fraction(rates, f"{where}.rates", _FRACTION, _BELOW_ONE)


def _check_common(cfg: ConfigDict) -> None:
    """Refuses common fields that have no effect here, because nothing is trained."""
    for name, default in DEFAULTS.items():
        if name not in _READ and cfg[name] != default and (cfg[name] or default):
            hint = f"; config.posttrain.{name} is another field" if name in FIELDS else ""
            raise UserError(
                f"config.{name} means nothing to pruning after training; leave it out{hint}."
            )


def _check_fraction(value: Any, where: str, needed: str, most: float) -> None:
    check_type("float", value, where)
    if not 0 <= value <= most:
        raise UserError(f"{where}={value}: {needed} is needed.")


def _check(cfg: ConfigDict) -> tuple[ConfigDict, dict[str, Any]]:
    section = checked(cfg)
    check_claims(cfg.paper, dict.fromkeys((DENSE, *section["rows"]), Side()))
    return with_digests(cfg), section


def _run(cfg: ConfigDict, section: dict[str, Any], options: Options) -> None:
    from experiments.studies import posttrain_runs  # imports JAX

    posttrain_runs.run(cfg, section, options)


def _report() -> "ReportKind":
    from experiments.reports.posttrain import REPORT

    return REPORT


STUDY = Study("posttrain", _check, _run, _report, FIELDS, trains=False)
