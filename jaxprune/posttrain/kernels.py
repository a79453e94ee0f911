"""Finds the kernels of a flat program: the parameters that each is made of, and which share an input."""

import dataclasses
import itertools
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.posttrain.pieces import Flat, Piece
from jaxprune.posttrain.views import Layout, View, obstacle
from jaxprune.programs import views
from jaxprune.programs.kernels import Follower
from jaxprune.programs.primitives import PRODUCTS
from jaxprune.programs.readings import Product, Reading
from jaxprune.programs.tracked import Holder, TrackedValue, as_tracked
from jaxprune.programs.uses import Use
from jaxprune.signals import kernels as inputs_of

__all__ = ["FollowedProgram", "Input", "Kernel", "find_kernels", "follow_parameters"]


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel of one or several products.

    Attributes:
      name: path of its parameter, with an index expression where it is a part of it.
      leaves: indices of the parameters that hold its weights.
      view: how its matrices are read and written.
      inputs: indices of the inputs of its products, in the order of the program; the kernel is solved at the
        last one.
    """

    name: str
    leaves: tuple[int, ...]
    view: View
    inputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Input:
    """A value that one or several kernels are multiplied with, as rows of a matrix.

    Attributes:
      position: index in the program of the first of these products.
      equation: of that product.
      operand: index of the kernel among its operands.
      order: axes of the statistics, in the order of the inputs of the kernels' matrices.
      size: number of layers and of inputs.
      rows: number of rows in one batch, per layer.
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
    def is_sorted_by_layer(self) -> bool:
        """Whether each row belongs to one layer, an expert, so that layers may have more rows or fewer."""
        return "ragged" in self.equation.primitive.name

    @property
    def variables(self) -> tuple[Any, ...]:
        """The variables whose values its statistics are computed from."""
        atoms = enumerate(self.equation.invars)
        return tuple(atom for operand_index, atom in atoms if operand_index != self.operand)

    def product(self, arrays: Sequence[Any]) -> Product:
        """Returns the product as signals read it; `arrays` are the values of `variables`."""
        operand_values = [Holder(array) for array in arrays]
        operand_values.insert(self.operand, Holder(None))
        return Product(self.equation, self.operand, tuple(operand_values), None)  # type: ignore[arg-type]


class FollowedProgram(NamedTuple):
    """A flat program with the parameters that each value is made of.

    Attributes:
      uses: by the index of an equation, the parameters in its products.
      follower: the interpreter that has followed them.
      values: by variable, the parameters that it is made of.
    """

    uses: dict[int, list[Use]]
    follower: Follower
    values: dict[Any, TrackedValue]


def follow_parameters(flat: Flat) -> FollowedProgram:
    """Follows the parameters through a flat program, to the products that they are factors of."""
    follower = Follower()
    values: dict[Any, TrackedValue] = {
        variable: TrackedValue((views.view_of_leaf(leaf_index, variable.aval.shape),))
        for variable, leaf_index in flat.leaves.items()
    }
    values |= {variable: follower.activation() for variable in flat.inputs}
    values |= {
        variable: as_tracked(constant, variable) for variable, constant in flat.consts.items()
    }
    uses: dict[int, list[Use]] = {}
    for position, equation in enumerate(flat.jaxpr.eqns):
        known_use_count = len(follower.uses)
        operand_values = [
            as_tracked(atom.val if hasattr(atom, "val") else values[atom], atom)
            for atom in equation.invars
        ]
        values.update(
            zip(equation.outvars, follower.equation(equation, operand_values), strict=True)
        )
        if len(follower.uses) > known_use_count:
            uses[position] = follower.uses[known_use_count:]
    return FollowedProgram(uses, follower, values)


def find_kernels(
    flat: Flat, followed: FollowedProgram, parameter_names: Sequence[str], is_pruned: Sequence[bool]
) -> tuple[list[Kernel], list[Input], dict[int, str]]:
    """Returns the kernels made of the parameters to be pruned, their inputs, and why some have none.

    Args:
      flat: the program.
      followed: what `follow_parameters` returns for it.
      parameter_names: paths of the parameters.
      is_pruned: whether each of them is to be pruned.

    Returns:
      Kernels; inputs in the order of the program; by the index of a parameter, the reason why it cannot be
      pruned.
    """
    finder = _Finder(flat, followed, parameter_names, is_pruned)
    for position in followed.uses:
        finder.product(position)
    return finder.result()


class _UnfinishedKernel(NamedTuple):
    """A kernel to which further inputs may be added.

    Attributes:
      view: how its matrices are read and written.
      views: the parts of parameters that it is made of.
      inputs: indices of its inputs so far.
    """

    view: View
    views: tuple[views.View, ...]
    inputs: list[int]


