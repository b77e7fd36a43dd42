"""JSON for terminals: the same data, in characters that can be seen, on one line.

May touch: jsonline. Pure.
Must never: accept another value than the one that went in.
"""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from scraperd.base.jsonline import dumps, foreign, line

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)
WORST = {"\x7f\x85\u2028": ["\u202e\ufeff\U000e0041\\u0041", "\ue000\U0010ffff\x1b\n"]}


@given(value=VALUES, indent=st.sampled_from([None, 0, 1, "\t"]))
@settings(max_examples=200, deadline=None)
@example(value=WORST, indent=1)
def test_the_data_stay_the_same(value: Any, indent: Any) -> None:
    """Whoever wrote it, indented or not: one line, only printable, and the same value."""
    raw = json.dumps(value, ensure_ascii=False, indent=indent).encode()
    shown = line(raw)
    assert shown is not None
    assert shown.isprintable()
    assert json.loads(shown) == value
    assert line(shown.encode()) == shown


@given(value=VALUES)
@settings(max_examples=200, deadline=None)
@example(value=WORST)
@example(value=2**63 - 1)
def test_a_value_is_written_for_people_too(value: Any) -> None:
    """Indented it has line breaks of its own, and no other character that can't be seen."""
    try:
        shown = dumps(value, 2)
    except OverflowError:  # msgspec has 64 bits
        return
    assert all(it.isprintable() or it == "\n" for it in shown)
    assert json.loads(shown) == value == json.loads(dumps(value))


def test_numbers_and_escapes_are_not_touched() -> None:
    """What a parser would round, reorder or drop stays as it was written."""
    raw = r'{"a":1e999,"b":1.0,"a":1' + "0" * 40 + r',"c":"\u0041\/\ud83d\ude00"}'
    assert line(raw.replace(",", " ,\n").encode()) == raw


@given(raw=st.binary(max_size=30))
@settings(max_examples=300, deadline=None)
@example(raw=b"\n{}\n{}")
@example(raw=b'"\\ud800"')
@example(raw=b'"\xff"')
@example(raw=b"[" * 100_000)
def test_what_is_not_json_is_kept_whole(raw: bytes) -> None:
    """Any bytes are one printable line, out of which they can be had again."""
    shown = line(raw)
    if shown is None:
        shown = foreign(raw)
        found = json.loads(shown)
        encoded = found.get("body_encoding") == "base64"
        body = base64.b64decode(found["body"]) if encoded else found["body"].encode()
        assert body == raw
    assert shown.isprintable()


def test_half_a_character_is_an_escape() -> None:
    """Python's texts can hold what UTF-8 can't; what JSON lacks is written as text."""
    assert dumps({"a": "\udcff\x9b", "b": Decimal("1.5")}) == r'{"a": "\udcff\u009b", "b": "1.5"}'
    assert dumps(Decimal("1.5")) == '"1.5"'
