"""Checkpoints: Orbax below, strict templates and checksums on top.

Orbax writes a step atomically, so a killed process leaves the one before. It reads a flipped bit
without a word, casts dtypes, and refuses arrays without elements; all three are dealt with here.
Arrays are written from the host: one process, with any number of devices.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.config import UserError
from jaxprune.storage import sealed
from jaxprune.storage.durable import whole_file

__all__ = ["Checkpoints"]

_SEAL = "files.json"  # in a step's folder: checksums of the files that Orbax wrote there
_FORMAT = 1  # of the manifest; to be raised when older code could misread it


class Checkpoints:
    """The checkpoints of one run.

    Saving goes on in the background; the next save, `wait` and `close` wait for it. Leave through
    `close` (or `with`), or the last save may be lost.

    Args:
      folder: where they are; made at the first save.
      keep: how many of the newest are kept.
      keep_steps: steps that are kept for ever, a rewinding point for example.
      notify: called with a sentence when a damaged checkpoint is passed over.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        keep: int = 2,
        keep_steps: Iterable[int] = (),
        notify: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
    ):
        self.folder = Path(folder).absolute()
        self._keep, self._keep_steps, self._notify = keep, tuple(keep_steps), notify
        self._open: Any = None
        self._unsealed: int | None = None

    def save(self, step: int, tree: Any, meta: dict[str, Any] | None = None) -> None:
        """Saves a tree of arrays, and JSON beside it.

        Args:
          step: must be above those saved before.
          tree: any pytree of arrays, numbers and typed PRNG keys; copied before this returns.
          meta: small values such as counters; what `restore` returns beside the tree.
        """
        from orbax.checkpoint import args

        paths, leaves, _ = _flatten(tree)
        arrays = [_to_host(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        manifest = {
            "format": _FORMAT,
            "step": step,
            "meta": meta or {},
            "leaves": [
                [path, _kind(leaf), list(array.shape), str(array.dtype), sealed.checksum(array)]
                for path, leaf, array in zip(paths, leaves, arrays, strict=True)
            ],
        }
        text = json.dumps(manifest)
        stored = {
            f"{i:05d}{path}": a for i, (path, a) in enumerate(zip(paths, arrays, strict=True))
        }
        stored = {name: array for name, array in stored.items() if array.size}
        items = {
            "manifest": args.JsonSave({"text": text, "checksum": sealed.digest(text.encode())})
        }
        if stored:
            items["tree"] = args.StandardSave(stored)
        self.wait()
        try:
            self._manager().save(step, args=args.Composite(**items), force=True)
        except Exception as e:
            raise _cannot_save(self.folder, e) from e
        self._unsealed = step

    def restore(self, template: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns the newest checkpoint that is whole.

        Damaged ones are set aside as `<step>.damaged`, and `notify` is told.

        Args:
          template: tree of arrays, `jax.ShapeDtypeStruct`s or numbers; leaves with a sharding put
            what is read there.

        Returns:
          (step, tree, meta), or `None` where nothing was saved yet.

        Raises:
          UserError: the checkpoint has other leaves, shapes or dtypes than the template, or all are
            damaged.
        """
        if not self.folder.is_dir():
            return None
        self.wait()
        steps = sorted(self._manager().all_steps(), reverse=True)
        for step in steps:
            try:
                manifest, arrays = self._read(step)
            except UserError:
                raise
            except Exception as e:  # whatever a damaged file makes of the readers
                self._set_aside(step, e)
                continue
            return (
                step,
                _fill(template, manifest, arrays, self.folder / str(step)),
                manifest["meta"],
            )
        if steps:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(map(str, steps))}); "
                "move the folder away to start again."
            )
        return None

    def steps(self) -> list[int]:
        """The steps saved, in order."""
        return sorted(self._manager().all_steps()) if self.folder.is_dir() else []

    def wait(self) -> None:
        """Returns when the last save is on the disk."""
        if self._unsealed is None:
            return
        step, self._unsealed = self._unsealed, None
        try:
            self._open.wait_until_finished()
            _seal(self.folder / str(step))
        except Exception as e:
            raise _cannot_save(self.folder, e) from e

    def close(self) -> None:
        """Waits for the last save and ends the background threads."""
        if self._open is not None:
            try:
                self.wait()
            finally:
                self._open.close()
                self._open = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _manager(self):
        if self._open is None:
            _quieten()
            from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions
            from orbax.checkpoint import checkpoint_managers as managers

            policies = [managers.LatestN(self._keep)]
            if self._keep_steps:
                policies.append(managers.CustomSteps(self._keep_steps))
            options = CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,
                create=True,
            )
            self._open = CheckpointManager(self.folder, options=options)
        return self._open

    def _read(self, step: int) -> tuple[dict[str, Any], list[Any]]:
        """Reads a step as host arrays and compares every checksum.

        The files are compared first, if the process lived long enough to seal them: what Orbax makes
        of a damaged file is an error at best.
        """
        import numpy as np
        from orbax.checkpoint import args

        _check_seal(self.folder / str(step))
        read = lambda **items: self._manager().restore(step, args=args.Composite(**items))
        told = read(manifest=args.JsonRestore()).manifest
        if sealed.digest(told["text"].encode()) != told["checksum"]:
            raise ValueError("its manifest does not match its checksum")
        manifest = sealed.parse(told["text"])
        if manifest["format"] != _FORMAT:
            raise UserError(
                f"checkpoint {self.folder / str(step)} has the format {manifest['format']}; "
                f"this version of jaxprune reads {_FORMAT}."
            )
        arrays = {
            f"{i:05d}{path}": np.zeros(shape, np.dtype(dtype))
            for i, (path, _, shape, dtype, _) in enumerate(manifest["leaves"])
        }
        stored = {name: array for name, array in arrays.items() if array.size}
        if stored:
            arrays.update(read(tree=args.StandardRestore(stored)).tree)
        for (path, *_, checksum), array in zip(manifest["leaves"], arrays.values(), strict=True):
            if sealed.checksum(array) != checksum:
                raise ValueError(f"{path} does not match its checksum")
        return manifest, list(arrays.values())

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        self._notify(f"checkpoint {self.folder / str(step)} is damaged and set aside: {reason}")
        aside = self.folder / f"{step}.damaged"
        try:
            if aside.is_symlink() or not aside.is_dir():
                aside.unlink(missing_ok=True)  # the link, not what it leads to
            else:
                shutil.rmtree(aside)  # ours, of an earlier fault at the same step
            (self.folder / str(step)).rename(aside)
        except OSError as e:
            raise UserError(
                f"cannot set the damaged checkpoint {self.folder / str(step)} aside as {aside.name} "
                f"({e.strerror or e}); move both away."
            ) from e
        self._manager().reload()


def _seal(folder: Path) -> None:
    checksums = sealed.checksums_of_folder(folder)
    with whole_file(folder / _SEAL) as file:
        file.write(json.dumps(checksums, indent=1).encode())


def _check_seal(folder: Path) -> None:
    seal = folder / _SEAL
    if seal.exists():
        sealed.check_files(folder, sealed.parse(seal.read_bytes()))


def _flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    import jax

    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path) for path, _ in pairs], [leaf for _, leaf in pairs], treedef


def _kind(leaf: Any) -> str:
    """What the stored numbers stand for: "array", or the implementation of a typed PRNG key."""
    import jax

    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return "array"
    found: list[str] = []  # `key_impl` takes arrays and tracers, templates are neither
    jax.eval_shape(lambda key: found.append(str(jax.random.key_impl(key))), leaf)
    return f"key<{found[0]}>"


def _to_host(path: str, leaf: Any) -> Any:
    """A leaf as a NumPy array."""
    import jax
    import numpy as np

    if _kind(leaf) != "array":
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)  # Orbax copies what is on the host before `save` returns
    if array.dtype.hasobject or array.dtype.kind in "USM":
        raise UserError(f"cannot save {path}: a {type(leaf).__name__} is not an array.")
    return array


def _fill(template: Any, manifest: dict[str, Any], arrays: list[Any], where: Path) -> Any:
    """Puts the arrays in the template's places, or says where they do not fit."""
    import jax

    paths, leaves, treedef = _flatten(template)
    wanted = {path: _described(leaf) for path, leaf in zip(paths, leaves, strict=True)}
    found = {
        path: (kind, tuple(shape), dtype) for path, kind, shape, dtype, _ in manifest["leaves"]
    }
    wrong = [f"{p} is not in it" for p in wanted if p not in found]
    wrong += [f"{p} is not asked for" for p in found if p not in wanted]
    wrong += [
        f"{p} is {_text(found[p])}, asked {_text(wanted[p])}"
        for p in wanted
        if p in found and found[p] != wanted[p]
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"checkpoint {where} does not fit: {'; '.join(wrong[:5])}{more}.")
    by_path = dict(zip(found, arrays, strict=True))
    return jax.tree.unflatten(
        treedef, [_like(leaf, by_path[path]) for path, leaf in zip(paths, leaves, strict=True)]
    )


def _described(leaf: Any) -> tuple[str, tuple[int, ...], str]:
    import jax
    import numpy as np

    kind = _kind(leaf)
    if kind != "array":
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return kind, tuple(leaf.shape), str(leaf.dtype)


def _text(described: tuple[str, tuple[int, ...], str]) -> str:
    kind, shape, dtype = described
    return f"{dtype if kind == 'array' else kind}{list(shape)}"


def _like(leaf: Any, array: Any) -> Any:
    """An array as the template has it: on its devices, a typed key, a NumPy array or a number."""
    import jax
    import numpy as np

    kind = _kind(leaf)
    if kind != "array":
        key = jax.random.wrap_key_data(array, impl=kind[4:-1])
        sharding = getattr(leaf, "sharding", None)
        return key if sharding is None else jax.device_put(key, sharding)
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.device_put(array, leaf.sharding)
    return array if isinstance(leaf, np.ndarray) else type(leaf)(array[()])


def _cannot_save(folder: Path, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if "No space left on device" in str(error):
        reason = "no space left on the device"
    return UserError(f"cannot save a checkpoint in {folder}: {reason}")


def _quieten() -> None:
    """Orbax logs saves, and errors with their tracebacks; both reach us in other ways."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
