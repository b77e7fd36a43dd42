"""What a page says of itself: by published examples, and by another parser on real pages.

May touch: html5lib, tests/data/metadata, the packaged manuals.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import html5lib
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from selectolax.lexbor import LexborHTMLParser

from scraperd.contract import Link, Metadata, Refresh
from scraperd.extract.metadata import MAX_NESTING, links_of, metadata_of
from scraperd.extract.nodes import Base, free
from scraperd.extract.values.jsonld import values_in
from tests.oracles.truth import resolve
from tests.rig.clocks.effort import scaled
from tests.rig.sites.pages import html_files, postgres_docs, python_docs

URL = "http://example.com/dir/page.html"
DATA = Path(__file__).resolve().parents[1] / "data" / "metadata"


def says(page: str) -> Metadata:
    """What a page says of itself."""
    return metadata_of(LexborHTMLParser(page), Base(URL))


def ld(text: str, kind: str = "application/ld+json") -> str:
    """A script of JSON-LD."""
    return f"<script type='{kind}'>{text}</script>"


def strict(text: str) -> Any:
    """JSON by the standard library, which takes NaN if it is let."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def read(page: str) -> dict[str, Any]:  # noqa: C901 - plain on purpose: one case after another
    """The same by html5lib's tree and plain loops."""
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    found: dict[str, Any] = {"opengraph": {}, "twitter": {}, "json_ld": []}
    for e in tree.iter("title"):
        found["title"] = found.get("title") or " ".join((e.text or "").split())
    for e in tree.iter("meta"):
        content = e.get("content", "")
        for prefix, keys in (("og:", ("name", "property")), ("twitter:", ("name", "property"))):
            for name in [e.get(key, "") for key in keys]:
                if name.startswith(prefix):
                    part = found["opengraph" if prefix == "og:" else "twitter"]
                    key = name.removeprefix(prefix)
                    part[key] = part.get(key) or content
        if "description" in (e.get("name", "").lower(), e.get("property")) and content:
            found.setdefault("description", content)
        if e.get("http-equiv", "").lower() == "content-language" and "," not in content:
            found["language"] = (content.split() or [found.get("language", "")])[0]
    found["language"] = tree.get("lang", found.get("language", ""))
    for kind, name in (("canonical", "canonical"), ("apple-touch-icon", "favicon"), ("icon", "x")):
        fit = [e for e in tree.iter("link") if kind in e.get("rel", "").lower().split()]
        urls = [resolve(URL, e.attrib["href"]) for e in fit if e.get("href")]
        found[name] = next((u for u in urls if kind == "canonical" or u.startswith("http")), "")
    found["favicon"] = found.pop("x") or found["favicon"]
    for e in tree.iter("script"):
        if e.get("type", "").lower() == "application/ld+json":
            try:
                value = strict(e.text or "")
            except ValueError:
                continue
            items = value if isinstance(value, list) else [value]
            found["json_ld"] += [item for item in items if isinstance(item, dict)]
    return {name: value for name, value in found.items() if value or name == "title"}


