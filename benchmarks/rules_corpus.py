"""Thousands of real pages, a hundred rules on each, every value compared with another parser's.

May touch: packaged manuals in .cache/, helper processes it starts.
Must never: use the daemon's parsers to check it, or pass over a difference in silence.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from scraperd.config.settings import Config
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import ExtractRequest, extract_document
from scraperd.sandbox.extractor import Extractor, at_once, for_the_loop
from scraperd.wiring import extract_limits, extractor_of
from tests.oracles import selectors_truth
from tests.rig.debs import debs
from tests.rig.sites.pages import postgres_docs, python_docs

if TYPE_CHECKING:
    from collections.abc import Iterator

# Package -> where its pages are, with the least number of them.
PACKAGES: Final = {
    "apache2-doc": ("usr/share/doc/apache2-doc/manual", 700),  # XHTML as HTML, many encodings
    "sqlite3-doc": ("usr/share/doc/sqlite3", 600),  # written by hand: old and loose HTML
    "git-doc": ("usr/share/doc/git-doc", 150),  # AsciiDoc
    "libglib2.0-doc": ("usr/share/gtk-doc/html", 300),  # gtk-doc: tables for layout
    "maxima-doc": ("usr/share/doc/maxima-doc/html", 300),  # Texinfo
    "debian-policy": ("usr/share/doc/debian-policy", 30),  # DocBook and Sphinx
}
LARGEST: Final = 150_000  # bytes; the other parser takes minutes for more
FEWEST: Final = 3_000  # pages
CHUNK: Final = 40  # pages for each start of a helper
SHOWN: Final = 3  # differences for each rule


def _list(selector: str | list[str], output: Any = "text", **more: Any) -> dict[str, Any]:
    return {"selector": selector, "type": "list", "output": output, **more}


_LISTS: Final = (
    "p:first-child",
    "h1, h2, h3, title",
    "li > p, dd > p",
    "div > p",
    "td > code, td > tt",
    "dt + dd",
    "h2 ~ p",
    "li p a",
    "ul ul > li",
    "div div div > p:first-of-type",
    "body > :not(div, table, script)",
    "p:not(:first-child):not(:last-child)",
    ":is(h1, h2, h3) > a",
    ":is(ul, ol) > li:is(:first-child, :last-child)",
    ":where(dl) > dt:nth-child(odd)",
    "li:has(> ul) > p",
    "p:has(code, tt, em)",
    "h2:has(+ p), h3:has(+ pre)",
    "dt:has(~ dd):first-child",
    "tr:has(th)",
    "div:not(:has(p, pre, table, ul, div))",
    "li:nth-child(3n+1)",
    "tr:nth-child(even) > td:first-child",
    "li:nth-last-child(2)",
    "td:nth-of-type(2)",
    "p:nth-last-of-type(1)",
    "li:only-child",
    "p:only-of-type",
    "li:nth-child(-n+2)",
    "tr > :nth-child(n+2):last-child",
    "p:nth-child(2 of p)",
    "code:nth-last-child(1 of code, a)",
    "span:empty + span, td:empty ~ td",
    "pre",
    # The next eight are what lexbor gets wrong if it is asked as they are written here.
    ":is(ul, ol, table, dl) a",
    ":not(p, li) code",
    "body > :not(script) h2",
    ":is(h2, h3) ~ p",
    "div:has(:is(pre, tt)) > p",
    "p:nth-child(2 of p:has(code, tt))",
    "td:nth-last-child(1 of td[align], td:has(code))",
    "li:nth-child(odd of li:has(> p), .toctree-l1):not(:last-child)",
    ":root > head > title",
    "a[href]:not([href*='#'], [class])",
    "table table td, blockquote > *",
    "div#contents a, div.toc a, ul.toc li, #toc a",
    "[class~='reference'], .link, .sect1 > h2, div.section > h3",
    "code.literal, span.pre, tt.literal, span.emphasis em",
)
_ATTRIBUTES: Final = {
    "a[href^='http']": "href",
    "a[href$='.html']": "href",
    "a[href$='.HTML' i]": "href",
    "a[href*='Index' i]": "href",
    "a[href$='.HTML']": "href",
    "link[rel='NEXT' i]": "href",
    "link[rel~='stylesheet']": "href",
    "a[href^='#']:not([class|='reference'])": "href",
    "[lang|='en']": "lang",
    "[id]": "id",
    "a[name]:empty": "name",
    "*[title]:not(a, link)": "title",
    "img[alt='']": "src",
    "img:not([alt=''])": "alt",
    "div[class]": "class",
    "body *:last-child[id]": "id",
    "td[align], th[align]": "align",
    "meta[name]": "content",
    "*": "class",
}
RULES: Final[dict[str, Any]] = (
    {selector: _list(selector) for selector in _LISTS}
    | {f"{one} @{name}": _list(one, f"@{name}") for one, name in _ATTRIBUTES.items()}
    | {
        "item": "h1",
        "short @": "a[href]@href",
        "none": "h1 > marquee",
        "default": {"selector": "blink", "default": ["none"]},
        "fallback": {"selector": ["h6.none", "h1 > a > b", "h1", "h2", "title"]},
        "fallback list": _list(["dt > a", "h3", "li"], limit=20),
        "limit": _list("a", "@href", limit=5),
        "html item": {"selector": "h1", "output": "html"},
        "html list": _list("dt, h3", "html", limit=10),
        "table": {"selector": "table", "output": "table"},
        "tables": _list("table:not(:has(table))", "table", limit=20),
        "table header": _list("table", "table", header=True, limit=20),
        "regex": {"selector": "title", "regex": r"[0-9]+\.[0-9]+(?:\.[0-9]+)*"},
        "regex group": _list("a", "@href", regex=r"/([^/#?]+)\.html"),
        "regex named": _list(
            "p, h1, title", regex=r"(?P<major>[0-9]+)\.(?P<minor>[0-9]{1,9})", group="minor"
        ),
        "cast int": _list("td", regex=r"^[+-]?[0-9]{1,9}$", cast="int"),
        "cast int grouped": _list(
            "td, p, li", regex=r"\b[1-9][0-9]{0,2}(?:,[0-9]{3})+\b", cast="int"
        ),
        "cast float": _list("p, td, dd", regex=r"\b[0-9]{1,9}\.[0-9]{1,9}\b", cast="float"),
        "cast date": _list("p, td, li, h3", regex=r"\b[0-9]{4}-[0-9]{2}-[0-9]{2}\b", cast="date"),
        "cast long date": _list(
            "div, p, td, li, h3",
            regex=r"\b(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]* [0-9]{1,2},"
            r" [0-9]{4}\b",
            cast="date",
            limit=2000,
        ),
        "cast url": _list("a", "@href", regex=r"^[^#]+", cast="url", limit=50),
        "nested list": _list(
            "li",
            {
                "self": {},
                "first": "a@href",
                "inner": _list("li > a"),
                "outside": _list("body li > p", limit=3),
                "class": "@class",
                "deep": {"selector": "ul", "output": {"n": _list("li", limit=3)}},
            },
            limit=60,
        ),
        "nested rows": _list(
            "tr",
            {"cells": _list("td, th"), "second": "td:nth-child(2)", "links": _list("a", "@href")},
            limit=200,
        ),
        "nested item": {"selector": "body", "output": {"h": "h1, h2", "last": "p:last-of-type"}},
        # A rule for JSON inside of a page is always searched in a helper.
        "json": {"selector": "script[type='application/ld+json']", "jmespath": "@"},
    }
)
_NOT_COMPARED: Final = ("json",)


class Difference(NamedTuple):
    """One value that is not as the other parser has it."""

    rule: str
    where: str
    ours: Any
    theirs: Any


@dataclass(slots=True)
class Tally:
    """What came out: pages and values compared by rule, known departures, differences."""

    pages: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    known: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count the other's as well."""
        self.pages += other.pages
        self.compared += other.compared
        self.known += other.known
        self.differences += other.differences


