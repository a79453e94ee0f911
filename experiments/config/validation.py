"""Configs: plain values, whose common fields are checked before JAX is imported."""

import importlib.util
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.config.fields import DEFAULTS, WAYS
from experiments.config.paper import check_paper
from experiments.config.parts import (
    UserError,
    check_part,
    check_type,
    kind_of_field,
    takes,
    training_examples,
    unknown,
)
from experiments.config.pretraining import check_pretraining, pretraining_config
from experiments.config.ranges import MOST_STEPS, not_finite
from experiments.config.sections import check_expression, check_optimizer

__all__ = ["check_sizes", "check_training", "config", "validate", "way_of"]

_MAY_BE_ZERO = ("validation", "k_folds", "early_stop")
# A PRNG key keeps 32 bits: two seeds that differ above them draw the same weights.
_MOST_SEED = 2**32 - 1
_WRITERS = {"csv": None, "tb": "tensorboardX", "wandb": "wandb"}  # and the packages that they need


def config(**fields: Any) -> ConfigDict:
    """Returns a locked config with these fields, the others at their defaults.

    Args:
      **fields: see `experiments.config.fields.DEFAULTS`.

    Raises:
      UserError: there is no such field, or a key in it is no string.

    >>> config(steps=500).seeds
    (0,)
    >>> config(step=500)
    Traceback (most recent call last):
    experiments.config.parts.UserError: config: no field 'step'; nearest: 'steps', 'gate'. Fields: data, ...
    """
    for name in fields:
        if name not in DEFAULTS:
            raise UserError(unknown("config: no field", name, DEFAULTS, "Fields"))
    paper = fields.get("paper")
    if isinstance(paper, Mapping) and isinstance(paper.get("accept"), list):
        # A command line can replace tuples, not lists.
        fields["paper"] = {**paper, "accept": tuple(paper["accept"])}
    given = {name: _with_any_keys(value, f"config.{name}") for name, value in fields.items()}
    return ConfigDict({**DEFAULTS, **given}).lock()


def _with_any_keys(value: Any, where: str) -> Any:
    """Returns a dict, and those in it, as ConfigDicts, whose keys may be regular expressions with dots."""
    if type(value) is not dict:
        return value
    for key in value:
        if not isinstance(key, str):
            raise UserError(
                f"{where}: the key {key!r} is no string; write it in quotes: {str(key)!r}."
            )
    items = {key: _with_any_keys(item, f"{where}.{key}") for key, item in value.items()}
    return ConfigDict(items, allow_dotted_keys=any("." in key for key in items))


def validate(cfg: ConfigDict) -> None:
    """Checks field names and types, and each part against the signature of what it names.

    Args:
      cfg: the config; the sections of studies are checked by these.

    Raises:
      UserError: what was found, what is nearest, what is accepted.
    """
    value: Any
    for name, value in cfg.items():
        if name not in DEFAULTS:
            raise UserError(unknown("config: no field", name, DEFAULTS, "Fields"))
        default = DEFAULTS[name]
        if isinstance(default, tuple):
            check_type("tuple", value, f"config.{name}")
            for element in value:
                check_type(type(default[0]).__name__, element, f"config.{name}")
        elif isinstance(default, str):
            check_type("str", value, f"config.{name}")
        elif isinstance(default, bool):
            check_type("bool", value, f"config.{name}")
        elif isinstance(default, int):
            check_type("int", value, f"config.{name}")
            least = 0 if name in _MAY_BE_ZERO else 1
            if not least <= value <= MOST_STEPS:
                raise UserError(
                    f"config.{name}={value}: at least {least} and at most {MOST_STEPS} is needed."
                )
        elif isinstance(default, dict) and not isinstance(value, Mapping | ConfigDict):
            raise UserError(f"config.{name}={value!r}: a dict is needed.")
    path = not_finite(cfg, "config")
    if path is not None:
        raise UserError(f"{path} is not a finite number; a config has no use for it.")
    _check_seeds(cfg.seeds)
    if cfg.early_stop and not cfg.validation and not cfg.k_folds:
        raise UserError(
            f"config.early_stop={cfg.early_stop} stops by the loss on validation examples, and "
            "config.validation=0 holds none out; hold some out, or set config.early_stop to 0."
        )
    if cfg.k_folds == 1:
        raise UserError("config.k_folds=1: at least 2 folds, or 0 for one hold-out, are needed.")
    check_expression(cfg.prunable, "config.prunable")
    _check_writers(cfg.writers)
    check_paper(cfg.paper)
    if not cfg.posttrain:
        check_training(cfg)


