"""What rules find on a page, by other means: html5lib's tree, soupsieve, `re`, babel, dateutil.

May touch: those libraries, the bytes of a page. Pure.
Must never: import anything of scraperd, selectolax, lexbor or RE2; it would agree with itself.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote
from xml.etree import ElementTree as ET

import html5lib
import soupsieve
from babel.numbers import NumberFormatError, parse_decimal
from bs4 import BeautifulSoup, Tag
from bs4.element import Comment, NavigableString
from dateutil import parser as dates

from tests.oracles import truth

if TYPE_CHECKING:
    from collections.abc import Iterator
    from xml.etree.ElementTree import Element

SPACES: Final = (
    "white space: U+00A0 and its like count as spaces in our texts (the HTML standard collapses"
    " ASCII white space only)"
)
WRITTEN: Final = (
    "a URL is written as browsers write it: what is not ASCII and some other characters are"
    " percent-encoded, a host without a path has one (URL standard)"
)
JOBLESS: Final = (
    "a URL of http or https that no job could have (user@host, a name with <>) is left out"
)
EMPTY: Final = (
    ":empty: an element that holds white space is not empty (Selectors 3 and all browsers;"
    " soupsieve goes by Selectors 4)"
)
MISSING: Final = object()

_IS_EMPTY: Final = "x-empty"  # an attribute of our own
_HTML: Final = "{http://www.w3.org/1999/xhtml}"
_URLS: Final = ("href", "src", "action", "data", "cite", "longdesc")  # of those the rules name

# What a job may fetch: http or https, no userinfo, and a host that DNS could know.
_JOB_URL = re.compile(r"https?://(?:[\w.-]+|\[[\da-f:.]+\])(?::\d{0,5})?(?=[/?#]|$)", re.IGNORECASE)


@dataclass(slots=True)
class Page:
    """One parsed page: its tree, the same for soupsieve, and where each element stands in it.

    `known` counts the documented departures from the standards that were made on it.
    """

    tree: Element
    charset: str
    base: str
    soup: BeautifulSoup
    twins: dict[int, Element] = field(default_factory=dict)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    tags: list[Tag] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    texts: dict[int, str] = field(default_factory=dict)

    def data(self, rules: dict[str, Any], scope: Tag | None = None) -> dict[str, Any]:
        """The values of the rules inside of `scope`, or on the whole page."""
        return {name: self._value(rule, scope) for name, rule in rules.items()}

    def links(self) -> list[tuple[str, str, str | None]]:
        """Each hyperlink to the web: URL, text, `rel`."""
        return [
            (self._departed(url), self._one_line(text), rel)
            for url, text, rel in truth.links_of(self.tree, self.base)
            if self._can_be_a_job(url)
        ]

    def metadata(self) -> dict[str, Any]:
        """What the page says of itself."""
        found = truth.metadata_of(self.tree, self.base)
        return found | ({"title": self._one_line(found["title"])} if "title" in found else {})

    def _value(self, rule: Any, scope: Tag | None) -> Any:
        if isinstance(rule, str):
            selector, _, attribute = rule.partition("@")
            rule = {"selector": selector} if selector else {}
            rule |= {"output": f"@{attribute}"} if attribute else {}
        found = self._found(rule, scope)
        many = rule.get("type") == "list"
        found = found[: rule.get("limit")] if many else found[:1]
        values = [value for tag in found if (value := self._taken(rule, tag)) is not MISSING]
        if many:
            return values or rule.get("default", [])
        return values[0] if values else rule.get("default")

    def _found(self, rule: dict[str, Any], scope: Tag | None) -> list[Tag]:
        if "selector" not in rule:
            return [scope] if scope is not None else []
        chosen = rule["selector"]
        for selector in [chosen] if isinstance(chosen, str) else chosen:
            if found := self.select(selector, scope):
                return found
        return []

    def select(self, selector: str, scope: Tag | None = None) -> list[Tag]:
        """What is inside of `scope` and matches; ancestors outside of it count, as in the DOM."""
        if ":empty" not in selector:
            return self._select(selector, scope)
        found = self._select(selector.replace(":empty", f"[{_IS_EMPTY}]"), scope)
        self.known[EMPTY] += len(found) != len(self._select(selector, scope))
        return found

    def _select(self, selector: str, scope: Tag | None) -> list[Tag]:
        compiled, names = _compiled(selector)
        if scope is None:
            if names is None:
                return list(compiled.select(self.soup))
            inside = self.tags
        else:
            start, end = self.spans[id(scope)]
            inside = self.tags[start + 1 : end]
        return [tag for tag in inside if (not names or tag.name in names) and compiled.match(tag)]

    def _taken(self, rule: dict[str, Any], tag: Tag) -> Any:
        output = rule.get("output", "text")
        element = self.twins[id(tag)]
        if isinstance(output, dict):
            return self.data(output, tag)
        if output == "table":
            rows = [[self._text(cell) for cell in row] for row in slots(element)]
            table = _named(rows, _heading(element)) if rule.get("header") else rows
            return table or MISSING
        if output == "html":
            return canonical(element)
        if output == "text":
            return self._refined(rule, self._text(element))
        value = tag.attrs.get(output[1:])
        if value is None:
            return MISSING
        is_url = output[1:] in _URLS
        text = self._resolved(str(value)) if is_url else str(value)
        left_out = is_url and not self._can_be_a_job(text)
        return MISSING if left_out else self._refined(rule, text)

    def _text(self, element: Element | None) -> str:
        if element is None:
            return ""
        if id(element) not in self.texts:
            self.texts[id(element)] = self._one_line(truth.text_of(element))
        return self.texts[id(element)]

    def _one_line(self, text: str) -> str:
        plain = " ".join(text.split())
        self.known[SPACES] += plain != text
        return plain

    def _resolved(self, reference: str) -> str:
        return self._departed(truth.resolve(self.base, reference))

    def _can_be_a_job(self, url: str) -> bool:
        """False for a URL of http or https that the contract of jobs refuses."""
        can = not url.lower().startswith(("http://", "https://")) or bool(_JOB_URL.match(url))
        self.known[JOBLESS] += not can
        return can

    def _departed(self, url: str) -> str:
        if url.startswith(("http://", "https://")):
            path = url if url.count("/") > 2 else f"{url}/"
            written = quote(path, safe="!#$%&'()*+,-./:;=?@[]_~")
            self.known[WRITTEN] += written != url
            url = written
        return url

    def _refined(self, rule: dict[str, Any], text: str) -> Any:
        if "regex" in rule:
            match = re.search(rule["regex"], text, re.ASCII)
            part = match[rule.get("group", 1 if match.re.groups else 0)] if match else None
            if part is None:
                return MISSING
            text = part
        kind = rule.get("cast")
        if kind == "url":
            url = self._resolved(text)
            return url if _JOB_URL.match(url) else MISSING
        return text if kind is None else _cast(kind, text)


def read(page: bytes, url: str) -> Page:
    """Parse the page as the HTML standard says; undeclared, it is in UTF-8 if it can be."""
    parser = html5lib.HTMLParser(tree=html5lib.getTreeBuilder("etree"))
    try:
        page.decode()
    except UnicodeDecodeError:
        default = "windows-1252"
    else:
        default = "utf-8"
    tree = parser.parse(page, useChardet=False, default_encoding=default)
    base = next((e.get("href") for e in tree.iter(f"{_HTML}base") if "href" in e.attrib), None)
    base = truth.resolve(url, base) if base is not None else url
    found = Page(tree, str(parser.documentEncoding), base, BeautifulSoup("", "html.parser"))
    _twin(found, tree, found.soup)
    return found


def _twin(page: Page, element: Element, parent: Tag) -> None:
    """Append the element's copy to `parent`, and number it in document order."""
    kind: object = element.tag  # a comment's is a function, whatever the types say
    if not isinstance(kind, str):
        parent.append(Comment(element.text or ""))
        return
    space, _, name = kind.rpartition("}")
    tag = Tag(name=name, namespace=space[1:] or None, attrs=dict(element.attrib))
    start = len(page.tags)
    page.tags.append(tag)
    page.twins[id(tag)] = element
    parent.append(tag)
    if element.text:
        tag.append(NavigableString(element.text))
    for child in element:
        _twin(page, child, tag)
        if child.tail:
            tag.append(NavigableString(child.tail))
    page.spans[id(tag)] = start, len(page.tags)
    if all(isinstance(inside, Comment) for inside in tag.contents):
        tag.attrs[_IS_EMPTY] = ""


