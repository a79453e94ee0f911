"""Masks saved in one bit per weight to safetensors files, which are verified when they are loaded."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, extras
from jaxprune.masks.fitting import validate
from jaxprune.masks.packing import MASKS, dense, is_packed
from jaxprune.storage import sealed
from jaxprune.storage.durable import whole_file
from jaxprune.trees import beside, check_distinct, leaves_with_keys, plain, unboxed
from jaxprune.types import Masks, Params

__all__ = ["load", "save"]

_FORMAT = "jaxprune masks"
_VERSION = "1"
_RESERVED = "__metadata__"


def save(path: str | os.PathLike[str], masks: Masks, *, overwrite: bool = False) -> None:
    """Writes masks to a safetensors file, whole or not at all.

    Per leaf with a mask the file holds its bits, eight to a byte, under the path of the leaf; its metadata
    hold the shapes of all leaves, the version of the format and a SHA-256 of shapes and bits, which `load`
    verifies.

    Args:
      path: of the file; folders on the way are made.
      masks: bool arrays, or packed ones, `None` at leaves that are never pruned.
      overwrite: whether a file that is there may be replaced.

    Raises:
      FileExistsError: if there is a file, and `overwrite` is not given.
      ValueError: if two leaves have the same path, or one a path that safetensors reserves.
      ImportError: without the package `safetensors`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "masks.safetensors"), {"w": jnp.array([True, False]), "b": None})
    ...     load(Path(folder, "masks.safetensors"))
    {'b': None, 'w': Array([ True, False], dtype=bool)}
    """
    checks.check("masks.save", masks=(masks, MASKS), overwrite=(overwrite, checks.BOOLEAN))
    numpy_files = _safetensors("masks.save")
    target = Path(path)
    if target.exists() and not overwrite:
        raise FileExistsError(f"masks.save: {target} is there; give overwrite=True to replace it.")
    leaves = leaves_with_keys(plain(unboxed(masks)), lambda _, node: _is_entry(node))
    mask_by_path = {"/".join(keys): mask for keys, mask in leaves}
    check_distinct("masks.save", ["/".join(keys) for keys, _ in leaves])
    if _RESERVED in mask_by_path:
        raise ValueError(
            f"masks.save: a leaf has the path {_RESERVED!r}, which safetensors files reserve; rename it."
        )
    shapes = {name: None if mask is None else mask.shape for name, mask in mask_by_path.items()}
    bits_by_path = {
        name: np.packbits(np.asarray(dense(mask)))
        for name, mask in mask_by_path.items()
        if mask is not None
    }
    shapes_text = json.dumps(shapes, sort_keys=True)
    metadata = {"format": _FORMAT, "version": _VERSION, "leaves": shapes_text}
    metadata["sha256"] = _checksum(shapes_text, bits_by_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as file:
        file.write(numpy_files.save(bits_by_path, metadata))


def _is_entry(node: Any) -> bool:
    return node is None or is_packed(node)


def load(path: str | os.PathLike[str], params: Params | None = None) -> Masks:
    """Returns the masks of a file that `save` has written.

    Args:
      path: of the file.
      params: tree of arrays to which the masks belong; the masks come in its containers. `None`: they come as
        nested dicts, which also fit other containers with the same names.

    Returns:
      Bool arrays, `None` at leaves without a mask.

    Raises:
      ValueError: if the file is damaged, not written by `save` or of a newer format, or if the masks are
        those of another tree.
      ImportError: without the package `safetensors`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(Path(folder, "masks.safetensors"), {"w": jnp.array([True, False]), "b": None})
    ...     load(Path(folder, "masks.safetensors"), {"w": jnp.zeros(2), "b": jnp.zeros(1)})
    {'b': None, 'w': Array([ True, False], dtype=bool)}
    """
    mask_by_path = _read(Path(path))
    masks: Any = mask_by_path[""] if set(mask_by_path) == {""} else mask_by_path
    if params is None:
        return _nest(masks) if isinstance(masks, dict) else masks
    try:
        validate(params, masks)
    except ValueError as error:
        raise ValueError(f"masks.load: {path} does not fit these parameters. {error}") from None
    params = plain(params)
    return jax.tree.structure(params).unflatten(beside(params, masks))


def _read(path: Path) -> dict[str, jax.Array | None]:
    """Returns the masks of a file by path; refuses files that are damaged."""
    numpy_files = _safetensors("masks.load")
    damaged = f"masks.load: {path} is damaged or no file of masks.save"
    raw = path.read_bytes()
    try:
        bits = numpy_files.load(raw)
        metadata = _metadata(raw)
    except Exception as error:  # safetensors has exceptions of its own
        raise ValueError(f"{damaged} ({error}); write it again.") from None
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"{damaged}: its metadata do not say that it holds masks.")
    if metadata.get("version") != _VERSION:
        raise ValueError(
            f"masks.load: {path} has version {metadata.get('version')} of the format, and this jaxprune "
            f"reads {_VERSION}; update it."
        )
    shapes_text = metadata.get("leaves", "")
    if not isinstance(shapes_text, str) or metadata.get("sha256") != _checksum(shapes_text, bits):
        raise ValueError(f"{damaged}: its checksum is another; write it again.")
    try:
        return _unpack_bits(sealed.parse(shapes_text), bits)
    except sealed.DamagedError as error:
        raise ValueError(f"{damaged}: {error}.") from None


def _metadata(raw: bytes) -> Mapping[str, Any]:
    """Returns the metadata in the header of a safetensors file."""
    length = int.from_bytes(raw[:8], "little")
    return sealed.parse(raw[8 : 8 + length]).get(_RESERVED, {})


def _checksum(shapes_text: str, bits: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of shapes, paths and bits."""
    parts = [shapes_text.encode()]
    for name in sorted(bits):
        parts += [f"\0{name}\0".encode(), bits[name].tobytes()]
    return sealed.sha256(*parts)


