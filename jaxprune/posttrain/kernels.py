"""The kernels of a flat program: of which parameters they are made, and which of them share an input."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.posttrain.pieces import Flat, Piece
from jaxprune.posttrain.views import Layout, View, fault
from jaxprune.programs import views
from jaxprune.programs.kernels import Follower
from jaxprune.programs.primitives import PRODUCTS
from jaxprune.programs.readings import Product, Reading
from jaxprune.programs.tracked import Holder, TrackedValue, as_tracked
from jaxprune.programs.uses import Use
from jaxprune.signals import kernels as inputs_of

__all__ = ["Followed", "Input", "Kernel", "find", "follow"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of one or several products.

    Attributes:
      name: path of its parameter, with the part of it that it is.
      leaves: indices of the parameters that hold its numbers.
      view: it as matrices.
      inputs: indices of what enters its products, in the order of the program; the last is where it is
        solved.
    """

    name: str
    leaves: tuple[int, ...]
    view: View
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Input:
    """A value that one or several kernels are multiplied with, as rows of a matrix.

    Attributes:
      position: of the first of these products in the program.
      equation: of that product.
      operand: index of the kernel among its operands.
      order: of the entries of the statistics, as the kernels' matrices have them.
      size: layers and inputs.
      rows: of one batch, per layer.
      kernels: indices of the kernels.
    """

    position: int
    equation: Any
    operand: int
    order: tuple[int, ...]
    size: tuple[int, int]
    rows: int
    kernels: tuple[int, ...]

    @property
    def variables(self) -> tuple[Any, ...]:
        """What must be known to compute statistics of it."""
        atoms = enumerate(self.equation.invars)
        return tuple(atom for index, atom in atoms if index != self.operand)

    def product(self, arrays: Sequence[Any]) -> Product:
        """The product, for whoever reads something off it; `arrays` are the values of `variables`."""
        operands = [Holder(array) for array in arrays]
        operands.insert(self.operand, Holder(None))
        return Product(self.equation, self.operand, tuple(operands), None)  # type: ignore[arg-type]


class Followed(NamedTuple):
    """A flat program in which parameters were followed.

    Attributes:
      uses: by the position of an equation, the parameters in its products.
      follower: what followed them.
      values: what is known of each variable.
    """

    uses: dict[int, list[Use]]
    follower: Follower
    values: dict[Any, TrackedValue]


def follow(flat: Flat) -> Followed:
    """Follows the parameters through a flat program."""
    follower = Follower()
    values: dict[Any, TrackedValue] = {
        v: TrackedValue((views.view_of_leaf(index, v.aval.shape),))
        for v, index in flat.leaves.items()
    }
    values |= {v: follower.activation() for v in flat.inputs}
    values |= {v: as_tracked(const, v) for v, const in flat.consts.items()}
    uses: dict[int, list[Use]] = {}
    for position, equation in enumerate(flat.jaxpr.eqns):
        known = len(follower.uses)
        given = [
            as_tracked(atom.val if hasattr(atom, "val") else values[atom], atom)
            for atom in equation.invars
        ]
        values.update(zip(equation.outvars, follower.equation(equation, given), strict=True))
        if len(follower.uses) > known:
            uses[position] = follower.uses[known:]
    return Followed(uses, follower, values)


def find(
    flat: Flat, followed: Followed, names: Sequence[str], chosen: Sequence[bool]
) -> tuple[list[Kernel], list[Input], dict[int, str]]:
    """Returns the kernels made of the chosen parameters, their inputs, and why others cannot be had.

    Args:
      flat: the program.
      followed: it, with its parameters followed.
      names: paths of the parameters.
      chosen: which of them are to be pruned.

    Returns:
      Kernels; inputs in the order of the program; by the index of a parameter, what is in the way.
    """
    finder = _Finder(flat, followed, names, chosen)
    for position in followed.uses:
        finder.product(position)
    return finder.result()


class _Found(NamedTuple):
    """A kernel in the making."""

    view: View
    views: tuple[views.View, ...]
    inputs: list[int]


