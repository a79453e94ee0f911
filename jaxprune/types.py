"""Names of the trees and of the parts that pass between the seven concepts; no logic.

=========  =====================================================================================
`Params`   any pytree of arrays
`Scores`   the same tree, float, higher = keep
`Masks`    the same tree, bool per leaf; `None` at a leaf that is never pruned
`Units`    per leaf: the scores as a pattern sees them, and the axis along which they compete
`Keep`     per leaf: how many units survive in each contest
=========  =====================================================================================
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxprune.calls import Part

__all__ = [
    "Allocation",
    "AnyAllocation",
    "Axes",
    "Backward",
    "Contests",
    "Criterion",
    "Fraction",
    "Keep",
    "Masks",
    "Params",
    "Part",
    "Pattern",
    "Penalty",
    "Schedule",
    "Scores",
    "Share",
    "Sparsity",
    "Step",
    "Units",
    "Update",
]


def __dir__() -> list[str]:
    return sorted(__all__)


Params = Any
Scores = Any
Masks = Any
Step = jax.Array | int
Sparsity = jax.Array | float


@dataclasses.dataclass(frozen=True)
class Axes:
    """Roles of the axes of a kernel in the program that multiplies it, in the words of `jax.nn.initializers`.

    Axes are counted from 0; negative ones count from the end. The window axes of a convolution are none of
    the three.

    Attributes:
      in_axis: axes that products sum over, one or several; `None`: the program leaves them open.
      out_axis: axes that products keep; `None` likewise.
      batch_axis: axes of which each index is a kernel of its own: layers stacked for a scan, experts, members
        of an ensemble. Each is a layer.
      reason: why `in_axis` is `None`.
      use: "kernel"; or what is no kernel although it is multiplied, and is not pruned unless asked for: a
        "table" that is looked up as well (a tied embedding) or multiplied by a one-hot vector, an "adapter"
        of low rank that is added to a kernel (LoRA), a "factor" that is multiplied with another parameter.

    >>> Axes(in_axis=0, out_axis=(1, 2))
    Axes(in_axis=(0,), out_axis=(1, 2), batch_axis=())
    """

    in_axis: Any
    out_axis: Any
    batch_axis: Any = ()
    reason: str | None = None
    use: str = "kernel"

    def __post_init__(self) -> None:
        """Makes a tuple of each field that is one axis, and refuses what is none."""
        for name in ("in_axis", "out_axis", "batch_axis"):
            value = getattr(self, name)
            if value is None and name != "batch_axis":
                continue
            axes: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) else (value,)
            if not all(hasattr(axis, "__index__") and not isinstance(axis, bool) for axis in axes):
                raise TypeError(
                    f"Axes({name}={value!r}): an axis or several are needed, as integers."
                )
            object.__setattr__(self, name, tuple(operator.index(axis) for axis in axes))
        if self.in_axis is None and self.reason is None:
            object.__setattr__(self, "reason", "nobody has said which axes are inputs")

    def __repr__(self) -> str:
        """The call, without what is at its default."""
        names = ("in_axis", "out_axis", "batch_axis")
        arguments = [f"{name}={getattr(self, name)!r}" for name in names]
        arguments += [f"reason={self.reason!r}"] if self.reason is not None else []
        arguments += [f"use={self.use!r}"] if self.use != "kernel" else []
        return f"Axes({', '.join(arguments)})"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("scores", "competing", "among"),
    meta_fields=("axis", "layers", "kernel"),
)
@dataclasses.dataclass(frozen=True)
class Units:
    """The units of one leaf, with their scores, and which of them compete with each other.

    A layer is a leaf, or where layers are stacked in one leaf, a slice of it. Each layer has a budget of its
    own; within a layer there may be many contests.

    Attributes:
      scores: float array, one number per unit; weights that are removed together are one unit.
      axis: units along this axis, or these axes together, are one contest; `None`: all units of a layer are.
      competing: int32 per layer, how many units of a contest the budget counts; `None`: all of them. The
        rounds of a lottery ticket count those that are still alive, so 0.2 removes a fifth of what is left.
      layers: axes of `scores` that index layers, ascending.
      kernel: what the axes of the leaf are; `None`: they are told by its shape.
      among: bool like `scores`, which units may be kept at all: the living, where what is dead stays dead.
        `None`: all of them. What the others score means nothing.
    """

    scores: jax.Array
    axis: int | tuple[int, ...] | None = None
    competing: jax.Array | None = None
    layers: tuple[int, ...] = ()
    kernel: Axes | None = None
    among: jax.Array | None = None

    @property
    def known(self) -> jax.Array:
        """The scores, with zeros for units that cannot be kept: what sums over a layer may read."""
        return self.scores if self.among is None else jnp.where(self.among, self.scores, 0)

    @property
    def contest_axes(self) -> tuple[int, ...]:
        """The axes of `scores` that the units of one contest lie along, ascending."""
        ndim = self.scores.ndim
        if self.axis is None:
            return tuple(axis for axis in range(ndim) if axis not in self.layers)
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        return tuple(sorted(axis % ndim for axis in axes))

    @property
    def members(self) -> int:
        """The number of units in one contest."""
        return math.prod(self.scores.shape[axis] for axis in self.contest_axes)

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """The shape of an array with one element per layer."""
        return tuple(self.scores.shape[axis] for axis in self.layers)

    @property
    def contests(self) -> int:
        """The number of contests in one layer."""
        return max(self.scores.size // max(math.prod(self.layer_shape) * self.members, 1), 1)

    @property
    def budgeted(self) -> jax.Array | int:
        """The number of units of one contest that the budget counts; an array where layers differ."""
        return self.members if self.competing is None else self.competing

    def beside(self, numbers: jax.Array | int) -> jax.Array | int:
        """Returns numbers per layer in the shape that broadcasts against `scores`.

        Args:
          numbers: one, or one for each layer.
        """
        if not self.layers:
            return numbers
        shape = [size if axis in self.layers else 1 for axis, size in enumerate(self.scores.shape)]
        return jnp.broadcast_to(numbers, self.layer_shape).reshape(shape)


class Keep(NamedTuple):
    """How many units of a leaf survive, and which, where the allocation had to choose them.

    Attributes:
      count: int32, units that survive in each contest: a scalar, or one number per layer.
      chosen: bool array, the best `count` units, or `None` where nobody has looked yet.
    """

    count: jax.Array | int
    chosen: jax.Array | None = None


class Criterion(Protocol):
    """Scores each weight: `(params, *, <signals>, **_) -> Scores`, higher is kept.

    Scores are real numbers, and ordered in float32 or wider: integers above 2**24, such as hashes, are
    refused where they are known, and rounded where they are traced.
    """

    def __call__(self, params: Params, /, **signals: Any) -> Scores: ...  # noqa: D102


class Contests(NamedTuple):
    """Axes along which the units of a leaf are divided into contests and layers.

    Attributes:
      axis: units along this axis, or these axes together, are one contest; `None`: all units of a layer are.
      layers: axes that index layers.
    """

    axis: int | tuple[int, ...] | None = None
    layers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Pattern(Part):
    """Functions that say which weights are removed together and which compete.

    Each function takes last what the axes of the leaf are, an `Axes`; `None`, or left out: they are told by
    its shape, as Flax stores kernels (`jaxprune.kernel_axes.by_position`).

    Attributes:
      to_groups: (scores of one leaf, axes) -> `Units.scores`.
      from_groups: (alive units, shape of the leaf, axes) -> mask of the leaf.
      contests: (shape of the leaf, axes) -> which axes of the units are contests, and which index layers.
      check: (shape of the leaf, axes) -> `None`, or what is wrong with it and what would be right.
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    to_groups: Callable[..., jax.Array]
    from_groups: Callable[..., jax.Array]
    contests: Callable[..., Contests]
    check: Callable[..., str | None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Allocation(Part):
    """Distributes a budget over layers; it is called like the function that it holds.

    Attributes:
      allocate: (params, units, sparsity) -> tree of counts or `Keep`; the sparsity is a fraction removed.
      shares: the same where no layer has a floor, if shapes tell: it reads no scores. `None`: scores decide.
      at_least: its floor, the fewest units that a layer keeps.
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    allocate: Callable[[Params, Any, Sparsity], Any]
    shares: Callable[[Params, Any, Sparsity], Any] | None = None
    at_least: int = 0

    def __call__(self, params: Params, units: Any, sparsity: Sparsity) -> Any:
        """Returns how many units of each contest survive, a tree of counts or `Keep`."""
        return self.allocate(params, units, sparsity)


AnyAllocation = Allocation | Callable[..., Any]  # a plain function of the same arguments will do


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Schedule(Part):
    """Functions of the update count that say when masks change, and how sparse they must be by then.

    Attributes:
      due: step -> bool, whether the masks change before this update.
      sparsity: step -> fraction of the prunable weights removed.
      end: the step, in updates, from which on `sparsity` is on its target. It is the last one at which masks
        can change, unless the schedule goes on at that sparsity for ever (`schedules.constant`).
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    due: Callable[[Step], jax.Array | bool]
    sparsity: Callable[[Step], Sparsity]
    end: int


Fraction = float | Callable[[Step], jax.Array]  # of the places of a contest, or that at a step


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Update(Part):
    """Makes a new mask of an old one.

    Attributes:
      select: (alive, units, grow_scores, keep, step) -> alive, lists with one element per prunable leaf.
      grow_criterion: criterion by which dead units apply for a place; `None`: they cannot.
      ranks_dead_units: whether a dead unit competes on its score; if not, it ranks below every living one.
      skip_gradient: whether the update that changes the masks leaves the weights alone.
      whole_leaves: whether it keeps no counts per contest, so that each leaf must be one contest.
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    select: Callable[..., list[jax.Array]]
    grow_criterion: Criterion | None = None
    ranks_dead_units: bool = False
    skip_gradient: bool = False
    whole_leaves: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Share(Part):
    """A fraction of the places of a contest, as a function of the step; it is called like that function.

    Attributes:
      at: step -> the fraction, in [0, 1].
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    at: Callable[[Step], jax.Array]

    def __call__(self, step: Step) -> jax.Array:
        """Returns the fraction at a step."""
        return self.at(step)


class Backward(NamedTuple):
    """The gradient of weights off the mask, where they keep their values: training straight through masks.

    Attributes:
      decay: off the masks, `decay * w` is added to the gradient: a pull towards zero.
      sparsity: the fraction of the weights that receive no gradient at all, those that the criterion
        values least; `None`: all receive theirs.
    """

    decay: float = 0.0
    sparsity: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Penalty(Part):
    r"""A term added to the loss to make weights zero; `leaves` is `{path: array}` of those it falls on.

    Attributes:
      value: (leaves, step) -> the penalty $P$, a float32 scalar, whose gradient is the subgradient.
      prox: (leaves $v$, sizes $\eta$, step) -> leaves: where $P(w) + \sum_i (w_i - v_i)^2 / 2\eta_i$ is
        least. Step sizes are one number for all leaves, or `{path: number or array of the leaf's shape}`.
      subgradient: (leaves, step) -> leaves, 0 at 0; `None` if there is none of use.
      check: {path: shape} of the leaves -> `None`, or what is wrong with one and what would be right.
      covers: paths of the leaves that it names itself, or a regular expression searched in them; `None`: it
        takes each leaf that is prunable.
      made_by: the call of the factory that made it, by which it prints; set by the factory.
    """

    value: Callable[[dict[str, jax.Array], Step], jax.Array]
    prox: Callable[[dict[str, jax.Array], Any, Step], dict[str, jax.Array]]
    subgradient: Callable[[dict[str, jax.Array], Step], dict[str, jax.Array]] | None
    check: Callable[[dict[str, tuple[int, ...]]], str | None]
    covers: tuple[str, ...] | str | None = None
