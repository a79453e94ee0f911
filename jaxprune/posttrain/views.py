"""Reads a kernel as matrices [layers, inputs, outputs] from parameters, and writes them back.

The program says how a kernel is made of parameters: transposed, reshaped, a slice of a stack, several side by
side, times a mask or a scale. That part of the program is the way there; its linear transpose is the way
back, so that there is no book-keeping of indices, and bits of what else a leaf holds stay as they are.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.arrays.shardings import sharded_like
from jaxprune.posttrain.pieces import Flat, Piece
from jaxprune.programs import bind
from jaxprune.programs.moves import JOINED, MOVES
from jaxprune.programs.primitives import IDENTITIES

__all__ = ["Layout", "View", "obstacle"]

_ARRANGEMENTS = frozenset(MOVES) - {"dynamic_update_slice", "pad", "tile"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which axes of a kernel are layers, inputs and outputs.

    Attributes:
      shape: of the kernel as it enters its product.
      layers: axes of which each index has a product of its own (experts, heads).
      inputs: axes that are summed over, in the order in which they become one; the window of a convolution
        comes first.
      outputs: the other axes, in the order in which they become one.
      window: number of positions in the window of a convolution; 1 for any other product.
      groups: number of groups of a grouped convolution, among which outputs are divided; 1 for any other.
    """

    shape: tuple[int, ...]
    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: int = 1
    groups: int = 1

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of layers, of inputs and of outputs of the matrices."""
        layers = self.groups if self.groups > 1 else self._length(self.layers)
        return layers, self._length(self.inputs), self._length(self.outputs) // self.groups

    def _length(self, axes: tuple[int, ...]) -> int:
        return math.prod(self.shape[axis] for axis in axes)

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the kernel in the order of the matrices."""
        if self.groups > 1:
            return (*self.outputs, *self.inputs)
        return (*self.layers, *self.inputs, *self.outputs)

    def matrices(self, kernel: jax.Array) -> jax.Array:
        """Returns the kernel as `[layers, inputs, outputs]`.

        >>> Layout((3, 4, 2), (), (1, 2), (0,)).matrices(jnp.ones((3, 4, 2))).shape  # [out, in, in]
        (1, 8, 3)
        """
        layers, inputs, outputs = self.size
        moved = kernel.transpose(self.order)
        if self.groups > 1:
            return moved.reshape(layers, outputs, inputs).swapaxes(1, 2)
        return moved.reshape(layers, inputs, outputs)

    def kernel(self, matrices: jax.Array) -> jax.Array:
        """Returns the kernel of matrices `[layers, inputs, outputs]`: the inverse of `matrices`."""
        if self.groups > 1:
            matrices = matrices.swapaxes(1, 2)
        moved = matrices.reshape([self.shape[axis] for axis in self.order])
        return moved.transpose([self.order.index(axis) for axis in range(len(self.shape))])


def obstacle(piece: Piece, flat: Flat, targets: Sequence[int], zeros: Any) -> str | None:
    """Returns why a kernel cannot be written back to its parameters, in words; `None` if it can.

    Args:
      piece: computes the kernel.
      flat: the program.
      targets: indices of the parameters.
      zeros: variable -> whether its value is known to be zero.
    """
    derived = {variable for variable in piece.reads if flat.leaves.get(variable) in targets}
    for equation in piece.equations:
        primitive_name = equation.primitive.name
        derived_operands = [
            atom for atom in equation.invars if not hasattr(atom, "val") and atom in derived
        ]
        if not derived_operands:
            continue
        is_arranged = (
            primitive_name in _ARRANGEMENTS
            and equation.invars[0] in derived
            and len(derived_operands) == 1
        )
        is_joined = primitive_name in JOINED and len(derived_operands) == len(equation.invars)
        is_cast = primitive_name == "convert_element_type" and _between_floats(equation)
        if primitive_name in IDENTITIES:
            derived.update(_identity_pairs(equation, derived))
        elif is_arranged or is_joined or is_cast or _is_scaling(equation, derived_operands, zeros):
            derived.update(equation.outvars)
        else:
            return f"{primitive_name!r} stands between it and its product"
    return None


