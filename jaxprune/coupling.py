"""Units that run through several parameters at once: what they are worth, and the masks of those left."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune import masks as masks_lib
from jaxprune import roles
from jaxprune.host_arrays import Blockwise, Total, totals_by_axis
from jaxprune.types import Pattern

__all__ = [
    "AnyPattern",
    "Coupled",
    "Group",
    "Member",
    "Normalize",
    "Over",
    "Reduce",
    "Use",
    "everywhere",
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
      enters: whether the program sums over this axis in a product: there units are what enters a layer.
      use: "scale": the parameter is multiplied onto what was normalised; "shift": it is added to that.
    """

    path: str
    shape: tuple[int, ...]
    axis: int
    index: np.ndarray
    enters: bool = False
    use: Use | None = None

    @property
    def kernel(self) -> bool:
        """Whether the parameter is a matrix, a kernel or a table: no bias, scale or statistic."""
        called = roles.by_name(self.path, self.shape)
        return len(self.shape) >= 2 and called in ("kernel", "table", "adapter")

    @property
    def weights(self) -> int:
        """Number of the parameter's weights that belong to each unit."""
        return self.index.shape[1] * math.prod(self.shape) // self.shape[self.axis]

    def slices(self, leaf: Any) -> Any:
        """What of an array like the parameter belongs to each unit: [units, k, ...]."""
        if isinstance(leaf, jax.Array):
            moved = jnp.moveaxis(everywhere(leaf), self.axis, 0)
        else:
            moved = np.moveaxis(leaf, self.axis, 0)
        if self.index.shape[1] == 1 and np.array_equal(self.index[:, 0], np.arange(len(moved))):
            return moved[:, None]
        return moved[self.index]

    def total(self, scores: jax.Array, total: Total) -> jax.Array:
        """The sum, sum of squares or maximum of each unit's scores: [units]."""
        rows = self.slices(scores)
        rows = rows.reshape(len(rows), -1)
        return rows.max(1) if total == "max" else (rows**2 if total == "squares" else rows).sum(1)

    def __str__(self) -> str:
        return f"{self.path}[{self.axis}]"


def everywhere(x: jax.Array) -> jax.Array:
    """On an explicit mesh, an array as each device has it whole: places of units know nothing of its axes."""
    if not jax.typeof(x).sharding.mesh.explicit_axes:
        return x
    sharding: Any = jax.typeof(x).sharding if isinstance(x, Tracer) else x.sharding
    return jax.sharding.reshard(x, NamedSharding(sharding.mesh, PartitionSpec()))


