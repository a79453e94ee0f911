"""Which indices of each leaf are left, as data that can be applied to trees and kept in a file."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.storage import sealed
from jaxprune.storage.durable import whole_file
from jaxprune.storage.sealed import DamagedError
from jaxprune.structured.shrinking.host import cut
from jaxprune.structured.shrinking.owners import owners_of

__all__ = ["Plan"]

_FORMAT = 2  # 1 had a hash of the shapes alone


class Plan(NamedTuple):
    """The indices of each axis of each leaf that are left.

    Attributes:
      shapes: path -> shape of the leaf before anything was removed.
      kept: path -> axis -> the indices that are left, ascending; only leaves and axes that lose something.

    >>> plan = Plan({"w": (2, 3)}, {"w": {1: [0, 2]}})
    >>> plan.apply({"w": jnp.arange(6).reshape(2, 3)})["w"].tolist()
    [[0, 2], [3, 5]]
    """

    shapes: dict[str, tuple[int, ...]]
    kept: dict[str, dict[int, list[int]]]

    @property
    def hash(self) -> str:
        """SHA-256 of the whole plan: paths and shapes of the leaves, and what is kept of them."""
        return sealed.digest(sealed.canonical({"format": _FORMAT, "leaves": _leaves(self)}))

    def within(self, part: str) -> "Plan":
        """Returns the plan of a part of the tree, such as `"params"` of Flax's variables.

        Args:
          part: path of a subtree.

        Raises:
          ValueError: if no leaf is there.
        """
        prefix = part.rstrip("/") + "/"
        inner_shapes = _below(prefix, self.shapes)
        if not inner_shapes:
            raise ValueError(
                f"Plan.within({part!r}): no leaf of {', '.join(self.shapes)} is there."
            )
        return Plan(inner_shapes, _below(prefix, self.kept))

    def apply(self, tree: Any) -> Any:
        """Returns what is left of a tree: parameters, their average, gradients, or an optimizer's state.

        A leaf is cut if its path is that of a planned leaf, all of it, behind one prefix that the whole
        planned tree has in common (`0/mu` in the state of Adam). The leaves behind that prefix must be all
        that is planned, or all of Flax's `params`; fewer may be there, as of a state that `optax.masked` or
        `nnx.Optimizer` made for some, if nothing else is there and all shapes are equal. That holds for a
        tree by itself and for the fields of an optimizer's state. Others stay: counts, and what the plan does
        not know.

        Args:
          tree: of arrays.

        Raises:
          ValueError: if nothing of the tree belongs to the plan; if a leaf that does has another shape, as
            the factored moments of Adafactor (they cannot be cut, so make a new state with `init`); or if it
            is open whether a leaf does, since its path ends as a planned one, in other company.
        """
        paths = masks_lib.paths(tree)
        leaves = jax.tree.leaves(tree)
        if not any(jnp.ndim(leaf) for leaf in leaves):
            return tree
        shapes = {path: jnp.shape(leaf) for path, leaf in zip(paths, leaves, strict=True)}
        owners = owners_of(tree, shapes, self.shapes)
        small_leaves = [
            cut(leaf, self._kept_of(path, leaf, owners.get(path)))
            for path, leaf in zip(paths, leaves, strict=True)
        ]
        if not owners:
            raise ValueError(
                f"Plan.apply: none of the leaves {', '.join(paths[:5])} ... is one of the plan's "
                f"{', '.join(list(self.shapes)[:5])} ... in path and shape."
            )
        return jax.tree.structure(tree).unflatten(small_leaves)

    def _kept_of(self, path: str, leaf: Any, owner: str | None) -> dict[int, list[int]]:
        """Returns axis -> the indices that are left of a leaf of some tree.

        Args:
          path: of the leaf, for errors.
          leaf: an array.
          owner: path of the planned leaf to which it belongs; `None`: none.
        """
        kept = {} if owner is None else self.kept.get(owner, {})
        if kept and jnp.shape(leaf) != self.shapes[owner]:  # type: ignore[index]
            if jnp.size(leaf) <= 1:  # a placeholder
                return {}
            raise ValueError(
                f"Plan.apply: {path!r} has the shape {jnp.shape(leaf)}, and not {self.shapes[owner]} as "  # type: ignore[index]
                f"{owner!r}, to which it belongs: factored moments cannot be cut, nor what was cut before; "
                "make a new state with init."
            )
        return kept

    def save(self, path: Path | str) -> None:
        """Writes the plan as JSON.

        Args:
          path: of the file.

        Raises:
          FileExistsError: if the file exists.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"Plan.save: {path} exists; name a new file.")
        content = {"format": _FORMAT, "hash": self.hash, "leaves": _leaves(self)}
        with whole_file(path) as file:
            file.write(json.dumps(content, indent=1).encode())

    @classmethod
    def load(cls, path: Path | str) -> "Plan":
        """Reads a plan that `save` wrote.

        Args:
          path: of the file.

        Raises:
          ValueError: if the file holds something else, was changed, or is of another version. Version 1 had
            no checksum of what is kept and is refused: a changed index would be another plan.
        """
        try:
            return cls._from_json(sealed.parse(sealed.read_bounded(Path(path))))
        except sealed.DamagedError as error:
            raise ValueError(f"{path} is no plan of jaxprune, or was changed: {error}.") from error

    @classmethod
    def _from_json(cls, content: Any) -> "Plan":
        """Returns the plan that parsed JSON describes."""
        if not isinstance(content, dict) or not isinstance(content.get("leaves"), dict):
            raise DamagedError("it has no leaves")
        if content.get("format") != _FORMAT:
            raise DamagedError(
                f"it has format {content.get('format')}, and this jaxprune reads {_FORMAT}; make the plan "
                "again"
            )
        plan = cls({}, {})
        for path, leaf in content["leaves"].items():
            if not isinstance(leaf, dict) or leaf.keys() != {"shape", "kept"}:
                raise DamagedError(f"its leaf {path!r} has no shape or nothing that is kept")
            shape = leaf["shape"]
            kept = leaf["kept"]
            if not isinstance(shape, list) or not all(
                type(size) is int and size >= 0 for size in shape
            ):
                raise DamagedError(f"its leaf {path!r} has the shape {shape!r}")
            axis_by_key = {str(axis): axis for axis in range(len(shape))}
            if not isinstance(kept, dict) or not all(
                key in axis_by_key and _are_ascending(indices, shape[axis_by_key[key]])
                for key, indices in kept.items()
            ):
                raise DamagedError(f"axes of its leaf {path!r} are kept at impossible indices")
            plan.shapes[path] = tuple(shape)
            if kept:
                plan.kept[path] = {axis_by_key[key]: indices for key, indices in kept.items()}
        if content.get("hash") != plan.hash:
            raise DamagedError("its hash is not that of its leaves")
        return plan


def _below(prefix: str, by_path: dict[str, Any]) -> dict[str, Any]:
    """Returns the items whose paths begin with a prefix, without the prefix."""
    return {
        path.removeprefix(prefix): value
        for path, value in by_path.items()
        if path.startswith(prefix)
    }


def _leaves(plan: Plan) -> dict[str, Any]:
    """Returns the leaves as they are stored."""
    return {
        path: {
            "shape": list(shape),
            "kept": {str(axis): indices for axis, indices in plan.kept.get(path, {}).items()},
        }
        for path, shape in plan.shapes.items()
    }


def _are_ascending(indices: Any, size: int) -> bool:
    """Whether parsed JSON is a list of ascending indices of an axis of some size."""
    are_inside = isinstance(indices, list) and all(
        type(index) is int and 0 <= index < size for index in indices
    )
    return are_inside and all(a < b for a, b in itertools.pairwise(indices))
