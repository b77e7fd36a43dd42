"""Tests of the time that answers may take of one turn of the loop.

May touch: sites on loopback, a transport that is fed by hand.
Must never: depend on how fast this machine is.
"""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING, Any

import pytest
from yarl import URL

from scraperd.fetch.http1.reader import HeadLimits, Malformed, Reader
from scraperd.fetch.http1.reading_time import ReadingTime
from scraperd.fetch.message import Request, Response
from scraperd.fetch.protocol import Connection
from scraperd.wiring import fetcher_of
from tests.rig.page import loopback
from tests.rig.sites.site import Site, Visit, chunk, head, page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from scraperd.contract import Failure
    from scraperd.fetch.client import Fetcher

LARGE = bytes(range(256)) * 4_000  # a megabyte: many pieces, each larger than a read buffer


class Clock:
    """Says what time it is; work takes as long as it says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Work:
    """A connection whose data take `seconds` to parse."""

    def __init__(self, clock: Clock, done: list[Work], seconds: float = 0.002) -> None:
        self.clock = clock
        self.done = done
        self.seconds = seconds

    def go_on(self) -> None:
        self.clock.now += self.seconds
        self.done.append(self)


def assert_free(reading_time: ReadingTime) -> None:
    assert not reading_time.over, "nobody waits, and no time is spent"


async def turn() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


async def test_a_turn_has_an_end() -> None:
    """Work goes on until the time of the turn is spent; what waits has a part of each turn."""
    clock, done = Clock(), []  # type: tuple[Clock, list[Work]]
    reading_time = ReadingTime(0.005, clock)
    assert_free(reading_time)
    for _ in range(3):
        reading_time.spend(Work(clock, done).go_on)
    assert reading_time.over, "6 ms of 5 are spent"
    waiting = [Work(clock, done) for _ in range(7)]
    for one in waiting:
        reading_time.wait(one)
    for so_far in (3, 6, 7):
        await turn()
        assert done[3:] == waiting[:so_far], "three of 2 ms each a turn, in their order"
    await turn()
    assert_free(reading_time)


async def test_nobody_overtakes() -> None:
    """While somebody waits, the time is over for all others, though some of it is left."""
    clock, done = Clock(), []  # type: tuple[Clock, list[Work]]
    reading_time = ReadingTime(0.005, clock)
    reading_time.wait(Work(clock, done))
    assert reading_time.over
    await turn()
    assert len(done) == 1
    assert_free(reading_time)


async def test_a_fault_is_counted_too() -> None:
    """Work that raises ends its own call, and its time counts."""
    clock = Clock()
    reading_time = ReadingTime(0.005, clock)

    def broken() -> None:
        clock.now += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        reading_time.spend(broken)
    assert reading_time.over
    await turn()
    assert_free(reading_time)


class Wire(asyncio.Transport):
    """Notes whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.closing = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: object) -> None:
        """Take a request."""

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    abort = close


def spent(slice_: float = 0.005) -> ReadingTime:
    """A turn whose time is over."""
    clock = Clock()
    reading_time = ReadingTime(slice_, clock)

    def work() -> None:
        clock.now += slice_

    reading_time.spend(work)
    return reading_time


def asking(reading_time: ReadingTime) -> tuple[Connection, Wire, Reader]:
    """A connection that has sent a request, and what reads its response."""
    made, wire = Connection(asyncio.get_running_loop(), {}, reading_time), Wire()
    made.connection_made(wire)
    reader = Reader(HeadLimits(100, 8_000))
    made.ask(reader, b"GET / HTTP/1.1\r\n\r\n")
    return made, wire, reader


async def take_all(made: Connection, reader: Reader, body: bytearray) -> None:
    """Take the body until its end. Raises what ended it before."""
    while not reader.ended:
        await made.more()
        body += reader.take()


async def test_what_is_held_stops_the_reading() -> None:
    """A connection that holds data is not read, and takes no request, until it is parsed."""
    made, wire, reader = asking(spent())
    made.data_received(head("Content-Length: 5"))
    made.data_received(b"hello")
    assert reader.head is None, "it was parsed though the time was over"
    assert not wire.reading
    assert not made.is_connected()
    await made.more()
    assert reader.take() == b"hello"
    assert wire.reading
    assert made.finish()
    assert made.is_connected()


async def test_what_comes_before_the_request_waits_for_it() -> None:
    """A site that answers before it was asked is heard once it is asked."""
    made, wire = Connection(asyncio.get_running_loop(), {}, ReadingTime()), Wire()
    made.connection_made(wire)
    made.data_received(page(b"early"))
    assert not wire.reading
    reader = Reader(HeadLimits(100, 8_000))
    made.ask(reader, b"GET / HTTP/1.1\r\n\r\n")
    await made.more()
    assert reader.take() == b"early"


