"""Tests of the bounds of the compiled tree: each ends the parsing at once, and nothing is left.

May touch: the compiled tree, some seconds of a processor, this process's memory.
Must never: let a page pass a bound by a form that no person writes.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scraperd.extract.compiled import engine
from scraperd.extract.compiled.engine import BOUNDS, Beyond, Bounds
from scraperd.extract.cost import Shape
from scraperd.extract.document import BOUNDED_PAGE
from tests.rig.clocks.effort import scaled

pytestmark = pytest.mark.skipif(not engine.AVAILABLE, reason="the compiled tree is not built here")


def tree_of(page: bytes, **bounds: Any) -> Any:
    """The compiled tree of a page, under other bounds."""
    from scraperd.extract.compiled.tree import Tree

    return Tree(page, Bounds(**({"seconds": 9.0} | bounds)))


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "words"),
    [
        ({"depth": 9}, b"<b>" * 7, b"<b>" * 9, "open elements"),
        ({"tags": 9}, b"<p></p>" * 4, b"<p></p>" * 5, "tags"),
        ({"attributes": 3}, b"<p a b c>", b"<p a b c d>", "attributes of a tag"),
        ({"attributes": 3}, b"<p a b c><p d e f>" * 9, b"</p a b c d>", "attributes of a tag"),
        ({"rich": 2}, b"<p a b c><b a b>", b"<b a b c>", "attributes of a tag"),
        ({"formatting": 3}, b"<b><i><u><p>", b"<b><i><u><s><p>", "formatting elements"),
        ({"memory": 300_000}, b"<p>x", b"<p>x" * 3_000, "bytes of memory"),
        ({"seconds": 0.001}, b"<p>x", b"<p>x" * 50_000, "seconds"),
        ({}, b"<select><option>", b"<select><selectedcontent>", "copies of options"),
    ],
)
def test_each_bound_ends_the_parsing(
    bounds: dict[str, Any], good: bytes, bad: bytes, words: str
) -> None:
    """A page within a bound is parsed, and one beyond it is not; the bound is named."""
    from scraperd.extract.compiled import tree

    assert tree_of(good, **bounds).elements
    with pytest.raises(tree.Beyond, match=f"^{words}$"):
        tree_of(bad, **bounds)
    assert tree_of(good, **bounds).elements  # nothing is left of the page before


def test_the_error_is_the_engines_own() -> None:
    """Whoever asks for a tree knows one error, and the bounds that the loop has."""
    with pytest.raises(Beyond, match="open elements"):
        engine.parse(b"<div>" * 600, bounded=True)


def hostile() -> dict[str, bytes]:
    """Pages of the largest size that make a parser work, or take memory, as much as they can."""
    size = BOUNDED_PAGE
    numbered = b" ".join(b"%x" % n for n in range(size // 6))
    return {
        "divs": b"<div>" * (size // 5),
        "paragraphs": b"<p>" * (size // 3),
        "attributes": b"<p " + numbered + b">",
        "attributes of an end tag": b"</p " + numbered + b">",
        "attributes of a doctype": b"<!doctype " + numbered + b">",
        "names": b"".join(b"<p %x>" % n for n in range(size // 9)),
        "tags": b"".join(b"<x%x></x%x>" % (n, n) for n in range(size // 14)),
        "bodies": b"".join(b"<body a%x b%x c%x>" % (n, n, n) for n in range(size // 26)),
        "reopened": b"<p>" + b"".join(b"<b c=%x>" % n for n in range(60)) + b"<p>x" * (size // 4),
        "rich": b"<p>"
        + b"".join(b"<b %s c=%x>" % (numbered[:150], n) for n in range(60))
        + b"<p>x" * (size // 5),
        "options": b"<select>" + b"<option>" * (size // 8),
        "texts": b"<table>" + b"x</q>" * (size // 5),
        "fostered": b"<table>" + b"x<tr>" * (size // 5),
        "long value": b"<a z='" + b"y" * (size // 2) + b"'>" + b"<p>x" * (size // 8),
        "references": b"&#1;&am" * (size // 7),
        "templates": b"<template>" * (size // 10),
        "adoption": b"<a><p>" * (size // 12) + b"</a>" * 99,
        "tables": b"<table><tr><td>" * (size // 15),
        "forms": b"<form><div></form>" * (size // 18),
        "comments": b"<!>" * (size // 3),
        "foreign": b"<svg><desc><math>" * (size // 17),
        "frames": b"<frameset>" * (size // 10),
    }


@pytest.mark.parametrize("name", hostile())
def test_no_page_holds_the_loop_while_it_is_parsed(name: str) -> None:
    """Whatever the page, the parsing ends within twice its bound of time, and a half of memory."""
    page = hostile()[name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    best = 9.0
    for _ in range(3):
        began = time.thread_time()
        with suppress(Beyond):
            engine.parse(page, bounded=True)
        best = min(best, time.thread_time() - began)
    assert best < 2 * BOUNDS.seconds or best < scaled(2 * BOUNDS.seconds)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 1.5 * BOUNDS.memory


def test_a_tree_that_was_refused_leaves_no_memory() -> None:
    """Thousands of refused pages, and of pages searched, leave this process as large as it was."""
    from scraperd.extract.compiled import tree

    pages = [b"<p a b c d>" * 400, b"<div>" * 600, b"<p><a href=x>y</a>" * 400]

    def used() -> int:
        return int(Path(f"/proc/{os.getpid()}/statm").read_text().split()[1]) * 4096

    def work(times: int) -> None:
        for _ in range(times):
            for page in pages:
                with suppress(tree.Beyond):
                    found = tree_of(page, attributes=3, depth=500)
                    assert len(found.css("p > a, a")) == 800
                    assert found.css("a")[0].html

    work(100)
    before = used()
    work(700)
    assert used() - before < 4_000_000


def test_a_tree_knows_its_shape() -> None:
    """What decides how long a search takes is counted, not estimated."""
    page = (
        b"<!--x--><html><head></head><body a b c><p class='aa bb'><i title=12345678>x</i>y<br>z</p>"
        b"<ul><li><li><li><li>"
    )
    shape = engine.shape_of(engine.parse(page, bounded=True))  # type: ignore[arg-type]
    assert shape == Shape(elements=11, depth=4, beside=4, comments=1, classes=5, value=8, listed=3)


def test_nodes_outlive_the_name_of_their_tree() -> None:
    """A node keeps the tree that it is in; a tree keeps nothing."""
    node = engine.parse(b"<p>a<b>c</b></p>", bounded=True).css_first("b")
    assert node is not None
    assert node.parent is not None
    assert (node.tag, node.parent.tag, node.html) == ("b", "p", "<b>c</b>")


def test_what_is_no_selector_is_refused() -> None:
    """A selector that lexbor can't read is an error, and the next one is read."""
    from scraperd.extract.compiled.tree import SelectorError

    tree: Any = engine.parse(b"<p>x", bounded=True)
    for wrong in ("p[", ":nope(", ""):
        with pytest.raises(SelectorError):
            tree.css(wrong)
        assert len(tree.css("p:first-child")) == 1
