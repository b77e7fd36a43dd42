"""A feed's or sitemap's XML -> a tree, and what is read off it: text, HTML, URLs.

May touch: lxml, sniff, inflate. Pure.
Must never: read a document type (no entity, no DTD), do I/O, or parse what is past a bound.
"""

from __future__ import annotations

import html
import re
import sys
from contextlib import suppress
from html.entities import html5
from typing import TYPE_CHECKING, Final

from lxml import etree

from scraperd.base.inflate import Inflater, Undecodable
from scraperd.base.urls import MAX_URL
from scraperd.extract.encoding import sniff
from scraperd.extract.media.header import read_type
from scraperd.extract.nodes import WEB, Base

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

GZIP: Final = b"\x1f\x8b"
_MAX_ATTRIBUTES: Final = 100  # of an element that has some of a namespace
_HEAD: Final = 1024  # bytes that hold an XML declaration

_XML_BASE: Final = "{http://www.w3.org/XML/1998/namespace}base"
_PREFIXES: Final = {
    "http://purl.org/rss/1.0/": "",
    "http://my.netscape.com/rdf/simple/0.9/": "",
    "http://channel.netscape.com/rdf/simple/0.9/": "",
    "http://www.w3.org/2005/Atom": "atom:",
    "http://purl.org/dc/elements/1.1/": "dc:",
    "http://purl.org/dc/terms/": "dcterms:",
    "http://purl.org/rss/1.0/modules/content/": "content:",
    "http://www.itunes.com/dtds/podcast-1.0.dtd": "itunes:",
    "http://search.yahoo.com/mrss/": "media:",
    "http://search.yahoo.com/mrss": "media:",
    "http://www.w3.org/1999/xhtml": "xhtml:",
    "http://www.google.com/schemas/sitemap-image/1.1": "image:",
    "http://www.google.com/schemas/sitemap-news/0.9": "news:",
}

_ASCII = re.compile(rb"encoding\s*=\s*[\"'](?:us-)?ascii[\"']", re.IGNORECASE)
_DECLARATION = re.compile(rb"\s*(<\?xml[^>]*encoding[^>]*\?>)")
# What may come before the root element (XML 1.0, [22] prolog), and sloppily.
_PROLOG = re.compile(
    rb"\s*+(?:(?:<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[>]*+(?:\[.*?\]\s*+>|>))\s*+)*+",
    re.DOTALL | re.IGNORECASE,
)
# Ampersands of ill-formed XML and what they begin; CDATA is passed over.
_AMPERSAND = re.compile(
    r"<!\[CDATA\[(?:.*?\]\]>|.*)|&+(?=&)|&(#\d+;|#x[\da-fA-F]+;|\w+;)?", re.DOTALL | re.ASCII
)
_XML_NAMES: Final = frozenset({"amp;", "lt;", "gt;", "quot;", "apos;"})
_MAX_REFERENCE: Final = 8  # digits, more than the highest character has
_CONTROLS = dict.fromkeys({*range(0x20)} - {9, 10, 13} | {0xFFFE, 0xFFFF})  # XML 1.0, [2] Char
_ENTRIES: Final = frozenset({"item", "entry", "url", "sitemap"})
_LIMITS: Final = ("ERR_RESOURCE_LIMIT", "ERR_ENTITY_LOOP", "ERR_NO_MEMORY", "ERR_INTERNAL_ERROR")
_NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)  # of HTML's elements and attributes
_TAG = re.compile(r"</?[a-zA-Z!][^<>]*>")


class FeedError(Exception):
    """What the body is not, or which bound it is past. `reason` is one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def inflated(body: bytes, max_size: int) -> bytes:
    """The body; one that is gzip's (RFC 1952) undone. Raises FeedError past `max_size` bytes."""
    pieces = []
    size = 0
    inflater = Inflater("gzip")
    try:
        for piece in inflater.feed(body) if body.startswith(GZIP) else [body]:
            pieces.append(piece)
            size += len(piece)
            if size > max_size:
                raise FeedError(f"larger than {max_size} bytes")
    except Undecodable as error:
        raise FeedError(str(error)) from None
    if not inflater.ended:
        raise FeedError("gzip: the stream ends early")
    return b"".join(pieces)


