"""What is left of each leaf, as data: applied to trees, kept in a file."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_lib
from jaxprune.structured.host import on_host

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
        """Returns what is left of a tree: parameters, their average, gradients, an optimizer's state.

        A leaf belongs to the planned one whose path its own ends with, if the shapes are equal; others, such
        as counts, stay. If no leaf belongs to any, the plan's parts are looked at alone (`within`), so that
        the state of an optimizer of Flax's `params` finds its plan in that of all variables.

        Raises:
          ValueError: if no leaf of the tree belongs to any of the plan.
        """
        parts = dict.fromkeys(path.split("/", 1)[0] for path in self.shapes if "/" in path)
        for plan in (self, *(self.within(part) for part in parts)):
            found = plan._owners(tree)
            if any(found):
                leaves = zip(jax.tree.leaves(tree), found, strict=True)
                cut = [
                    x if path is None else _cut(x, plan.kept.get(path, {})) for x, path in leaves
                ]
                return jax.tree.structure(tree).unflatten(cut)
        raise ValueError(
            f"Plan.apply: none of the leaves {', '.join(masks_lib.paths(tree)[:5])} ... is one of the plan's "
            f"{', '.join(list(self.shapes)[:5])} ... in path and shape."
        )

    def _owners(self, tree: Any) -> list[str | None]:
        def owner(path: str, leaf: Any) -> str | None:
            keys = path.split("/")
            ends = ("/".join(keys[i:]) for i in range(len(keys)))
            found = next((end for end in ends if end in self.shapes), None)
            fits = found is not None and self.shapes[found] == jnp.shape(leaf)
            return found if fits else None

        pairs = zip(masks_lib.paths(tree), jax.tree.leaves(tree), strict=True)
        return [owner(path, leaf) for path, leaf in pairs]

    def save(self, path: Path | str) -> None:
        """Writes the plan as JSON; an existing file is not overwritten."""
        leaves = {
            name: {
                "shape": list(shape),
                "kept": {str(a): k for a, k in self.kept.get(name, {}).items()},
            }
            for name, shape in self.shapes.items()
        }
        with Path(path).open("x") as file:
            json.dump({"format": _FORMAT, "hash": self.hash, "leaves": leaves}, file, indent=1)

    @classmethod
    def load(cls, path: Path | str) -> "Plan":
        """Reads what `save` wrote.

        Raises:
          ValueError: if the file holds something else, or was changed.
        """
        try:
            found = json.loads(Path(path).read_text())
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


def _cut(x: Any, kept: dict[int, list[int]]) -> Any:
    if not kept:
        return x
    if (whole := on_host(x)) is not None:
        block = np.ix_(*(kept.get(axis, range(n)) for axis, n in enumerate(x.shape)))
        return jax.device_put(whole[block], x.sharding)
    for axis, own in kept.items():
        x = jnp.take(x, np.asarray(own, np.int32), axis=axis)
    return x
