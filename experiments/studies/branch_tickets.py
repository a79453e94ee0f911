"""Where the tickets are that branches begin with: lottery runs in the same work folder."""

from pathlib import Path

from ml_collections import ConfigDict

from experiments.config import UserError
from experiments.runs.folder import folder_name
from experiments.runs.options import Options
from experiments.runs.taken_seeds import seeds_of

__all__ = ["ticket_folder", "tickets_of_sources"]


def ticket_folder(options: Options, cfg: ConfigDict) -> Path:
    """Returns the folder of a ticket's lottery run: a finished one of any name, or its own.

    Args:
      options: of the command line.
      cfg: of the lottery run.
    """
    own = folder_name(options.config_name, cfg)
    digest_of_config = own.rpartition("-")[2]
    finished = sorted(
        path
        for path in Path(options.workdir).glob(f"*-{digest_of_config}")
        if (path / "done").is_file()
    )
    return finished[0] if finished else Path(options.workdir) / own


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
