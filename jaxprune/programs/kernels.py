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
from jaxprune.programs.interpreter import run, scanned
from jaxprune.programs.primitives import ADDITIONS, ELEMENTWISE, IDENTITIES, REDUCING
from jaxprune.programs.views import View

__all__ = ["Follower", "Held", "Operations", "Tracked", "Use", "follow", "tracked"]


class Held:
    """An array while the program runs, told from others by identity: tracers are neither compared nor hashed.

    Attributes:
      array: of any kind.
      product: index of the product that it is an elementwise consequence of, for who follows those.
    """

    __slots__ = ("array", "product")

    def __init__(self, array: Any, product: int | None = None) -> None:
        self.array = array
        self.product = product


class Chain(NamedTuple):
    """Products one after the other, with nothing but factors and sums with parameters between them.

    Attributes:
      root: what the first of them multiplies.
      leaves: indices of their kernels.
      widths: how many numbers each sums over, and the number that the last gives, per example.
    """

    root: int
    leaves: tuple[int, ...]
    widths: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Tracked:
    """A value of the program.

    Attributes:
      views: the parameters of which it is made element by element.
      active: whether it depends on the inputs.
      looked_up: whether it depends on them only as to which elements of a parameter it has.
      indicator: whether it is made of comparisons for equality, as a one-hot vector is.
      echo: of what depends on the inputs, along which of its axes the outputs of kernels lie.
      fact: what is known of it before the program runs.
      name: tells apart values that depend on the inputs; what only looks different has the same.
      chain: the products that it is the end of.
      value: holds the array, while the program runs.
    """

    views: tuple[View, ...] = ()
    active: bool = False
    looked_up: bool = False
    indicator: bool = False
    echo: tuple[View, ...] = ()
    fact: constants.Fact = constants.UNKNOWN
    name: int | None = None
    chain: Chain | None = None
    value: Held | None = None

    @property
    def pure(self) -> bool:
        """Whether parameters alone decide it, and it holds their elements."""
        return bool(self.views) and not self.active


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
      opaque: names of operations without a rule that a leaf meets the inputs in, by its index.
      depth: how many loops are around the program that is followed.
    """

    def __init__(self) -> None:
        self.uses: list[Use] = []
        self.operations = Operations()
        self.tables: set[int] = set()
        self.adapters: set[int] = set()
        self.layered: set[tuple[int, int]] = set()
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
        elif name in _MOVES:
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
        kernel = _kernel_of(operands, product)
        factors = {i: value.views for i, value in enumerate(operands) if value.pure}
        if kernel is not None:
            for view in operands[kernel].views:
                self._note(view, product, kernel, operands)
            factors = {kernel: operands[kernel].views}
        for operand, own in factors.items():
            for leaf, share in _shares(own, shapes[operand]).items():
                counts.leaves[leaf] += round(share * counts.total)
        self.operations.add(counts)
        if left.active or right.active:
            echo = _echo(equation, product, operands, output)
            if kernel is None:
                return self.activation(echo=echo)
            self.layered |= _layered(equation, product, operands, kernel)
            return self.activation(echo=echo, chain=_longer(equation, product, operands, kernel))
        if equation.primitive.name != "dot_general" or not (left.views and right.views):
            return Tracked()
        return Tracked(_of_both(product, [left.views, right.views], output))

    def _note(
        self, view: View, product: Contraction, kernel: int, operands: tuple[Tracked, Tracked]
    ) -> None:
        roles = product.roles[kernel]
        assert roles is not None
        scales = [
            axis
            for axis, role in enumerate(roles)
            if role in ("in", "out") and view.repeats(axis) and view.inner is None
        ]
        if not scales:  # otherwise it is spread over the kernel, as a scale of its outputs is
            indicator = operands[1 - kernel].indicator
            looked_up = operands[kernel].looked_up
            constant = not operands[1 - kernel].active
            self.uses.append(
                Use(view, roles, product.groups, indicator, looked_up, constant, kernel)
            )

    # Everything else that is done to values.

    def _moved(self, equation: Any, inputs: list[Tracked]) -> list[Tracked]:
        name = equation.primitive.name
        arrays = inputs if name in _JOINED else inputs[:1]
        indices = inputs[len(arrays) :] if name not in _JOINED else []
        outputs = _MOVES[name](equation, inputs)
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
        echoes = _MOVES[name](
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
            return Tracked(_union(full))
        (first, *others) = active
        if name == "convert_element_type":
            return dataclasses.replace(first, fact=constants.UNKNOWN)
        if name == "eq":
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
            self.adapters |= {view.leaf for view in own if view.inner and view.rank < width}
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
            for view in (view for value in inputs if value.pure for view in value.views):
                self.opaque.setdefault(view.leaf, set()).add(name)
        return [self.activation(echo=_rest(equation, inputs, atom)) for atom in equation.outvars]

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
            settled = all(map(_alike, carry, after))
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
        return [self.either(own) for own in zip(*(outputs for outputs, _ in branches), strict=True)]

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


def tracked(value: Any, atom: Any) -> Tracked:
    """A followed value, or a constant of the program."""
    if isinstance(value, Tracked):
        return value
    return Tracked(fact=constants.constant(value, atom.aval), value=Held(value))


def _alike(a: Tracked, b: Tracked) -> bool:
    return (a.active, a.looked_up, a.views) == (b.active, b.looked_up, b.views)


def _union(values: Sequence[Tracked]) -> tuple[View, ...]:
    return tuple(dict.fromkeys(view for value in values for view in value.views))


def _kernel_of(operands: tuple[Tracked, Tracked], product: Contraction) -> int | None:
    """Which operand is the kernel: parameters meet what depends on inputs; `None` if neither or both."""
    for pure in (
        True,
        False,
    ):  # what inputs have looked up is a kernel only if the other operand is none
        kernels = [
            index
            for index, value in enumerate(operands)
            if value.views and (value.pure if pure else value.looked_up)
        ]
        if len(kernels) == 1 and (pure or operands[1 - kernels[0]].active):
            return kernels[0] if product.roles[kernels[0]] is not None else None
        if kernels:
            return None
    return None


def _longer(
    equation: Any, product: Contraction, operands: tuple[Tracked, Tracked], kernel: int
) -> Chain | None:
    """The chain of products that ends with this one."""
    leaves = {view.leaf for view in operands[kernel].views}
    other = operands[1 - kernel]
    if len(leaves) != 1 or other.name is None or equation.primitive.name != "dot_general":
        return None
    shape = equation.invars[kernel].aval.shape
    width = math.prod(shape[axis] for axis in product.axes(kernel, "out"))
    if other.chain is not None:
        before = other.chain
        return Chain(before.root, (*before.leaves, *leaves), (*before.widths, width))
    summed = math.prod(shape[axis] for axis in product.axes(kernel, "in"))
    return Chain(other.name, tuple(leaves), (summed, width))


def _rest(equation: Any, inputs: list[Tracked], output: Any) -> tuple[View, ...]:
    """The echo in what a reduction, or what else keeps the shape, leaves of its first operand."""
    shape = _shape(equation)
    gone = equation.params.get("axes", ()) if equation.primitive.name in REDUCING else ()
    left = tuple(size for axis, size in enumerate(shape) if axis not in gone)
    if left != output.aval.shape:
        return ()
    return tuple(views.squeezed(view, gone) for view in inputs[0].echo)


def _shares(own: Sequence[View], shape: tuple[int, ...]) -> dict[int, float]:
    """By leaf, how much of an operand is made of it."""
    shares: dict[int, float] = {}
    for view in own:
        covered = math.prod(map(view.extent, range(len(shape)))) / max(math.prod(shape), 1)
        share = min(covered, 1.0) if view.exact else 1.0
        shares[view.leaf] = max(share, shares.get(view.leaf, 0.0))
    return shares


def _echo(
    equation: Any,
    product: Contraction,
    operands: tuple[Tracked, Tracked],
    shape: tuple[int, ...],
) -> tuple[View, ...]:
    """Where in the result of a product the outputs of its kernel lie, and of those before it."""
    own = [value.echo if value.active else value.views for value in operands]
    if equation.primitive.name == "dot_general":
        return _of_both(product, own, shape)
    if equation.primitive.name != "conv_general_dilated":
        return ()
    spec = equation.params["dimension_numbers"]
    kept: list[list[int | None]] = [[None] * len(shape) for _ in operands]
    kept[0][spec.out_spec[0]] = spec.lhs_spec[0]
    kept[1][spec.out_spec[1]] = spec.rhs_spec[0]
    return tuple(
        views.contracted(view, (), kept[operand], shape)
        for operand in (0, 1)
        for view in own[operand]
    )


def _layered(
    equation: Any, product: Contraction, operands: tuple[Tracked, Tracked], kernel: int
) -> set[tuple[int, int]]:
    """(leaf, axis) of the outputs of earlier kernels each index of which meets a kernel of its own here."""
    other = operands[1 - kernel]
    if equation.primitive.name == "conv_general_dilated":
        spec = equation.params["dimension_numbers"]
        members = [view.axes[spec.rhs_spec[0]][0].size for view in operands[kernel].views]
        splits = any(len(view.axes[spec.rhs_spec[0]]) > 1 for view in operands[kernel].views)
        if product.groups == 1 or not splits or product.groups not in members:
            return set()
        leading = [(view, view.axes[spec.lhs_spec[1]][:1]) for view in other.echo]
        found = [(v.leaf, d.axis) for v, own in leading for d in own if d.size == product.groups]
    else:
        batch = product.axes(1 - kernel, "batch")
        found = [
            (view.leaf, digit.axis)
            for view in other.echo
            for axis in batch
            for digit in view.axes[axis]
        ]
    return {(leaf, axis) for leaf, axis in found if axis >= 0}


def _of_both(
    product: Contraction, operands: Sequence[Sequence[View]], shape: tuple[int, ...]
) -> tuple[View, ...]:
    """What a matrix product holds of both operands: of two parameters, those of a low-rank update."""
    batch = [product.axes(operand, "batch") for operand in (0, 1)]
    free = [product.axes(operand, "out") for operand in (0, 1)]
    nothing = [(None,) * len(own) for own in free]
    kept = [(*batch[0], *free[0], *nothing[1]), (*batch[1], *nothing[0], *free[1])]
    return tuple(
        views.contracted(view, product.axes(operand, "in"), kept[operand], shape)
        for operand, own in enumerate(operands)
        for view in own
    )


# What moves values about: (equation, inputs) -> per output, the views of it.

_Moved = Sequence[Sequence[View]]


def _each(move: Callable[[Any, View], View | None]) -> Callable[[Any, list[Tracked]], _Moved]:
    """The move of one operand, whatever the others are."""

    def moved(equation: Any, inputs: list[Tracked]) -> _Moved:
        found = [move(equation, view) for view in inputs[0].views]
        return [[view for view in found if view is not None]]

    return moved


def _shape(equation: Any, operand: int = 0) -> tuple[int, ...]:
    return equation.invars[operand].aval.shape


def _transpose(equation: Any, view: View) -> View:
    return views.transposed(view, equation.params["permutation"])


def _squeeze(equation: Any, view: View) -> View:
    return views.squeezed(view, equation.params["dimensions"])


def _expand_dims(equation: Any, view: View) -> View:
    return views.inserted(view, equation.params["dimensions"])


def _broadcast_in_dim(equation: Any, view: View) -> View:
    params = equation.params
    return views.broadcast(view, _shape(equation), params["shape"], params["broadcast_dimensions"])


def _reshape(equation: Any, view: View) -> View:
    shape = _shape(equation)
    order = equation.params["dimensions"]
    if order is not None:  # in which the axes are read
        view = views.transposed(view, order)
        shape = tuple(shape[axis] for axis in order)
    return views.reshaped(view, shape, equation.outvars[0].aval.shape)


def _slice(equation: Any, view: View) -> View | None:
    params = equation.params
    return views.sliced(
        view,
        _shape(equation),
        params["start_indices"],
        params["limit_indices"],
        params["strides"],
    )


def _rev(equation: Any, view: View) -> View:
    return views.reversed_along(view, _shape(equation), equation.params["dimensions"])


def _dynamic_slice(equation: Any, inputs: list[Tracked]) -> _Moved:
    shape = _shape(equation)
    sizes = equation.params["slice_sizes"]
    found = inputs[0].views
    for axis, (size, index) in enumerate(zip(sizes, inputs[1:], strict=True)):
        if size != shape[axis]:
            found = [view for old in found if (view := _from(old, shape, axis, size, index))]
        shape = (*shape[:axis], size, *shape[axis + 1 :])
    return [found]


def _from(view: View, shape: tuple[int, ...], axis: int, size: int, index: Tracked) -> View | None:
    """Some indices of one axis, from one on that may be known."""
    if not index.fact.known:
        return views.picked(view, shape, axis, size, index.value)
    first = min(max(int(index.fact.value), 0), shape[axis] - size)
    start = [first if i == axis else 0 for i in range(len(shape))]
    limit = [first + size if i == axis else n for i, n in enumerate(shape)]
    return views.sliced(view, shape, start, limit)


def _gather(equation: Any, inputs: list[Tracked]) -> _Moved:
    numbers = equation.params["dimension_numbers"]
    shape = _shape(equation)
    output = equation.outvars[0].aval.shape
    sizes = equation.params["slice_sizes"]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [axis for axis in range(len(shape)) if axis not in gone]
    looked_up = [axis for axis in range(len(shape)) if axis in gone or sizes[axis] != shape[axis]]
    sources: list[list[int]] = [list(gone) for _ in output]
    for place, axis in zip(numbers.offset_dims, kept, strict=True):
        sources[place] = [axis]
    if looked_up == list(gone) and len(gone) == 1 and len(kept) == len(output):
        axis = gone[0]  # one index for all, as in `stack[layer]`
        rows = [_from(view, shape, axis, 1, inputs[1]) for view in inputs[0].views]
        return [[views.squeezed(view, [axis]) for view in rows if view is not None]]
    return [[views.gathered(view, sources) for view in inputs[0].views]]


def _concatenate(equation: Any, inputs: list[Tracked]) -> _Moved:
    axis = equation.params["dimension"]
    found: list[View] = []
    begin = 0
    for operand, value in enumerate(inputs):
        found += [views.placed(view, axis, begin) for view in value.views]
        begin += _shape(equation, operand)[axis]
    return [found]


def _stack(equation: Any, inputs: list[Tracked]) -> _Moved:
    axis = equation.params["axis"]
    return [
        [
            views.placed(views.inserted(view, [axis]), axis, index)
            for index, value in enumerate(inputs)
            for view in value.views
        ]
    ]


def _unstack(equation: Any, inputs: list[Tracked]) -> _Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    for index in range(len(equation.outvars)):
        start = [index if i == axis else 0 for i in range(len(shape))]
        limit = [index + 1 if i == axis else n for i, n in enumerate(shape)]
        rows = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([views.squeezed(view, [axis]) for view in rows if view is not None])
    return outputs


def _split(equation: Any, inputs: list[Tracked]) -> _Moved:
    axis = equation.params["axis"]
    shape = _shape(equation)
    outputs: list[list[View]] = []
    begin = 0
    for size in equation.params["sizes"]:
        start = [begin if i == axis else 0 for i in range(len(shape))]
        limit = [begin + size if i == axis else n for i, n in enumerate(shape)]
        parts = [views.sliced(view, shape, start, limit) for view in inputs[0].views]
        outputs.append([view for view in parts if view is not None])
        begin += size
    return outputs


def _pad(equation: Any, inputs: list[Tracked]) -> _Moved:
    found: list[View] = []
    for view in inputs[0].views:
        for axis, (low, high, interior) in enumerate(equation.params["padding_config"]):
            view = views.placed(view, axis, max(low, 0))
            if interior or min(low, high) < 0:
                view = view.inexact()
        found.append(view)
    return [found]


def _dynamic_update_slice(equation: Any, inputs: list[Tracked]) -> _Moved:
    part = [view.inexact() for view in inputs[1].views]
    whole = [view.inexact() for view in inputs[0].views]
    return [[*whole, *part]]


_MOVES: dict[str, Callable[[Any, list[Tracked]], _Moved]] = {
    "transpose": _each(_transpose),
    "squeeze": _each(_squeeze),
    "expand_dims": _each(_expand_dims),
    "broadcast_in_dim": _each(_broadcast_in_dim),
    "reshape": _each(_reshape),
    "slice": _each(_slice),
    "rev": _each(_rev),
    "dynamic_slice": _dynamic_slice,
    "gather": _gather,
    "concatenate": _concatenate,
    "stack": _stack,
    "unstack": _unstack,
    "split": _split,
    "pad": _pad,
    "dynamic_update_slice": _dynamic_update_slice,
}
_JOINED = ("concatenate", "stack")
