"""What a Content-Type says: by Fetch's "extract a MIME type" and MIME Sniffing's parser. Pure.

May touch: the values of headers; webencodings for the table of labels.
Must never: look at a body, or raise for what a header holds; the time is linear in its length.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import Final, NamedTuple

import webencodings

# Values that are remembered; a few dozen are nearly all that sites send. None is longer than a
# head may be, four times `fetch.max_header_size`: 2 MiB by default, if all are that long.
MAX_REMEMBERED: Final = 64
MAX_PARTS: Final = 100  # types of a list, and parameters of a type, that are read

# MIME Sniffing standard, section 3: HTTP token and quoted-string token code points, white space.
_SPACE: Final = "\t\n\r "
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~\w-]+", re.ASCII)
_TEXT = re.compile(r"[\t -~\x80-\xff]*")
# Section 4.4, "parse a MIME type": what stands before the parameters, and one of them, whose
# value is in quotes (the closing one may be missing) or bare.
_TYPE = re.compile(r"([^/;]*)/([^;]*)")
_PARAMETER = re.compile(
    r";[\t\n\r ]*(?P<name>[^;=]*)"
    r"(?:=(?:\"(?P<quoted>(?:[^\"\\]|\\.?)*+)[^;]*|(?P<bare>[^;]*)))?",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Fetch, "get, decode, and split": no comma inside of quotes ends a value.
_ITEM = re.compile(r"(?:[^\",]|\"(?:[^\"\\]|\\.?)*+\"?)*+", re.DOTALL)

# Section 7, "determining the computed MIME type": types that say as much as a missing one.
_UNKNOWN: Final = frozenset({"unknown/unknown", "application/unknown", "*/*"})


class MimeType(NamedTuple):
    """A MIME type: `essence` is type and subtype, lower case; the names of parameters too."""

    essence: str
    parameters: dict[str, str]


class Media(NamedTuple):
    """What a Content-Type says of a document.

    `essence` is empty if the type is missing, invalid or unknown. `encoding` is the WHATWG name
    of the encoding that `charset` names, lower case; None if there is none, or it is not known.
    """

    essence: str
    charset: str | None
    encoding: str | None


@lru_cache(maxsize=MAX_REMEMBERED)
def read_type(value: str) -> Media:
    """Return what all Content-Type headers of a response say, joined by commas.

    The bytes of a header are its characters (Latin-1).
    """
    mime = extracted(value)
    if mime is None:
        return Media("", None, None)
    charset = mime.parameters.get("charset")
    encoding = None if charset is None else encoding_of(charset)
    return Media("" if mime.essence in _UNKNOWN else mime.essence, charset, encoding)


def extracted(value: str) -> MimeType | None:
    """Return the last valid MIME type of a list; None if there is none.

    It has the charset of an earlier one of the same essence, if none of another essence stands
    between (Fetch, "extract a MIME type").
    """
    found, essence, charset = None, "", None
    for item in split(value):
        mime = parse(item)
        if mime is None or mime.essence == "*/*":
            continue
        if mime.essence != essence:
            essence, charset = mime.essence, mime.parameters.get("charset")
        elif charset is not None:
            mime.parameters.setdefault("charset", charset)
        found = mime
    return found


def split(value: str) -> list[str]:
    """Return the first MAX_PARTS values of a list (Fetch, "get, decode, and split")."""
    found: list[str] = []
    at = 0
    while at <= len(value) and len(found) < MAX_PARTS:
        item = _ITEM.match(value, at)
        assert item is not None  # it may be empty
        found.append(item[0].strip("\t "))
        at = item.end() + 1
    return found


def parse(text: str) -> MimeType | None:
    """Return the MIME type, or None for "failure" (MIME Sniffing, "parse a MIME type").

    No more than MAX_PARTS parameters are read.
    """
    text = text.strip(_SPACE)
    start = _TYPE.match(text)
    if start is None:
        return None
    kind, subtype = start[1], start[2].rstrip(_SPACE)
    if not (_TOKEN.fullmatch(kind) and _TOKEN.fullmatch(subtype)):
        return None
    parameters: dict[str, str] = {}
    for parameter in islice(_PARAMETER.finditer(text, start.end()), MAX_PARTS):
        name, quoted, bare = parameter.groups()
        name = name.lower()
        value = (bare or "").rstrip(_SPACE) if quoted is None else _ESCAPED.sub(r"\1", quoted)
        is_given = bool(value) or quoted is not None
        if is_given and _TOKEN.fullmatch(name) and _TEXT.fullmatch(value):
            parameters.setdefault(name, value)
    return MimeType(f"{kind}/{subtype}".lower(), parameters)


def encoding_of(label: str) -> str | None:
    """Return the WHATWG name of an encoding, lower case; None if the label is not in the table."""
    if not label.isascii():
        return None
    encoding = webencodings.lookup(label)
    return str(encoding.name) if encoding is not None else None
