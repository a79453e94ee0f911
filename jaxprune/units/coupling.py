"""Units that run through several parameters at once: their scores, and the masks of those that are kept."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.arrays.host_arrays import Blockwise, Total, totals_by_axis
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import whole
from jaxprune.trees import roles
from jaxprune.types import Pattern
from jaxprune.wording import counted

__all__ = [
    "AnyPattern",
    "Coupled",
    "Group",
    "Member",
    "Normalize",
    "Over",
    "Reduce",
    "Use",
]

Reduce = Literal["sum", "mean", "max", "norm", "absolute"]
Normalize = Literal["none", "mean", "max", "sum", "norm"]
Over = Literal["all", "outputs", "scales"]
Use = Literal["scale", "shift"]


class Member(NamedTuple):
    """An axis of a parameter that a group's units run along.

    Attributes:
      path: of the parameter.
      shape: of the parameter.
      axis: of it.
      index: int [units, k]: the indices of the axis that each unit has; `k` is 1 unless axes were merged.
      is_input_axis: whether the program sums over this axis in a product: there units are inputs of a layer.
      use: "scale": the parameter is multiplied onto normalised values; "shift": it is added to them.
    """

    path: str
    shape: tuple[int, ...]
    axis: int
    index: np.ndarray
    is_input_axis: bool = False
    use: Use | None = None

    @property
    def kernel(self) -> bool:
        """Whether the parameter is a matrix, a kernel or a table: no bias, scale or statistic."""
        role = roles.by_name(self.path, self.shape)
        return len(self.shape) >= 2 and role in ("kernel", "table", "adapter")

    @property
    def weights(self) -> int:
        """Number of the parameter's weights that belong to each unit."""
        return self.index.shape[1] * math.prod(self.shape) // self.shape[self.axis]

    def slices(self, leaf: Any) -> Any:
        """Returns the slices of an array like the parameter that belong to each unit: [units, k, ...]."""
        if isinstance(leaf, jax.Array):
            rows = jnp.moveaxis(whole(leaf), self.axis, 0)
        else:
            rows = np.moveaxis(leaf, self.axis, 0)
        if self.index.shape[1] == 1 and np.array_equal(self.index[:, 0], np.arange(len(rows))):
            return rows[:, None]
        return rows[self.index]

    def total(self, scores: jax.Array, reduction: Total) -> jax.Array:
        """Returns the sum, sum of squares or maximum of each unit's scores, in float32 or wider: [units]."""
        rows = widen(self.slices(scores))
        rows = rows.reshape(len(rows), -1)
        return (
            rows.max(1)
            if reduction == "max"
            else (rows**2 if reduction == "squares" else rows).sum(1)
        )

    def __str__(self) -> str:
        return f"{self.path}[{self.axis}]"


class Group(NamedTuple):
    """Units of one kind: each is removed from every member at once.

    Attributes:
      name: the first member, with an index where several groups begin with it.
      units: their equivalence classes in the graph, ascending.
      members: the axes that they run along.
      exact: whether the function without some of its units gives what it gives with zeros in their place.
      reason: where that is not so, what of the zeros is seen.
    """

    name: str
    units: np.ndarray
    members: tuple[Member, ...]
    exact: bool = True
    reason: str = ""

    @property
    def size(self) -> int:
        """Number of units."""
        return len(self.units)

    def __repr__(self) -> str:
        return f"Group({self.name}: {counted(self.size, 'unit')})"


