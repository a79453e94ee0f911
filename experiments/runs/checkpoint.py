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
        self._keep = keep
        self._keep_steps = tuple(keep_steps)
        self._notify = notify
        self._orbax_manager: Any = None
        self._unsealed_step: int | None = None

    def save(self, step: int, tree: Any, meta: dict[str, Any] | None = None) -> None:
        """Saves a tree of arrays, and JSON beside it.

        Args:
          step: must be above those saved before.
          tree: any pytree of arrays, numbers and typed PRNG keys; copied before this returns.
          meta: small values such as counters; what `restore` returns beside the tree.
        """
        from orbax.checkpoint import args

        paths, leaves, _ = _flatten(tree)
        arrays = [_to_host_array(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
        manifest = {
            "format": _FORMAT,
            "step": step,
            "meta": meta or {},
            "leaves": [
                [
                    path,
                    _leaf_kind(leaf),
                    list(array.shape),
                    str(array.dtype),
                    sealed.checksum(array),
                ]
                for path, leaf, array in zip(paths, leaves, arrays, strict=True)
            ],
        }
        manifest_text = json.dumps(manifest)
        arrays_by_name = {
            f"{index:05d}{path}": array
            for index, (path, array) in enumerate(zip(paths, arrays, strict=True))
        }
        nonempty_arrays = {name: array for name, array in arrays_by_name.items() if array.size}
        saved_items: dict[str, Any] = {
            "manifest": args.JsonSave(
                {"text": manifest_text, "checksum": sealed.digest(manifest_text.encode())}
            )
        }
        if nonempty_arrays:
            saved_items["tree"] = args.StandardSave(nonempty_arrays)
        self.wait()
        try:
            self._open_manager().save(step, args=args.Composite(**saved_items), force=True)
        except Exception as error:
            raise _cannot_save(self.folder, error) from error
        self._unsealed_step = step

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
        steps = sorted(self._open_manager().all_steps(), reverse=True)
        for step in steps:
            try:
                manifest, arrays = self._read_step(step)
            except UserError:
                raise
            except Exception as error:  # whatever a damaged file makes of the readers
                self._set_aside(step, error)
                continue
            return (
                step,
                _fill_template(template, manifest, arrays, self.folder / str(step)),
                manifest["meta"],
            )
        if steps:
            raise UserError(
                f"every checkpoint in {self.folder} is damaged ({', '.join(map(str, steps))}); "
                "move the folder away to start again."
            )
        return None

    def steps(self) -> list[int]:
        """Returns the steps saved, in ascending order."""
        return sorted(self._open_manager().all_steps()) if self.folder.is_dir() else []

    def wait(self) -> None:
        """Returns when the last save is on the disk."""
        if self._unsealed_step is None:
            return
        step = self._unsealed_step
        self._unsealed_step = None
        try:
            self._orbax_manager.wait_until_finished()
            _seal_folder(self.folder / str(step))
        except Exception as error:
            raise _cannot_save(self.folder, error) from error

    def close(self) -> None:
        """Waits for the last save and ends the background threads."""
        if self._orbax_manager is not None:
            try:
                self.wait()
            finally:
                self._orbax_manager.close()
                self._orbax_manager = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _open_manager(self):
        if self._orbax_manager is None:
            _silence_orbax_logging()
            from orbax.checkpoint import CheckpointManager, CheckpointManagerOptions
            from orbax.checkpoint import checkpoint_managers as managers

            policies: list[Any] = [managers.LatestN(self._keep)]
            if self._keep_steps:
                policies.append(managers.CustomSteps(self._keep_steps))
            options = CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,
                lightweight_initialize=True,
                create=True,
            )
            self._orbax_manager = CheckpointManager(self.folder, options=options)
        return self._orbax_manager

    def _read_step(self, step: int) -> tuple[dict[str, Any], list[Any]]:
        """Reads a step as host arrays and compares every checksum.

        The files are compared first, if the process lived long enough to seal them: what Orbax makes
        of a damaged file is an error at best.
        """
        import numpy as np
        from orbax.checkpoint import args

        _check_seal(self.folder / str(step))

        def restore_items(**items: Any) -> Any:
            return self._open_manager().restore(step, args=args.Composite(**items))

        stored_manifest = restore_items(manifest=args.JsonRestore()).manifest
        if sealed.digest(stored_manifest["text"].encode()) != stored_manifest["checksum"]:
            raise ValueError("its manifest does not match its checksum")
        manifest = sealed.parse(stored_manifest["text"])
        if manifest["format"] != _FORMAT:
            raise UserError(
                f"checkpoint {self.folder / str(step)} has the format {manifest['format']}; "
                f"this version of jaxprune reads {_FORMAT}."
            )
        arrays_by_name = {
            f"{index:05d}{path}": np.zeros(shape, np.dtype(dtype))
            for index, (path, _, shape, dtype, _) in enumerate(manifest["leaves"])
        }
        nonempty_arrays = {name: array for name, array in arrays_by_name.items() if array.size}
        if nonempty_arrays:
            arrays_by_name.update(restore_items(tree=args.StandardRestore(nonempty_arrays)).tree)
        for (path, *_, checksum), array in zip(
            manifest["leaves"], arrays_by_name.values(), strict=True
        ):
            if sealed.checksum(array) != checksum:
                raise ValueError(f"{path} does not match its checksum")
        return manifest, list(arrays_by_name.values())

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        self._notify(f"checkpoint {self.folder / str(step)} is damaged and set aside: {reason}")
        damaged_path = self.folder / f"{step}.damaged"
        try:
            if damaged_path.is_symlink() or not damaged_path.is_dir():
                damaged_path.unlink(missing_ok=True)  # the link, not what it leads to
            else:
                shutil.rmtree(damaged_path)  # ours, of an earlier fault at the same step
            (self.folder / str(step)).rename(damaged_path)
        except OSError as rename_error:
            raise UserError(
                f"cannot set the damaged checkpoint {self.folder / str(step)} aside as {damaged_path.name} "
                f"({rename_error.strerror or rename_error}); move both away."
            ) from rename_error
        self._open_manager().reload()


def _seal_folder(folder: Path) -> None:
    """Writes the checksums of the files of a step into its folder."""
    checksums = sealed.checksums_of_folder(folder)
    with whole_file(folder / _SEAL) as file:
        file.write(json.dumps(checksums, indent=1).encode())


def _check_seal(folder: Path) -> None:
    """Compares the files of a step with their checksums, if it has been sealed."""
    seal = folder / _SEAL
    if seal.exists():
        sealed.check_files(folder, sealed.parse(sealed.read_bounded(seal)))


def _flatten(tree: Any) -> tuple[list[str], list[Any], Any]:
    import jax

    paths_and_leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    return (
        [jax.tree_util.keystr(path) for path, _ in paths_and_leaves],
        [leaf for _, leaf in paths_and_leaves],
        treedef,
    )


def _leaf_kind(leaf: Any) -> str:
    """Returns "array", or `key<implementation>` where the leaf is a typed PRNG key."""
    import jax

    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jax.numpy.issubdtype(dtype, jax.dtypes.prng_key):
        return "array"
    implementations: list[str] = []  # `key_impl` takes arrays and tracers, templates are neither
    jax.eval_shape(lambda key: implementations.append(str(jax.random.key_impl(key))), leaf)
    return f"key<{implementations[0]}>"


def _to_host_array(path: str, leaf: Any) -> Any:
    """Returns a leaf as a NumPy array on the host; a typed PRNG key by its numbers."""
    import jax
    import numpy as np

    if _leaf_kind(leaf) != "array":
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)  # Orbax copies what is on the host before `save` returns
    if array.dtype.hasobject or array.dtype.kind in "USM":
        raise UserError(f"cannot save {path}: a {type(leaf).__name__} is not an array.")
    return array


