"""Untrusted text, made fit for a terminal, a message or an AMQP header. Pure.

May touch: a text.
Must never: let through what cannot be seen.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_WORD: Final = re.compile(r"\S+")
# The start of a URL, a path or a query.
_REFERENCE: Final = re.compile(r"[^\w/?#]*(?:[A-Za-z][A-Za-z0-9+.-]*:|/|[?#][^=]+=)")
_QUERY: Final = re.compile("[?#]")
# Of a query, also behind a host without a scheme; a group of a pattern, as `(?<=a)`, is not one.
_PAIR: Final = re.compile(r"""[?#][^=<>()'"?#]+=""")
_MARKS: Final = ":,.;'\")]>"  # of the text around a URL
_MOST_MARKS: Final = 4  # that `printable` leaves on one letter


def printable(text: str, limit: int = 200) -> str:
    """`text` fit for a terminal, a message or an AMQP header: one line, at most `limit` characters.

    What can't be seen (controls, what changes the direction of text, invisible characters, line
    breaks of any kind) is replaced, and so is what comes after four marks on one letter: hundreds
    of them paint over the lines above.
    """
    kept = text if len(text) <= limit else text[: limit - 1]
    if not (kept.isascii() and kept.isprintable()):
        kept = "".join(_seen(kept))
    return kept if len(text) <= limit else kept + "\N{HORIZONTAL ELLIPSIS}"


def _seen(text: str) -> Iterator[str]:
    marks = 0
    for it in text:
        marks = marks + 1 if unicodedata.category(it).startswith("M") else 0
        yield it if it.isprintable() and marks <= _MOST_MARKS else "\N{REPLACEMENT CHARACTER}"


def text_without_credentials(text: str) -> str:
    """Return `text` without the userinfo of the URLs in it. Libraries quote URLs in errors."""
    return _WORD.sub(_without_userinfo, text) if "@" in text else text


def text_without_queries(text: str, *, only_hosts: bool = False) -> str:
    """Return `text` without userinfo, queries and fragments of the URLs in it.

    With `only_hosts` also without their paths.
    """
    if "/" not in text and "?" not in text and "#" not in text:
        return text
    shown = _WORD.sub(_without_query, text_without_credentials(text))
    return _WORD.sub(_without_path, shown) if only_hosts else shown


def _without_userinfo(word: re.Match[str]) -> str:
    """A password can hold any character, so this removes too much, not too little."""
    text = word[0]
    start, end = text.find("//"), text.rfind("@")
    return text[: start + 2] + text[end + 1 :] if 0 <= start < end else text


def _without_query(word: re.Match[str]) -> str:
    """Return a word up to its query, with the marks behind, if a URL, path or query is in it.

    A URL can begin inside a word: `URL('http://h/?q')` is how libraries quote theirs.
    """
    text = word[0]
    start = _QUERY.search(text)
    if start is None:
        return text
    if "://" in text or _REFERENCE.match(text) or _PAIR.match(text, start.start()):
        return text[: start.start()] + _marks(text[start.start() :])
    return text


def _without_path(word: re.Match[str]) -> str:
    before, slashes, after = word[0].partition("://")
    host, slash, path = after.partition("/")
    return f"{before}{slashes}{host}{slash}{_marks(path)}"


def _marks(text: str) -> str:
    """Return the punctuation that `text` ends with."""
    return text[len(text.rstrip(_MARKS)) :]
