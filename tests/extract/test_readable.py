"""The readable text of pages: real manuals whose main element is known, and pages that attack.

May touch: the packaged manuals, selectolax to find their main element, subprocesses.
Must never: take a whole page's text for its main content.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from scraperd.extract.readable import AVAILABLE, readable
from tests.rig.clocks.effort import scaled
from tests.rig.sites.pages import html_files, postgres_docs, python_docs

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = CHECKOUT / "tests/data/readable"
SENTENCE = "The keeper of the light wrote that the storm had lasted for three days. "

_ALONE = """
import hashlib, sys
from pathlib import Path
from scraperd.extract.readable import readable
pages = [Path(name).read_bytes() for name in sys.argv[1:]]
readable(b"<p>short</p>")
touched = []
def look(event, _):
    if event.startswith(("open", "os.", "socket.", "subprocess.")):
        touched.append(event)
sys.addaudithook(look)
texts = [readable(page) for page in pages]
assert not touched, touched
print(hashlib.sha256("|".join(texts).encode()).hexdigest())
"""


def words(text: str) -> Counter[str]:
    """The words of a text, each with how often it is there."""
    return Counter(re.findall(r"\w+", text))


def scores(pages: list[Path], main: str, furniture: str) -> tuple[float, float, int]:
    """Mean precision and recall of words against `main` without `furniture`; and of how many.

    Pages that are mostly links, or hold next to nothing, have no readable text to be right about.
    """
    found: list[tuple[float, float]] = []
    for path in pages:
        page = path.read_bytes()
        tree = LexborHTMLParser(page)
        for node in tree.css(f"script, style, {furniture}"):
            node.decompose()
        element = tree.css_first(main)
        if element is None:
            continue
        truth = words(element.text(separator=" "))
        links = words(" ".join(a.text(separator=" ") for a in element.css("a")))
        if truth.total() < 100 or links.total() > truth.total() / 2:
            continue
        got = words(readable(page))
        right = (got & truth).total()
        found.append((right / max(got.total(), 1), right / truth.total()))
    return mean(p for p, _ in found), mean(r for _, r in found), len(found)


def run(script: str, *args: str, **env: str) -> str:
    """What a fresh interpreter prints; it has to end well and to say nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *args],
        cwd=CHECKOUT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_python_manual() -> None:
    """Of Python's manual, nearly all words are of the element `role=main`, and most are there."""
    pages = html_files(python_docs())[::16]
    precision, recall, count = scores(pages, "[role=main]", "[role=navigation]")
    assert count > 15
    assert precision > 0.98
    assert recall > 0.94


def test_postgres_manual() -> None:
    """Of PostgreSQL's manual, which marks no main element, the same holds by its navigation."""
    precision, recall, count = scores(
        html_files(postgres_docs())[::25], "body", ".navheader, .navfooter"
    )
    assert count > 30
    assert precision > 0.98
    assert recall > 0.92


def test_article() -> None:
    """An article comes whole and in order, in lines, without what stands around it."""
    text = readable((DATA / "article.html").read_bytes())
    assert text + "\n" == (DATA / "article.txt").read_text()


def test_page_without_an_article() -> None:
    """A list of links still gives its lines, and not the site's footer."""
    lines = readable((DATA / "index.html").read_bytes()).split("\n")
    assert "Storm takes the roof of the old cannery" in lines
    assert not any("Imprint" in line for line in lines)


@pytest.mark.parametrize("page", [b"", b" \n", b"<!doctype html>", b"<title>x</title>", b"<!-- x"])
def test_nothing_there(page: bytes) -> None:
    """A page that holds no content has the empty text."""
    assert not readable(page)


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (b"<p>one", "one"),
        (b"no markup at all", "no markup at all"),
        (b"http://127.0.0.1:1/", "http://127.0.0.1:1/"),
        ("<meta charset=latin1><p>\xe9t\xe9".encode(), "\xe9t\xe9"),
        ('<?xml version="1.0" encoding="utf-16"?><p>\xe9t\xe9'.encode(), "\xe9t\xe9"),
        (b"\xef\xbb\xbf<p>mark", "mark"),
        (b"<p>a\0b &#xD800;", "a\ufffdb \ufffd"),
    ],
)
def test_bytes_are_utf8_html(page: bytes, text: str) -> None:
    """Whatever a page looks like or claims to be, it is read as HTML in UTF-8."""
    assert readable(page) == text


def test_nothing_is_unpacked() -> None:
    """A compressed page is not unpacked: what was fetched is all that a page can grow from."""
    assert "bomb" not in readable(gzip.compress(b"<p>bomb</p>" * 9))


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        ("<body>", "<p>ab, cd"),
        ("<ul>", "<li>ab"),
        ("<body>", "<p><a href=x>y z</a>"),
        ("", "<div>hello world<p>"),
        ("", "<p><b><i><u>"),
        ("<p>", "word "),
        ("<table>", "<tr><td>a<td>b"),
        ("", '<div class="comment share nav-a b">x y</div>'),
        ("<p>a", " "),
        ("", "</p><b><i></b></i><td></table><p "),
        ('<script type="application/ld+json">{"articleBody":"', "<p>a"),
        ('<script type="application/ld+json">', "["),
    ],
)
def test_cost_is_linear(head: str, piece: str) -> None:
    """Eight times the hostile page costs about eight times the processor time."""

    def cost(size: int) -> float:
        page = (head + piece * (size // len(piece))).encode()
        start = time.process_time()
        readable(page)
        return time.process_time() - start

    readable(b"<p>short</p>")
    assert cost(80_000) < 24 * max(cost(10_000), scaled(0.010))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(page: bytes) -> None:
    """No bytes make it raise, and the same bytes give the same text, fit for UTF-8."""
    text = readable(page)
    assert text.encode().decode() == readable(page)


_TAGS = "html body p div a br table td ul li article main h1 pre title svg script frameset".split()
_PIECES = st.one_of(
    st.sampled_from([f"<{tag}>" for tag in _TAGS] + [f"</{tag}>" for tag in _TAGS]),
    st.sampled_from(["<div class=comment>", "<a href='//['>", "<!-- ", "&#0;", "\x0b", SENTENCE]),
    st.text(max_size=20),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_PIECES, max_size=60))
def test_any_markup(pieces: list[str]) -> None:
    """No markup makes it raise, and the same markup gives the same text, fit for UTF-8."""
    page = "".join(pieces).encode("utf-8", "replace")
    text = readable(page)
    assert text.encode().decode() == readable(page)


def test_same_everywhere() -> None:
    """Text depends on no hash seed, locale, time zone or order, and on no file or socket."""
    pages = [str(path) for path in html_files(python_docs())[5::60]]
    one = run(_ALONE, *pages, PYTHONHASHSEED="1", TZ="Asia/Tokyo", LC_ALL="C")
    other = run(_ALONE, *pages, PYTHONHASHSEED="2", TZ="America/Lima", LC_ALL="C.UTF-8")
    assert one == other


def test_optional() -> None:
    """Without the extra's packages the module still loads, and says that it is not available."""
    script = "from scraperd.extract.readable import AVAILABLE; print(AVAILABLE)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
    assert AVAILABLE
