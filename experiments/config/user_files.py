"""Functions in files of the user's: `path/to/file.py:function`, checked before they are imported."""

import ast
import contextlib
import hashlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.config.parts import UserError, unknown

__all__ = [
    "check",
    "digest",
    "digest_of_model",
    "is_file",
    "is_function",
    "load",
    "path_of",
    "run",
    "told",
]


def is_file(name: str) -> bool:
    """Returns whether a criterion's name means a file.

    Args:
      name: in a config.

    >>> is_file("my.py:relative_step"), is_file("magnitude")
    (True, False)
    """
    return ":" in name or name.endswith(".py")


def is_function(model: str) -> bool:
    """Returns whether a model's name means a function in a file.

    Args:
      model: its name in a config.

    >>> is_function("mine.py:tiny"), is_function("smollm2-135m")
    (True, False)
    """
    return ".py" in model


def path_of(name: str) -> Path:
    """Returns the file in `path/to/file.py:function`.

    Args:
      name: in a config.
    """
    return Path(name.rpartition(":")[0])


def check(name: str, where: str) -> None:
    """Raises `UserError` unless the file is there and defines the function; does not run it.

    Args:
      name: `path/to/file.py:function`.
      where: in the config, to blame.
    """
    path = path_of(name)
    function = name.rpartition(":")[2]
    if not function.isidentifier():
        raise UserError(f"{where}: {name!r} names no function; write 'path/to/file.py:function'.")
    if not path.is_file():
        raise UserError(f"{where}: there is no file {str(path)!r} (seen from {Path.cwd()}).")
    try:
        names = _names_in(ast.parse(path.read_bytes()))
    except SyntaxError as e:
        raise UserError(f"{where}: {path}:{e.lineno} is no Python: {e.msg}.") from e
    except (OSError, ValueError, RecursionError) as e:
        raise UserError(f"{where}: {path} cannot be read as Python: {e}.") from e
    if function not in names:
        raise UserError(unknown(f"{where}: {path} has no function", function, names, "It has"))


def load(
    name: str, where: str, given: Sequence[str], *, memories: bool = False
) -> Callable[..., Any]:
    """Runs the file and returns its function.

    Args:
      name: `path/to/file.py:function`.
      where: in the config, to blame.
      given: keywords of the signals that there are.
      memories: whether those that it declares by `jaxprune.signals.needs` are kept for it, while training.

    Raises:
      UserError: the file fails, or the function does not take signals as a criterion does.
    """
    criterion = run(name, where)
    kept = getattr(criterion, "needs", ()) if memories else ()
    _check_signals(criterion, name, where, (*given, *kept))
    return criterion


@contextlib.contextmanager
def told(name: str, where: str) -> Iterator[None]:
    """Tells in one sentence what a function of the user's raises: where in its file, and the error.

    Args:
      name: `path/to/file.py:function`.
      where: in the config, to blame.

    Raises:
      UserError: something was raised.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        text = str(error).strip().partition("\n")[0]
        place = _place(error, path_of(name))
        if place is None and isinstance(error, TypeError | ValueError):  # said of what it returned
            raise UserError(f"{where}: {text}") from error
        raise UserError(f"{where}: {place or name}: {type(error).__name__}: {text}") from error


def _place(error: BaseException, path: Path) -> str | None:
    """Returns the line and the function of a file in which an error was raised; `None`: elsewhere."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == path.resolve()
    ]
    return f"{path}:{frames[-1].lineno}, in {frames[-1].name}" if frames else None


def run(name: str, where: str) -> Callable[..., Any]:
    """Runs the file and returns its function, whatever that is for.

    Args:
      name: `path/to/file.py:function`.
      where: in the config, to blame.

    Raises:
      UserError: the file fails, or has no such function.
    """
    path = path_of(name)
    function_name = name.rpartition(":")[2]
    spec = importlib.util.spec_from_file_location(f"users_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with told(name, where):
        spec.loader.exec_module(module)
    function = getattr(module, function_name)
    if not callable(function):
        raise UserError(f"{where}: {name} is no function but {function!r}.")
    return function


def digest(name: str) -> str:
    """Returns a hash of the file: another version of it is another experiment.

    Args:
      name: `path/to/file.py:function`.
    """
    return hashlib.sha256(path_of(name).read_bytes()).hexdigest()[:16]


def digest_of_model(path: Path) -> str:
    """Returns a hash of a model's file, or of the files of its folder that models are read from.

    Args:
      path: of a .gguf file, or of a folder with config.json, safetensors and tokenizer.json.
    """
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors"))
    digest_of_all = hashlib.sha256()
    for file_path in files:
        with file_path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest_of_all.update(f"{file_path.name} {content}\n".encode())
    return digest_of_all.hexdigest()[:16]


def _check_signals(
    criterion: Callable[..., Any], name: str, where: str, given: Sequence[str]
) -> None:
    parameters = inspect.signature(criterion).parameters.values()
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        raise UserError(
            f"{where}: {name} must end its arguments with **_, as signals that it does not read come too: "
            "def criterion(params, *, grads, **_)."
        )
    required = [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]
    missing = [signal for signal in required if signal not in given]
    if missing:
        raise UserError(
            f"{where}: {name} reads the signal {missing[0]!r}, but here there are {', '.join(given)}; "
            "while training, declare one with a memory by @jaxprune.signals.needs; before or after it, more "
            "are gathered (config.compare.pipeline.when)."
        )


def _names_in(tree: ast.Module) -> list[str]:
    """Names that a file gives to functions, or to what may be one."""
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return names