def _fill_template(
    template: Any, manifest: dict[str, Any], arrays: list[Any], checkpoint_path: Path
) -> Any:
    """Returns the template's tree with the stored arrays as leaves.

    Raises:
      UserError: paths, shapes or dtypes differ; it says which.
    """
    import jax

    paths, leaves, treedef = _flatten(template)
    expected = {path: _describe_leaf(leaf) for path, leaf in zip(paths, leaves, strict=True)}
    stored = {
        path: (kind, tuple(shape), dtype) for path, kind, shape, dtype, _ in manifest["leaves"]
    }
    mismatches = [f"{path} is not in it" for path in expected if path not in stored]
    mismatches += [f"{path} is not asked for" for path in stored if path not in expected]
    mismatches += [
        f"{path} is {_spell_description(stored[path])}, asked {_spell_description(expected[path])}"
        for path in expected
        if path in stored and stored[path] != expected[path]
    ]
    if mismatches:
        remainder = f"; and {len(mismatches) - 5} more" if len(mismatches) > 5 else ""
        raise UserError(
            f"checkpoint {checkpoint_path} does not fit: {'; '.join(mismatches[:5])}{remainder}."
        )
    array_by_path = dict(zip(stored, arrays, strict=True))
    return jax.tree.unflatten(
        treedef,
        [
            _as_template_leaf(leaf, array_by_path[path])
            for path, leaf in zip(paths, leaves, strict=True)
        ],
    )


def _describe_leaf(leaf: Any) -> tuple[str, tuple[int, ...], str]:
    """Returns what must agree with the manifest: kind, shape and dtype."""
    import jax
    import numpy as np

    kind = _leaf_kind(leaf)
    if kind != "array":
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    elif not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return kind, tuple(leaf.shape), str(leaf.dtype)


def _spell_description(description: tuple[str, tuple[int, ...], str]) -> str:
    """Returns a description of a leaf in words: "float32[3, 2]"."""
    kind, shape, dtype = description
    return f"{dtype if kind == 'array' else kind}{list(shape)}"


def _as_template_leaf(template_leaf: Any, array: Any) -> Any:
    """Returns an array in the form of the template's leaf.

    It is put on the leaf's devices, or becomes a typed key, a NumPy array or a number.
    """
    import jax
    import numpy as np

    kind = _leaf_kind(template_leaf)
    if kind != "array":
        key = jax.random.wrap_key_data(array, impl=kind[4:-1])
        sharding = getattr(template_leaf, "sharding", None)
        return key if sharding is None else jax.device_put(key, sharding)
    if isinstance(template_leaf, jax.Array | jax.ShapeDtypeStruct):
        return jax.device_put(array, template_leaf.sharding)
    return array if isinstance(template_leaf, np.ndarray) else type(template_leaf)(array[()])


def _cannot_save(folder: Path, error: Exception) -> UserError:
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    if "No space left on device" in str(error):
        reason = "no space left on the device"
    return UserError(f"cannot save a checkpoint in {folder}: {reason}")


def _silence_orbax_logging() -> None:
    """Switches Orbax's log of saves and tracebacks off; both are reported in other ways."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
