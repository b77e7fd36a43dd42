"""What rules find on a page: by hand-made pages, by RFC 3986, by another parser on real pages.

May touch: html5lib through `benchmarks.truth`, the packaged manuals.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from benchmarks.truth import read
from scraperd.contract import Link, Metadata, check_url
from scraperd.page.extract import Allowance, Extract, extract
from scraperd.page.rules import Rules, compile_rules
from scraperd.page.tree import Base, _absolute
from tests.rig.pages import html_files, python_docs

URL = "http://example.com/dir/page.html?q=1"

PAGE = """<!doctype html>
<html lang="en-GB"><head>
<title> The
  &quot;Shop&quot;&nbsp;&amp; more </title>
<meta name="Description" content="All we sell">
<meta property="og:title" content="Shop"><meta property="og:image" content="/i.png">
<meta property="og:title" content="second"><meta property="twitter:x" content="no">
<link rel="alternate Canonical" href="/shop">
</head><body>
<h1>Shop <b>one</b><!-- not this -->, two</h1>
<div class=product data-id=1><h2>Ball</h2><a href="ball?a=1&amp;b=2">buy</a></div>
<div class=product data-id=2><h2>Bat</h2><a href="//cdn.example/bat" rel="x ugc">buy</a></div>
<div class=product data-id=3 hidden><h2></h2></div>
<img src="i.png" alt=""><form action="?s"></form><input disabled value="a b">
<p id=p>caf\xe9 \U0001f600 <i>x</i>\n\ty</p>
</body></html>""".encode()


def _extract(
    page: bytes,
    url: str,
    *,
    rules: Rules | None = None,
    links: bool = False,
    metadata: bool = False,
    allowance: Allowance | None = None,
) -> Extract:
    """Extract with bounds that nothing here reaches."""
    ample = allowance or Allowance(matches=10**6, output=10**8)
    return extract(page, url, rules=rules, links=links, metadata=metadata, allowance=ample)


def found(rules: Any, page: bytes = PAGE, url: str = URL) -> Any:
    """The data that rules find on a page."""
    compiled = compile_rules(json.dumps(rules).encode())
    return _extract(page, url, rules=compiled).data


def links_of(page: str, url: str = URL) -> list[Link]:
    """The links of a page."""
    links = _extract(page.encode(), url, links=True).links
    assert isinstance(links, list)
    return links


def metadata_of(page: bytes) -> Metadata:
    """What a page says of itself."""
    metadata = _extract(page, URL, metadata=True).metadata
    assert isinstance(metadata, Metadata)
    return metadata


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        ("title", 'The "Shop" & more'),
        ("h1", "Shop one, two"),
        ("#p", "caf\xe9 \U0001f600 x y"),
        ("h6", None),
        ({"selector": "h1"}, "Shop one, two"),
        ({"selector": "h1", "output": "text", "type": "item"}, "Shop one, two"),
        ({"selector": "h1 b", "output": "html"}, "<b>one</b>"),
        ({"selector": "h2", "type": "list"}, ["Ball", "Bat", ""]),
        ({"selector": "h6", "type": "list"}, []),
        ({"selector": ".product", "output": "@data-id", "type": "list"}, ["1", "2", "3"]),
        ({"selector": ".product", "output": "@DATA-ID"}, "1"),
        ({"selector": ".product", "output": "@missing"}, None),
        ({"selector": "input", "output": "@disabled"}, ""),
        ({"selector": "input", "output": "@value"}, "a b"),
        ({"selector": "img", "output": "@alt"}, ""),
        ({"selector": "img", "output": "@src"}, "http://example.com/dir/i.png"),
        ({"selector": "form", "output": "@action"}, "http://example.com/dir/page.html?s"),
        ({"selector": "a", "output": "@href"}, "http://example.com/dir/ball?a=1&b=2"),
        ({"selector": "a[rel~=ugc]", "output": "@href"}, "http://cdn.example/bat"),
        ({"selector": "a:not([rel])"}, "buy"),
        ({"selector": ".product:has(h2:empty)", "output": "@data-id"}, "3"),
        ({"selector": ".product", "output": {"name": "h2"}}, {"name": "Ball"}),
        ({"selector": ".nothing", "output": {"name": "h2"}}, None),
        ({"selector": ".product", "output": {}}, {}),
        (
            {
                "selector": ".product",
                "type": "list",
                "output": {"n": "h2", "u": {"selector": "a", "output": "@href"}, "title": "title"},
            },
            [
                {"n": "Ball", "u": "http://example.com/dir/ball?a=1&b=2", "title": None},
                {"n": "Bat", "u": "http://cdn.example/bat", "title": None},
                {"n": "", "u": None, "title": None},
            ],
        ),
    ],
)
def test_a_rule_finds_its_value(rule: Any, value: Any) -> None:
    """Each output, type and nesting gives the value that is on the page, and null where none is."""
    assert found({"x": rule}) == {"x": value}


def test_nothing_is_taken_that_was_not_asked_for() -> None:
    """No rules, no links, no metadata: nothing comes back."""
    assert _extract(PAGE, URL) == Extract()
    assert found({}) == {}


# RFC 3986 section 5.4, with what browsers do where the RFC lets them: reference -> target
RFC_3986 = {
    "g:h": "g:h",
    "g": "http://a/b/c/g",
    "./g": "http://a/b/c/g",
    "g/": "http://a/b/c/g/",
    "/g": "http://a/g",
    "//g": "http://g",
    "?y": "http://a/b/c/d;p?y",
    "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q#s",
    "g#s": "http://a/b/c/g#s",
    "g?y#s": "http://a/b/c/g?y#s",
    ";x": "http://a/b/c/;x",
    "g;x": "http://a/b/c/g;x",
    "g;x?y#s": "http://a/b/c/g;x?y#s",
    "": "http://a/b/c/d;p?q",
    ".": "http://a/b/c/",
    "./": "http://a/b/c/",
    "..": "http://a/b/",
    "../": "http://a/b/",
    "../g": "http://a/b/g",
    "../..": "http://a/",
    "../../": "http://a/",
    "../../g": "http://a/g",
    "../../../g": "http://a/g",
    "../../../../g": "http://a/g",
    "/./g": "http://a/g",
    "/../g": "http://a/g",
    "g.": "http://a/b/c/g.",
    ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..",
    "..g": "http://a/b/c/..g",
    "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/",
    "g/./h": "http://a/b/c/g/h",
    "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y",
    "g;x=1/../y": "http://a/b/c/y",
    "g?y/./x": "http://a/b/c/g?y/./x",
    "g?y/../x": "http://a/b/c/g?y/../x",
    "g#s/./x": "http://a/b/c/g#s/./x",
    "g#s/../x": "http://a/b/c/g#s/../x",
    "http:g": "http://a/b/c/g",
}


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        *RFC_3986.items(),
        (" \t\n\f\r\x01g \x1f", "http://a/b/c/g"),
        ("g\th\ni", "http://a/b/c/ghi"),
        ("\xa0g", "http://a/b/c/\xa0g"),  # no-break space is no white space in a URL
        ("g h?i j#k l", "http://a/b/c/g%20h?i%20j#k%20l"),
        ("g%20h+i&j", "http://a/b/c/g%20h+i&j"),
        ("mailto:a b@c", "mailto:a b@c"),
        ("javascript:void 0", "javascript:void 0"),
        ("data:,a b", "data:,a b"),
        ("HTTPS://G/", "https://G/"),
        ("http://[bad", "http://[bad"),
        ("é", "http://a/b/c/é"),
    ],
)
def test_a_reference_becomes_absolute(reference: str, target: str) -> None:
    """The examples of RFC 3986 section 5.4, and the white space that browsers forgive."""
    page = f'<a href="{reference}">x</a>'.encode()
    rules = {"x": {"selector": "a", "output": "@href"}}
    assert found(rules, page, "http://a/b/c/d;p?q") == {"x": target}


@pytest.mark.parametrize(
    ("head", "target"),
    [
        ("", "http://example.com/dir/x"),
        ("<base href='/b/'>", "http://example.com/b/x"),
        ("<base href='b/'>", "http://example.com/dir/b/x"),
        ("<base href='https://b.example'>", "https://b.example/x"),
        ("<base target=_top><base href='/b/'><base href='/c/'>", "http://example.com/b/x"),
        ("<base href=''>", "http://example.com/dir/x"),
        ("<base href>", "http://example.com/dir/x"),
        ("<base href='http://[bad'>", "http://example.com/dir/x"),
        ("<base href='javascript:1'>", "http://example.com/dir/x"),
        ("<base href='data:,'>", "http://example.com/dir/x"),
        ("<base href='mailto:a@b'>", "http://example.com/dir/x"),
        ("<base href='http:'>", "http://example.com/dir/x"),
    ],
)
def test_the_base_of_a_document(head: str, target: str) -> None:
    """The first base that leads to the web is obeyed, by links, rules and canonical alike."""
    page = f"{head}<link rel=canonical href=x><a href=x>x</a>"
    assert links_of(page) == [Link(target, "x")]
    assert found({"x": {"selector": "a", "output": "@href"}}, page.encode()) == {"x": target}
    assert metadata_of(page.encode()).canonical == target


def test_links_are_all_that_lead_to_the_web() -> None:
    """Anchors and areas in the page's order, with text and rel; other schemes are left out."""
    page = """<a href=a rel="next x">A <b>1</b></a><a name=n>no</a><area href=/b alt=x>
        <a href="mailto:x@y">m</a><a href="javascript:x">j</a><a href>self</a><a href="#f"></a>
        <link href=/no><svg><a href=svg>s</a></svg><a href="ftp://x/">f</a><a href=a b c>A</a><a href="HTTPS://G/">g</a>"""
    assert links_of(page) == [
        Link("http://example.com/dir/a", "A 1", "next x"),
        Link("http://example.com/b", ""),
        Link("http://example.com/dir/page.html?q=1", "self"),
        Link("http://example.com/dir/page.html?q=1#f", ""),
        Link("http://example.com/dir/svg", "s"),
        Link("http://example.com/dir/a", "A"),
        Link("https://G/", "g"),
    ]