def test_real_pages_say_what_another_parser_reads() -> None:
    """A dozen pages of two manuals, with canonical links, languages and icons."""
    keys: set[str] = set()
    for folder in (python_docs(), postgres_docs()):
        pages = sorted(html_files(folder), key=lambda path: path.stat().st_size)
        for path in pages[: len(pages) // 2 : len(pages) // 12]:
            page = path.read_text(encoding="utf-8")
            expected = read(page)
            assert msgspec.to_builtins(says(page)) == expected
            keys |= expected.keys()
    assert {"title", "canonical", "language", "favicon"} <= keys


PARTS = [
    "<html lang=de>", "<html lang>", "<title>a</title>", "<title>b </title>", "<body>", "<p>x</p>",
    "<meta name=description content=d>", "<meta name=DESCRIPTION content>",
    "<meta property=og:title content=t>", "<meta property=og:title content=u>",
    "<meta property=og:image>", "<meta name=og:no content=n>",
    "<meta name=twitter:card content=s>", "<meta property=twitter:card content=p>",
    "<meta name=twitter:site property=og:site content=b>",
    "<meta http-equiv=Content-Language content=' fr x'>", "<meta http-equiv=content-language>",
    "<meta http-equiv=content-language content='en,fr'>",
    "<meta http-equiv=content-language content=it>",
    "<link rel=icon href=i.png>", "<link rel='Shortcut ICON' href=/s.ico>", "<link rel=icon>",
    "<link rel=icon href='data:,'>", "<link rel=apple-touch-icon href=a.png>",
    "<link rel=mask-icon href=m.svg>", "<link rel='canonical icon' href=c>",
    "<link rel=canonical href>", "<link rel=canonical href='android-app://x/'>",
    ld('{"a":1}'), ld('[{"a":2},3,[{}]]'), ld("{"), ld("5"), ld('{"a":NaN}'), ld("", "text/json"),
]  # fmt: skip


@given(parts=st.lists(st.sampled_from(PARTS), max_size=8))
@settings(max_examples=200, deadline=None)
def test_any_mix_says_what_another_parser_reads(parts: list[str]) -> None:
    """Whatever the order and the repetitions, the plain loops find the same."""
    page = "".join(parts)
    assert msgspec.to_builtins(says(page)) == read(page)


def test_the_example_of_the_open_graph_protocol() -> None:
    """The Rock, and of several images the first, each property of it by its whole name (ogp.me)."""
    page = """<html prefix="og: https://ogp.me/ns#"><head><title>The Rock (1996)</title>
        <meta property="og:title" content="The Rock" />
        <meta property="og:type" content="video.movie" />
        <meta property="og:url" content="https://www.imdb.com/title/tt0117500/" />
        <meta property="og:image" content="https://example.com/rock.jpg" />
        <meta property="og:image:width" content="300" />
        <meta property="og:image" content="https://example.com/rock2.jpg" /></head></html>"""
    assert says(page) == Metadata(
        title="The Rock (1996)",
        opengraph={
            "title": "The Rock",
            "type": "video.movie",
            "url": "https://www.imdb.com/title/tt0117500/",
            "image": "https://example.com/rock.jpg",
            "image:width": "300",
        },
    )


def test_the_example_of_a_twitter_card() -> None:
    """The sample of a summary card, from its own documentation."""
    page = """<meta name="twitter:card" content="summary" />
        <meta name="twitter:site" content="@flickr" />
        <meta name="twitter:title" content="Small Island Developing States Photo Submission" />
        <meta name="twitter:description" content="View the album on Flickr." />"""
    assert says(page).twitter == {
        "card": "summary",
        "site": "@flickr",
        "title": "Small Island Developing States Photo Submission",
        "description": "View the album on Flickr.",
    }


def test_the_examples_of_schema_org() -> None:
    """A published example comes back whole; one that its authors broke is left out."""
    good = (DATA / "schema.org-1670.txt").read_text(encoding="utf-8")
    broken = (DATA / "schema.org-2405.txt").read_text(encoding="utf-8")
    thing = {
        "@context": "https://schema.org/",
        "@type": "Thing",
        "name": "Schema.org Ontology",
        "subjectOf": {"@type": "Book", "name": "The Complete History of Schema.org"},
    }
    assert says(broken + good + good).json_ld == [thing, thing]
    assert says(broken).json_ld is UNSET


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (ld('{"a":1}', " APPLICATION/ld+json; charset=utf-8"), [{"a": 1}]),
        (ld('{"a":1}', "application/json"), UNSET),
        (ld('<!-- {"a":1} -->'), [{"a": 1}]),
        (ld('//<![CDATA[\n{"a":1}\n//]]>'), [{"a": 1}]),
        (ld('/* <![CDATA[ */{"a":1}/* ]]> */'), [{"a": 1}]),
        (ld('{"a":"\n\t"}'), [{"a": "\n\t"}]),
        (ld('{"a":"\\ud800"}'), [{"a": "\ufffd"}]),
        (ld('{"a":"\\ud83d\\ude00", "\\udc00":"\n"}'), [{"a": "\U0001f600", "\ufffd": "\n"}]),
        (ld('{"a":1};'), [{"a": 1}]),
        (ld('\ufeff{"a":1}'), [{"a": 1}]),
        (ld('{"a":[1,],"b":",]",}'), [{"a": [1], "b": ",]"}]),
        (ld('{"a":1}\n{"b":2}'), [{"a": 1}, {"b": 2}]),
        (ld('{"a":1}{"b":'), [{"a": 1}]),
        (ld('{"a":NaN}'), UNSET),
        (ld("{&quot;a&quot;:1}"), UNSET),
        (ld('{"a":1e999}'), UNSET),
        (ld('{"a":"&amp;"}'), [{"a": "&amp;"}]),
        (ld("[]"), UNSET),
        (ld('"a"') + ld("null") + ld("{}"), [{}]),
        ("<script>{}</script>", UNSET),
    ],
)
def test_json_ld_is_read_as_pages_have_it(page: str, found: Any) -> None:
    """Wrappers and small faults are passed over; what no person reads as JSON-LD is left out."""
    assert says(page).json_ld == found