def utf8(body: bytes, media: str) -> bytes:
    """The document as UTF-8, by RFC 7303 section 3: byte order mark, charset, XML declaration.

    One declared as ASCII that is UTF-8 is read as that.
    A document that has none of these and isn't UTF-8 is read as windows-1252.
    """
    declaration = _DECLARATION.match(body[:_HEAD])
    name = sniff.sniff(declaration[1] if declaration else body, media)
    if declaration and _ASCII.search(declaration[1]) and read_type(media).charset is None:
        with suppress(UnicodeDecodeError):
            body.decode()
            return body
    return sniff.to_utf8(body, name)


def without_prolog(document: bytes) -> bytes:
    """The document from its root element on; what a document type declares is gone."""
    prolog = _PROLOG.match(document)
    return document[prolog.end() :] if prolog else document


def parse(document: bytes) -> Element:
    """The root element of a document in UTF-8, with no prolog. Raises FeedError.

    Ill-formed XML is mended as far as that goes: what HTML would allow of ampersands and
    references, characters that XML forbids, tags that are not closed. What is past libxml2's
    own bounds (256 levels, 10 MB of text in one piece) is an error.
    """
    try:
        return etree.fromstring(document, _parser(recover=False))
    except etree.XMLSyntaxError:
        text = document.decode("utf-8", "replace").translate(_CONTROLS)
    parser = _parser(recover=True)
    try:
        root = etree.fromstring(_AMPERSAND.sub(_mended, text).encode(), parser)
    except (etree.XMLSyntaxError, ValueError):
        root = None
    for error in parser.error_log:
        if error.type_name in _LIMITS:
            raise FeedError(f"past a bound of the XML parser: {_line(error.message)}")
    if root is None:
        raise FeedError("not XML")
    return root


def _parser(*, recover: bool) -> etree.XMLParser:
    return etree.XMLParser(
        encoding="utf-8",
        recover=recover,
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        remove_comments=True,
        remove_pis=True,
    )


def _mended(match: re.Match[str]) -> str:
    if match[0][0] == "<":
        return match[0]
    if match[0][-1] == "&":
        return "&amp;" * len(match[0])
    name = match[1] or ""
    if name.startswith("#"):
        return match[0] if _is_character(name[1:-1]) else "\N{REPLACEMENT CHARACTER}"
    meant = html5.get(name) if name not in _XML_NAMES else None
    if meant:
        return "".join(f"&#{ord(it)};" for it in meant)
    return match[0] if name in _XML_NAMES else f"&amp;{name}"


def _is_character(number: str) -> bool:
    """Whether XML allows what `&#number;` means; libxml2 lets surrogates pass while it mends."""
    if len(number) > _MAX_REFERENCE:
        return False
    point = int(number[1:], 16) if number.startswith("x") else int(number)
    is_surrogate = 0xD800 <= point <= 0xDFFF  # noqa: PLR2004 - by the standard
    return 0 < point <= sys.maxunicode and not is_surrogate and point not in _CONTROLS


def _line(message: str) -> str:
    return " ".join(message.partition(", ")[0].split())[:100]


