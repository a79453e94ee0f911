"""Plain prose of Wikipedia's markup: paragraphs without tables, lists, templates, notes and headings."""

import bz2
import html
import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

__all__ = ["articles", "clean"]

SHORTEST_ARTICLE = 2000  # characters of prose; what is shorter is a stub or a list of meanings
SHORTEST_PARAGRAPH = 40
# What is not prose, with all that is in it.
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
# What is left of a sentence where something has gone.
EMPTY_BRACKETS = re.compile(r"\s*[(\[][\s,;:\u2013/]*[)\]]")
AFTER_BRACKET = re.compile(r"([(\[])[\s,;:]+")
UNPAIRED = re.compile(r"\[\[|\]\]|\{\{.*|\}\}")
BEFORE_STOP = re.compile(r"\s+([,.;:)])")
SPACES = re.compile(r"[ \t\u00a0\u2009]+")


def clean(markup: str) -> str:
    """Returns the paragraphs of a page, with an empty line between them.

    Links leave their text, measures ({{convert|5|km}}) and foreign words ({{lang|de|Wort}}) their content;
    other templates, references, formulas, tables, lists, headings and the sections at the end go. What comes
    out depends on nothing but the markup: its SHA-256 can be known beforehand.

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
    return "\n\n".join(p for p in paragraphs if len(p) >= SHORTEST_PARAGRAPH or p.endswith("."))


def _from_within(pattern: re.Pattern, replace: Any, text: str) -> str:
    """Replaces matches that hold no others, until there are none."""
    count = 1
    while count:
        text, count = pattern.subn(replace, text)
    return text


def _template(match: re.Match) -> str:
    name, *arguments = (part.strip() for part in match[1].split("|"))
    plain = [argument for argument in arguments if "=" not in argument]
    if name.lower() in ("convert", "cvt"):
        return " ".join(plain[:2])
    if name.lower() in ("lang", "nowrap", "nobr", "transl", "native name") and plain:
        return plain[-1]
    return ""


def _link(match: re.Match) -> str:
    target, *texts = match[1].split("|")
    if NO_PAGE.match(target) and not target.startswith(":"):
        return ""
    return texts[-1] if texts else target


def _without_endings(text: str) -> str:
    first, *rest = SECTION.split(text)
    sections = zip(rest[::2], rest[1::2], strict=True)
    return first + "\n".join(
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
      wanted: says of a title whether it is to be read.
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
