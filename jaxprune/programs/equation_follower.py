"""Follows parameters through single equations: products, elementwise operations, rearrangements."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxprune.programs import constants
from jaxprune.programs.contractions import Contraction, contraction, multiplications
from jaxprune.programs.factors import (
    extended_chain,
    index_of_kernel,
    layered_outputs,
    mixed_kernels,
    parameter_shares,
    product_echo,
    product_views,
    remaining_echo,
    summed_outputs,
)
from jaxprune.programs.moves import JOINED, MOVES
from jaxprune.programs.primitives import ADDITIONS, ELEMENTWISE, IDENTITIES
from jaxprune.programs.tracked import TrackedValue, union_of_views
from jaxprune.programs.uses import Operations, Use
from jaxprune.programs.views import View

__all__ = ["EquationFollower"]


class EquationFollower:
    """Follows parameters through equations into products.

    Attributes:
      uses: the products that were found.
      operations: number of operations of the program; of the branches of a condition the costliest counts,
        and a loop without a known end is one iteration.
      tables: indices of the leaves that inputs look up.
      adapters: indices of the leaves that are factors of low rank beside a kernel.
      layered: (leaf, axis) of outputs that index products of their own in a later kernel: members of an
        ensemble that share their inputs.
      summed: (leaf, axis) of outputs that a later product sums over; they are no members.
      mixed: indices of the leaves whose outputs are kernels themselves.
      opaque: by index of a leaf, names of operations without a rule in which it meets the inputs.
    """

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.operations = Operations()
        self.tables: set[int] = set()
        self.adapters: set[int] = set()
        self.layered: set[tuple[int, int]] = set()
        self.summed: set[tuple[int, int]] = set()
        self.mixed: set[int] = set()
        self.opaque: dict[int, set[str]] = {}
        self._names = 0

    def activation(self, **attributes: Any) -> TrackedValue:
        """Returns a new value that depends on the inputs."""
        self._names += 1
        return TrackedValue(active=True, name=self._names, **attributes)

    def merge_alternatives(self, choices: Sequence[TrackedValue]) -> TrackedValue:
        """Returns what is known of a value that is one of several."""
        first_choice = choices[0]
        all_equal = all(value.views == first_choice.views for value in choices)
        shared_views = first_choice.views if all_equal else ()
        if any(value.active for value in choices):
            looked_up = all_equal and all(value.looked_up or value.pure for value in choices)
            return self.activation(views=shared_views if looked_up else (), looked_up=looked_up)
        return TrackedValue(shared_views)

    def equation(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        """Returns the outputs of one equation, and notes its product if it is one."""
        primitive = equation.primitive.name
        product = contraction(equation)
        if product is not None:
            outputs = [self._follow_product(equation, product, inputs[0], inputs[1])]
        elif primitive in MOVES:
            outputs = self._follow_move(equation, inputs)
        elif primitive in IDENTITIES:
            outputs = inputs[: len(equation.outvars)]
        elif primitive in ELEMENTWISE:
            outputs = [self._follow_elementwise(equation, inputs)]
        else:
            outputs = self._follow_unknown(equation, inputs)
        facts = constants.propagate_equation(equation, [value.fact for value in inputs])
        return [
            dataclasses.replace(output, fact=fact) if fact.known else output
            for output, fact in zip(outputs, facts, strict=True)
        ]

    # Products.

    def _follow_product(
        self, equation: Any, product: Contraction, left: TrackedValue, right: TrackedValue
    ) -> TrackedValue:
        operand_shapes = [atom.aval.shape for atom in equation.invars[:2]]
        output_shape = equation.outvars[0].aval.shape
        operations = Operations(total=2 * multiplications(equation, operand_shapes, output_shape))
        operands = (left, right)
        kernel_operand = index_of_kernel(operands, product)
        factors = {
            operand_index: value.views for operand_index, value in enumerate(operands) if value.pure
        }
        if kernel_operand is not None:
            other_operand = operands[1 - kernel_operand]
            # Products with other constants stay what they are, parameters, and are followed on.
            is_noted = other_operand.active or other_operand.fact.known
            for view in operands[kernel_operand].views if is_noted else ():
                self._note_use(view, product, kernel_operand, operands)
            factors = {kernel_operand: operands[kernel_operand].views}
        for operand, operand_views in factors.items():
            for leaf, share in parameter_shares(operand_views, operand_shapes[operand]).items():
                operations.leaves[leaf] += round(share * operations.total)
        self.operations.add(operations)
        if left.active or right.active:
            self.summed |= summed_outputs(equation, product, operands)
            self.mixed |= mixed_kernels(equation, product, operands)
            echo = product_echo(equation, product, operands, output_shape)
            if kernel_operand is None:
                return self.activation(echo=echo)
            self.layered |= layered_outputs(equation, product, operands, kernel_operand)
            return self.activation(
                echo=echo, chain=extended_chain(equation, product, operands, kernel_operand)
            )
        if equation.primitive.name != "dot_general":
            self._note_opaque(equation.primitive.name, operands)
            return TrackedValue()
        if kernel_operand is not None and operands[1 - kernel_operand].fact.known:
            return TrackedValue()  # of the zeros that a recurrence begins with
        views_of_product = product_views(product, [left.views, right.views], output_shape)
        return TrackedValue(
            tuple(
                dataclasses.replace(view, by_constant=kernel_operand is not None)
                for view in views_of_product
            )
        )

    def _note_use(
        self,
        view: View,
        product: Contraction,
        kernel: int,
        operands: tuple[TrackedValue, TrackedValue],
    ) -> None:
        roles = product.roles[kernel]
        assert roles is not None
        product_axes = [axis for axis, role in enumerate(roles) if role in ("in", "out")]
        # A factor that repeats itself scales what it meets, or the kernel that it is a part of.
        is_scale = any(map(view.repeats, product_axes)) and view.inner is None
        if product_axes and not is_scale:
            indicator = operands[1 - kernel].indicator
            looked_up = operands[kernel].looked_up
            constant = not operands[1 - kernel].active
            self.uses.append(
                Use(view, roles, product.groups, indicator, looked_up, constant, kernel)
            )

    # All other equations.

    def _follow_move(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        primitive = equation.primitive.name
        moved_operands = inputs if primitive in JOINED else inputs[:1]
        indices = inputs[len(moved_operands) :] if primitive not in JOINED else []
        outputs = MOVES[primitive](equation, inputs)
        looked_up = any(value.active for value in indices) and not inputs[0].active
        if looked_up and primitive == "gather":
            self.tables |= {view.leaf for view in inputs[0].views}
        if not any(value.active for value in inputs):
            return [TrackedValue(tuple(output_views)) for output_views in outputs]
        if looked_up or all(value.looked_up for value in moved_operands if value.active):
            return [
                self.activation(views=tuple(output_views), looked_up=True)
                for output_views in outputs
            ]
        keeps_elements = primitive in _SAME_NUMBERS
        first_input = inputs[0]
        kept_attributes = (
            {"chain": first_input.chain, "indicator": first_input.indicator}
            if keeps_elements
            else {}
        )
        echoes = MOVES[primitive](
            equation, [dataclasses.replace(value, views=value.echo) for value in inputs]
        )
        outputs_with_echo = [
            self.activation(echo=tuple(echo), **kept_attributes) for echo in echoes
        ]
        return [
            dataclasses.replace(output, name=first_input.name) if keeps_elements else output
            for output in outputs_with_echo
        ]

    def _follow_elementwise(self, equation: Any, inputs: list[TrackedValue]) -> TrackedValue:
        primitive = equation.primitive.name
        shape = equation.outvars[0].aval.shape
        inputs_and_variables = zip(inputs, equation.invars, strict=True)
        full_size_inputs = [
            value for value, atom in inputs_and_variables if atom.aval.shape == shape
        ]
        if primitive in ADDITIONS or primitive == "sub":
            self._find_adapters(full_size_inputs, shape)
        active_inputs = [value for value in inputs if value.active]
        if not active_inputs:
            merged_views = union_of_views(full_size_inputs)
            if primitive in ("mul", "div"):
                # Scales of groups are no kernels beside what they scale.
                kernel_views = tuple(view for view in merged_views if not view.partly_repeats())
                return TrackedValue(kernel_views or merged_views)
            return TrackedValue(merged_views)
        (first_active, *other_active) = active_inputs
        if primitive == "convert_element_type":
            return dataclasses.replace(first_active, fact=constants.UNKNOWN)
        if primitive == "eq" and not any(value.fact.known for value in inputs):
            return self.activation(indicator=True)
        echo = tuple(dict.fromkeys(view for value in full_size_inputs for view in value.echo))
        looked_up = (
            not other_active
            and first_active.looked_up
            and not any(value.pure for value in full_size_inputs)
        )
        is_linear = primitive in ADDITIONS or primitive in ("sub", "mul", "div", "neg")
        chains = [value.chain for value in active_inputs if value.chain is not None]
        shortest_chain = (
            min(chains, key=lambda chain: len(chain.leaves)) if is_linear and chains else None
        )
        if shortest_chain is not None and other_active and primitive in ("mul", "div"):
            shortest_chain = None
        kept_views = first_active.views if looked_up else ()
        return self.activation(
            views=kept_views, looked_up=looked_up, chain=shortest_chain, echo=echo
        )

    def _find_adapters(self, values: Sequence[TrackedValue], shape: tuple[int, ...]) -> None:
        """Notes factors of low rank: of a sum `w + a @ b`, or of `x @ w + (x @ a) @ b`."""
        parameter_views = [view for value in values for view in value.views if value.pure]
        width = min((size for size in shape if size > 1), default=0)
        if any(
            view.inner is None and not any(map(view.repeats, range(len(shape))))
            for view in parameter_views
        ):
            low_rank_views = [
                view
                for view in parameter_views
                if view.inner and not view.by_constant and view.rank < width
            ]
            self.adapters |= {view.leaf for view in low_rank_views}
        chains = [value.chain for value in values if value.chain is not None]
        for chain in chains:
            single_kernel_chains = [
                candidate
                for candidate in chains
                if candidate.root == chain.root and len(candidate.leaves) == 1
            ]
            is_low_rank = len(chain.leaves) == 2 and chain.widths[1] < min(
                chain.widths[0], chain.widths[2]
            )
            if single_kernel_chains and is_low_rank:
                self.adapters |= set(chain.leaves)

    def _follow_unknown(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        primitive = equation.primitive.name
        if not any(value.active for value in inputs):
            return [TrackedValue() for _ in equation.outvars]
        if primitive not in _HARMLESS and not primitive.startswith(
            ("reduce", "cum", "random", "arg")
        ):
            self._note_opaque(primitive, inputs)
        return [
            self.activation(echo=remaining_echo(equation, inputs, atom))
            for atom in equation.outvars
        ]

    def _note_opaque(self, name: str, inputs: Sequence[TrackedValue]) -> None:
        """Notes that parameters enter an operation behind which they are not followed."""
        for view in (view for value in inputs if value.pure for view in value.views):
            self.opaque.setdefault(view.leaf, set()).add(name)


_SAME_NUMBERS = ("broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose")
_HARMLESS = frozenset(
    {
        "bitcast_convert_type",
        "debug_callback",
        "iota",
        "psum",
        "psum_invariant",
        "scatter",
        "scatter-add",
        "select_and_scatter_add",
        "sort",
        "top_k",
    }
)