class _Finder:
    def __init__(
        self,
        flat: Flat,
        followed: FollowedProgram,
        parameter_names: Sequence[str],
        is_pruned: Sequence[bool],
    ) -> None:
        self.flat = flat
        self.followed = followed
        self.parameter_names = parameter_names
        self.is_pruned = is_pruned
        self.reasons: dict[int, str] = {}
        self.kernels: dict[Hashable, _UnfinishedKernel] = {}
        self.inputs: dict[Hashable, Input] = {}
        self._held: dict[Any, Holder] = {}

    def product(self, position: int) -> None:
        """Adds the kernel of one product, or notes why its parameters cannot be pruned."""
        equation = self.flat.jaxpr.eqns[position]
        uses = [use for use in self.followed.uses[position] if not use.constant]
        leaf_indices = sorted({use.view.leaf for use in uses if self.is_pruned[use.view.leaf]})
        if not leaf_indices:
            return
        reason = self._add_kernel(position, equation, uses, leaf_indices)
        if reason is not None:
            for leaf_index in leaf_indices:
                self.reasons.setdefault(leaf_index, reason)

    def _add_kernel(
        self, position: int, equation: Any, uses: Sequence[Use], leaf_indices: Sequence[int]
    ) -> str | None:
        """Adds the kernel of a product and its input; returns the reason if there is no such kernel."""
        primitive_name = equation.primitive.name
        if primitive_name not in PRODUCTS:
            return f"it is multiplied within {primitive_name!r}, which cannot be cut"
        program_views = [use.view for use in uses if use.view.leaf in leaf_indices]
        kernel_variable = equation.invars[uses[0].operand]
        if any(use.looked_up for use in uses):
            return "the inputs choose which of its elements are multiplied"
        if any(
            not program_view.exact
            or program_view.picks
            or program_view.inner is not None
            or program_view.partly_repeats()
            for program_view in program_views
        ):
            return "it is not known which of its elements are multiplied with what"
        piece = Piece.of(
            self.flat, self.flat.constant_ancestors([kernel_variable]), [kernel_variable]
        )
        reason = obstacle(piece, self.flat, leaf_indices, self._is_zero)
        if reason is not None:
            return reason
        reading, rows = self._reading(equation, uses[0].operand)
        if reading is None:
            return f"what a product {primitive_name!r} of this kind multiplies it with is not known"
        layout, order = _layout(equation, uses[0], program_views[0], reading)
        kernel_key = (tuple(program_views), layout)
        input_index = self._add_input(
            position, equation, uses[0].operand, reading, order, layout, rows
        )
        if kernel_key not in self.kernels:
            view = View.of(piece, self.flat, leaf_indices, layout)
            self.kernels[kernel_key] = _UnfinishedKernel(view, tuple(program_views), [])
        input_indices = self.kernels[kernel_key].inputs
        if input_index not in input_indices:
            input_indices.append(input_index)
        return None

    def _is_zero(self, atom: Any) -> bool:
        if hasattr(atom, "val"):
            return not np.any(atom.val)
        fact = self.followed.values[atom].fact
        return fact.is_zero() and fact.leaf is None

    def _reading(self, equation: Any, operand: int) -> tuple[Reading | None, int]:
        """Returns the Gram reading of a product's input, or `None`, and its rows; nothing is computed."""
        held_operands = [
            self._held.setdefault(atom if not hasattr(atom, "val") else id(atom), Holder(None))
            for atom in equation.invars
        ]
        readings: list[Reading | None] = []

        def probe(*arrays: Any) -> None:
            for held_operand, array in zip(held_operands, arrays, strict=True):
                held_operand.array = array
            readings.append(inputs_of.grams(Product(equation, operand, tuple(held_operands), None)))  # type: ignore[arg-type]

        avals = [atom.aval for atom in equation.invars]
        jax.eval_shape(probe, *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals))
        other_aval = equation.invars[1 - operand].aval
        kernel_aval = equation.invars[operand].aval
        (reading,) = readings
        if reading is None:
            return None, 0
        if equation.primitive.name == "conv_general_dilated":
            output_count = kernel_aval.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            return reading, equation.outvars[0].aval.size // output_count
        is_ragged = "ragged" in equation.primitive.name  # each row belongs to one layer
        layer_count = 1 if is_ragged else _size_of(kernel_aval.shape, reading.layers)
        row_size = layer_count * _size_of(kernel_aval.shape, reading.entries)
        return reading, other_aval.size // max(row_size, 1)

    def _add_input(
        self,
        position: int,
        equation: Any,
        operand: int,
        reading: Reading,
        order: tuple[int, ...],
        layout: Layout,
        rows: int,
    ) -> int:
        """Adds the input of a product if it is new; returns its index."""
        key = (reading.key, order)
        if key not in self.inputs:
            size = layout.size[:2]
            self.inputs[key] = Input(position, equation, operand, order, size, rows, ())
        return list(self.inputs).index(key)

    def result(self) -> tuple[list[Kernel], list[Input], dict[int, str]]:
        """Returns kernels, inputs and reasons; inputs without kernels are dropped, and indices renewed."""
        self._reject_overlaps()
        unfinished_kernels = [
            unfinished
            for unfinished in self.kernels.values()
            if not any(view.leaf in self.reasons for view in unfinished.views)
        ]
        kernels = [
            Kernel(
                " + ".join(
                    _kernel_name(self.parameter_names[view.leaf], view) for view in unfinished.views
                ),
                tuple(sorted({view.leaf for view in unfinished.views})),
                unfinished.view,
                tuple(unfinished.inputs),
            )
            for unfinished in unfinished_kernels
        ]
        inputs: list[Input] = []
        new_index_of: dict[int, int] = {}
        for old_index, kernel_input in enumerate(self.inputs.values()):
            user_indices = tuple(
                index for index, kernel in enumerate(kernels) if old_index in kernel.inputs
            )
            if user_indices:
                new_index_of[old_index] = len(inputs)
                inputs.append(dataclasses.replace(kernel_input, kernels=user_indices))
        kernels = [
            dataclasses.replace(
                kernel, inputs=tuple(sorted(new_index_of[index] for index in kernel.inputs))
            )
            for kernel in kernels
        ]
        return kernels, inputs, self.reasons

    def _reject_overlaps(self) -> None:
        """Notes a reason for parameters of which two kernels share elements."""
        index_sets_by_leaf: dict[int, list[tuple[np.ndarray, ...]]] = {}
        for unfinished in self.kernels.values():
            for view in unfinished.views:
                index_sets = _indices_by_axis(view)
                for other_sets in index_sets_by_leaf.setdefault(view.leaf, []):
                    if all(
                        np.intersect1d(indices, other_indices).size
                        for indices, other_indices in zip(index_sets, other_sets, strict=True)
                    ):
                        self.reasons.setdefault(
                            view.leaf, "products arrange the same elements of it in several ways"
                        )
                index_sets_by_leaf[view.leaf].append(index_sets)


