"""The section `config.compare`: the contestants of a comparison, checked before JAX is imported."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from experiments.config import (
    UserError,
    check_part,
    check_type,
    takes,
    unknown,
    user_files,
    way_of,
)
from experiments.config.fields import DENSE, WAYS
from experiments.runs.labels import check_label
from experiments.studies.contestant_kinds import (
    ByCriterion,
    ByWay,
    Contestant,
    Control,
    Quantised,
)
from experiments.studies.trials import check_trials
from experiments.ways import pipeline as pipelines
from experiments.ways import quantisation

__all__ = ["FIELDS", "contestants", "section_of", "with_digests"]

FIELDS: dict[str, Any] = {
    # fractions of the weights removed; the defaults are 2, 4, ..., 32 times fewer weights
    "sparsities": (0.5, 0.75, 0.875, 0.9375, 0.96875),
    # methods, gates, penalties, subgradients: label -> part, without its sparsity or strength
    **{way.plural: {} for way in WAYS.values()},
    "strengths": {},  # label of a gate or penalty -> its strengths, instead of sparsities
    # names or "path/to/file.py:function"; or a dict: label -> one of those, a part, or a dict with fields of
    # pipeline
    "criteria": (),
    "quantised": {},  # label -> dict: networks that are quantised, and how: see `Quantisation`
    "pipeline": {},  # settings that all criteria share: see `experiments.ways.pipeline`
    "trials": {},  # label -> dicts of settings that are tried first: see `experiments.studies.trials`
    "trial_seed": 1_000,  # seed of the trials; must not be one of config.seeds
    # names of `_CONTROLS`, trained on the masks of every contestant; or label of a contestant -> names
    "controls": (),
}
_CONTROLS = (
    "retrained",
    "shuffled",
    "row-shuffled",
    "reinit",
)  # see `experiments.ways.fixed_masks.control`


def section_of(cfg: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.compare`, with the defaults of those that it leaves out."""
    return {**FIELDS, **cfg.compare.to_dict()}


def contestants(cfg: ConfigDict) -> list[Contestant]:
    """Returns the contestants without the dense baseline: methods, criteria, and then all others.

    Args:
      cfg: a config whose common fields are valid.

    Raises:
      UserError: a field, part, name or file is invalid.
    """
    section = section_of(cfg)
    for name in section:
        if name not in FIELDS:
            raise UserError(unknown("config.compare: no field", name, FIELDS, "Fields"))
    _check_common(cfg)
    _check_sparsities(section["sparsities"])
    strengths = _strengths(section["strengths"])
    rivals: list[Contestant] = []
    rivals += [
        rival for way in WAYS if not WAYS[way].has_strength for rival in _by_way(way, section)
    ]
    rivals += _by_criterion(section, strengths)
    rivals += [
        rival
        for way in WAYS
        if WAYS[way].has_strength
        for rival in _by_way(way, section, strengths)
    ]
    rivals += _quantised(section["quantised"], [r for r in rivals if r.trains_sparse])
    if not rivals:
        raise UserError(
            "config.compare: nobody to compare; give methods={...}, criteria=(...), gates={...} or "
            "penalties={...}."
        )
    idle = [label for label in strengths if label not in [rival.label for rival in rivals]]
    if idle:
        known = [rival.label for rival in rivals if rival.varies == "strength"]
        raise UserError(
            unknown("config.compare.strengths: nobody is called", idle[0], known, "Known")
        )
    labels = [DENSE]
    for rival in rivals:
        if rival.label in labels:
            raise UserError(f"{rival.where}: the label {rival.label!r} is taken; choose another.")
        check_label(rival.label, rival.where)
        labels.append(rival.label)
    everybody = [*rivals, *_controls(section["controls"], rivals)]
    _check_pretrained(cfg, everybody)
    _check_folders(everybody)
    check_trials(section, rivals, cfg)
    for rival in rivals:
        if rival.label not in section["trials"]:  # else each trial is checked by itself
            rival.check(cfg)
    return everybody


