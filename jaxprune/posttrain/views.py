"""A kernel as matrices [layers, inputs, outputs], read from parameters and written back to them.

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

from jaxprune.posttrain.pieces import Flat, Piece
from jaxprune.programs import bind
from jaxprune.programs.moves import JOINED, MOVES
from jaxprune.programs.primitives import IDENTITIES

__all__ = ["Layout", "View", "fault"]

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
      window: places in the window of a convolution; 1 of anything else.
      groups: of a grouped convolution, whose outputs are divided among them; 1 of anything else.
    """

    shape: tuple[int, ...]
    layers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    window: int = 1
    groups: int = 1

    @property
    def size(self) -> tuple[int, int, int]:
        """Layers, inputs and outputs of the matrices."""
        count = lambda axes: math.prod(self.shape[axis] for axis in axes)
        layers = self.groups if self.groups > 1 else count(self.layers)
        return layers, count(self.inputs), count(self.outputs) // self.groups

    @property
    def order(self) -> tuple[int, ...]:
        """The axes of the kernel, in the order that matrices have them in."""
        if self.groups > 1:
            return (*self.outputs, *self.inputs)
        return (*self.layers, *self.inputs, *self.outputs)

    def matrices(self, kernel: jax.Array) -> jax.Array:
        """The kernel as `[layers, inputs, outputs]`.

        >>> Layout((3, 4, 2), (), (1, 2), (0,)).matrices(jnp.ones((3, 4, 2))).shape  # [out, in, in]
        (1, 8, 3)
        """
        layers, inputs, outputs = self.size
        moved = kernel.transpose(self.order)
        if self.groups > 1:
            return moved.reshape(layers, outputs, inputs).swapaxes(1, 2)
        return moved.reshape(layers, inputs, outputs)

    def kernel(self, matrices: jax.Array) -> jax.Array:
        """Matrices `[layers, inputs, outputs]` as the kernel."""
        if self.groups > 1:
            matrices = matrices.swapaxes(1, 2)
        moved = matrices.reshape([self.shape[axis] for axis in self.order])
        return moved.transpose([self.order.index(axis) for axis in range(len(self.shape))])


def fault(piece: Piece, flat: Flat, targets: Sequence[int], zeros: Any) -> str | None:
    """Says what stands between some parameters and the kernel that is made of them; `None` if nothing does.

    Args:
      piece: that makes the kernel.
      flat: the program.
      targets: indices of the parameters.
      zeros: variable -> whether its value is known to be zero.
    """
    found = {v for v in piece.reads if flat.leaves.get(v) in targets}
    for equation in piece.equations:
        name = equation.primitive.name
        within = [atom for atom in equation.invars if not hasattr(atom, "val") and atom in found]
        if not within:
            continue
        arranged = name in _ARRANGEMENTS and equation.invars[0] in found and len(within) == 1
        joined = name in JOINED and len(within) == len(equation.invars)
        same = name == "convert_element_type" and _between_floats(equation)
        if name in IDENTITIES:
            found.update(_passed(equation, found))
        elif arranged or joined or same or _scales(equation, within, zeros):
            found.update(equation.outvars)
        else:
            return f"{name!r} stands between it and its product"
    return None


def _between_floats(equation: Any) -> bool:
    """Whether a cast is from one floating-point type to another."""
    types = (equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype)
    return all(jnp.issubdtype(each, jnp.floating) for each in types)


def _common(arrays: Sequence[Any]) -> Any:
    """A floating-point type that holds the numbers of some arrays as they are."""
    types = {jnp.dtype(array.dtype) for array in arrays}
    if len(types) == 1:
        return types.pop()
    return jnp.dtype("float64" if jnp.dtype("float64") in types else "float32")


def _wide(array: Any) -> Any:
    """The type in which numbers of an array are computed with: float32 at least."""
    return jnp.float64 if array.dtype == jnp.float64 else jnp.float32


def _placed(values: jax.Array, like: jax.Array) -> jax.Array:
    """The values where another array lies, on an explicit mesh; elsewhere the compiler sees to it."""
    sharding = jax.typeof(like).sharding
    return jax.sharding.reshard(values, sharding) if sharding.mesh.explicit_axes else values


def _passed(equation: Any, known: Any) -> dict[Any, Any]:
    """By each variable that an identity gives, the variable that it is, of those that are known."""
    pairs = zip(equation.outvars, equation.invars, strict=False)
    return {out: atom for out, atom in pairs if not hasattr(atom, "val") and atom in known}


def _scales(equation: Any, within: Sequence[Any], zeros: Any) -> bool:
    """Whether an equation multiplies by what is no part of the kernel, or puts zeros into it."""
    name, shape = equation.primitive.name, equation.outvars[0].aval.shape
    if len(within) != 1 or within[0].aval.shape != shape:
        return False
    if name == "select_n":
        others = [a for a in equation.invars[1:] if hasattr(a, "val") or a is not within[0]]
        return equation.invars[0] is not within[0] and all(map(zeros, others))
    return name in ("mul", "neg") or (name == "div" and equation.invars[0] is within[0])