def _size_of(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def _layout(
    equation: Any, use: Use, view: views.View, reading: Reading
) -> tuple[Layout, tuple[int, ...]]:
    """Returns how a kernel becomes matrices, and the order of the axes of its statistics for that."""
    shape = equation.invars[use.operand].aval.shape

    def storage_order(axis: int) -> tuple[int, int]:
        """Axes that follow one another in the parameter follow one another in the matrices."""
        strides = ((digit.axis, -digit.stride) for digit in view.axes[axis] if digit.axis >= 0)
        return next(strides, (-1, 0))

    if equation.primitive.name == "conv_general_dilated":
        channel_axis, *window_axes = reading.entries
        input_axes = (*sorted(window_axes, key=storage_order), channel_axis)
        output_axes = tuple(axis for axis in range(len(shape)) if axis not in reading.entries)
        window_size = _size_of(shape, window_axes)
        layout = Layout(shape, (), input_axes, output_axes, window_size, use.groups)
    else:
        input_axes = tuple(sorted(reading.entries, key=storage_order))
        used_axes = (*reading.entries, *reading.layers)
        free_axes = [axis for axis in range(len(shape)) if axis not in used_axes]
        output_axes = tuple(sorted(free_axes, key=storage_order))
        layout = Layout(shape, tuple(reading.layers), input_axes, output_axes)
    return layout, tuple(reading.entries.index(axis) for axis in input_axes)


def _indices_by_axis(view: views.View) -> tuple[np.ndarray, ...]:
    """Returns, per axis of the parameter, the sorted indices of the elements of a view."""
    index_arrays: list[np.ndarray] = []
    for axis, start in enumerate(view.starts):
        indices = np.array([start])
        all_digits = itertools.chain.from_iterable(view.axes)
        for digit in (digit for digit in all_digits if digit.axis == axis):
            offsets = digit.stride * np.arange(digit.size)
            indices = np.add.outer(indices, offsets).reshape(-1)
        index_arrays.append(np.sort(indices))
    return tuple(index_arrays)


def _kernel_name(path: str, view: views.View) -> str:
    """Returns the path of a parameter, with an index expression where the view is a part of it.

    >>> whole = views.view_of_leaf(0, (2, 3))
    >>> _kernel_name("w", whole), _kernel_name("w", views.sliced(whole, (2, 3), (1, 0), (2, 3)))
    ('w', 'w[1]')
    """
    index_texts: list[str] = []
    for size, indices in zip(view.shape, _indices_by_axis(view), strict=True):
        if len(indices) == size:
            index_texts.append(":")
        elif len(indices) == 1:
            index_texts.append(str(indices[0]))
        else:
            step = int(indices[1] - indices[0])
            index_texts.append(
                f"{indices[0]}:{indices[-1] + 1}" + (f":{step}" if step != 1 else "")
            )
    while index_texts and index_texts[-1] == ":":
        index_texts.pop()
    return f"{path}[{', '.join(index_texts)}]" if index_texts else path
