"""What is on a page, by other means than the daemon's: html5lib's tree, RFC 3986's own algorithm.

May touch: html5lib, the bytes of a page. Pure.
Must never: import anything of scraperd, selectolax or urllib's urljoin; it would agree with itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import html5lib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

_HTML = "{http://www.w3.org/1999/xhtml}"
_ASCII_SPACE = re.compile(r"[\t\n\f\r ]+")  # what the HTML standard calls ASCII whitespace
_URI = re.compile(r"^(([^:/?#]+):)?(//([^/?#]*))?([^?#]*)(\?([^#]*))?(#(.*))?$", re.DOTALL)
_LISTED = (f"{_HTML}a", f"{_HTML}area")


@dataclass(frozen=True, slots=True)
class Truth:
    """What the page holds. `anchors` has None where an `a` has no href."""

    title: str | None
    h1: list[str]
    anchors: list[str | None]
    links: list[tuple[str, str, str | None]]
    metadata: dict[str, Any]


def read(page: bytes, url: str) -> Truth:
    """Parse the page as the HTML standard says and look at it with plain tree walks."""
    tree = html5lib.parse(page, transport_encoding="utf-8")
    base = next((e.get("href") for e in tree.iter(f"{_HTML}base") if "href" in e.attrib), None)
    base = resolve(url, base) if base is not None else url
    title = next(tree.iter(f"{_HTML}title"), None)
    return Truth(
        title=None if title is None else _text(title),
        h1=[_text(element) for element in tree.iter(f"{_HTML}h1")],
        anchors=[
            resolve(base, e.get("href", "")) if "href" in e.attrib else None
            for e in tree.iter(f"{_HTML}a")
        ],
        links=list(_links(tree, base)),
        metadata=_metadata(tree, base),
    )


def _links(tree: Element, base: str) -> Iterator[tuple[str, str, str | None]]:
    for element in tree.iter():
        if element.tag in _LISTED and "href" in element.attrib:
            target = resolve(base, element.attrib["href"])
            if target.startswith(("http://", "https://")):
                yield target, _text(element), element.get("rel") or None


def _metadata(tree: Element, base: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    graph: dict[str, str] = {}
    for element in tree.iter(f"{_HTML}title"):
        found.setdefault("title", _text(element))
    for element in tree.iter(f"{_HTML}meta"):
        if element.get("name", "").lower() == "description" and element.get("content"):
            found.setdefault("description", element.attrib["content"])
        if element.get("property", "").startswith("og:"):
            graph.setdefault(element.attrib["property"][3:], element.get("content", ""))
    for element in tree.iter(f"{_HTML}link"):
        if "canonical" in element.get("rel", "").lower().split() and element.get("href"):
            found.setdefault("canonical", resolve(base, element.attrib["href"]))
    if tree.get("lang"):
        found["language"] = tree.attrib["lang"]
    return found | ({"opengraph": graph} if graph else {})


def _text(element: Element) -> str:
    """The text of all descendants, comments left out, white space collapsed."""
    return _ASCII_SPACE.sub(" ", "".join(_strings(element))).strip(" ")


def _strings(element: Element) -> Iterator[str]:
    if isinstance(element.tag, str):  # a comment's tag is a function
        yield element.text or ""
        for child in element:
            yield from _strings(child)
            yield child.tail or ""


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