@cache
def _compiled(selector: str) -> tuple[soupsieve.SoupSieve, frozenset[str] | None]:
    """The selector, and the names that what it finds can have (None: any)."""
    compiled = soupsieve.compile(selector)
    types = [getattr(one, "tag", None) for one in compiled.selectors]
    names = {"*" if one is None else one.name for one in types}
    return compiled, None if "*" in names else frozenset(names)


def canonical(element: Element) -> str:
    """An element's markup in one spelling."""
    alone = copy.copy(element)
    alone.tail = None
    return ET.tostring(alone, encoding="unicode")


def reparsed(html: str) -> str:
    """The same of an element's HTML."""
    fragment = html5lib.parseFragment(html, container="div")
    return canonical(fragment[0]) if len(fragment) else ""


def _cast(kind: str, text: str) -> Any:
    try:
        if kind == "date":
            return dates.parse(text).date().isoformat()
        number = parse_decimal(text, locale="en", strict=True)
    except (ValueError, OverflowError, NumberFormatError):
        return MISSING
    return int(number) if kind == "int" else float(number)


def slots(element: Element) -> list[list[Element | None]]:
    """HTML standard, "Forming a table": the cell in each slot, `tfoot` last."""
    table = next(element.iter(f"{_HTML}table"), None)
    grid: dict[tuple[int, int], Element] = {}
    top = width = 0
    for group in _groups(table) if table is not None else ():
        rows = [row for row in group if row.tag == f"{_HTML}tr"]
        for y, row in enumerate(rows, top):
            x = 0
            for cell in row:
                if cell.tag not in (f"{_HTML}td", f"{_HTML}th"):
                    continue
                while (x, y) in grid:
                    x += 1
                across, down = _span(cell, "colspan") or 1, _span(cell, "rowspan")
                bottom = top + len(rows)
                for i in range(x, x + across):
                    for j in range(y, min(bottom, y + down if down else bottom)):
                        grid.setdefault((i, j), cell)
                x += across
                width = max(width, x)
        top += len(rows)
    return [[grid.get((x, y)) for x in range(width)] for y in range(top)]


