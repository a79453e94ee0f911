"""Parts of a config: functions by name, with their arguments, checked before JAX is imported.

Checks read the sources of the functions that parts name, `build` imports and calls them.
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

from experiments.config.fields import WAYS
from experiments.config.ranges import out_of_range
from experiments.config.signatures import Signature, defining_file, signature, signatures

__all__ = [
    "UserError",
    "build",
    "check_argument",
    "check_part",
    "check_type",
    "data_catalogue",
    "kind_of_field",
    "nested_kind",
    "part",
    "takes",
    "training_examples",
    "unknown",
]


class UserError(Exception):
    """A mistake of the user's or a fault of the machine, told in one sentence."""


class _Kind(NamedTuple):
    """Where functions of a kind are found, and which of them are meant.

    Attributes:
      faces: modules whose public functions they are.
      returns: a regular expression, found in the return annotation of those meant.
      takes: those meant have an argument whose name ends so.
      called: False: the function itself is meant, with these arguments bound.
      without: names of those that need what no config can give.
    """

    faces: tuple[str, ...]
    returns: str
    takes: str = ""
    called: bool = True
    without: tuple[str, ...] = ()


_KINDS = {
    "model": _Kind(("jaxprune.nn",), "Module"),
    "kernel_init": _Kind(("jaxprune.nn.initializers",), "Initializer"),
    "method": _Kind(("jaxprune.methods", "jaxprune.method"), "Method|Partition"),
    "schedule": _Kind(("jaxprune.schedules",), "Schedule"),
    "criterion": _Kind(("jaxprune.criteria",), "Scores", called=False),
    "pattern": _Kind(("jaxprune.patterns", "experiments.ways.coupled_units"), "Pattern"),
    "allocation": _Kind(("jaxprune.allocation",), "Allocation"),
    "optimizer": _Kind(("optax", "optax.contrib"), "GradientTransformation", "learning_rate"),
    "learning_rate": _Kind(("optax.schedules",), "Schedule"),
    "gate": _Kind(("jaxprune.gates",), "^Gate$"),
    "penalty": _Kind(("jaxprune.penalties",), "^Penalty$"),
    "preconditioner": _Kind(("jaxprune.preconditioners",), ""),
    "compensation": _Kind(("jaxprune.compensation",), "Params", called=False),
    "removal": _Kind(("jaxprune.transforms",), "GradientTransformation", "until"),
    "solver": _Kind(  # least squares are for the masks of another solver
        ("jaxprune.posttrain.solvers",), "^Solver$", without=("least_squares",)
    ),
    "rates": _Kind(("jaxprune.posttrain.rates",), "Callable"),
    "recover": _Kind(("jaxprune.posttrain",), "^Recovery$"),
    "signal": _Kind(("jaxprune.signals",), "", called=False),
    "augment": _Kind(("experiments.training.augment",), "^jax.Array$", called=False),
}
# What a part inside a part is, where its argument's name is not a kind itself.
_SCHEDULED = ("optimizer", "learning_rate", "gate", "penalty", "removal")
_NESTED: dict[str, str] = dict.fromkeys(_SCHEDULED, "learning_rate")
# Fields that hold a part of another kind than their name.
_KIND_OF_FIELD = {
    **{field: way.kind for field, way in WAYS.items()},
    "gate_optimizer": "optimizer",
}
_KIND_BY_LABEL = {way.plural: way.kind for way in WAYS.values()}  # parts by labels of the user's
_PARTS_ONLY = ("AnyPattern", "AnyAllocation", "Pattern", "Allocation")  # arguments that are parts
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
_DATA_ARGUMENTS = {"batch_size": "int", "augment": "str"}


