"""What is on a page, by other means than the daemon's: html5lib's tree, RFC 3986's own algorithm.

May touch: html5lib, the bytes of a page. Pure.
Must never: import anything of scraperd, selectolax or urllib's urljoin; it would agree with itself.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import html5lib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

_HTML = "{http://www.w3.org/1999/xhtml}"
_ASCII_SPACE = re.compile(r"[\t\n\f\r ]+")  # what the HTML standard calls ASCII whitespace
_URI = re.compile(r"^(([^:/?#]+):)?(//([^/?#]*))?([^?#]*)(\?([^#]*))?(#(.*))?$", re.DOTALL)
# HTML standard, "Rendering": what CSS displays as anything but inline or none.
_BLOCKS = frozenset(
    """html body address blockquote center dialog div figure figcaption footer form header hr
    legend listing main p plaintext search xmp article aside h1 h2 h3 h4 h5 h6 hgroup nav section
    dir dd dl dt menu ol ul li table caption colgroup col thead tbody tfoot tr td th fieldset
    details summary optgroup option pre br {http://www.w3.org/2000/svg}text""".split()
)
_UNREAD = frozenset("script style template iframe noembed noframes comment".split())
_ABOUT = "description"
_LISTED = (f"{_HTML}a", f"{_HTML}area")


@dataclass(frozen=True, slots=True)
class Truth:
    """What the page holds."""

    title: str | None
    h1: list[str]
    anchors: list[str]
    links: list[tuple[str, str, str | None]]
    metadata: dict[str, Any]


def read(page: bytes, url: str) -> Truth:
    """Parse the page as the HTML standard says and look at it with plain tree walks."""
    tree = html5lib.parse(page, transport_encoding="utf-8")
    base = next((e.get("href") for e in tree.iter(f"{_HTML}base") if "href" in e.attrib), None)
    base = resolve(url, base) if base is not None else url
    title = next(tree.iter(f"{_HTML}title"), None)
    return Truth(
        title=None if title is None else text_of(title),
        h1=[text_of(element) for element in tree.iter(f"{_HTML}h1")],
        anchors=[
            resolve(base, e.attrib["href"]) for e in tree.iter(f"{_HTML}a") if "href" in e.attrib
        ],
        links=list(links_of(tree, base)),
        metadata=metadata_of(tree, base),
    )


def links_of(tree: Element, base: str) -> Iterator[tuple[str, str, str | None]]:
    """Each hyperlink to the web, in the order of the page: URL, text, `rel`."""
    for element in tree.iter():
        if element.tag in _LISTED and "href" in element.attrib:
            target = resolve(base, element.attrib["href"])
            if target.startswith(("http://", "https://")):
                yield target, text_of(element), element.get("rel") or None


def metadata_of(tree: Element, base: str) -> dict[str, Any]:
    """What the page says of itself, by the names of the result's fields."""
    titles = [text_of(element) for element in tree.iter(f"{_HTML}title")]
    links = _head_links(tree, base)
    metas = [element.attrib for element in tree.iter(f"{_HTML}meta")]
    said = [
        meta.get("content", "")
        for meta in metas
        if _ABOUT in (meta.get("name", "").lower(), meta.get("property"))
    ]
    found = {
        "title": next(filter(None, titles), "") if titles else None,
        "description": next(filter(None, said), None),
        "canonical": links.get("canonical"),
        "language": tree.attrib.get("lang", _pragma(metas)) or None,
        "favicon": links.get("icon") or links.get("apple-touch-icon"),
        "opengraph": _prefixed("og:", metas, ("name", "property")),
        "twitter": _prefixed("twitter:", metas, ("name", "property")),
        "json_ld": list(_json_ld(tree)),
    }
    return {name: value for name, value in found.items() if value or value == ""}


