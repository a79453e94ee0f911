"""Experiment configs: plain values, checked before JAX is imported.

A config file under `configs/` imports `config` and `part` from here and nothing else. `validate`
reads the sources of the functions that parts name, `build` imports and calls them.
"""

import difflib
import functools
import importlib
import importlib.util
import re
import runpy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.fields import DEFAULTS
from experiments.ranges import MOST_STEPS, not_finite, out_of_range
from experiments.signatures import Signature, keyword_default, public, sources

__all__ = [
    "UserError",
    "build",
    "check_argument",
    "check_part",
    "check_sizes",
    "check_type",
    "config",
    "nested_kind",
    "part",
    "takes",
    "training_examples",
    "unknown",
    "validate",
    "ways",
]


class UserError(Exception):
    """A mistake of the user's or a fault of the machine, told in one sentence."""


class _Kind(NamedTuple):
    files: tuple[str, ...]  # where the public functions are, below a folder of sys.path
    returns: str  # a regular expression, found in the return annotation of those meant
    called: bool = True  # False: the function itself is meant, with these arguments bound


_KINDS = {
    "model": _Kind(("jaxprune/nn/*.py",), "Module"),
    "kernel_init": _Kind(("jaxprune/nn/initializers.py",), "Initializer"),
    "method": _Kind(("jaxprune/methods/*.py", "jaxprune/method.py"), "Method|Partition"),
    "schedule": _Kind(("jaxprune/schedules.py",), "Schedule"),
    "criterion": _Kind(("jaxprune/criteria/*.py",), "Scores", called=False),
    "pattern": _Kind(("jaxprune/patterns/*.py", "experiments/units.py"), "Pattern"),
    "allocation": _Kind(("jaxprune/allocation/*.py",), "Allocation"),
    "optimizer": _Kind(("optax/_src/alias.py", "optax/contrib/*.py"), "GradientTransformation"),
    "learning_rate": _Kind(("optax/schedules/*.py",), "Schedule"),
    "gate": _Kind(("jaxprune/gates/*.py",), "^Gate$"),
    "penalty": _Kind(("jaxprune/penalties/*.py",), "^Penalty$"),
    "preconditioner": _Kind(("jaxprune/preconditioners.py",), ""),
    "compensation": _Kind(("jaxprune/compensation.py",), "Params", called=False),
    "removal": _Kind(("jaxprune/transforms/growing.py",), "GradientTransformation"),
    "solver": _Kind(("jaxprune/posttrain/solvers/*.py",), "^Solver$"),
    "rates": _Kind(("jaxprune/posttrain/rates.py",), "Callable"),
    "recover": _Kind(("jaxprune/posttrain/reconstruct.py",), "^Recovery$"),
    "signal": _Kind(("jaxprune/signals/*.py",), "", called=False),
    "augment": _Kind(("experiments/augment.py",), "^jax.Array$", called=False),
}
# What a part inside a part is, where its argument's name is not a kind itself.
_SCHEDULED = ("optimizer", "learning_rate", "gate", "penalty", "removal")
_NESTED = dict.fromkeys(_SCHEDULED, "learning_rate")
_AS = {
    "gate_optimizer": "optimizer",
    "subgradient": "penalty",
}  # fields that hold another kind of part
_WAYS = ("method", "gate", "penalty", "subgradient")
_PARTS_ONLY = (
    "AnyPattern",
    "AnyAllocation",
    "Pattern",
    "Allocation",
)  # annotations of such arguments
_DICTS = {  # parts by labels of the user's
    "methods": "method",
    "gates": "gate",
    "penalties": "penalty",
    "subgradients": "penalty",
}
_TYPES: dict[str, Any] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "tuple": tuple,
    "None": type(None),
    "jax.typing.ArrayLike": (int, float),
    "base.ScalarOrSchedule": (int, float),
}
_WORDS = {"jax.typing.ArrayLike": "float", "base.ScalarOrSchedule": "float or a schedule"}
_MAY_BE_ZERO = ("validation", "k_folds", "early_stop")
_MOST_SEED = (
    2**32 - 1
)  # a PRNG key keeps 32 bits: two seeds that differ above them draw the same weights
_WRITERS = {"csv": None, "tb": "tensorboardX", "wandb": "wandb"}  # and the packages that they need
_CATALOGUE, _DATA_ARGUMENTS = "jaxprune/data/catalogue.py", {"batch_size": "int", "augment": "str"}


