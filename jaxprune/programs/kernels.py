"""Finds the parameters that are kernels of products, in the program of a function that is not edited.

Each value of the program is followed with what it holds of the parameters (`views`); where such a value meets
one that depends on the inputs in a product, its axes have roles. Nothing is computed: shapes are enough.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxprune.programs import constants, views
from jaxprune.programs.equation_follower import EquationFollower
from jaxprune.programs.interpreter import count_scan_inputs, run
from jaxprune.programs.tracked import TrackedValue, as_tracked, hold_same_elements, union_of_views
from jaxprune.programs.uses import Operations

__all__ = ["Follower", "follow", "follow_program"]


def follow(fn: Callable[..., Any], params: Any, *inputs: Any) -> "Follower":
    """Returns a follower that has followed the program of `fn(params, *inputs)`.

    What no output needs is followed too: its kernels have axes all the same.

    Args:
      fn: any JAX function; it is traced, not run.
      params: tree of arrays, or of their shapes.
      *inputs: trees of arrays or of shapes.
    """
    program = jax.make_jaxpr(fn)(params, *inputs)
    return follow_program(program, [np.shape(leaf) for leaf in jax.tree.leaves(params)])


def follow_program(program: Any, shapes: Sequence[tuple[int, ...]]) -> "Follower":
    """Returns a follower that has followed a program.

    Args:
      program: a jaxpr with its constants; its first inputs are the parameters.
      shapes: of the parameters.
    """
    follower = Follower()
    tracked_parameters = [
        TrackedValue((views.view_of_leaf(index, shape),)) for index, shape in enumerate(shapes)
    ]
    tracked_inputs = [follower.activation() for _ in program.in_avals[len(shapes) :]]
    follower.run(program, [*tracked_parameters, *tracked_inputs])
    return follower


class Follower(EquationFollower):
    """Follows parameters through a program, and through the programs within it, into products.

    Attributes:
      depth: how many loops are around the program that is followed; the others are `EquationFollower`'s.
    """

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def run(self, program: Any, inputs: Sequence[TrackedValue]) -> list[TrackedValue]:
        """Returns what a program makes of followed values."""
        output_variables = getattr(program, "jaxpr", program).outvars
        values = run(program, inputs, self._rule)
        return [
            as_tracked(value, atom) for value, atom in zip(values, output_variables, strict=True)
        ]

    def _rule(self, equation: Any, values: list[Any]) -> list[TrackedValue]:
        values_and_variables = zip(values, equation.invars, strict=True)
        return self.equation(
            equation, [as_tracked(value, atom) for value, atom in values_and_variables]
        )

    def equation(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        """Returns the outputs of one equation, and notes its products."""
        follow_inner = _INNER_PROGRAMS.get(equation.primitive.name)
        if follow_inner is not None:
            return follow_inner(self, equation, inputs)
        return super().equation(equation, inputs)

    def _run_inner(
        self, program: Any, inputs: Sequence[TrackedValue]
    ) -> tuple[list[TrackedValue], Operations]:
        """Returns the outputs of a program, and its operations, which are not yet counted."""
        outer_operations = self.operations
        self.operations = Operations()
        outputs = self.run(program, inputs)
        inner_operations = self.operations
        self.operations = outer_operations
        return outputs, inner_operations

    def _settle_carry(
        self,
        program: Any,
        fixed: Sequence[TrackedValue],
        carry: Sequence[TrackedValue],
        rows: Sequence[TrackedValue],
    ) -> tuple[list[TrackedValue], list[TrackedValue], Operations]:
        """Returns what a loop carries in every iteration, the outputs of its program then, and operations.

        The carried values are followed until an iteration tells nothing new of them.
        """
        carry = [dataclasses.replace(value, fact=constants.UNKNOWN, value=None) for value in carry]
        while True:
            number_of_uses_before = len(self.uses)
            outputs, inner_operations = self._run_inner(program, [*fixed, *carry, *rows])
            next_carry = [
                self.merge_alternatives([earlier, later])
                for earlier, later in zip(carry, outputs, strict=False)
            ]
            is_settled = all(map(hold_same_elements, carry, next_carry))
            if is_settled:
                return carry, outputs, inner_operations
            # They are found again, with what the loop really carries.
            del self.uses[number_of_uses_before:]
            carry = next_carry

    def _follow_scan(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        _, carry, outputs, inner_operations = self._settle_scan(equation, inputs)
        self.operations.add(inner_operations, equation.params["length"])
        return [*carry, *map(self.emitted_rows, outputs[len(carry) :])]

    def entering_scan(self, equation: Any, inputs: Sequence[TrackedValue]) -> list[TrackedValue]:
        """Returns what enters the program of a scan in every iteration; its products are not noted."""
        number_of_uses_before = len(self.uses)
        entering, *_ = self._settle_scan(equation, inputs)
        del self.uses[number_of_uses_before:]
        return entering

    def _settle_scan(
        self, equation: Any, inputs: Sequence[TrackedValue]
    ) -> tuple[list[TrackedValue], list[TrackedValue], list[TrackedValue], Operations]:
        """Returns what enters its program, what it carries, the outputs of its program, and operations."""
        number_of_constants, number_of_carries = count_scan_inputs(equation)
        scanned_inputs = inputs[number_of_constants + number_of_carries :]
        scanned_variables = equation.invars[number_of_constants + number_of_carries :]
        rows = [
            self._row_of(value, atom.aval.shape)
            for value, atom in zip(scanned_inputs, scanned_variables, strict=True)
        ]
        self.depth += 1
        carry, outputs, inner_operations = self._settle_carry(
            equation.params["jaxpr"],
            inputs[:number_of_constants],
            inputs[number_of_constants : number_of_constants + number_of_carries],
            rows,
        )
        self.depth -= 1
        return [*inputs[:number_of_constants], *carry, *rows], carry, outputs, inner_operations

    def emitted_rows(self, value: TrackedValue) -> TrackedValue:
        """Returns what is known of the stacked rows that a loop emits, from what is known of one."""
        return self.activation() if value.active else TrackedValue()

    def _row_of(self, value: TrackedValue, shape: tuple[int, ...]) -> TrackedValue:
        row_views = tuple(views.iterated(view, shape, self.depth) for view in value.views)
        if value.active:
            return self.activation(views=row_views, looked_up=value.looked_up)
        return TrackedValue(row_views)

    def _follow_while(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        params = equation.params
        number_of_test_constants = params["cond_nconsts"]
        number_of_constants = number_of_test_constants + params["body_nconsts"]
        self.depth += 1
        carry, _, inner_operations = self._settle_carry(
            params["body_jaxpr"],
            inputs[number_of_test_constants:number_of_constants],
            inputs[number_of_constants:],
            [],
        )
        self.depth -= 1
        self.operations.add(inner_operations)
        return carry

    def _follow_cond(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        branch_results = [
            self._run_inner(branch, inputs[1:]) for branch in equation.params["branches"]
        ]
        self.operations.add(
            max(
                (inner_operations for _, inner_operations in branch_results),
                key=lambda result: result.total,
            )
        )
        return [
            self._merge_branches(result)
            for result in zip(
                *(branch_outputs for branch_outputs, _ in branch_results), strict=True
            )
        ]

    def _merge_branches(self, choices: Sequence[TrackedValue]) -> TrackedValue:
        """Returns what is known of one of several values; of several kernels, it has the axes of all."""
        common_value = self.merge_alternatives(choices)
        if common_value.views or not all(value.pure for value in choices):
            return common_value
        return TrackedValue(tuple(view.inexact() for view in union_of_views(choices)))

    def _follow_shard_map(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        """Follows the program of each shard: axes keep their roles, positions are the shard's own."""
        program = equation.params["jaxpr"]
        shard_inputs = [
            dataclasses.replace(
                value, views=tuple(dataclasses.replace(view, exact=False) for view in value.views)
            )
            for value in inputs
        ]
        outputs, inner_operations = self._run_inner(program, shard_inputs)
        self.operations.add(
            inner_operations, math.prod(dict(equation.params["mesh"].shape).values())
        )
        return outputs


_INNER_PROGRAMS: dict[str, Callable[[Follower, Any, list[TrackedValue]], list[TrackedValue]]] = {
    "scan": Follower._follow_scan,
    "while": Follower._follow_while,
    "cond": Follower._follow_cond,
    "shard_map": Follower._follow_shard_map,
}
