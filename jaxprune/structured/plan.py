"""What is left of each leaf, as data: applied to trees, kept in a file."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune import masks as masks_lib
from jaxprune.structured.host import cut

__all__ = ["Plan"]

_FORMAT = 1


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
        """Of the whole leaves' paths and shapes: two trees with the same can take the same plan."""
        text = json.dumps(sorted((path, list(shape)) for path, shape in self.shapes.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

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

        Wherever the tree holds all planned leaves under one path, or all of a part of them (`within`), as an
        optimizer of Flax's `params` does, these are cut. A leaf that stands alone belongs to the planned one
        whose path its own ends with, if the shapes are equal. Others, such as counts, stay.

        Raises:
          ValueError: if nothing of the tree belongs to the plan, or a leaf that does has another shape, as
            the factored moments of Adafactor: they cannot be cut, so make a new state with `init`.
        """
        paths, leaves = masks_lib.paths(tree), jax.tree.leaves(tree)
        if not any(jnp.ndim(leaf) for leaf in leaves):
            return tree
        found = self._owners(paths)
        for path, leaf in zip(paths, leaves, strict=True):
            if path not in found:
                self._alone(path, jnp.shape(leaf), found)
        left = [
            cut(x, self._kept(path, x, found.get(path)))
            for path, x in zip(paths, leaves, strict=True)
        ]
        if not found:
            raise ValueError(
                f"Plan.apply: none of the leaves {', '.join(paths[:5])} ... is one of the plan's "
                f"{', '.join(list(self.shapes)[:5])} ... in path and shape."
            )
        return jax.tree.structure(tree).unflatten(left)

    def _owners(self, paths: list[str]) -> dict[str, str]:
        """Path of a leaf -> that of the planned one, where all planned leaves of a part are there."""
        there, found = set(paths), {}
        parts = dict.fromkeys(path.split("/", 1)[0] for path in self.shapes if "/" in path)
        for start in ("", *(f"{part}/" for part in parts)):
            wanted = [p.removeprefix(start) for p in self.shapes if p.startswith(start)]
            first = wanted[0]
            for path in paths:
                if path != first and not path.endswith("/" + first):
                    continue
                before = path[: len(path) - len(first)]
                if all(before + other in there for other in wanted):
                    found |= {before + w: start + w for w in wanted if before + w not in found}
        return found

    def _alone(self, path: str, shape: tuple[int, ...], found: dict[str, str]) -> None:
        """Looks for the owner of a leaf whose neighbours are not all there."""
        keys = path.split("/")
        for end in ("/".join(keys[i:]) for i in range(len(keys))):
            own = [p for p in self.shapes if p == end or p.endswith("/" + end)]
            own = [p for p in own if self.shapes[p] == shape]
            if len(own) == 1 and (own[0] == end or own[0].count("/") == end.count("/") + 1):
                found[path] = own[0]
                return

    def _kept(self, path: str, leaf: Any, owner: str | None) -> dict[int, list[int]]:
        kept = {} if owner is None else self.kept.get(owner, {})
        if kept and jnp.shape(leaf) != self.shapes[owner]:  # type: ignore[index]
            if jnp.size(leaf) <= 1:  # a placeholder
                return {}
            raise ValueError(
                f"Plan.apply: {path!r} has the shape {jnp.shape(leaf)}, and not {self.shapes[owner]} as "  # type: ignore[index]
                f"{owner!r}, to which it belongs: factored moments cannot be cut; make a new state with init."
            )
        return kept

    def save(self, path: Path | str) -> None:
        """Writes the plan as JSON; an existing file is not overwritten."""
        leaves = {
            name: {
                "shape": list(shape),
                "kept": {str(a): k for a, k in self.kept.get(name, {}).items()},
            }
            for name, shape in self.shapes.items()
        }
        with Path(path).open("x", encoding="utf-8") as file:
            json.dump({"format": _FORMAT, "hash": self.hash, "leaves": leaves}, file, indent=1)

    @classmethod
    def load(cls, path: Path | str) -> "Plan":
        """Reads what `save` wrote.

        Raises:
          ValueError: if the file holds something else, or was changed.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            leaves = found["leaves"]
            plan = cls(
                {name: tuple(leaf["shape"]) for name, leaf in leaves.items()},
                {
                    name: {int(axis): kept for axis, kept in leaf["kept"].items()}
                    for name, leaf in leaves.items()
                    if leaf["kept"]
                },
            )
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
            raise ValueError(f"{path} is no plan of jaxprune ({type(e).__name__}: {e}).") from e
        if found.get("format") != _FORMAT or found.get("hash") != plan.hash:
            raise ValueError(
                f"{path}: format {found.get('format')} and hash {found.get('hash')} are not those of its "
                f"leaves, {_FORMAT} and {plan.hash}; it was changed, or written by another version."
            )
        for name, axes in plan.kept.items():
            for axis, kept in axes.items():
                if not 0 <= axis < len(plan.shapes[name]) or not _ascends(
                    kept, plan.shapes[name][axis]
                ):
                    raise ValueError(
                        f"{path}: axis {axis} of {name!r} is kept at impossible indices."
                    )
        return plan


def _ascends(kept: Any, size: int) -> bool:
    inside = isinstance(kept, list) and all(isinstance(i, int) and 0 <= i < size for i in kept)
    return inside and all(a < b for a, b in itertools.pairwise(kept))