@pytest.mark.parametrize("href", ["a b", " a ", "?a b", "ä/ö?ü", "a%zz", "//h/a\tb", "a|b", "a^b"])
def test_a_link_can_be_the_next_job_s_url(href: str) -> None:
    """What people write into href comes back as a URL that a job may have."""
    [link] = links_of(f'<a href="{href}">x</a>')
    assert check_url(link.url) is None


def test_what_a_page_says_of_itself() -> None:
    """Title, description, canonical URL, language, OpenGraph and card, the first of each."""
    assert metadata_of(PAGE) == Metadata(
        title='The "Shop" & more',
        description="All we sell",
        canonical="http://example.com/shop",
        language="en-GB",
        opengraph={"title": "Shop", "image": "/i.png"},
        twitter={"x": "no"},
    )


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"text",
        b"<html lang=''><meta name=description><meta name=description content=''>",
        b"<link rel=canonical><link rel=stylesheet href=x><meta name=og:title content=x>",
    ],
)
def test_a_page_that_says_nothing_of_itself(page: bytes) -> None:
    """What is not there is absent, not empty."""
    assert metadata_of(page) == Metadata()


def test_an_empty_title_is_a_title() -> None:
    """A title that is there and empty is told apart from none."""
    assert metadata_of(b"<title> </title>").title == ""
    assert metadata_of(b"<p>").title is UNSET


