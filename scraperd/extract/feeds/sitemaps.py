"""Sitemaps (sitemaps.org protocol): of XML, their indexes, and plain lists of URLs -> data.

May touch: xml.py of this folder, nodes. Pure.
Must never: do I/O, or raise anything but FeedError for what a sitemap holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from scraperd.extract.feeds.xml import Document, FeedError, text_in
from scraperd.extract.nodes import WEB, usable
from scraperd.extract.values.dates import moment

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

_FREQUENCIES: Final = frozenset("always hourly daily weekly monthly yearly never".split())
_PRIORITY = re.compile(r"0?\.\d{1,9}|[01](?:\.\d{0,9})?", re.ASCII)
_MAX_LOCATIONS: Final = 5  # of one entry, which are looked at for one that can be fetched
_LINES: Final = re.compile(r"[\r\n]+")


def sitemap(document: Document) -> dict[str, Any]:
    """A `urlset` as data."""
    places = document.children(document.root).get("url", [])
    found = [_place(document, document.children(it)) for it in places]
    return _listed("sitemap", found)


def index(document: Document) -> dict[str, Any]:
    """A `sitemapindex` as data."""
    places = document.children(document.root).get("sitemap", [])
    found = [_location(document, document.children(it)) for it in places]
    return _listed("sitemapindex", found)


def _listed(kind: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    """The entries with a URL, and how many had none that a job could have, if any."""
    entries = [it for it in found if it]
    skipped = len(found) - len(entries)
    return {"type": kind} | ({"skipped": skipped} if skipped else {}) | {"entries": entries}


def lines(text: str) -> list[str]:
    """The lines of a plain text sitemap; none unless each is an http(s) URL."""
    found = [line.strip() for line in _LINES.split(text) if line.strip()]
    return found if all(it.startswith(WEB) and len(it.split()) == 1 for it in found) else []


def plain_sitemap(found: list[str], max_entries: int) -> dict[str, Any]:
    """A list of URLs as data, without those no job could have. FeedError past `max_entries`."""
    if len(found) > max_entries:
        raise FeedError(f"more than {max_entries} entries")
    return _listed("sitemap", [{"url": url} if usable(url) else {} for url in found])


def _location(document: Document, parts: dict[str, list[Element]]) -> dict[str, Any]:
    """Nothing if it has no URL that can be fetched."""
    locations = (document.url(it, text_in(it)) for it in parts.get("loc", [])[:_MAX_LOCATIONS])
    url = next(filter(None, locations), None)
    if url is None:
        return {}
    updated = [moment(text_in(it)) for it in parts.get("lastmod", [])[:1]]
    return {"url": url} | ({"updated": updated[0]} if updated and updated[0] else {})


def _place(document: Document, parts: dict[str, list[Element]]) -> dict[str, Any]:
    place = _location(document, parts)
    if not place:
        return {}
    for it in parts.get("changefreq", [])[:1]:
        if (often := text_in(it).lower()) in _FREQUENCIES:
            place["changefreq"] = often
    for it in parts.get("priority", [])[:1]:
        if _PRIORITY.fullmatch(text := text_in(it)) and (priority := float(text)) <= 1:
            place["priority"] = priority
    alternates = [_alternate(document, it) for it in parts.get("xhtml:link", [])]
    images = [_image(document, it) for it in parts.get("image:image", [])]
    news = [_news(document, it) for it in parts.get("news:news", [])[:1]]
    return (
        place
        | ({"alternates": kept} if (kept := [it for it in alternates if it]) else {})
        | ({"images": kept} if (kept := [it for it in images if it]) else {})
        | ({"news": news[0]} if news and news[0] else {})
    )


def _alternate(document: Document, link: Element) -> dict[str, str]:
    language = link.get("hreflang", "").strip()
    url = document.url(link, link.get("href"))
    is_one = link.get("rel", "").strip().lower() == "alternate" and language and url
    return {"url": url, "language": language} if is_one and url else {}


def _image(document: Document, image: Element) -> dict[str, str]:
    for location in document.children(image).get("image:loc", [])[:1]:
        if url := document.url(location, text_in(location)):
            return {"url": url}
    return {}


def _news(document: Document, news: Element) -> dict[str, str]:
    parts = document.children(news)
    found: dict[str, str] = {}
    for it in parts.get("news:title", [])[:1]:
        found["title"] = text_in(it)
    for it in parts.get("news:publication_date", [])[:1]:
        found["published"] = moment(text_in(it)) or ""
    for it in parts.get("news:publication", [])[:1]:
        inner = document.children(it)
        found |= {key[5:]: text_in(of[0]) for key, of in inner.items() if key in _PUBLICATION}
    renamed = {("publication" if key == "name" else key): value for key, value in found.items()}
    return {key: value for key, value in renamed.items() if value}


_PUBLICATION: Final = ("news:name", "news:language")
