"""Which encoding a page is in, by the WHATWG order: BOM, header, meta prescan, fallback.

May touch: bytes and a Content-Type value. Pure.
Must never: guess from the text itself; the same bytes give the same answer every time.
"""

from __future__ import annotations

import re
from typing import Final

import webencodings

FALLBACK: Final = "windows-1252"
PRESCAN: Final = 1024  # bytes; where the HTML standard stops looking for a <meta>

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))
_PARAMETER = re.compile(r";\s*charset\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^;\s]+))", re.IGNORECASE)
_SKIPPED = re.compile(rb"<!--.*?-->|<(?:[!/?])[^>]*>", re.DOTALL)
_META = re.compile(rb"<meta[\s/]([^>]*)", re.IGNORECASE)
_ATTRIBUTE = re.compile(
    rb"([^\s=/>\"']+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s>]+)))?", re.DOTALL
)
_IN_CONTENT = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s;\"']+)", re.IGNORECASE)


def sniff(body: bytes, content_type: str) -> str:
    """The encoding's canonical WHATWG name, lower case (`utf-8`, `windows-1252`)."""
    for mark, name in _BOMS:
        if body.startswith(mark):
            return name
    return declared(content_type) or _prescan(body[:PRESCAN]) or _utf8_or_fallback(body)


def declared(content_type: str) -> str | None:
    """The encoding the Content-Type header names, if it names a known one."""
    match = _PARAMETER.search(content_type)
    return _canonical(next(filter(None, match.groups()), "")) if match else None


def to_text(body: bytes, name: str) -> str:
    """Decode; what is malformed becomes U+FFFD, a byte order mark is dropped."""
    return str(webencodings.decode(body, name)[0])


def to_utf8(body: bytes, name: str) -> bytes:
    """The same text as UTF-8 bytes, for the parser; UTF-8 pages are not copied."""
    if name == "utf-8":
        return body.removeprefix(_BOMS[0][0])
    return to_text(body, name).encode()


def _canonical(label: str) -> str | None:
    """Resolve a label by the Encoding Standard's table; None where it isn't in it."""
    encoding = webencodings.lookup(label)
    return str(encoding.name) if encoding is not None else None


def _prescan(head: bytes) -> str | None:
    """HTML standard, "prescan a byte stream": the first <meta> that names an encoding."""
    for match in _META.finditer(_SKIPPED.sub(b"", head)):
        name = _from_meta(match[1])
        if name in ("utf-16le", "utf-16be"):
            return "utf-8"  # the page could not have been read this far
        if name == "x-user-defined":
            return FALLBACK
        if name is not None:
            return name
    return None


def _from_meta(attributes: bytes) -> str | None:
    found: dict[bytes, bytes] = {}
    for key, *values in _ATTRIBUTE.findall(attributes):
        found.setdefault(key.lower(), next(filter(None, values), b""))
    if b"charset" in found:
        return _canonical(found[b"charset"].decode("latin-1"))
    if found.get(b"http-equiv", b"").lower() == b"content-type":
        match = _IN_CONTENT.search(found.get(b"content", b""))
        return _canonical(match[1].decode("latin-1")) if match else None
    return None


def _utf8_or_fallback(body: bytes) -> str:
    """Undeclared: UTF-8 if every byte agrees, as browsers do for local files, else the fallback."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return FALLBACK
    return "utf-8"