def test_an_icon_s_title_is_not_the_page_s() -> None:
    """An inline SVG before or instead of the title does not stand for it."""
    icon = b"<body><svg><title>icon</title></svg>"
    assert metadata_of(icon).title is UNSET
    assert metadata_of(icon + b"<title>page</title>").title == "page"


@pytest.mark.parametrize("number", range(12))
def test_a_real_page_reads_as_another_parser_reads_it(number: int) -> None:
    """Title, headings, every link and the metadata of real pages agree with html5lib's tree."""
    pages = sorted(html_files(python_docs()), key=lambda path: path.stat().st_size)
    page = pages[len(pages) * number // 24].read_bytes()  # the smaller half: html5lib is slow
    truth = read(page, URL)
    rules = compile_rules(b'{"t": "title", "h1": {"selector": "h1", "type": "list"}}')
    ours = _extract(page, URL, rules=rules, links=True, metadata=True)
    assert ours.data == {"t": truth.title, "h1": truth.h1}
    assert msgspec.to_builtins(ours.metadata) == truth.metadata
    assert isinstance(ours.links, list)
    assert [link.url for link in ours.links] == [url.rstrip("#") for url, _, _ in truth.links]
    texts = [(" ".join(text.split()), rel) for _, text, rel in truth.links]
    assert [(link.text, link.rel or None) for link in ours.links] == texts


SOUP = st.lists(
    st.sampled_from(
        [
            *(
                "<a href=1>",
                "<a href='/2' rel=x>",
                "</a>",
                "<p>",
                "</p>",
                "<b>",
                "</b>",
                "<i>",
                "</i>",
            ),
            *(
                "<div>",
                "</div>",
                "<ul>",
                "<li>",
                "</li>",
                "</ul>",
                "<h1>",
                "</h1>",
                "<br>",
                "</br>",
            ),
            *(
                "<title>",
                "</title>",
                "<span class=x>",
                "</span>",
                "text",
                " ",
                "&amp;",
                "&lt",
                "&#65;",
            ),
            *("<!-- c -->", "<!--", "-->", "<", ">", "</", "<a", "é", "<table>", "<tr>", "<td>"),
            *("</table>", "<form>", "</form>", "<button>", "</button>", "<script>", "</script>"),
            *("<area href='3'>", "<base href='/b/'>", "<textarea>", "</textarea>", "<body lang=x>"),
        ]
    ),
    max_size=25,
).map("".join)


@given(page=SOUP)
@settings(max_examples=150, deadline=None)
@example(page="<a href=1><table><a href='/2'>x</table>y")
@example(page="<p><b><a href=1><p>x</b>y</a>z")
def test_broken_markup_is_mended_as_the_html_standard_says(page: str) -> None:
    """On tag soup, titles, headings and links agree with another parser of the HTML standard."""
    truth = read(page.encode(), URL)
    rules = compile_rules(b'{"t": "title", "h1": {"selector": "h1", "type": "list"}}')
    ours = _extract(page.encode(), URL, rules=rules, links=True)
    assert ours.data == {"t": truth.title, "h1": truth.h1}
    assert ours.links == [Link(url, text, rel or UNSET) for url, text, rel in truth.links]


SELECTORS = st.sampled_from(
    ["a", "*", ".x", "#x", "a[href]", "p > b", "div a", ":not(a)", "li:nth-child(2n+1)", "p:has(b)"]
)
OUTPUTS = st.sampled_from(["text", "html", "@href", "@class", "@\xe9"])
RULES = st.recursive(
    st.dictionaries(
        st.text(max_size=3),
        SELECTORS
        | st.fixed_dictionaries(
            {"selector": SELECTORS},
            optional={"output": OUTPUTS, "type": st.sampled_from(["item", "list"])},
        ),
        max_size=3,
    ),
    lambda inner: st.dictionaries(
        st.text(max_size=3),
        st.fixed_dictionaries({"selector": SELECTORS, "output": inner}),
        max_size=2,
    ),
    max_leaves=3,
)
PAGES = (
    SOUP.map(str.encode)
    | st.binary(max_size=200)
    | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))
)


