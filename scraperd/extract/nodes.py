"""What is read off a parsed page: the text of a node, and where its references lead.

May touch: nodes that are handed in, the contract's judge of URLs. Pure.
Must never: keep a node or a tree, or search with an untrusted selector.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from scraperd.base.urls import MAX_URL, check_url, host_as_dialled, join
from scraperd.extract.encoding.encoders import query_encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scraperd.extract.compiled.engine import Node, Tree

WEB: Final = ("http://", "https://")
_BELOW = (
    re.compile(  # "page.html", "a/b": no segment begins with a dot, or with one that is encoded
        r"(?!\.|%2[Ee])[\w.~%-]+(?:/(?!\.|%2[Ee])[\w.~%-]+)*", re.ASCII
    )
)
_FRAGMENT = re.compile(r"[!#-;=?-_a-~]*")  # what browsers leave as it is
_PLAIN_URL = re.compile(r"[!-~]+")
_PLAIN_PAGE = re.compile(  # up to the last slash of its path, whose segments don't begin with a dot
    r"(?P<site>https?://[a-z0-9_.-]+/)(?:(?!\.|%2[Ee])[\w.~%-]+/)*", re.ASCII
)
_QUERY = re.compile(  # and a file's name
    r"(?:(?!\.|%2[Ee])[\w.~%-]+)?(?:\?[\w.~%=&+/-]+)?", re.ASCII
)
_AROUND_A_URL: Final = "".join(map(chr, range(0x21)))  # URL standard: C0 controls and space


NODES: Final = 4  # of a text for each call of `spend`: some microseconds


def free(_: int = 1) -> None:
    """Do nothing: any number of nodes may be looked at."""


# HTML standard, "Rendering" (sections "Flow content" to "Form controls"): what is displayed as a
# block, a list item, a table or a part of one, and `option`; `br`; and `text`, an SVG's label.
PARTING: Final = frozenset(
    "address article aside blockquote body br caption center dd details dialog dir div dl dt"
    " fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li"
    " listing main menu nav ol optgroup option p plaintext pre search section summary table tbody"
    " td text tfoot th thead tr ul xmp".split()
)
# What is in these is source: code, or markup for browsers that can't do better.
SOURCE: Final = frozenset("script style template iframe noembed noframes -comment".split())


def text_of(node: Node, spend: Callable[[], object] = free) -> str:
    """The text inside `node` as a person reads it, on one line.

    A run of white space (as `str.split` sees it: Unicode's, no-break spaces too) is one space,
    and none is at the ends. Line breaks, the edges of blocks, list items, options, table cells and
    rows part words too; other elements do not: `a<b>b</b><br>c` is "ab c". What is in a script,
    style, template, frame or comment is not text, unless `node` itself is that element: then it is
    its source (a template's can't be reached). CSS, `hidden` and other states are not looked at.
    `spend` is called for each `NODES` nodes that are looked at, or for each 256 of a compiled tree,
    and may raise.
    """
    if not isinstance(node, LexborNode):
        return node.words(spend)
    within, seen = node, 0
    while (child := within.first_child) is not None and child.next is None:
        seen += 1
        if seen % NODES == 0:
            spend()
        if child.is_text_node:  # nearly all links end here
            return " ".join((child.text_content or "").split())
        if child.tag in SOURCE:
            return ""
        within = child
    return " ".join("".join(_pieces(within, spend)).split()) if child is not None else ""


def _pieces(node: LexborNode, spend: Callable[[], object]) -> Iterator[str]:
    """Texts in document order, and a space at each end of what parts words."""
    seen = 0
    opened = [(node.iter(include_text=True), "")]  # not by recursion: pages nest without bound
    while opened:
        children, edge = opened[-1]
        for child in children:
            seen += 1
            if seen % NODES == 0:
                spend()
            tag = child.tag
            if tag == "-text":
                yield child.text_content or ""
            elif tag not in SOURCE:
                edge = " " if tag in PARTING else ""
                yield edge
                opened.append((child.iter(include_text=True), edge))
                break
        else:
            yield edge
            opened.pop()


class Base:
    """The URL that a page's references start from. Its links share few targets: join each once.

    `encoding` is that of an HTML page: its references have their queries in it.
    """

    def __init__(self, url: str, encoding: str = "utf-8") -> None:
        self._encode = query_encoder(encoding)
        self._known: dict[str, str] = {}  # empty: of no use
        self.parts: tuple[bytes, bytes, bytes, int] | None
        """What a compiled tree needs to resolve plain references: page, folder, site, MAX_URL."""
        page, plain = url.partition("#")[0], _PLAIN_PAGE.match(url)
        if (
            plain
            and _QUERY.fullmatch(page, plain.end())
            and host_as_dialled(host := plain["site"].split("/")[2]) == host
            and check_url(page) is None
        ):
            self._url, self._folder, self._site = page, plain[0], plain["site"]
            self.parts = page.encode(), self._folder.encode(), self._site.encode(), MAX_URL
            return  # nothing in it has to be resolved
        self._url = url
        self._folder = join(url, ".") or ""
        sound = self._folder.startswith(WEB) and check_url(self._folder) is None
        self._site = "/".join(self._folder.split("/", 3)[:3]) + "/" if sound else "\n"
        self.parts = self._parts() if sound else None

    def _parts(self) -> tuple[bytes, bytes, bytes, int] | None:
        here = (join(self._url, "") or "").partition("#")[0]
        page = here if usable(here) else ""
        return page.encode(), self._folder.encode(), self._site.encode(), MAX_URL

    def resolve(self, reference: str) -> str | None:
        """Where a reference leads, as browsers say (`base.urls.join`); None if it leads nowhere.

        It leads nowhere if it is no URL, or one of http or https that no job could have.
        """
        reference = reference.strip(_AROUND_A_URL)
        target, mark, fragment = reference.partition("#")
        if not target or target[-1] in _AROUND_A_URL or not _FRAGMENT.fullmatch(fragment):
            return self._joined(reference)  # a space before "#" is not around a URL
        url = self._known.get(target)
        if url is None:
            below = self._folder and _BELOW.fullmatch(target)
            found = self._usable(self._folder + target) if below else self._joined(target)
            url = self._known[target] = found or ""
        if not mark or not url:
            return url or None
        url += mark + fragment
        return url if len(url) <= MAX_URL else usable(url)

    def _joined(self, reference: str) -> str | None:
        url = join(self._url, reference, self._encode)
        return None if url is None else self._usable(url)

    def _usable(self, url: str) -> str | None:
        """`usable`, for what browsers have written: on a known site little is left to look at."""
        return url if url.startswith(self._site) and len(url) <= MAX_URL else usable(url)


def usable(url: str) -> str | None:
    """`url` as it is; None if it is of http or https and no job could have it (`check_url`)."""
    return None if url[:8].lower().startswith(WEB) and check_url(url) is not None else url


_MAX_BASES: Final = 100  # that are looked at for one that counts
_FOREIGN: Final = frozenset({"svg", "math"})
# HTML standard, "HTML integration point" and "MathML text integration point": HTML inside of them.
_INTEGRATION: Final = frozenset("foreignobject desc title annotation-xml mi mo mn ms mtext".split())


def is_html(node: Node, spend: Callable[[int], object] = free) -> bool:
    """Whether an element named like HTML's is one, and not SVG's or MathML's of that name."""
    above = node.parent
    while above is not None:
        spend(1)
        tag = (above.tag or "").lower()
        if tag in _FOREIGN or tag in _INTEGRATION:
            return tag in _INTEGRATION
        above = above.parent
    return True


def document_base(tree: Tree, page: bytes, url: str, encoding: str = "utf-8") -> str:
    """The first `<base href>`, if it leads to the web (HTML standard, "frozen base URL").

    `page` is what the tree was parsed from: without `<base` in it there is no such element, and to
    look for one in the tree takes long. A compiled tree knows how many it has. `encoding` is the
    document's, as in `Base`.
    """
    if not (b"<base" in page.lower() if isinstance(tree, LexborHTMLParser) else tree.bases):
        return url
    for node in tree.tags("base")[:_MAX_BASES]:  # cheaper than a selector
        if "href" in (attributes := node.attributes) and is_html(node):
            base = join(url, attributes["href"] or "", query_encoder(encoding))
            return base if base and base.startswith(WEB) else url
    return url