@dataclasses.dataclass(frozen=True)
class View:
    """A kernel as it is made of parameters.

    Attributes:
      piece: that makes it; it writes one variable.
      leaves: index of the parameter by each of the variables that the piece reads; -1 for constants.
      targets: which of those the kernel's numbers are in; the others scale them.
      layout: of the kernel.
      scaled: whether anything scales them.
    """

    piece: Piece
    leaves: tuple[int, ...]
    targets: tuple[int, ...]
    layout: Layout
    scaled: bool

    @classmethod
    def of(cls, piece: Piece, flat: Flat, targets: Sequence[int], layout: Layout) -> "View":
        """The view of a kernel in which `fault` found nothing."""
        leaves = tuple(flat.leaves.get(v, -1) for v in piece.reads)
        places = tuple(place for place, leaf in enumerate(leaves) if leaf in targets)
        names = {equation.primitive.name for equation in piece.equations}
        return cls(piece, leaves, places, layout, bool(names & {"mul", "div", "neg", "select_n"}))

    def key(self) -> str:
        """A text that is the same for views that do the same."""
        return f"{self.piece.key()} {self.leaves.count(-1)} {self.targets} {self.layout}"

    def read(self, arrays: Sequence[Any], starts: Sequence[Any]) -> jax.Array:
        """The matrices `[layers, inputs, outputs]`, in float32 or wider.

        They are what the parameters hold, times what scales them: that the network computes in a narrower
        type does not round them.

        Args:
          arrays: what the piece reads.
          starts: where its slices begin.
        """
        kernel = self._arranged([arrays[place] for place in self.targets], arrays, starts)
        kernel = kernel.astype(_wide(kernel))
        if self.scaled:
            kernel = kernel * self._scale(arrays, starts).astype(kernel.dtype)
        return self.layout.matrices(kernel)

    def write(
        self,
        arrays: Sequence[Any],
        masks: Sequence[jax.Array],
        starts: Sequence[Any],
        old: jax.Array,
        matrices: jax.Array,
        kept: jax.Array,
    ) -> tuple[list[jax.Array], list[jax.Array], jax.Array]:
        """Returns the targets with new numbers, their masks, and whether what was written is finite.

        Where a number is kept as it was read, its parameter keeps its bits.

        Args:
          arrays: what the piece reads.
          masks: of the targets, bool.
          starts: where its slices begin.
          old: what was read, `[layers, inputs, outputs]`.
          matrices: new numbers, of the same shape.
          kept: which of them are kept, bool of the same shape.
        """
        own = [arrays[place] for place in self.targets]

        def arranged(*targets: jax.Array) -> jax.Array:
            return self._arranged(targets, arrays, starts)

        back = jax.linear_transpose(arranged, *own)
        there = arranged(*own)
        new = self.layout.kernel(jnp.where(kept, matrices, 0))
        mask = self.layout.kernel(kept)
        if self.scaled:
            scale = self._scale(arrays, starts).astype(new.dtype)
            mask = mask & (scale != 0)
            new = jnp.where(scale != 0, new / jnp.where(scale != 0, scale, 1), 0)
        same = mask & self.layout.kernel(matrices == old)
        put = lambda values: back(_placed(values.astype(there.dtype), there))
        written = [each > 0 for each in put(~same)]
        leaves = [
            jnp.where(here, number, leaf)
            for here, number, leaf in zip(written, put(jnp.where(same, 0, new)), own, strict=True)
        ]
        finite = jnp.array(True)
        for here, leaf in zip(written, leaves, strict=True):
            finite &= (jnp.isfinite(leaf) | ~here).all()
        covered = [each > 0 for each in put(jnp.ones_like(there))]
        new_masks = [
            jnp.where(here, number > 0, _placed(before, leaf))
            for here, number, before, leaf in zip(covered, put(mask), masks, own, strict=True)
        ]
        return leaves, new_masks, finite

    def _scale(self, arrays: Sequence[Any], starts: Sequence[Any]) -> jax.Array:
        """What the kernel's numbers are multiplied by: the kernel that is made of ones."""
        ones = list(arrays)
        for place in self.targets:
            ones[place] = jnp.ones_like(arrays[place])
        return self.piece.values(ones, starts)[self.piece.writes[0]]

    def _arranged(self, targets: Sequence[Any], arrays: Sequence[Any], starts: Any) -> jax.Array:
        """The kernel without casts and scales: an arrangement of the targets and nothing else."""
        dtype = _common(targets)
        known = {
            self.piece.reads[place]: target.astype(dtype)
            for place, target in zip(self.targets, targets, strict=True)
        }
        begins = dict(zip(self.piece.moving, starts, strict=True))
        for index, equation in enumerate(self.piece.equations):
            atoms = equation.invars
            within = [atom for atom in atoms if not hasattr(atom, "val") and atom in known]
            if not within:
                continue
            name = equation.primitive.name
            if name in IDENTITIES:
                known |= {out: known[atom] for out, atom in _passed(equation, known).items()}
                continue
            if index in begins:
                sizes = equation.outvars[0].aval.shape
                made = [jax.lax.dynamic_slice(known[within[0]], begins[index], sizes)]
            elif name in ("mul", "div", "neg", "select_n", "convert_element_type"):
                made = [known[within[0]]]
            else:
                values = self.piece.values(arrays, starts) if len(within) < len(atoms) else {}
                given = [a.val if hasattr(a, "val") else known.get(a, values.get(a)) for a in atoms]
                made = bind(equation, given)
            known.update(zip(equation.outvars, made, strict=True))
        return known[self.piece.writes[0]]
