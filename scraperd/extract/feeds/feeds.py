"""Feeds and sitemaps -> data: RSS 0.9x, 1.0 and 2.0, Atom 0.3 and 1.0, sitemaps; gzipped or not.

May touch: xml.py and sitemaps.py of this folder, inflate. Pure.
Must never: do I/O, read a clock, or raise anything but FeedError for what a body holds.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any, Final

from scraperd.base.inflate import Inflater, Undecodable
from scraperd.base.text import printable
from scraperd.extract.feeds import sitemaps
from scraperd.extract.feeds.xml import (
    GZIP,
    Document,
    FeedError,
    inflated,
    markup_in,
    parse,
    plain,
    root_name,
    text_in,
    utf8,
    without_prolog,
)
from scraperd.extract.media.header import read_type
from scraperd.extract.nodes import WEB
from scraperd.extract.values.dates import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lxml.etree import _Element as Element

__all__ = ["FeedError", "feed", "is_feed"]

MAX_SIZE: Final = 50 * 1024 * 1024  # bytes; what the sitemap protocol allows
MAX_ENTRIES: Final = 50_000  # the same

_HEAD: Final = 2048  # bytes that `is_feed` looks at
_MEDIA: Final = frozenset({"application/rss+xml", "application/atom+xml"})
_FAR_HEAD: Final = 64 * 1024  # bytes that it looks at behind a long comment or document type
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_OF_WARNINGS: Final = frozenset({b"br", b"b", b"p", b"pre", b"font"})  # as PHP writes them
_LATE_DECLARED = re.compile(rb"<\?xml\s[^<>]*\?>", re.IGNORECASE)
_LATE = re.compile(
    rb"<\?xml\s[^<>]*\?>|<(?:rss|feed|urlset|sitemapindex|rdf:rdf)(?=[\s>])", re.IGNORECASE
)
_ROOT = re.compile(rb"<(?:[\w.-]+:)?([\w.-]+)(?=[\s/>])")
_HTML = re.compile(  # how nearly all pages begin; they need no closer look
    rb"\s*(?:<\?xml[^<>]*>\s*)?(?:<!doctype html[^<>\[]*>\s*)?<html[\s>]", re.IGNORECASE
)
_XML_LANG: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_RDF_ABOUT: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}about"
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)
_RELATIONS: Final = "http://www.iana.org/assignments/relation/"
_TEXTS: Final = frozenset({"", "text", "text/plain"})


def is_feed(body: bytes, media: str) -> bool:
    """Whether `feed` is worth a try: by the root element's name, or else the Content-Type.

    Looks at 2 kB, inflated if they are gzip's; at 64 kB if the root is not there yet.
    """
    if read_type(media).essence == "text/html" and _HTML.match(body[:_HEAD]):
        return False
    near = _is_begun(body, media, _HEAD)
    return bool(_is_begun(body, media, _FAR_HEAD) if near is None else near)


def _is_begun(body: bytes, media: str, most: int) -> bool | None:
    """Whether the first bytes are those of a feed; None if the root comes later, if at all."""
    gzipped = body.startswith(GZIP)
    try:
        head = _unpacked(body, most) if gzipped else body[:most]
    except Undecodable:
        return False
    mime = read_type(media).essence
    document = without_prolog(utf8(head, media))
    cut = len(head) == most  # its last line, too
    if cut and most < _FAR_HEAD and (not document or document.startswith((b"<!", b"<?"))):
        return None
    document = _from_root(document, mime)
    if root := _ROOT.match(document):
        return root[1].decode().lower() in _READERS
    text = document.decode("utf-8", "replace")
    listed = text.lstrip().startswith(WEB) and (gzipped or mime not in _PAGES)
    if listed and sitemaps.lines(text.rpartition("\n")[0] if cut else text):
        return True
    return mime in _MEDIA and (cut or not document)


def _unpacked(body: bytes, most: int) -> bytes:
    """The first `most` bytes of what gzip packed. Raises Undecodable."""
    head = b""
    for piece in Inflater("gzip").feed(body[:most]):
        head += piece
        if len(head) >= most:
            break
    return head[:most]


def _from_root(document: bytes, mime: str) -> bytes:
    """The document from a feed's root on, where a script's warnings stand in front of it.

    In what is said to be HTML, only behind an XML declaration.
    """
    first = _ROOT.match(document)
    is_xml = mime.endswith("xml") or mime in _PAGES or not (mime or document[:1] in b"{[")
    if not is_xml or (first and first[1].lower() not in _OF_WARNINGS):
        return document
    late = (_LATE_DECLARED if mime in _PAGES else _LATE).search(document[:_FAR_HEAD])
    if late is None:
        return document
    begun = without_prolog(document[late.start() :])
    root = _ROOT.match(begun)
    return begun if root and root[1].decode().lower() in _READERS else document


def feed(
    body: bytes, *, media: str, base: str, max_size: int = MAX_SIZE, max_entries: int = MAX_ENTRIES
) -> dict[str, Any]:
    """A feed or a sitemap as data that JSON can hold. Raises FeedError, also past a bound.

    `media` is the Content-Type header's value, which may be empty or wrong; `base` is the URL
    the body came from; `max_size` counts bytes after decompression. What the document doesn't
    say, or says in no readable way, is absent. Titles are plain text. `description`, `summary`
    and `content` are HTML as the feed has it: NOT sanitised, its references not resolved.
    """
    document = utf8(inflated(body, max_size), media)
    is_page = read_type(media).essence in _PAGES and not body.startswith(GZIP)
    if not is_page and not document.lstrip().startswith(b"<"):
        if found := sitemaps.lines(document.decode("utf-8", "replace")):
            return sitemaps.plain_sitemap(found, max_entries)
        if read_type(media).essence == "text/plain":
            raise FeedError("text, but not a URL in each line")
    root = parse(_from_root(without_prolog(document), read_type(media).essence))
    name = root_name(root)
    reader = _READERS.get(name.lower())
    if reader is None:
        raise FeedError(f"no feed: the root element is {printable(name, 60)}")
    return reader(Document(root, base, max_size, max_entries))


class _Parts:
    """The child elements of a feed or an entry, and how its fields are read."""

    def __init__(self, document: Document, element: Element) -> None:
        self.document = document
        self.element = element
        self._by_name = document.children(element)

    def all(self, names: str) -> list[Element]:
        return [it for name in names.split() for it in self._by_name.get(name, ())]

    def first(self, names: str, read: Callable[[Element], str | None]) -> str | None:
        """What `read` makes of the first element, by the names' order, of which it makes any."""
        return next(filter(None, (read(it) for it in self.all(names))), None)

    def text(self, names: str) -> str | None:
        return self.first(names, text_in)

    def date(self, names: str) -> str | None:
        return self.first(names, lambda it: moment(text_in(it)))

    def page(self) -> str | None:
        """Where Atom's links say that the HTML is (RFC 4287 section 4.2.7.2)."""
        links = [it for it in self.all("link atom:link") if _relation(it) == "alternate"]
        links.sort(key=lambda it: it.get("type", "text/html").strip().lower() != "text/html")
        urls = (self.document.url(it, it.get("href")) for it in links)
        return next(filter(None, urls), None)