def part(name: str, **arguments: Any) -> ConfigDict:
    """Names a public function and the arguments to call it with.

    >>> part("adam", learning_rate=1e-3).to_dict()
    {'learning_rate': 0.001, 'name': 'adam'}
    """
    return ConfigDict({"name": name, **{k: _plain(v) for k, v in arguments.items()}})


def config(**fields: Any) -> ConfigDict:
    """Makes a locked config of the common fields, the others at their defaults.

    >>> config(steps=500).seeds
    (0,)
    >>> config(step=500)
    Traceback (most recent call last):
    experiments.config.UserError: config: no field 'step'; nearest: 'steps', 'gate'. Fields: data, ...
    """
    for name in fields:
        if name not in DEFAULTS:
            raise UserError(unknown("config: no field", name, DEFAULTS, "Fields"))
    cfg = ConfigDict({**DEFAULTS, **fields})
    return cfg.lock()


def validate(cfg: ConfigDict) -> None:
    """Checks field names and types, and each part against the signature of what it names.

    Raises:
      UserError: what was found, what is nearest, what is accepted.
    """
    for name, value in cfg.items():
        if name not in DEFAULTS:
            raise UserError(unknown("config: no field", name, DEFAULTS, "Fields"))
        default = DEFAULTS[name]
        if isinstance(default, tuple):
            check_type("tuple", value, f"config.{name}")
            for item in value:
                check_type(type(default[0]).__name__, item, f"config.{name}")
        elif isinstance(default, str):
            check_type("str", value, f"config.{name}")
        elif isinstance(default, int):
            check_type("int", value, f"config.{name}")
            least = 0 if name in _MAY_BE_ZERO else 1
            if not least <= value <= MOST_STEPS:
                raise UserError(
                    f"config.{name}={value}: at least {least} and at most {MOST_STEPS} is needed."
                )
        elif isinstance(default, dict) and not isinstance(value, Mapping | ConfigDict):
            raise UserError(f"config.{name}={value!r}: a dict is needed.")
    if place := not_finite(cfg, "config"):
        raise UserError(f"{place} is not a finite number; a config has no use for it.")
    _check_seeds(cfg.seeds)
    if cfg.k_folds == 1:
        raise UserError("config.k_folds=1: at least 2 folds, or 0 for one hold-out, are needed.")
    try:
        re.compile(cfg.prunable)
    except (re.error, RecursionError, OverflowError) as e:
        raise UserError(f"config.prunable={cfg.prunable!r} is no regular expression: {e}.") from e
    _check_writers(cfg.writers)
    if not cfg.posttrain:
        _check_training(cfg)


def _check_training(cfg: ConfigDict) -> None:
    """Checks what a model is trained with."""
    for name in ("data", "model", "optimizer"):
        if cfg[name] is None:
            raise UserError(f"config.{name} is None; name one with {name}=part(...).")
    for name in ("data", "model", "optimizer", *_WAYS, "gate_optimizer", "preconditioner"):
        if cfg[name] is not None:
            check_part(_AS.get(name, name), cfg[name], f"config.{name}")
    if cfg.optimizer.get("learning_rate") == 0:
        raise UserError(
            "config.optimizer.learning_rate=0: more than 0 is needed, or nothing is trained."
        )
    if augment := cfg.data.get("augment"):
        _signature("augment", augment, "config.data.augment")
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
    ways(cfg)


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
                f"pip install 'jaxprune[{name}]'."
            )