class _Finder:
    def __init__(
        self, flat: Flat, followed: Followed, names: Sequence[str], chosen: Sequence[bool]
    ) -> None:
        self.flat, self.followed = flat, followed
        self.names, self.chosen = names, chosen
        self.lost: dict[int, str] = {}
        self.kernels: dict[Hashable, _Found] = {}
        self.inputs: dict[Hashable, Input] = {}
        self._held: dict[Any, Holder] = {}

    def product(self, position: int) -> None:
        """Notes the kernel of one product."""
        equation = self.flat.jaxpr.eqns[position]
        uses = [use for use in self.followed.uses[position] if not use.constant]
        leaves = sorted({use.view.leaf for use in uses if self.chosen[use.view.leaf]})
        if not leaves:
            return
        reason = self._kernel(position, equation, uses, leaves)
        if reason is not None:
            for leaf in leaves:
                self.lost.setdefault(leaf, reason)

    def _kernel(
        self, position: int, equation: Any, uses: Sequence[Use], leaves: Sequence[int]
    ) -> str | None:
        name = equation.primitive.name
        if name not in PRODUCTS:
            return f"it is multiplied within {name!r}, which cannot be cut"
        own = [use.view for use in uses if use.view.leaf in leaves]
        variable = equation.invars[uses[0].operand]
        if any(use.looked_up for use in uses):
            return "the inputs choose which of its elements are multiplied"
        if any(not v.exact or v.picks or v.inner is not None or v.partly_repeats() for v in own):
            return "it is not known which of its elements are multiplied with what"
        piece = Piece.of(self.flat, self.flat.leads_to([variable]), [variable])
        reason = fault(piece, self.flat, leaves, self._is_zero)
        if reason is not None:
            return reason
        reading, rows = self._reading(equation, uses[0].operand)
        if reading is None:
            return f"what a product {name!r} of this kind multiplies it with is not known"
        layout, order = _layout(equation, uses[0], own[0], reading)
        key = (tuple(own), layout)
        index = self._input(position, equation, uses[0].operand, reading, order, layout, rows)
        if key not in self.kernels:
            view = View.of(piece, self.flat, leaves, layout)
            self.kernels[key] = _Found(view, tuple(own), [])
        known = self.kernels[key].inputs
        if index not in known:
            known.append(index)
        return None

    def _is_zero(self, atom: Any) -> bool:
        if hasattr(atom, "val"):
            return not np.any(atom.val)
        fact = self.followed.values[atom].fact
        return fact.is_zero() and fact.leaf is None

    def _reading(self, equation: Any, operand: int) -> tuple[Reading | None, int]:
        """What can be read of what enters a product, and how many rows that is; nothing is computed."""
        held = [
            self._held.setdefault(atom if not hasattr(atom, "val") else id(atom), Holder(None))
            for atom in equation.invars
        ]
        found: list[Reading | None] = []

        def probe(*arrays: Any) -> None:
            for each, array in zip(held, arrays, strict=True):
                each.array = array
            found.append(inputs_of.grams(Product(equation, operand, tuple(held), None)))  # type: ignore[arg-type]

        jax.eval_shape(
            probe, *(jax.ShapeDtypeStruct(a.aval.shape, a.aval.dtype) for a in equation.invars)
        )
        other = equation.invars[1 - operand].aval
        kernel = equation.invars[operand].aval
        (reading,) = found
        if reading is None:
            return None, 0
        if equation.primitive.name == "conv_general_dilated":
            outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            return reading, equation.outvars[0].aval.size // outputs
        layers = 1 if "ragged" in equation.primitive.name else _count(kernel.shape, reading.layers)
        return reading, other.size // max(layers * _count(kernel.shape, reading.entries), 1)

    def _input(
        self,
        position: int,
        equation: Any,
        operand: int,
        reading: Reading,
        order: tuple[int, ...],
        layout: Layout,
        rows: int,
    ) -> int:
        key = (reading.key, order)
        if key not in self.inputs:
            size = layout.size[:2]
            self.inputs[key] = Input(position, equation, operand, order, size, rows, ())
        return list(self.inputs).index(key)

    def result(self) -> tuple[list[Kernel], list[Input], dict[int, str]]:
        """What has been found."""
        self._apart()
        found = [
            own for own in self.kernels.values() if not any(v.leaf in self.lost for v in own.views)
        ]
        kernels = [
            Kernel(
                " + ".join(_name(self.names[v.leaf], v) for v in own.views),
                tuple(sorted({v.leaf for v in own.views})),
                own.view,
                tuple(own.inputs),
            )
            for own in found
        ]
        inputs: list[Input] = []
        renumbered: dict[int, int] = {}
        for index, each in enumerate(self.inputs.values()):
            users = tuple(k for k, kernel in enumerate(kernels) if index in kernel.inputs)
            if users:
                renumbered[index] = len(inputs)
                inputs.append(dataclasses.replace(each, kernels=users))
        kernels = [
            dataclasses.replace(k, inputs=tuple(sorted(renumbered[i] for i in k.inputs)))
            for k in kernels
        ]
        return kernels, inputs, self.lost

    def _apart(self) -> None:
        """Elements of a parameter must not be in two kernels."""
        known: dict[int, list[tuple[np.ndarray, ...]]] = {}
        for own in self.kernels.values():
            for view in own.views:
                sets = _places(view)
                for other in known.setdefault(view.leaf, []):
                    if all(np.intersect1d(a, b).size for a, b in zip(sets, other, strict=True)):
                        self.lost.setdefault(
                            view.leaf, "products arrange the same elements of it in several ways"
                        )
                known[view.leaf].append(sets)