def _relation(link: Element) -> str:
    """The relation's name: RFC 4287 section 4.2.7.2 makes an IRI of a name and the other way."""
    return link.get("rel", "alternate").strip().lower().removeprefix(_RELATIONS)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def _unique(texts: Iterable[str]) -> list[str]:
    return [it for it in dict.fromkeys(texts) if it]


def _rss(document: Document) -> dict[str, Any]:
    """RSS 0.9x and 2.0 (https://www.rssboard.org/rss-specification) and RSS 1.0."""
    root = document.root
    top = _Parts(document, root)
    channel = _Parts(document, next(iter(top.all("channel")), root))
    is_rdf = root_name(root).lower() == "rdf"
    items = channel.all("item") + (top.all("item") if channel.element is not root else [])
    if len(items) > document.max_entries:
        raise FeedError(f"more than {document.max_entries} entries")
    if not items and channel.element is root:
        raise FeedError("no feed: it has neither a channel nor an item")
    about = {
        "title": channel.first("title", _rss_title),
        "url": _rss_link(channel),
        "description": channel.first("description itunes:summary", markup_in),
        "language": channel.text("language dc:language") or root.get(_XML_LANG),
        "author": channel.text("managingEditor dc:creator itunes:author"),
        "updated": channel.date("lastBuildDate pubDate dc:date atom:updated"),
    }
    entries = [_item(_Parts(document, it)) for it in items]
    return {"type": "rdf" if is_rdf else "rss"} | _known(about) | {"entries": entries}


def _item(item: _Parts) -> dict[str, Any]:
    enclosures = [
        _enclosure(item.document, it, it.get("url"), it.get("fileSize"))
        for it in item.all("enclosure media:content")
    ]
    for group in item.all("media:group"):
        media = item.document.children(group).get("media:content", [])
        enclosures += [
            _enclosure(item.document, it, it.get("url"), it.get("fileSize")) for it in media
        ]
    return _known(
        {
            "id": item.text("guid atom:id") or item.element.get(_RDF_ABOUT),
            "url": _rss_link(item) or item.first("guid", lambda it: _permalink(item, it)),
            "title": item.first("title media:title", _rss_title),
            "summary": item.first("description atom:summary itunes:summary", markup_in),
            "content": item.first("content:encoded", markup_in),
            "author": item.text("author dc:creator itunes:author"),
            "published": item.date("pubDate dc:date dcterms:issued"),
            "updated": item.date("atom:updated dcterms:modified"),
            "categories": _unique(text_in(it) for it in item.all("category dc:subject")),
            "enclosures": _distinct(enclosures),
        }
    )


