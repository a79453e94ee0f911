"""Who takes part in a comparison: published methods, and criteria in one common pipeline.

`contestants` reads and checks `config.compare` before JAX is imported; `method` builds what trains.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from experiments import criterion_files
from experiments.config import SECTIONS, UserError, build, check_part, check_type, part, unknown

if TYPE_CHECKING:
    import jaxprune as jp

__all__ = ["DENSE", "Contestant", "contestants", "fields", "method"]

DENSE = "dense"  # the label of the baseline, which is in every comparison
_PIPELINE = ("schedule", "pattern", "allocation")
_LABEL = r"[\w()+=%,-][\w()+=%, -]*"  # it names a folder


class Contestant(NamedTuple):
    """A method without its sparsity, or a criterion that the common pipeline makes one of."""

    label: str
    where: str  # in the config
    method: Mapping[str, Any] | None = None
    criterion: str | Mapping[str, Any] | None = None

    @property
    def file(self) -> str | None:
        """`path/to/file.py:function` of a criterion of the user's."""
        name = self.criterion
        return name if isinstance(name, str) and criterion_files.is_file(name) else None


def fields(cfg: ConfigDict) -> dict[str, Any]:
    """The fields of `config.compare`, at their defaults where it says nothing."""
    return {**SECTIONS["compare"], **cfg.compare.to_dict()}


def contestants(cfg: ConfigDict) -> list[Contestant]:
    """Returns the contestants: methods by label, then criteria; the dense baseline is left out.

    Raises:
      UserError: a field, part, name or file is not what it must be.
    """
    asked = fields(cfg)
    for name in asked:
        if name not in SECTIONS["compare"]:
            raise UserError(
                unknown("config.compare: no field", name, SECTIONS["compare"], "Fields")
            )
    _check_common(cfg)
    _check_sparsities(asked["sparsities"])
    found = [*_methods(asked["methods"]), *_criteria(asked["criteria"])]
    if not found:
        raise UserError("config.compare: nobody to compare; give methods={...} or criteria=(...).")
    if any(contestant.criterion is not None for contestant in found):
        _check_pipeline(asked["pipeline"])
    for i, contestant in enumerate(found):
        label = contestant.label
        if label == DENSE or label in [other.label for other in found[:i]]:
            raise UserError(f"{contestant.where}: the label {label!r} is taken; choose another.")
        if not re.fullmatch(_LABEL, label):
            raise UserError(
                f"{contestant.where}: the label {label!r} cannot name a folder; use letters, digits, "
                "spaces and ()+=%,-"
            )
    return found


def method(cfg: ConfigDict, contestant: Contestant, sparsity: float) -> "jp.Method":
    """Builds what a contestant trains with at a sparsity."""
    if contestant.method is not None:
        return build("method", contestant.method, sparsity=sparsity)
    import jaxprune as jp

    pipeline = fields(cfg)["pipeline"]
    given = {k: build(k, pipeline[k]) for k in ("pattern", "allocation") if pipeline.get(k)}
    schedule = build("schedule", pipeline["schedule"], sparsity=sparsity)
    return jp.Method(_criterion(contestant), schedule, **given)


def _criterion(contestant: Contestant) -> Any:
    if contestant.file is not None:
        return criterion_files.load(contestant.file, contestant.where)
    spec = contestant.criterion
    return build("criterion", part(spec) if isinstance(spec, str) else spec)


def _methods(asked: Any) -> Iterator[Contestant]:
    if not isinstance(asked, Mapping):
        raise UserError(f"config.compare.methods={asked!r}: a dict of label -> part is needed.")
    for label, spec in asked.items():
        where = f"config.compare.methods.{label}"
        check_part("method", spec, where, supplied=("sparsity",))
        yield Contestant(label, where, method=spec)


def _criteria(asked: Any) -> Iterator[Contestant]:
    if not isinstance(asked, Mapping | tuple | list):
        raise UserError(
            f"config.compare.criteria={asked!r}: a tuple of names, or a dict of label -> name, is needed."
        )
    pairs = asked.items() if isinstance(asked, Mapping) else [(None, spec) for spec in asked]
    for label, spec in pairs:
        where = "config.compare.criteria" if label is None else f"config.compare.criteria.{label}"
        if isinstance(spec, str) and criterion_files.is_file(spec):
            criterion_files.check(spec, where)
        else:
            check_part("criterion", part(spec) if isinstance(spec, str) else spec, where)
        name = spec if isinstance(spec, str) else spec["name"]
        yield Contestant(label or name.rpartition(":")[2], where, criterion=spec)


def _check_pipeline(asked: Any) -> None:
    where = "config.compare.pipeline"
    if not isinstance(asked, Mapping):
        raise UserError(f"{where}={asked!r}: a dict of parts is needed: {', '.join(_PIPELINE)}.")
    for name, spec in asked.items():
        if name not in _PIPELINE:
            raise UserError(unknown(f"{where}: no part", name, _PIPELINE, "Parts"))
        check_part(name, spec, f"{where}.{name}", ("sparsity",) if name == "schedule" else ())
    if "schedule" not in asked:
        raise UserError(
            f"{where}: criteria need a schedule: pipeline={{'schedule': part('cubic', begin=..., end=..., "
            "every=...)}."
        )


def _check_sparsities(asked: Any) -> None:
    where = "config.compare.sparsities"
    check_type("tuple", tuple(asked) if isinstance(asked, list) else asked, where)
    for value in asked:
        check_type("float", value, where)
        if not 0 < value < 1:
            raise UserError(f"{where}={asked}: {value} is no fraction removed, between 0 and 1.")
    if not asked or len(set(asked)) < len(asked):
        raise UserError(f"{where}={asked}: different fractions, at least one, are needed.")


def _check_common(cfg: ConfigDict) -> None:
    """Refuses common fields that mean nothing here."""
    if cfg.method is not None:
        raise UserError("config.method: the methods of a comparison are in config.compare.methods.")
    if cfg.k_folds:
        raise UserError("config.k_folds: a comparison pairs seeds, not folds; set it to 0.")
    if cfg.early_stop:
        raise UserError("config.early_stop: contestants train equally long; set it to 0.")
