"""Text to tokens and back, as a model was trained: byte-level pairs from a GGUF file, or a tokenizer.json.

The work is done by the package `tokenizers`: pip install 'jaxprune[models]'.
"""

import dataclasses
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Tokenizer", "from_gguf", "from_json"]

BYTE_LEVEL = "gpt2"  # GGUF's name of the kind of vocabulary that is read here
SPLITTING = ("smollm", "gpt-2")  # rules by which text is cut into words, by GGUF's names
CONTROL = (3, 4)  # types of tokens that no text is merged into: control, user-defined


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to tokens and back.

    Attributes:
      inner: a `tokenizers.Tokenizer`.
      name: of the model, by which its tokens of the texts in `jaxprune.models.text` are known; or `None`.
    """

    inner: Any
    name: str | None = None

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return self.inner.get_vocab_size()

    def encode(self, text: str) -> np.ndarray:
        """Returns the tokens of a text, int32 [length]; none is added at its beginning or end."""
        return np.array(self.inner.encode(text, add_special_tokens=False).ids, np.int32)

    def decode(self, tokens: Any) -> str:
        """Returns the text of tokens [length], control tokens included."""
        return self.inner.decode(np.asarray(tokens).tolist(), skip_special_tokens=False)


def from_gguf(metadata: Mapping[str, Any], name: str | None = None) -> Tokenizer:
    """Returns the tokenizer of a GGUF file: byte-level byte-pair encoding by its vocabulary and merges.

    Text is cut into words as GPT-2 does; with "smollm", each digit is a word of its own.

    Args:
      metadata: of the file.
      name: of the model.

    Raises:
      ValueError: the vocabulary is of another kind, its words are cut by other rules, or parts are missing.
      ImportError: the package `tokenizers` is missing.

    References:
      Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); Radford et al.,
      "Language Models are Unsupervised Multitask Learners" (2019), for bytes.
    """
    kind = metadata.get("tokenizer.ggml.model")
    splitting = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if kind != BYTE_LEVEL or splitting not in SPLITTING:
        raise ValueError(
            f"tokenizer.from_gguf: the vocabulary is of the kind {kind!r}, words are cut by {splitting!r}; "
            f"{BYTE_LEVEL!r} by {' or '.join(map(repr, SPLITTING))} is read. Give the model's tokenizer.json "
            "to tokenizer.from_json."
        )
    vocabulary = _list(metadata, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in _list(metadata, "tokenizer.ggml.merges")]
    types = metadata.get("tokenizer.ggml.token_type", ())
    indices = {token: index for index, token in enumerate(vocabulary)}
    if len(indices) != len(vocabulary) or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            "tokenizer.from_gguf: a token is there twice, or a merge is not of two tokens."
        )
    tokenizers = _package()
    try:
        inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=indices, merges=merges))
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(
            f"tokenizer.from_gguf: the merges do not fit the vocabulary ({error})."
        ) from error
    words = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if splitting == "smollm":
        digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        words = tokenizers.pre_tokenizers.Sequence([digits, words])
    inner.pre_tokenizer = words
    inner.decoder = tokenizers.decoders.ByteLevel()
    control = [token for token, type_ in zip(vocabulary, types, strict=False) if type_ in CONTROL]
    inner.add_special_tokens(control)
    return Tokenizer(inner, name)


def from_json(path: str | os.PathLike, name: str | None = None) -> Tokenizer:
    """Returns the tokenizer that a tokenizer.json of Hugging Face describes.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no tokenizer.
      ImportError: the package `tokenizers` is missing.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"tokenizer.from_json: {path} is missing.")
    tokenizers = _package()
    try:
        return Tokenizer(tokenizers.Tokenizer.from_file(str(path)), name)
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(f"tokenizer.from_json: {path} is no tokenizer ({error}).") from error


def _list(metadata: Mapping[str, Any], key: str) -> list[str]:
    found = metadata.get(key)
    if not isinstance(found, list):
        raise ValueError(f"tokenizer.from_gguf: the file's metadata lack {key!r}.")
    return found


def _package() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise ImportError(
            "tokenizers are made by a package that is missing; pip install 'jaxprune[models]'."
        ) from error
