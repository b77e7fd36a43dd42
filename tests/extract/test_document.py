"""Tests of what a body is taken for, and what is then taken from it.

May touch: nothing outside of memory.
Must never: start a helper process, or fetch anything.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.contract import Failure
from scraperd.extract.apply import Overrun
from scraperd.extract.compile import compile_rules
from scraperd.extract.document import ExtractRequest, Limits, extract_document
from scraperd.extract.rules import Bounds

LIMITS = Limits(100_000, 1_000_000, Bounds())
HTML = b"<title>T</title><h1>H</h1><p>Some text of a page.</p><a href=/x>x</a>"
RSS = b"""<rss version="2.0"><channel><title>News</title>
<item><title>One</title><link>http://example.com/1</link></item></channel></rss>"""
SITEMAP = b"""<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
<url><loc>http://example.com/a</loc><lastmod>2024-05-12</lastmod></url></urlset>"""
H1 = {"h": "h1"}
FIELD = {"f": {"jmespath": "a"}}


def taken(
    content: bytes, media: str, rules: Any = None, limits: Limits = LIMITS, **wanted: bool
) -> tuple[dict[str, Any], Failure | None]:
    """The fields that come back, decoded, and the failure."""
    raw = None if rules is None else json.dumps(rules).encode()
    nothing = {"body": False, "links": False, "metadata": False, "text": False, "feed": False}
    asked = ExtractRequest(
        "http://example.com/d/", media, digest=False, rules=raw, **(nothing | wanted)
    )
    found = extract_document(asked, content, None if raw is None else compile_rules(raw), limits)
    fields = {name: msgspec.json.decode(part) for name, part in found.parts.items()}
    return fields | ({"charset": found.charset} if found.charset else {}), found.failure


@pytest.mark.parametrize(
    ("body", "media", "rules", "data"),
    [
        (HTML, "text/html", H1, {"h": "H"}),
        (HTML, "TEXT/HTML; Charset=UTF-8", H1, {"h": "H"}),
        (HTML, "application/xhtml+xml", H1, {"h": "H"}),
        (b" \n" + HTML, "", H1, {"h": "H"}),
        (RSS, "application/rss+xml", H1 | {"f": {"jmespath": "title"}}, {"h": None, "f": "News"}),
        (HTML, "text/html", {}, {}),
        (b'{"a": 1}', "application/json", FIELD, {"f": 1}),
        (b'{"a": 1}', "application/vnd.api+json; charset=utf-8", FIELD, {"f": 1}),
        (b'{"a": 1}', "text/json", FIELD, {"f": 1}),
        (rb'{"a": "cut \ud83d..."}', "text/json", FIELD, {"f": "cut \ufffd..."}),
        (rb'{"a": "\ude00\ud83d\ude00\\ud83d"}', "", FIELD, {"f": "\ufffd\U0001f600\\ud83d"}),
        (b'{"a": 1}', "", FIELD, {"f": 1}),
        (b'{"a": 1}', "text/html", FIELD, {"f": 1}),  # sites do say so
        (b'{"a": 1}', "text/plain", FIELD, {"f": 1}),
        (b'{"a": 1}', "application/octet-stream", FIELD, {"f": 1}),
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', "application/json", FIELD, {"f": "\xe9"}),
        (
            '{"a": "\xe9"}'.encode("latin-1"),
            "application/json; charset=latin1",
            FIELD,
            {"f": "\ufffd"},
        ),
        ('{"a": "\xe9"}'.encode("utf-16"), "application/json", FIELD, {"f": "\xe9"}),
        (
            b'{"a": "<meta charset=gbk>\xc3\xa9"}',
            "application/json",
            FIELD,
            {"f": "<meta charset=gbk>\xe9"},
        ),
        (b'{"a": 1}', "application/json", FIELD | H1, {"f": 1, "h": None}),
        (HTML, "text/html", FIELD | H1, {"f": None, "h": "H"}),
        (
            RSS,
            "application/rss+xml",
            {"u": {"jmespath": "entries[].url", "type": "list"}},
            {"u": ["http://example.com/1"]},
        ),
        (SITEMAP, "text/xml", {"u": {"jmespath": "entries[].updated"}}, {"u": ["2024-05-12"]}),
        (
            gzip.compress(SITEMAP),
            "application/gzip",
            {"u": {"jmespath": "entries[0].url"}},
            {"u": "http://example.com/a"},
        ),
        (b"[" * 90 + b"1" + b"]" * 90, "application/json", {"f": {"jmespath": "[]"}}, None),
    ],
)
def test_rules_read_the_kind_of_document_they_are_for(
    body: bytes, media: str, rules: Any, data: Any
) -> None:
    """HTML by selectors, JSON, feeds and sitemaps by JMESPath, whatever the media type says."""
    found, failure = taken(body, media, rules)
    assert failure is None
    if data is not None:
        assert found["data"] == data


