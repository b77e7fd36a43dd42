"""Tests of answers that are made to hang, slow or fool whoever reads them.

May touch: connections that are fed by hand; sites on loopback.
Must never: depend on how fast this machine is.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import threading
import time
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from scraperd.fetch.http1.reader import HeadLimits, Incomplete, Malformed, Reader
from scraperd.fetch.http1.reading_time import ReadingTime
from scraperd.fetch.message import Request, Response
from scraperd.fetch.protocol import READ_BUFFER
from scraperd.wiring import fetcher_of
from tests.fetch.http1.test_reading_time import asking, take_all, turn
from tests.rig.page import loopback
from tests.rig.sites.site import Site, Visit, chunk, head, page

if TYPE_CHECKING:
    from scraperd.fetch.client import Fetcher

CHUNKED = "Transfer-Encoding: chunked"


def request(url: str, **fields: object) -> Request:
    return Request(
        **{
            "method": "GET",
            "url": URL(url),
            "headers": {},
            "body": None,
            "timeout": 2.0,
            "max_body": 1 << 20,
            **fields,
        }
    )  # type: ignore[arg-type]


async def test_a_fault_behind_tiny_chunks_ends_the_reading() -> None:
    """The reader was behind when the fault came: it is not asked again, and again, at the end."""
    made, wire, reader = asking(ReadingTime())
    made.data_received(head(CHUNKED) + chunk(b"x") * 700 + b"1\r\nxZZ")
    with pytest.raises(Malformed):
        await take_all(made, reader, bytearray())
    assert wire.closing
    assert made.held == 0, "connection_lost would never end"
    made.connection_lost(None)


async def test_the_end_does_not_make_tiny_chunks_one_step() -> None:
    """What is held when the connection ends is read in as many turns as without its end."""
    for end in ("eof", "lost"):
        reading_time = ReadingTime()
        made, _, reader = asking(reading_time)
        made.data_received(head(CHUNKED) + chunk(b"x") * 20_000)
        if end == "eof":
            made.eof_received()
        made.connection_lost(None)
        assert reader.behind, f"{end}: all was read at once"
        body = bytearray()
        with pytest.raises(Incomplete):
            await take_all(made, reader, body)
        assert len(body) + reader.size == 20_000


async def test_one_place_in_the_queue() -> None:
    """However often a connection is let go on, it waits once."""
    reading_time = ReadingTime(clock=itertools.count().__next__)  # a piece a turn
    made, _, reader = asking(reading_time)
    made.data_received(head(CHUNKED) + chunk(b"123456789") * 60_000 + chunk(b""))
    places = set()
    while not reader.ended:
        await made.more()  # what waits is let go on, whether it has its place already or not
        places.add(reading_time.waiting)
        while reader.size < READ_BUFFER and not reader.ended:
            await turn()
            places.add(reading_time.waiting)
        reader.take()
    assert max(places) == 1


@pytest.mark.parametrize(
    "start",
    [head(), head(CHUNKED) + b"1;", head(CHUNKED) + b" " * 10_000],
    ids=["head", "extension", "spaces"],
)
def test_a_drip_into_a_long_line(start: bytes) -> None:
    """What has come is not looked through for each byte: 200 kB cost what 6 kB cost."""
    begin = start.removesuffix(b"\r\n") if start == head() else start

    def cost(before: int) -> float:
        reader = Reader(HeadLimits(200, 1 << 18))
        reader.feed(begin + (b" " if begin.endswith(b" ") else b"x") * before)
        began = time.thread_time()
        for _ in range(2_000):
            reader.feed(b" ")
        return time.thread_time() - began

    few = min(cost(6_000) for _ in range(3))
    assert min(cost(200_000) for _ in range(3)) < 10 * few


@pytest.mark.parametrize("over", [False, True])
def test_a_limit_counts_bytes_however_it_is_split(*, over: bool) -> None:
    """A header of exactly the limit passes, one byte more does not, wherever TCP cuts it."""
    for text in ("a" * 1021, "é" * 510 + "a"):
        line = b"X: " + text.encode() + b"a" * over
        whole = b"HTTP/1.1 200 OK\r\n" + line + b"\r\nContent-Length: 0\r\n\r\n"
        seen = set()
        for at in range(1, len(whole) + 1):
            reader = Reader(HeadLimits(200, 1024))
            try:
                for part in (whole[:at], whole[at:]):
                    if part:
                        reader.feed(part)
                seen.add(reader.ended)
            except Malformed:
                seen.add(None)
        assert seen == {None if over else True}


def test_long_names_are_not_remembered() -> None:
    """A thousand header names of 64 kB each would stay for as long as the process."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(100):
            name = b"n%d" % number * 1_000
            Reader(HeadLimits(9, 9_000)).feed(b"HTTP/1.1 200 OK\r\n" + name + b": x\r\n\r\n")
        gc.collect()  # a reader refers to itself
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken < 10 * len(name)


