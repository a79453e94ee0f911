"""Who takes part in a comparison: methods, criteria in one common pipeline, gates and penalties.

`contestants` reads and checks `config.compare` before JAX is imported; `recipe_at` builds what trains.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config import (
    UserError,
    build,
    check_part,
    check_type,
    part,
    sections,
    takes,
    training_examples,
    unknown,
    user_files,
    ways,
)
from experiments.config.fields import DENSE, SECTIONS
from experiments.runs.folder import RESERVED
from experiments.ways import pipeline as pipeline_lib

if TYPE_CHECKING:
    from experiments.ways.recipe import Recipe

__all__ = [
    "Contestant",
    "check_label",
    "contestants",
    "fields",
    "recipe_at",
    "with_digests",
]

_REGULARISED = {"gates": "gate", "penalties": "penalty", "subgradients": "subgradient"}
_CONTROLS = ("retrained", "shuffled", "reinit")  # see `experiments.ways.fixed_masks.control`
_LONGEST = 100  # letters of a label
_LABEL = "()+=%,-"  # beside letters, digits and spaces: it names a folder


class Contestant(NamedTuple):
    """Who takes part, at several sparsities or strengths.

    Attributes:
      label: its name in tables.
      where: in the config.
      kind: "method", "criterion" (which the common pipeline makes a method of), "gate", "penalty",
        "subgradient", or "control" of another contestant's masks.
      spec: the part, without what varies; of a criterion also a name or a file, or one of these with fields
        of the pipeline that are its own; of a control the label of the other and which control it is.
      varies: "sparsity" or "strength".
      points: the values that it takes.
    """

    label: str
    where: str
    kind: str
    spec: Any
    varies: str
    points: tuple[float, ...]

    @property
    def file(self) -> str | None:
        """`path/to/file.py:function` of a criterion of the user's."""
        name = pipeline_lib.criterion(self.spec)[0] if self.kind == "criterion" else None
        return name if isinstance(name, str) and user_files.is_file(name) else None


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
    strengths = _strengths(asked["strengths"])
    found = [*_methods(asked), *_criteria(asked)]
    found += [c for field in _REGULARISED for c in _regularised(field, asked, strengths)]
    if not found:
        raise UserError(
            "config.compare: nobody to compare; give methods={...}, criteria=(...), gates={...} or "
            "penalties={...}."
        )
    idle = [label for label in strengths if label not in [c.label for c in found]]
    if idle:
        known = [c.label for c in found if c.varies == "strength"]
        raise UserError(
            unknown("config.compare.strengths: nobody is called", idle[0], known, "Known")
        )
    for i, contestant in enumerate(found):
        label = contestant.label
        if label == DENSE or label in [other.label for other in found[:i]]:
            raise UserError(f"{contestant.where}: the label {label!r} is taken; choose another.")
        check_label(label, contestant.where)
    everybody = [*found, *_controls(asked["controls"], found, asked["pipeline"])]
    _check_folders(everybody)
    _check_examples(cfg, found, asked["pipeline"])
    for contestant in found:
        spec = contestant.spec if contestant.kind in ("method", "gate") else None
        sections.check_end(spec, cfg.steps, contestant.where)
    return everybody


def check_label(label: str, where: str, also: str = "") -> None:
    """Refuses a label that cannot name a folder in a run folder.

    Args:
      label: of the user's.
      where: in the config, to blame.
      also: signs that it may have besides.
    """
    signs = re.escape(_LABEL + also)
    if (
        not re.fullmatch(rf"[\w{signs}][\w{signs} ]*", label)
        or label != label.strip()
        or len(label) > _LONGEST
    ):
        raise UserError(
            f"{where}: the label {label[: _LONGEST + 1]!r} cannot name a folder; use at most {_LONGEST} "
            f"letters, digits, spaces and {_LABEL}{also}"
        )
    if label.casefold() in RESERVED:
        raise UserError(
            f"{where}: the label {label!r} is a name that a run folder uses itself; choose another."
        )
    try:
        os.fsencode(label)
    except UnicodeEncodeError as e:
        raise UserError(
            f"{where}: this locale cannot spell the label {label!r}; set PYTHONUTF8=1, or use ASCII."
        ) from e


