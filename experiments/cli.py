"""The command line that all binaries share: flags, configs, one-line errors, signals.

A binary has a docstring, a `main`, and the call `run(main, __doc__)`. JAX is imported only when
`main` is called, so help and error messages appear at once.
"""

import contextlib
import errno
import io
import os
import re
import runpy
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments import config as config_lib
from experiments.config import UserError
from experiments.runs.options import Options as Options
from experiments.runs.options import Stopper as Stopper
from experiments.studies.study import Study, section_fields

__all__ = [
    "Options",
    "Stopper",
    "UserError",
    "is_finished",
    "load_config",
    "one_line_errors",
    "parse",
    "run",
    "start",
]

_USAGE = 2
_MACHINE_FAULTS = {
    errno.ENOSPC,
    errno.EROFS,
    errno.EACCES,
    errno.EDQUOT,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EFBIG,
    errno.EMFILE,
}


def run(main: Callable[[ConfigDict, Options], None], doc: str | None) -> None:
    """Parses the command line, checks the config, calls `main`, and exits the process.

    The exit status is 0 if done, 1 for an internal error (with its traceback), 2 for a `UserError` or a fault
    of the machine (in one line), 143 if stopped by SIGTERM, and 130 if stopped by SIGINT.

    Args:
      main: (config, options) -> None; is called with the checked config.
      doc: help text of the program, which `--help` prints.
    """
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a path that the locale cannot spell is no reason to end
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with one_line_errors():
        parsed = parse(sys.argv, doc)
        if parsed is None:
            sys.exit(0)
        cfg, options = parsed
        config_lib.validate(cfg)
        config_lib.check_sizes(cfg)
        _keep_compiled()
        with options.stopper:
            main(cfg, options)
        if options.stopper.signal is not None:
            sys.exit(128 + options.stopper.signal)
    sys.exit(0)


def _keep_compiled() -> None:
    """Lets JAX store compiled programs, so that a resumed or repeated run starts at once.

    Without a home folder (as for a user without a name in a container), nothing is stored.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        try:
            folder = Path.home() / ".cache/jaxprune/xla"
        except (RuntimeError, KeyError):
            return
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def start(study: Study, cfg: ConfigDict, options: Options) -> None:
    """Checks a study's section of the config, and runs the study unless it is finished and reported.

    Args:
      study: the study of the binary.
      cfg: the config; its common fields have been checked.
      options: options of the command line.

    Raises:
      UserError: the section is not valid for the study.
    """
    if study.trains and cfg.posttrain:  # `validate` has looked at the others
        config_lib.check_training(cfg)
    cfg, section = study.check(cfg)
    if is_finished(cfg, options, study):
        return
    if options.seeds_from:  # mistakes are told before anything is trained
        from experiments.runs.config_file import settings_of
        from experiments.runs.taken_seeds import seeds_by_source

        settings = settings_of(cfg, study.name)
        for source, seeds in seeds_by_source(options.seeds_from, settings).items():
            if options.dry_run:
                print(f"Taken from {source}: seeds {', '.join(map(str, seeds))}")
    study.run(cfg, section, options)


def is_finished(cfg: ConfigDict, options: Options, study: Study) -> bool:
    """Returns whether a run is finished and reported; if so, prints the path of its report.

    It writes no file. With `--dry_run` it returns False.

    Args:
      cfg: the config, from which the name of the run folder follows.
      options: options of the command line.
      study: the study of the run.
    """
    from experiments.runs.folder import RunFolder, check_writable

    if options.dry_run:
        return False
    report = RunFolder.report(options.workdir, options.config_name, cfg, study.name)
    if report is None:
        check_writable(options.workdir)
        return False
    print(f"This {study.called} is finished; its report: {report}")
    return True


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with status 2 and one line for errors that need no traceback."""
    try:
        yield
    except UserError as e:
        text = str(e)
    except OSError as e:
        if e.errno not in _MACHINE_FAULTS:
            raise
        text = f"{e.filename or 'writing'}: {e.strerror}"
    else:
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = spec.name if spec else Path(sys.argv[0]).name
    print(f"{program}: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(_USAGE)


def parse(argv: list[str], doc: str | None) -> tuple[ConfigDict, Options] | None:
    """Returns the config and options of a command line; for `--help`, prints the help and returns `None`.

    Args:
      argv: the program's name and its arguments.
      doc: help text of the program.

    Raises:
      UserError: an unknown flag or field, a value of the wrong type, or no usable config.
    """
    flag_values = flags.FlagValues()
    flags.DEFINE_string("workdir", "runs", "Folder in which run folders are made.", flag_values)
    flags.DEFINE_multi_string(
        "seeds_from",
        [],
        "Run folder of this config with other seeds, to copy its trainings; repeatable.",
        flag_values,
    )
    flags.DEFINE_bool("dry_run", False, "Print what would be done, and do nothing.", flag_values)
    flags.DEFINE_bool("help", False, "Print this text.", flag_values, short_name="h")
    if {"--help", "-help", "-h", "--h"} & set(argv[1:]):
        print(_help(doc, flag_values))
        return None
    config_path, arguments = _split_config(argv)
    if not config_path:
        raise UserError("which config? Set --config=configs/<folder>/<file>.py, or ask for --help.")
    if _split_config(arguments)[0] is not None:
        raise UserError("--config is given twice; give it once.")
    cfg = load_config(config_path)
    _check_overrides(cfg, arguments[1:])
    arguments = _without_parts(cfg, arguments)
    try:
        config_flags.DEFINE_config_dict(
            "config",
            cfg,
            flag_values=flag_values,
            lock_config=False,
            accept_new_attributes=True,  # arguments that a part takes and the file leaves out
            sys_argv=arguments,
        )
        unparsed = flag_values(arguments)
    except flags.UnrecognizedFlagError as e:
        others = [name for name in flag_values if name.split(".")[0] != "config"]
        raise UserError(
            config_lib.unknown("no flag", e.flagname, [*others, "config"], "Flags")
        ) from e
    except (flags.Error, TypeError, ValueError, KeyError, AttributeError) as e:
        raise UserError(str(e).strip().split("\n")[0]) from e
    if len(unparsed) > 1:
        raise UserError(f"{unparsed[1]!r} is no flag; write --name=value.")
    if not flag_values.workdir:
        raise UserError("--workdir is empty; name the folder that run folders are made in.")
    config_name = Path(config_path.split(":")[0]).stem
    seeds_from = tuple(map(Path, flag_values.seeds_from))
    return cfg.lock(), Options(
        config_name, Path(flag_values.workdir), flag_values.dry_run, Stopper(), seeds_from
    )


def load_config(path: str) -> ConfigDict:
    """Returns the config of a config file, unlocked.

    Args:
      path: `file.py`, or `file.py:argument`, which calls `get_config("argument")`.

    Raises:
      UserError: there is no such file, it fails, or its `get_config` does not return a config.
    """
    file, *argument = path.split(":", 1)
    if not Path(file).is_file():
        files = (str(p) for p in Path("configs").glob("**/*.py") if p.name != "__init__.py")
        raise UserError(config_lib.unknown("no config file", file, sorted(files), "Found"))
    try:
        namespace = runpy.run_path(file)
        if not callable(namespace.get("get_config")):
            raise UserError("defines no get_config(); it must return config(...).")
        cfg = namespace["get_config"](*argument)
    except UserError as e:
        raise UserError(f"{file}: {e}") from e
    except (Exception, SystemExit) as e:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == file]
        line = f":{lines[-1]}" if lines else ""
        raise UserError(f"{file}{line} fails: {type(e).__name__}: {e}") from e
    if not isinstance(cfg, ConfigDict):
        raise UserError(f"{file}: get_config() returned {type(cfg).__name__}, not config(...).")
    return cfg.unlock()