@pytest.mark.parametrize(
    ("body", "media", "rules", "wanted", "message"),
    [
        (b"%PDF", "application/pdf", H1, {}, "the response is application/pdf, not HTML"),
        (b'{"a": 1}', "application/json", H1, {}, "the response is application/json, not HTML"),
        (b"x", "text/plain", H1, {}, "the response is text/plain, not HTML"),
        (b"x", "text/plain", H1 | FIELD, {}, "the response is text/plain, not HTML or JSON"),
        (RSS, "application/rss+xml", H1, {}, "the response is application/rss+xml, not HTML"),
        (b"", "", H1, {}, "the response is of no type, not HTML"),
        (b"\xef\xbb\xbf" + HTML, "", H1, {}, "is text/plain by its first bytes, not HTML"),
        (HTML, "text/html", FIELD, {}, "the response is text/html, not JSON: JSON is malformed"),
        (b"{", "application/json", FIELD, {}, "the response is application/json, not JSON: "),
        (b"[NaN]", "application/json", FIELD, {}, "not JSON: JSON is malformed"),
        (b"[1e999]", "application/json", FIELD, {}, "not JSON: Number out of range"),
        (b"[" * 100_000, "application/json", FIELD, {}, "not JSON: nested too deeply"),
        (b"{}", "application/json", None, {"links": True}, "application/json, not HTML"),
        (b"{}", "application/json", None, {"metadata": True}, "application/json, not HTML"),
        (b"{}", "application/json", None, {"text": True}, "application/json, not HTML"),
        (RSS, "application/rss+xml", None, {"links": True}, "application/rss+xml, not HTML"),
        (HTML, "text/html", None, {"feed": True}, "text/html, not a feed or a sitemap"),
        (b"<nothing/>", "application/atom+xml", FIELD, {}, "no feed: the root element is nothing"),
        (b"<rss><channel>", "text/xml\r\nx", None, {"links": True}, "not HTML"),
        (HTML, "text/html", {"h": {"selector": "h2", "required": True}}, {}, "extract.h: required"),
    ],
)
def test_what_does_not_fit_fails_in_words(
    body: bytes, media: str, rules: Any, wanted: dict[str, bool], message: str
) -> None:
    """A document of another kind is `extract`: what it is, and what was asked for."""
    found, failure = taken(body, media, rules, **wanted)
    assert failure is not None
    assert failure.kind == "extract"
    assert message in failure.message
    assert failure.message.isprintable()
    assert "data" not in found