def _between_floats(equation: Any) -> bool:
    """Returns whether a cast is from one floating-point type to another."""
    dtypes = (equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype)
    return all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)


def _common_dtype(arrays: Sequence[Any]) -> Any:
    """Returns a floating-point dtype that holds the numbers of all arrays without rounding."""
    dtypes = {jnp.dtype(array.dtype) for array in arrays}
    if len(dtypes) == 1:
        return dtypes.pop()
    return jnp.dtype("float64" if jnp.dtype("float64") in dtypes else "float32")


def _wide_dtype(array: Any) -> Any:
    """Returns the dtype in which an array is computed with: float32 at least."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32


def _identity_pairs(equation: Any, known_variables: Any) -> dict[Any, Any]:
    """Returns, by each result of an identity, the known variable that it equals."""
    pairs = zip(equation.outvars, equation.invars, strict=False)
    return {
        output: atom
        for output, atom in pairs
        if not hasattr(atom, "val") and atom in known_variables
    }


def _is_scaling(equation: Any, derived_operands: Sequence[Any], zeros: Any) -> bool:
    """Returns whether an equation multiplies the kernel by something else, or puts zeros into it."""
    name = equation.primitive.name
    if (
        len(derived_operands) != 1
        or derived_operands[0].aval.shape != equation.outvars[0].aval.shape
    ):
        return False
    if name == "select_n":
        others = [
            operand
            for operand in equation.invars[1:]
            if hasattr(operand, "val") or operand is not derived_operands[0]
        ]
        return equation.invars[0] is not derived_operands[0] and all(map(zeros, others))
    return name in ("mul", "neg") or (name == "div" and equation.invars[0] is derived_operands[0])


@dataclasses.dataclass(frozen=True)
class View:
    """A kernel as a function of parameters, with its inverse.

    Attributes:
      piece: computes the kernel; it has one result.
      leaves: index of the parameter for each variable that the piece reads; -1 for constants.
      targets: indices, among these variables, of those that hold the kernel's weights; others scale them.
      layout: of the kernel.
      scaled: whether anything scales the weights.
    """

    piece: Piece
    leaves: tuple[int, ...]
    targets: tuple[int, ...]
    layout: Layout
    scaled: bool

    @classmethod
    def of(cls, piece: Piece, flat: Flat, targets: Sequence[int], layout: Layout) -> "View":
        """Returns the view of a kernel for which `obstacle` returns `None`."""
        leaves = tuple(flat.leaves.get(variable, -1) for variable in piece.reads)
        target_operands = tuple(
            operand_index for operand_index, leaf in enumerate(leaves) if leaf in targets
        )
        primitive_names = {equation.primitive.name for equation in piece.equations}
        return cls(
            piece,
            leaves,
            target_operands,
            layout,
            bool(primitive_names & {"mul", "div", "neg", "select_n"}),
        )

    def key(self) -> str:
        """Returns a text that is the same for views that compute the same."""
        return f"{self.piece.key()} {self.leaves.count(-1)} {self.targets} {self.layout}"

    def read(self, arrays: Sequence[Any], starts: Sequence[Any]) -> jax.Array:
        """Returns the matrices `[layers, inputs, outputs]`, in float32 or wider.

        They are the parameters times their scales, not rounded to a narrower type in which the network may
        compute.

        Args:
          arrays: values that the piece reads.
          starts: where its slices begin.
        """
        kernel = self._arranged(
            [arrays[operand_index] for operand_index in self.targets], arrays, starts
        )
        kernel = kernel.astype(_wide_dtype(kernel))
        if self.scaled:
            kernel = kernel * self._scale(arrays, starts).astype(kernel.dtype)
        return self.layout.matrices(kernel)

    def write(
        self,
        arrays: Sequence[Any],
        masks: Sequence[jax.Array],
        starts: Sequence[Any],
        old_matrices: jax.Array,
        matrices: jax.Array,
        kept_mask: jax.Array,
    ) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
        """Returns the targets with new weights, their masks, and whether all that was written is finite.

        Where a weight is kept as it was read, its parameter keeps its bits.

        Args:
          arrays: values that the piece reads.
          masks: of the targets, bool.
          starts: where its slices begin.
          old_matrices: what `read` gave, `[layers, inputs, outputs]`.
          matrices: new weights, of the same shape.
          kept_mask: which of them are kept, bool of the same shape.
        """
        target_values = [arrays[operand_index] for operand_index in self.targets]

        def arranged(*targets: jax.Array) -> jax.Array:
            return self._arranged(targets, arrays, starts)

        transpose = jax.linear_transpose(arranged, *target_values)
        arranged_kernel = arranged(*target_values)
        new_kernel = self.layout.kernel(jnp.where(kept_mask, matrices, 0))
        mask = self.layout.kernel(kept_mask)
        if self.scaled:
            scale = self._scale(arrays, starts).astype(new_kernel.dtype)
            mask = mask & (scale != 0)
            new_kernel = jnp.where(scale != 0, new_kernel / jnp.where(scale != 0, scale, 1), 0)
        unchanged_mask = mask & self.layout.kernel(matrices == old_matrices)

        def put_back(values: jax.Array) -> list[jax.Array]:
            """Values of the kernel's elements at their places in the targets; zero elsewhere."""
            return transpose(sharded_like(values.astype(arranged_kernel.dtype), arranged_kernel))

        written_masks = [multiplicity > 0 for multiplicity in put_back(~unchanged_mask)]
        new_leaves = [
            jnp.where(is_written, new_values, old_leaf)
            for is_written, new_values, old_leaf in zip(
                written_masks,
                put_back(jnp.where(unchanged_mask, 0, new_kernel)),
                target_values,
                strict=True,
            )
        ]
        is_finite = jnp.array(True)
        for is_written, new_leaf in zip(written_masks, new_leaves, strict=True):
            is_finite &= (jnp.isfinite(new_leaf) | ~is_written).all()
        covered_masks = [
            multiplicity > 0 for multiplicity in put_back(jnp.ones_like(arranged_kernel))
        ]
        new_masks = [
            jnp.where(is_covered, kept_count > 0, sharded_like(old_mask, old_leaf))
            for is_covered, kept_count, old_mask, old_leaf in zip(
                covered_masks, put_back(mask), masks, target_values, strict=True
            )
        ]
        return new_leaves, new_masks, is_finite

    def _scale(self, arrays: Sequence[Any], starts: Sequence[Any]) -> jax.Array:
        """Returns the factors of the kernel's weights: the kernel that is made of ones."""
        unit_arrays = list(arrays)
        for operand_index in self.targets:
            unit_arrays[operand_index] = jnp.ones_like(arrays[operand_index])
        return self.piece.values(unit_arrays, starts)[self.piece.writes[0]]

    def _arranged(self, targets: Sequence[Any], arrays: Sequence[Any], starts: Any) -> jax.Array:
        """Returns the kernel without casts and scales: the targets' elements, rearranged."""
        dtype = _common_dtype(targets)
        known_values = {
            self.piece.reads[operand_index]: target.astype(dtype)
            for operand_index, target in zip(self.targets, targets, strict=True)
        }
        start_of = dict(zip(self.piece.moving, starts, strict=True))
        for index, equation in enumerate(self.piece.equations):
            atoms = equation.invars
            known_operands = [
                atom for atom in atoms if not hasattr(atom, "val") and atom in known_values
            ]
            if not known_operands:
                continue
            primitive_name = equation.primitive.name
            if primitive_name in IDENTITIES:
                known_values |= {
                    output: known_values[atom]
                    for output, atom in _identity_pairs(equation, known_values).items()
                }
                continue
            if index in start_of:
                sizes = equation.outvars[0].aval.shape
                results = [
                    jax.lax.dynamic_slice(known_values[known_operands[0]], start_of[index], sizes)
                ]
            elif primitive_name in ("mul", "div", "neg", "select_n", "convert_element_type"):
                results = [known_values[known_operands[0]]]
            else:
                piece_values = (
                    self.piece.values(arrays, starts) if len(known_operands) < len(atoms) else {}
                )
                operands = [
                    atom.val
                    if hasattr(atom, "val")
                    else known_values.get(atom, piece_values.get(atom))
                    for atom in atoms
                ]
                results = bind(equation, operands)
            known_values.update(zip(equation.outvars, results, strict=True))
        return known_values[self.piece.writes[0]]
