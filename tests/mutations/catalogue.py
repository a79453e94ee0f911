"""Invariants, each broken on purpose: which file, what is written there, what instead, and who must notice.

Every `old` occurs exactly once in its file, which a test in `make test` checks: where the code moves on, the
entry must follow. The tests named are the narrowest that turn red.
"""

from typing import NamedTuple

__all__ = ["MUTATIONS", "Mutation"]


class Mutation(NamedTuple):
    """One invariant that is broken.

    Attributes:
      name: what is wrong then.
      file: in which it is broken.
      old: the text that holds it.
      new: the text that breaks it.
      tests: of pytest, of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


_CHECKPOINT = "experiments/checkpoint.py"
_ENGINE = "experiments/engine.py"
_FOLDER = "experiments/run_folder.py"
_TORCH = "jaxprune/data/torch_weights.py"
_STATE = "jaxprune/transforms/state.py"
_TICKET = "jaxprune/transforms/lottery_ticket.py"
_LAND = "tests/transforms/test_sparsify.py::test_narrow_updates_land_on_zero_too"
_STALE = "tests/transforms/test_optimizers.py::test_optimizers_keep_zeros_and_forget"

STORED = (
    Mutation(
        "tensors may be larger than the file",
        _TORCH,
        "if self.left < 0:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "a pickle may name anything",
        _TORCH,
        "if name not in KNOWN:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "compressed parts of a checkpoint unpack (zip bomb)",
        _TORCH,
        "if file.getinfo(name).compress_type != zipfile.ZIP_STORED:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "tensors may reach beyond their storage",
        _TORCH,
        "if end > storage.size:",
        "if False:",
        ("tests/data/test_torch_weights.py",),
    ),
    Mutation(
        "the arrays' cache is not compared",
        "jaxprune/data/arrays.py",
        "if checksums != [sha256(array) for array in arrays.values()]:",
        "if False:",
        ("tests/data/test_arrays.py",),
    ),
    Mutation(
        "archives are accepted with any checksum",
        "jaxprune/data/sources.py",
        "if (found := sha256_of(path)) != archive.sha256:",
        "if (found := sha256_of(path)) == '':",
        ("tests/data/test_sources.py::test_a_damaged_archive_is_refused",),
    ),
    Mutation(
        "a mask file is read whatever its checksum",
        "jaxprune/masks/files.py",
        'if metadata.get("sha256") != _checksum(told, bits):',
        "if False:",
        ("tests/test_mask_files.py::test_every_damaged_byte_is_found",),
    ),
    Mutation(
        "a mask file of a later version is read",
        "jaxprune/masks/files.py",
        'if metadata.get("version") != _VERSION:',
        "if False:",
        ("tests/test_mask_files.py::test_other_files_are_refused",),
    ),
    Mutation(
        "a plan with impossible indices loads",
        "jaxprune/structured/plan.py",
        "return inside and all(a < b for a, b in itertools.pairwise(kept))",
        "return True",
        ("tests/structured/test_plan.py::test_changed_plans_are_refused",),
    ),
    Mutation(
        "a plan of other shapes loads",
        "jaxprune/structured/plan.py",
        'or found.get("hash") != plan.hash:',
        "or False:",
        ("tests/structured/test_plan.py::test_changed_plans_are_refused",),
    ),
)

RUNS = (
    Mutation(
        "a future format is read",
        _CHECKPOINT,
        'if manifest["format"] != _FORMAT:',
        "if False:",
        ("tests/experiments/test_checkpoint.py",),
    ),
    Mutation(
        "files of a checkpoint are not compared",
        _CHECKPOINT,
        "        _check_seal(self.folder / str(step))\n        read",
        "        read",
        ("tests/experiments/test_checkpoint.py::test_a_flipped_bit_is_found",),
    ),
    Mutation(
        "leaves of a checkpoint are not compared",
        _CHECKPOINT,
        "if _checksum(array) != checksum:",
        "if False:",
        (
            "tests/experiments/test_checkpoint.py::"
            "test_the_checksums_of_leaves_find_what_orbax_reads_without_a_word",
        ),
    ),
    Mutation(
        "the manifest is not compared",
        _CHECKPOINT,
        'if _digest(sealed["text"].encode()) != sealed["checksum"]:',
        "if False:",
        ("tests/experiments/test_checkpoint.py::test_a_flipped_bit_is_found",),
    ),
    Mutation(
        "dtype and shape of a template are not compared",
        _CHECKPOINT,
        "if p in found and found[p] != wanted[p]",
        "if False",
        ("tests/experiments/test_checkpoint.py::test_a_template_that_does_not_fit_is_told_leaf_by_leaf",),
    ),
    Mutation(
        "early stop may take a denser network",
        _ENGINE,
        "self._validate(upto, upto >= level.settled)",
        "self._validate(upto, True)",
        ("tests/experiments/test_engine.py",),
    ),
    Mutation(
        "early stop forgets its best across a resume",
        _ENGINE,
        '_Tracker(*meta["best"], *variables)',
        "_Tracker(math.inf, 0, 0, *variables)",
        ("tests/experiments/test_engine.py",),
    ),
    Mutation(
        "rows after the restored step stay",
        _ENGINE,
        "after=self.done or -1,",
        "after=10**9,",
        ("tests/experiments/test_engine.py",),
    ),
    Mutation(
        "a loss that is not finite goes on",
        _ENGINE,
        "if not math.isfinite(total):",
        "if False:",
        ("tests/experiments/test_engine.py::test_a_loss_that_is_not_finite_stops_the_run",),
    ),
    Mutation(
        "other variables do not rewind",
        _ENGINE,
        "self.point if level.rewinds else self.state.rest",
        "self.state.rest",
        ("tests/experiments/test_engine.py::test_statistics_rewind_with_the_weights",),
    ),
    Mutation(
        "two processes may work in one folder",
        _FOLDER,
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
        ("tests/experiments/test_run_folder.py::test_a_second_process_is_refused",),
    ),
    Mutation(
        "an edited config is accepted",
        _FOLDER,
        "        if differ:\n",
        "        if False:\n",
        (
            "tests/experiments/test_run_folder.py::"
            "test_a_folder_with_other_settings_is_refused_by_name_of_the_field",
        ),
    ),
    Mutation(
        "first signal stops at once",
        "experiments/cli.py",
        "if self.signal is not None:",
        "if True:",
        ("tests/experiments/test_cli.py::test_the_first_signal_lets_the_run_save",),
    ),
)