def check_sizes(cfg: ConfigDict) -> None:
    """Raises `UserError` where a valid config asks for more examples than its data set has."""
    if cfg.data is None:
        return
    examples = training_examples(cfg.data.name)
    if examples is None:
        return
    if cfg.validation >= examples and not cfg.k_folds:
        raise UserError(
            f"config.validation={cfg.validation}: fewer than the {examples} training examples of "
            f"{cfg.data.name} are needed."
        )
    if cfg.k_folds > examples:
        raise UserError(f"config.k_folds={cfg.k_folds}: at most {examples}, one example per fold.")
    left = examples - -(-examples // cfg.k_folds) if cfg.k_folds else examples - cfg.validation
    size = cfg.data.get("batch_size", 128)
    if size > left:
        raise UserError(
            f"config.data.batch_size={size}: between 1 and {left}, the number of training examples, is "
            "needed."
        )


def training_examples(name: str) -> int | None:
    """Returns how many examples a data set has for training and validation; `None`: not known here."""
    catalogue = _catalogue()
    if not catalogue:
        return None
    if name.startswith(catalogue["PREFIX"]):
        return _twin_size()
    return sum(catalogue["find"](name).train)


def takes(kind: str, spec: Mapping, name: str, where: str) -> bool:
    """Whether what a part names has an argument of this name."""
    return name in _signature(kind, spec["name"], where).types


def ways(cfg: ConfigDict) -> str | None:
    """Which field says how the model becomes sparse; `None`: it stays dense."""
    found = [name for name in _WAYS if cfg[name] is not None]
    if len(found) > 1:
        raise UserError(
            f"config.{found[0]} and config.{found[1]}: a model becomes sparse in one way; leave one None."
        )
    return found[0] if found else None


def build(
    kind: str,
    spec: Mapping | None,
    *,
    offered: Mapping[str, Any] | None = None,
    **supplied: Any,
) -> Any:
    """Imports what a part names and calls it, parts within parts first.

    Args:
      kind: "model", "method", "optimizer", "criterion", "pattern", "allocation", ...
      spec: a part, or `None`, which gives `None`.
      offered: more of these, for functions that take them.
      **supplied: arguments that the caller knows and the config does not.

    Returns:
      What the function returns; a criterion is a function itself and comes back bound, uncalled.
    """
    if spec is None:
        return None
    signature = _signature(kind, spec["name"], kind)
    function = getattr(importlib.import_module(signature.module), spec["name"])
    given = {k: _build_value(kind, k, v) for k, v in spec.items() if k != "name"}
    taken = {k: v for k, v in (offered or {}).items() if k in signature.types}
    arguments = {**taken, **given}
    if not _KINDS[kind].called:
        return functools.partial(function, **arguments, **supplied) if arguments else function
    try:
        return function(**arguments, **supplied)
    except (TypeError, ValueError) as e:
        raise UserError(f"config: {kind} '{spec['name']}': {e}") from e


def check_argument(kind: str, spec: Mapping, name: str, where: str) -> None:
    """Raises `UserError` unless what a part names takes an argument of this name."""
    signature = _signature(kind, spec["name"], where)
    swallows = kind in ("criterion", "compensation")  # any signal, which a config cannot give
    if name != "name" and name not in signature.types and (swallows or not signature.open):
        says = f"{where}: '{spec['name']}' has no argument"
        raise UserError(unknown(says, name, signature.types, "It takes"))


def nested_kind(kind: str | None, name: str) -> str | None:
    """The kind of the part `name` within a part of the kind given; `None`: at the top."""
    name = _AS.get(name, name)
    if kind in _DICTS:
        return _DICTS[kind]
    if kind is not None and name in _DICTS:
        return _DICTS[name]
    return name if name in (*_KINDS, *_DICTS, "data") else _NESTED.get(kind or "")


def unknown(says: str, name: Any, known: Iterable[str], label: str) -> str:
    """Words for a name that is not among those known, with the nearest of them."""
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(map(repr, near))}" if near else ""
    return f"{says} {name!r}{nearest}. {label}: {', '.join(names) or '(none)'}."


def _plain(value: Any) -> Any:
    """Keys of a ConfigDict are strings: `{2000: 0.1}` is stored as `{"2000": 0.1}`."""
    if type(value) is not dict:
        return value
    return ConfigDict({str(k): v for k, v in value.items()}, allow_dotted_keys=True)


def _is_part(value: Any) -> bool:
    return isinstance(value, Mapping | ConfigDict) and "name" in value


def _parts_in(value: Any) -> Iterator[Any]:
    """The part that a value is, or those in its tuples and dicts."""
    if _is_part(value):
        yield value
    elif isinstance(value, tuple | list | Mapping | ConfigDict):
        for item in value.values() if isinstance(value, Mapping | ConfigDict) else value:
            yield from _parts_in(item)


