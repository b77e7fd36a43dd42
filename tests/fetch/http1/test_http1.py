"""Tests of the reader of responses: what a message is, where it ends, what of it is left out.

May touch: the reader alone; aiohttp's parser and the standard library's, as oracles.
Must never: open a socket.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpResponseParser
from hypothesis import assume, example, given
from hypothesis import strategies as st

from scraperd.fetch.http1.reader import (
    MAX_INTERIM,
    STEPS,
    HeadLimits,
    Incomplete,
    Malformed,
    Reader,
)
from tests.rig.sites.site import chunk, head

if TYPE_CHECKING:
    from collections.abc import Iterable

LIMITS = HeadLimits(headers=20, size=1_000)
CHUNKED = "Transfer-Encoding: chunked"
LAST = b"0\r\n\r\n"
HELLO = b"hello"
EARLY = head(status="100 Continue")
NO_NUMBER = "its Content-Length is not a number"
BEFORE = "its Transfer-Encoding has chunked before another coding"
TWICE = "its Transfer-Encoding has chunked twice"
SWITCHES = "it switches to another protocol, which nobody asked for"
NO_STATUS = "it has no status line"
NO_SIZE = "a chunk size that is no number"


class Found(NamedTuple):
    """What a reader made of a response."""

    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: bytes
    end: str  # "" if the response is whole
    keep: bool


def read(
    pieces: Iterable[bytes], *, eof: bool = True, trusted: bool = False, **options: Any
) -> Found:
    """Feed the pieces, and the end of the connection if the response has not ended by itself."""
    reader, body, end = Reader(LIMITS, **options), b"", ""
    try:
        for piece in pieces:
            reader.feed(piece)
            while reader.behind:
                reader.go_on()
        body = reader.take()
        if not reader.ended and eof:
            reader.feed_eof(trusted=trusted)
    except Malformed as fault:
        end = str(fault)
    except Incomplete:
        end = "incomplete"
    found = reader.head
    headers = tuple(found.headers.items()) if found else ()
    keep = reader.keep and not end and reader.ended
    return Found(found.status if found else None, headers, body, end, keep)


def whole(data: bytes, **options: Any) -> Found:
    """Read what comes in one piece."""
    return read([data], **options)


# --- what is right


@pytest.mark.parametrize(
    ("data", "keep"),
    [
        pytest.param(head("Content-Length: 5") + HELLO, True, id="length"),
        pytest.param(head(CHUNKED) + chunk(b"he") + chunk(b"llo") + LAST, True, id="chunks"),
        pytest.param(head() + HELLO, False, id="until the end"),
        pytest.param(head("Content-Length: 5", "Connection: close") + HELLO, False, id="close"),
        pytest.param(head("Content-Length: 5", "Connection: a, Close") + HELLO, False, id="a list"),
        pytest.param(head(CHUNKED) + chunk(HELLO) + b"0\r\nA: b\r\n\r\n", True, id="trailers"),
        pytest.param(head(CHUNKED) + b'5;a="b"\r\nhello\r\n' + LAST, True, id="extension"),
        pytest.param(head(CHUNKED) + b"0005 \r\nhello\r\n" + LAST, True, id="padded size"),
        pytest.param(EARLY + head("Content-Length: 5") + HELLO, True, id="interim"),
    ],
)
def test_where_a_body_ends(data: bytes, *, keep: bool) -> None:
    """By its length, its chunks or the connection's end (RFC 9112 section 6.3)."""
    found = whole(data)
    assert (found.status, found.body, found.end, found.keep) == (200, HELLO, "", keep)


@pytest.mark.parametrize(
    ("status", "options", "headers", "keep"),
    [
        ("204 No Content", {}, [], True),
        ("304 Not Modified", {}, [], True),
        ("200 OK", {"for_head": True}, ["Content-Length: 0"], True),
        ("204 No Content", {}, ["Content-Length: 5"], False),
        ("304 Not Modified", {}, [CHUNKED], False),
        ("200 OK", {"for_head": True}, ["Content-Length: 5"], False),
    ],
)
@pytest.mark.parametrize("junk", [b"", b"hello"])
def test_what_has_no_body(
    status: str, options: dict[str, bool], headers: list[str], *, keep: bool, junk: bytes
) -> None:
    """Whatever follows is no body. What may be on its way all the same ends the connection."""
    found = whole(head(*headers, status=status) + junk, **options)
    assert (found.body, found.end) == (b"", "")
    assert found.keep is (keep and not junk)


# --- what is taken all the same, as browsers and curl do


