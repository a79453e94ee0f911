"""Packages beyond the core, each with the extra that brings it."""

import importlib
from typing import Any


def require(package: str, extra: str, needed_by: str) -> Any:
    """Returns an imported package, or says how to get it.

    Args:
      package: the name under which it is imported, such as `"safetensors.numpy"`.
      extra: the extra of `pyproject.toml` that brings it.
      needed_by: who asks; it begins the error.

    Raises:
      ImportError: if the package is missing.

    >>> require("json", extra="json", needed_by="masks.save").loads("[1]")
    [1]
    >>> require("no_such_package", extra="share", needed_by="masks.save")
    Traceback (most recent call last):
    ImportError: masks.save needs the package no_such_package; pip install -e '.[share]' brings it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        missing = package.split(".")[0]
        if error.name not in (package, missing):
            raise  # the package is there, and lacks something itself
        raise ImportError(
            f"{needed_by} needs the package {missing}; pip install -e '.[{extra}]' brings it."
        ) from error
