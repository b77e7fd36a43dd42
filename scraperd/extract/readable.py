"""The readable text of a page: its main content, without navigation, banners and footers.

May touch: trafilatura and lxml, loaded at the first call: they take 0.3 s and tens of megabytes.
Must never: raise for what a page holds, hand trafilatura bytes or a string (it guesses at those).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Final

AVAILABLE: Final = find_spec("trafilatura") is not None
"""Whether the optional extra `readable` is installed; without it `readable` raises ImportError."""


@cache
def warm_up() -> None:
    """Load, once, what the first page would have to wait for."""
    if AVAILABLE:
        readable(b"<p>x</p>")


def readable(page: bytes) -> str:
    """The main content of `page` (UTF-8 HTML) as text, "" if it has none.

    A line is a paragraph, a heading, a list item (`- item`), a line of preformatted text or a row
    of a table (`| one | two |`, `|---|---|` below its head). Markup, images, and comments of
    readers are left out. A page without an article (an index, a list of links) gives most of its
    text, or only some lines of it. Of a page that is nested deeper than 250 elements, or holds
    10 MB of text in one place (libxml2's limits), what comes before is read.
    Raises ImportError if the extra is not installed.
    """
    # Here and not above: only a process that is asked for text pays for the library.
    import logging  # noqa: PLC0415

    import trafilatura  # noqa: PLC0415
    from lxml import etree, html  # noqa: PLC0415

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it would quote the page
    # The encoding is known; what the page says of it is not read. trafilatura gets a tree, because
    # it would unpack and guess encodings of bytes, and refuses a page of one element.
    parser = html.HTMLParser(
        encoding="utf-8", collect_ids=False, remove_comments=True, remove_pis=True
    )
    try:
        tree = html.document_fromstring(page, parser=parser)
    except etree.LxmlError:  # nothing in it
        return ""
    text = trafilatura.extract(tree, include_comments=False, fast=True) or ""
    return "\n".join(line.rstrip() for line in text.split("\n"))