def _rss_title(title: Element) -> str:
    """RSS doesn't say whether a title is text or HTML; one that may be HTML is taken as that."""
    return plain("".join(title.itertext("*")))


def _rss_link(parts: _Parts) -> str | None:
    url = parts.first("link", lambda it: parts.document.url(it, text_in(it)))
    return url or parts.page()


def _permalink(item: _Parts, guid: Element) -> str | None:
    if guid.get("isPermaLink", "true").strip().lower() == "false":
        return None
    reference = text_in(guid)
    return item.document.url(guid, reference) if ":" in reference else None


def _enclosure(
    document: Document, element: Element, reference: str | None, size: str | None
) -> dict[str, Any]:
    url = document.url(element, reference)
    length = (element.get("length") or size or "").strip()
    kind = element.get("type", "").strip()
    number = int(length) if _LENGTH.fullmatch(length) else None
    return _known({"url": url, "type": kind, "length": number}) if url else {}


def _distinct(enclosures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each URL once: Media RSS often says again what `enclosure` said."""
    by_url: dict[str, dict[str, Any]] = {}
    for it in enclosures:
        if it:
            by_url.setdefault(it["url"], it)
    return list(by_url.values())


def _atom(document: Document) -> dict[str, Any]:
    """Atom 1.0 (RFC 4287), and 0.3, whose names differ."""
    top = _Parts(document, document.root)
    about = {
        "title": top.first("title", _atom_text),
        "url": top.page(),
        "description": top.first("subtitle tagline", _atom_markup),
        "language": document.root.get(_XML_LANG) or top.text("dc:language"),
        "author": _atom_author(top),
        "updated": top.date("updated modified"),
    }
    entries = [_entry(_Parts(document, it)) for it in top.all("entry")]
    return {"type": "atom"} | _known(about) | {"entries": entries}


def _entry(entry: _Parts) -> dict[str, Any]:
    links = [it for it in entry.all("link") if _relation(it) == "enclosure"]
    enclosures = [_enclosure(entry.document, it, it.get("href"), None) for it in links]
    categories = [it.get("term", "").strip() for it in entry.all("category")]
    categories += [text_in(it) for it in entry.all("dc:subject")]
    return _known(
        {
            "id": entry.text("id"),
            "url": entry.page(),
            "title": entry.first("title", _atom_text),
            "summary": entry.first("summary", _atom_markup),
            "content": entry.first("content", _atom_markup),
            "author": _atom_author(entry),
            "published": entry.date("published issued created"),
            "updated": entry.date("updated modified"),
            "categories": _unique(categories),
            "enclosures": _distinct(enclosures),
        }
    )


def _atom_author(parts: _Parts) -> str | None:
    for author in parts.all("author"):
        names = parts.document.children(author)
        for it in [*names.get("name", []), *names.get("email", [])]:
            if text := text_in(it):
                return text
    return parts.text("dc:creator")


def _kind(element: Element) -> str:
    return element.get("type", "").strip().lower()


def _is_text(element: Element) -> bool:
    """Whether it holds text or markup, rather than other data in base64 or elsewhere."""
    kind = _kind(element)
    is_base64 = element.get("mode", "").strip().lower() == "base64"  # Atom 0.3
    is_one = kind in _TEXTS or kind.endswith(("html", "xml")) or kind.startswith("text/")
    return is_one and not is_base64 and not element.get("src")


def _atom_text(element: Element) -> str | None:
    """A text construct (RFC 4287 section 3.1) as plain text."""
    if not _is_text(element):
        return None
    is_html = _kind(element).endswith("html") and element.find("*") is None
    return plain("".join(element.itertext("*"))) if is_html else text_in(element)


def _atom_markup(element: Element) -> str | None:
    """A text construct or content (RFC 4287 section 4.1.3.3) as HTML; None if it is neither."""
    if not _is_text(element):
        return None
    if element.find("*") is None and _kind(element) in _TEXTS:
        return html.escape("".join(element.itertext("*")).strip(), quote=False)
    return markup_in(element)


_READERS: Final[dict[str, Callable[[Document], dict[str, Any]]]] = {
    "rss": _rss,
    "rdf": _rss,
    "feed": _atom,
    "urlset": sitemaps.sitemap,
    "sitemapindex": sitemaps.index,
}
