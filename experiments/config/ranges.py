"""Which numbers the arguments of a part may have: what is known without calling what the part names."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["MOST_STEPS", "not_finite", "out_of_range"]

MOST_STEPS = 2**31 - 1  # steps are counted in int32


class _Range(NamedTuple):
    """From `least` to `most`; an end that is open does not belong to it."""

    least: float
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.least if self.open_least else value >= self.least
        return above and (value < self.most if self.open_most else value <= self.most)

    def __str__(self) -> str:
        if self.most == math.inf:
            return f"more than {self.least:g}" if self.open_least else f"at least {self.least:g}"
        if self.most == MOST_STEPS:
            return f"at least {self.least:g} and at most {MOST_STEPS}"
        ends = f"{'(' if self.open_least else '['}{self.least:g}, {self.most:g}"
        return f"a number in {ends}{')' if self.open_most else ']'}"


_BELOW_ONE = _Range(0.0, 1.0, open_most=True)
_UP_TO_ONE = _Range(0.0, 1.0)
_POSITIVE = _Range(0.0, open_least=True)
_NOT_NEGATIVE = _Range(0.0)
_STEP = _Range(0, MOST_STEPS)
_COUNT = _Range(1, MOST_STEPS)

# By kind of part, then by argument; parts of every kind share those under "".
_RANGES: dict[str, dict[str, _Range]] = {
    "": {
        **dict.fromkeys(("begin", "end", "at", "until", "at_least"), _STEP),
        **dict.fromkeys(("every", "levels", "cycles", "rounds", "m", "count"), _COUNT),
        **dict.fromkeys(("sparsity", "initial", "rate", "backward_sparsity"), _BELOW_ONE),
        **dict.fromkeys(("eps", "eps_root", "damp", "weight_decay", "strength"), _NOT_NEGATIVE),
    },
    "data": {"batch_size": _COUNT},
    "model": {
        "dropout_rate": _BELOW_ONE,
        **dict.fromkeys(("patch", "width", "depth", "heads", "context", "vocab_size"), _COUNT),
        "activation_sparsity": _BELOW_ONE,
    },
    "kernel_init": {"std": _NOT_NEGATIVE},
    "optimizer": {
        **dict.fromkeys(("max_learning_rate", "estim_lr0"), _POSITIVE),
        "learning_rate": _NOT_NEGATIVE,  # gates of an optimizer of their own may stay as they are
        **dict.fromkeys(("b1", "b2", "b3", "beta", "betas", "momentum", "rho"), _BELOW_ONE),
        **dict.fromkeys(("decay", "decay_rate"), _BELOW_ONE),
        "initial_accumulator_value": _NOT_NEGATIVE,
    },
    "learning_rate": {
        **dict.fromkeys(("value", "peak_value", "decay_rate"), _POSITIVE),
        **dict.fromkeys(("init_value", "end_value", "power", "exponent"), _NOT_NEGATIVE),
        **dict.fromkeys(("transition_steps", "decay_steps"), _COUNT),
        **dict.fromkeys(("warmup_steps", "transition_begin"), _STEP),
        **dict.fromkeys(("alpha", "pct_start", "pct_final"), _UP_TO_ONE),
        **dict.fromkeys(("div_factor", "final_div_factor"), _POSITIVE),
    },
    "method": {
        **dict.fromkeys(("fraction", "at_most"), _UP_TO_ONE),
        **dict.fromkeys(("decay", "c", "margin"), _NOT_NEGATIVE),
        "quality": _POSITIVE,
    },
    "schedule": {"power": _POSITIVE},
    "allocation": {
        **dict.fromkeys(("most", "at_most"), _UP_TO_ONE),
        "sparsities": _UP_TO_ONE,
        "rates": _NOT_NEGATIVE,
        "quality": _POSITIVE,
    },
    "gate": {
        "dropout_rate": _Range(0.0, 1.0, open_least=True, open_most=True),
        "temperature": _POSITIVE,
        "sparsity": _BELOW_ONE,
    },
    "penalty": {"ridge": _NOT_NEGATIVE},
    "preconditioner": {**dict.fromkeys(("b2", "decay"), _BELOW_ONE)},
    "removal": {"decay": _NOT_NEGATIVE},
}


def out_of_range(kind: str, arguments: Mapping[str, Any]) -> tuple[str, Any, str] | None:
    """Returns the first argument of a part that cannot be, its value and what is needed.

    Args:
      kind: of the part.
      arguments: of the part, by name.

    >>> out_of_range("optimizer", {"name": "adam", "learning_rate": 1e-3, "b1": 2.0})
    ('b1', 2.0, 'a number in [0, 1)')
    """
    ranges = {**_RANGES[""], **_RANGES.get(kind, {})}
    for name, argument in arguments.items():
        for value in _numbers(argument) if name in ranges else ():
            if not ranges[name].holds(value):
                return name, value, str(ranges[name])
    begin = arguments.get("begin")
    end = arguments.get("end")
    if isinstance(begin, int) and isinstance(end, int) and begin > end:
        return "begin", begin, f"at most end={end}"
    return None


def not_finite(value: Any, where: str) -> str | None:
    """Returns where in nested values a number is NaN or infinite; `None` if there is none.

    Args:
      value: a number, or a mapping or sequence of values.
      where: it is.

    >>> not_finite({"a": (1.0, {"b": float("nan")})}, "config")
    'config.a.b'
    """
    if isinstance(value, Mapping) or hasattr(value, "items"):
        elements = [(f"{where}.{key}", element) for key, element in value.items()]
    elif isinstance(value, tuple | list):
        elements = [(where, element) for element in value]
    else:
        return where if isinstance(value, int | float) and not _is_finite(value) else None
    paths = (not_finite(element, path) for path, element in elements)
    return next((path for path in paths if path), None)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _numbers(value: Any) -> Iterator[float]:
    """The numbers that an argument is or holds; those of parts within it are the parts' own."""
    if isinstance(value, tuple | list):
        for element in value:
            yield from _numbers(element)
    elif hasattr(value, "items") and "name" not in value:
        for element in value.values():
            yield from _numbers(element)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value
