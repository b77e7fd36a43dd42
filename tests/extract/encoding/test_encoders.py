"""Queries of references in each encoding: against Chromium's answers, and published values.

May touch: tests/data/encodings/, which tests/rig/sites/browser.py makes.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from scraperd.extract.compile import compile_rules
from scraperd.extract.compiled import engine
from scraperd.extract.document import ExtractRequest, Limits, extract_document
from scraperd.extract.encoding.encoders import query_encoder
from scraperd.extract.nodes import Base
from scraperd.extract.rules import Bounds
from tests.rig.clocks.effort import scaled
from tests.rig.sites.browser import MULTI, QUERIES, SINGLE, digest, numbers, queries

COMPILED = pytest.mark.skipif(not engine.AVAILABLE, reason="no compiled tree")
LEGACY = [name for name in (*SINGLE, *MULTI) if not name.startswith(("utf-", "x-user"))]
# Published: web-platform-tests, url/resources/percent-encoding.json.
PUBLISHED = [
    ("\u2020", {"windows-1252": "%86"}),
    ("\x0eA", {"iso-2022-jp": "%26%2365533%3BA"}),
    ("\u203e\\", {"iso-2022-jp": "%1B(J~%1B(B\\"}),
    ("a\ud800", {"windows-1252": "a%26%2365533%3B"}),  # its lone-surrogates.sub.html
    ("\ue5e5", {"gb18030": "%26%2358853%3B"}),
    ("\u2212", {"shift_jis": "%81|"}),
]


def written(name: str, query: str) -> str:
    """The query as the encoding writes it."""
    encode = query_encoder(name)
    assert encode is not None
    return encode(query)


@pytest.mark.parametrize("name", LEGACY)
def test_each_character_is_written_as_in_chromium(name: str) -> None:
    """Each character of Unicode's first planes, alone in a link's query, is what Chromium sends."""
    found = {
        key: digest("\n".join(written(name, query) for query in block)) for key, block in numbers()
    }
    expected = queries()[name]["blocks"]
    assert [key for key in expected if found[key] != expected[key]] == []
    assert found.keys() == expected.keys()


@pytest.mark.parametrize("name", LEGACY)
def test_whole_queries_are_written_as_in_chromium(name: str) -> None:
    """Queries of characters of all kinds, with the states between them, are what Chromium sends."""
    answers = queries()[name]["samples"]
    assert len(answers) == len(QUERIES)
    for query, answer in zip(QUERIES, answers, strict=True):
        assert written(name, query) == answer, ascii(query)


@pytest.mark.parametrize(("query", "answers"), PUBLISHED)
def test_published_values(query: str, answers: dict[str, str]) -> None:
    """What web-platform-tests expect of URLs in an encoding."""
    assert {name: written(name, query) for name in answers} == answers


@pytest.mark.parametrize("name", ["utf-8", "utf-16le", "utf-16be", "replacement"])
def test_an_output_encoding_may_be_utf8(name: str) -> None:
    """Encoding Standard, "get an output encoding": of these it is UTF-8, where nothing is done."""
    assert query_encoder(name) is None


PAGE = """<base href="http://h/d/?é"><title>T</title><link rel=canonical href="?c=é#é">
<link rel=icon href="/é?i=é"><meta property="og:url" content="/?é">
<a href="/é?q=é&amp;p=&#8224;&#26085;#é" data-u=" ?é">x</a><a href="">y</a>
<a href="mailto:a?é">m</a><a href="p?q=plain">p</a><script type=x>{"u": "/?é"}</script>"""
RULES = {
    "one": "a@href",
    "all": {"selector": "a", "type": "list", "output": "@href"},
    "cast": {"selector": "a", "output": "@data-u", "cast": "url"},
    "json": {"selector": "script", "jmespath": "u", "cast": "url"},
}


def taken(body: bytes, media: str, *, bounded: bool, links: bool = True) -> dict[str, Any]:
    """The parts of a page."""
    raw = json.dumps(RULES).encode()
    asked = ExtractRequest(
        *("http://site.example/x?y", media),
        digest=False,
        body=False,
        text=False,
        feed=False,
        links=links,
        metadata=links,
        rules=raw,
    )
    limits = Limits(10_000, 1_000_000, Bounds(), bounded=bounded)
    found = extract_document(asked, body, compile_rules(raw), limits)
    assert found.failure is None
    return {name: msgspec.json.decode(part) for name, part in found.parts.items()}


@pytest.mark.parametrize("bounded", [False, pytest.param(True, marks=COMPILED)])
@pytest.mark.parametrize(
    ("name", "sent"),
    [("windows-1252", ("%E9", "%86")), ("gbk", ("%A8%A6", "%26%238224%3B"))],
)
def test_all_references_of_a_page_have_queries_in_its_encoding(
    name: str,
    sent: tuple[str, str],
    bounded: bool,  # noqa: FBT001 - a column
) -> None:
    """In both trees links, attributes, casts and metadata have the query as the encoding writes it,
    while paths, fragments and other schemes stay in UTF-8.
    """
    e, dagger = sent
    day = "%C8%D5" if name == "gbk" else "%26%2326085%3B"
    found = taken(PAGE.encode(name), f"text/html; charset={name}", bounded=bounded)
    link = f"http://h/%C3%A9?q={e}&p={dagger}{day}#%C3%A9"
    there = [link, f"http://h/d/?{e}", "mailto:a?%C3%A9", "http://h/d/p?q=plain"]
    assert [one["url"] for one in found["links"]] == [there[0], there[1], there[3]]
    assert found["data"] == {
        "one": link,
        "all": there,
        "cast": f"http://h/d/?{e}",
        "json": f"http://h/?{e}",
    }
    metadata = found["metadata"]
    assert metadata["canonical"] == f"http://h/d/?c={e}#%C3%A9"
    assert metadata["favicon"] == f"http://h/%C3%A9?i={e}"


@pytest.mark.parametrize("bounded", [False, pytest.param(True, marks=COMPILED)])
@pytest.mark.parametrize("name", ["utf-8", "utf-16"])
def test_a_page_in_utf8_or_utf16_has_queries_in_utf8(name: str, bounded: bool) -> None:  # noqa: FBT001 - a column
    """Encoding Standard, "get an output encoding"; the byte order mark says which it is."""
    found = taken(PAGE.encode(name), f"text/html; charset={name}", bounded=bounded)
    assert found["data"]["one"] == "http://h/%C3%A9?q=%C3%A9&p=%E2%80%A0%E6%97%A5#%C3%A9"


def test_json_in_a_legacy_encoding_has_queries_in_utf8() -> None:
    """A reference in a JSON document is of no HTML document, so its query is in UTF-8."""
    raw = json.dumps({"u": {"jmespath": "u", "cast": "url"}}).encode()
    asked = ExtractRequest(
        "http://h/", "application/json; charset=latin1", *(False,) * 6, rules=raw
    )
    limits = Limits(100, 10_000, Bounds())
    found = extract_document(asked, b'{"u": "/?\\u00e9"}', compile_rules(raw), limits)
    assert found.parts["data"] == b'{"u":"http://h/?%C3%A9"}'


@pytest.mark.parametrize("name", ["windows-1252", "gb18030", "iso-2022-jp"])
def test_a_long_query_is_written_in_linear_time(name: str) -> None:
    """A query of half a million characters takes a second or so, and one too long no time."""
    written(name, "\xe9")
    query = "\u3042\U0001f600\xe9~" * 125_000
    start = time.process_time()
    written(name, query)
    assert time.process_time() - start < scaled(2.0)
    start = time.process_time()
    for _ in range(5):
        assert Base("http://h/", name).resolve(f"?{query}") is None
    assert time.process_time() - start < scaled(2.0)
