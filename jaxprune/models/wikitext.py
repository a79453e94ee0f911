"""Extracts plain prose from Wikipedia's markup: no tables, lists, templates, notes or headings."""

import bz2
import html
import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

__all__ = ["articles", "clean"]


def __dir__() -> list[str]:
    return sorted(__all__)


SHORTEST_ARTICLE = 2000  # characters of prose; what is shorter is a stub or a list of meanings
SHORTEST_PARAGRAPH = 40
# Elements that are no prose, with their content.
ELEMENTS = "ref|math|gallery|table|timeline|source|syntaxhighlight|code|score|imagemap|hiero|chem"
NOT_PROSE = re.compile(rf"<({ELEMENTS})\b[^<>]*?(?:/>|>.*?</\1\s*>)", re.DOTALL | re.IGNORECASE)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
LINE_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)
LINK = re.compile(r"\[\[((?:(?!\[\[|\]\]).)*)\]\]", re.DOTALL)
WEB_LINK = re.compile(r"\[(?:https?:)?//[^\s\]]+\s*([^\]]*)\]")
NO_PAGE = re.compile(r"\s*:?(file|image|category|media|[a-z]{2,3}|simple|wikt)\s*:", re.IGNORECASE)
SECTION = re.compile(r"^==([^=].*?)==\s*$", re.MULTILINE)
ENDINGS = {
    "bibliography",
    "citations",
    "external links",
    "filmography",
    "footnotes",
    "further reading",
    "notes",
    "references",
    "see also",
    "sources",
    "works cited",
}
# Debris of a sentence from which something was removed.
EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;:\u2013/]*[)\]]")
AFTER_BRACKET = re.compile(r"([(\[])[\s,;:]+")
UNPAIRED = re.compile(r"\[\[|\]\]|\{\{.*|\}\}")
BEFORE_STOP = re.compile(r"\s+([,.;:)])")
SPACES = re.compile(r"[ \t\u00a0\u2009]+")


def clean(markup: str) -> str:
    """Returns the paragraphs of a page, with an empty line between them.

    Links leave their text, measures ({{convert|5|km}}) and foreign words ({{lang|de|Wort}}) their content;
    other templates, references, formulas, tables, lists, headings and the sections at the end are dropped.
    The result depends on nothing but the markup: its SHA-256 can be recorded.

    Args:
      markup: of the page, in MediaWiki's language.

    >>> clean("'''Ice''' is [[solid state|solid]] [[water]].<ref>A book</ref> It {{citation needed}} melts.")
    'Ice is solid water. It melts.'
    >>> clean("== References ==\\n* A book about ice, and another one about water and about steam")
    ''
    """
    text = COMMENT.sub("", markup)
    text = NOT_PROSE.sub("", text)
    text = _from_within(TEMPLATE, _template, text)
    text = _from_within(TABLE, lambda _: "", text)
    text = _from_within(LINK, _link, text)
    text = WEB_LINK.sub(r"\1", text)
    text = re.sub(r"'{2,}", "", TAG.sub("", LINE_BREAK.sub(" ", text)))
    text = html.unescape(_without_endings(text))
    paragraphs = [_mended(line) for line in text.split("\n") if _is_prose(line)]
    return "\n\n".join(
        paragraph
        for paragraph in paragraphs
        if len(paragraph) >= SHORTEST_PARAGRAPH or paragraph.endswith(".")
    )


def _from_within(pattern: re.Pattern, replace: Any, text: str) -> str:
    """Replaces matches that hold no others, until there are none."""
    count = 1
    while count:
        text, count = pattern.subn(replace, text)
    return text


def _template(match: re.Match) -> str:
    name, *arguments = (part.strip() for part in match[1].split("|"))
    plain_arguments = [argument for argument in arguments if "=" not in argument]
    if name.lower() in ("convert", "cvt"):
        return " ".join(plain_arguments[:2])
    if name.lower() in ("lang", "nowrap", "nobr", "transl", "native name") and plain_arguments:
        return plain_arguments[-1]
    return ""


def _link(match: re.Match) -> str:
    target, *label_parts = match[1].split("|")
    if NO_PAGE.match(target) and not target.startswith(":"):
        return ""
    return label_parts[-1] if label_parts else target


def _without_endings(text: str) -> str:
    introduction, *titles_and_bodies = SECTION.split(text)
    sections = zip(titles_and_bodies[::2], titles_and_bodies[1::2], strict=True)
    return introduction + "\n".join(
        body for title, body in sections if title.strip().lower() not in ENDINGS
    )


def _is_prose(line: str) -> bool:
    return bool(line.strip()) and line[0] not in "*#:;|!{}=_<-"


def _mended(line: str) -> str:
    line = SPACES.sub(" ", UNPAIRED.sub("", line))
    line = AFTER_BRACKET.sub(r"\1", EMPTY_BRACKETS.sub("", line))
    return BEFORE_STOP.sub(r"\1", line).strip()


def articles(
    path: str | os.PathLike, wanted: Callable[[str], bool] = lambda title: True
) -> Iterator[tuple[str, str]]:
    """Yields title and prose of the articles of a dump (.xml.bz2) that have 2,000 characters of it.

    Args:
      path: of the dump.
      wanted: title -> whether the article is to be read.
    """
    with bz2.open(path, "rb") as file:
        for _, element in ElementTree.iterparse(file):
            if not element.tag.endswith("}page"):
                continue
            prefix = element.tag.removesuffix("page")
            title = element.findtext(f"{prefix}title") or ""
            is_article = element.findtext(f"{prefix}ns") == "0"
            if is_article and element.find(f"{prefix}redirect") is None and wanted(title):
                prose = clean(element.findtext(f"{prefix}revision/{prefix}text") or "")
                if len(prose) >= SHORTEST_ARTICLE:
                    yield title, prose
            element.clear()