class Document:
    """A parsed document: its elements by name, and its URLs made absolute.

    `max_urls` bounds the characters of all URLs together: a long base makes many out of few.
    Past that or past `max_entries` its methods raise FeedError.
    """

    def __init__(self, root: Element, url: str, max_urls: int, max_entries: int) -> None:
        self.root = root
        self.max_entries = max_entries
        self._own = str(root.tag).rpartition("}")[0][1:]
        self._url = url
        self._bases: dict[tuple[str, ...], Base] = {}
        self._max_urls = max_urls
        self._urls = 0

    def children(self, element: Element) -> dict[str, list[Element]]:
        """The child elements by name: `title`, `dc:date`; those of unknown namespaces are not in.

        The root's namespace has no prefix, nor have elements of none, nor RSS 1.0's.
        """
        found: dict[str, list[Element]] = {}
        for child in element.iterchildren("*"):
            space, _, name = str(child.tag).rpartition("}")
            space = space[1:]
            prefix = "" if not space or space == self._own else _PREFIXES.get(space)
            if prefix is not None:
                named = found.setdefault(prefix + name, [])
                named.append(child)
                if len(named) > self.max_entries and prefix + name in _ENTRIES:
                    raise FeedError(f"more than {self.max_entries} entries")
        return found

    def url(self, element: Element, reference: str | None) -> str | None:
        """A reference in `element`, absolute by xml:base (W3C XML Base).

        None if it does not lead to http(s), or no job could have it as its URL.
        """
        if not reference or len(reference) > MAX_URL:
            return None
        url = self._base(element).resolve(reference)
        if url is None or not url.startswith(WEB):
            return None
        self._urls += len(url)
        if self._urls > self._max_urls:
            raise FeedError(f"its URLs take more than {self._max_urls} characters")
        return url

    def _base(self, element: Element) -> Base:
        here = element.get(_XML_BASE)
        above = [it.get(_XML_BASE) for it in element.iterancestors()]
        references = tuple(it for it in (here, *above) if it)
        base = self._bases.get(references)
        if base is None:
            base = Base(self._url)
            for reference in reversed(references):
                url = base.resolve(reference) if len(reference) <= MAX_URL else None
                if url is None:
                    base = Base("")  # what starts from there leads nowhere
                elif url.startswith(WEB):
                    base = Base(url)
            self._bases[references] = base
        return base


def local_name(element: Element) -> str:
    """The element's name without its namespace; while mending, libxml2 lets odd ones pass."""
    return str(element.tag).rpartition("}")[2]


def root_name(root: Element) -> str:
    """The root's name without its prefix, also one that is not declared."""
    return local_name(root).rpartition(":")[2]


def text_in(element: Element) -> str:
    """The text in and below an element, each run of white space as one space."""
    return " ".join("".join(element.itertext("*")).split())


def plain(markup: str) -> str:
    """The text of a short piece of HTML, such as a title: no tags, no character references."""
    text = _TAG.sub("", markup)
    with suppress(ValueError):  # for a reference of thousands of digits
        text = html.unescape(text)
    return " ".join(text.translate(_CONTROLS).split())


def markup_in(element: Element) -> str:
    """What an element holds, as HTML: its text is HTML already, elements in it are written as such.

    The one `div` of Atom's XHTML is not part of it (RFC 4287 section 3.1.1.3).
    """
    kids = list(element.iterchildren("*"))
    if not kids:
        return "".join(element.itertext("*")).strip()
    if len(kids) == 1 and local_name(kids[0]) == "div" and not (element.text or "").strip():
        element = kids[0]
    for below in element.iterdescendants("*"):
        name = local_name(below)
        below.tag = name if _NAME.fullmatch(name) else "span"
        if not all(map(_NAME.fullmatch, map(str, below.attrib))):  # HTML knows no namespace
            names = [it for it in map(str, below.attrib) if _NAME.fullmatch(it)][:_MAX_ATTRIBUTES]
            kept = {it: below.get(it, "") for it in names}  # each is a search, as is setting
            below.attrib.clear()
            below.attrib.update(kept)
    # On its own: each child would be written with all namespaces of its ancestors.
    apart = etree.Element("div")
    apart.text = element.text
    apart.extend(element.iterchildren("*"))
    etree.cleanup_namespaces(apart)
    written = etree.tostring(apart, encoding="unicode", method="html")
    return written[len("<div>") : -len("</div>")].strip()