def _groups(table: Element) -> Iterator[Element]:
    for names in (("thead", "tbody"), ("tfoot",)):
        yield from (child for child in table if str(child.tag).removeprefix(_HTML) in names)


def _span(cell: Element, name: str) -> int:
    value = cell.get(name, "1").strip()
    return min(int(value), 1000) if value.isdecimal() else 1


def _heading(element: Element) -> tuple[int, int]:
    """Where the header's rows start and end: those of the first `thead` that has any."""
    table = next(element.iter(f"{_HTML}table"), None)
    start = 0
    for group in _groups(table) if table is not None else ():
        size = sum(row.tag == f"{_HTML}tr" for row in group)
        if size and group.tag == f"{_HTML}thead":
            return start, start + size
        start += size
    return 0, 1


def _named(rows: list[list[str]], heading: tuple[int, int]) -> list[dict[str, str]]:
    """Rows as objects; a name that was there before gets a number, an empty one its column's."""
    start, end = heading
    names: list[str] = []
    for number, text in enumerate(rows[end - 1] if rows else [], 1):
        wanted = name = text or f"column {number}"
        again = 1
        while name in names:
            again += 1
            name = f"{wanted} {again}"
        names.append(name)
    return [dict(zip(names, row, strict=True)) for row in rows[:start] + rows[end:]]
