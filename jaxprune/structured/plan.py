"""What is left of each leaf, as data: applied to trees, kept in a file."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune import sealed
from jaxprune.durable import whole_file
from jaxprune.sealed import DamagedError
from jaxprune.structured.host import cut
from jaxprune.structured.owners import owners_of

__all__ = ["Plan"]

_FORMAT = 2  # 1 had a hash of the shapes alone


class Plan(NamedTuple):
    """Which indices of which axes are left.

    Attributes:
      shapes: of the whole leaves, by path.
      kept: by path, and by axis where something was removed, the indices that are left, ascending.
    """

    shapes: dict[str, tuple[int, ...]]
    kept: dict[str, dict[int, list[int]]]

    @property
    def hash(self) -> str:
        """Of the whole plan: paths and shapes of the leaves, and what is kept of them."""
        return sealed.digest(sealed.canonical({"format": _FORMAT, "leaves": _leaves(self)}))

    def within(self, part: str) -> "Plan":
        """The plan of a part of the tree, such as `"params"` of Flax's variables."""
        start = part.rstrip("/") + "/"
        cut = lambda found: {
            path.removeprefix(start): x for path, x in found.items() if path.startswith(start)
        }
        if not cut(self.shapes):
            raise ValueError(
                f"Plan.within({part!r}): no leaf of {', '.join(self.shapes)} is there."
            )
        return Plan(cut(self.shapes), cut(self.kept))

    def apply(self, tree: Any) -> Any:
        """Returns what is left of a tree: parameters, their average, gradients, an optimizer's state, or all.

        A leaf is cut if its path is that of a planned leaf, all of it, behind one prefix that the whole
        planned tree has in common (`0/mu` in the state of Adam). The leaves behind that prefix must be all
        that is planned, or all of Flax's `params`; fewer may be there, as of a state that `optax.masked` or
        `nnx.Optimizer` made for some, if nothing else is there and all shapes are equal. That holds for a
        tree by itself and for the fields of an optimizer's state. Others stay: counts, and what the plan does
        not know.

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
        left = [
            cut(leaf, self._kept(path, leaf, owners.get(path)))
            for path, leaf in zip(paths, leaves, strict=True)
        ]
        if not owners:
            raise ValueError(
                f"Plan.apply: none of the leaves {', '.join(paths[:5])} ... is one of the plan's "
                f"{', '.join(list(self.shapes)[:5])} ... in path and shape."
            )
        return jax.tree.structure(tree).unflatten(left)

    def _kept(self, path: str, leaf: Any, owner: str | None) -> dict[int, list[int]]:
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
        """Writes the plan as JSON; an existing file is not overwritten."""
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"Plan.save: {path} exists; name a new file.")
        told = {"format": _FORMAT, "hash": self.hash, "leaves": _leaves(self)}
        with whole_file(path) as file:
            file.write(json.dumps(told, indent=1).encode())

    @classmethod
    def load(cls, path: Path | str) -> "Plan":
        """Reads what `save` wrote.

        Raises:
          ValueError: if the file holds something else, was changed, or is of another version. Version 1 had
            no checksum of what is kept and is refused: a changed index would be another plan.
        """
        try:
            return cls._of(sealed.parse(Path(path).read_bytes()))
        except sealed.DamagedError as error:
            raise ValueError(f"{path} is no plan of jaxprune, or was changed: {error}.") from error

    @classmethod
    def _of(cls, told: Any) -> "Plan":
        """The plan that parsed JSON describes."""
        if not isinstance(told, dict) or not isinstance(told.get("leaves"), dict):
            raise DamagedError("it has no leaves")
        if told.get("format") != _FORMAT:
            raise DamagedError(
                f"it has format {told.get('format')}, and this jaxprune reads {_FORMAT}; make the plan again"
            )
        plan = cls({}, {})
        for name, leaf in told["leaves"].items():
            if not isinstance(leaf, dict) or leaf.keys() != {"shape", "kept"}:
                raise DamagedError(f"its leaf {name!r} has no shape or nothing that is kept")
            shape = leaf["shape"]
            kept = leaf["kept"]
            if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
                raise DamagedError(f"its leaf {name!r} has the shape {shape!r}")
            axes = {str(axis): axis for axis in range(len(shape))}
            if not isinstance(kept, dict) or not all(
                axis in axes and _ascends(indices, shape[axes[axis]])
                for axis, indices in kept.items()
            ):
                raise DamagedError(f"axes of its leaf {name!r} are kept at impossible indices")
            plan.shapes[name] = tuple(shape)
            if kept:
                plan.kept[name] = {axes[axis]: indices for axis, indices in kept.items()}
        if told.get("hash") != plan.hash:
            raise DamagedError("its hash is not that of its leaves")
        return plan


def _leaves(plan: Plan) -> dict[str, Any]:
    """The leaves as they are stored."""
    return {
        name: {
            "shape": list(shape),
            "kept": {str(axis): indices for axis, indices in plan.kept.get(name, {}).items()},
        }
        for name, shape in plan.shapes.items()
    }


def _ascends(kept: Any, size: int) -> bool:
    inside = isinstance(kept, list) and all(type(i) is int and 0 <= i < size for i in kept)
    return inside and all(a < b for a, b in itertools.pairwise(kept))
