"""What a document is, by its first bytes: the MIME Sniffing standard, section 7. Pure.

May touch: the first bytes of a body.
Must never: look at more than 1,445 bytes, or overrule a type that the standard keeps.
"""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

READ: Final = 1445  # bytes; where the standard stops looking
# Which types are doubted. Usually a missing or unknown one only. With `nosniff` (Fetch, "determine
# nosniff") such a document is never HTML, XML or PDF. With `apache` a text may be binary: its
# header is one that an old Apache sends for files that it does not know.
Sniffing: TypeAlias = Literal["", "nosniff", "apache"]
APACHE: Final = frozenset(
    {
        "text/plain",
        "text/plain; charset=ISO-8859-1",
        "text/plain; charset=iso-8859-1",
        "text/plain; charset=UTF-8",
    }
)
BINARY: Final = "application/octet-stream"
TEXT: Final = "text/plain"

_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")  # "binary data byte"
_MARKS: Final = (b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf")
# Section 7.1, the first table; %PDF- must be the first bytes, white space may be before markup.
_SCRIPTABLE = re.compile(
    rb"[\t\n\f\r ]*+(?:(?P<html>(?:<!DOCTYPE HTML|<HTML|<HEAD|<SCRIPT|<IFRAME|<H1|<DIV|<FONT|<TABLE"
    rb"|<A|<STYLE|<TITLE|<B|<BODY|<BR|<P|<!--)[ >])|(?-i:(?P<xml><\?xml)))|(?-i:(?P<pdf>%PDF-))",
    re.IGNORECASE,
)
_SCRIPTABLE_TYPES: Final = {"html": "text/html", "xml": "text/xml", "pdf": "application/pdf"}
# The second table, and those of sections 6.1, 6.2 and 6.4. MP4, WebM and MP3 without ID3 are left
# out: their bodies hold binary data bytes, and are `application/octet-stream` here.
_SIGNATURES: Final = tuple(
    (re.compile(pattern, re.DOTALL), mime)
    for pattern, mime in (
        (rb"%!PS-Adobe-", "application/postscript"),
        (rb"\xfe\xff..|\xff\xfe..|\xef\xbb\xbf.", TEXT),
        (rb"\0\0[\x01\x02]\0", "image/x-icon"),
        (rb"BM", "image/bmp"),
        (rb"GIF8[79]a", "image/gif"),
        (rb"RIFF....WEBPVP", "image/webp"),
        (rb"\x89PNG\r\n\x1a\n", "image/png"),
        (rb"\xff\xd8\xff", "image/jpeg"),
        (rb"FORM....AIFF", "audio/aiff"),
        (rb"ID3", "audio/mpeg"),
        (rb"OggS\0", "application/ogg"),
        (rb"MThd\0\0\0\x06", "audio/midi"),
        (rb"RIFF....AVI ", "video/avi"),
        (rb"RIFF....WAVE", "audio/wave"),
        (rb"\x1f\x8b\x08", "application/x-gzip"),
        (rb"PK\x03\x04", "application/zip"),
        (rb"Rar!\x1a\x07\0", "application/x-rar-compressed"),
    )
)


def computed(essence: str, body: bytes, sniffing: Sniffing = "") -> str:
    """Return the essence of the computed MIME type.

    `essence` is what the header says, empty if it says nothing (`header.Media`). No image, audio
    or video type is supported here, so each of these stays as it was sent.
    """
    if not essence:
        return _unknown(body[:READ], scriptable=sniffing != "nosniff")
    if sniffing == "apache":
        return TEXT if _is_text(body[:READ]) else BINARY
    return essence


def _unknown(head: bytes, *, scriptable: bool) -> str:
    """Return what an unknown document is ("identifying a resource with an unknown MIME type")."""
    if scriptable and (found := _SCRIPTABLE.match(head)):
        return _SCRIPTABLE_TYPES[str(found.lastgroup)]
    for pattern, mime in _SIGNATURES:
        if pattern.match(head):
            return mime
    return BINARY if _BINARY.search(head) else TEXT


def _is_text(head: bytes) -> bool:
    """Return whether a document is text ("distinguish if a resource is text or binary")."""
    return head.startswith(_MARKS) or _BINARY.search(head) is None
