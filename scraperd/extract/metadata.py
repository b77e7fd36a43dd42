"""What a page says of itself, and where it links to.

May touch: trees that are handed in. Pure.
Must never: keep a node or a tree, or raise for what a page holds.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET

from scraperd.contract import Link, Metadata, Refresh
from scraperd.extract.compiled.engine import links_in
from scraperd.extract.nodes import WEB, free, is_html, text_of, usable
from scraperd.extract.values.jsonld import values_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scraperd.extract.compiled.engine import Node, Tree
    from scraperd.extract.nodes import Base

# JSON-LD nested deeper is left out: Python versions differ in what they can decode and encode.
MAX_NESTING: Final = 100

_MAX_TITLES: Final = 20  # that are looked at for one that is not empty
_JSON_STEP: Final = 32  # characters of JSON that take some microseconds at worst
_ASCII_SPACE: Final = "\t\n\f\r "
_SPACE = re.compile(f"[{_ASCII_SPACE}]")
_HOLDS_A_URL = re.compile(r"(?:^|:)(?:url|secure_url|image|video|audio|player|src|stream)$")
MAX_DELAY: Final = 2**31 - 1  # seconds of a refresh; a longer one is told as this
_DIGITS: Final = 10  # of it
_DELAY = re.compile(rf"[{_ASCII_SPACE}]*(?:(?P<delay>[0-9]+)|(?=\.))[0-9.]*")
_BEFORE_URL: Final = f";,{_ASCII_SPACE}"
_URL_IS = re.compile(rf"url[{_ASCII_SPACE}]*=[{_ASCII_SPACE}]*", re.IGNORECASE)
_TYPES: Final = frozenset({"canonical", "icon", "apple-touch-icon"})


def links_of(
    tree: Tree, base: Base, take: Callable[[int], object], spend: Callable[[], object]
) -> list[Link]:
    """Each hyperlink that leads to the web, in document order.

    `take` is told the length of each, `spend` as in `text_of`; both may raise.
    """
    found = []
    for node, url, rel in links_in(tree, base):
        spend()
        if url is not None and url.startswith(WEB):
            text = text_of(node, spend)
            take(len(url) + len(text))
            found.append(Link(url, text, rel or UNSET))
    return found


def metadata_of(
    tree: Tree, base: Base, spend: Callable[[int], object] = free, *, url: str = ""
) -> Metadata:
    """What the page says of itself, the first of each; a part it says nothing of is UNSET.

    `language`: the root's `lang`, or else the last `content-language` pragma (HTML standard, "The
    lang and xml:lang attributes"). `favicon`: the first link of type `icon`, or else of type
    `apple-touch-icon`, that leads to the web. `opengraph`: `meta property="og:*"` without the
    prefix (ogp.me), also as `name`. `twitter`: the same for `twitter:*`. An empty one of these, or
    an empty title or description, gives way to the next. A URL of http or https that no job could
    have is left out everywhere, and the next one counts. `json_ld`: each object of each
    `application/ld+json` script, an array's one by one (JSON-LD 1.1, "Embedding JSON-LD in HTML
    Documents"), as `jsonld.values_in` reads the script; one nested too deeply is left out.
    `refresh`: the first `meta http-equiv=refresh` that browsers obey; without a target it is that
    of `url`, the page's own. `spend` is told of pieces of work of some microseconds, and may raise.
    """
    title = _title_text(tree, spend)
    meta = _Meta(tree, base, url, spend)
    links = _links(tree, base, spend)
    return Metadata(
        title=UNSET if title is None else title,
        description=meta.description or UNSET,
        canonical=links.get("canonical") or UNSET,
        refresh=meta.refresh or UNSET,
        language=_language(tree, meta.language) or UNSET,
        favicon=links.get("icon") or links.get("apple-touch-icon") or UNSET,
        opengraph=meta.opengraph or UNSET,
        twitter=meta.twitter or UNSET,
        json_ld=_json_ld(tree, spend) or UNSET,
    )


class _Meta:
    """What the `meta` elements say."""

    def __init__(self, tree: Tree, base: Base, url: str, spend: Callable[[int], object]) -> None:
        self._base = base
        self._url = url
        self.refresh: Refresh | None = None
        self.description = ""
        self.language = ""
        self.opengraph: dict[str, str] = {}
        self.twitter: dict[str, str] = {}
        nodes: Sequence[Node] = tree.tags("meta")
        for node in nodes:
            spend(1)
            attributes = node.attributes
            content = attributes.get("content") or ""
            self._read(attributes, content)
            pragma = (attributes.get("http-equiv") or "").lower()
            if pragma == "refresh" and self.refresh is None and is_html(node, spend):
                self.refresh = _refresh(content, base, url)

    def _read(self, attributes: dict[str, str | None], content: str) -> None:
        name = attributes.get("name") or ""
        about = attributes.get("property") or ""
        for key in (about, name):
            if key.startswith("og:"):
                self._keep(self.opengraph, key[3:], content)
            elif key.startswith("twitter:"):
                self._keep(self.twitter, key[8:], content)
        if not self.description.strip() and "description" in (name.lower(), about.lower()):
            self.description = content.strip(_ASCII_SPACE) and content
        if (attributes.get("http-equiv") or "").lower() == "content-language":
            words = _SPACE.split(content.strip(_ASCII_SPACE), 1)
            if "," not in content and words[0]:
                self.language = words[0]

    def _keep(self, found: dict[str, str], name: str, content: str) -> None:
        """The first of each name that is not empty. As written, but for a URL no job could have."""
        if _HOLDS_A_URL.search(name) and usable(content.strip(_ASCII_SPACE)) is None:
            mended = self._base.resolve(content)
            if mended is None:
                return
            content = mended
        if not found.get(name, "").strip():
            found[name] = content


def _refresh(content: str, base: Base, page: str) -> Refresh | None:
    """Read a refresh as browsers do (HTML standard, "shared declarative refresh steps").

    None if they ignore it, as they do if its URL is none, or runs a script.
    """
    match = _DELAY.match(content)
    if match is None:
        return None
    digits = (match["delay"] or "").lstrip("0") or "0"
    delay = MAX_DELAY if len(digits) > _DIGITS else min(int(digits), MAX_DELAY)
    rest = content[match.end() :]
    if rest and rest[0] not in _BEFORE_URL:
        return None
    rest = rest.lstrip(_ASCII_SPACE)
    rest = (rest[1:] if rest[:1] in (";", ",") else rest).lstrip(_ASCII_SPACE)
    if not rest:
        return Refresh(delay, page) if page else None
    url = base.resolve(_target(rest))
    return None if url is None or url.startswith("javascript:") else Refresh(delay, url)


def _target(text: str) -> str:
    """The URL behind a refresh's delay, out of `url=` and out of quotes."""
    if named := _URL_IS.match(text):
        text = text[named.end() :]
    elif text[0] in "uU":
        return text
    quote = text[:1]
    return text[1:].partition(quote)[0] if quote in ("'", '"') else text


