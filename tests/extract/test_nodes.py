"""What the text of an element is: by what a browser shows, on cases and on real pages.

May touch: tests/data/text.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from scraperd.extract.nodes import text_of
from tests.rig.clocks.effort import scaled

DATA = Path(__file__).resolve().parents[1] / "data" / "text"
CASES = json.loads((DATA / "cases.json").read_text(encoding="utf-8"))
PAGES = sorted(DATA.glob("*.html"))

# Where we differ from the browser: our answer, and why.
DIFFERENT = {
    "<textarea>a b</textarea>": "a b",  # what a form holds when it comes is on the page
    "<details><summary>s</summary>d</details>": "s d",  # a click away: on the page all the same
    "<p hidden>h</p>v": "h v",  # states are for scripts and CSS, which we do not run
    "<dialog>d</dialog>x": "d x",  # the same
    "<datalist><option>a</datalist>x": "a x",  # the same: shown while one types
    "a<noscript>n</noscript>b": "anb",  # we run no scripts, so it is for us
    "<video>fallback</video>x": "fallbackx",  # we play nothing, so it is for us
    "<object>fallback</object>x": "fallbackx",  # the same
    "<canvas>fallback</canvas>x": "fallbackx",  # the same
    # for those who can't set the one text above the other, as on one line
    "<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>": "漢(kan)",
    # a browser sets variables in italic letters, and a formula's parts side by side as blocks
    "<math><mi>a</mi><mi>b</mi></math>": "ab",
}


def text(page: str, selector: str = "#x") -> str:
    """The text of the first element that the selector finds."""
    node = LexborHTMLParser(page).css_first(selector)
    assert node is not None
    return text_of(node)


@pytest.mark.parametrize(("markup", "shown"), CASES)
def test_a_text_is_what_a_browser_shows(markup: str, shown: str) -> None:
    """Words are parted, joined and left out as in Chromium's innerText, but for what is listed."""
    ours = text(f"<!doctype html><div id=x>{markup}</div>")
    browser = " ".join(shown.split())
    assert ours == DIFFERENT.get(markup, browser)
    assert (ours != browser) == (markup in DIFFERENT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_real_page_s_text_is_what_a_browser_shows(page: Path) -> None:
    """The whole text of pages of two manuals is Chromium's, without its style sheets."""
    shown = page.with_suffix(".txt").read_text(encoding="utf-8")
    assert text(page.read_text(encoding="utf-8"), "body") == shown.strip()


def test_the_cases_are_all_there() -> None:
    """No listed difference has lost its case, and no page its answer."""
    assert DIFFERENT.keys() <= {markup for markup, _ in CASES}
    assert len(PAGES) == len(list(DATA.glob("*.txt"))) == 6


@pytest.mark.parametrize(
    ("page", "selector", "found"),
    [
        ('<script>{"a": 1 <2}</script>', "script", '{"a": 1 <2}'),
        ("<style>p { }</style>", "style", "p { }"),
        ("<title> a\n b</title>", "title", "a b"),
        ("<textarea> a </textarea>", "textarea", "a"),
        ("<template><p>a</p></template>", "template", ""),
        ("<iframe><b>a</b></iframe>", "iframe", "<b>a</b>"),
        ("<a><script>x</script></a>", "a", ""),
        ("<a><b><script>x</script></b></a>", "a", ""),
        ("<a><!-- x --></a>", "a", ""),
        ("<a><b><i>x  y</i></b></a>", "a", "x y"),
        ("<br>", "br", ""),
        ("<svg><script>a<!-- b -->c</script></svg>", "script", "ac"),
        ("<p>\x85\x1c\u2029\ufeffa</p>", "p", "\ufeffa"),
    ],
)
def test_the_text_of_one_element(page: str, selector: str, found: str) -> None:
    """Source is text only of its own element; an only child's text needs no markup to be read."""
    assert text(page, selector) == found


@pytest.mark.parametrize(
    ("markup", "times"),
    [("<span>", 100_000), ("<b>x<i>", 50_000), ("<div>x", 10_000)],  # lexbor: div² to parse
)
def test_deep_pages_are_read_in_linear_time(markup: str, times: int) -> None:
    """A page of 100,000 nested elements does not overflow the stack, nor take seconds."""
    tree = LexborHTMLParser(markup * times + "end")
    assert tree.root is not None
    start = time.process_time()
    found = text_of(tree.root)
    assert time.process_time() - start < scaled(2)  # 0.1 s is usual
    assert found.endswith("end")
    assert found.count("x") == (markup * times).count("x")