@pytest.mark.parametrize(
    ("rule", "body", "value"),
    [
        ({"jmespath": r'`"\ud800"`'}, b"{}", None),
        ({"jmespath": r'{"\ud800": @}'}, b"{}", None),
        ({"jmespath": "to_number(a)", "cast": "int"}, b'{"a": "inf"}', {"x": None}),
        ({"jmespath": "to_number(a)", "cast": "float"}, b'{"a": "nan"}', {"x": None}),
        ({"jmespath": "to_number(a)", "regex": "."}, b'{"a": "nan"}', {"x": None}),
        ({"jmespath": "sum([to_number(a)])"}, b'{"a": "%s"}' % (b"9" * 4301), None),
        ({"jmespath": "[" * 100 + "@" + "]" * 100}, b"[" * 900 + b"]" * 900, None),
    ],
)
def test_values_that_only_an_expression_makes_end_well(rule: Any, body: bytes, value: Any) -> None:
    """Numbers that JSON has not, half characters, endless digits: a failure, or no value."""
    found, failure = taken(body, "application/json", {"x": rule})
    if value is not None:
        assert found["data"] == value
    else:
        assert (failure and failure.kind) in (None, "extract")
        assert failure or found["data"]["x"] is None or json.dumps(found["data"])


def test_a_feed_and_a_sitemap_come_back_as_data() -> None:
    """`feed` is the whole of it, beside what rules take from it."""
    found, failure = taken(RSS, "application/rss+xml", {"t": {"jmespath": "title"}}, feed=True)
    assert failure is None
    assert found["data"] == {"t": "News"}
    assert found["feed"]["type"] == "rss"
    assert found["feed"]["entries"] == [{"title": "One", "url": "http://example.com/1"}]
    found, failure = taken(SITEMAP, "application/xml", feed=True)
    assert found["feed"]["entries"] == [{"url": "http://example.com/a", "updated": "2024-05-12"}]


def test_a_feed_that_is_none_fails() -> None:
    """Its own words say why; a bound names its setting."""
    _, failure = taken(b"<rss", "application/rss+xml", feed=True)
    assert failure is not None
    assert failure.kind == "extract"
    many = Limits(1, 10_000, Bounds())
    two = RSS.replace(b"</channel>", b"<item><title>Two</title></item></channel>")
    _, failure = taken(two, "application/rss+xml", feed=True, limits=many)
    assert failure is not None
    assert "1" in failure.message


@pytest.mark.parametrize(
    ("body", "media", "fields"),
    [
        (b"\x89PNG\r\n\x1a\n\0", "image/png", {"body_encoding": "base64"}),
        (b"\x00\x01", "", {"body_encoding": "base64"}),
        (b"", "image/png", {"body": ""}),
        (b"a\xe9", "text/plain", {"body": "a\xe9", "charset": "windows-1252"}),
        (b'{"a"', "application/json", {"body": '{"a"', "charset": "utf-8"}),
        (RSS, "application/rss+xml", {"body": RSS.decode(), "charset": "utf-8"}),
        (gzip.compress(SITEMAP), "application/gzip", {"body_encoding": "base64"}),
        (b"a: b", "application/yaml", {"body_encoding": "base64"}),
    ],
)
def test_a_body_comes_back_as_text_or_in_base64(
    body: bytes, media: str, fields: dict[str, str]
) -> None:
    """What is no text by its type, or without one by its bytes, is base64."""
    if fields.get("body_encoding"):
        fields = {"body": base64.b64encode(body).decode()} | fields
    assert taken(body, media, body=True) == (fields, None)
    if body and media in ("application/gzip", "application/rss+xml"):
        assert taken(body, media, body=True, feed=True)[0].items() >= fields.items()
    assert taken(body, media)[0].keys() <= {"charset"}


def test_readable_text_is_the_main_content() -> None:
    """`text` needs the extra; it stands beside what else was asked."""
    page = b"<nav><a href=/>Home</a></nav><article>" + b"<p>%s</p>" % (b"A sentence. " * 20) * 5
    found, failure = taken(page, "text/html", {"n": "nav"}, text=True)
    assert failure is None
    assert found["data"] == {"n": "Home"}
    assert found["text"].startswith("A sentence. A sentence.")
    assert "Home" not in found["text"]


