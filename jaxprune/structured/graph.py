"""What of a function's parameters lives and dies together, found in its program."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import checks, programs
from jaxprune import masks as masks_lib
from jaxprune.coupling import Group, Member, Use
from jaxprune.programs.constants import UNKNOWN, fact_of_zero
from jaxprune.structured.exactness import flagged
from jaxprune.structured.labels import Axes, Labels
from jaxprune.structured.pinned import conflicts
from jaxprune.structured.rules.products import summed
from jaxprune.structured.scales import uses
from jaxprune.structured.solve import Solution, solve
from jaxprune.structured.turns import settle
from jaxprune.structured.unread import beside, unread
from jaxprune.structured.walk import Loop, Tape, each, followed
from jaxprune.types import Params

__all__ = ["Graph", "followed_through", "trace"]


class Graph(NamedTuple):
    """The program of a function, and the groups of its parameters.

    Attributes:
      fn: the function.
      params: shapes and types of its parameters.
      program: its jaxpr, with constants.
      tape: the equations of the program with the labels of their inputs and outputs.
      outputs: structure of what it returns.
      axes: labels of each parameter, by leaf.
      solution: what the labels come down to.
      groups: of units, in the order in which their first parameter stands.
      turns: groups of another kind: the turns of loops that can be left out one by one, as layers under a
        scan. They are blocks (`structured.blocks`), no units.
      unknown: primitives without a rule, and how often they were met: what they touch is pinned.
    """

    fn: Callable[..., Any]
    params: Params
    program: Any
    tape: Tape
    outputs: Any
    axes: list[Axes]
    solution: Solution
    groups: tuple[Group, ...]
    turns: tuple[Group, ...]
    unknown: dict[str, int]

    @property
    def paths(self) -> list[str]:
        """Of the parameters."""
        return masks_lib.paths(self.params)

    def kept(self, removed: np.ndarray) -> list[list[np.ndarray]]:
        """Per leaf and axis, which indices are left when some classes are removed."""
        alive = self.solution.kept(removed)
        return [[alive[self.solution.of[axis]] for axis in axes] for axes in self.axes]

    def alive(self, removed: np.ndarray) -> list[np.ndarray]:
        """Per leaf, the mask of what is left when some classes are removed."""
        found = []
        for axes in self.kept(removed):
            mask = np.ones((), bool)
            for own in axes:
                mask = mask[..., None] & own
            found.append(mask)
        return found

    def check(self, params: Params) -> None:
        """Raises `ValueError` unless a tree has the leaves that were traced, with their shapes."""
        found = dict(
            zip(masks_lib.paths(params), map(np.shape, jax.tree.leaves(params)), strict=True)
        )
        wanted = {p: x.shape for p, x in zip(self.paths, jax.tree.leaves(self.params), strict=True)}
        for path in (*wanted, *found):
            if found.get(path) != wanted.get(path):
                raise ValueError(
                    f"structured: {path!r} has the shape {found.get(path)}, and had {wanted.get(path)} when "
                    "traced; give the tree that was traced."
                )

    def summary(self) -> str:
        """A table of the groups, which of them are not exact, and what is pinned for want of a rule."""
        rows = [("group", "units", "also along")]
        for group in self.groups:
            others = list(map(str, group.members[1:]))
            shown = ", ".join(others[:3]) + (
                f" and {len(others) - 3} more" if len(others) > 3 else ""
            )
            rows.append((group.name, str(group.size), shown))
        wide = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [f"{a:<{wide[0]}}  {b:>{wide[1]}}  {c}".rstrip() for a, b, c in rows]
        units = sum(group.size for group in self.groups)
        lines.append(f"{len(self.groups)} groups, {units:,} units")
        lines += [
            f"Not exact: {group.name}: {group.reason}" for group in self.groups if not group.exact
        ]
        lines += [f"{group.size} turns of a loop along {group.name}" for group in self.turns]
        if self.unknown:
            named = ", ".join(f"{n} ({count})" for n, count in sorted(self.unknown.items()))
            lines.append(f"Without a rule, so what they touch is pinned: {named}")
        if self.solution.conflicts:
            named = ", ".join(conflicts(self)) or "no parameter"
            lines.append(
                f"Reshapes that do not fit together: {self.solution.conflicts}; they pin {named}"
            )
        return "\n".join(lines)


def trace(fn: Callable[..., Any], params: Params, *inputs: Any) -> Graph:
    """Finds what of the parameters of a function can be removed together.

    The program of `fn` is followed with a label on each index of each axis. Nothing about layers is known:
    an addition ties its operands, a product ties what it sums over, a reshape merges and splits axes. What
    the inputs and outputs of the function index stays, as does whatever a primitive without a rule touches.

    Args:
      fn: any JAX function of parameters and inputs; it is traced, not run.
      params: tree of arrays, or of their shapes.
      *inputs: trees of arrays or of shapes.

    References:
      Fang, Ma, Song, Mi & Wang, "DepGraph: Towards Any Structural Pruning" (2023), for modules of PyTorch;
      here programs instead of modules, and labels instead of maps from layer to layer.

    Of each group it is known whether it is exact: whether the function without some of its units gives what
    it gives with zeros in their place (`Group.exact`, `Group.reason`).

    >>> import jax.numpy as jnp
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> graph = trace(fn, {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}, jnp.ones((1, 3)))
    >>> print(graph.summary())
    group  units  also along
    in[1]      8  out[0]
    1 groups, 8 units
    """
    checks.check("structured.trace", fn=(fn, checks.FUNCTION), params=(params, checks.TREE))
    graph = followed_through(fn, params, *inputs)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in graph.program.in_avals]
    parts = (graph.program, graph.tape, graph.axes, shapes, graph.solution)
    return graph._replace(groups=flagged(graph.groups, *parts))


def followed_through(
    fn: Callable[..., Any], params: Params, *inputs: Any, pins_outputs: bool = True
) -> Graph:
    """A graph of which it is not known whether its groups are exact.

    Args:
      fn: the function.
      params: its parameters, or their shapes.
      *inputs: of it, or their shapes.
      pins_outputs: whether what indexes the outputs stays.
    """
    _check_arrays(params)
    shapes = lambda tree: jax.tree.map(_shape_of, tree)
    params, given = shapes(params), shapes(inputs)
    program, outputs = programs.trace(fn, params, *given)
    program = programs.remove_dead_equations(program)
    labels, leaves = Labels(), jax.tree.leaves(params)
    axes = [labels.fresh_like(leaf.shape) for leaf in leaves]
    labels.reason = "an input"
    entering = [labels.fresh_like(x.shape, pinned=True) for x in jax.tree.leaves(given)]
    leaving, tape = followed(program, [*axes, *entering], labels)
    labels.reason = "an output"
    if pins_outputs:
        for value in leaving:
            labels.pin(*value)
    idle = unread(tape, len(leaves))
    labels.reason = "no equation reads it"
    for leaf in idle:
        labels.pin(*axes[leaf])
    if any(isinstance(step.more, Loop) for step, _ in each(tape)):
        masked = [
            fact_of_zero(leaf) if _floating(leaf) else UNKNOWN for leaf in leaves
        ]  # others have no mask
        settle(program, tape, [*masked, *[UNKNOWN] * len(entering)], labels)
    solution = solve(labels)
    found = _entering(tape, axes)
    used = uses(tape, [leaf.shape for leaf in leaves])
    units, turns = (
        _groups(solution, axes, masks_lib.paths(params), found, used, free)
        for free in (~(solution.pinned | solution.turns), solution.turns)
    )
    axes = beside(
        masks_lib.paths(params), axes, idle, solution
    )  # they are cut, but count for nothing
    return Graph(fn, params, program, tape, outputs, axes, solution, units, turns, labels.unknown)


_NUMBERS = (bool, int, float, complex)


def _check_arrays(params: Params) -> None:
    """Refuses leaves that are functions and the like."""
    for path, x in zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True):
        if not (hasattr(x, "dtype") or isinstance(x, _NUMBERS)):
            raise TypeError(
                f"structured.trace: the leaf {path!r} of the parameters is of the type {type(x).__name__}, "
                "no array; partition them from the rest (eqx.partition(module, eqx.is_array)), or give the "
                "module to structured.smaller."
            )


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    sharding = jax.typeof(x).sharding
    explicit = sharding if sharding.mesh.explicit_axes else None
    return jax.ShapeDtypeStruct(np.shape(x), _dtype(x), sharding=explicit)


def _floating(x: jax.ShapeDtypeStruct) -> bool:
    return bool(jax.numpy.issubdtype(x.dtype, jax.numpy.floating))


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jax.dtypes.canonicalize_dtype(np.result_type(x))


def _entering(tape: Tape, axes: list[Axes]) -> set[tuple[int, int]]:
    """(leaf, axis) of the parameters' axes that products sum over."""
    place = {id(own): (leaf, i) for leaf, of in enumerate(axes) for i, own in enumerate(of)}
    found: set[tuple[int, int]] = set()
    for step, _ in each(tape):
        for operand, dims in summed(step):
            places = [place[id(labels)] for labels in operand if id(labels) in place]
            if len(places) == len(operand) and len({leaf for leaf, _ in places}) == 1:
                found |= {places[i] for i in dims}  # the operand is the parameter itself
    return found