async def test_an_early_answer_that_ends_with_the_connection(fetcher: Fetcher) -> None:
    """The site ends its side, and reads nothing of the upload: its answer is whole."""
    listening = socket.create_server(("127.0.0.1", 0))
    answered = threading.Event()

    def serve() -> None:
        with listening:
            made, _ = listening.accept()
        with made:
            made.recv(100)
            made.sendall(b"HTTP/1.1 413 No\r\n\r\ntoo much")
            made.shutdown(socket.SHUT_WR)
            answered.wait()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        answer = await fetcher.fetch(request(url, method="POST", body=bytes(8 << 20)))
    finally:
        answered.set()
        serving.join()
    assert isinstance(answer, Response), answer
    assert (answer.status, answer.body) == (413, b"too much")


async def test_a_flood_behind_the_end_is_not_read() -> None:
    """What follows a whole response stops the reading, while its body waits to be taken."""
    made, wire, _ = asking(ReadingTime())
    made.data_received(page(b"here") + b"junk")
    await made.more()
    assert not wire.reading


async def test_a_body_cut_by_our_own_close_is_not_whole(site: Site) -> None:
    """A body that the end of its connection would end is broken off if we close it."""

    async def half(visit: Visit) -> None:
        await visit.send(head("Connection: close"), b"half")
        await visit.gone()

    async with fetcher_of(loopback()) as fetcher:
        fetching = asyncio.ensure_future(fetcher.fetch(request(site.at("/", half))))
        await site.until(lambda s: bool(s.visits))
        await fetcher.fetch(request(site.at("/other", page())))  # a round trip: the half is here
    answer = await fetching
    assert isinstance(answer, Response)
    assert answer.trouble is not None


async def test_what_waits_in_the_kernel_is_nobodys(fetcher: Fetcher) -> None:
    """An unasked answer that the loop has not seen yet when the connection is wanted again."""
    listening = socket.create_server(("127.0.0.1", 0))
    wanted, sent = threading.Event(), threading.Event()

    def serve() -> None:
        for _ in range(5):
            made, _ = listening.accept()
            with made:
                made.recv(5_000)
                made.sendall(page(b"asked"))
                wanted.wait()
                wanted.clear()
                made.sendall(page(b"unasked"))
                sent.set()
                with contextlib.suppress(ConnectionResetError):
                    made.recv(5_000)

    serving = threading.Thread(target=serve)
    serving.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    bodies = []
    for _ in range(5):
        answer = await fetcher.fetch(request(url))
        bodies.append(answer.body if isinstance(answer, Response) else answer)
        wanted.set()
        sent.wait()  # the loop is busy with it, and sees nothing
        sent.clear()
    await fetcher.__aexit__(None, None, None)
    serving.join()
    listening.close()
    assert bodies == [b"asked"] * 5


async def test_a_request_that_can_not_be_written_costs_no_connection(
    site: Site, fetcher: Fetcher
) -> None:
    """It is found out before a connection is taken from those that are kept."""
    """It is found out before a connection is taken from those that are kept."""
    url = site.at("/", page(b"x"))
    await fetcher.fetch(request(url))
    answer = await fetcher.fetch(request(url, headers={"X": "a\r\nb"}))
    assert not isinstance(answer, Response)
    assert isinstance(await fetcher.fetch(request(url)), Response)
    assert site.connections == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_is_sent_twice_at_most(site: Site, fetcher: Fetcher, method: str) -> None:
    """Ten kept connections end without an answer, one after the other: the second is a new one."""
    kept = asyncio.Barrier(10)

    async def all_at_once(visit: Visit) -> None:
        await kept.wait()
        await visit.send(page(b"x"))

    async def drop(visit: Visit) -> None:
        visit.hang_up()

    first, second = site.at("/first", all_at_once), site.at("/second", drop)
    await asyncio.gather(*(fetcher.fetch(request(first)) for _ in range(10)))
    await fetcher.fetch(request(second, method=method, body=b"x" if method == "POST" else None))
    assert len(site.seen("/second")) == 2
