"""A table as rows of texts, by the HTML standard's table model.

May touch: nodes that are handed in. Pure.
Must never: keep a node, or make more cells than it was allowed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, overload

from scraperd.extract.nodes import free, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from scraperd.extract.compiled.engine import Node

    Spend: TypeAlias = Callable[[], object]

MAX_COLSPAN: Final = 1000  # HTML standard, "Attributes common to td and th elements"
MAX_ROWSPAN: Final = 65534  # the same

_SECTIONS: Final = ("thead", "tbody", "tfoot")
_NUMBER = re.compile(r"[\t\n\f\r ]*(?:\+|-(?=0+(?!\d)))?(\d+)", re.ASCII)


class TooManyCells(Exception):  # noqa: N818 - it says what is wrong, as the failure's text does
    """A table has, or its spans make, more cells than were allowed."""


@overload
def table_rows(
    node: Node, *, header: Literal[False], limit: int, spend: Spend = ...
) -> list[list[str]]: ...
@overload
def table_rows(
    node: Node, *, header: Literal[True], limit: int, spend: Spend = ...
) -> list[dict[str, str]]: ...
@overload
def table_rows(
    node: Node, *, header: bool, limit: int, spend: Spend = free
) -> list[list[str]] | list[dict[str, str]]: ...


def table_rows(
    node: Node, *, header: bool, limit: int, spend: Spend = free
) -> list[list[str]] | list[dict[str, str]]:
    """The rows of `node`, a table or a section of one, or else of the first table inside it.

    One row for each `tr`, all of one length: HTML standard, "Forming a table". A cell's text is in
    each slot that it spans; where two cells overlap, the first in the document stands. A span ends
    with its row group, even if it says more. What no cell covers is "". Rows of `tfoot` come
    last. Rows of a table inside a cell are part of that cell's text only. No table, no rows.

    With `header`, objects by the names in the last row of the first `thead` that has rows (none
    of its rows is in the answer), or else in the first row. A column without a name is "column 3"
    (counted from 1); a name that was there before gets a number: "price", "price 2", "price 3".

    Raises TooManyCells before more than `limit` slots are made (a row without any counts as one).
    `spend` is text_of's, and is called for each row and each cell too.
    """
    groups = _groups(node)
    rows = _grid([group for _, group in groups], limit, spend)
    if not header:
        return rows
    start, end = _header(groups)
    if not rows:
        return []
    names = _names(rows[end - 1])
    return [dict(zip(names, row, strict=True)) for row in rows[:start] + rows[end:]]


def _groups(node: Node) -> list[tuple[str, list[Node]]]:
    """The row groups in the standard's order, each a tag and its `tr` elements."""
    tag = node.tag or ""
    if tag in _SECTIONS:
        return [(tag, _children(node, "tr"))]
    table = node if tag == "table" else node.css_first("table")
    if table is None:
        return []
    sections = _children(table, *_SECTIONS)  # the parser puts each `tr` into one
    sections.sort(key=lambda section: section.tag == "tfoot")
    return [(section.tag or "", _children(section, "tr")) for section in sections]


def _children(node: Node, *tags: str) -> list[Node]:
    return [child for child in node.iter() if child.tag in tags]


def _header(groups: list[tuple[str, list[Node]]]) -> tuple[int, int]:
    """Where the header's rows start and end."""
    start = 0
    for tag, group in groups:
        if tag == "thead" and group:
            return start, start + len(group)
        start += len(group)
    return 0, 1


def _grid(groups: list[list[Node]], limit: int, spend: Spend) -> list[list[str]]:
    height = sum(map(len, groups))
    if height > limit:
        raise TooManyCells(f"more than {limit} cells")
    made = 0
    slots: list[dict[int, str]] = []
    for group in groups:
        rows: list[dict[int, str]] = [{} for _ in group]
        for y, row in enumerate(group):
            spend()
            for x, across, down, cell in _anchored(row, rows[y], len(group) - y):
                spend()
                made += across * down
                if made > limit:
                    raise TooManyCells(f"more than {limit} cells")
                text = text_of(cell, spend)
                for slot in rows[y : y + down]:
                    for column in range(x, x + across):
                        slot.setdefault(column, text)
        slots += rows
    width = max((max(row, default=-1) + 1 for row in slots), default=0)
    if height * width > limit:
        raise TooManyCells(f"more than {limit} cells")
    return [[row.get(x, "") for x in range(width)] for row in slots]


def _anchored(row: Node, taken: dict[int, str], below: int) -> Iterator[tuple[int, int, int, Node]]:
    """Each cell of a row with its column, and how many columns and rows it spans.

    `taken` holds the columns that cells of earlier rows reach down to; the caller adds each cell's.
    """
    x = 0
    for cell in _children(row, "td", "th"):
        while x in taken:
            x += 1
        attributes = cell.attributes
        across = _number(attributes.get("colspan")) or 1
        down = _number(attributes.get("rowspan"))
        down = below if down == 0 else min(down or 1, MAX_ROWSPAN, below)
        across = min(across, MAX_COLSPAN)
        yield x, across, down, cell
        x += across


def _number(value: str | None) -> int | None:
    """HTML standard, "Rules for parsing non-negative integers"; six digits say enough."""
    match = _NUMBER.match(value or "")
    return int(match[1].lstrip("0")[:6] or "0") if match else None


def _names(row: list[str]) -> list[str]:
    """A name for each column: no two are the same, and none is empty."""
    names: dict[str, int] = {}  # how often it was asked for
    for number, text in enumerate(row, 1):
        name = wanted = text or f"column {number}"
        while name in names:
            names[wanted] += 1
            name = f"{wanted} {names[wanted]}"
        names[name] = 1
    return list(names)
