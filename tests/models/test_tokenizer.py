"""A tokenizer made of a GGUF file's vocabulary gives back each text, and merges as it says."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.models import tokenizer

pytest.importorskip("tokenizers")


def byte_tokens():
    """The characters that stand for the 256 bytes: themselves if printable, else from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + i) for i in range(256))
    return [chr(b) if b in printable else next(others) for b in range(256)]


CONTROL = ["<|end|>", "<|start|>"]
MERGED = ["th", "the", "Ġthe", "20"]
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*CONTROL, *byte_tokens(), *MERGED],
    "tokenizer.ggml.merges": ["t h", "th e", "Ġ the", "2 0"],
    "tokenizer.ggml.token_type": np.array([3, 3] + [1] * 260, np.int32),
}


@pytest.fixture(scope="module")
def made():
    return tokenizer.from_gguf(METADATA, "tiny")


def test_words_are_merged_and_digits_are_not(made):
    names = METADATA["tokenizer.ggml.tokens"]
    tokens = made.encode("the the 20é<|end|>")
    assert tokens.dtype == np.int32
    assert [names[t] for t in tokens] == ["the", "Ġthe", "Ġ", "2", "0", "Ã", "©", "<|end|>"]
    joined = tokenizer.from_gguf(METADATA | {"tokenizer.ggml.pre": "gpt-2"})
    assert [names[t] for t in joined.encode("20")] == ["20"]
    assert (made.name, made.vocabulary, len(made.encode(""))) == ("tiny", 262, 0)


@settings(deadline=None, max_examples=60)
@given(text=st.text())
def test_every_text_comes_back(made, text):
    assert made.decode(made.encode(text)) == text


def test_a_tokenizer_goes_through_its_file(made, tmp_path):
    made.inner.save(str(tmp_path / "tokenizer.json"))
    again = tokenizer.from_json(tmp_path / "tokenizer.json")
    assert again.encode("the 20").tolist() == made.encode("the 20").tolist()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is no tokenizer"):
        tokenizer.from_json(tmp_path / "tokenizer.json")
    with pytest.raises(FileNotFoundError, match="is missing"):
        tokenizer.from_json(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokenizer.ggml.model": "llama"}, "of the kind 'llama'"),
        ({"tokenizer.ggml.pre": "qwen2"}, r"cut by 'qwen2'; .* tokenizer.json"),
        ({"tokenizer.ggml.merges": None}, "lack 'tokenizer.ggml.merges'"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "a merge is not of two tokens"),
        ({"tokenizer.ggml.merges": ["no such"]}, "the merges do not fit the vocabulary"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "a token is there twice"),
    ],
)
def test_other_vocabularies_are_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        tokenizer.from_gguf(METADATA | change)


def test_the_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[models\]'"):
        tokenizer.from_gguf(METADATA)