def _groups(
    solution: Solution,
    axes: list[Axes],
    paths: list[str],
    entering: set[tuple[int, int]],
    used: Mapping[int, Use],
    wanted: np.ndarray,
) -> tuple[Group, ...]:
    """Those of the classes wanted with the same footprint: as many indices of the same axes."""
    flat = [(leaf, axis) for leaf, own in enumerate(axes) for axis in range(len(own))]
    if not flat:
        return ()
    classes = [solution.of[axes[leaf][axis]] for leaf, axis in flat]
    owner = np.repeat(np.arange(len(flat)), [len(c) for c in classes])
    index = np.concatenate([np.arange(len(c)) for c in classes])
    at, unit = solution.parts(np.concatenate(classes))
    free = wanted[unit]
    owner, index, unit = owner[at[free]], index[at[free]], unit[free]
    if not len(unit):
        return ()
    # A unit's footprint as one number: a random one per axis, added up as often as the unit is there.
    rng = np.random.default_rng(0)
    marks = rng.integers(1, 2**63, size=len(flat), dtype=np.uint64)
    prints = (
        solution.roles.copy()
    )  # heads and channels of a head may have one footprint, but not one role
    np.add.at(prints, unit, marks[owner])
    first = np.full(solution.classes, len(flat))
    np.minimum.at(first, unit, owner)
    order = np.lexsort((index, owner, prints[unit], first[unit]))
    owner, index, unit = owner[order], index[order], unit[order]
    changes = np.flatnonzero(np.diff(prints[unit]) != 0) + 1
    found: list[Group] = []
    named: dict[str, int] = {}
    for rows in np.split(np.arange(len(unit)), changes):
        units, number = np.unique(unit[rows], return_inverse=True)
        members, own = [], owner[rows]
        for axis in np.unique(own):
            mine, (leaf, at_axis) = own == axis, flat[axis]
            by_unit = np.argsort(number[mine], kind="stable")
            at = index[rows][mine][by_unit].reshape(len(units), -1)
            shape = tuple(len(labels) for labels in axes[leaf])
            enters, use = flat[axis] in entering, used.get(leaf)
            members.append(Member(paths[leaf], shape, at_axis, at, enters, use))
        members.sort(
            key=lambda m: (not m.kernel, m.enters)
        )  # what brings the units forth comes first
        name = str(members[0])
        named[name] = named.get(name, 0) + 1
        name += f" #{named[name]}" if named[name] > 1 else ""
        found.append(Group(name, units, tuple(members)))
    return tuple(found)