def _check_examples(
    cfg: ConfigDict, found: Sequence[Contestant], common: Mapping[str, Any]
) -> None:
    """Refuses signals on more training examples than there are."""
    known = training_examples(cfg.data.name)
    for contestant in found if known is not None else ():
        if contestant.kind != "criterion":
            continue
        asked = pipeline_lib.pipeline(common, contestant.spec)
        if asked.when == "training" or asked.examples_per_class:
            continue
        if asked.examples > known - cfg.validation:
            raise UserError(
                f"{contestant.where}: examples={asked.examples} for signals, but there are "
                f"{known - cfg.validation} in training."
            )


def _check_folders(contestants: Sequence[Contestant]) -> None:
    """Refuses two trainings that would share a folder: the second would be taken for the first."""
    places: dict[str, str] = {}
    for contestant in contestants:
        for value in contestant.points:
            folder = f"{contestant.label}/{contestant.varies}_{value:g}"
            other = places.setdefault(folder.casefold(), folder)
            if other != folder:
                raise UserError(
                    f"{contestant.where}: {folder!r} and {other!r} are one folder where letters' case "
                    "does not count; choose another label."
                )
        if len({f"{value:g}" for value in contestant.points}) < len(contestant.points):
            raise UserError(
                f"{contestant.where}: of {contestant.points} two are the same to six digits, which name "
                "their folders; leave one out."
            )
    labels = [contestant.label for contestant in contestants]
    for contestant in contestants:
        if labels.count(contestant.label) > 1:
            raise UserError(
                f"{contestant.where}: the label {contestant.label!r} is taken, perhaps by a control; "
                "choose another."
            )


def with_digests(cfg: ConfigDict, contestants: Sequence[Contestant]) -> ConfigDict:
    """Returns the config with hashes of the user's files: each version of a file has its own folder."""
    digests = {c.label: user_files.digest(c.file) for c in contestants if c.file}
    if not digests:
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.compare.files = ConfigDict(digests)
    return cfg


def recipe_at(cfg: ConfigDict, contestant: Contestant, value: float) -> "Recipe":
    """Builds what a contestant trains with at a sparsity or strength."""
    from experiments.ways.oneshot import known_signals
    from experiments.ways.recipe import recipe

    where = contestant.where
    if contestant.kind == "control":
        return recipe(cfg, "control", contestant.spec, where)
    if contestant.kind != "criterion":
        varied = {contestant.varies: value}
        return recipe(cfg, contestant.kind, contestant.spec, where, **varied)
    pipeline = pipeline_lib.pipeline(fields(cfg)["pipeline"], contestant.spec)
    if pipeline.when == "training":
        method = pipeline.method(_criterion(contestant), value)
        return recipe(cfg, "method", method, where)
    made = pipeline.method(_criterion(contestant, known_signals(pipeline.signals)), value)
    return recipe(cfg, "pruned", (pipeline, made, _trained_before(cfg, pipeline.of, where)), where)


def _trained_before(cfg: ConfigDict, label: str, where: str) -> "tuple[str, Recipe]":
    """The folder of the network that is to be pruned, and what it was trained with."""
    from experiments.ways.recipe import recipe

    if label == DENSE:
        return DENSE, recipe(cfg, DENSE, None, where)
    asked = fields(cfg)
    known = {
        c.label: c for c in _regularised("subgradients", asked, _strengths(asked["strengths"]))
    }
    if label not in known:
        raise UserError(
            unknown(f"{where}: of, no trained network", label, (DENSE, *known), "Those there are")
        )
    other = known[label]
    if len(other.points) > 1:
        raise UserError(
            f"{where}: of={label!r} is trained at {len(other.points)} strengths; one is needed to prune."
        )
    [value] = other.points
    made = recipe(cfg, other.kind, other.spec, other.where, strength=value)
    return f"{label}/{other.varies}_{value:g}", made


def _criterion(contestant: Contestant, given: tuple[str, ...] = ("grads", "key")) -> Any:
    if contestant.file is not None:
        return user_files.load(contestant.file, contestant.where, given)
    spec, _ = pipeline_lib.criterion(contestant.spec)
    return build("criterion", part(spec) if isinstance(spec, str) else spec)


