"""What a page says of itself, and where it links to.

May touch: selectolax trees that are handed in. Pure.
Must never: keep a node or a tree, or raise for what a page holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET

from scraperd.contract import Link, Metadata
from scraperd.page.tree import WEB, text_of

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser

    from scraperd.page.tree import Base


def links_of(tree: LexborHTMLParser, base: Base) -> list[Link]:
    """Each hyperlink that leads to the web, in document order."""
    found = []
    for node in tree.css("a[href], area[href]"):
        attributes = node.attributes
        url = base.resolve(attributes["href"] or "")
        if url.startswith(WEB):
            found.append(Link(url, text_of(node), attributes.get("rel") or UNSET))
    return found


def metadata_of(tree: LexborHTMLParser, base: Base) -> Metadata:
    """What the page says of itself; a part it says nothing of is UNSET."""
    opengraph: dict[str, str] = {}
    for node in tree.css("meta[property^='og:']"):
        attributes = node.attributes
        opengraph.setdefault((attributes["property"] or "")[3:], attributes.get("content") or "")
    title = tree.css_first("title:not(svg title)")  # an icon has one too
    canonical = _attribute(tree, "link[rel~='canonical' i][href]", "href")
    return Metadata(
        title=text_of(title) if title is not None else UNSET,
        description=_attribute(tree, "meta[name='description' i]", "content") or UNSET,
        canonical=base.resolve(canonical) if canonical else UNSET,
        language=_attribute(tree, "html[lang]", "lang") or UNSET,
        opengraph=opengraph or UNSET,
    )


def _attribute(tree: LexborHTMLParser, selector: str, name: str) -> str | None:
    node = tree.css_first(selector)
    return node.attributes.get(name) if node is not None else None
