"""Which parameters scale and shift what was normalised, told by what the program does with them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxprune.coupling import Use
from jaxprune.programs import count_scan_inputs
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.rules import Step
from jaxprune.structured.walk import Loop, Tape

__all__ = ["uses"]

_ARRANGED = IDENTITIES | frozenset(
    {"broadcast_in_dim", "convert_element_type", "expand_dims", "neg", "reshape", "rev", "squeeze"}
    | {"transpose"}
)
_BOUNDED = frozenset({"clamp", "max", "min"})


class _Known(NamedTuple):
    """What is known of a value.

    Attributes:
      leaf: the parameter of one axis that it is, arranged anew, perhaps plus a constant.
      state: "root": a square root, as a deviation or a norm is; "normal": something was divided by one;
        "scaled": that, times a parameter of one axis.
    """

    leaf: int | None = None
    state: str = ""


_NOTHING = _Known()


def uses(tape: Tape, shapes: Sequence[tuple[int, ...]]) -> dict[int, Use]:
    """Returns the leaves that are multiplied onto something normalised, and those added to that.

    A BatchNorm's or LayerNorm's scale is a vector that is multiplied with what was divided by a square root,
    or with one over the root itself, and its shift is added to the product: whatever they are called.

    Args:
      tape: of the program.
      shapes: of the parameters, its first inputs.
    """
    found: dict[int, Use] = {}
    entering = [_vector(i, shape) for i, shape in enumerate(shapes)]
    entering += [_NOTHING] * (len(tape.inputs) - len(entering))
    _follow(tape, entering, found)
    return found


def _vector(leaf: int | None, shape: Iterable[int]) -> _Known:
    return _Known(leaf if sum(n > 1 for n in shape) == 1 else None)


def _follow(tape: Tape, entering: Sequence[_Known], found: dict[int, Use]) -> list[_Known]:
    """What is known of a program's outputs; leaves whose use is seen are noted."""
    known: dict[int | None, _Known] = dict(zip(tape.inputs, entering, strict=True))
    stacks: dict[int | None, int] = {
        number: i for i, number in enumerate(tape.inputs) if entering[i].leaf is None
    }
    for step in tape.steps:
        values = [known.get(number, _NOTHING) for number in step.reads]
        if step.more is not None and (inner := _within(step, values, stacks, found)) is not None:
            known.update(zip(step.writes, inner, strict=True))
        elif step.writes:
            known[step.writes[0]] = _met(step, values, found)
    return [known.get(number, _NOTHING) for number in tape.outputs]


def _within(
    step: Step, values: list[_Known], stacks: dict[int | None, int], found: dict[int, Use]
) -> list[_Known] | None:
    """What a loop or a condition gives; `None`: the step is neither."""
    name = step.equation.primitive.name
    if isinstance(step.more, Loop):
        fixed, count = count_scan_inputs(step.equation)
        rows = [
            _vector(stacks.get(number), [len(axis) for axis in axes[1:]])
            for number, axes in zip(
                step.reads[fixed + count :], step.inputs[fixed + count :], strict=True
            )
        ]
        return _follow(step.more.tape, [*values[:fixed], *[_NOTHING] * count, *rows], found)
    if name == "cond":
        ends = [_follow(tape, values[1:], found) for tape in step.more]
        return ends[0]
    if name == "while":
        body = step.more[1]
        start = step.equation.params["cond_nconsts"]
        constants = values[start : start + step.equation.params["body_nconsts"]]
        carried = [_NOTHING] * (len(body.inputs) - len(constants))
        return _follow(body, [*constants, *carried], found)
    return None


def _met(step: Step, values: list[_Known], found: dict[int, Use]) -> _Known:
    """What is known of what an equation gives."""
    name, constant = step.equation.primitive.name, [number is None for number in step.reads]
    states = [value.state for value in values]
    if name in _ARRANGED:
        return values[0]
    if name == "rsqrt":
        return _Known(state="normal")
    if name == "sqrt":
        return _Known(state="root")
    if name in ("pow", "integer_pow"):
        return _Known(state=_power(step.equation))
    if name in _BOUNDED and "root" in states:
        return _Known(state="root")
    if name == "div" and states[1] == "root":
        return _Known(state="normal")
    if name in (*ADDITIONS, "sub", "mul", "div") and constant[1]:
        return values[0]
    if name in (*ADDITIONS, "mul") and constant[0]:
        return values[1]
    if name not in (*ADDITIONS, "sub", "mul"):
        return _NOTHING
    for value, other in zip(values, values[::-1], strict=True):
        if value.leaf is None:
            continue
        if name == "mul" and other.state == "normal":
            found[value.leaf] = "scale"
            return _Known(state="scaled")
        if name != "mul" and other.state == "scaled":
            found.setdefault(value.leaf, "shift")
            return _NOTHING
    if name == "mul":
        return _Known(
            state="scaled" if "scaled" in states else "normal" if "normal" in states else ""
        )
    return _NOTHING


def _power(equation: Any) -> str:
    exponent: Any = equation.params.get("y")
    if exponent is None:
        exponent = getattr(equation.invars[1], "val", None)
    return {-0.5: "normal", 0.5: "root"}.get(0.0 if exponent is None else float(exponent), "")
