"""Content-Type headers that no corpus has: lists, long and hostile ones.

May touch: strings.
Must never: take an expected value from scraperd; each is from Fetch or MIME Sniffing.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.extract.media.header import Media, extracted, read_type, split
from tests.rig.clocks.effort import scaled

HOSTILE = (
    ",",
    '"',
    '",',
    "\\",
    '"\\',
    ";",
    "; ",
    "a/b,",
    "a/b;",
    'a/b;c="',
    'a/b;c="\\",',
    " ",
    "/",
)
CHARACTERS = st.text(alphabet='ab/;="\\, \t\nchrset\xe9\u0142*', max_size=40)


@pytest.mark.parametrize(
    ("value", "parts"),
    [  # the examples of Fetch, "get, decode, and split"
        ("nosniff,", ["nosniff", ""]),
        ("", [""]),
        ('text/html;", x/x', ['text/html;", x/x']),
        ('text/html;", x/x", y', ['text/html;", x/x"', "y"]),
        ("x/x,text/html", ["x/x", "text/html"]),
        ("a\t, \tb", ["a", "b"]),
        (r'a="\",", b', [r'a="\","', "b"]),
    ],
)
def test_a_list_is_split_at_commas_outside_of_quotes(value: str, parts: list[str]) -> None:
    """Quotes may be open to the end, and a backslash in them takes the next character along."""
    assert split(value) == parts


@pytest.mark.parametrize(
    ("value", "charset"),
    [
        ("text/html;charset=gbk, text/html;charset=koi8-r, text/html", "gbk"),
        ("TEXT/HTML;charset=gbk, text/html", "gbk"),
        ("text/html, text/html;charset=gbk, text/html", None),
        ("text/html;charset=none, text/html", "none"),
    ],
)
def test_the_first_charset_of_equal_types_is_handed_on(value: str, charset: str | None) -> None:
    """In Fetch's steps only the first of equal types sets the charset that later ones inherit."""
    mime = extracted(value)
    assert mime is not None
    assert mime.parameters.get("charset") == charset


@pytest.mark.parametrize("value", ["unknown/unknown", "Application/Unknown", "*/*", "html", ""])
def test_an_unknown_type_says_as_much_as_none(value: str) -> None:
    """The MIME Sniffing standard (section 7) treats these alike."""
    assert read_type(value) == Media("", None, None)


@pytest.mark.parametrize("piece", HOSTILE)
def test_the_time_of_a_long_header_is_bounded(piece: str) -> None:
    """64 KiB of one piece take less than 0.1 s, twice; their square would take minutes."""
    value = piece * ((1 << 16) // len(piece))
    began = time.thread_time()
    extracted(value)
    extracted(f"text/html;{value}")
    assert time.thread_time() - began < scaled(0.1)


def test_a_list_and_a_type_have_no_more_than_a_hundred_parts() -> None:
    """What stands behind them is not read, so that no header takes long."""
    types, parameters = "a/b," * 99, "text/html" + ";a=b" * 99
    assert read_type(f"{types}text/html,a/c").essence == "text/html"
    assert read_type(f"a/b,{types}text/html").essence == "a/b"
    assert read_type(f"{parameters};charset=gbk").encoding == "gbk"
    assert read_type(f"{parameters};a=b;charset=gbk").encoding is None


@given(CHARACTERS)
def test_any_header_says_something(value: str) -> None:
    """No text raises, and the type is a token, a slash and a token, or missing."""
    media = read_type(value)
    assert media.essence == "" or media.essence.count("/") == 1
    assert media.essence == media.essence.lower().strip()
    assert ", ".join(split(value)).count(",") == value.count(",")