def check_part(kind: str, spec: Any, where: str, supplied: tuple[str, ...] = ()) -> None:
    """Raises `UserError` unless a part names what there is, with arguments that it takes.

    Args:
      kind: "model", "method", ...
      spec: the part.
      where: what to call it.
      supplied: arguments that others give and the part must leave out.
    """
    if not _is_part(spec):
        raise UserError(f"{where}={spec!r} is not a part; write part(name, argument=value, ...).")
    signature = _signature(kind, spec["name"], where)
    for name, value in spec.items():
        if name == "name":
            continue
        check_argument(kind, spec, name, where)
        if name in supplied:
            raise UserError(f"{where}.{name}: leave it out; it is filled in.")
        for nested in _parts_in(value):
            child = nested_kind(kind, name)
            if child is None:
                raise UserError(f"{where}.{name} cannot be a part.")
            check_part(child, nested, f"{where}.{name}")
        check_type(signature.types.get(name, ""), value, f"{where}.{name}")
        if signature.types.get(name) in _PARTS_ONLY and not _is_part(value) and value is not None:
            raise UserError(
                f"{where}.{name}={value!r} is not a part; write part(name, argument=value, ...)."
            )
    if wrong := out_of_range(kind, spec):
        name, value, needed = wrong
        raise UserError(f"{where}.{name}={value}: {needed} is needed.")
    needed = signature.required if kind == "data" or _KINDS[kind].called else ()
    for name in supplied:
        check_argument(kind, spec, name, where)
    missing = [name for name in needed if name not in (*spec, *supplied)]
    if missing:
        raise UserError(f"{where}: '{spec['name']}' also needs {', '.join(missing)}.")


def check_type(annotation: str, value: Any, where: str) -> None:
    """Checks a value against an annotation of plain types; others are left to the function."""
    wanted = [
        name.strip() for name in re.sub(r"Optional\[(.*)\]", r"\1|None", annotation).split("|")
    ]
    if _is_part(value) or not all(name in _TYPES for name in wanted):
        return
    accepted = [name for name in wanted if isinstance(value, _TYPES[name])]
    if not accepted or (isinstance(value, bool) and "bool" not in wanted):
        needed = " or ".join(_WORDS.get(name, name) for name in wanted)
        raise UserError(f"{where}={value!r}: found {type(value).__name__}, {needed} is needed.")


def _build_value(kind: str, name: str, value: Any) -> Any:
    if _is_part(value):
        return build(nested_kind(kind, name), value)
    if isinstance(value, tuple | list):
        return type(value)(_build_value(kind, name, item) for item in value)
    if isinstance(value, Mapping | ConfigDict):
        named = {int(k) if k.isdigit() else k: v for k, v in value.items()}
        return {k: _build_value(kind, name, v) for k, v in named.items()}
    return value


def _signature(kind: str, name: str, where: str) -> Signature:
    if kind == "data":
        names = _data_names()
        if name not in names:
            raise UserError(unknown(f"{where}: no data set", name, names, "Known"))
        return Signature("", _DATA_ARGUMENTS)
    known = {}
    for found, signature in _signatures(kind):
        if found == name:
            return signature
        known[found] = signature
    raise UserError(unknown(f"{where}: no {kind}", name, known, "Known"))


def _data_names() -> tuple[str, ...]:
    return _catalogue().get("NAMES", ())


@functools.cache
def _catalogue() -> dict[str, Any]:
    """Runs the catalogue of data sets by itself, since importing `jaxprune` imports JAX."""
    files = list(sources(_CATALOGUE))
    return runpy.run_path(str(files[0][0])) if files else {}


def _twin_size() -> int | None:
    """How many training examples a synthetic twin has, read from the source of the function that makes it."""
    for path, _ in sources("jaxprune/data/synthetic.py"):
        return keyword_default(path, "twin", "train")
    return None


def _signatures(kind: str) -> Iterator[tuple[str, Signature]]:
    for pattern in _KINDS[kind].files:
        for path, module in sources(pattern):
            yield from public(path, module, _KINDS[kind].returns)
