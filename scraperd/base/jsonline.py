"""JSON as terminals and logs get it: the same data, one line, only characters that can be seen.

May touch: msgspec. Pure.
Must never: change what the JSON means, or let a text begin a line or steer a terminal.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

_FOREIGN = re.compile(r"[^\n\x20-\x7e]+")


def visible(text: str) -> str:
    """JSON with each character that is not printable written as an escape (RFC 8259 section 7).

    Those are DEL, the C1 controls, what changes the direction of text, invisible characters, and
    separators such as U+2028; above U+FFFF as a surrogate pair. JSON has them inside of strings
    only, where an escape means the same. Line breaks between values stay.
    """
    return text if text.isprintable() else _FOREIGN.sub(_escaped, text)


def _escaped(run: re.Match[str]) -> str:
    if run[0].isprintable():
        return run[0]
    return "".join(it if it.isprintable() else json.dumps(it)[1:-1] for it in run[0])


def line(raw: bytes, indent: int = -1) -> str | None:
    """The JSON text `raw` on one line, or indented; None if it is not JSON in UTF-8 (RFC 8259).

    Numbers, escapes and members that come twice stay as they are. Half a surrogate pair is not
    JSON here, nor is what is nested deeper than about 900 levels.
    """
    try:
        raw.decode()  # the decoder does not look into strings
        return visible(msgspec.json.format(raw, indent=indent).decode())
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def foreign(raw: bytes) -> str:
    """Bytes that are not JSON, as a JSON object on one line: `body` is text, or base64."""
    try:
        return dumps({"body": raw.decode()})
    except UnicodeDecodeError:
        return dumps({"body": base64.b64encode(raw).decode(), "body_encoding": "base64"})


def dumps(value: Any, indent: int | None = None, other: Callable[[Any], str] = str) -> str:
    """`value` as JSON, on one line or indented; what JSON lacks is written by `other`."""
    try:
        text = msgspec.json.encode(value, enc_hook=other).decode()
    except UnicodeEncodeError:  # half a surrogate pair, say of a file's name
        return visible(json.dumps(value, default=other, indent=indent))
    return visible(text if indent is None else msgspec.json.format(text, indent=indent))