def main() -> None:
    """Read the command line, compare, print; exit 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rules_corpus", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="only every n-th page (default: all)")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args()
    began = time.monotonic()
    found = [page for page in pages() if page[0].stat().st_size <= LARGEST]
    chosen = found[:: options.every]
    chunks = [chosen[at : at + CHUNK] for at in range(0, len(chosen), CHUNK)]
    tally = Tally()
    with ProcessPoolExecutor(options.processes) as pool:
        for part in pool.map(compared, chunks):
            tally.add(part)
    _print(tally, time.monotonic() - began)
    if len(found) < FEWEST:
        print(f"only {len(found):,} pages, not {FEWEST:,}")
    sys.exit(1 if tally.differences or len(found) < FEWEST else 0)


def pages() -> Iterator[tuple[Path, str]]:
    """Every page with the URL that it is given."""
    folders = [("python3-doc", python_docs(), 400), ("postgresql-doc", postgres_docs(), 1000)]
    for package, (inside, fewest) in PACKAGES.items():
        roots = [base / inside for base in (debs(package), Path("/"))]
        folders.append((package, next(root for root in roots if root.is_dir()), fewest))
    for package, folder, fewest in folders:
        files = sorted(path for path in folder.rglob("*.html*") if _is_page(path))
        if len(files) < fewest:
            sys.exit(f"the package {package} has {len(files)} pages, less than {fewest}")
        for file in files:
            yield file, f"http://{package}.example/{file.relative_to(folder).as_posix()}"


def _is_page(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.suffix != ".gz"


def compared(chunk: list[tuple[Path, str]]) -> Tally:
    """Compare some pages."""
    return asyncio.run(_compared(chunk))


async def _compared(chunk: list[tuple[Path, str]]) -> Tally:
    tally = Tally()
    async with extractor_of(Config()) as extractor:
        for file, url in chunk:
            await _compare(extractor, file.read_bytes(), url, tally)
            tally.pages += 1
    return tally


async def _compare(extractor: Extractor, body: bytes, url: str, tally: Tally) -> None:
    """Take what the rules find, here and in a helper, and hold it against the other parser."""
    raw = json.dumps(RULES).encode()
    rules = compile_rules(raw)
    asked = ExtractRequest(url, "text/html", True, False, True, True, False, False, raw)
    here = extract_document(asked, body, rules, extract_limits(Config()))
    assert at_once(asked, body, rules, for_the_loop(extract_limits(Config()))) == 0
    there = (await extractor.extract(asked, body, rules, "host")).extracted
    tally.compared["the same in a helper"] += 1
    if msgspec.json.encode(here) != msgspec.json.encode(there):
        tally.differences.append(Difference("the same in a helper", url, here, there))
    if here.failure is not None:
        tally.differences.append(Difference("no failure", url, here.failure, None))
        return
    page = selectors_truth.read(body, url)
    for name, ours, theirs in _pairs(here, page):
        tally.compared[name] += 1
        if _markup(name, ours) != theirs:
            first = _first(_markup(name, ours), theirs)
            tally.differences.append(Difference(name, url, *first))
    tally.known += page.known


def _pairs(taken: Any, page: selectors_truth.Page) -> Iterator[tuple[str, Any, Any]]:
    """Each value's name, ours, and the other parser's."""
    fields = {name: msgspec.json.decode(part) for name, part in taken.parts.items()}
    yield "charset", taken.charset, page.charset
    links = [(link["url"], link["text"], link.get("rel")) for link in fields["links"]]
    yield "links", links, page.links()
    metadata = page.metadata()
    for name in {*metadata, *fields["metadata"]}:
        yield f"metadata {name}", fields["metadata"].get(name), metadata.get(name)
    rules = {name: rule for name, rule in RULES.items() if name not in _NOT_COMPARED}
    data = page.data(rules)
    for name in rules:
        yield name, fields["data"][name], data[name]


def _markup(name: str, ours: Any) -> Any:
    """HTML in one spelling; other values as they are."""
    if not name.startswith("html ") or ours is None:
        return ours
    if isinstance(ours, list):
        return [selectors_truth.reparsed(html) for html in ours]
    return selectors_truth.reparsed(ours)


def _first(ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Where two values differ first, so that the difference can be read."""
    while type(ours) is type(theirs) and isinstance(ours, list | dict):
        if isinstance(ours, dict):
            names = sorted({*ours, *theirs})
            at = next(name for name in names if ours.get(name) != theirs.get(name))
            ours, theirs = ours.get(at), theirs.get(at)
        else:
            ours, theirs = next(
                (a, b) for a, b in zip_longest(ours, theirs, fillvalue="(none)") if a != b
            )
    return ours, theirs


def _print(tally: Tally, seconds: float) -> None:
    print(f"{tally.pages:9,} pages in {seconds:,.0f} s")
    print(f"{sum(tally.compared.values()):9,} values of {len(tally.compared)} rules compared")
    for reason, count in sorted(tally.known.items()):
        print(f"{count:9,} known: {reason}")
    by_rule: dict[str, list[Difference]] = {}
    for difference in tally.differences:
        by_rule.setdefault(difference.rule, []).append(difference)
    print(f"{len(tally.differences):9,} mismatches")
    for rule, them in by_rule.items():
        print(f"{len(them):9,} of {rule}")
        for one in them[:SHOWN]:
            print(f"          {one.where}")
            print(f"            ours:   {one.ours!r:.300}")
            print(f"            theirs: {one.theirs!r:.300}")


if __name__ == "__main__":
    main()
