"""Runs a program while its parameters are followed, and reads statistics off each of its products.

What is read inside a loop leaves it as rows, one per iteration; branches of a condition that are not taken
give zeros. So the statistics are sums and the weights to divide them by, and views say to which indices of a
parameter they belong (`signals.placement`).
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.programs.interpreter import bind, count_scan_inputs, run, run_scan, trace
from jaxprune.programs.kernels import Follower
from jaxprune.programs.primitives import ELEMENTWISE, IDENTITIES, PRODUCTS, REARRANGING
from jaxprune.programs.readings import Observations, Product, Read, Record
from jaxprune.programs.tracked import Holder, TrackedValue, as_tracked
from jaxprune.programs.uses import Use
from jaxprune.programs.views import View, view_of_leaf

__all__ = ["observe"]


def observe(fn: Callable[..., Any], params: Any, inputs: Sequence[Any], read: Read) -> Observations:
    """Runs `fn(params, *inputs)` and reads a statistic off each product that a parameter is a factor of.

    Inside `jit` nothing is computed that is not used.

    Args:
      fn: any JAX function; its outputs do not matter.
      params: tree of arrays.
      inputs: trees of arrays.
      read: product -> what is to be computed of it; `None` if that is not known.

    Returns:
      What was read, and of which parameters nothing could be read.
    """
    program, _ = trace(fn, params, *inputs)
    parameter_leaves = jax.tree.leaves(params)
    evaluator = _Evaluator(read)
    tracked_parameters = [
        TrackedValue((view_of_leaf(index, jnp.shape(leaf)),), value=Holder(leaf))
        for index, leaf in enumerate(parameter_leaves)
    ]
    follower = evaluator.follower
    tracked_inputs = [
        dataclasses.replace(follower.activation(), value=Holder(leaf))
        for leaf in jax.tree.leaves(inputs)
    ]
    _, scope = evaluator.run_inside(program, [*tracked_parameters, *tracked_inputs])
    return Observations(scope.records, scope.emitted, evaluator.lost, follower)


@dataclasses.dataclass
class _Scope:
    """What is found while one program runs, as a whole or as the body of a loop or a branch.

    Attributes:
      products: of kernels.
      uses: (index of the product, use of a parameter in it).
      known: outputs of rearrangements that have been run, by what tells that they are the same again.
      records: what was read.
      emitted: arrays that leave the program: statistics, and computed indices.
    """

    products: list[Product] = dataclasses.field(default_factory=list)
    uses: list[tuple[int, Use]] = dataclasses.field(default_factory=list)
    known: dict[Hashable, list[TrackedValue]] = dataclasses.field(default_factory=dict)
    records: list[Record] = dataclasses.field(default_factory=list)
    emitted: list[Any] = dataclasses.field(default_factory=list)

    def join(self, inner: "_Scope", emitted: Sequence[Any], lengths: tuple[int, ...]) -> None:
        """Takes over what was read in a program within this one, with `lengths` of the loops around it."""
        offset = len(self.emitted)
        self.emitted += emitted
        for record in inner.records:
            self.records.append(
                record._replace(
                    use=record.use._replace(view=_shift_picks(record.use.view, offset)),
                    statistic=record.statistic + offset,
                    views=tuple(_shift_picks(view, offset) for view in record.views),
                    lengths=(*lengths, *record.lengths),
                )
            )


class _Evaluator:
    """Runs a program with values that a `Follower` follows, each with a holder of its array."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.follower = Follower()
        self.lost: set[int] = set()
        self.scope = _Scope()

    def run_inside(
        self, program: Any, inputs: Sequence[TrackedValue]
    ) -> tuple[list[TrackedValue], _Scope]:
        """Returns the outputs of a program, and what has been read in it."""
        outer_scope = self.scope
        self.scope = _Scope()
        output_variables = getattr(program, "jaxpr", program).outvars
        values = run(program, inputs, self._rule)
        self._read_products()
        inner_scope = self.scope
        self.scope = outer_scope
        return [
            as_tracked(value, atom) for value, atom in zip(values, output_variables, strict=True)
        ], inner_scope

    def _rule(self, equation: Any, values: list[Any]) -> list[TrackedValue]:
        values_and_variables = zip(values, equation.invars, strict=True)
        inputs = [as_tracked(value, atom) for value, atom in values_and_variables]
        primitive = equation.primitive.name
        if primitive == "scan":
            return self._run_scan(equation, inputs)
        if primitive == "cond":
            return self._run_cond(equation, inputs)
        key = _reuse_key(equation, inputs)
        if key is None:
            return self._equation(equation, inputs)
        if key not in self.scope.known:
            self.scope.known[key] = self._equation(equation, inputs)
        return self.scope.known[key]

    def _equation(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        number_of_uses_before = len(self.follower.uses)
        outputs = self.follower.equation(equation, inputs)
        arrays = bind(equation, [_array_of(value) for value in inputs])
        new_uses = self.follower.uses[number_of_uses_before:]
        primitive = equation.primitive.name
        if primitive in PRODUCTS and new_uses:
            product_index = self._note_product(equation, inputs, arrays[0], new_uses)
        else:
            self.lost |= {use.view.leaf for use in new_uses}
            product_index = self._continued_product(equation, inputs, arrays[0] if arrays else None)
        return [
            dataclasses.replace(output, value=Holder(array, product_index))
            for output, array in zip(outputs, arrays, strict=True)
        ]

    def _note_product(
        self, equation: Any, inputs: list[TrackedValue], output: jax.Array, uses: Sequence[Use]
    ) -> int:
        self._end_products(equation, inputs)
        operands = tuple(value.value for value in inputs if value.value is not None)
        product_index = len(self.scope.products)
        self.scope.products.append(Product(equation, uses[0].operand, operands, output))
        self.scope.uses += [(product_index, use) for use in uses]
        return product_index

    def _continued_product(
        self, equation: Any, inputs: list[TrackedValue], output: Any
    ) -> int | None:
        """Returns the index of the product that an elementwise equation continues; `None` if it does not."""
        active_holders = [
            value.value for value in inputs if value.active and value.value is not None
        ]
        product_indices = {holder.product for holder in active_holders}
        product_index = product_indices.pop() if len(product_indices) == 1 else None
        name = equation.primitive.name
        product = None if product_index is None else self.scope.products[product_index]
        if product is None or name not in ELEMENTWISE or output.shape != product.output.shape:
            self._end_products(equation, inputs)
            return None
        continues_output = any(holder.array is product.output for holder in active_holders)
        if continues_output and jnp.issubdtype(output.dtype, jnp.floating) and not product.ended:
            product.output = output
        if name == "mul":
            product.factors += [value for value in inputs if value.pure]
        return product_index

    def _end_products(self, equation: Any, inputs: Sequence[TrackedValue]) -> None:
        """Ends products whose activations another operation reads: what follows is a side branch.

        Sums on the side end nothing.
        """
        if not equation.primitive.name.startswith(("reduce_", "broadcast", "arg")):
            for value in inputs:
                if value.active and value.value is not None and value.value.product is not None:
                    self.scope.products[value.value.product].ended = True

    def _read_products(self) -> None:
        """Computes the statistics of the products of this program, once it has run."""
        emitted_indices: dict[Hashable, int] = {}
        readings = [self.read(product) for product in self.scope.products]
        for product_index, use in self.scope.uses:
            reading = readings[product_index]
            views_to_place = [use.view, *(reading.views if reading is not None else ())]
            if reading is None or not all(map(_has_known_positions, views_to_place)):
                self.lost.add(use.view.leaf)
                continue
            if reading.key not in emitted_indices:
                emitted_indices[reading.key] = len(self.scope.emitted)
                self.scope.emitted.append(reading.compute())
            kernel_view, *other_views = (
                self._number_picks(view, emitted_indices) for view in views_to_place
            )
            shape = self.scope.products[product_index].shape
            statistic_index = emitted_indices[reading.key]
            self.scope.records.append(
                Record(
                    use._replace(view=kernel_view),
                    shape,
                    statistic_index,
                    reading.layers,
                    reading.entries,
                    tuple(other_views),
                )
            )

    def _number_picks(self, view: View, emitted_indices: dict[Hashable, int]) -> View:
        """Returns the view with computed indices put into `emitted` and replaced by their places there."""
        for pick in view.picks:
            if pick.index not in emitted_indices:
                emitted_indices[pick.index] = len(self.scope.emitted)
                self.scope.emitted.append(jnp.reshape(pick.index.array, ()))
        picks = (pick._replace(index=emitted_indices[pick.index]) for pick in view.picks)
        return dataclasses.replace(view, picks=tuple(picks))

    # Programs within the program.

    def _run_scan(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        self._end_products(equation, inputs)
        entering = self.follower.entering_scan(equation, inputs)
        length = equation.params["length"]
        traced_iterations: list[tuple[list[TrackedValue], _Scope]] = []

        def iteration(stacked_arrays: list[Any]) -> list[Any]:
            outputs, scope = self.run_inside(
                equation.params["jaxpr"], _hold_arrays(entering, stacked_arrays)
            )
            traced_iterations.append((outputs, scope))
            return [*map(_array_of, outputs), *jax.tree.leaves(scope.emitted)]

        self.follower.depth += 1
        stacked_arrays = run_scan(
            equation, [_array_of(value) for value in inputs], iteration, length
        )
        self.follower.depth -= 1
        outputs, scope = traced_iterations[-1]  # JAX may trace the iteration several times
        output_arrays, emitted = _separate_emitted(stacked_arrays, len(outputs), scope.emitted)
        self.scope.join(scope, emitted, (length,))
        number_of_constants, number_of_carries = count_scan_inputs(equation)
        tracked_outputs = [
            *entering[number_of_constants : number_of_constants + number_of_carries],
            *map(self.follower.emitted_rows, outputs[number_of_carries:]),
        ]
        return _hold_arrays(tracked_outputs, output_arrays)

    def _run_cond(self, equation: Any, inputs: list[TrackedValue]) -> list[TrackedValue]:
        self._end_products(equation, inputs)
        branch_index, *operands = inputs
        branches = equation.params["branches"]
        operand_arrays = [_array_of(value) for value in operands]
        branch_runs = [self._traceable_branch(branch, operands) for branch in branches]
        shapes = [jax.eval_shape(run_branch, *operand_arrays)[1] for run_branch, _ in branch_runs]

        def branch_with_all_statistics(index: int) -> Callable[..., Any]:
            def run_one(*operand_arrays: Any) -> Any:
                outputs, emitted = branch_runs[index][0](*operand_arrays)
                others = [
                    emitted if position == index else jax.tree.map(_zeros, shape)
                    for position, shape in enumerate(shapes)
                ]
                return outputs, others

            return run_one

        padded_branches = [branch_with_all_statistics(index) for index in range(len(branches))]
        outputs, emitted = lax.switch(_array_of(branch_index), padded_branches, *operand_arrays)
        latest_runs = [runs[-1] for _, runs in branch_runs]
        for (_, scope), branch_emitted in zip(latest_runs, emitted, strict=True):
            self.scope.join(scope, branch_emitted, ())
        alternatives = zip(*(branch_outputs for branch_outputs, _ in latest_runs), strict=True)
        return _hold_arrays(
            [self.follower.merge_alternatives(branch_outputs) for branch_outputs in alternatives],
            outputs,
        )

    def _traceable_branch(
        self, branch: Any, operands: Sequence[TrackedValue]
    ) -> tuple[Callable[..., Any], list[tuple[list[TrackedValue], _Scope]]]:
        """Returns a function of arrays that runs a branch, and a list of its results, one per tracing."""
        traced_runs: list[tuple[list[TrackedValue], _Scope]] = []

        def run_branch(*arrays: Any) -> Any:
            outputs, scope = self.run_inside(branch, _hold_arrays(operands, arrays))
            traced_runs.append((outputs, scope))
            return [_array_of(value) for value in outputs], scope.emitted

        return run_branch, traced_runs


def _array_of(value: TrackedValue) -> Any:
    assert value.value is not None, "a value that is followed while the program runs"
    return value.value.array


def _hold_arrays(values: Sequence[TrackedValue], arrays: Sequence[Any]) -> list[TrackedValue]:
    values_and_arrays = zip(values, arrays, strict=True)
    return [dataclasses.replace(value, value=Holder(array)) for value, array in values_and_arrays]


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(shape.shape, shape.dtype)


def _separate_emitted(
    arrays: Sequence[Any], number_of_outputs: int, emitted: Any
) -> tuple[Sequence[Any], Any]:
    """Returns the outputs of a loop's own program, and the rows of what was read in it."""
    treedef = jax.tree.structure(emitted)
    return arrays[:number_of_outputs], jax.tree.unflatten(treedef, arrays[number_of_outputs:])


def _has_known_positions(view: View) -> bool:
    """Whether a view tells the positions of its elements."""
    return view.exact and all(pick.index is not None for pick in view.picks)


def _shift_picks(view: View, offset: int) -> View:
    picks = tuple(pick._replace(index=pick.index + offset) for pick in view.picks)
    return dataclasses.replace(view, picks=picks)


def _reuse_key(equation: Any, inputs: Sequence[TrackedValue]) -> Hashable | None:
    """Returns a key that is equal for equal rearrangements or computed indices; `None` for other equations.

    Libraries cast and reshape the input of each kernel anew; kernels of one input are to be known as such.
    """
    name = equation.primitive.name
    is_scalar_computation = name in ELEMENTWISE and all(
        out.aval.size == 1 for out in equation.outvars
    )
    if (
        name not in REARRANGING | IDENTITIES | {"convert_element_type"}
        and not is_scalar_computation
    ):
        return None
    operands = tuple(
        value.fact if value.fact.known and not value.views and not value.active else value.value
        for value in inputs
    )
    shapes = tuple(str(atom.aval) for atom in equation.invars)
    key = (name, operands, shapes, tuple(sorted(equation.params.items(), key=lambda item: item[0])))
    try:
        hash(key)
    except TypeError:  # a parameter that is a list or the like
        return None
    return key
