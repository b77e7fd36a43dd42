"""Tables as rows: by the HTML standard's own algorithm on another parser's tree, and by hand.

May touch: html5lib, the packaged manuals.
Must never: take the code's own answer for the expected one.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import html5lib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from scraperd.extract.tables import TooManyCells, table_rows
from tests.rig.clocks.effort import scaled
from tests.rig.sites.pages import html_files, postgres_docs, python_docs

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 100_000


def rows(page: str, selector: str = "body", limit: int = LIMIT) -> list[list[str]]:
    """The rows of the first element that the selector finds."""
    node = LexborHTMLParser(page).css_first(selector)
    assert node is not None
    return table_rows(node, header=False, limit=limit)


def objects(page: str, selector: str = "body") -> list[dict[str, str]]:
    """The same, by the header's names."""
    node = LexborHTMLParser(page).css_first(selector)
    assert node is not None
    return table_rows(node, header=True, limit=LIMIT)


def span(element: Any, name: str, default: int, most: int) -> int:
    """The standard's "rules for parsing non-negative integers", and what is made of them."""
    match = re.match(r"[\t\n\f\r ]*([+-]?[0-9]+)", element.get(name, ""))
    number = int(match[1]) if match else -1
    return min(number, most) if number >= 0 else default


def formed(table: Any) -> list[list[str]]:
    """HTML standard, "Forming a table": slots as a set of cells each; then what we make of it."""
    slots: dict[tuple[int, int], list[int]] = {}
    texts: list[str] = []
    width = height = 0
    anchors = []
    sections = [e for e in table if e.tag in ("thead", "tbody", "tfoot")]
    for section in sorted(sections, key=lambda e: e.tag == "tfoot"):
        start = height
        downward: list[tuple[int, int, int]] = []
        lines = [e for e in section if e.tag == "tr"]
        end = start + len(lines)
        for y, line in enumerate(lines, start):
            height = max(height, y + 1)
            for cell, left, across in downward:
                for x in range(left, left + across):
                    slots.setdefault((x, y), []).append(cell)
            x = 0
            for element in [e for e in line if e.tag in ("td", "th")]:
                while x < width and (x, y) in slots:
                    x += 1
                across = max(span(element, "colspan", 1, 1000), 1)
                down = span(element, "rowspan", 1, 65534)
                width = max(width, x + across)
                texts.append("".join("".join(element.itertext()).split()))
                if down == 0:
                    downward.append((len(texts) - 1, x, across))
                for at in range(y, min(y + max(down, 1), end)):  # ours: no rows without a tr
                    for column in range(x, x + across):
                        slots.setdefault((column, at), []).append(len(texts) - 1)
                x += across
        anchors += list(range(start, height))
    return [
        [texts[min(slots[x, y])] if (x, y) in slots else "" for x in range(width)] for y in anchors
    ]


def tables(page: str) -> list[list[list[str]]]:
    """Every table of a page, by html5lib and the standard's algorithm."""
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    for comment in [e for e in tree.iter() if not isinstance(e.tag, str)]:
        comment.text = ""  # its text would count as its element's
    return [formed(table) for table in tree.iter("table")]


def ours(page: str) -> list[list[list[str]]]:
    """The same, by us, without the white space in texts: that is tested elsewhere."""
    return [
        [
            ["".join(text.split()) for text in row]
            for row in table_rows(n, header=False, limit=LIMIT)
        ]
        for n in LexborHTMLParser(page).css("table")
    ]


def manuals() -> Iterator[str]:
    """Pages with tables, from both manuals."""
    found = [html_files(folder) for folder in (python_docs(), postgres_docs())]
    for pages in found:
        few = [
            text
            for path in pages[:: max(len(pages) // 150, 1)]
            if path.stat().st_size < 60_000
            and 'span="' in (text := path.read_text(encoding="utf-8"))
        ]
        yield from few[:6]


def test_the_tables_of_real_manuals() -> None:
    """Every table of a dozen real pages is what the standard's algorithm makes of it."""
    seen = 0
    for page in manuals():
        expected = tables(page)
        assert ours(page) == expected
        seen += len(expected)
    assert seen > 8


SPANS = st.sampled_from(["", "0", "1", "2", "3", "-1", "-0", "+2", " 2x", "x", "2.9", "\u0662"])
CELLS = st.tuples(st.sampled_from(["td", "th"]), SPANS, SPANS)
LINES = st.lists(CELLS, max_size=4)
GROUPS = st.tuples(st.sampled_from(["thead", "tbody", "tfoot"]), st.lists(LINES, max_size=4))


@given(groups=st.lists(GROUPS, max_size=4))
@settings(max_examples=150, deadline=None)
def test_any_spans_are_formed_as_the_standard_says(groups: Any) -> None:
    """Random groups, rows and spans, overlaps and nonsense too, agree with the algorithm."""
    page, number = "<table>", 0
    for group, lines in groups:
        page += f"<{group}>"
        for line in lines:
            page += "<tr>"
            for tag, across, down in line:
                number += 1
                page += f'<{tag} colspan="{across}" rowspan="{down}">{number}'
    assert ours(page) == tables(page)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<table><tr><td>1<td>2<tr><td>3</table>", [["1", "2"], ["3", ""]]),
        ("<table><tr><td rowspan=2>1<td>2<tr><td>3</table>", [["1", "2"], ["1", "3"]]),
        ("<table><tr><td colspan=2>1<tr><td>2<td>3</table>", [["1", "1"], ["2", "3"]]),
        # the standard's example of overlapping cells: the first one stands
        (
            "<table><tr><td>1<td>2<td rowspan=2>3<tr><td>4<td colspan=2>5</table>",
            [["1", "2", "3"], ["4", "5", "3"]],
        ),
        # the same section's example of a rowspan of 0, to the end of the row group
        (
            "<table><tbody><tr><td rowspan=0>a<td>1<tr><td>2<tbody><tr><td>3</table>",
            [["a", "1"], ["a", "2"], ["3", ""]],
        ),
        ("<table><tr><td rowspan=9>1</table>", [["1"]]),
        ("<table><tfoot><tr><td>f<tbody><tr><td>b</table>", [["b"], ["f"]]),
        ("<table><tr><td>1<table><tr><td>2<td>3</table><td>4</table>", [["1 2 3", "4"]]),
        ("<table><caption>c</caption><col span=3><tr><td>1</table>", [["1"]]),
        ("<table><tr><tr><td>a<br>b</table>", [[""], ["a b"]]),
        ("<table></table>", []),
        ("<p>none", []),
    ],
)
def test_small_tables(page: str, found: list[list[str]]) -> None:
    """Spans, ragged rows, groups and tables in cells, each by itself."""
    assert rows(page) == found
    assert rows(f"<div><b>x</b>{page}</div>") == found