class Coupled(NamedTuple):
    """A pattern over several parameters: each group is one contest; a unit is removed from all at once.

    `jaxprune.structured.coupled` finds it in a program; methods that take a pattern, one shot or in
    training, take it for one, each alone: a `jaxprune.partition` would tear units apart.

    Attributes:
      groups: of units, over the parameters of one tree.
      reduce: how the scores of a unit's weights become one number: their sum, mean or maximum, their L2
        norm, or the absolute value of their sum (for signed scores, such as weight times gradient).
      normalize: what the scores of a group are divided by, so that groups can be compared: their mean,
        maximum, sum or L2 norm, of absolute values that are finite.
      over: which of a unit's slices count: those of "all" kernels, of those that compute it, its "outputs",
        or its "scales", the vectors that are multiplied onto normalised values, and the shifts added there,
        without scales all its biases. Where a group has none of these, all that it has.
    """

    groups: tuple[Group, ...]
    reduce: Reduce = "sum"
    normalize: Normalize = "none"
    over: Over = "all"

    def __repr__(self) -> str:
        unit_count = sum(group.size for group in self.groups)
        shown_groups = [f"{group.name}: {group.size}" for group in self.groups[:3]]
        hidden_count = len(self.groups) - 3
        more_text = [counted(hidden_count, "more group")] if hidden_count > 0 else []
        options = [f"{name}={getattr(self, name)!r}" for name in ("reduce", "normalize", "over")]
        parts = [
            counted(unit_count, "unit"),
            ", ".join(shown_groups + more_text),
            ", ".join(options),
        ]
        return f"Coupled({'; '.join(parts)})"

    @property
    def paths(self) -> list[str]:
        """The paths of the parameters that lose something when a unit is removed."""
        return list(dict.fromkeys(member.path for group in self.groups for member in group.members))

    def covered(self, params: Any) -> list[str]:
        """Returns the paths of these that are floating-point leaves of a tree: only they have masks."""
        pattern_paths = set(self.paths)
        leaves_by_path = zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True)
        return [
            path
            for path, leaf in leaves_by_path
            if path in pattern_paths and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        ]

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Returns what is wrong with the leaves of a tree; `None` if they are those traced.

        Args:
          shapes: of the leaves, by path.
        """
        for member in (member for group in self.groups for member in group.members):
            if member.path not in shapes:
                return (
                    f"coupled: the tree has no leaf {member.path!r}, but {', '.join(map(repr, shapes))}; "
                    "name the part of the traced tree that is trained (within=)"
                )
            if shapes[member.path] != member.shape:
                return (
                    f"coupled: {member.path!r} has the shape {shapes[member.path]}, and had {member.shape} "
                    "when traced"
                )
        return None

    def units(self, scores: Mapping[str, Any]) -> list[Any]:
        """Returns one score per unit, for each group.

        Kernels count, or what else there is where a group has none with scores.

        Args:
          scores: arrays of NumPy or JAX like the leaves, by path; `None`, or no entry, where there are none.
            Those of NumPy are added up in float64.
        """
        counted_members = [self._counted_members(group, scores) for group in self.groups]
        axes_by_path: dict[str, list[int]] = {}
        for member in (member for group_members in counted_members for member in group_members):
            axes_by_path.setdefault(member.path, []).append(member.axis)
        axis_totals = {
            path: totals_by_axis(scores[path], axes, self._reduction)
            for path, axes in axes_by_path.items()
            if isinstance(scores[path], np.ndarray | Blockwise)
        }

        def member_total(member: Member) -> Any:
            if member.path not in axis_totals:
                return member.total(scores[member.path], self._reduction)
            index_totals = axis_totals[member.path][member.axis][member.index]
            return index_totals.max(1) if self._reduction == "max" else index_totals.sum(1)

        pairs = zip(self.groups, counted_members, strict=True)
        return [
            self._unit_scores(group, group_members, member_total) for group, group_members in pairs
        ]

    @property
    def _reduction(self) -> Total:
        """How the scores of a unit's weights are added up, before `_unit_scores` makes one number of them."""
        totals: dict[Reduce, Total] = {"max": "max", "norm": "squares"}
        return totals.get(self.reduce, "sum")

    def _counted_members(self, group: Group, scores: Mapping[str, Any]) -> list[Member]:
        """Returns the members of a group whose slices count (`over`), of those that have scores."""
        scored_members = [member for member in group.members if scores.get(member.path) is not None]
        if self.over == "scales":
            scales_and_shifts = [member for member in scored_members if member.use is not None]
            if any(member.use == "scale" for member in scales_and_shifts):
                return scales_and_shifts
            norm_members = [
                member
                for member in scored_members
                if member.path.rpartition("/")[2] in ("scale", "bias", "offset")
            ]
            norm_modules = {
                member.path.rpartition("/")[0]
                for member in norm_members
                if member.path.endswith("scale")
            }
            # A layer's own bias in front of a norm is no part of the norm's gate.
            return [
                member
                for member in norm_members
                if not norm_modules or member.path.rpartition("/")[0] in norm_modules
            ] or scored_members
        kernels = [member for member in scored_members if member.kernel] or scored_members
        return (
            kernels
            if self.over == "all"
            else [member for member in kernels if not member.is_input_axis] or kernels
        )

    def _unit_scores(
        self, group: Group, members: Sequence[Member], member_total: Callable[[Member], Any]
    ) -> Any:
        """Returns one score per unit of a group, from the totals of its members that count."""
        if not members:
            raise ValueError(
                f"coupled: the criterion has no scores for the group {group.name!r}; leave it out (only=)."
            )
        totals = [member_total(member) for member in members]
        xp = jnp if isinstance(totals[0], jax.Array) else np
        unit_scores = xp.stack(totals).max(0) if self.reduce == "max" else sum(totals)
        if self.reduce == "mean":
            unit_scores = unit_scores / sum(member.weights for member in members)
        elif self.reduce == "norm":
            unit_scores = unit_scores**0.5
        elif self.reduce == "absolute":
            unit_scores = abs(unit_scores)
        if self.normalize == "none":
            return unit_scores
        is_finite = xp.isfinite(unit_scores)  # an infinite score stays the highest, or the lowest
        sizes = xp.where(is_finite, abs(unit_scores), 0)
        scale = xp.where(sizes.max() > 0, sizes.max(), 1)  # so that no square or sum overflows
        size = _SIZE_BY_NORMALIZE[self.normalize](sizes / scale, is_finite.sum())
        return unit_scores / scale / xp.where(size > 0, size, 1)

    def spread(self, values: Sequence[Any], scored: Mapping[str, Any]) -> dict[str, Any]:
        """Returns scores of weights by path that `units` adds up to these values, if it sums.

        Args:
          values: arrays [units], one per group.
          scored: by path, anything but `None` at the leaves that have scores.

        Raises:
          ValueError: if a leaf counts for units along two of its axes, or twice along one.
        """
        scores_by_path: dict[str, Any] = {}
        counted_indices: dict[str, tuple[int, set[int]]] = {}
        for group, unit_values in zip(self.groups, values, strict=True):
            members = self._counted_members(group, scored)
            weight_count = sum(member.weights for member in members)
            for member in members:
                axis, indices = counted_indices.setdefault(member.path, (member.axis, set()))
                if axis != member.axis or indices.intersection(member.index.ravel()):
                    raise ValueError(
                        f"coupled(over={self.over!r}): {member.path!r} counts for units of more than "
                        "one group, and its weights cannot have shares of both; "
                        "over='outputs' or 'scales' is needed."
                    )
                indices.update(member.index.ravel())
                line = jnp.zeros(member.shape[axis], unit_values.dtype)
                line = line.at[member.index].add(unit_values[:, None] / weight_count)
                line = line.reshape([-1 if i == axis else 1 for i in range(len(member.shape))])
                scores_by_path[member.path] = scores_by_path.get(member.path, 0) + jnp.broadcast_to(
                    line, member.shape
                )
        return scores_by_path

    def alive(self, masks: Mapping[str, Any]) -> list[jax.Array]:
        """Returns which units are kept, for each group: those of which any slice is.

        Args:
          masks: bool arrays by path, `None` at leaves without one.
        """
        alive_of_groups = []
        for group in self.groups:
            masked_members = [
                member for member in group.members if masks.get(member.path) is not None
            ]
            alive_of_members = [
                member.slices(masks[member.path]).reshape(group.size, -1).any(1)
                for member in masked_members
            ]
            alive_of_groups.append(jnp.stack(alive_of_members).any(0))
        return alive_of_groups

    def masks(self, alive: Sequence[Any]) -> dict[str, Any]:
        """Returns the masks of what is left: an index of an axis is kept if all units that have it are.

        Args:
          alive: bool arrays [units] of NumPy or JAX, one per group.

        Returns:
          Bool arrays by path, of the leaves that units run along.
        """
        kept_by_axis: dict[tuple[str, int], Any] = {}
        shapes = {member.path: member.shape for group in self.groups for member in group.members}
        for group, alive_units in zip(self.groups, alive, strict=True):
            xp = jnp if isinstance(alive_units, jax.Array) else np
            for member in group.members:
                kept = kept_by_axis.get(
                    (member.path, member.axis), xp.ones(member.shape[member.axis], bool)
                )
                unit_values = xp.repeat(alive_units, member.index.shape[1])
                if isinstance(kept, jax.Array):
                    kept = kept.at[member.index.ravel()].min(unit_values)
                else:
                    np.logical_and.at(kept, member.index.ravel(), unit_values)
                kept_by_axis[member.path, member.axis] = kept
        narrow_masks: dict[str, Any] = {}
        for (path, axis), kept in kept_by_axis.items():
            wide_mask = kept.reshape([-1 if i == axis else 1 for i in range(len(shapes[path]))])
            narrow_masks[path] = narrow_masks.get(path, True) & wide_mask
        return {
            path: (jnp if isinstance(mask, jax.Array) else np).broadcast_to(mask, shapes[path])
            for path, mask in narrow_masks.items()
        }


AnyPattern = Pattern | Coupled

_SIZE_BY_NORMALIZE: dict[str, Callable[[Any, Any], Any]] = {  # of finite scores, and their number
    "mean": lambda sizes, count: sizes.sum() / count.clip(1),
    "max": lambda sizes, count: sizes.max(),
    "sum": lambda sizes, count: sizes.sum(),
    "norm": lambda sizes, count: (sizes**2).sum() ** 0.5,
}
