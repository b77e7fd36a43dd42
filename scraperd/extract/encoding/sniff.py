"""Which encoding a page is in, by the WHATWG order: BOM, header, declaration, fallback.

May touch: bytes and a Content-Type value. Pure.
Must never: guess from the text more than whether it is UTF-8; the same bytes give the same answer.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

from scraperd.extract.encoding.decoders import decode
from scraperd.extract.media.header import encoding_of, read_type

FALLBACK: Final = "windows-1252"
PRESCAN: Final = 1024  # bytes; where the HTML standard looks for a declaration before it parses
LATE: Final = 1 << 16  # bytes; how far into a page a declaration of its head is looked for
SURE: Final = 2  # valid sequences for each malformed one, for text to be UTF-8 with errors

_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))
# A declaration that was read as ASCII can't be in UTF-16.
_NOT_16: Final = {"utf-16le": "utf-8", "utf-16be": "utf-8"}
_XML16: Final = ((b"<\0?\0x\0", "utf-16le"), (b"\0<\0?\0x", "utf-16be"))

# HTML standard, "prescan a byte stream to determine its encoding". A comment may be as short
# as `<!-->`; a tag's name ends at white space or `>`; `<meta` must be followed by one or `/`.
_MARKUP = re.compile(
    rb"<!--(?:-?>|.*?-->)|(?P<open><!--)"
    rb"|(?P<meta><meta(?=[\t\n\f\r /]))|(?P<tag></?[a-z][^\t\n\f\r >]*)"
    rb"|<[!/?][^>]*>|(?P<bogus><[!/?])",
    re.IGNORECASE | re.DOTALL,
)
# The same, "get an attribute": name, then a value in quotes, or bare, or none.
_ATTRIBUTE = re.compile(
    rb"[\t\n\f\r /]*(?:(?P<end>>)|([^\t\n\f\r />][^\t\n\f\r />=]*)"
    rb"(?:[\t\n\f\r ]*=[\t\n\f\r ]*"
    rb"(?:\"([^\"]*)\"|'([^']*)'|(?P<cut>[\"'])|([^\t\n\f\r >]*)))?)"
)
# The same, "extracting a character encoding from a meta element".
_IN_CONTENT = re.compile(
    rb"charset[\t\n\f\r ]*=[\t\n\f\r ]*(?:\"([^\"]*)\"|'([^']*)'|[\"']|([^\t\n\f\r ;]*))",
    re.IGNORECASE,
)
# The same, "get an XML encoding": the first `encoding` in the declaration counts, or none does.
_XML = re.compile(
    rb"<\?xml(?:(?!encoding)[^>])*+encoding[\0- ]*=[\0- ]*"
    rb"(?:\"([^\0- \">]*)\"|'([^\0- '>]*)')[^>]*>"
)

# A page's head as the HTML standard's tokenizer reads it: a comment may end with `--!>` too.
_HEAD = re.compile(
    rb"<!--(?:-?>|.*?--!?>)|(?P<open><!--)|<(?P<tag>/?[a-z][^\t\n\f\r />]*)"
    rb"|<[!/?][^>]*>|(?P<bogus><[!/?])",
    re.IGNORECASE | re.DOTALL,
)
_OF_HEAD: Final = frozenset(
    b"html head meta link base basefont bgsound title style script noscript noframes template"
    b" /title /style /script /noscript /noframes /template".split()
)
_RAW: Final = {  # elements whose content is no markup, and their ends
    name: re.compile(rb"</" + name + rb"(?=[\t\n\f\r />])", re.IGNORECASE)
    for name in (b"title", b"style", b"script", b"noframes")
}
_HIGH: Final = bytes(range(0x80, 0x100))


def sniff(body: bytes, content_type: str, *, markup: bool = True) -> str:
    """The encoding's canonical WHATWG name, lower case (`utf-8`, `windows-1252`).

    A text that is not `markup` is JSON, and UTF-8 whatever the header says (RFC 8259, section 8.1).
    """
    for mark, name in _BOMS:
        if body.startswith(mark):
            return name
    if not markup:
        return "utf-8"
    told = read_type(content_type).encoding or _prescan(body[:PRESCAN])
    if told is None and len(body) > PRESCAN:
        told = _late(body[:LATE])
    return told or _utf8_or_fallback(body)


def to_text(body: bytes, name: str) -> str:
    """Decode as the Encoding Standard's "decode" does: a byte order mark wins, and is dropped.

    Each error of the encoding's decoder becomes one U+FFFD.
    """
    for mark, marked in _BOMS:
        if body.startswith(mark):
            return decode(body[len(mark) :], marked)
    return decode(body, name)


def to_utf8(body: bytes, name: str) -> bytes:
    """The same text as UTF-8 bytes, for the parser; good UTF-8 is not copied."""
    if name == "utf-8" and not body.startswith(_BOMS[0][0]):
        with suppress(UnicodeDecodeError):
            body.decode()
            return body
    return to_text(body, name).encode()


def _prescan(head: bytes) -> str | None:
    """What the page's first bytes declare: the first <meta> that does, else its XML declaration."""
    for mark, name in _XML16:
        if head.startswith(mark):
            return name
    return _meta(head) or _xml(head)


