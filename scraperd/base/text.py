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

# A password can hold any character, so this removes too much, not too little.
_USERINFO_IN_TEXT: Final = re.compile(r"//\S*@")
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
    return _USERINFO_IN_TEXT.sub("//", text)
