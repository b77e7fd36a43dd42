"""What is read off a parsed page: the text of a node, and where its references lead.

May touch: selectolax nodes that are handed in. Pure.
Must never: keep a node or a tree, or search with a stranger's selector.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from urllib.parse import urldefrag, urljoin, urlsplit

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

WEB: Final = ("http://", "https://")
_BELOW = re.compile(r"(?!\.)[\w.~%-]+(?:/(?!\.)[\w.~%-]+)*", re.ASCII)  # "page.html", "a/b"
_AROUND_A_URL: Final = "".join(map(chr, range(0x21)))  # URL standard: C0 controls and space


def text_of(node: LexborNode) -> str:
    """The text with each run of white space as one space, none at the ends."""
    return " ".join(node.text().split())


class Base:
    """The URL that a page's references start from. Its links share few targets: join each once."""

    def __init__(self, url: str) -> None:
        self._url = urldefrag(url).url
        self._folder = _absolute(self._url, ".")
        self._known: dict[str, str] = {}

    def resolve(self, reference: str) -> str:
        """`_absolute`, five times as fast."""
        reference = reference.strip(_AROUND_A_URL)
        if reference.endswith("#") or " " in reference or not reference.isprintable():
            return _absolute(self._url, reference)
        target, mark, fragment = reference.partition("#")
        url = self._known.get(target)
        if url is None:
            below = _BELOW.fullmatch(target)
            url = self._folder + target if below else _absolute(self._url, target)
            self._known[target] = url
        return url + mark + fragment


def _absolute(base: str, reference: str) -> str:
    """`reference` against `base`; one that can't be resolved comes back as written.

    Spaces in an http(s) URL are percent-encoded, so that a link can be the next job's `url`.
    """
    reference = reference.strip(_AROUND_A_URL)
    try:
        url = urljoin(base, reference)
    except ValueError:
        return reference
    if not url[:8].lower().startswith(WEB):
        return url
    scheme, _, rest = url.partition(":")
    return f"{scheme.lower()}:{rest}".replace(" ", "%20")


def document_base(tree: LexborHTMLParser, url: str) -> str:
    """The first `<base href>`, if it leads to the web (HTML standard, "frozen base URL")."""
    for node in tree.tags("base"):  # cheaper than a selector
        if "href" in (attributes := node.attributes):
            base = _absolute(url, attributes["href"] or "")
            return base if base.startswith(WEB) and _is_url(base) else url
    return url


def _is_url(url: str) -> bool:
    try:
        return bool(urlsplit(url).netloc)
    except ValueError:
        return False
