"""The pattern of coupled units: which groups of a graph, and how weights' scores become those of units."""

import re
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from jaxprune import checks
from jaxprune.structured.graph.given import check_graph
from jaxprune.structured.graph.graph import Graph
from jaxprune.units.coupling import Coupled, Group, Normalize, Over, Reduce

__all__ = ["Inexact", "Only", "coupled", "matches", "without_shared_axes"]

Inexact = Literal["skip", "allow"]
Only = str | Callable[[Group], bool] | None


def coupled(
    graph: Graph,
    *,
    within: str | None = None,
    only: Only = None,
    exclude: Only = None,
    reduce: Reduce = "sum",
    normalize: Normalize = "none",
    over: Over = "all",
    inexact: Inexact = "skip",
) -> Coupled:
    """Returns the groups of a graph as a pattern, with which any method prunes coupled units.

    Give it as the pattern of a method to `jaxprune.prune`, `prune_on`, `sparsify` and similar functions. The
    allocation sees each group as one leaf with the group's name; each group keeps at least one unit. The
    masks cover all slices of a unit, also those of biases and scales, and can be given to `shrink`.

    If groups share an axis (heads, and the channels of each head), only the group with the most units is
    used, unless `only` names others.

    Args:
      graph: graph of the function, from `trace`.
      within: the part of the traced tree whose parameters are trained: `"params"` of Flax's variables.
      only: which groups are pruned: a regular expression, searched in the members' `path[axis]`, or a
        predicate of groups; `None`: all.
      exclude: groups that are not pruned, given like `only`.
      reduce: how the scores of a unit's weights become one number: "sum", "mean", "max", "norm" or
        "absolute", the absolute value of their sum.
      normalize: what a group's scores are divided by, to compare groups: "mean", "max", "sum", "norm".
      over: the weights that count: of "all" kernels that a unit runs through, of its "outputs" (not the
        layers after it), or its "scales" and the shifts beside them, as of a BatchNorm.
      inexact: what happens to groups that are not exact (`Group.exact`): "skip" leaves them out; "allow"
        takes them too, and the small function may then differ from the masked one.

    Returns:
      A pattern for `Method(pattern=...)`.

    Raises:
      ValueError: if an option is none of those named above, if no group is meant, or none of those meant is
        exact.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxprune import methods, prune as prune_by
    >>> from jaxprune.structured import trace
    >>> fn = lambda p, x: jax.nn.relu(x @ p["in"]) @ p["out"]
    >>> params = {"in": jnp.array([[1.0, 2.0, 3.0]]), "out": jnp.ones((3, 1))}
    >>> pattern = coupled(trace(fn, params, jnp.ones((1, 1))))
    >>> prune_by(params, methods.magnitude(sparsity=0.5, pattern=pattern))[0]["out"].tolist()
    [[0.0], [0.0], [1.0]]
    """
    check_graph("structured.coupled", graph)
    for name, value, options in (
        ("reduce", reduce, get_args(Reduce)),
        ("normalize", normalize, get_args(Normalize)),
        ("over", over, get_args(Over)),
        ("inexact", inexact, get_args(Inexact)),
    ):
        if value not in options:
            raise ValueError(
                f"structured.coupled({name}={value!r}): one of {', '.join(options)} is needed."
            )
    chosen = [
        group
        for group in graph.groups
        if (only is None or matches(group, only)) and not (exclude and matches(group, exclude))
    ]
    if inexact == "skip":
        chosen = _exact_groups(chosen)
    if only is None:
        chosen = without_shared_axes(chosen)
    if within is not None:
        chosen = [part for group in chosen if (part := _part_within(group, within)) is not None]
    if not chosen:
        raise ValueError(
            f"structured: no group is meant by only={only!r}, exclude={exclude!r}, within={within!r}.\n"
            f"{graph.summary()}"
        )
    return Coupled(tuple(chosen), reduce, normalize, over)


def _exact_groups(chosen: list[Group]) -> list[Group]:
    """Returns those of some groups that are exact.

    Raises:
      ValueError: if none is.
    """
    exact_groups = [group for group in chosen if group.exact]
    if chosen and not exact_groups:
        reasons = "; ".join(f"{group.name!r}: {group.reason}" for group in chosen)
        raise ValueError(
            "structured: without some of its units no group that is meant gives what it gives with zeros in "
            f"their place, so all are left out ({reasons}); say inexact='allow' to prune them all the same."
        )
    return exact_groups


def matches(group: Group, which: str | Callable[[Group], bool]) -> bool:
    """Whether an expression or a predicate means a group."""
    if callable(which):
        return bool(which(group))
    checks.expression("structured", which)
    return which == group.name or any(re.search(which, str(member)) for member in group.members)


def _part_within(group: Group, part: str) -> Group | None:
    """Returns what a group has in a part of the tree, with the paths of that part; `None`: nothing."""
    prefix = part.rstrip("/") + "/"
    members = [
        member._replace(path=member.path.removeprefix(prefix))
        for member in group.members
        if member.path.startswith(prefix)
    ]
    return group._replace(members=tuple(members)) if members else None


def without_shared_axes(groups: Sequence[Group]) -> list[Group]:
    """Returns the groups without those that share an index of an axis with a larger one.

    They are factors of a merged axis, as heads and the channels of each head.
    """
    taken_indices: dict[tuple[str, int], set[int]] = {}
    chosen_groups = []
    for group_index in sorted(range(len(groups)), key=lambda i: -groups[i].size):
        indices_by_axis = {
            (member.path, member.axis): set(member.index.ravel().tolist())
            for member in groups[group_index].members
        }
        is_shared = any(
            indices & taken_indices.get(axis, set()) for axis, indices in indices_by_axis.items()
        )
        if is_shared:
            continue
        for axis, indices in indices_by_axis.items():
            taken_indices[axis] = taken_indices.get(axis, set()) | indices
        chosen_groups.append(group_index)
    return [groups[group_index] for group_index in sorted(chosen_groups)]
