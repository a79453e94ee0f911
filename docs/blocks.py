"""Runs the Python blocks of README.md and docs/*.md, as a reader would: from top to bottom, file by file.

Run: python docs/blocks.py [FILE.md ...]    (default: README.md, CONTRIBUTING.md and docs/*.md)
     python docs/blocks.py --first FILE.md    (prints the first Python block, and runs nothing)

The blocks of a file share one namespace, so a later block continues the earlier ones. A block without a
language that follows a Python block directly is what that block prints; decimal numbers may differ in their
last digits, and those below 1e-4, which are rounding errors, in all of them. A comment
`<!-- not run: WHY -->` before a block keeps it from being run. Commands in `sh` blocks are not run; the
configs and modules that they name must exist.
"""

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: .+? -->\s*\Z", re.DOTALL)
_NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")
TOLERANCE = 0.02  # relative: another processor rounds otherwise
ROUNDING = 1e-4


class Block(NamedTuple):
    """A fenced block: its language, its text, the line where it begins, whether it is to be run."""

    language: str
    text: str
    line: int
    is_run: bool


def main() -> int:
    """Runs the files that are named, and returns how many of them fail."""
    if sys.argv[1:2] == ["--first"]:
        page = Path(sys.argv[2]).read_text(encoding="utf-8")
        print(next(block.text for block in blocks(page) if block.language == "python"))
        return 0
    files = [Path(name) for name in sys.argv[1:]] or every_file()
    failures = 0
    for path in files:
        try:
            print(f"{path}: {run(path)} blocks run")
        except AssertionError as error:
            failures += 1
            print(f"{path}: {error}")
    return failures


def every_file() -> list[Path]:
    """Returns README.md, CONTRIBUTING.md and the pages of docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def run(path: Path) -> int:
    """Runs the blocks of one file and returns how many were run.

    Raises:
      AssertionError: if a block raises, prints something else than the file says, or names a missing file.
    """
    namespace = {"__name__": path.stem}
    printed = None
    count = 0
    for block in blocks(path.read_text(encoding="utf-8")):
        place = f"line {block.line}"
        if block.language == "python" and block.is_run:
            printed = _output(block, namespace, place)
            count += 1
        elif block.language == "" and printed is not None:
            assert _alike(block.text, printed), f"{place}: prints\n{printed}\nnot\n{block.text}"
            printed = None
        else:
            printed = None
            if block.language == "sh":
                _check_commands(block.text, place)
    return count


def blocks(text: str) -> Iterator[Block]:
    """Yields the fenced blocks of a page in order."""
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        yield Block(
            language=match.group(1),
            text=match.group(2),
            line=before.count("\n") + 1,
            is_run=not _NOT_RUN.search(before),
        )


def _output(block: Block, namespace: dict, place: str) -> str:
    """What a block prints."""
    stream = io.StringIO()
    source = "\n" * block.line + block.text  # so that tracebacks show the lines of the page
    with contextlib.redirect_stdout(stream):
        try:
            exec(compile(source, place, "exec"), namespace)
        except Exception as error:
            raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
    return stream.getvalue()


def _alike(expected: str, printed: str) -> bool:
    """Whether two texts agree, but for spaces at line ends and last digits of decimal numbers."""
    if _NUMBER.sub("", expected).split() != _NUMBER.sub("", printed).split():
        return False
    pairs = zip(_NUMBER.findall(expected), _NUMBER.findall(printed), strict=True)
    return all(
        abs(float(a) - float(b)) <= max(TOLERANCE * abs(float(a)), ROUNDING) for a, b in pairs
    )


def _check_commands(text: str, place: str) -> None:
    """Asserts that what shell commands name is there."""
    for name in re.findall(r"--config=(\S+\.py)", text):
        assert (ROOT / name).is_file(), f"{place}: no config {name}"
    for name in re.findall(r"python3? -m ((?:experiments|benchmarks)[\w.]*)", text):
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"{place}: no module {name}"
    for name in re.findall(r"^make (\w+)", text, re.MULTILINE):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{name}:", makefile, re.MULTILINE), f"{place}: no target {name}"


if __name__ == "__main__":
    sys.exit(main())
