"""What the peers take from a page, by selectolax: each of them gives the same.

May touch: selectolax, urllib.
Must never: do what a user of these libraries would not write.
"""

from __future__ import annotations

import os
from urllib.parse import urljoin

from selectolax.lexbor import LexborHTMLParser

BODY = os.environ.get("BENCH_BODY") == "1"


def take(page: bytes, base: str) -> dict[str, object]:
    """Return the title and all links, absolute; and the page itself if the workload asks for it."""
    tree = LexborHTMLParser(page)
    title = tree.css_first("title")
    links = [urljoin(base, node.attributes["href"] or "") for node in tree.css("a[href]")]
    found: dict[str, object] = {"title": title.text() if title is not None else "", "links": links}
    return found | ({"body": page.decode()} if BODY else {})