def _parts(field: str, asked: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Label, part and place of each contestant in a field that is a dict of them."""
    if not isinstance(asked[field], Mapping):
        raise UserError(
            f"config.compare.{field}={asked[field]!r}: a dict of label -> part is needed."
        )
    for label, spec in asked[field].items():
        yield label, spec, f"config.compare.{field}.{label}"


def _methods(asked: Mapping[str, Any]) -> Iterator[Contestant]:
    for label, spec, where in _parts("methods", asked):
        check_part("method", spec, where, supplied=("sparsity",))
        yield Contestant(label, where, "method", spec, "sparsity", tuple(asked["sparsities"]))


def _regularised(
    field: str, asked: Mapping[str, Any], strengths: Mapping[str, tuple[float, ...]]
) -> Iterator[Contestant]:
    """Gates and penalties: those that take a sparsity at the sparsities, others at their strengths."""
    kind = _REGULARISED[field]
    for label, spec, where in _parts(field, asked):
        called = "penalty" if kind == "subgradient" else kind
        varies = "strength" if label in strengths else "sparsity"
        is_part = not isinstance(spec, str) and "name" in spec
        if varies == "sparsity" and is_part and not takes(called, spec, varies, where):
            raise UserError(
                f"{where}: how sparse it becomes is learned; give its strengths, "
                f"config.compare.strengths={{{label!r}: (...)}}."
            )
        check_part(called, spec, where, supplied=(varies,))
        points = strengths.get(label) or tuple(asked["sparsities"])
        yield Contestant(label, where, kind, spec, varies, points)


def _from_the_start(contestant: Contestant, pipeline: Mapping[str, Any]) -> bool:
    """Whether its masks are fixed before training."""
    if contestant.kind != "criterion":
        return False
    return pipeline_lib.pipeline(pipeline, contestant.spec).when == "initialisation"


def _controls(
    asked: Any, found: Sequence[Contestant], pipeline: Mapping[str, Any]
) -> Iterator[Contestant]:
    """What is trained again with the masks of others; a subgradient leaves none."""
    where = "config.compare.controls"
    if not isinstance(asked, tuple | list):
        raise UserError(f"{where}={asked!r}: a tuple of names is needed: {', '.join(_CONTROLS)}.")
    for name in asked:
        if name not in _CONTROLS:
            raise UserError(unknown(f"{where}: no control", name, _CONTROLS, "Controls"))
    for other in found:
        for name in asked if other.kind != "subgradient" else ():
            if name == "retrained" and _from_the_start(other, pipeline):
                continue  # that is what it is
            spec = {"of": other.label, "control": name}
            label = f"{other.label}, {name}"
            yield Contestant(label, where, "control", spec, other.varies, other.points)


def _strengths(asked: Any) -> dict[str, tuple[float, ...]]:
    where = "config.compare.strengths"
    if not isinstance(asked, Mapping):
        raise UserError(f"{where}={asked!r}: a dict of label -> numbers is needed.")
    for label, values in asked.items():
        check_type(
            "tuple", tuple(values) if isinstance(values, list) else values, f"{where}.{label}"
        )
        for value in values:
            check_type("float", value, f"{where}.{label}")
        if not values or len(set(values)) < len(values) or min(values) < 0:
            raise UserError(f"{where}.{label}={values}: different numbers from 0 up are needed.")
    return {label: tuple(values) for label, values in asked.items()}


def _criteria(fields: Mapping[str, Any]) -> Iterator[Contestant]:
    asked, points = fields["criteria"], tuple(fields["sparsities"])
    if not isinstance(asked, Mapping | tuple | list):
        raise UserError(
            f"config.compare.criteria={asked!r}: a tuple of names, or a dict of label -> name, is needed."
        )
    pairs = asked.items() if isinstance(asked, Mapping) else [(None, spec) for spec in asked]
    for label, spec in pairs:
        where = "config.compare.criteria" if label is None else f"config.compare.criteria.{label}"
        pipeline_lib.check_criterion(fields["pipeline"], spec, where)
        named, _ = pipeline_lib.criterion(spec)
        name = named if isinstance(named, str) else named["name"]
        name = label or name.rpartition(":")[2]
        yield Contestant(name, where, "criterion", spec, "sparsity", points)


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
    way = ways(cfg)
    if way is not None:
        raise UserError(
            f"config.{way}: who takes part in a comparison is said in config.compare.methods, .gates, "
            ".penalties and .subgradients; set it to None."
        )
    if cfg.k_folds:
        raise UserError("config.k_folds: a comparison pairs seeds, not folds; set it to 0.")
    if cfg.early_stop:
        raise UserError("config.early_stop: contestants train equally long; set it to 0.")
