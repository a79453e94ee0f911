"""What a study is: a section of the config, its check, its run, its report.

A new study is a file beside this one with a `STUDY`, and its name in `experiments.config.fields.STUDIES`. Its
module is imported before JAX is, so that mistakes are told at once: what `run` needs of it is imported there.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config.fields import STUDIES
from experiments.runs.options import Options

if TYPE_CHECKING:
    from experiments.reports.kind import ReportKind

__all__ = ["Study", "section_fields", "study_of"]


class Study(NamedTuple):
    """A kind of experiment, as binaries, configs and reports know it.

    Attributes:
      name: of its module, of its section in a config, and of its results.
      check: config -> the config that names the run folder (with hashes of the user's files), and what was
        read from its section; raises `UserError`.
      run: (config, what was read, options) runs, or goes on with, all its seeds, then writes the report.
      report: returns what its reports differ in.
      fields: of its section, with their defaults.
      called: what one of its runs is called.
      trains: whether it trains the model of a config on its data.
    """

    name: str
    check: Callable[[ConfigDict], tuple[ConfigDict, Any]]
    run: Callable[[ConfigDict, Any, Options], None]
    report: Callable[[], "ReportKind"]
    fields: Mapping[str, Any] = {}
    called: str = "run"
    trains: bool = True


def study_of(name: str) -> Study:
    """Returns the study of a name, one of `STUDIES`.

    >>> study_of("lottery").fields["rewind"]
    'weights'
    """
    return importlib.import_module(f"experiments.studies.{name}").STUDY


def section_fields(name: str) -> Mapping[str, Any]:
    """Returns the fields of a section of the config and their defaults; none if it is no study's.

    >>> sorted(section_fields("lottery"))[0], section_fields("paper")
    ('controls', {})
    """
    return study_of(name).fields if name in STUDIES else {}
