"""The graph of a function: which parts of its parameters can only be removed together."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune import checks, programs, trees
from jaxprune import masks as masks_lib
from jaxprune.programs.constants import UNKNOWN, fact_of_zero
from jaxprune.structured.graph.classes import EquivalenceClasses, find_classes
from jaxprune.structured.graph.exactness import flagged
from jaxprune.structured.graph.follow import Loop, Tape, iter_steps, propagate_labels
from jaxprune.structured.graph.labels import AxisLabels, Labels
from jaxprune.structured.graph.loops import classify_iterations
from jaxprune.structured.graph.pinned import conflicts
from jaxprune.structured.graph.scales import find_uses
from jaxprune.structured.graph.summed_axes import summed_axes
from jaxprune.structured.graph.unread import (
    UNREAD,
    follow_owners,
    pin_unread_units,
    unread_parameters,
)
from jaxprune.types import Params
from jaxprune.units.coupling import Group, Member, Use
from jaxprune.wording import counted

__all__ = ["Graph", "trace", "trace_without_exactness"]


class Graph(NamedTuple):
    """The program of a function, and the groups of its parameters.

    Attributes:
      fn: the function.
      params: shapes and types of its parameters.
      program: its jaxpr, with constants.
      tape: the equations of the program with the labels of their inputs and outputs.
      outputs: structure of what it returns.
      axes: labels of each parameter, by leaf.
      solution: the equivalence classes of the labels.
      groups: of units, in the order in which their first parameter stands.
      iterations: groups of another kind: the iterations of loops that can be left out one by one, as layers
        under a scan. They are blocks (`structured.blocks`), no units.
      unknown: primitives without a rule, and how often they were met: what they touch is pinned.
    """

    fn: Callable[..., Any]
    params: Params
    program: Any
    tape: Tape
    outputs: Any
    axes: list[AxisLabels]
    solution: EquivalenceClasses
    groups: tuple[Group, ...]
    iterations: tuple[Group, ...]
    unknown: dict[str, int]

    @property
    def paths(self) -> list[str]:
        """Paths of the parameters, leaf by leaf."""
        return masks_lib.paths(self.params)

    def kept(self, removed: np.ndarray) -> list[list[np.ndarray]]:
        """Returns, per leaf and axis, a boolean per index: it is left when some classes are removed.

        Args:
          removed: boolean per class of `solution`.
        """
        alive = self.solution.kept(removed)
        return [[alive[self.solution.class_of[axis]] for axis in axes] for axes in self.axes]

    def alive(self, removed: np.ndarray) -> list[np.ndarray]:
        """Returns, per leaf, the mask of the elements that are left when some classes are removed.

        Args:
          removed: boolean per class of `solution`.
        """
        masks = []
        for axis_masks in self.kept(removed):
            mask = np.ones((), bool)
            for axis_mask in axis_masks:
                mask = mask[..., None] & axis_mask
            masks.append(mask)
        return masks

    def check(self, params: Params) -> None:
        """Checks that a tree has the leaves that were traced, with their shapes.

        Args:
          params: tree of arrays.

        Raises:
          ValueError: if it has not.
        """
        shapes = dict(
            zip(masks_lib.paths(params), map(np.shape, jax.tree.leaves(params)), strict=True)
        )
        traced_shapes = {
            path: leaf.shape
            for path, leaf in zip(self.paths, jax.tree.leaves(self.params), strict=True)
        }
        for path in (*traced_shapes, *shapes):
            if shapes.get(path) != traced_shapes.get(path):
                raise ValueError(
                    f"structured: {path!r} has the shape {shapes.get(path)}, and had "
                    f"{traced_shapes.get(path)} when traced; give the tree that was traced."
                )

    def summary(self) -> str:
        """Returns a table of the groups, those that are not exact, and the primitives without a rule."""
        rows = [("group", "units", "also along")]
        for group in self.groups:
            others = list(map(str, group.members[1:]))
            shown = ", ".join(others[:3]) + (
                f" and {len(others) - 3} more" if len(others) > 3 else ""
            )
            rows.append((group.name, str(group.size), shown))
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        lines = [
            f"{name:<{widths[0]}}  {units:>{widths[1]}}  {shown}".rstrip()
            for name, units, shown in rows
        ]
        unit_count = sum(group.size for group in self.groups)
        lines.append(f"{counted(len(self.groups), 'group')}, {counted(unit_count, 'unit')}")
        lines += [
            f"Not exact: {group.name}: {group.reason}" for group in self.groups if not group.exact
        ]
        lines += [
            f"{counted(group.size, 'iteration')} of a loop along {group.name}"
            for group in self.iterations
        ]
        if self.unknown:
            primitives = ", ".join(
                f"{name} ({count})" for name, count in sorted(self.unknown.items())
            )
            lines.append(f"Without a rule, so what they touch is pinned: {primitives}")
        if self.solution.conflict_count:
            axis_names = ", ".join(conflicts(self)) or "no parameter"
            lines.append(
                f"Reshapes that do not fit together: {self.solution.conflict_count}; they pin "
                f"{axis_names}"
            )
        return "\n".join(lines)


def trace(fn: Callable[..., Any], params: Params, *inputs: Any) -> Graph:
    """Returns the graph of a function: the groups of units of its parameters that must be removed together.

    The program of `fn` is followed with a label on each index of each axis. No knowledge of layers is used:
    an addition ties its operands, a product ties the axes that it sums over, a reshape merges and splits
    axes. Axes of the function's inputs and outputs are kept whole, and so are axes that a primitive without a
    rule touches.

    The graph says whether each group is exact: whether the function without some of its units has the same
    outputs as with zeros in their place (`Group.exact`, `Group.reason`).

    Args:
      fn: any JAX function of parameters and inputs; it is traced, not run.
      params: tree of arrays, or of their shapes.
      *inputs: trees of arrays or of shapes.

    Returns:
      A `Graph`; `print(graph.summary())` lists its groups.

    References:
      Fang, Ma, Song, Mi & Wang, "DepGraph: Towards Any Structural Pruning" (2023), for modules of PyTorch;
      here programs instead of modules, and labels instead of maps from layer to layer.

    >>> import jax.numpy as jnp
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> graph = trace(fn, {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}, jnp.ones((1, 3)))
    >>> print(graph.summary())
    group  units  also along
    in[1]      8  out[0]
    1 group, 8 units
    """
    checks.check("structured.trace", fn=(fn, checks.FUNCTION), params=(params, checks.TREE))
    graph = trace_without_exactness(fn, params, *inputs)
    input_shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in graph.program.in_avals]
    followed_program = (graph.program, graph.tape, graph.axes, input_shapes, graph.solution)
    return graph._replace(groups=flagged(graph.groups, *followed_program))


def trace_without_exactness(
    fn: Callable[..., Any], params: Params, *inputs: Any, pins_outputs: bool = True
) -> Graph:
    """Returns a graph of which it is not known whether its groups are exact.

    Args:
      fn: the function.
      params: its parameters, or their shapes.
      *inputs: of it, or their shapes.
      pins_outputs: whether what indexes the outputs stays.
    """
    _check_arrays(params)
    params = jax.tree.map(_shape_of, params)
    input_shapes = jax.tree.map(_shape_of, inputs)
    traced_program, outputs = programs.trace(fn, params, *input_shapes)
    program = programs.remove_dead_equations(traced_program)
    labels = Labels()
    leaves = jax.tree.leaves(params)
    paths = masks_lib.paths(params)
    trees.check_distinct("structured.trace", paths)
    param_axes = [labels.fresh_like(leaf.shape) for leaf in leaves]
    labels.reason = "an input"
    input_axes = [labels.fresh_like(x.shape, pinned=True) for x in jax.tree.leaves(input_shapes)]
    output_axes, tape = propagate_labels(program, [*param_axes, *input_axes], labels)
    labels.reason = "an output"
    if pins_outputs:
        for axes in output_axes:
            labels.pin(*axes)
    unread = unread_parameters(tape, len(leaves))
    labels.reason = UNREAD
    for leaf_index in unread:
        labels.pin(*param_axes[leaf_index])
    if any(isinstance(step.more, Loop) for step, _ in iter_steps(tape)):
        # Parameters that are no floats have no mask: they are never zeros.
        masked_params = [fact_of_zero(leaf) if _is_floating(leaf) else UNKNOWN for leaf in leaves]
        classify_iterations(program, tape, [*masked_params, *[UNKNOWN] * len(input_axes)], labels)
    solution = pin_unread_units(tape, output_axes, find_classes(labels))
    summed = summed_axes(program, [leaf.shape for leaf in leaves])
    uses = find_uses(tape, [leaf.shape for leaf in leaves])
    units, iterations = (
        _groups(solution, param_axes, paths, summed, uses, wanted)
        for wanted in (~(solution.pinned | solution.iterations), solution.iterations)
    )
    # Parameters that nobody reads are cut with their owners, but count for nothing in the groups.
    all_axes = follow_owners(paths, param_axes, unread, solution)
    return Graph(
        fn=fn,
        params=params,
        program=program,
        tape=tape,
        outputs=outputs,
        axes=all_axes,
        solution=solution,
        groups=units,
        iterations=iterations,
        unknown=labels.unknown,
    )


_NUMBERS = (bool, int, float, complex)


def _check_arrays(params: Params) -> None:
    """Refuses leaves that are functions and the like."""
    for path, leaf in zip(masks_lib.paths(params), jax.tree.leaves(params), strict=True):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, _NUMBERS)):
            raise TypeError(
                f"structured.trace: the leaf {path!r} of the parameters is of the type "
                f"{type(leaf).__name__}, no array; partition them from the rest (eqx.partition(module, "
                "eqx.is_array)), or give the module to structured.smaller."
            )


def _shape_of(x: Any) -> jax.ShapeDtypeStruct:
    if isinstance(x, jax.ShapeDtypeStruct):
        return x
    sharding = jax.typeof(x).sharding
    explicit_sharding = sharding if sharding.mesh.explicit_axes else None
    return jax.ShapeDtypeStruct(np.shape(x), _dtype_of(x), sharding=explicit_sharding)


def _is_floating(x: jax.ShapeDtypeStruct) -> bool:
    return bool(jax.numpy.issubdtype(x.dtype, jax.numpy.floating))


def _dtype_of(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else jax.dtypes.canonicalize_dtype(np.result_type(x))


class _Incidences(NamedTuple):
    """Where units occur in the parameters: one row per unit and index of an axis that belongs to it.

    Attributes:
      axis: which of all axes of all parameters, counted through.
      slice_index: the index along it.
      unit: the class of the unit.
    """

    axis: np.ndarray
    slice_index: np.ndarray
    unit: np.ndarray

    def take(self, rows: np.ndarray) -> "_Incidences":
        """Returns some of the rows."""
        return _Incidences(*(column[rows] for column in self))


def _groups(
    solution: EquivalenceClasses,
    param_axes: list[AxisLabels],
    paths: list[str],
    summed: set[tuple[int, int]],
    uses: Mapping[int, Use],
    wanted: np.ndarray,
) -> tuple[Group, ...]:
    """Returns the groups of units: of classes with the same footprint, as many indices of the same axes.

    Args:
      solution: the equivalence classes.
      param_axes: labels of each parameter.
      paths: of the parameters.
      summed: (leaf index, axis) pairs over which products sum.
      uses: leaf index -> how a scale or a shift is used.
      wanted: boolean per class: it is a unit that may be part of a group.
    """
    all_axes = [
        (leaf_index, axis)
        for leaf_index, axes in enumerate(param_axes)
        for axis in range(len(axes))
    ]
    if not all_axes:
        return ()
    classes = [solution.class_of[param_axes[leaf_index][axis]] for leaf_index, axis in all_axes]
    incidences = _incidences(solution, classes, wanted)
    if not len(incidences.unit):
        return ()
    footprint = _footprints(solution, incidences, len(all_axes))
    first_axis = np.full(solution.class_count, len(all_axes))
    np.minimum.at(first_axis, incidences.unit, incidences.axis)
    unit = incidences.unit
    incidences = incidences.take(
        np.lexsort((incidences.slice_index, incidences.axis, footprint[unit], first_axis[unit]))
    )
    group_starts = np.flatnonzero(np.diff(footprint[incidences.unit]) != 0) + 1
    groups: list[Group] = []
    name_counts: dict[str, int] = {}
    for rows in np.split(np.arange(len(incidences.unit)), group_starts):
        group_rows = incidences.take(rows)
        units, unit_index = np.unique(group_rows.unit, return_inverse=True)
        members = []
        for axis_index in np.unique(group_rows.axis):
            on_axis = group_rows.axis == axis_index
            by_unit = np.argsort(unit_index[on_axis], kind="stable")
            indices = group_rows.slice_index[on_axis][by_unit].reshape(len(units), -1)
            leaf_index, axis = all_axes[axis_index]
            shape = tuple(len(labels) for labels in param_axes[leaf_index])
            is_summed = all_axes[axis_index] in summed
            members.append(
                Member(paths[leaf_index], shape, axis, indices, is_summed, uses.get(leaf_index))
            )
        # The kernels that produce the units come first.
        members.sort(key=lambda member: (not member.kernel, member.is_input_axis))
        name = str(members[0])
        name_counts[name] = name_counts.get(name, 0) + 1
        name += f" #{name_counts[name]}" if name_counts[name] > 1 else ""
        groups.append(Group(name, units, tuple(members)))
    return tuple(groups)


def _incidences(
    solution: EquivalenceClasses, classes: list[np.ndarray], wanted: np.ndarray
) -> _Incidences:
    """Returns where wanted units occur, given the class of each index of all axes."""
    axis = np.repeat(np.arange(len(classes)), [len(axis_classes) for axis_classes in classes])
    slice_index = np.concatenate([np.arange(len(axis_classes)) for axis_classes in classes])
    position, unit = solution.base_classes(np.concatenate(classes))
    is_wanted = wanted[unit]
    position = position[is_wanted]
    return _Incidences(axis[position], slice_index[position], unit[is_wanted])


def _footprints(
    solution: EquivalenceClasses, incidences: _Incidences, axis_count: int
) -> np.ndarray:
    """Returns a hash per class of how often it occurs along each axis.

    It is a sum of one random number per axis, added up as often as the unit is there. Heads, and the channels
    of a head, may occur equally often, but not in the same position among the factors of a merged axis: that
    position's hash is added too.
    """
    rng = np.random.default_rng(0)
    axis_marks = rng.integers(1, 2**63, size=axis_count, dtype=np.uint64)
    footprint = solution.factor_position.copy()
    np.add.at(footprint, incidences.unit, axis_marks[incidences.axis])
    return footprint
