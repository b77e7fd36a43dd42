"""Pages and rules for comparing two ways to search a page: real, golden, hostile and by chance.

May touch: tests/data, the manuals that tests/rig/sites/pages.py finds, Hypothesis.
Must never: know how a page is searched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from tests.rig.debs import DebsError
from tests.rig.sites.pages import html_files, java_docs, postgres_docs, python_docs

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA: Final = Path(__file__).parents[1] / "data"
RULES: Final[dict[str, Any]] = {
    "title": "title",
    "links": {"selector": "a[href]", "output": "@href", "type": "list"},
    "images": {"selector": "img, source[src]", "output": "@src", "type": "list"},
    "names": {"selector": "a", "output": "@name", "type": "list"},
    "headings": {"selector": "h1, h2, h3", "type": "list"},
    "first": {"selector": ["main h1", "h1"], "output": "html"},
    "deep": {"selector": "div p a, section > p", "type": "list", "limit": 40},
    "items": {
        "selector": "li, dt",
        "type": "list",
        "limit": 30,
        "output": {
            "link": "a@href",
            "all": {"selector": "*", "type": "list", "limit": 5},
            "own": {"output": "@class"},
            "html": {"selector": "a, b", "output": "html"},
        },
    },
    "table": {"selector": "table", "output": "table", "header": True},
    "classes": {"selector": ".a, .b, .title", "type": "list", "output": "@class"},
    "numbers": {"selector": "td", "type": "list", "limit": 20, "regex": "[0-9]+", "cast": "int"},
    "urls": {"selector": "p", "type": "list", "limit": 20, "regex": "\\S+", "cast": "url"},
    "second": {"selector": "li:nth-child(2)", "type": "list", "limit": 20},
}
_TAGS: Final = (
    "a abbr area b base body br button code div dl dt em font form frameset h1 h2 head html i"
    " iframe img li link main math meta noscript option p plaintext pre script section select"
    " source span style svg table tbody td template text textarea th thead title tr ul x video xmp"
).split()
_NAMES: Final = (
    "class content href http-equiv id lang name property rel src type xlink:href HREF title colspan"
).split()
_REFERENCES: Final = (
    "# #a / /a //h/a ../ ../a ../../a ./a a a/b a?b=c a#b ?q . .. http://h/a https://e.org http: g:"
    " http://E.org:80/?a#b mailto:a@b a;b=c a\\b http://[::1]/ http://u@h/ http://h/%20 a%2e/b"
    " canonical icon og:url twitter:image description content-language 2 0 -1 a,b é"
).split()


def real() -> Iterator[Path]:
    """Every HTML page of tests/data and of the manuals of PostgreSQL and Python; some of Java's."""
    yield from sorted(DATA.rglob("*.html"))
    for manual, every in ((postgres_docs, 1), (python_docs, 1), (java_docs, 10)):
        try:
            yield from html_files(manual())[::every]
        except DebsError:
            continue


def references() -> st.SearchStrategy[str]:
    """What may stand in an `href`: plain forms, and pieces of URLs put together."""
    pieces = st.sampled_from(
        [*"./?#:;@&=%\\ ~é\t", "..", "a", "b1", "http", "https://", "h", "x.y"]
    )
    made = st.lists(pieces, max_size=8).map("".join)
    return st.one_of(st.sampled_from(_REFERENCES), made, st.text(max_size=12))


def documents() -> st.SearchStrategy[bytes]:
    """Pages of any tags, attributes and texts, well nested or not, and of any bytes."""
    value = st.one_of(references(), st.sampled_from(["a", "b title", "", "A\u00a0b"]))
    attribute = st.tuples(st.sampled_from(_NAMES), st.sampled_from(["'", '"', ""]), value).map(
        lambda it: f" {it[0]}={it[1]}{it[2]}{it[1]}"
    )
    attributes = st.lists(st.one_of(attribute, st.sampled_from([" href", " class"])), max_size=4)
    opened = st.tuples(st.sampled_from(_TAGS), attributes).map(
        lambda it: f"<{it[0]}{''.join(it[1])}>"
    )
    closed = st.sampled_from(_TAGS).map(lambda tag: f"</{tag}>")
    text = st.one_of(
        st.text(max_size=8),
        st.sampled_from([" ", "\n", "a", "&amp;", "&#0;", "&#xd800;", "\u2003x", "\x1c", "1,5"]),
        st.sampled_from(["<!--x-->", "<!doctype html>", "<![CDATA[x]]>", "<?x>", "<", "</"]),
    )
    piece = st.one_of(opened, opened, closed, text)
    page = st.lists(piece, max_size=40).map(lambda it: "".join(it).encode("utf-8", "replace"))
    return st.one_of(page, page, page, st.binary(max_size=60))