def _split_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Returns the path in `--config=path` or `--config path`, if there is one, and the other arguments."""
    for index, argument in enumerate(argv):
        if argument in ("--config", "-config"):
            value = argv[index + 1] if index + 1 < len(argv) else ""
            if not value or value.startswith("-"):
                raise UserError(f"{argument} needs a file: --config=configs/<folder>/<file>.py.")
            return value, argv[:index] + argv[index + 2 :]
        if match := re.match(r"--?config=(.*)", argument):
            return match[1], argv[:index] + argv[index + 1 :]
    return None, argv


def _without_parts(cfg: ConfigDict, argv: list[str]) -> list[str]:
    """Removes parts that the command line sets to None, in place; returns the other arguments."""
    others = []
    for argument in argv:
        match = re.fullmatch(r"--?config\.(\w+)=None", argument)
        if match and isinstance(cfg.get(match[1]), ConfigDict):
            cfg[match[1]] = None
        else:
            others.append(argument)
    return others


def _check_overrides(cfg: ConfigDict, argv: Iterable[str]) -> None:
    """Refuses overrides of fields that are neither in the config nor arguments of a part."""
    for argument in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", argument)
        if not match:
            continue
        *parents, name = match[1].split(".")
        section: Any = cfg
        kind = None
        where = "config"
        for parent in parents:
            if not isinstance(section, ConfigDict) or parent not in section:
                _refuse(section, parent, where)
            kind = config_lib.nested_kind(kind, parent)
            section = section[parent]
            where = f"{where}.{parent}"
        if isinstance(section, ConfigDict) and name in section:
            continue
        if name in section_fields(where.removeprefix("config.")):
            continue  # at its default in the file
        if kind is None or not isinstance(section, ConfigDict) or "name" not in section:
            _refuse(section, name, where)
        config_lib.check_argument(kind, section, name, where)


def _refuse(section: Any, name: str, where: str) -> NoReturn:
    defaults = section_fields(where.removeprefix("config."))
    fields = {**defaults, **section} if isinstance(section, ConfigDict) else ()
    raise UserError(config_lib.unknown(f"{where}: no field", name, fields, "Fields"))


def _help(doc: str | None, flag_values: flags.FlagValues) -> str:
    rows = [("--config=FILE", "Config file; FILE:ARGUMENT if its get_config takes an argument.")]
    rows += [
        ("--config.FIELD=VALUE", "Replaces a field of the config: --config.method.sparsity=0.98")
    ]
    for name in ("workdir", "seeds_from", "dry_run", "help"):
        default = f" Default: {flag_values[name].default}" if flag_values[name].default else ""
        usage = f"--{name}" if flag_values[name].boolean else f"--{name}={name.upper()}"
        text = flag_values[name].help.partition(";\n")[0]  # without the sentence of absl
        rows.append((usage, f"{text}{default}"))
    table = "\n".join(f"  {flag:<25}{text}" for flag, text in rows)
    return f"{textwrap.dedent(doc or '').strip()}\n\nFlags:\n{table}"
