"""Tests of the codings of a body: which a head names, and what undoes several at once.

May touch: bytes, as real encoders make them.
Must never: need a network.
"""

from __future__ import annotations

import gzip
import itertools
import random
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from scraperd.base.inflate import STEP, Undecodable
from scraperd.fetch.http1.codings import MAX_CODINGS, coding_of
from scraperd.fetch.http1.reader import Head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scraperd.fetch.http1.codings import Coding

LIMIT = 10 << 20
PAGE = random.Random(1).randbytes(100_000) + b"<p>the same again</p>" * 10_000
ENCODERS = {
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda data: brotli.compress(data, quality=1),
    "zstd": zstd.compress,
}
coding_names = st.sampled_from(sorted(ENCODERS))


def coding(*values: str, transfer: tuple[str, ...] = (), limit: int = LIMIT) -> Coding | None:
    """What undoes the codings of a head with these values of Content-Encoding."""
    headers = CIMultiDict([("Content-Encoding", value) for value in values])
    return coding_of(Head(200, CIMultiDictProxy(headers), transfer), limit)


def stack(*values: str, limit: int = LIMIT) -> Coding:
    found = coding(*values, limit=limit)
    assert found is not None
    return found


def packed(data: bytes, names: Iterable[str]) -> bytes:
    """`data` in these codings, the first one innermost, as RFC 9110 section 8.4 lists them."""
    for name in names:
        data = ENCODERS[name](data)
    return data


def fed(found: Coding, data: bytes, size: int = STEP) -> bytes:
    """What comes out when the bytes come `size` at a time."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(piece for part in parts for piece in found.feed(part))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (["gzip"], "gzip"),
        ([" GZip "], "gzip"),
        (["x-gzip"], "gzip"),
        (["X-GZIP"], "gzip"),
        (["deflate"], "deflate"),
        (["br"], "br"),
        (["zstd"], "zstd"),
        (["identity, gzip"], "gzip"),
        (["gzip, identity"], "gzip"),
        (["gzip, utf-8"], "gzip"),
        ([", ,gzip,"], "gzip"),
        (["", "gzip"], "gzip"),
        (["identity", "gzip"], "gzip"),
        (["gzip;q=1.0"], "gzip"),
        (["gzip, br"], "gzip, br"),
        (["gzip", "br"], "gzip, br"),
        (["BR,,identity", "x-gzip"], "br, gzip"),
        (["gzip, gzip"], "gzip, gzip"),
    ],
)
def test_names_of_codings(values: list[str], name: str) -> None:
    """Case, white space, empty members, the old `x-` and `identity` change nothing (RFC 9110)."""
    assert stack(*values).coding == name
    names = name.split(", ")
    assert fed(stack(*values), packed(b"page", names)) == b"page"


@pytest.mark.parametrize(
    "value",
    [
        "", "identity", "Identity", "none", ",", " , ", "utf-8", "UTF8", "iso-8859-1", "ISO8859-15",
        "windows-1252", "Shift_JIS", "EUC-KR", "gb2312", "koi8-r", "us-ascii", "8bit", "binary",
        "text/html", "text/html; charset=utf-8", "aws-chunked",
    ],
)  # fmt: skip
def test_names_that_are_no_coding_are_passed_over(value: str) -> None:
    """Sites send such names with plain pages; browsers show the page, and so do we."""
    assert coding(value) is None


@pytest.mark.parametrize(
    ("values", "transfer", "words"),
    [
        (["compress"], (), "compress: not one of gzip, deflate, br, zstd"),
        (["X-Compress"], (), "x-compress: not one of gzip, deflate, br, zstd"),
        (["foo"], (), "foo: not one of gzip, deflate, br, zstd"),
        (["gzip, foo"], (), "foo: not one of gzip, deflate, br, zstd"),
        (["foo", "gzip"], (), "foo: not one of gzip, deflate, br, zstd"),
        (["gzip br"], (), "gzip br: not one of gzip, deflate, br, zstd"),
        (["dcb"], (), "dcb: not one of gzip, deflate, br, zstd"),
        (["utf-8.gz"], (), "utf-8.gz: not one of gzip, deflate, br, zstd"),
        ([], ("compress",), "compress: not one of gzip, deflate"),
        ([], ("gzip", "br"), "br: not one of gzip, deflate"),
        (["gzip"], ("utf-8",), "utf-8: not one of gzip, deflate"),
        (["gzip"] * 6, (), "6 codings lie one over another, more than 5"),
        (["gzip"] * 5, ("x-gzip",), "6 codings lie one over another, more than 5"),
    ],
)
def test_what_is_not_undone(values: list[str], transfer: tuple[str, ...], words: str) -> None:
    """It is an error that names the coding once a byte comes, and none where the body is empty."""
    found = coding(*values, transfer=transfer)
    assert found is not None
    assert list(found.feed(b"")) == []
    assert found.ended
    with pytest.raises(Undecodable) as raised:
        list(found.feed(b"x"))
    assert str(raised.value) == words
    of_transfer = words.endswith("deflate")
    assert raised.value.what == ("transfer coding" if of_transfer else "content encoding")


def test_the_words_of_an_error_are_printable_and_short() -> None:
    """The name is the site's: as long as a header may be, with any characters in it."""
    found = stack("\x1b[2J" + "\U000e0041" * 5000)
    with pytest.raises(Undecodable) as raised:
        list(found.feed(b"x"))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000