def _links(tree: Tree, base: Base, spend: Callable[[int], object]) -> dict[str, str]:
    """Where the first `link` of each type leads; icons only if they are on the web."""
    found: dict[str, str] = {}
    nodes: Sequence[Node] = tree.tags("link")
    for node in nodes:
        spend(1)
        attributes = node.attributes
        if (href := attributes.get("href")) and is_html(node, spend):
            for kind in _TYPES.intersection((attributes.get("rel") or "").lower().split()):
                if kind not in found:
                    url = base.resolve(href)
                    if url is not None and (kind == "canonical" or url.startswith(WEB)):
                        found[kind] = url
    return found


def _title_text(tree: Tree, spend: Callable[[int], object]) -> str | None:
    """The text of the first title; if that is empty, of the first that is not."""
    title = _title(tree, spend)
    if title is None or (text := text_of(title)):
        return None if title is None else text
    others: Sequence[Node] = tree.tags("title")
    texts = (text_of(it) for it in others[:_MAX_TITLES] if is_html(it, spend))
    return next(filter(None, texts), "")


def _title(tree: Tree, spend: Callable[[int], object]) -> Node | None:
    """The first `title` that is not an image's or a formula's own."""
    first = tree.css_first("title")
    if first is None or (first.parent is not None and first.parent.tag == "head"):
        return first
    root = tree.root
    opened = [root.iter()] if root is not None else []
    while opened:
        spend(1)
        for child in opened[-1]:
            tag = child.tag
            if tag == "title":
                return child
            if tag not in ("svg", "math"):
                opened.append(child.iter())
                break
        else:
            opened.pop()
    return None


def _language(tree: Tree, default: str) -> str:
    """A `lang` that is there and empty says that the language is unknown."""
    attributes = tree.root.attributes if tree.root is not None else {}
    return attributes["lang"] or "" if "lang" in attributes else default


def _json_ld(tree: Tree, spend: Callable[[int], object]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    nodes: Sequence[Node] = tree.tags("script")
    for node in nodes:
        spend(1)
        kind = (node.attributes.get("type") or "").partition(";")[0]
        if kind.strip(_ASCII_SPACE).lower() == "application/ld+json":
            text = node.text()
            spend(len(text) // _JSON_STEP)
            for value in values_in(text):
                if _is_shallow(value):
                    items = value if isinstance(value, list) else [value]
                    found += [item for item in items if isinstance(item, dict)]
    return found


def _is_shallow(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_NESTING):
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, dict | list)
        ]
    return not level