async def test_the_end_comes_behind_what_is_held() -> None:
    """A body that ends with the connection is whole, though its end comes while data are held."""
    for end in ("eof", "lost"):
        made, _, reader = asking(spent())
        made.data_received(head())
        made.data_received(b"hello")
        if end == "eof":
            made.eof_received()
        made.connection_lost(None)
        await made.more()
        assert reader.ended, end
        assert reader.take() == b"hello", end


async def test_an_aborted_connection_parses_nothing() -> None:
    """What is held is dropped with the connection."""
    made, _, reader = asking(spent())
    made.data_received(page(b"here"))
    made.abort()
    made.connection_lost(None)
    await turn()
    assert reader.head is None


async def test_a_fault_ends_what_is_held_behind_it() -> None:
    """Nothing that follows a malformed response is taken for another response."""
    made, wire, reader = asking(spent())
    made.data_received(b"no HTTP\r\n\r\n")
    made.data_received(page(b"here"))
    with pytest.raises(Malformed):
        await made.more()
    assert wire.closing
    await turn()
    assert reader.head is None


async def test_a_slow_reader_holds_what_is_held() -> None:
    """Data that are held wait for whoever reads the body as well, and come in order."""
    made, wire, reader = asking(spent())
    made.data_received(head(f"Content-Length: {len(LARGE)}") + LARGE[:500_000])
    made.data_received(LARGE[500_000:])
    await made.more(body=False)
    await turn()
    assert reader.size == 500_000, "nobody took it, and more was parsed"
    assert not wire.reading
    body = bytearray()
    await take_all(made, reader, body)
    assert body == LARGE


async def test_tiny_chunks_take_several_turns() -> None:
    """One piece of twenty thousand chunks is read in steps, others come between them."""
    reading_time = ReadingTime()
    made, wire, reader = asking(reading_time)
    made.data_received(head("Transfer-Encoding: chunked"))
    await made.more(body=False)
    others = 0

    async def count() -> None:
        nonlocal others
        while not reader.ended:
            others += 1
            await turn()

    counting = asyncio.create_task(count())
    made.data_received(chunk(b"x") * 20_000 + chunk(b""))
    assert not wire.reading
    body = bytearray()
    await take_all(made, reader, body)
    await counting
    assert body == b"x" * 20_000
    assert others > 3, "it was read in one turn"


@pytest.fixture
async def scarce() -> AsyncIterator[Fetcher]:
    """A fetcher where one piece a turn is parsed, and all others are held."""
    async with fetcher_of(loopback(), ReadingTime(1e-9)) as made:
        yield made


async def got(fetcher: Fetcher, url: str, **fields: Any) -> Response | Failure:
    """Fetch it."""
    fields = {"timeout": 5.0, "max_body": 1 << 22, "body": None, "method": "GET", **fields}
    return await fetcher.fetch(Request(url=URL(url), headers={}, **fields))


ANSWERS = {
    "length": page(LARGE),
    "chunks": head("Transfer-Encoding: chunked")
    + b"".join(chunk(LARGE[at : at + 9_999]) for at in range(0, len(LARGE), 9_999))
    + b"0\r\n\r\n",
    "gzip": page(gzip.compress(LARGE), headers=["Content-Encoding: gzip"]),
}


@pytest.mark.parametrize("kind", [*ANSWERS, "until the end", "drops"])
async def test_a_hundred_answers_in_one_moment(site: Site, scarce: Fetcher, kind: str) -> None:
    """Each of a hundred large answers that come at once is right to the byte."""
    all_here = asyncio.Event()
    here = 0

    async def together(visit: Visit) -> None:
        nonlocal here
        here += 1
        if here == 100:
            all_here.set()
        await all_here.wait()
        if kind == "until the end":
            await visit.send(head("Connection: close"), LARGE)
            visit.hang_up()
        elif kind == "drops":
            for at in range(0, 300_000, 3_000):
                await visit.send(
                    (head("Content-Length: 300000") if not at else b"") + LARGE[at : at + 3_000]
                )
        else:
            await visit.send(ANSWERS[kind])

    url = site.at("/", together)
    answers = await asyncio.gather(*(got(scarce, f"{url}?{n}", timeout=30.0) for n in range(100)))
    wanted = LARGE[:300_000] if kind == "drops" else LARGE
    for answer in answers:
        assert isinstance(answer, Response), answer
        assert answer.body == wanted


async def test_junk_behind_a_held_answer_is_nobodys(site: Site, scarce: Fetcher) -> None:
    """A second answer that nobody asked for is never the next job's, held or not."""

    async def twice(visit: Visit) -> None:
        await visit.send(page(b"asked"), page(b"unasked"))

    first, second = site.at("/first", twice), site.at("/second", page(b"second"))
    for _ in range(20):
        one = await got(scarce, first)
        two = await got(scarce, second)
        assert not isinstance(two, Response) or two.body == b"second"
        assert not isinstance(one, Response) or one.body == b"asked"