def test_json_ld_may_nest_as_deep_as_documented() -> None:
    """The bound holds in any Python, and far beyond it nothing breaks."""
    for depth in (MAX_NESTING, MAX_NESTING + 1, 900, 100_000):
        for inner in ("", "1"):
            text = '{"a":' + "[" * (depth - 1) + inner + "]" * (depth - 1) + "}"
            assert (says(ld(text)).json_ld is UNSET) == (depth > MAX_NESTING)


@pytest.mark.parametrize(
    ("page", "title"),
    [
        ("<body><svg><title>icon</title></svg>", UNSET),
        ("<body><math><mi><title>x</title></mi><title>y</title></math>", UNSET),
        ("<body><svg><title>icon</title></svg><p><title>page</title>", "page"),
        ("<body><b><svg><g><title>icon</title></g></svg></b><i><title> </title>", ""),
        ("<title>head</title><svg><title>icon</title></svg>", "head"),
    ],
)
def test_an_image_s_title_is_not_the_page_s(page: str, title: Any) -> None:
    """The title of an inline SVG, before or instead of the page's, does not stand for it."""
    assert says(page).title == title


def test_links_have_the_text_that_is_read() -> None:
    """A line break in a link parts words, a style in it is no text."""
    tree = LexborHTMLParser("<a href=x>a<br>b<style>c</style></a><a href='ftp://x/'>no</a>")
    assert links_of(tree, Base(URL), lambda _: None, free) == [
        Link("http://example.com/dir/x", "a b")
    ]


@pytest.mark.parametrize(
    "page",
    [
        "<body><svg>" + "<g>" * 20_000 + "<title></title>" * 20_000,
        ld("[" * 1_000_000),
        ld("[[]]") * 10_000,
        "<meta name=twitter:a property=og:b content=c>" * 20_000,
        "<link href=x rel='" + "a " * 300_000 + "icon'>",
        "<meta http-equiv=content-language content='" + " " * 500_000 + "'>",
    ],
    ids=["titles", "deep", "scripts", "metas", "types", "spaces"],
)
def test_hostile_pages_take_linear_time(page: str) -> None:
    """What would be slow for a selector, a decoder or a pattern is not."""
    tree = LexborHTMLParser(page)
    start = time.process_time()
    metadata_of(tree, Base(URL))
    assert time.process_time() - start < scaled(1)


def test_an_empty_part_gives_way_to_the_next() -> None:
    """An empty title, description or property is no answer where a later one is good."""
    page = (
        "<title> </title><title>T</title><meta name=description content=' '>"
        "<meta property=description content=D><meta property=og:title content>"
        "<meta name=og:title content=O><link rel=canonical href=''><link rel=canonical href=/c>"
    )
    found = says(page)
    assert (found.title, found.description, found.opengraph) == ("T", "D", {"title": "O"})
    assert found.canonical == resolve(URL, "/c")