def _check_pretrained(cfg: ConfigDict, contestants: Sequence[Contestant]) -> None:
    """Refuses weights that were never trained beside networks that other data trained."""
    for contestant in contestants:
        if cfg.pretraining and isinstance(contestant, Control) and contestant.control == "reinit":
            raise UserError(
                f"{contestant.where}: 'reinit' begins with weights that config.pretraining did not train, so "
                "that more than the initial weights would differ; leave it out."
            )


def _check_folders(contestants: Sequence[Contestant]) -> None:
    """Refuses two trainings that would share a folder: the second would be taken for the first."""
    places: dict[str, str] = {}
    for contestant in contestants:
        for value in contestant.points:
            folder = contestant.folder(value)
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
    """Returns the config with hashes of the user's files: each version of a file has its own folder.

    Args:
      cfg: the config.
      contestants: those that it names.
    """
    digests = {c.label: user_files.digest(c.file) for c in contestants if c.file}
    if not digests:
        return cfg
    cfg = cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.compare.files = ConfigDict(digests)
    return cfg


def _parts(field: str, section: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Label, part and place of each contestant in a field that is a dict of them."""
    if not isinstance(section[field], Mapping):
        raise UserError(
            f"config.compare.{field}={section[field]!r}: a dict of label -> part is needed."
        )
    for label, spec in section[field].items():
        yield label, spec, f"config.compare.{field}.{label}"


def _by_way(
    way: str, section: Mapping[str, Any], strengths: Mapping[str, tuple[float, ...]] = {}
) -> Iterator[Contestant]:
    """Those of a way: at their strengths where they have some, otherwise at the sparsities."""
    kind = WAYS[way].kind
    for label, spec, where in _parts(WAYS[way].plural, section):
        varies = "strength" if label in strengths else "sparsity"
        by_sparsity = WAYS[way].has_strength and varies == "sparsity"
        is_part = not isinstance(spec, str) and "name" in spec
        if by_sparsity and is_part and not takes(kind, spec, varies, where):
            raise UserError(
                f"{where}: how sparse it becomes is learned; give its strengths, "
                f"config.compare.strengths={{{label!r}: (...)}}."
            )
        check_part(kind, spec, where, supplied=(varies,))
        points = strengths.get(label) or tuple(section["sparsities"])
        yield ByWay(label, where, varies, points, way, spec)


def _by_criterion(
    section: Mapping[str, Any], strengths: Mapping[str, tuple[float, ...]]
) -> Iterator[Contestant]:
    criteria = section["criteria"]
    points = tuple(section["sparsities"])
    if not isinstance(criteria, Mapping | tuple | list):
        raise UserError(
            f"config.compare.criteria={criteria!r}: a tuple of names, or a dict of label -> name, is needed."
        )
    if isinstance(criteria, Mapping):
        labelled = list(criteria.items())
    else:
        labelled = [(None, spec) for spec in criteria]
    for label, spec in labelled:
        where = "config.compare.criteria" if label is None else f"config.compare.criteria.{label}"
        pipelines.check_criterion(section["pipeline"], spec, where)
        criterion, _ = pipelines.criterion(spec)
        pipeline = pipelines.pipeline(section["pipeline"], spec)
        name = criterion if isinstance(criterion, str) else criterion["name"]
        trained = _trained(section, strengths, pipeline.of, where)
        yield ByCriterion(
            label or name.rpartition(":")[2],
            where,
            "sparsity",
            points,
            criterion,
            pipeline,
            trained,
        )


def _trained(
    section: Mapping[str, Any], strengths: Mapping[str, tuple[float, ...]], label: str, where: str
) -> Contestant | None:
    """The contestant whose network a pipeline prunes, which has no masks yet; `None`: the dense one."""
    if label == DENSE:
        return None
    without_masks = [way for way in WAYS if not WAYS[way].leaves_masks]
    known = {
        other.label: other for way in without_masks for other in _by_way(way, section, strengths)
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
    return other


def _quantised(section: Any, sparse: Sequence[Contestant]) -> Iterator[Contestant]:
    """Networks of few values, each of a rival's that trains with masks in its optimizer's state."""
    if not isinstance(section, Mapping):
        raise UserError(f"config.compare.quantised={section!r}: a dict of label -> dict is needed.")
    by_label = {rival.label: rival for rival in sparse}
    for label, fields in section.items():
        where = f"config.compare.quantised.{label}"
        quantisation.check(fields, where)
        trained = by_label.get(fields["of"])
        if trained is None:
            says = f"{where}.of: no method or criterion that prunes while training is called"
            raise UserError(unknown(says, fields["of"], by_label, "There are"))
        yield Quantised(label, where, trained.varies, trained.points, trained, fields)


def _controls(section: Any, rivals: Sequence[Contestant]) -> Iterator[Contestant]:
    """What is trained again with the masks of others."""
    where = "config.compare.controls"
    by_label = (
        section if isinstance(section, Mapping) else {rival.label: section for rival in rivals}
    )
    for label, names in by_label.items():
        place = f"{where}.{label}" if isinstance(section, Mapping) else where
        if label not in [rival.label for rival in rivals]:
            known = [rival.label for rival in rivals]
            raise UserError(unknown(f"{where}: nobody is called", label, known, "Known"))
        leaves_masks = all(rival.leaves_masks for rival in rivals if rival.label == label)
        if isinstance(section, Mapping) and names and not leaves_masks:
            raise UserError(f"{place}: {label} leaves no masks of its own to train; leave it out.")
        if not isinstance(names, tuple | list):
            raise UserError(
                f"{place}={names!r}: a tuple of names is needed: {', '.join(_CONTROLS)}."
            )
        for name in names:
            if name not in _CONTROLS:
                raise UserError(unknown(f"{place}: no control", name, _CONTROLS, "Controls"))
    for rival in rivals:
        for name in by_label.get(rival.label, ()) if rival.leaves_masks else ():
            if name == "retrained" and rival.fixed_from_start:
                continue  # that is what it is
            label = f"{rival.label}, {name}"
            yield Control(label, where, rival.varies, rival.points, rival.label, name)


def _strengths(section: Any) -> dict[str, tuple[float, ...]]:
    where = "config.compare.strengths"
    if not isinstance(section, Mapping):
        raise UserError(f"{where}={section!r}: a dict of label -> numbers is needed.")
    for label, values in section.items():
        check_type(
            "tuple", tuple(values) if isinstance(values, list) else values, f"{where}.{label}"
        )
        for value in values:
            check_type("float", value, f"{where}.{label}")
        if not values or len(set(values)) < len(values) or min(values) < 0:
            raise UserError(f"{where}.{label}={values}: different numbers from 0 up are needed.")
    return {label: tuple(values) for label, values in section.items()}


def _check_sparsities(section: Any) -> None:
    where = "config.compare.sparsities"
    check_type("tuple", tuple(section) if isinstance(section, list) else section, where)
    for value in section:
        check_type("float", value, where)
        if not 0 < value < 1:
            raise UserError(f"{where}={section}: {value} is no fraction removed, between 0 and 1.")
    if not section or len(set(section)) < len(section):
        raise UserError(f"{where}={section}: different fractions, at least one, are needed.")


def _check_common(cfg: ConfigDict) -> None:
    """Refuses common fields that mean nothing here."""
    way = way_of(cfg)
    if way is not None:
        raise UserError(
            f"config.{way}: who takes part in a comparison is said in config.compare.methods, .gates, "
            ".penalties and .subgradients; set it to None."
        )
    if cfg.k_folds:
        raise UserError("config.k_folds: a comparison pairs seeds, not folds; set it to 0.")
    if cfg.early_stop:
        raise UserError("config.early_stop: contestants train equally long; set it to 0.")
