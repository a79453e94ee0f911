"""Puts every mistake to its binary: in one process without JAX, or to the end where JAX is there.

Run: python tests/faults/answering.py FOLDER     (prints JSON: a list of [case, outcome, text])
"""

import importlib
import json
import re
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import mistakes

from experiments import cli
from experiments import config as config_lib
from experiments.runs import folder as folder_lib

BARE = """
from experiments.config import config, part

def get_config():
    given = dict(
        data=part("synthetic_mnist", batch_size=32), model=part("lenet_300_100"), steps=50, validation=256,
        optimizer=part("adam", learning_rate=1e-3), seeds=(0,)) if {trains} else {{}}
    if {lottery}:
        given["method"] = part("magnitude", sparsity=0.2)
    if {compare}:
        given["compare"] = {{"methods": {{"GMP": part("gmp", begin=0, end=9, every=3)}}}}
    given.update({arguments})
    return config(**given)
"""


class JaxError(Exception):
    """Somebody imports JAX."""


class Accepted(Exception):
    """A run folder would be made now, and training begin."""


class NoJax:
    """Refuses to find JAX."""

    def find_spec(self, name, path=None, target=None):
        if name == "jax":
            raise JaxError


def cases(folder: Path):
    """Writes what is needed into a folder; returns (name, binary, command line)."""
    found = []
    for name, text in mistakes.FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
        found.append((name, "train", [f"--config={folder / name}"]))
    (folder / "latin.py").write_bytes("def get_config():\n    return 'ü'".encode("latin-1"))
    found.append(("latin.py", "train", [f"--config={folder / 'latin.py'}"]))
    for other in ("nowhere.py", ".", "", "configs", "--dry_run"):
        found.append((f"--config={other}", "train", [f"--config={other}"]))
    found.append(("--config and nothing", "train", ["--config"]))
    found.append(("--config and a flag", "train", ["--config", "--dry_run"]))
    found.append(("no --config", "train", []))
    for number, (binary, arguments) in enumerate(mistakes.WRITTEN):
        path = folder / f"written_{number}.py"
        kind = {
            "lottery": binary == "lottery",
            "compare": binary in ("compare", "structured"),
            "trains": binary != "posttrain",
        }
        path.write_text(BARE.format(arguments=f"dict({arguments})", **kind), encoding="utf-8")
        found.append((f"{binary}: {arguments}", binary, [f"--config={path}"]))
    for binary, base in mistakes.BASE.items():
        lines = mistakes.MISTAKES[binary].split("\n")
        if binary == "train":
            lines += mistakes.COMMON_MISTAKES.split("\n")
        for line in filter(None, lines):
            arguments = [f"--config={base}", *mistakes.COMMON[binary], *re.split(r" (?=--)", line)]
            found.append((f"{binary} {line}", binary, arguments))
    return found


def right(folder: Path):
    """What must be accepted, in the same form."""
    for binary, flags in mistakes.RIGHT.items():
        arguments = [f"--config={mistakes.BASE[binary]}", *mistakes.COMMON[binary], *flags]
        yield f"{binary} {flags}", binary, arguments


def answer(binary: str, arguments: list[str], workdir: Path) -> tuple[str, str]:
    """Returns "refused", "accepted", "jax" or "foreign", and the words."""
    module = importlib.import_module(f"experiments.{binary}")
    if not any(argument.startswith("--workdir") for argument in arguments):
        arguments = [*arguments, f"--workdir={workdir}"]
    try:
        parsed = cli.parse([binary, *arguments], module.__doc__)
        assert parsed is not None
        config_lib.validate(parsed[0])
        config_lib.check_sizes(parsed[0])
        module.main(*parsed)
    except cli.UserError as e:
        return "refused", str(e)
    except OSError as e:
        known = e.errno in cli._MACHINE_FAULTS
        return "refused" if known else "foreign", f"{e.filename}: {e.strerror}"
    except JaxError:
        return "jax", ""
    except Accepted:
        return "accepted", ""
    except SystemExit as e:
        return "accepted", f"exits with {e.code}"
    except BaseException as e:
        if isinstance(e.__context__, JaxError):
            return "jax", ""
        return "foreign", "".join(traceback.format_exception(e))[-1500:]
    return "accepted", "returned"


def refuse_folders():
    """Has everybody who would make a run folder raise `Accepted` instead; returns what was there."""

    def stop(*_):
        raise Accepted

    before = folder_lib.RunFolder.open
    folder_lib.RunFolder.open = staticmethod(stop)
    return before


def main() -> None:
    """Answers all cases without JAX."""
    folder = Path(sys.argv[1])
    sys.meta_path.insert(0, NoJax())
    refuse_folders()
    found = [(name, *answer(*case, folder / "runs")) for name, *case in cases(folder)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