def test_a_section_is_a_table_of_its_own() -> None:
    """A matched thead or tbody gives its own rows, under its own first row's names."""
    page = "<table><thead><tr><th>a<tbody><tr><td>n<tr><td>1<tbody><tr><td>x</table>"
    assert rows(page, "tbody") == [["n"], ["1"]]
    assert objects(page, "tbody") == [{"n": "1"}]
    assert rows(page, "thead") == [["a"]]
    assert objects(page, "thead") == []


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("<tr><th>a<th>b<tr><td>1<td>2", [{"a": "1", "b": "2"}]),
        ("<tr><td>a<td>b<tr><td>1", [{"a": "1", "b": ""}]),
        ("<thead><tr><th>x<tr><th>a<tbody><tr><td>1", [{"a": "1"}]),
        ("<thead><tbody><tr><td>a<tr><td>1", [{"a": "1"}]),
        ("<tbody><tr><td>1<thead><tr><th>a", [{"a": "1"}]),
        ("<tr><td>a<td>a<td>a 2<td>a<tr><td>1<td>2<td>3<td>4",
         [{"a": "1", "a 2": "2", "a 2 2": "3", "a 3": "4"}]),
        ("<tr><td><td colspan=2>a<tr><td>1<td>2<td>3<td>4",
         [{"column 1": "1", "a": "2", "a 2": "3", "column 4": "4"}]),
        ("<tr><td>a", []),
        ("", []),
    ],
)  # fmt: skip
def test_objects_by_the_header(page: str, found: list[dict[str, str]]) -> None:
    """The header is thead's last row or the first row; each column has one name of its own."""
    assert objects(f"<table>{page}</table>") == found


@pytest.mark.parametrize(
    "page",
    [
        "<tr>" + "<td colspan=1000 rowspan=0>" * 500 + "<tr>" * 1000,
        "<tr><td colspan=1000>" + "<tr><td>" * 1000,
        "<tr><td colspan=" + "9" * 50_000 + ">" + "<tr><td rowspan=65535>" * 1000,
        "<tr>" * (LIMIT + 1),
        "<tr>" + "<td>" * (LIMIT + 1),
    ],
)
def test_a_bomb_of_spans_costs_nothing(page: str) -> None:
    """More slots than allowed end as the one error, soon."""
    tree = LexborHTMLParser(f"<table>{page}</table>")
    start = time.process_time()
    with pytest.raises(TooManyCells, match=f"more than {LIMIT} cells"):
        table_rows(tree.css("table")[0], header=True, limit=LIMIT)
    assert time.process_time() - start < scaled(2)


def test_the_limit_is_of_cells_made() -> None:
    """As many slots as allowed are good, one more is not; a span beyond its group is cut first."""
    assert len(rows("<table><tr><td rowspan=65534>1<td rowspan=0>2<tr></table>", limit=4)) == 2
    page = "<table><tr><td>1<td>2<tr><td>3</table>"
    assert len(rows(page, limit=4)) == 2
    with pytest.raises(TooManyCells):
        rows(page, limit=3)


def test_many_columns_of_one_name_are_named_soon() -> None:
    """Ten thousand columns with one name, and names that look like ours, take no quadratic time."""
    names = [f"a {n}" for n in range(2, 20_000)] + ["a"] * 20_000
    page = "<table><tr><td>" + "<td>".join(names) + "<tr><td>1</table>"
    start = time.process_time()
    [found] = objects(page)
    assert time.process_time() - start < scaled(2)
    assert len(found) == len(names)
