"""Trials: settings of a contestant that are tried on a separate seed, before it is trained with all seeds.

    trials={"RigL": ({"optimizer": {"learning_rate": 0.1}}, {"part": {"fraction": 0.5}, "steps": 9_000})}

Each trial replaces fields of the contestant's part, fields of `config.optimizer`, or the number of updates.
The trial with the best validation accuracy is trained with all seeds. Test examples are not used for the
choice. A single trial is used without trying it.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import UserError, check_part, unknown
from experiments.config.fields import DENSE, WAYS
from experiments.config.sections import (
    check_end,
    check_integer,
    check_optimizer,
    check_sequence,
)
from experiments.studies.contestant_kinds import ByCriterion, ByWay, Contestant, Quantised

if TYPE_CHECKING:
    from experiments.training.setup import Setup

__all__ = ["Trial", "check_trials", "trials_of", "tried"]

Trial = Mapping[str, Any]

_FIELDS: dict[str, Any] = {
    "steps": 0,  # number of updates; 0: config.steps
    "optimizer": {},  # name -> value: fields of config.optimizer that the trial replaces
    "part": {},  # name -> value: fields of the contestant's part that the trial replaces
}


def trials_of(section: Mapping[str, Any], label: str) -> Sequence[Trial]:
    """Returns the trials of a contestant; if the config names none, one trial that changes nothing.

    Args:
      section: `config.compare`, checked.
      label: label of the contestant, or "dense".
    """
    return section["trials"].get(label) or ({},)


def tried(setup: "Setup", contestant: Contestant | None, trial: Trial) -> tuple["Setup", Any]:
    """Returns the setup and the contestant that a trial describes.

    Args:
      setup: setup of the comparison.
      contestant: the contestant; `None` for the dense baseline.
      trial: the fields that are replaced.
    """
    from experiments.training.setup import setup as setup_of

    if not trial:
        return setup, contestant
    if isinstance(contestant, ByWay) and trial.get("part"):
        spec = _merged(contestant.spec, trial["part"])
        contestant = dataclasses.replace(contestant, spec=spec)
    cfg = setup.cfg.copy_and_resolve_references()
    with cfg.unlocked():
        cfg.steps = trial.get("steps") or cfg.steps
        cfg.optimizer = _merged(cfg.optimizer, trial.get("optimizer", {}))
    return setup_of(cfg), contestant


def check_trials(
    section: Mapping[str, Any], contestants: Sequence[Contestant], cfg: ConfigDict
) -> None:
    """Raises `UserError` unless `config.compare.trials` is valid.

    Args:
      section: `config.compare`, with defaults.
      contestants: the contestants that it names.
      cfg: the config.
    """
    where = "config.compare.trials"
    trials = section["trials"]
    if not isinstance(trials, Mapping):
        raise UserError(f"{where}={trials!r}: a dict of label -> dicts is needed.")
    by_label = {rival.label: rival for rival in contestants if isinstance(rival, ByWay)}
    for label, tries in trials.items():
        if label != DENSE and label not in by_label:
            known = [DENSE, *by_label]
            raise UserError(unknown(f"{where}: no method is called", label, known, "There are"))
        check_sequence(tries, f"{where}.{label}")
        if not tries:
            raise UserError(f"{where}.{label}=(): at least one trial is needed.")
        for index, trial in enumerate(tries):
            _check_trial(trial, by_label.get(label), cfg, f"{where}.{label}[{index}]")
        rival = by_label.get(label)
        if rival is not None and rival.varies == "strength" and len(tries) > 1:
            raise UserError(
                f"{where}.{label}: at a strength the best accuracy is that of the network that loses the "
                "fewest weights; give it one trial."
            )
    if any(len(tries) > 1 for tries in trials.values()):
        _check_seed(section["trial_seed"], cfg)
    for rival in contestants:
        source = _source(rival)
        if source in trials:
            raise UserError(
                f"{rival.where}: it goes on with the network of {source!r}, which has trials of its own; "
                f"leave {source!r} out of {where}."
            )


def _check_trial(found: Any, rival: ByWay | None, cfg: ConfigDict, where: str) -> None:
    if not isinstance(found, Mapping | ConfigDict):
        raise UserError(f"{where}={found!r}: a dict of {', '.join(_FIELDS)} is needed.")
    trial: Any = found
    for name in trial:
        if name not in _FIELDS:
            raise UserError(unknown(f"{where}: no field", name, _FIELDS, "Fields"))
    for name in ("optimizer", "part"):
        if not isinstance(trial.get(name, {}), Mapping | ConfigDict):
            raise UserError(f"{where}.{name}={trial[name]!r}: a dict is needed.")
    if "steps" in trial:
        check_integer(trial["steps"], f"{where}.steps", 1)
    check_optimizer(_merged(cfg.optimizer, trial.get("optimizer", {})), f"{where}.optimizer")
    if rival is None:
        if trial.get("part"):
            raise UserError(f"{where}.part: dense training has no part; leave it out.")
        return
    spec = _merged(rival.spec, trial.get("part", {}))
    check_part(WAYS[rival.way].kind, spec, f"{where}.part", supplied=(rival.varies,))
    if "steps" in trial:
        check_end(spec.to_dict(), trial["steps"], f"{where}.part", f"{where}.steps")
    else:
        check_end(spec.to_dict(), cfg.steps, f"{where}.part")


def _merged(part: Any, fields: Any) -> ConfigDict:
    """Returns a part with some fields replaced; if `fields` names another function, `fields` alone."""
    if fields.get("name", part["name"]) != part["name"]:
        return ConfigDict(fields, allow_dotted_keys=True)
    return ConfigDict({**dict(part), **dict(fields)}, allow_dotted_keys=True)


def _check_seed(seed: Any, cfg: ConfigDict) -> None:
    where = "config.compare.trial_seed"
    check_integer(seed, where, 0)
    if seed in cfg.seeds:
        raise UserError(
            f"{where}={seed}: trials need a seed of their own; {seed} is one of config.seeds."
        )
    if not cfg.validation:
        raise UserError(
            "config.validation=0: trials are chosen on validation examples; hold some out."
        )


def _source(rival: Contestant) -> str | None:
    """Returns the label of the contestant with whose trained network another contestant begins."""
    if isinstance(rival, Quantised):
        return rival.trained.label
    if isinstance(rival, ByCriterion) and rival.pipeline.when == "trained":
        return rival.pipeline.of
    return None