@pytest.mark.parametrize("inside", ["svg", "math", "template"])
def test_what_only_has_the_name_of_html_is_not_the_pages(inside: str) -> None:
    """In a picture, formula or template, `base`, `link` and `title` are not the document's."""
    page = (
        f"<body><{inside}><base href=http://no.example/><link rel=canonical href=/no>"
        f"<title>no</title></{inside}><link rel=canonical href=/c>"
    )
    found = says(page)
    assert found.title is UNSET
    assert found.canonical == resolve(URL, "/c")


def test_html_inside_of_a_picture_is_html() -> None:
    """HTML standard: in `foreignObject` elements are HTML's again, so a `link` counts."""
    page = "<body><svg><foreignObject><link rel=canonical href=/c></foreignObject></svg>"
    assert says(page).canonical == resolve(URL, "/c")


@pytest.mark.parametrize("piece", ['"\\"', ",", "[", "{}", "<!--", ";", '{"a":', "//", " ,", "*/"])
def test_a_broken_script_takes_linear_time(piece: str) -> None:
    """Three hundred thousand characters that are not JSON take no more than some tenths."""
    began = time.process_time()
    values_in(piece * (300_000 // len(piece)))
    values_in("{" + piece * (300_000 // len(piece)))
    assert time.process_time() - began < scaled(2.0)


@pytest.mark.parametrize(
    ("content", "delay", "url"),
    [
        # HTML standard, "shared declarative refresh steps", step by step
        ("5; url=/a", 5, "http://example.com/a"),
        ("0;URL='next.html'", 0, "http://example.com/dir/next.html"),
        ('  7.9 , UrL \t= \n"b.html" trailing', 7, "http://example.com/dir/b.html"),
        ("3", 3, URL),
        ("3;", 3, URL),
        ("3 ", 3, URL),
        (".5;url=/a", 0, "http://example.com/a"),
        ("0 /a", 0, "http://example.com/a"),
        ("0;/a", 0, "http://example.com/a"),
        ("0;'/a';x", 0, "http://example.com/a"),
        ("0;url=/a;b", 0, "http://example.com/a;b"),
        ("0;url='/a", 0, "http://example.com/a"),
        ("0;url", 0, "http://example.com/dir/url"),
        ("0;u", 0, "http://example.com/dir/u"),
        ("0;url =", 0, URL),
        ("0;ur='x'", 0, "http://example.com/dir/ur='x'"),
        ("1..2.3;url=/a", 1, "http://example.com/a"),
        ("0;url=mailto:a@b", 0, "mailto:a@b"),
        ("0;url=https://other.example", 0, "https://other.example/"),
        (f"{'0' * 5000}5;url=/a", 5, "http://example.com/a"),
        (f"{'9' * 5000};url=/a", 2**31 - 1, "http://example.com/a"),
    ],
)
def test_a_refresh_is_read_as_browsers_read_it(content: str, delay: int, url: str) -> None:
    """The delay in whole seconds, and where the page would lead."""
    page = f'<meta http-equiv=Refresh content="{content.replace(chr(34), "&quot;")}">'
    said = metadata_of(LexborHTMLParser(page), Base(URL), url=URL)
    assert said.refresh == Refresh(delay, url)


@pytest.mark.parametrize(
    "content",
    ["", ";url=/a", "url=/a", "-1;url=/a", "5x;url=/a", "0;url=javascript:x()", "0;url=http://["],
)
def test_a_refresh_that_browsers_ignore_gives_way_to_the_next(content: str) -> None:
    """Only one that they would obey keeps a later one from being obeyed."""
    first = f"<meta http-equiv=refresh content='{content}'>"
    page = f"{first}<meta http-equiv=refresh content='1;url=/b'>"
    assert says(first).refresh is UNSET
    assert says(page).refresh == Refresh(1, "http://example.com/b")


def test_a_refresh_goes_by_the_base_but_without_a_url_by_the_page() -> None:
    """A `<base>` is where references start from, and not what is loaded again."""
    base = Base("http://other.example/x/")
    for content, url in (("1;url=y", "http://other.example/x/y"), ("1", URL)):
        tree = LexborHTMLParser(f"<meta http-equiv=refresh content='{content}'>")
        assert metadata_of(tree, base, url=URL).refresh == Refresh(1, url)
