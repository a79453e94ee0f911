"""Which parameters are kernels of products, found in the program of a function that is not edited.

Each value of the program is followed with what it holds of the parameters (`views`); where such a value meets
one that depends on the inputs in a product, its axes have roles. Nothing is computed: shapes are enough.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.programs import constants, views
from jaxprune.programs.contractions import Contraction, Role, contraction, multiplications
from jaxprune.programs.factors import (
    echo_of,
    kernel_of,
    layered,
    longer,
    mixed,
    of_both,
    rest,
    shares,
    summed_outputs,
)
from jaxprune.programs.interpreter import run, scanned
from jaxprune.programs.moves import JOINED, MOVES
from jaxprune.programs.primitives import ADDITIONS, ELEMENTWISE, IDENTITIES
from jaxprune.programs.tracked import Tracked, alike, tracked, union
from jaxprune.programs.views import View

__all__ = ["Follower", "Operations", "Use", "follow"]


class Use(NamedTuple):
    """A product that a parameter is a factor of.

    Attributes:
      view: the factor, as an arrangement of the parameter.
      roles: of the axes of that arrangement.
      groups: of the product (see `contractions`).
      indicator: whether the other factor is a one-hot vector or the like.
      looked_up: whether the inputs have chosen which elements of the parameter these are.
      constant: whether the other factor is a constant, such as the first state of a recurrence.
      operand: index of the factor among the operands of the product.
    """

    view: View
    roles: tuple[Role, ...]
    groups: int
    indicator: bool
    looked_up: bool
    constant: bool
    operand: int


@dataclasses.dataclass
class Operations:
    """How much is multiplied in products: two operations for each product and its sum.

    Attributes:
      total: in all products.
      leaves: in those that a parameter is a factor of, by index of the leaf.
    """

    total: int = 0
    leaves: Counter[int] = dataclasses.field(default_factory=Counter)

    def add(self, other: "Operations", times: int = 1) -> None:
        """Adds another account, several times."""
        self.total += times * other.total
        for leaf, count in other.leaves.items():
            self.leaves[leaf] += times * count


def follow(fn: Callable[..., Any], params: Any, *inputs: Any) -> "Follower":
    """Follows the program of `fn(params, *inputs)`.

    Args:
      fn: any JAX function; it is traced, not run.
      params: tree of arrays, or of their shapes.
      *inputs: trees of arrays or of shapes.
    """
    program = jax.make_jaxpr(fn)(params, *inputs)
    leaves = jax.tree.leaves(params)
    follower = Follower()
    entering = [
        Tracked((views.of_leaf(index, np.shape(leaf)),)) for index, leaf in enumerate(leaves)
    ]
    data = [follower.activation() for _ in range(len(program.in_avals) - len(leaves))]
    follower.run(program, [*entering, *data])
    return follower


class Follower:
    """Follows parameters through a program into products.

    Attributes:
      uses: the products that were found.
      operations: what the program multiplies; of the branches of a condition the costliest counts, and a loop
        without a known end is one iteration.
      tables: indices of the leaves that inputs look up.
      adapters: indices of the leaves that are factors of low rank beside a kernel.
      layered: (leaf, axis) of outputs that index products of their own in a later kernel: members of an
        ensemble that share their inputs.
      summed: (leaf, axis) of outputs that a later product sums over; they are no members.
      mixed: indices of the leaves whose outputs are kernels themselves.
      opaque: names of operations without a rule that a leaf meets the inputs in, by its index.
      depth: how many loops are around the program that is followed.
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
        self.depth = 0

    def activation(self, **known: Any) -> Tracked:
        """A value that depends on the inputs."""
        self._names += 1
        return Tracked(active=True, name=self._names, **known)

    def run(self, program: Any, inputs: Sequence[Tracked]) -> list[Tracked]:
        """Returns what a program makes of followed values."""
        outputs = getattr(program, "jaxpr", program).outvars
        found = run(program, inputs, self._rule)
        return [tracked(value, atom) for value, atom in zip(found, outputs, strict=True)]

    def _rule(self, equation: Any, values: list[Any]) -> list[Tracked]:
        pairs = zip(values, equation.invars, strict=True)
        return self.equation(equation, [tracked(value, atom) for value, atom in pairs])

    def equation(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        """Returns the outputs of one equation, and notes its product if it is one."""
        name = equation.primitive.name
        product = contraction(equation)
        if product is not None:
            outputs = [self._product(equation, product, inputs[0], inputs[1])]
        elif name in _LOOPS:
            return _LOOPS[name](self, equation, inputs)
        elif name in MOVES:
            outputs = self._moved(equation, inputs)
        elif name in IDENTITIES:
            outputs = inputs[: len(equation.outvars)]
        elif name in ELEMENTWISE:
            outputs = [self._elementwise(equation, inputs)]
        else:
            outputs = self._unknown(equation, inputs)
        facts = constants.follow(equation, [value.fact for value in inputs])
        return [
            dataclasses.replace(out, fact=fact) if fact.known else out
            for out, fact in zip(outputs, facts, strict=True)
        ]

    # Products.

    def _product(
        self, equation: Any, product: Contraction, left: Tracked, right: Tracked
    ) -> Tracked:
        shapes = [atom.aval.shape for atom in equation.invars[:2]]
        output = equation.outvars[0].aval.shape
        counts = Operations(total=2 * multiplications(equation, shapes, output))
        operands = (left, right)
        kernel = kernel_of(operands, product)
        factors = {i: value.views for i, value in enumerate(operands) if value.pure}
        if kernel is not None:
            constant = operands[1 - kernel]
            noted = constant.active or constant.fact.known  # other constants are followed on
            for view in operands[kernel].views if noted else ():
                self._note(view, product, kernel, operands)
            factors = {kernel: operands[kernel].views}
        for operand, own in factors.items():
            for leaf, share in shares(own, shapes[operand]).items():
                counts.leaves[leaf] += round(share * counts.total)
        self.operations.add(counts)
        if left.active or right.active:
            self.summed |= summed_outputs(equation, product, operands)
            self.mixed |= mixed(equation, product, operands)
            echo = echo_of(equation, product, operands, output)
            if kernel is None:
                return self.activation(echo=echo)
            self.layered |= layered(equation, product, operands, kernel)
            return self.activation(echo=echo, chain=longer(equation, product, operands, kernel))
        if equation.primitive.name != "dot_general":
            self._lose(equation.primitive.name, operands)
            return Tracked()
        if kernel is not None and operands[1 - kernel].fact.known:
            return Tracked()  # of the zeros that a recurrence begins with
        both = of_both(product, [left.views, right.views], output)
        return Tracked(tuple(dataclasses.replace(v, by_constant=kernel is not None) for v in both))

    def _note(
        self, view: View, product: Contraction, kernel: int, operands: tuple[Tracked, Tracked]
    ) -> None:
        roles = product.roles[kernel]
        assert roles is not None
        along = [axis for axis, role in enumerate(roles) if role in ("in", "out")]
        spread = any(map(view.repeats, along)) and view.inner is None
        if (
            along and not spread
        ):  # otherwise it scales what it meets, or the kernel that it is a part of
            indicator = operands[1 - kernel].indicator
            looked_up = operands[kernel].looked_up
            constant = not operands[1 - kernel].active
            self.uses.append(
                Use(view, roles, product.groups, indicator, looked_up, constant, kernel)
            )

    # Everything else that is done to values.

    def _moved(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        name = equation.primitive.name
        arrays = inputs if name in JOINED else inputs[:1]
        indices = inputs[len(arrays) :] if name not in JOINED else []
        outputs = MOVES[name](equation, inputs)
        looked_up = any(value.active for value in indices) and not inputs[0].active
        if looked_up and name == "gather":
            self.tables |= {view.leaf for view in inputs[0].views}
        if not any(value.active for value in inputs):
            return [Tracked(tuple(own)) for own in outputs]
        if looked_up or all(value.looked_up for value in arrays if value.active):
            return [self.activation(views=tuple(own), looked_up=True) for own in outputs]
        same = name in _SAME_NUMBERS
        first = inputs[0]
        more = {"chain": first.chain, "indicator": first.indicator} if same else {}
        echoes = MOVES[name](
            equation, [dataclasses.replace(value, views=value.echo) for value in inputs]
        )
        found = [self.activation(echo=tuple(echo), **more) for echo in echoes]
        return [dataclasses.replace(out, name=first.name) if same else out for out in found]

    def _elementwise(self, equation: Any, inputs: list[Tracked]) -> Tracked:
        name = equation.primitive.name
        shape = equation.outvars[0].aval.shape
        pairs = zip(inputs, equation.invars, strict=True)
        full = [value for value, atom in pairs if atom.aval.shape == shape]
        if name in ADDITIONS or name == "sub":
            self._find_adapters(full, shape)
        active = [value for value in inputs if value.active]
        if not active:
            own = union(full)
            if name in ("mul", "div"):  # scales of groups are no kernels beside what they scale
                own = tuple(view for view in own if not view.partly_repeats()) or own
            return Tracked(own)
        (first, *others) = active
        if name == "convert_element_type":
            return dataclasses.replace(first, fact=constants.UNKNOWN)
        if name == "eq" and not any(value.fact.known for value in inputs):
            return self.activation(indicator=True)
        echo = tuple(dict.fromkeys(view for value in full for view in value.echo))
        looked_up = not others and first.looked_up and not any(value.pure for value in full)
        linear = name in ADDITIONS or name in ("sub", "mul", "div", "neg")
        chains = [value.chain for value in active if value.chain is not None]
        chain = min(chains, key=lambda own: len(own.leaves)) if linear and chains else None
        if chain is not None and others and name in ("mul", "div"):
            chain = None
        kept = first.views if looked_up else ()
        return self.activation(views=kept, looked_up=looked_up, chain=chain, echo=echo)

    def _find_adapters(self, values: Sequence[Tracked], shape: tuple[int, ...]) -> None:
        """Notes factors of low rank: of a sum `w + a @ b`, or of `x @ w + (x @ a) @ b`."""
        own = [view for value in values for view in value.views if value.pure]
        width = min((size for size in shape if size > 1), default=0)
        if any(
            view.inner is None and not any(map(view.repeats, range(len(shape)))) for view in own
        ):
            low = [v for v in own if v.inner and not v.by_constant and v.rank < width]
            self.adapters |= {view.leaf for view in low}
        chains = [value.chain for value in values if value.chain is not None]
        for chain in chains:
            short = [c for c in chains if c.root == chain.root and len(c.leaves) == 1]
            low_rank = len(chain.leaves) == 2 and chain.widths[1] < min(
                chain.widths[0], chain.widths[2]
            )
            if short and low_rank:
                self.adapters |= set(chain.leaves)

    def _unknown(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        name = equation.primitive.name
        if not any(value.active for value in inputs):
            return [Tracked() for _ in equation.outvars]
        if name not in _HARMLESS and not name.startswith(("reduce", "cum", "random", "arg")):
            self._lose(name, inputs)
        return [self.activation(echo=rest(equation, inputs, atom)) for atom in equation.outvars]

    def _lose(self, name: str, inputs: Sequence[Tracked]) -> None:
        """Notes that parameters enter an operation behind which they are not followed."""
        for view in (view for value in inputs if value.pure for view in value.views):
            self.opaque.setdefault(view.leaf, set()).add(name)

    # Programs within the program.

    def _inner(self, program: Any, inputs: Sequence[Tracked]) -> tuple[list[Tracked], Operations]:
        """What a program gives, and what it multiplies, which is not yet counted."""
        before = self.operations
        self.operations = Operations()
        outputs = self.run(program, inputs)
        inside = self.operations
        self.operations = before
        return outputs, inside

    def _settled(
        self,
        program: Any,
        fixed: Sequence[Tracked],
        carry: Sequence[Tracked],
        rows: Sequence[Tracked],
    ) -> tuple[list[Tracked], list[Tracked], Operations]:
        """What a loop carries on in every iteration, what its program gives then, and multiplies."""
        carry = [dataclasses.replace(value, fact=constants.UNKNOWN, value=None) for value in carry]
        while True:
            known = len(self.uses)
            outputs, inside = self._inner(program, [*fixed, *carry, *rows])
            after = [
                self.either([before, now]) for before, now in zip(carry, outputs, strict=False)
            ]
            settled = all(map(alike, carry, after))
            if settled:
                return carry, outputs, inside
            del self.uses[known:]  # they are found again, with what the loop really carries
            carry = after

    def either(self, choices: Sequence[Tracked]) -> Tracked:
        """What is known of a value that is one of several."""
        first = choices[0]
        same = all(value.views == first.views for value in choices)
        own = first.views if same else ()
        if any(value.active for value in choices):
            looked_up = same and all(value.looked_up or value.pure for value in choices)
            return self.activation(views=own if looked_up else (), looked_up=looked_up)
        return Tracked(own)

    def _scan(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        _, carry, outputs, inside = self._settled_scan(equation, inputs)
        self.operations.add(inside, equation.params["length"])
        return [*carry, *map(self.emitted, outputs[len(carry) :])]

    def entering_scan(self, equation: Any, inputs: Sequence[Tracked]) -> list[Tracked]:
        """What enters the program of a scan in each of its iterations; its products are not noted."""
        known = len(self.uses)
        entering, *_ = self._settled_scan(equation, inputs)
        del self.uses[known:]
        return entering

    def _settled_scan(
        self, equation: Any, inputs: Sequence[Tracked]
    ) -> tuple[list[Tracked], list[Tracked], list[Tracked], Operations]:
        """What enters its program, what it carries on, what its program gives and multiplies."""
        fixed, carried = scanned(equation)
        streams = inputs[fixed + carried :]
        atoms = equation.invars[fixed + carried :]
        rows = [
            self._row(value, atom.aval.shape) for value, atom in zip(streams, atoms, strict=True)
        ]
        self.depth += 1
        carry, outputs, inside = self._settled(
            equation.params["jaxpr"], inputs[:fixed], inputs[fixed : fixed + carried], rows
        )
        self.depth -= 1
        return [*inputs[:fixed], *carry, *rows], carry, outputs, inside

    def emitted(self, value: Tracked) -> Tracked:
        """What is known of the rows that a loop emits, from what is known of one."""
        return self.activation() if value.active else Tracked()

    def _row(self, value: Tracked, shape: tuple[int, ...]) -> Tracked:
        own = tuple(views.iterated(view, shape, self.depth) for view in value.views)
        if value.active:
            return self.activation(views=own, looked_up=value.looked_up)
        return Tracked(own)

    def _while(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        params = equation.params
        tests = params["cond_nconsts"]
        fixed = tests + params["body_nconsts"]
        self.depth += 1
        carry, _, inside = self._settled(
            params["body_jaxpr"], inputs[tests:fixed], inputs[fixed:], []
        )
        self.depth -= 1
        self.operations.add(inside)
        return carry

    def _cond(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        branches = [self._inner(branch, inputs[1:]) for branch in equation.params["branches"]]
        self.operations.add(max((inside for _, inside in branches), key=lambda own: own.total))
        return [self._of_branches(own) for own in zip(*(o for o, _ in branches), strict=True)]

    def _of_branches(self, choices: Sequence[Tracked]) -> Tracked:
        """One of several kernels is each of them, as far as axes go."""
        alike = self.either(choices)
        if alike.views or not all(value.pure for value in choices):
            return alike
        return Tracked(tuple(view.inexact() for view in union(choices)))

    def _shard_map(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        """A program of each shard: axes keep their roles, positions are the shard's own."""
        program = equation.params["jaxpr"]
        local = [
            dataclasses.replace(
                value, views=tuple(dataclasses.replace(v, exact=False) for v in value.views)
            )
            for value in inputs
        ]
        outputs, inside = self._inner(program, local)
        self.operations.add(inside, math.prod(dict(equation.params["mesh"].shape).values()))
        return outputs


_LOOPS: dict[str, Callable[[Follower, Any, list[Tracked]], list[Tracked]]] = {
    "scan": Follower._scan,
    "while": Follower._while,
    "cond": Follower._cond,
    "shard_map": Follower._shard_map,
}
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
