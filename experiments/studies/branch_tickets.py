"""Where the tickets are that branches begin with: lottery runs in the same work folder."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.runs.config_file import stored_study
from experiments.runs.folder import run_path
from experiments.runs.options import Options
from experiments.runs.taken_seeds import seeds_of

__all__ = ["ticket_folder", "tickets_of_sources"]

_STUDY = "lottery"


def ticket_folder(options: Options, cfg: ConfigDict) -> Path:
    """Returns the folder of a ticket's lottery run: a finished one of any name, or its own.

    Args:
      options: of the command line.
      cfg: of the lottery run.
    """
    own_path = run_path(options.workdir, options.config_name, cfg, _STUDY)
    digest_of_config = own_path.name.rpartition("-")[2]
    finished = sorted(
        path
        for path in Path(options.workdir).glob(f"*-{digest_of_config}")
        if (path / "done").is_file()
        and (path / "config.json").is_file()
        and stored_study(path) == _STUDY
    )
    return finished[0] if finished else own_path


def tickets_of_sources(options: Options, cfg: ConfigDict) -> tuple[Path, ...]:
    """Returns the folders of a ticket that stand beside the run folders that seeds are taken from.

    Args:
      options: of the command line, with those run folders.
      cfg: of the lottery run.

    Raises:
      UserError: a folder is missing.
    """
    folders = []
    for source in options.seeds_from:
        its_cfg = cfg.copy_and_resolve_references()
        with its_cfg.unlocked():
            its_cfg.seeds = tuple(seeds_of(source))
        folder = ticket_folder(options._replace(workdir=source.resolve().parent), its_cfg)
        if not (folder / "config.json").is_file():
            raise UserError(
                f"--seeds_from={source}: the ticket of its branches is missing beside it, {folder}; copy "
                "that folder too."
            )
        folders.append(folder)
    return tuple(folders)
