"""Finds the parameters that scale and shift what was normalised, by what the program does with them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxprune.programs import count_scan_inputs
from jaxprune.programs.primitives import ADDITIONS, IDENTITIES
from jaxprune.structured.graph.follow import Loop, Tape
from jaxprune.structured.graph.rules import Step
from jaxprune.units.coupling import Use

__all__ = ["find_uses"]

_ARRANGED = IDENTITIES | frozenset(
    {"broadcast_in_dim", "convert_element_type", "expand_dims", "neg", "reshape", "rev", "squeeze"}
    | {"transpose"}
)
_BOUNDED = frozenset({"clamp", "max", "min"})


class _Known(NamedTuple):
    """What is known of a value.

    Attributes:
      leaf: index of the parameter of one axis that it is, arranged anew, perhaps plus a constant.
      state: "root": a square root, as a deviation or a norm is; "normal": something was divided by one;
        "scaled": that, times a parameter of one axis.
    """

    leaf: int | None = None
    state: str = ""


_NOTHING = _Known()


def find_uses(tape: Tape, shapes: Sequence[tuple[int, ...]]) -> dict[int, Use]:
    """Returns leaf index -> use: multiplied onto something normalised, or added to that.

    A BatchNorm's or LayerNorm's scale is a vector that is multiplied with what was divided by a square root,
    or with one over the root itself, and its shift is added to the product: whatever they are called.

    Args:
      tape: of the program.
      shapes: of the parameters, its first inputs.
    """
    uses: dict[int, Use] = {}
    inputs = [_vector_parameter(leaf_index, shape) for leaf_index, shape in enumerate(shapes)]
    inputs += [_NOTHING] * (len(tape.inputs) - len(inputs))
    _follow_program(tape, inputs, uses)
    return uses


def _vector_parameter(leaf_index: int | None, shape: Iterable[int]) -> _Known:
    """Returns what is known of a parameter, or of its slice in an iteration: that it is one, if a vector."""
    return _Known(leaf_index if sum(size > 1 for size in shape) == 1 else None)


def _follow_program(tape: Tape, inputs: Sequence[_Known], uses: dict[int, Use]) -> list[_Known]:
    """Returns what is known of a program's outputs; notes in `uses` the leaves whose use is seen."""
    known_values: dict[int | None, _Known] = dict(zip(tape.inputs, inputs, strict=True))
    stacked_leaves: dict[int | None, int] = {
        value_index: input_index
        for input_index, value_index in enumerate(tape.inputs)
        if inputs[input_index].leaf is None
    }
    for step in tape.steps:
        values = [known_values.get(value_index, _NOTHING) for value_index in step.reads]
        outputs = None
        if step.more is not None:
            outputs = _follow_body(step, values, stacked_leaves, uses)
        if outputs is not None:
            known_values.update(zip(step.writes, outputs, strict=True))
        elif step.writes:
            known_values[step.writes[0]] = _follow_equation(step, values, uses)
    return [known_values.get(value_index, _NOTHING) for value_index in tape.outputs]


def _follow_body(
    step: Step, values: list[_Known], stacked_leaves: dict[int | None, int], uses: dict[int, Use]
) -> list[_Known] | None:
    """Returns what is known of a loop's or a condition's outputs; `None`: the step is neither."""
    name = step.equation.primitive.name
    if isinstance(step.more, Loop):
        constant_count, carry_count = count_scan_inputs(step.equation)
        stacked_start = constant_count + carry_count
        stacked = zip(step.reads[stacked_start:], step.inputs[stacked_start:], strict=True)
        rows = [
            _vector_parameter(stacked_leaves.get(value_index), [len(axis) for axis in axes[1:]])
            for value_index, axes in stacked
        ]
        return _follow_program(
            step.more.tape, [*values[:constant_count], *[_NOTHING] * carry_count, *rows], uses
        )
    if name == "cond":
        branch_outputs = [_follow_program(tape, values[1:], uses) for tape in step.more]
        return branch_outputs[0]
    if name == "while":
        body = step.more[1]
        start = step.equation.params["cond_nconsts"]
        constants = values[start : start + step.equation.params["body_nconsts"]]
        carried = [_NOTHING] * (len(body.inputs) - len(constants))
        return _follow_program(body, [*constants, *carried], uses)
    return None


def _follow_equation(step: Step, values: list[_Known], uses: dict[int, Use]) -> _Known:
    """Returns what is known of the first output of an equation."""
    name = step.equation.primitive.name
    is_constant = [value_index is None for value_index in step.reads]
    states = [value.state for value in values]
    if name in _ARRANGED:
        return values[0]
    if name == "rsqrt":
        return _Known(state="normal")
    if name == "sqrt":
        return _Known(state="root")
    if name in ("pow", "integer_pow"):
        return _Known(state=_state_of_power(step.equation))
    if name in _BOUNDED and "root" in states:
        return _Known(state="root")
    if name == "div" and states[1] == "root":
        return _Known(state="normal")
    if name in (*ADDITIONS, "sub", "mul", "div") and is_constant[1]:
        return values[0]
    if name in (*ADDITIONS, "mul") and is_constant[0]:
        return values[1]
    if name not in (*ADDITIONS, "sub", "mul"):
        return _NOTHING
    for value, other in zip(values, values[::-1], strict=True):
        if value.leaf is None:
            continue
        if name == "mul" and other.state == "normal":
            uses[value.leaf] = "scale"
            return _Known(state="scaled")
        if name != "mul" and other.state == "scaled":
            uses.setdefault(value.leaf, "shift")
            return _NOTHING
    if name == "mul":
        return _Known(
            state="scaled" if "scaled" in states else "normal" if "normal" in states else ""
        )
    return _NOTHING


def _state_of_power(equation: Any) -> str:
    """Returns the state of a power of something: a root, or one over it."""
    exponent: Any = equation.params.get("y")
    if exponent is None:
        exponent = getattr(equation.invars[1], "val", None)
    return {-0.5: "normal", 0.5: "root"}.get(0.0 if exponent is None else float(exponent), "")
