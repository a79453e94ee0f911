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
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax

from jaxprune.calls import Part

Params = Any
Scores = Any
Masks = Any
Step = jax.Array | int
Sparsity = jax.Array | float


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("scores", "competing"), meta_fields=("axis",)
)
@dataclasses.dataclass(frozen=True)
class Units:
    """What competes in one leaf.

    Attributes:
      scores: float array, one number per unit; what lives and dies together is one unit.
      axis: every slice along this axis is one contest; `None`: all units are in one contest.
      competing: how many units of a contest the budget counts; `None`: all of them. The rounds of a
        lottery ticket count those that are still alive, so 0.2 removes a fifth of what is left.
    """

    scores: jax.Array
    axis: int | None = None
    competing: jax.Array | None = None

    @property
    def members(self) -> int:
        """Units in one contest."""
        return self.scores.size if self.axis is None else self.scores.shape[self.axis]

    @property
    def contests(self) -> int:
        """Contests in this leaf."""
        return self.scores.size // self.members

    @property
    def budgeted(self) -> jax.Array | int:
        """Units of one contest that the budget counts."""
        return self.members if self.competing is None else self.competing


class Keep(NamedTuple):
    """A leaf's survivors per contest, with their choice where the allocation had to make it.

    Attributes:
      count: int32, units that survive in each contest.
      chosen: bool array, the best `count` units, or `None` where nobody has looked yet.
    """

    count: jax.Array | int
    chosen: jax.Array | None = None


class Criterion(Protocol):
    """What each weight is worth: `(params, *, <signals>, **_) -> Scores`."""

    def __call__(self, params: Params, /, **signals: Any) -> Scores: ...  # noqa: D102


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Pattern(Part):
    """What dies together and who competes.

    Attributes:
      to_groups: scores of one leaf -> `Units.scores`.
      from_groups: (alive units, shape of the leaf) -> mask of the leaf.
      axis: ndim of the units -> the contests' axis, or `None` for one contest over the leaf.
      check: shape of a leaf -> `None`, or what is wrong with it and what would be right.
    """

    to_groups: Callable[[jax.Array], jax.Array]
    from_groups: Callable[[jax.Array, tuple[int, ...]], jax.Array]
    axis: Callable[[int], int | None]
    check: Callable[[tuple[int, ...]], str | None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Allocation(Part):
    """Who gets how much of the budget; it is called like the function that it holds.

    Attributes:
      allocate: (params, units, sparsity) -> tree of counts or `Keep`.
    """

    allocate: Callable[[Params, Any, Sparsity], Any]

    def __call__(self, params: Params, units: Any, sparsity: Sparsity) -> Any:
        """Returns how many units of each contest survive."""
        return self.allocate(params, units, sparsity)


AnyAllocation = Allocation | Callable[..., Any]  # a plain function of the same arguments will do


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Schedule(Part):
    """When masks change, and how sparse they must be by then.

    Attributes:
      due: step -> bool, whether the masks change before this update.
      sparsity: step -> fraction of the prunable weights removed.
      end: the last step at which masks can change; there `sparsity` is on its target.
    """

    due: Callable[[Step], jax.Array | bool]
    sparsity: Callable[[Step], Sparsity]
    end: int


Fraction = float | Callable[[Step], jax.Array]  # a share of the places


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Update(Part):
    """How an old mask becomes a new one.

    Attributes:
      select: (alive, units, rivals, keep, step) -> alive, lists with one entry per prunable leaf.
      challengers: criterion by which dead units apply for a place; `None`: they cannot.
      revives: whether a dead unit competes on its score; if not, it ranks below every living one.
      skip_gradient: whether the update that changes the masks leaves the weights alone.
      whole_leaves: whether it keeps no counts per contest, so that each leaf must be one contest.
    """

    select: Callable[..., list[jax.Array]]
    challengers: Criterion | None = None
    revives: bool = False
    skip_gradient: bool = False
    whole_leaves: bool = False


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Share(Part):
    """A share of the places that changes with the step; it is called like the function that it holds.

    Attributes:
      at: step -> the share, in [0, 1].
    """

    at: Callable[[Step], jax.Array]

    def __call__(self, step: Step) -> jax.Array:
        """Returns the share at a step."""
        return self.at(step)


class Backward(NamedTuple):
    """What reaches a weight off the mask where it stays as it is: training straight through the mask.

    Attributes:
      decay: off the masks, `decay * w` is added to the gradient: a pull towards zero.
      sparsity: the fraction of the weights that receive no gradient at all, those that the criterion
        values least; `None`: all receive theirs.
    """

    decay: float = 0.0
    sparsity: float | None = None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Penalty(Part):
    r"""What is added to the loss to make weights zero; `leaves` is `{path: array}` of those it falls on.

    Attributes:
      value: (leaves, step) -> the penalty $P$, a float32 scalar.
      prox: (leaves $v$, sizes $\eta$, step) -> leaves: where $P(w) + \sum_i (w_i - v_i)^2 / 2\eta_i$ is
        least. Step sizes are one number for all leaves, or `{path: number or array of the leaf's shape}`.
      subgradient: (leaves, step) -> leaves, 0 at 0; `None` if there is none of use.
      check: {path: shape} of the leaves -> `None`, or what is wrong with one and what would be right.
      covers: paths of the leaves that it names itself, or a regular expression searched in them; `None`: it
        takes each leaf that is prunable.
    """

    value: Callable[[dict[str, jax.Array], Step], jax.Array]
    prox: Callable[[dict[str, jax.Array], Any, Step], dict[str, jax.Array]]
    subgradient: Callable[[dict[str, jax.Array], Step], dict[str, jax.Array]] | None
    check: Callable[[dict[str, tuple[int, ...]]], str | None]
    covers: tuple[str, ...] | str | None = None