@given(page=PAGES, rules=RULES, base=st.sampled_from([URL, "http://[::1]/", ""]))
@settings(max_examples=200, deadline=None)
@example(page=b"<a href='/\xff\xed\xa0\x80&#xD800;\0'>\xc3</a>", rules={"a": "a"}, base=URL)
@example(page=b"<base href='//['><a href='//['>", rules={"a": "a"}, base="")
def test_any_page_gives_data_and_the_same_data_twice(page: bytes, rules: Any, base: str) -> None:
    """Whatever the bytes and the rules, extraction ends well, repeats itself and can be sent."""
    compiled = compile_rules(msgspec.json.encode(rules))
    first = _extract(page, base, rules=compiled, links=True, metadata=True)
    assert _extract(page, base, rules=compiled, links=True, metadata=True) == first
    sent = msgspec.json.encode([first.data, first.links, first.metadata])
    assert msgspec.json.decode(sent)[0] == first.data
    assert isinstance(first.data, dict)
    assert list(first.data) == list(rules)


def test_the_comparison_can_see_a_difference() -> None:
    """The parser compared with finds what is on the page, so that agreement means something."""
    assert read(PAGE, URL).h1 == ["Shop one, two"]
    assert len(read(PAGE, URL).links) == 2


@given(
    base=st.sampled_from(
        ["http://h", "http://h/", "http://h/a/b.html", "http://h/a/?q#f", "https://h:8443/x//y"]
    ),
    references=st.lists(
        st.text(alphabet="ab./#?%:@é \t&=2e;~-_", max_size=12)
        | st.sampled_from(
            ["//x/y", "http://z/../q", "mailto:a@b", "?q", "#", "x#", "../../up", "."]
        )
    ),
)
def test_the_quick_way_to_resolve_agrees_with_the_standard_one(
    base: str, references: list[str]
) -> None:
    """A page's references resolved through its cache are what urljoin makes of each alone."""
    quick = Base(base)
    for reference in references * 2:
        assert quick.resolve(reference) == _absolute(base.partition("#")[0], reference)