def _head_links(tree: Element, base: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for element in tree.iter(f"{_HTML}link"):
        for kind in element.get("rel", "").lower().split():
            if element.get("href"):
                url = resolve(base, element.attrib["href"])
                if kind == "canonical" or url.startswith(("http://", "https://")):
                    found.setdefault(kind, url)
    return found


def _pragma(metas: list[dict[str, str]]) -> str:
    language = ""
    for meta in metas:
        if meta.get("http-equiv", "").lower() == "content-language":
            words = meta.get("content", "").split()
            if words and "," not in meta["content"]:
                language = words[0]
    return language


def _prefixed(
    prefix: str, metas: list[dict[str, str]], attributes: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for meta in metas:
        for attribute in attributes:
            if meta.get(attribute, "").startswith(prefix):
                name = meta[attribute][len(prefix) :]
                found[name] = found.get(name) or meta.get("content", "")
    return found


def _json_ld(tree: Element) -> Iterator[Any]:
    for element in tree.iter(f"{_HTML}script"):
        if element.get("type", "").partition(";")[0].strip().lower() == "application/ld+json":
            with suppress(ValueError):
                value = json.loads(element.text or "", parse_constant=float.fromhex)
                items = value if isinstance(value, list) else [value]
                yield from (item for item in items if isinstance(item, dict))


def text_of(element: Element) -> str:
    """What can be read inside of it, white space collapsed."""
    return _ASCII_SPACE.sub(" ", "".join(_strings(element))).strip(" ")


def _strings(element: Element, *, outermost: bool = True) -> Iterator[str]:
    """Its own text and its descendants', with a space at the edges of what parts words."""
    tag: object = element.tag  # a comment's is a function, whatever the types say
    name = tag.removeprefix(_HTML) if isinstance(tag, str) else "comment"
    if name in _UNREAD and not outermost:
        return
    edge = " " if name in _BLOCKS else ""
    yield edge + (element.text or "")
    for child in element:
        yield from _strings(child, outermost=False)
        yield child.tail or ""
    yield edge


def resolve(base: str, reference: str) -> str:
    """A reference against a base URL: RFC 3986 section 5.2.2, transcribed."""
    reference = reference.strip("\t\n\f\r ")
    b_scheme, b_authority, b_path, b_query = _split(base)[:4]
    scheme, authority, path, query, fragment = _split(reference)
    if scheme is not None:
        # The one departure: other schemes (mailto:, javascript:) are opaque and stay as written.
        path = _without_dots(path) if authority is not None else path
    elif authority is not None:
        scheme, path = b_scheme, _without_dots(path)
    else:
        scheme, authority = b_scheme, b_authority
        if not path:
            path, query = b_path, query if query is not None else b_query
        else:
            path = _without_dots(
                path if path.startswith("/") else _merge(b_authority, b_path, path)
            )
    return _join(scheme, authority, path, query, fragment)


def _split(uri: str) -> tuple[str | None, str | None, str, str | None, str | None]:
    """The five parts by the regular expression of RFC 3986 appendix B; None is undefined."""
    match = _URI.match(uri)
    assert match is not None  # it matches any string
    return match[2], match[4], match[5], match[7], match[9]


def _merge(authority: str | None, base: str, path: str) -> str:
    """Section 5.2.3."""
    return f"/{path}" if authority is not None and not base else base[: base.rfind("/") + 1] + path


def _without_dots(path: str) -> str:
    """Section 5.2.4, steps A to E."""
    output: list[str] = []
    while path:
        if path.startswith(("../", "./")):
            path = path.partition("/")[2]
        elif path.startswith("/./") or path == "/.":
            path = "/" + path[3:]
        elif path.startswith("/../") or path == "/..":
            path = "/" + path[4:]
            del output[-1:]
        elif path in (".", ".."):
            path = ""
        else:
            end = path.find("/", 1)
            end = len(path) if end < 0 else end
            output.append(path[:end])
            path = path[end:]
    return "".join(output)


def _join(
    scheme: str | None, authority: str | None, path: str, query: str | None, fragment: str | None
) -> str:
    """Section 5.3."""
    text = f"{scheme}:" if scheme is not None else ""
    text += f"//{authority}" if authority is not None else ""
    text += path
    text += f"?{query}" if query is not None else ""
    return text + (f"#{fragment}" if fragment is not None else "")