def _unpack_bits(shapes: Any, bits: Mapping[str, np.ndarray]) -> dict[str, jax.Array | None]:
    """Returns the masks of all leaves; refuses more or fewer bits than their shapes take."""
    if not isinstance(shapes, dict):
        raise sealed.DamagedError("it lists no leaves")
    with_mask = {name for name, shape in shapes.items() if shape is not None}
    if with_mask != set(bits):
        raise sealed.DamagedError("the leaves that it lists are not those whose bits it has")
    masks: dict[str, jax.Array | None] = dict.fromkeys(shapes)
    for name in with_mask:
        shape = shapes[name]
        if not isinstance(shape, list) or not all(
            type(size) is int and size >= 0 for size in shape
        ):
            raise sealed.DamagedError(f"{name!r} has the shape {shape!r}")
        weight_count = math.prod(shape)
        if bits[name].dtype != np.uint8 or bits[name].shape != (-(-weight_count // 8),):
            raise sealed.DamagedError(
                f"{name!r} of the shape {tuple(shape)} has {bits[name].size} bytes of bits"
            )
        array = np.unpackbits(bits[name], count=weight_count)
        masks[name] = jnp.asarray(array.astype(bool).reshape(shape))
    return masks


_LEAF_AND_NODE = (
    "masks.load: {} is a leaf and has leaves, which nested dicts cannot hold; give the parameters whose "
    "masks they are: load(path, params)."
)


def _nest(arrays: Mapping[str, jax.Array | None]) -> Any:
    """Returns arrays by path as nested dicts by the parts of the paths."""
    nested: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split("/")
        node = nested
        for key in above:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(_LEAF_AND_NODE.format(repr(key)))
        if last in node:
            raise ValueError(_LEAF_AND_NODE.format(repr(name)))
        node[last] = array
    return nested


def _safetensors(who: str) -> Any:
    """Returns the module of safetensors for NumPy; says what to install where it is missing."""
    return extras.require("safetensors.numpy", extra="share", needed_by=who)
