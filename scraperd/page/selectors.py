"""Selectors in a form that lexbor matches as the Selectors standard says.

May touch: selectors as text. Pure.
Must never: change what a selector means, or whether it is one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from re import Match

_TOKEN = re.compile(
    r"""(?P<skip>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|/\*.*?\*/|(?:\\.)+:?)"""
    r"""|(?P<of>(?:(?<![^\s>+~,(])(?P<bare>))?"""
    r""":nth-(?:last-)?child\([^()"'\\]*?\sof(?=[\s:.#\[*]))"""
    r"""|(?P<start>(?<![^\s>+~,(])(?=:))|(?P<open>\()|(?P<close>\))""",
    re.DOTALL | re.IGNORECASE,
)


def mended(selector: str) -> str:
    """`selector` as lexbor 2.7 (in selectolax 1.0.2) understands it.

    What begins with a pseudo-class (`:is(a) b`) is only tried against the next ancestor or
    sibling, and so gets its `*` back; of the selectors in `:nth-child(2 of S)` lexbor counts
    each alone, and only the last part of each, but not inside of an `:is()`.
    """
    closing: list[str] = []

    def mend(token: Match[str]) -> str:
        if token["of"]:
            closing.append("))")
            return ("*" if token["bare"] is not None else "") + token["of"] + " :is("
        if token["open"]:
            closing.append(")")
        elif token["close"]:
            return closing.pop() if closing else ")"
        return "*" if token["start"] is not None else token[0]

    return _TOKEN.sub(mend, selector)