def check_training(cfg: ConfigDict) -> None:
    """Checks what a model is trained with.

    Args:
      cfg: the config, its field names and types checked.

    Raises:
      UserError: what was found, what is nearest, what is accepted.
    """
    for name in ("data", "model", "optimizer"):
        if cfg[name] is None and cfg.posttrain:
            raise UserError(
                f"config.{name} is None, and config.posttrain prunes a model after its training; use "
                "experiments.posttrain."
            )
        if cfg[name] is None:
            raise UserError(f"config.{name} is None; name one with {name}=part(...).")
    for name in ("data", "model", *WAYS, "gate_optimizer", "preconditioner"):
        if cfg[name] is not None:
            check_part(kind_of_field(name), cfg[name], f"config.{name}")
    check_optimizer(cfg.optimizer, "config.optimizer")
    if augment := cfg.data.get("augment"):
        check_part("augment", {"name": augment}, "config.data.augment")
    if not takes("model", cfg.model, "num_classes", "config.model"):
        raise UserError(
            f"config.model: {cfg.model.name!r} classifies no images (it has no num_classes); choose another."
        )
    if "num_classes" in cfg.model:
        raise UserError("config.model.num_classes: leave it out; the data set says it.")
    for name, needed in (("preconditioner", "penalty"), ("gate_optimizer", "gate")):
        if cfg[name] is not None and cfg[needed] is None and not cfg.compare:
            raise UserError(f"config.{name} does nothing without config.{needed}; set it to None.")
    check_type("float", cfg.ema, "config.ema")
    if not 0 <= cfg.ema < 1:
        raise UserError(f"config.ema={cfg.ema}: a decay from 0 to below 1 is needed.")
    way_of(cfg)
    check_pretraining(cfg)


def _check_seeds(seeds: tuple[int, ...]) -> None:
    where = f"config.seeds={seeds}"
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"{where}: different seeds from 0 up are needed.")
    if max(seeds) > _MOST_SEED:
        raise UserError(
            f"{where}: at most {_MOST_SEED}, as seeds that differ by 2**32 draw the same weights."
        )


def _check_writers(writers: tuple[str, ...]) -> None:
    for name in writers:
        if name not in _WRITERS:
            raise UserError(unknown("config.writers: no writer", name, _WRITERS, "Known"))
        package = _WRITERS[name]
        if package is not None and importlib.util.find_spec(package) is None:
            raise UserError(
                f"config.writers asks for {name!r}, but {package} is not installed: "
                f"pip install -e '.[{name}]'."
            )


def check_sizes(cfg: ConfigDict) -> None:
    """Raises `UserError` where a valid config asks for more examples than its data set has.

    Args:
      cfg: the config, valid.
    """
    if cfg.data is None:
        return
    if cfg.pretraining:
        check_sizes(pretraining_config(cfg))
    example_count = training_examples(cfg.data.name)
    if example_count is None:
        return
    if cfg.validation >= example_count and not cfg.k_folds:
        raise UserError(
            f"config.validation={cfg.validation}: fewer than the {example_count} training examples of "
            f"{cfg.data.name} are needed."
        )
    if cfg.k_folds > example_count:
        raise UserError(
            f"config.k_folds={cfg.k_folds}: at most {example_count}, one example per fold."
        )
    if cfg.k_folds:
        fold = -(-example_count // cfg.k_folds)  # the largest, rounded up
        training_count = example_count - fold
    else:
        training_count = example_count - cfg.validation
    batch_size = cfg.data.get("batch_size", 128)
    if batch_size > training_count:
        raise UserError(
            f"config.data.batch_size={batch_size}: between 1 and {training_count}, the number of training "
            "examples, is needed."
        )


def way_of(cfg: ConfigDict) -> str | None:
    """Returns the field that says how the model becomes sparse; `None`: it stays dense.

    Raises:
      UserError: two fields say so.
    """
    fields = [name for name in WAYS if cfg[name] is not None]
    if len(fields) > 1:
        raise UserError(
            f"config.{fields[0]} and config.{fields[1]}: a model becomes sparse in one way; leave one None."
        )
    return fields[0] if fields else None