def part(name: str, **arguments: Any) -> ConfigDict:
    """Names a public function and the arguments to call it with.

    Args:
      name: of the function, see `_KINDS` for where it is looked up.
      **arguments: plain values, or parts.

    >>> part("adam", learning_rate=1e-3).to_dict()
    {'learning_rate': 0.001, 'name': 'adam'}
    """
    return ConfigDict({"name": name, **{k: _plain(v) for k, v in arguments.items()}})


def training_examples(name: str) -> int | None:
    """Returns how many examples a data set has for training and validation; `None`: not known here.

    Args:
      name: of the data set.
    """
    catalogue = data_catalogue()
    if not catalogue:
        return None
    if name.startswith(catalogue["PREFIX"]):
        return catalogue["TWIN_TRAIN"]
    return sum(catalogue["find"](name).train)


def takes(kind: str, spec: Any, name: str, where: str) -> bool:
    """Returns whether what a part names has an argument of this name.

    Args:
      kind: of the part.
      spec: the part.
      name: of the argument.
      where: in the config, to blame.
    """
    return name in _signature(kind, spec["name"], where).types


def build(
    kind: str,
    spec: Any,
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

    Raises:
      UserError: there is no such function, or it refuses its arguments.
    """
    if spec is None:
        return None
    known = _signature(kind, spec["name"], kind)
    function = getattr(importlib.import_module(known.module), spec["name"])
    given = {
        name: _build_value(kind, name, value) for name, value in spec.items() if name != "name"
    }
    taken = {name: value for name, value in (offered or {}).items() if name in known.types}
    arguments = {**taken, **given}
    if not _KINDS[kind].called:
        return functools.partial(function, **arguments, **supplied) if arguments else function
    try:
        return function(**arguments, **supplied)
    except (TypeError, ValueError) as e:
        raise UserError(f"config: {kind} '{spec['name']}': {e}") from e


def check_argument(kind: str, spec: Any, name: str, where: str) -> None:
    """Raises `UserError` unless what a part names takes an argument of this name.

    Args:
      kind: of the part.
      spec: the part.
      name: of the argument.
      where: in the config, to blame.
    """
    function = _signature(kind, spec["name"], where)
    swallows = kind in ("criterion", "compensation")  # any signal, which a config cannot give
    if name != "name" and name not in function.types and (swallows or not function.open):
        says = f"{where}: '{spec['name']}' has no argument"
        raise UserError(unknown(says, name, function.types, "It takes"))


def kind_of_field(name: str) -> str:
    """Returns the kind of the part that a field holds.

    >>> kind_of_field("subgradient"), kind_of_field("model")
    ('penalty', 'model')
    """
    return _KIND_OF_FIELD.get(name, name)


def nested_kind(kind: str | None, name: str) -> str | None:
    """Returns the kind of a part within another; `None` if it cannot be one.

    Args:
      kind: of the outer part; `None`: the config itself.
      name: of the argument that holds the inner part.
    """
    name = kind_of_field(name)
    if kind in _KIND_BY_LABEL:
        return _KIND_BY_LABEL[kind]
    if kind is not None and name in _KIND_BY_LABEL:
        return _KIND_BY_LABEL[name]
    return name if name in (*_KINDS, *_KIND_BY_LABEL, "data") else _NESTED.get(kind or "")


def unknown(says: str, name: Any, known: Iterable[str], label: str) -> str:
    """Returns words for a name that is not among those known, with the nearest of them.

    Args:
      says: how the sentence begins, up to the name.
      name: that is not known.
      known: names that are.
      label: what to call those.

    >>> unknown("no fruit", "appel", ["apple", "pear"], "There are")
    "no fruit 'appel'; nearest: 'apple'. There are: apple, pear."
    """
    names = [str(other) for other in known]
    nearest_names = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    nearest = f"; nearest: {', '.join(map(repr, nearest_names))}" if nearest_names else ""
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
        for element in value.values() if isinstance(value, Mapping | ConfigDict) else value:
            yield from _parts_in(element)


def check_part(kind: str, spec: Any, where: str, supplied: tuple[str, ...] = ()) -> None:
    """Raises `UserError` unless a part names what there is, with arguments that it takes.

    Args:
      kind: "model", "method", ...
      spec: the part.
      where: what to call it.
      supplied: arguments that others give and the part must leave out.

    Raises:
      UserError: it does not.
    """
    if not _is_part(spec):
        raise UserError(f"{where}={spec!r} is not a part; write part(name, argument=value, ...).")
    function = _signature(kind, spec["name"], where)
    for name, value in spec.items():
        if name == "name":
            continue
        check_argument(kind, spec, name, where)
        if name in supplied:
            raise UserError(f"{where}.{name}: leave it out; it is filled in.")
        for inner_part in _parts_in(value):
            inner_kind = nested_kind(kind, name)
            if inner_kind is None:
                raise UserError(f"{where}.{name} cannot be a part.")
            check_part(inner_kind, inner_part, f"{where}.{name}")
        check_type(function.types.get(name, ""), value, f"{where}.{name}")
        if function.types.get(name) in _PARTS_ONLY and not _is_part(value) and value is not None:
            raise UserError(
                f"{where}.{name}={value!r} is not a part; write part(name, argument=value, ...)."
            )
    fault = out_of_range(kind, spec)
    if fault is not None:
        name, value, range_needed = fault
        raise UserError(f"{where}.{name}={value}: {range_needed} is needed.")
    needed = function.required if kind == "data" or _KINDS[kind].called else ()
    for name in supplied:
        check_argument(kind, spec, name, where)
    missing = [name for name in needed if name not in (*spec, *supplied)]
    if missing:
        raise UserError(f"{where}: '{spec['name']}' also needs {', '.join(missing)}.")


def check_type(annotation: str, value: Any, where: str) -> None:
    """Raises `UserError` unless a value fits an annotation of plain types; others pass.

    Args:
      annotation: source text, such as "int | None".
      value: of the user's.
      where: in the config, to blame.
    """
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
        inner_kind = nested_kind(kind, name)
        assert inner_kind is not None, f"{kind}.{name} cannot be a part"
        return build(inner_kind, value)
    if isinstance(value, tuple | list):
        return type(value)(_build_value(kind, name, item) for item in value)
    if isinstance(value, Mapping | ConfigDict):
        items = {int(key) if key.isdigit() else key: item for key, item in value.items()}
        return {key: _build_value(kind, name, item) for key, item in items.items()}
    return value


@functools.cache
def data_catalogue() -> dict[str, Any]:
    """Returns the names in `jaxprune`'s catalogue of data sets, without importing JAX.

    The catalogue is plain Python without imports of its own package, and is run by itself.
    """
    path = defining_file("jaxprune.data", "NAMES")
    return runpy.run_path(str(path)) if path else {}


def _signature(kind: str, name: str, where: str) -> Signature:
    if kind == "data":
        names = data_catalogue().get("NAMES", ())
        if name not in names:
            raise UserError(unknown(f"{where}: no data set", name, names, "Known"))
        return Signature("", _DATA_ARGUMENTS)
    for face in _KINDS[kind].faces:
        taken = signature(face, name, _KINDS[kind].returns)
        if taken is not None and _is_meant(kind, name, taken):
            return taken
    known = [
        other
        for face in _KINDS[kind].faces
        for other, taken in signatures(face, _KINDS[kind].returns)
        if _is_meant(kind, other, taken)
    ]
    raise UserError(unknown(f"{where}: no {kind}", name, known, "Known"))


def _is_meant(kind: str, name: str, taken: Signature) -> bool:
    """Whether a function that returns what is asked for is one that a config can name."""
    suffix = _KINDS[kind].takes
    takes_it = not suffix or any(argument.endswith(suffix) for argument in taken.types)
    takes_it &= name not in _KINDS[kind].without
    return takes_it and "rule" not in taken.types  # a rule of one's own is no plain value
