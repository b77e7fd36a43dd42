"""The JSON of a script, as pages have it: wrapped, with raw line breaks, or several values.

May touch: texts. Pure.
Must never: change what a string says, raise for what a script holds, or take more than linear time.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import msgspec

MAX_VALUES: Final = 1000  # of one script
# What hides JSON from old browsers: a comment or CDATA, either in a comment of JavaScript.
_OPENING: Final = re.compile(
    r"(?:\s|\ufeff)*+(?:(?://|/\*)?\s*(?:<!\[CDATA\[|<!--)(?:\s*\*/)?(?:\s|\ufeff)*+){0,2}"
)
_CLOSING: Final = re.compile(r"(?:[;\s\ufeff]|(?://|/\*)?\s{0,9}(?:\]\]>|-->)(?:\s{0,9}\*/)?)*+")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_COMMA: Final = re.compile(r',(?=\s*+[}\]])|"(?:[^"\\]|\\.)*+"?', re.DOTALL)


def _refuse(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON


_DECODER: Final = json.JSONDecoder(strict=False, parse_constant=_refuse)


def values_in(text: str) -> list[Any]:
    """The JSON values in the text of a script; none of what is behind a fault.

    JSON as it stands is the usual case. Else these are passed over: a comment (`<!-- -->`), CDATA
    or a byte order mark around it, semicolons behind it, a comma before a closing bracket, raw
    line breaks and tabs in strings; several values in one script are all read. Half of a surrogate
    pair is U+FFFD. Character references of HTML stay as they are, as in browsers: a script's text
    has none (HTML standard, "Script data state").
    """
    try:
        return [msgspec.json.decode(text)]
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        pass
    found: list[Any] = []
    text = _COMMA.sub(lambda part: "" if part[0] == "," else part[0], text)
    opening = _OPENING.match(text)
    at = opening.end() if opening else 0
    while at < len(text) and text[at] in "{[" and len(found) < MAX_VALUES:
        try:
            value, at = _DECODER.raw_decode(text, at)
            found.append(msgspec.json.decode(_whole(value)))
        except (ValueError, RecursionError):
            break
        closing = _CLOSING.match(text, at)
        at = closing.end() if closing else at
    return found


def _whole(value: Any) -> bytes:
    """The value as JSON in UTF-8, each half of a pair replaced. Raises ValueError."""
    written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", written).encode()
