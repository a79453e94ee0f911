"""Markup becomes prose, articles fall into parts, tokens into windows."""

import bz2
import hashlib

import numpy as np
import pytest

from jaxprune.data import sources, texts
from jaxprune.models import text, wikitext

PAGE = """{{Infobox|name={{lang|de|Eis}}|image=[[File:x.jpg|thumb|A [[cube]] [sic] of ice]]}}
[[File:Ice.jpg|thumb|left|Ice on a [[lake|pond]] in [[winter]]]]
'''Ice''' ({{IPAc-en|ai}}) is ''solid'' [[a|water]],<ref name="a">{{x}}</ref> or {{lang|de|Eis}}<!-- -->.

== Size ==
A cube is {{convert|3|cm|in}} wide&nbsp;&ndash; see [http://x.org/y a page] of {{no|x}} ice<br />melting.
* a list
# another
: indented
{| class="wikitable"
|-
| a {| inner |} || table of many words that is not at all a paragraph of prose
|}
=== Below ===
Short line
The volume is <math>x^3</math> (<math>x</math>; {{math|y}}) of the side<ref name="a" />, as everybody knows.
== See also ==
Nothing here is prose, although it looks as if it were a paragraph.
== Melting ==
Ice melts into [[water]].
==References==
{{reflist}}
[[Category:Ice]]
"""
PROSE = """Ice is solid water, or Eis.

A cube is 3 cm wide \u2013 see a page of ice melting.

The volume is of the side, as everybody knows.

Ice melts into water."""


def test_markup_becomes_prose():
    assert wikitext.clean(PAGE) == PROSE


@pytest.mark.parametrize("page", ["{{" * 500, "[[" * 500 + "]]" * 400, "{|" * 300, "<ref>" * 300])
def test_markup_that_is_never_closed_ends(page):
    assert wikitext.clean(page) == ""


def dump(pages):
    made = "".join(
        f"<page><title>{title}</title><ns>{ns}</ns>{extra}<revision><text>{body}</text></revision></page>"
        for title, ns, extra, body in pages
    )
    return bz2.compress(f'<mediawiki xmlns="http://x.org/">{made}</mediawiki>'.encode())


class Words:
    """A tokenizer that counts letters."""

    name = None

    def encode(self, text):
        return np.array([len(word) for word in text.split()], np.int32)


LONG = "A sentence of some length about nothing. " * 60
TITLES = [f"Article {index}" for index in range(12)]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    pages = [(title, 0, "", LONG + title) for title in TITLES]
    pages += [
        ("Short", 0, "", "A stub."),
        ("Talk", 1, "", LONG),
        ("Old", 0, '<redirect title="x"/>', LONG),
    ]
    content = dump(pages)
    archive = sources.Archive("dump.xml.bz2", hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(texts.TEXTS, "wikipedia", archive)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "dump.xml.bz2").write_bytes(content)
    return tmp_path


def test_articles_of_a_dump(fetched):
    found = list(wikitext.articles(fetched / "texts" / "dump.xml.bz2"))
    assert [title for title, _ in found] == TITLES
    assert found[3][1] == LONG + "Article 3"


def test_each_article_is_in_one_part(fetched):
    parts = {part: text.tokens(Words(), part, data_dir=fetched) for part in text.PARTS}
    assert all(len(tokens) for tokens in parts.values())
    assert sum(map(len, parts.values())) == sum(len(f"{LONG}{t}".split()) for t in TITLES)
    assert [text.part_of(t) for t in ("Alabama", "Afghanistan", "Aristotle")] == [
        "test",
        "validation",
        "calibration",
    ]
    with pytest.raises(ValueError, match="no part 'train'; there are calibration"):
        text.tokens(Words(), "train", data_dir=fetched)


def test_tokens_that_are_known_must_be_those(fetched, monkeypatch):
    words = Words()
    words.name = "words"
    tokens = text.tokens(words, "test", data_dir=fetched)
    known = {"words": {"test": hashlib.sha256(tokens.tobytes()).hexdigest()}}
    monkeypatch.setattr(text, "TOKENS_SHA256", known)
    text.tokens(words, "test", data_dir=fetched)
    known["words"]["test"] = "0" * 64
    with pytest.raises(
        ValueError, match=r"expected 00000000\.\.\.; figures on them would not compare"
    ):
        text.tokens(words, "test", data_dir=fetched)


def test_windows(fetched):
    every = text.windows(Words(), "calibration", length=50, data_dir=fetched)
    tokens = text.tokens(Words(), "calibration", data_dir=fetched)
    assert every.dtype == np.int32
    np.testing.assert_array_equal(every.ravel(), tokens[: every.size])
    assert len(tokens) - every.size < 50
    drawn = text.windows(Words(), "calibration", length=50, count=5, seed=1, data_dir=fetched)
    rows = {row.tobytes() for row in every}
    assert len(drawn) == 5
    assert {row.tobytes() for row in drawn} <= rows


def test_windows_are_drawn_without_repetition_and_by_the_seed_alone():
    tokens = np.arange(1000)
    first, again, other = (text.cut(tokens, 10, count=30, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(set(first[:, 0])) == 30
    few, many = (set(text.cut(tokens, 10, count=n)[:, 0].tolist()) for n in (7, 28))
    assert few < many
    assert max(few) > 800
    with pytest.raises(
        ValueError, match="101 windows of 10 tokens are asked for; 1,000 tokens give 100"
    ):
        text.cut(tokens, 10, count=101)
    with pytest.raises(ValueError, match="give 0"):
        text.cut(tokens, 0)