def _meta(head: bytes) -> str | None:
    """The encoding of the first <meta> that names one; markup that is cut short ends the search."""
    at = 0
    while markup := _MARKUP.search(head, at):
        at = markup.end()
        if markup["open"] or markup["bogus"]:
            return None
        if not (markup["meta"] or markup["tag"]):
            continue
        attributes, at = _attributes(head, at)
        if at < 0:
            return None
        if markup["meta"] and (name := _from_meta(attributes)):
            return name
    return None


def _late(head: bytes) -> str | None:
    """What a <meta> behind the prescan declares, or a long XML declaration.

    A browser that meets such a <meta> parses the page again (HTML standard, "change the
    encoding"). The search ends with the first tag that does not belong into a head.
    """
    at = 0 if b"charset" in head.lower() else len(head)
    while markup := _HEAD.search(head, at):
        at = markup.end()
        if markup["open"] or markup["bogus"]:
            break
        if markup["tag"] is None:
            continue
        tag = markup["tag"].lower()
        if tag not in _OF_HEAD:
            break
        attributes, at = _attributes(head, at)
        if at < 0:
            break
        if tag == b"meta" and (name := _from_meta(attributes)):
            return name
        if tag in _RAW:
            if (end := _RAW[tag].search(head, at)) is None:
                break
            at = end.start()
    return _xml(head)


def _attributes(head: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    """A tag's attributes, the first of a name counting, and where it ends; -1 if it is cut off."""
    found: dict[bytes, bytes] = {}
    while attribute := _ATTRIBUTE.match(head, at):
        at = attribute.end()
        if attribute["end"]:
            return found, at
        if attribute["cut"] or at == len(head):
            break
        _, name, double, single, _, bare = attribute.groups()
        found.setdefault(name.lower(), double or single or bare or b"")
    return found, -1


def _from_meta(attributes: dict[bytes, bytes]) -> str | None:
    if b"charset" in attributes:
        return _readable(attributes[b"charset"])
    if attributes.get(b"http-equiv", b"").lower() == b"content-type":
        match = _IN_CONTENT.search(attributes.get(b"content", b""))
        return _readable(next(filter(None, match.groups()), b"")) if match else None
    return None


def _xml(head: bytes) -> str | None:
    match = _XML.match(head)
    name = encoding_of((match[1] or match[2] or b"").decode("latin-1")) if match else None
    return _NOT_16.get(name, name) if name else None


def _readable(label: bytes) -> str | None:
    """The encoding of a <meta>'s label."""
    name = encoding_of(label.decode("latin-1"))
    return FALLBACK if name == "x-user-defined" else _NOT_16.get(name or "", name)


def _utf8_or_fallback(body: bytes) -> str:
    """Undeclared: UTF-8 if every byte agrees, as browsers do for local files, or nearly every one.

    Malformed UTF-8 is still UTF-8 with SURE valid sequences for each error; else the fallback.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        errors = text.count("\ufffd") - body.count(b"\xef\xbf\xbd")
        valid = len(text) - len(body.translate(None, _HIGH)) - errors
        return "utf-8" if valid >= SURE * errors else FALLBACK
    return "utf-8"