def test_transfer_codings_lie_over_content_codings() -> None:
    """RFC 9112 section 7: they are a property of the message, and were applied last."""
    found = coding("br", transfer=("x-gzip", "deflate"))
    assert found is not None
    assert found.coding == "br, gzip, deflate"
    assert fed(found, packed(PAGE, ["br", "gzip", "deflate"])) == PAGE


@given(
    st.lists(coding_names, min_size=2, max_size=MAX_CODINGS),
    st.binary(max_size=2000).map(lambda data: data * 50),
    st.integers(1, 5000),
)
def test_a_stack_is_undone_however_it_comes(names: list[str], page: bytes, size: int) -> None:
    """Any codings in any order, cut anywhere, as one header or as several."""
    data = packed(page, names)
    for values in ([", ".join(names)], names):
        found = stack(*values)
        assert fed(found, data, size) == page
        assert found.ended
        assert not found.overfull


@given(st.lists(coding_names, min_size=2, max_size=3), st.data())
def test_a_stack_that_ends_early_is_not_whole(names: list[str], data: st.DataObject) -> None:
    """Whichever of its streams was cut: what comes out is a beginning, and `ended` is false."""
    at = data.draw(st.integers(0, len(names) - 1))
    inner = packed(PAGE[:60_000], names[: at + 1])
    keep = data.draw(st.integers(1, len(inner) - 1))
    found = stack(*names)
    out = fed(found, packed(inner[:keep], names[at + 1 :]))
    assert PAGE.startswith(out)
    assert not found.ended


def test_a_stack_of_nothing_is_whole() -> None:
    """An empty body has any coding."""
    found = stack("gzip, br, zstd")
    assert list(found.feed(b"")) == []
    assert found.ended


def test_a_body_that_was_packed_once_but_says_twice_is_refused() -> None:
    """A guess would make two pages of `gzip, gzip`; curl 7.88 and browsers refuse it too."""
    with pytest.raises(Undecodable, match="gzip"):
        fed(stack("gzip, gzip"), gzip.compress(PAGE))


@pytest.mark.parametrize("size", [997, STEP, 10**9])
@pytest.mark.parametrize("over", [0, 1])
def test_the_limit_between_codings_is_exact(size: int, over: int) -> None:
    """As many bytes as the limit go from one coding to the next, and not one more."""
    inner = zlib.compress(PAGE)
    found = stack("deflate, gzip", limit=len(inner) - over)
    out = fed(found, gzip.compress(inner), size)
    assert found.overfull is bool(over)
    assert PAGE.startswith(out)
    assert over or (out == PAGE and found.ended)


@pytest.mark.parametrize("outer", ENCODERS)
@pytest.mark.parametrize("inner", ENCODERS)
def test_a_bomb_in_a_bomb_is_undone_only_as_far_as_asked(inner: str, outer: str) -> None:
    """64 MiB in some bytes: taking four steps undoes four steps, in memory too."""
    bomb = packed(bytes(64 << 20), [inner, outer])
    assert len(bomb) < 1000
    found = stack(inner, outer)
    tracemalloc.start()
    try:
        pieces = list(itertools.islice(filter(None, found.feed(bomb)), 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0 < sum(map(len, pieces)) <= 4 * 2 * STEP
    assert peak < 24 * STEP


@pytest.mark.parametrize("outer", ENCODERS)
def test_much_that_gives_nothing_is_bounded(outer: str) -> None:
    """Empty blocks (RFC 1951 section 3.2.4), packed once more: no size of a page counts them."""
    empty = b"\0\0\0\xff\xff" * (LIMIT // 4)
    data = packed(b"\x78\x01" + empty, [outer])
    found = stack("deflate", outer)
    steps = sum(1 for piece in found.feed(data) if piece == b"")
    assert found.overfull
    assert LIMIT / (2 * STEP) <= steps <= LIMIT / STEP * 2, "the caller may look after others"