def test_bytes_that_are_no_utf_8_read_the_same_everywhere() -> None:
    """A page's malformed bytes are the same characters in its body as in its data."""
    page = b"<h1>a\xff\xe2\x82b\xed\xa0\x80</h1>"
    found, _ = taken(page, "text/html; charset=utf-8", H1, body=True)
    assert found["body"] == f"<h1>{found['data']['h']}</h1>"
    assert found["data"]["h"] == "a\ufffd\ufffdb\ufffd\ufffd\ufffd"


def test_only_on_the_loop_a_bound_of_work_is_raised() -> None:
    """There it means that a helper has to do it; in a helper each bound is the job's failure."""
    rules = {"p": {"selector": "p", "type": "list"}}
    page = b"<p>x" * 100
    with pytest.raises(Overrun):
        taken(page, "text/html", rules, msgspec.structs.replace(LIMITS, work=10))
    _, failure = taken(page, "text/html", rules, msgspec.structs.replace(LIMITS, matches=10))
    assert failure == Failure("extract", "extract.p: more than 10 matches (extract.max_matches)")
    _, failure = taken(page, "text/html", rules, msgspec.structs.replace(LIMITS, output=10))
    assert failure == Failure(
        "too_large", "extract.p: more than 10 bytes (extract.max_output_size)"
    )
    doubling = {"x": {"jmespath": "|".join(["[@,@]"] * 12)}}
    _, failure = taken(
        b'"0123456789"',
        "application/json",
        doubling,
        msgspec.structs.replace(LIMITS, output=10_000),
    )
    assert failure == Failure(
        "too_large", "extract.x: more than 10000 bytes (extract.max_output_size)"
    )


MEDIA = st.sampled_from(
    [
        "",
        "text/html",
        "application/json",
        "application/rss+xml",
        "text/plain",
        "image/png",
        "a",
        ";;",
    ]
) | st.text(max_size=20)
BODIES = st.one_of(
    st.binary(max_size=100),
    st.sampled_from([HTML, RSS, SITEMAP, b"{}", b"[1,[2]]", gzip.compress(RSS), b"\xff\xfe<\0"]),
    st.text(max_size=50).map(lambda text: text.encode("utf-16")),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=9),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("abc"), inner),
    ).map(lambda value: json.dumps(value).encode()),
)
EXPRESSIONS = st.sampled_from(
    [
        *("a", "a.b", "a[0]", "[]", "[*].a", "@", "a || b", "[?a]", "[?a > `1`].b", "keys(@)"),
        *("length(@)", "sort_by(@, &a)", "[a, b]", "{x: a}", "to_number(a)", "max(a)", "a[::-1]"),
        *("to_string(@)", "join('', @)", "sum(@)", "avg(a)", "map(&a, @)", "merge(@, a)", "'x'"),
    ]
)
JSON_RULES = st.dictionaries(
    st.sampled_from("xyz"),
    st.fixed_dictionaries(
        {"jmespath": EXPRESSIONS},
        optional={
            "type": st.sampled_from(["item", "list"]),
            "cast": st.sampled_from(["int", "float", "bool", "date", "url"]),
            "regex": st.just("[0-9]+"),
            "default": st.none() | st.integers(),
        },
    ),
    max_size=3,
)


@given(
    body=BODIES,
    media=MEDIA,
    rules=JSON_RULES | st.just({"h": "h1"}) | st.none(),
    wants=st.tuples(*[st.booleans()] * 4),
)
@settings(max_examples=300, deadline=None)
def test_any_body_ends_as_fields_or_a_failure(
    body: bytes, media: str, rules: Any, wants: tuple[bool, bool, bool, bool]
) -> None:
    """Whatever comes as whatever: never an exception, always JSON, the same twice."""
    wanted = dict(zip(("body", "links", "metadata", "feed"), wants, strict=True))
    first = taken(body, media, rules, **wanted)
    assert taken(body, media, rules, **wanted) == first
    fields, failure = first
    assert failure is None or failure.kind in ("extract", "too_large")
    assert not (failure and "data" in fields)