@pytest.mark.parametrize(
    ("lines", "headers"),
    [
        (["A: 1", "no colon", "B: 2"], {"A": "1", "B": "2"}),
        (["A : 1", "B\t: 2"], {"A": "1", "B": "2"}),
        (["Odd name: 1", "B: 2"], {"B": "2"}),
        (["N\u00e4me: 1", "B: 2"], {"B": "2"}),
        ([": 1", "B: 2"], {"B": "2"}),
        (["(A): 1", "B: 2"], {"B": "2"}),
        (["A: 1", " 2", "\t3", "B: 2"], {"A": "1 2 3", "B": "2"}),
        ([" folded", "B: 2"], {"B": "2"}),
        (["bad name: 1", " 2", "B: 2"], {"B": "2"}),
        (["A:", "B: 2"], {"A": "", "B": "2"}),
        (["A: \t 1 \t ", "B:2"], {"A": "1", "B": "2"}),
        (["A: 1\r2", "B: 2"], {"A": "1 2", "B": "2"}),
        (["A: 1\r", "B: 2"], {"A": "1", "B": "2"}),
    ],
)
def test_odd_header_lines(lines: list[str], headers: dict[str, str]) -> None:
    """A line without a valid name is left out, and the page is there."""
    found = whole(head(*lines, "Content-Length: 5") + b"hello")
    assert dict(found.headers) == {**headers, "Content-Length": "5"}
    assert (found.body, found.end) == (b"hello", "")


