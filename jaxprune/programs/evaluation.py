"""Running a program while its parameters are followed, and reading something off each of its products.

What is read inside a loop leaves it as rows, one per iteration; of the branches of a condition those that are
not taken give zeros. So what is read are sums and what they are divided by, and views say to which indices of
a parameter they belong (`signals.placement`).
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.programs.interpreter import bind, repeated, run, scanned, trace
from jaxprune.programs.kernels import Follower, Use
from jaxprune.programs.primitives import ELEMENTWISE, IDENTITIES, PRODUCTS, REARRANGING
from jaxprune.programs.readings import Observed, Product, Read, Record
from jaxprune.programs.tracked import Held, Tracked, tracked
from jaxprune.programs.views import View, of_leaf

__all__ = ["observe"]


def observe(fn: Callable[..., Any], params: Any, inputs: Sequence[Any], read: Read) -> Observed:
    """Runs `fn(params, *inputs)` and reads something off each product that a parameter is a factor of.

    Inside `jit` nothing is computed that is not used.

    Args:
      fn: any JAX function; its outputs do not matter.
      params: tree of arrays.
      inputs: trees of arrays.
      read: product -> what is to be computed of it; `None` if that is not known.
    """
    program, _ = trace(fn, params, *inputs)
    leaves = jax.tree.leaves(params)
    evaluator = _Evaluator(read)
    kernels = [
        Tracked((of_leaf(index, jnp.shape(leaf)),), value=Held(leaf))
        for index, leaf in enumerate(leaves)
    ]
    follower = evaluator.follower
    data = [
        dataclasses.replace(follower.activation(), value=Held(leaf))
        for leaf in jax.tree.leaves(inputs)
    ]
    _, scope = evaluator.inside(program, [*kernels, *data])
    return Observed(scope.records, scope.emitted, evaluator.lost, follower)


@dataclasses.dataclass
class _Scope:
    """A program that is run as a whole: values of others around it do not leave it, but as what it gives."""

    products: list[Product] = dataclasses.field(default_factory=list)
    uses: list[tuple[int, Use]] = dataclasses.field(default_factory=list)
    known: dict[Hashable, list[Tracked]] = dataclasses.field(default_factory=dict)
    records: list[Record] = dataclasses.field(default_factory=list)
    emitted: list[Any] = dataclasses.field(default_factory=list)

    def join(self, inner: "_Scope", emitted: Sequence[Any], lengths: tuple[int, ...]) -> None:
        """Takes over what was read in a program within this one."""
        by = len(self.emitted)
        self.emitted += emitted
        for record in inner.records:
            self.records.append(
                record._replace(
                    use=record.use._replace(view=_shifted(record.use.view, by)),
                    statistic=record.statistic + by,
                    views=tuple(_shifted(view, by) for view in record.views),
                    lengths=(*lengths, *record.lengths),
                )
            )


class _Evaluator:
    """Values are followed by a `Follower`, each with what holds its array."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.follower = Follower()
        self.lost: set[int] = set()
        self.scope = _Scope()

    def inside(self, program: Any, inputs: Sequence[Tracked]) -> tuple[list[Tracked], _Scope]:
        """What a program gives, and what has been read in it."""
        around = self.scope
        self.scope = _Scope()
        outputs = getattr(program, "jaxpr", program).outvars
        found = run(program, inputs, self._rule)
        self._read_products()
        scope = self.scope
        self.scope = around
        return [tracked(value, atom) for value, atom in zip(found, outputs, strict=True)], scope

    def _rule(self, equation: Any, values: list[Any]) -> list[Tracked]:
        pairs = zip(values, equation.invars, strict=True)
        inputs = [tracked(value, atom) for value, atom in pairs]
        name = equation.primitive.name
        if name == "scan":
            return self._scan(equation, inputs)
        if name == "cond":
            return self._cond(equation, inputs)
        key = _same_again(equation, inputs)
        if key is None:
            return self._equation(equation, inputs)
        if key not in self.scope.known:
            self.scope.known[key] = self._equation(equation, inputs)
        return self.scope.known[key]

    def _equation(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        known = len(self.follower.uses)
        outputs = self.follower.equation(equation, inputs)
        arrays = bind(equation, [_array(value) for value in inputs])
        uses = self.follower.uses[known:]
        name = equation.primitive.name
        if name in PRODUCTS and uses:
            product = self._note(equation, inputs, arrays[0], uses)
        else:
            self.lost |= {use.view.leaf for use in uses}
            product = self._consequence(equation, inputs, arrays[0] if arrays else None)
        return [
            dataclasses.replace(out, value=Held(array, product))
            for out, array in zip(outputs, arrays, strict=True)
        ]

    def _note(
        self, equation: Any, inputs: list[Tracked], output: jax.Array, uses: Sequence[Use]
    ) -> int:
        self._end(equation, inputs)
        operands = tuple(value.value for value in inputs if value.value is not None)
        index = len(self.scope.products)
        self.scope.products.append(Product(equation, uses[0].operand, operands, output))
        self.scope.uses += [(index, use) for use in uses]
        return index

    def _consequence(self, equation: Any, inputs: list[Tracked], output: Any) -> int | None:
        """Index of the product that an equation goes on with entry by entry."""
        active = [value.value for value in inputs if value.active and value.value is not None]
        indices = {held.product for held in active}
        index = indices.pop() if len(indices) == 1 else None
        name = equation.primitive.name
        product = None if index is None else self.scope.products[index]
        if product is None or name not in ELEMENTWISE or output.shape != product.output.shape:
            self._end(equation, inputs)
            return None
        here = any(held.array is product.output for held in active)
        if here and jnp.issubdtype(output.dtype, jnp.floating) and not product.ended:
            product.output = output
        if name == "mul":
            product.factors += [value for value in inputs if value.pure]
        return index

    def _end(self, equation: Any, inputs: Sequence[Tracked]) -> None:
        """What is done to an activation after this is a side branch; sums on the side end nothing."""
        if not equation.primitive.name.startswith(("reduce_", "broadcast", "arg")):
            for value in inputs:
                if value.active and value.value is not None and value.value.product is not None:
                    self.scope.products[value.value.product].ended = True

    def _read_products(self) -> None:
        """Computes what is to be read off the products of this program, once it has run."""
        numbers: dict[Hashable, int] = {}
        readings = [self.read(product) for product in self.scope.products]
        for index, use in self.scope.uses:
            reading = readings[index]
            positions = [use.view, *(reading.views if reading is not None else ())]
            if reading is None or not all(map(_known, positions)):
                self.lost.add(use.view.leaf)
                continue
            if reading.key not in numbers:
                numbers[reading.key] = len(self.scope.emitted)
                self.scope.emitted.append(reading.compute())
            view, *views = (self._numbered(view, numbers) for view in positions)
            shape = self.scope.products[index].shape
            statistic = numbers[reading.key]
            self.scope.records.append(
                Record(
                    use._replace(view=view),
                    shape,
                    statistic,
                    reading.layers,
                    reading.entries,
                    tuple(views),
                )
            )

    def _numbered(self, view: View, numbers: dict[Hashable, int]) -> View:
        """The view, with its computed places among what is emitted."""
        for pick in view.picks:
            if pick.index not in numbers:
                numbers[pick.index] = len(self.scope.emitted)
                self.scope.emitted.append(jnp.reshape(pick.index.array, ()))
        picks = (pick._replace(index=numbers[pick.index]) for pick in view.picks)
        return dataclasses.replace(view, picks=tuple(picks))

    # Programs within the program.

    def _scan(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        self._end(equation, inputs)
        entering = self.follower.entering_scan(equation, inputs)
        length = equation.params["length"]
        runs: list[tuple[list[Tracked], _Scope]] = []

        def iteration(arrays: list[Any]) -> list[Any]:
            outputs, scope = self.inside(equation.params["jaxpr"], _holding(entering, arrays))
            runs.append((outputs, scope))
            return [*map(_array, outputs), *jax.tree.leaves(scope.emitted)]

        self.follower.depth += 1
        arrays = repeated(equation, [_array(value) for value in inputs], iteration, length)
        self.follower.depth -= 1
        outputs, scope = runs[-1]  # JAX may trace the iteration several times
        given, emitted = _apart(arrays, len(outputs), scope.emitted)
        self.scope.join(scope, emitted, (length,))
        fixed, carried = scanned(equation)
        known = [*entering[fixed : fixed + carried], *map(self.follower.emitted, outputs[carried:])]
        return _holding(known, given)

    def _cond(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        self._end(equation, inputs)
        choice, *given = inputs
        branches = equation.params["branches"]
        arrays = [_array(value) for value in given]
        found = [self._branch(branch, given) for branch in branches]
        shapes = [jax.eval_shape(run_branch, *arrays)[1] for run_branch, _ in found]

        def with_all(index: int) -> Callable[..., Any]:
            def run_one(*arrays: Any) -> Any:
                outputs, emitted = found[index][0](*arrays)
                others = [
                    emitted if place == index else jax.tree.map(_zeros, shape)
                    for place, shape in enumerate(shapes)
                ]
                return outputs, others

            return run_one

        every = [with_all(index) for index in range(len(branches))]
        outputs, emitted = lax.switch(_array(choice), every, *arrays)
        latest = [runs[-1] for _, runs in found]
        for (_, scope), own in zip(latest, emitted, strict=True):
            self.scope.join(scope, own, ())
        choices = zip(*(known for known, _ in latest), strict=True)
        return _holding([self.follower.either(known) for known in choices], outputs)

    def _branch(
        self, branch: Any, given: Sequence[Tracked]
    ) -> tuple[Callable[..., Any], list[tuple[list[Tracked], _Scope]]]:
        """A function of arrays that runs a branch, and what it finds each time that JAX traces it."""
        runs: list[tuple[list[Tracked], _Scope]] = []

        def run_branch(*arrays: Any) -> Any:
            outputs, scope = self.inside(branch, _holding(given, arrays))
            runs.append((outputs, scope))
            return [_array(value) for value in outputs], scope.emitted

        return run_branch, runs


def _array(value: Tracked) -> Any:
    assert value.value is not None, "a value that is followed while the program runs"
    return value.value.array


def _holding(values: Sequence[Tracked], arrays: Sequence[Any]) -> list[Tracked]:
    pairs = zip(values, arrays, strict=True)
    return [dataclasses.replace(value, value=Held(array)) for value, array in pairs]


def _zeros(shape: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.zeros(shape.shape, shape.dtype)


def _apart(arrays: Sequence[Any], outputs: int, emitted: Any) -> tuple[Sequence[Any], Any]:
    """What a loop's own program gives, and the rows of what was read in it."""
    structure = jax.tree.structure(emitted)
    return arrays[:outputs], jax.tree.unflatten(structure, arrays[outputs:])


def _known(view: View) -> bool:
    """Whether a view tells the positions of its elements."""
    return view.exact and all(pick.index is not None for pick in view.picks)


def _shifted(view: View, by: int) -> View:
    picks = tuple(pick._replace(index=pick.index + by) for pick in view.picks)
    return dataclasses.replace(view, picks=picks)


def _same_again(equation: Any, inputs: Sequence[Tracked]) -> Hashable | None:
    """What tells whether a rearrangement, or a computed index, is one that has been computed before.

    Libraries cast and reshape the input of each kernel anew; kernels of one input are to be known as such.
    """
    name = equation.primitive.name
    small = name in ELEMENTWISE and all(out.aval.size == 1 for out in equation.outvars)
    if name not in REARRANGING | IDENTITIES | {"convert_element_type"} and not small:
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
