"""Text to tokens and back, as a model was trained: byte-level pairs from a GGUF file, or a tokenizer.json.

The work is done by the package `tokenizers`: pip install -e '.[models]'.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxprune import extras

__all__ = ["Tokenizer", "from_gguf", "from_json"]


def __dir__() -> list[str]:
    return sorted(__all__)


BYTE_LEVEL = "gpt2"  # GGUF's name of the kind of vocabulary that is read here
SPLITTING = ("smollm", "gpt-2")  # rules by which text is cut into words, by GGUF's names
CONTROL = (3, 4)  # types of tokens that no text is merged into: control, user-defined


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer: text to tokens and back.

    Attributes:
      inner: a `tokenizers.Tokenizer`.
      name: of the model; checksums of its tokens in `jaxprune.models.text` are recorded under it; or `None`.
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

    Returns:
      The tokenizer.

    Raises:
      ValueError: the vocabulary is of another kind, its words are cut by other rules, or parts are missing.
      ImportError: the package `tokenizers` is missing.

    References:
      Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); Radford et al.,
      "Language Models are Unsupervised Multitask Learners" (2019), for bytes.
    """
    vocabulary_kind = metadata.get("tokenizer.ggml.model")
    splitting_rule = metadata.get("tokenizer.ggml.pre", "gpt-2")
    if vocabulary_kind != BYTE_LEVEL or splitting_rule not in SPLITTING:
        raise ValueError(
            f"tokenizer.from_gguf: the vocabulary is of the kind {vocabulary_kind!r}, words are cut by "
            f"{splitting_rule!r}; {BYTE_LEVEL!r} by {' or '.join(map(repr, SPLITTING))} is read. Give the "
            "model's tokenizer.json to tokenizer.from_json."
        )
    vocabulary = _required_list(metadata, "tokenizer.ggml.tokens")
    merges = [
        tuple(merge.split(" ")) for merge in _required_list(metadata, "tokenizer.ggml.merges")
    ]
    token_types = metadata.get("tokenizer.ggml.token_type", ())
    index_of_token = {token: index for index, token in enumerate(vocabulary)}
    if len(index_of_token) != len(vocabulary) or any(len(merge) != 2 for merge in merges):
        raise ValueError(
            "tokenizer.from_gguf: a token is there twice, or a merge is not of two tokens."
        )
    tokenizers = _package()
    try:
        inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=index_of_token, merges=merges))
    except Exception as error:  # the package raises nothing more specific
        raise ValueError(
            f"tokenizer.from_gguf: the merges do not fit the vocabulary ({error})."
        ) from error
    word_splitter = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if splitting_rule == "smollm":
        digit_splitter = tokenizers.pre_tokenizers.Digits(individual_digits=True)
        word_splitter = tokenizers.pre_tokenizers.Sequence([digit_splitter, word_splitter])
    inner.pre_tokenizer = word_splitter
    inner.decoder = tokenizers.decoders.ByteLevel()
    control_tokens = [
        token
        for token, token_type in zip(vocabulary, token_types, strict=False)
        if token_type in CONTROL
    ]
    inner.add_special_tokens(control_tokens)
    return Tokenizer(inner, name)


def from_json(path: str | os.PathLike, name: str | None = None) -> Tokenizer:
    """Returns the tokenizer that a tokenizer.json of Hugging Face describes.

    Args:
      path: of the tokenizer.json.
      name: of the model, or `None`.

    Returns:
      The tokenizer.

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


def _required_list(metadata: Mapping[str, Any], key: str) -> list[str]:
    entries = metadata.get(key)
    if not isinstance(entries, list):
        raise ValueError(f"tokenizer.from_gguf: the file's metadata lack {key!r}.")
    return entries


def _package() -> Any:
    """Imports the package `tokenizers`, or says how to get it."""
    return extras.require("tokenizers", extra="models", needed_by="models.tokenizer")