@pytest.mark.parametrize(
    "first",
    [
        "HTTP/1.1 200 OK", "HTTP/1.1  200  OK", "HTTP/1.1 200", "HTTP/1.1 200 ", "http/1.1 200 OK",
        "HTTP/1.1\t200\tOK", "HTTP/1.0 200 OK", "HTTP/2 200", "\r\n\r\nHTTP/1.1 200 OK",
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_odd_status_lines(first: str, end: str) -> None:
    """Of any HTTP, with any white space, with or without a reason, with bare LFs."""
    found = whole(f"{first}{end}Content-Length: 5{end}{end}hello".encode())
    assert (found.status, found.body, found.end) == (200, b"hello", "")


@pytest.mark.parametrize(
    ("headers", "body", "keep"),
    [
        (["Content-Length: 5", "Content-Length: 5"], b"hello", True),
        (["Content-Length: 5, 5"], b"hello", True),
        (["Content-Length: 3", CHUNKED], b"hello", False),
        (["Content-Length: 3", "Content-Length: 4", CHUNKED], None, False),
        (["Transfer-Encoding: Chunked"], b"hello", True),
        (["Transfer-Encoding: identity", "Content-Length: 5"], None, True),
        (["Transfer-Encoding: gzip, chunked"], b"hello", True),
        (["Transfer-Encoding: gzip", CHUNKED], b"hello", True),
    ],
)
def test_odd_framing(headers: list[str], body: bytes | None, *, keep: bool) -> None:
    """Equal lengths are one; chunks win over a length, and end the connection. Else it fails."""
    chunks = chunk(b"he") + chunk(b"llo") + LAST
    data = chunks if any("hunked" in line for line in headers) else b"hello"
    found = whole(head(*headers) + data)
    if body is None and "identity" in headers[0]:
        body = b"hello"
    if body is None:
        assert found.end == "it has several Content-Lengths"
    else:
        assert (found.body, found.end, found.keep) == (body, "", keep)


@pytest.mark.parametrize(
    "data",
    [
        head(CHUNKED) + b"5\nhello\n0\n\n",
        head(CHUNKED) + b"5\nhello\r\n0\r\n\n",
        head(CHUNKED) + b"5 ; x\nhello\r\n0\nA: b\n\n",
    ],
)
def test_bare_line_feeds_between_chunks(data: bytes) -> None:
    """They end a line, as in the head."""
    found = whole(data)
    assert (found.body, found.end) == (b"hello", "")


@pytest.mark.parametrize("junk", [b"GARBAGE", b"\r\n", head("Content-Length: 0"), b"\0"])
@pytest.mark.parametrize(
    "data",
    [
        head("Content-Length: 5") + b"hello",
        head(CHUNKED) + chunk(b"hello") + LAST,
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_junk_behind_the_end(data: bytes, junk: bytes, *, together: bool) -> None:
    """The response is whole, and the connection is not for another one."""
    found = read([data + junk] if together else [data, junk])
    assert (found.status, found.body, found.end, found.keep) == (200, b"hello", "", False)


@pytest.mark.parametrize(
    "cut", [b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK\r\nA: b", b"HTTP/1.1 200 OK\r\nA: b\r\n"]
)
def test_a_head_that_the_end_cuts(cut: bytes) -> None:
    """It is taken without TLS only, where anybody could have cut it (Chromium does the same)."""
    found = whole(cut)
    assert (found.status, found.body, found.end, found.keep) == (200, b"", "", False)
    assert whole(cut, trusted=True).end == "incomplete"


def test_a_cut_head_with_a_length_is_no_page() -> None:
    """What was promised did not come."""
    assert whole(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n").end == "incomplete"
    assert whole(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n").end == "incomplete"


# --- what is refused


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"220 mail.example ESMTP\r\n", NO_STATUS),
        (b"<html>", NO_STATUS),
        (b"HTTP/1.1 OK\r\n", NO_STATUS),
        (b"HTTP/1.1 2000 OK\r\n", NO_STATUS),
        (b"HTTP/7.7 200 OK\r\n", NO_STATUS),
        (b"HTTPS/1.1 200 OK\r\n", NO_STATUS),
        (b"GET / HTTP/1.1\r\n", NO_STATUS),
        (head("Content-Length: 3", "Content-Length: 4"), "it has several Content-Lengths"),
        (head("Content-Length: 3, 4"), "it has several Content-Lengths"),
        (head("Content-Length: -1"), NO_NUMBER),
        (head("Content-Length: +1"), NO_NUMBER),
        (head("Content-Length: 0x10"), NO_NUMBER),
        (head("Content-Length:"), NO_NUMBER),
        (head("Content-Length: " + "9" * 20), NO_NUMBER),
        ("HTTP/1.1 200 OK\r\nContent-Length: \u0663\r\n\r\n".encode(), NO_NUMBER),
        (head("Transfer-Encoding: chunked, gzip"), BEFORE),
        (head("Transfer-Encoding: chunked, chunked"), TWICE),
        (head(CHUNKED, "Transfer-Encoding: Chunked"), TWICE),
        (head("Transfer-Encoding: chunked, gzip, chunked"), TWICE),
        (head("A: b\0"), "a header has a NUL byte"),
        (head(status="101 Switching Protocols"), SWITCHES),
        (head(status="100 Continue") * (MAX_INTERIM + 1), "too many responses at once"),
        (head(CHUNKED) + b"zz\r\n", NO_SIZE),
        (head(CHUNKED) + b"zz", NO_SIZE),
        (head(CHUNKED) + b"\r\n", NO_SIZE),
        (head(CHUNKED) + b"-5\r\n", NO_SIZE),
        (head(CHUNKED) + b"0x5\r\n", NO_SIZE),
        (head(CHUNKED) + b"5 5\r\n", NO_SIZE),
        (head(CHUNKED) + b"1" * 17 + b"\r\n", NO_SIZE),
        (head(CHUNKED) + b"5\r\nhello!\r\n", "a chunk is longer than its size"),
        (head(CHUNKED) + b"5\r\nhello\r\r\n", "a chunk is longer than its size"),
    ],
)  # fmt: skip
def test_what_is_no_http(data: bytes, words: str) -> None:
    """Said as soon as it is known, without the end of the connection."""
    assert read([data], eof=False).end == words
    assert read([data[n : n + 1] for n in range(len(data))], eof=False).end == words


@pytest.mark.parametrize("over", [0, 1])
def test_the_limits_are_exact(over: int) -> None:
    """Of headers, of the bytes of each and of the status line, of all that is no body."""
    many = whole(head(*["A: b"] * (LIMITS.headers + over), "", ""))
    assert many.end == ("more headers than fetch.max_headers (20)" if over else "")
    long = "a header or the status line is longer than fetch.max_header_size (1000)" if over else ""
    assert whole(head("A: " + "b" * (997 + over))).end == long
    assert whole(head(status="200 " + "b" * (987 + over))).end == long
    lines = ["A: " + "b" * 945] * 4
    used = len(head(*lines, "Content-Length: 0"))
    last = "C: " + "d" * (4 * 1000 - used - len("C: \r\n") + over)
    much = "more than 4000 bytes of headers (4 times fetch.max_header_size)" if over else ""
    assert whole(head(*lines, "Content-Length: 0", last)).end == much


def test_a_head_without_an_end_is_bounded() -> None:
    """A line, or lines, that never end are refused by what is there already."""
    for piece in (b"a" * 100, b"A: b\r\n", b"\r\n"):
        first = b"" if piece == b"\r\n" else b"HTTP/1.1 200 OK\r\n"
        pieces = [first + piece, *[piece] * (4_100 // len(piece))]
        assert read(pieces, eof=False).end


# --- however it comes


BODIES = st.binary(max_size=60)
NAMES = st.sampled_from(["A", "Content-Type", "X-Y", "Set-Cookie", "Connection"])
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=12)
BARE = (b"HTTP/1.1 204", b"HTTP/1.1 304")  # the oracles go astray if a body follows
STATUSES = st.sampled_from([200, 204, 302, 304, 404, 503])


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """A response that is right, framed in any way."""
    lines = [f"{n}: {v}" for n, v in draw(st.lists(st.tuples(NAMES, VALUES), max_size=4))]
    status = f"{draw(STATUSES)} Any"
    bodies = draw(st.lists(BODIES.filter(bool), max_size=4))
    kind = draw(st.sampled_from(["length", "chunks", "end"]))
    if kind == "length":
        body = b"".join(bodies)
        return head(*lines, f"Content-Length: {len(body)}", status=status) + body
    if kind == "chunks":
        return head(*lines, CHUNKED, status=status) + b"".join(map(chunk, bodies)) + LAST
    return head(*lines, status=status) + b"".join(bodies)


@st.composite
def nearly(draw: st.DrawFn) -> bytes:
    """A response with a few bytes changed, put in or taken out."""
    data = bytearray(draw(responses()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        piece = draw(
            st.sampled_from([b"", b"\r", b"\n", b":", b" ", b"\0", b"5", b"\xff", b"\r\n\r\n"])
        )
        data[at : at + draw(st.integers(0, 2))] = piece
        if not data:
            return b"\n"
    return bytes(data)


@given(st.one_of(responses(), nearly(), st.binary(min_size=1, max_size=80)), st.data())
def test_how_it_is_split_makes_no_difference(data: bytes, draws: st.DataObject) -> None:
    """Any pieces give what one piece gives: head, body, fault, and whether it is kept."""
    cuts = sorted(draws.draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=5)))
    edges = [0, *(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    one, several = whole(data), read(pieces)
    if one.end and several.end:  # what is wrong with it may be seen earlier or later
        assert one.status is None or several.status == one.status
    else:
        assert several == one


@given(st.one_of(responses(), nearly(), st.binary(min_size=1, max_size=80)))
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
def test_nothing_else_is_raised(data: bytes) -> None:
    """Whatever comes is a response, Malformed or Incomplete; reading it twice gives the same."""
    assert whole(data) == whole(data)


@given(responses())
def test_another_parser_reads_the_same(data: bytes) -> None:
    """llhttp, by way of aiohttp, agrees about what is right."""
    assume(not data.startswith(BARE))
    loop = asyncio.new_event_loop()
    try:
        parser = HttpResponseParser(
            BaseProtocol(loop), loop, 2**16, read_until_eof=True, auto_decompress=False
        )
        messages, _, _ = parser.feed_data(data)
        ((message, payload),) = messages
        parser.feed_eof()
        theirs = b""
        while not payload.at_eof():
            theirs += payload.read_nowait()
    finally:
        loop.close()
    mine = whole(data)
    assert mine.end == ""
    assert (mine.status, mine.body) == (message.code, theirs)
    assert [(n.lower(), v) for n, v in mine.headers] == [
        (n.decode().lower(), v.decode().strip()) for n, v in message.raw_headers
    ]


class _Socket(io.BytesIO):
    def makefile(self, *_: object) -> io.BytesIO:
        return self


@given(responses())
def test_the_standard_library_reads_the_same(data: bytes) -> None:
    """http.client agrees about the status and the body."""
    assume(not data.startswith(BARE))
    theirs = http.client.HTTPResponse(_Socket(data))  # type: ignore[arg-type]
    theirs.begin()
    mine = whole(data)
    assert (mine.status, mine.body) == (theirs.status, theirs.read())


def test_tiny_chunks_are_read_in_steps() -> None:
    """A piece of a hundred thousand chunks is read a part at a time, in linear time."""
    reader = Reader(LIMITS)
    reader.feed(head(CHUNKED))

    def cost(count: int) -> float:
        began = time.process_time()
        reader.feed(chunk(b"x") * count)
        turns = 0
        while reader.behind:
            reader.go_on()
            turns += 1
        assert turns >= 3 * count // STEPS - 1
        assert len(reader.take()) == count
        return time.process_time() - began

    cost(1_000)
    few = min(cost(10_000) for _ in range(3))
    assert cost(100_000) < 40 * few
