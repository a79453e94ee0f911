"""Texts for language models: `fetch_text` fetches a file once, `verified_text` returns its path."""

import os
from pathlib import Path

from jaxprune.data import files
from jaxprune.data.sources import Archive

FOLDER = "texts"
TEXTS = {
    # The beginning of a dump of English Wikipedia, 106 articles; CC BY-SA. From the tests of gensim.
    "wikipedia": Archive(
        "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
        "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    ),
}


def fetch_text(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    archives: str | os.PathLike | None = None,
) -> Path:
    """Fetches a text from `archives` or a package registry, unless it is there already.

    Args:
      name: "wikipedia" (1.7 MB, in a package of 28 MB).
      data_dir: the folder to fill; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.
      archives: a folder that may have the file; default $JAXPRUNE_ARCHIVES, or none.

    Returns:
      The file's path. Its SHA-256 has been verified.

    Raises:
      ValueError: the name is unknown.
      FileNotFoundError: no source has the file; says what was looked for and where.
    """
    return files.fetch(name, _find(name), FOLDER, data_dir=data_dir, archives=archives)


def verified_text(name: str, *, data_dir: str | os.PathLike | None = None) -> Path:
    """Returns the path of a text, its SHA-256 verified.

    Raises:
      ValueError: the name is unknown, or the file is not the one that is known.
      FileNotFoundError: it has not been fetched.
    """
    return files.verified(name, _find(name), FOLDER, data_dir=data_dir, function="fetch_text")


def _find(name: str) -> Archive:
    if name not in TEXTS:
        raise ValueError(f"there is no text {name!r}; there are {', '.join(TEXTS)}.")
    return TEXTS[name]
