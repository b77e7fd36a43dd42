"""Untrusted selectors: which of them reach lexbor, and in which form.

May touch: selectors as text. Pure.
Must never: change what a selector means, or let one through whose parts it can't tell apart.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from re import Match

_NAME: Final = r"[a-z][a-z0-9]*"
_TAG_ONLY = re.compile(rf"({_NAME})(?:\[({_NAME})\])?")
_LIST = re.compile(r"\s*,\s*")
MAX_TAGS: Final = 8  # of a list of tags; compiled/tree.pyx: SIMPLE
MAX_REMEMBERED: Final = 1024  # selectors
FUNCTIONS: Final = frozenset(
    "is where not has matches any lang dir"
    " nth-child nth-last-child nth-of-type nth-last-of-type".split()
)
_STRING: Final = r""""(?:\\.|[^"\\\n\r\f])*"|'(?:\\.|[^'\\\n\r\f])*'"""
# CSS Syntax, "Consume an escaped code point": white space behind a number is a part of it.
ESCAPE: Final = r"\\(?:[0-9a-fA-F]{1,6}(?:\r\n|[ \t\n\r\f])?|.)"
_OPAQUE = re.compile(rf"(?P<string>{_STRING})|{ESCAPE}", re.DOTALL)
_FUNCTION = re.compile(r":([^:()\[\]\s,>+~.#*]*)\(")
_NAMESPACE = re.compile(r"[^\s\[\]()>+~,*|]\|(?![=|])|(?:^|[\s>+~,(])\|(?!\|)")
_BRACKET = re.compile(r"[()\[\]]")
_TOKEN = re.compile(
    rf"(?P<skip>{_STRING}|(?:{ESCAPE})+:?)"
    r"""|(?P<of>(?:(?<![^\s>+~,(])(?P<bare>))?"""
    r""":nth-(?:last-)?child\([^()"'\\]*?\sof(?=[\s:.#\[*]))"""
    r"""|(?P<start>(?<![^\s>+~,(])(?=:))|(?P<link>:link(?![\w-]))|(?P<open>\()|(?P<close>\))""",
    re.DOTALL | re.IGNORECASE,
)


def plain(selector: str) -> str:
    """`selector` with nothing in its strings, and an `x` for each escaped character."""
    return _OPAQUE.sub(lambda part: '""' if part["string"] else "x", selector)


def fault(selector: str) -> str | None:
    """Why a selector is not let through, though lexbor might take it; None if it is.

    What it may cost can't be told of one that hides its parts, and lexbor's own extensions
    to the standard end the process if they are wrong.
    """
    text = plain(selector)
    if "/*" in text:
        return "comments are not read"
    if "'" in text or '"' in text.replace('""', ""):
        return "a quote is not closed"
    if "\0" in text:
        return "it holds a NUL"
    if _NAMESPACE.search(text):
        return (
            "a prefix (ns|name, |name) needs a namespace, and there is none; write the name alone"
        )
    for name in _FUNCTION.findall(text):
        if name.lower() not in FUNCTIONS:
            return f"there is no :{name}()"
    return "a bracket is not closed, or not open" if _nested_wrong(text) else None


def _nested_wrong(text: str) -> bool:
    """Whether brackets don't come in pairs. CSS closes them at the end; what is added would not."""
    opened = []
    for bracket in _BRACKET.findall(text):
        if bracket in "([":
            opened.append(bracket)
        elif not opened or opened.pop() + bracket not in ("()", "[]"):
            return True
    return bool(opened)


def mended(selector: str) -> str:
    """`selector` as lexbor (in selectolax 1.0.2) understands it.

    What begins with a pseudo-class (`:is(a) b`) is only tried against the next ancestor or
    sibling, and so gets its `*` back; of the selectors in `:nth-child(2 of S)` lexbor counts
    each alone, and only the last part of each, but not inside of an `:is()`. Its `:link` finds
    `link` elements too, which HTML's does not; its `:any-link` is right.
    """
    closing: list[str] = []

    def mend(token: Match[str]) -> str:
        if token["of"]:
            closing.append("))")
            return ("*" if token["bare"] is not None else "") + token["of"] + " :is("
        if token["link"]:
            return ":any-link"
        if token["open"]:
            closing.append(")")
        elif token["close"]:
            return closing.pop() if closing else ")"
        return "*" if token["start"] is not None else token[0]

    return _TOKEN.sub(mend, selector)


@lru_cache(MAX_REMEMBERED)
def tags_of(selector: str) -> tuple[tuple[bytes, bytes | None], ...] | None:
    """Return pairs of tag and attribute if the selector is only a list of those, else None.

    A compiled tree finds them without lexbor's matcher, which reads a selector anew each time.
    """
    parts = _LIST.split(selector)
    if len(parts) > MAX_TAGS:
        return None
    found = [_TAG_ONLY.fullmatch(part) for part in parts]
    pairs = [(it[1].encode(), it[2].encode() if it[2] else None) for it in found if it]
    return tuple(pairs) if len(pairs) == len(parts) else None