class Group(NamedTuple):
    """Units of one kind: each is removed from every member at once.

    Attributes:
      name: the first member, numbered where several groups begin with it.
      units: their classes in the graph's solution, ascending.
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
        return f"Group({self.name}: {self.size} units)"


class Coupled(NamedTuple):
    """A pattern over several parameters: each group is one contest, and its units die everywhere at once.

    `jaxprune.structured.coupled` finds it in a program; methods that take a pattern, one shot or in
    training, take it for one, each alone: a `jaxprune.partition` would tear units apart.

    Attributes:
      groups: of units, over the parameters of one tree.
      reduce: how the scores of a unit's weights become one number: their sum, mean or maximum, their L2
        norm, or the absolute value of their sum (for signed scores, such as weight times gradient).
      normalize: what the scores of a group are divided by, so that groups can be compared: their mean,
        maximum, sum or L2 norm, of absolute values.
      over: which of a unit's slices count: those of "all" kernels, of those that bring it forth, its
        "outputs", or its "scales", the vectors that are multiplied onto what was normalised, and the shifts
        added there, without scales all its biases. Where a group has none of these, whatever it has.
    """

    groups: tuple[Group, ...]
    reduce: Reduce = "sum"
    normalize: Normalize = "none"
    over: Over = "all"

    def __repr__(self) -> str:
        units = sum(group.size for group in self.groups)
        named = [f"{group.name}: {group.size}" for group in self.groups[:3]]
        more = [f"{len(self.groups) - 3} more groups"] if len(self.groups) > 3 else []
        options = [f"{name}={getattr(self, name)!r}" for name in ("reduce", "normalize", "over")]
        return f"Coupled({units} units; {', '.join(named + more)}; {', '.join(options)})"

    @property
    def paths(self) -> list[str]:
        """The parameters that lose something when a unit dies."""
        return list(dict.fromkeys(m.path for group in self.groups for m in group.members))

    def covered(self, params: Any) -> list[str]:
        """Of these, the floating ones of a tree: masks are for them alone."""
        own, leaves = set(self.paths), jax.tree.leaves(params)
        floating = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
        named = zip(masks_lib.paths(params), leaves, strict=True)
        return [path for path, leaf in named if path in own and floating(leaf)]

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """What is wrong with the leaves of a tree; `None` if they are those traced.

        Args:
          shapes: of the leaves, by path.
        """
        for m in (m for group in self.groups for m in group.members):
            if m.path not in shapes:
                return (
                    f"coupled: the tree has no leaf {m.path!r}, but {', '.join(map(repr, shapes))}; name the "
                    "part of the traced tree that is trained (within=)"
                )
            if shapes[m.path] != m.shape:
                return f"coupled: {m.path!r} has the shape {shapes[m.path]}, and had {m.shape} when traced"
        return None

    def units(self, scores: Mapping[str, Any]) -> list[Any]:
        """Returns one score per unit, for each group.

        Kernels count, or what else there is where a group has none with scores.

        Args:
          scores: arrays of NumPy or JAX like the leaves, by path; `None`, or no entry, where there are none.
            Those of NumPy are added up in float64.
        """
        counted = [self._counted(group, scores) for group in self.groups]
        wanted: dict[str, list[int]] = {}
        for m in (m for members in counted for m in members):
            wanted.setdefault(m.path, []).append(m.axis)
        lines = {
            path: totals_by_axis(scores[path], axes, self._total)
            for path, axes in wanted.items()
            if isinstance(scores[path], np.ndarray | Blockwise)
        }

        def total(m: Member) -> Any:
            if m.path not in lines:
                return m.total(scores[m.path], self._total)
            own = lines[m.path][m.axis][m.index]
            return own.max(1) if self._total == "max" else own.sum(1)

        pairs = zip(self.groups, counted, strict=True)
        return [self._units(group, members, total) for group, members in pairs]

    @property
    def _total(self) -> Total:
        found: dict[Reduce, Total] = {"max": "max", "norm": "squares"}
        return found.get(self.reduce, "sum")

    def _counted(self, group: Group, scores: Mapping[str, Any]) -> list[Member]:
        own = [m for m in group.members if scores.get(m.path) is not None]
        if self.over == "scales":
            used = [m for m in own if m.use is not None]
            if any(m.use == "scale" for m in used):
                return used
            named = [m for m in own if m.path.rpartition("/")[2] in ("scale", "bias", "offset")]
            norms = {m.path.rpartition("/")[0] for m in named if m.path.endswith("scale")}
            # A layer's own bias in front of a norm is no part of the norm's gate.
            return [m for m in named if not norms or m.path.rpartition("/")[0] in norms] or own
        own = [m for m in own if m.kernel] or own
        return own if self.over == "all" else [m for m in own if not m.enters] or own

    def _units(
        self, group: Group, counted: Sequence[Member], total: Callable[[Member], Any]
    ) -> Any:
        if not counted:
            raise ValueError(
                f"coupled: the criterion has no scores for the group {group.name!r}; leave it out (only=)."
            )
        totals = [total(m) for m in counted]
        xp = jnp if isinstance(totals[0], jax.Array) else np
        found = xp.stack(totals).max(0) if self.reduce == "max" else sum(totals)
        if self.reduce == "mean":
            found = found / sum(m.weights for m in counted)
        elif self.reduce == "norm":
            found = found**0.5
        elif self.reduce == "absolute":
            found = abs(found)
        size = _SIZES[self.normalize](abs(found))  # type: ignore[arg-type]
        return found / xp.maximum(size, 1e-30)

    def spread(self, values: Sequence[Any], scored: Mapping[str, Any]) -> dict[str, Any]:
        """Returns scores of weights by path of which `units` gives these values again, if it sums.

        Args:
          values: arrays [units], one per group.
          scored: by path, anything but `None` at the leaves that have scores.

        Raises:
          ValueError: if a leaf counts for units along two of its axes, or twice along one.
        """
        found: dict[str, Any] = {}
        taken: dict[str, tuple[int, set[int]]] = {}
        for group, own in zip(self.groups, values, strict=True):
            members = self._counted(group, scored)
            weights = sum(m.weights for m in members)
            for m in members:
                axis, indices = taken.setdefault(m.path, (m.axis, set()))
                if axis != m.axis or indices.intersection(m.index.ravel()):
                    raise ValueError(
                        f"coupled(over={self.over!r}): {m.path!r} counts for units of more than one group, "
                        "and its weights cannot have shares of both; over='outputs' or 'scales' is needed."
                    )
                indices.update(m.index.ravel())
                line = jnp.zeros(m.shape[axis], own.dtype)
                line = line.at[m.index].add(own[:, None] / weights)
                line = line.reshape([-1 if i == axis else 1 for i in range(len(m.shape))])
                found[m.path] = found.get(m.path, 0) + jnp.broadcast_to(line, m.shape)
        return found

    def alive(self, masks: Mapping[str, Any]) -> list[jax.Array]:
        """Returns which units live, for each group: those of which any slice does.

        Args:
          masks: bool arrays by path, `None` at leaves without one.
        """
        found = []
        for group in self.groups:
            own = [m for m in group.members if masks.get(m.path) is not None]
            parts = [m.slices(masks[m.path]).reshape(group.size, -1).any(1) for m in own]
            found.append(jnp.stack(parts).any(0))
        return found

    def masks(self, alive: Sequence[Any]) -> dict[str, Any]:
        """Returns the masks of what is left: an index of an axis lives as long as all units that have it.

        Args:
          alive: bool arrays [units] of NumPy or JAX, one per group.

        Returns:
          Bool arrays by path, of the leaves that units run along.
        """
        axes: dict[tuple[str, int], Any] = {}
        shapes = {m.path: m.shape for group in self.groups for m in group.members}
        for group, own in zip(self.groups, alive, strict=True):
            xp = jnp if isinstance(own, jax.Array) else np
            for m in group.members:
                axis = axes.get((m.path, m.axis), xp.ones(m.shape[m.axis], bool))
                units = xp.repeat(own, m.index.shape[1])
                if isinstance(axis, jax.Array):
                    axis = axis.at[m.index.ravel()].min(units)
                else:
                    np.logical_and.at(axis, m.index.ravel(), units)
                axes[m.path, m.axis] = axis
        found: dict[str, Any] = {}
        for (path, axis), own in axes.items():
            wide = own.reshape([-1 if i == axis else 1 for i in range(len(shapes[path]))])
            found[path] = found.get(path, True) & wide
        spread = lambda m, shape: (jnp if isinstance(m, jax.Array) else np).broadcast_to(m, shape)
        return {path: spread(mask, shapes[path]) for path, mask in found.items()}


AnyPattern = Pattern | Coupled

_SIZES: dict[str, Callable[[Any], Any]] = {
    "none": lambda scores: 1.0,
    "mean": lambda scores: scores.mean(),
    "max": lambda scores: scores.max(),
    "sum": lambda scores: scores.sum(),
    "norm": lambda scores: (scores**2).sum() ** 0.5,
}
