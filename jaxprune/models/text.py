"""Windows of tokens to calibrate, choose and test with: a piece of English Wikipedia, split by articles."""

import hashlib
import os
from collections.abc import Mapping

import numpy as np

from jaxprune.data.texts import verified_text
from jaxprune.models import wikitext
from jaxprune.models.tokenizer import Tokenizer

__all__ = ["PARTS", "TOKENS_SHA256", "cut", "part_of", "tokens", "windows"]


def __dir__() -> list[str]:
    return sorted(__all__)


PARTS = ("calibration", "validation", "test")

# Of the int32 tokens of each part, by the name of the tokenizer.
TOKENS_SHA256: Mapping[str, Mapping[str, str]] = {
    "smollm2-135m": {
        "calibration": "038b2dc1f2c707dc831210d650daad8a5f04d71e89535f3e861f2706f6c5c9a0",
        "validation": "44242f26663c3f260149f27dceb21dfa1edb3c044182b69b97bcdc14ffda2dd0",
        "test": "af981e866ad512128763c35d95314e48cb5ce6bd14ac21cc13e4597a3b1b5596",
    },
}


def part_of(title: str) -> str:
    """Returns the part that an article belongs to: by the first byte $b$ of the SHA-256 of its title.

    Test where $b < 64$, validation where $64 \\le b < 96$, else calibration. So no article is in two parts,
    and its part depends neither on the others nor on a seed.

    Args:
      title: of the article.

    Returns:
      "test", "validation" or "calibration".

    >>> part_of("Albedo"), part_of("Algorithm")
    ('calibration', 'calibration')
    """
    first_byte = hashlib.sha256(title.encode()).digest()[0]
    return "test" if first_byte < 64 else "validation" if first_byte < 96 else "calibration"


def tokens(
    tokenizer: Tokenizer, part: str, *, data_dir: str | os.PathLike | None = None
) -> np.ndarray:
    """Returns the tokens of all articles of a part, in order, with an empty line behind each.

    Args:
      tokenizer: of the model.
      part: "calibration", "validation" or "test".
      data_dir: the folder that `jaxprune.data.fetch_text("wikipedia")` filled.

    Returns:
      int32 [length].

    Raises:
      ValueError: there is no such part, or the tokens of a known tokenizer are not the known ones.
      FileNotFoundError: the text has not been fetched.
    """
    if part not in PARTS:
        raise ValueError(f"text.tokens: there is no part {part!r}; there are {', '.join(PARTS)}.")
    dump_path = verified_text("wikipedia", data_dir=data_dir)
    articles = wikitext.articles(dump_path, wanted=lambda title: part_of(title) == part)
    token_arrays = [tokenizer.encode(f"{text}\n\n") for _, text in articles]
    all_tokens = np.concatenate(token_arrays)
    known_checksum = TOKENS_SHA256.get(tokenizer.name or "", {}).get(part)
    checksum = hashlib.sha256(all_tokens.astype("<i4").tobytes()).hexdigest()
    if known_checksum not in (None, checksum):
        raise ValueError(
            f"text.tokens: the {len(all_tokens):,} tokens of {part!r} have SHA-256 {checksum[:8]}..., "
            f"expected {known_checksum[:8]}...; figures on them would not compare. Is the package "
            "tokenizers another version?"
        )
    return all_tokens


def cut(
    tokens: np.ndarray, length: int, *, count: int | None = None, seed: int | None = None
) -> np.ndarray:
    """Returns windows of a sequence that do not overlap; tokens at its end that fill no window are not used.

    Args:
      tokens: int [size].
      length: number of tokens of a window.
      count: number of windows; `None`: all.
      seed: draws `count` of them by chance, none twice; `None`: they are spread evenly over the sequence, so
        that a few of them see all of its articles.

    Returns:
      int32 [count, length].

    Raises:
      ValueError: there are fewer windows than `count`.

    >>> cut(np.arange(10), 3).tolist()
    [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    >>> cut(np.arange(12), 3, count=2).tolist()
    [[0, 1, 2], [6, 7, 8]]
    >>> cut(np.arange(10), 3, count=1, seed=0).tolist()
    [[6, 7, 8]]
    """
    window_count = len(tokens) // length if length > 0 else 0
    count = window_count if count is None else count
    if not 1 <= count <= window_count:
        raise ValueError(
            f"text.cut: {count} windows of {length} tokens are asked for; {len(tokens):,} tokens give "
            f"{window_count}."
        )
    all_windows = np.asarray(tokens[: window_count * length], np.int32).reshape(
        window_count, length
    )
    if seed is None:
        return all_windows[np.arange(count) * window_count // count]
    return all_windows[np.random.default_rng(seed).permutation(window_count)[:count]]


def windows(
    tokenizer: Tokenizer,
    part: str,
    *,
    length: int = 512,
    count: int | None = None,
    seed: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> np.ndarray:
    """Returns windows of the tokens of a part of Wikipedia: `cut` of `tokens`.

    Args:
      tokenizer: of the model.
      part: "calibration" to gather signals on, "validation" to choose by, "test" to report.
      length: number of tokens of a window.
      count: number of windows; `None`: all.
      seed: draws them by chance; `None`: evenly spread, those of 16 are among those of 64.
      data_dir: the folder that `jaxprune.data.fetch_text("wikipedia")` filled.

    Returns:
      int32 [count, length].

    Raises:
      ValueError: there is no such part, there are too few windows, or the tokens are not the known ones.
      FileNotFoundError: the text has not been fetched.
    """
    return cut(tokens(tokenizer, part, data_dir=data_dir), length, count=count, seed=seed)