def _count(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _layout(
    equation: Any, use: Use, view: views.View, reading: Reading
) -> tuple[Layout, tuple[int, ...]]:
    """How a kernel becomes matrices, and the order of the entries of its statistics for that."""
    shape = equation.invars[use.operand].aval.shape
    stored: Callable[[int], Any] = lambda axis: next(
        ((digit.axis, -digit.stride) for digit in view.axes[axis] if digit.axis >= 0), (-1, 0)
    )
    if equation.primitive.name == "conv_general_dilated":
        entering, *window = reading.entries
        entries = (*sorted(window, key=stored), entering)
        outputs = tuple(a for a in range(len(shape)) if a not in reading.entries)
        places = _count(shape, window)
        layout = Layout(shape, (), entries, outputs, places, use.groups)
    else:
        entries = tuple(sorted(reading.entries, key=stored))
        kept = [a for a in range(len(shape)) if a not in (*reading.entries, *reading.layers)]
        layout = Layout(shape, tuple(reading.layers), entries, tuple(sorted(kept, key=stored)))
    return layout, tuple(reading.entries.index(axis) for axis in entries)


def _places(view: views.View) -> tuple[np.ndarray, ...]:
    """Per axis of the parameter, the indices of the elements of a view."""
    found: list[np.ndarray] = []
    for axis, start in enumerate(view.starts):
        places = np.array([start])
        for digit in (d for digits in view.axes for d in digits if d.axis == axis):
            steps = digit.stride * np.arange(digit.size)
            places = np.add.outer(places, steps).reshape(-1)
        found.append(np.sort(places))
    return tuple(found)


def _name(path: str, view: views.View) -> str:
    """The path of a parameter, with the part of it that a view is.

    >>> whole = views.view_of_leaf(0, (2, 3))
    >>> _name("w", whole), _name("w", views.sliced(whole, (2, 3), (1, 0), (2, 3)))
    ('w', 'w[1]')
    """
    parts: list[str] = []
    for size, places in zip(view.shape, _places(view), strict=True):
        if len(places) == size:
            parts.append(":")
        elif len(places) == 1:
            parts.append(str(places[0]))
        else:
            step = int(places[1] - places[0])
            parts.append(f"{places[0]}:{places[-1] + 1}" + (f":{step}" if step != 1 else ""))
    while parts and parts[-1] == ":":
        parts.pop()
    return f"{path}[{', '.join(parts)}]" if parts else path
