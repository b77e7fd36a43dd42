"""Tests that the compiled tree and selectolax's give the same bytes, whatever the page and rules.

May touch: the two trees, real pages, Hypothesis.
Must never: take one of the two for right where they differ.
"""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scraperd.config.settings import Config
from scraperd.extract.compile import compile_rules
from scraperd.extract.compiled import engine
from scraperd.extract.document import BOUNDED_PAGE, ExtractRequest, extract_document
from scraperd.extract.nodes import Base
from scraperd.extract.selectors import tags_of
from scraperd.wiring import extract_limits
from tests.oracles.pages import RULES, documents, real, references

if TYPE_CHECKING:
    from scraperd.extract.document import Extracted

pytestmark = pytest.mark.skipif(not engine.AVAILABLE, reason="the compiled tree is not built here")

EVERY = int(os.environ.get("EVERY", "12"))  # of the real pages; 1 takes two minutes
LIMITS = replace(extract_limits(Config()), matches=10**6, output=10**9)
URLS = ["http://h/a/b/c.html?d#e", "http://h", "https://e.org/a//b/../c/", "http://H:80/é/x?y=/z"]
COMPILED = compile_rules(json.dumps(RULES).encode())


def taken(page: bytes, url: str, media: str = "text/html") -> tuple[Extracted, Extracted]:
    """What selectolax's tree gives, and what the compiled one gives."""
    raw = json.dumps(RULES).encode()
    asked = ExtractRequest(url, media, True, True, True, True, False, False, raw)
    return (
        extract_document(asked, page, COMPILED, LIMITS),
        extract_document(asked, page, COMPILED, replace(LIMITS, bounded=True)),
    )


def test_real_pages_give_the_same() -> None:
    """Of the manuals and the pages of tests/data, both trees give the same bytes."""
    pages = list(real())[::EVERY]
    assert len(pages) >= 10
    for path in pages:
        if len(page := path.read_bytes()) <= BOUNDED_PAGE:
            first, second = taken(page, URLS[0])
            assert first == second, path


@given(documents(), st.sampled_from(URLS))
def test_any_page_gives_the_same(page: bytes, url: str) -> None:
    """Pages by chance, in UTF-8 or in no encoding at all, give the same with both trees."""
    first, second = taken(page, url)
    assert first == second


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"\0<p>a\0b",
        b"\xef\xbb\xbf<title>\xef\xbb\xbfx</title>",
        b"<p>\xff\xfe\xed\xa0\x80",
        "<p>\u2028a\u3000b</p>".encode(),
        "<title>é</title>".encode("utf-16"),
        b"<svg><a xlink:href=/x>t</a><text>a</text>b</svg>",
        b"<template><a href=/x>t</a></template><a href>u</a>",
        b"<a href=/x>" * 70 + b"y",
        b"<table><tr><td colspan=3>1<tr><th>2<tfoot><tr><td>3",
    ],
)
def test_odd_pages_give_the_same(page: bytes) -> None:
    """NUL bytes, byte order marks, halves of characters, nothing at all: both trees agree."""
    for media in ("text/html", "text/html; charset=windows-1252", "text/html; charset=gb18030"):
        first, second = taken(page, URLS[0], media)
        assert first == second


@given(st.lists(references(), min_size=1, max_size=20), st.sampled_from([*URLS, "http://[::1]/a"]))
def test_references_lead_to_the_same(found: list[str], url: str) -> None:
    """A plain reference is resolved by the compiled code as `Base.resolve` resolves it."""
    page = "".join(f'<a href="{html.escape(one)}">' for one in found).encode("utf-8", "replace")
    nodes: list[Any] = [*engine.parse(page, bounded=True).css("a")]
    resolve = Base(url).resolve
    expected = [resolve(value or "") for value in engine.values_of(nodes, "href")]
    assert engine.urls_of(nodes, "href", Base(url)) == expected


def test_selectors_of_a_plain_form_are_known() -> None:
    """Only tags, each with one attribute at most, are found without lexbor's matcher."""
    assert tags_of("a[href], area[href]") == ((b"a", b"href"), (b"area", b"href"))
    assert tags_of("h1,h2") == ((b"h1", None), (b"h2", None))
    for other in ("*", ".a", "a b", "A", "a[href=x]", "a[href][rel]", "", "a,", ",".join("a" * 9)):
        assert tags_of(other) is None


def test_without_the_compiled_file_all_works() -> None:
    """Where it was not built, or for another lexbor, the pages are searched by selectolax."""
    for spoiled in (
        "sys.modules['scraperd.extract.compiled.tree'] = None",
        "from scraperd.extract.compiled import tree; tree.LEXBOR_VERSION = (1, 0)",
    ):
        program = (
            f"import sys; {spoiled}; from scraperd.extract.compiled import engine;"
            " from scraperd.extract.apply import Allowance, extract;"
            " from scraperd.sandbox.extractor import for_the_loop;"
            " from scraperd.config.settings import Config;"
            " from scraperd.wiring import extract_limits;"
            " found = extract(b'<a href=/x>y', 'http://h/', rules=None, links=True, metadata=True,"
            " allowance=Allowance(9, 99));"
            " limits = for_the_loop(extract_limits(Config()));"
            " print(engine.AVAILABLE, limits.bounded, found.links[0].url)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == ["False", "False", "http://h/x"]
