"""A connection to a broker that a test plays, over TCP: how it begins, what it bears, how it ends.

May touch: loopback sockets, pamqp to speak as the broker.
Must never: need a RabbitMQ, or wait for luck.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
from base64 import b64encode
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest
from pamqp import commands as spec
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from scraperd.broker.rabbitmq.wire.codec.properties import Properties
from scraperd.broker.rabbitmq.wire.connection import MAX_GOODBYE, Connection
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused, WrongUrl, dial
from scraperd.broker.rabbitmq.wire.errors import (
    ChannelClosed,
    Closed,
    Nacked,
    NotFound,
    PreconditionFailed,
    Returned,
)
from scraperd.broker.rabbitmq.wire.gate import Gate
from scraperd.broker.rabbitmq.wire.outbox import SLICE
from tests.broker.transports import until
from tests.rig.sites.certificates import Certificates

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from scraperd.broker.rabbitmq.wire.machine import Delivered

WITHIN: Final = 30.0  # seconds for what takes milliseconds
PASSWORD: Final = "hunter2"
MAX_ROOM: Final = 1_000_000  # bytes


@dataclass(slots=True)
class Broker:
    """The other end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    beats: int = 0

    async def read(self) -> tuple[int, Any]:
        """The next frame that is no heartbeat, and its channel."""
        while True:
            head = await self.reader.readexactly(7)
            rest = await self.reader.readexactly(int.from_bytes(head[3:7], "big") + 1)
            _, channel, found = frame.unmarshal(head + rest)
            if not isinstance(found, Heartbeat):
                return channel, found
            self.beats += 1

    async def expect(self, kind: type[Any]) -> Any:
        """The next frame, which is of this kind."""
        channel, found = await self.read()
        assert isinstance(found, kind), found
        del channel
        return found

    def send(self, channel: int, *parts: Any) -> None:
        """Send frames."""
        self.writer.write(b"".join(frame.marshal(part, channel) for part in parts))

    async def greet(self, frame_max: int = 131072) -> None:
        """Let the client in."""
        assert await self.reader.readexactly(8) == b"AMQP\0\0\x09\x01"
        self.send(0, spec.Connection.Start(mechanisms="PLAIN EXTERNAL"))
        await self.expect(spec.Connection.StartOk)
        self.send(0, spec.Connection.Tune(2047, frame_max, 60))
        await self.expect(spec.Connection.TuneOk)
        await self.expect(spec.Connection.Open)
        self.send(0, spec.Connection.OpenOk())

    async def open(self, *, confirms: bool = False) -> None:
        """Open the channel that the client asks for."""
        channel, found = await self.read()
        assert isinstance(found, spec.Channel.Open)
        self.send(channel, spec.Channel.OpenOk())
        if confirms:
            await self.expect(spec.Confirm.Select)
            self.send(channel, spec.Confirm.SelectOk())

    def deliver(self, tag: int, body: bytes, consumer: str = "c") -> None:
        """Deliver a message on channel 1."""
        deliver = spec.Basic.Deliver(consumer, tag, redelivered=False, exchange="", routing_key="q")
        header = ContentHeader(body_size=len(body), properties=spec.Basic.Properties())
        longest = 131072 - 8
        pieces = [ContentBody(body[at : at + longest]) for at in range(0, len(body), longest)]
        self.send(1, deliver, header, *pieces)


@asynccontextmanager
async def listening(
    play: Callable[[Broker], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """The URL of a broker that does as `play` says; a mistake there is the test's."""
    plays: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await play(Broker(reader, writer))
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plays.append(asyncio.ensure_future(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "amqps" if tls else "amqp"
    try:
        yield f"{scheme}://user:{PASSWORD}@localhost:{port}/"
        async with asyncio.timeout(WITHIN):
            await asyncio.gather(*plays)
    finally:
        for one in plays:
            one.cancel()
        await asyncio.gather(*plays, return_exceptions=True)
        server.close()


@asynccontextmanager
async def connected(
    play: Callable[[Broker], Awaitable[None]],
    *,
    heartbeat: int = 0,
    gate: Gate | None = None,
    frame_max: int = 131072,
) -> AsyncIterator[Connection]:
    """A connection to a broker that does as `play` says once it is open."""

    async def whole(broker: Broker) -> None:
        await broker.greet(frame_max)
        await play(broker)

    async with listening(whole) as url:
        connection = await dial(url, "test", heartbeat, WITHIN, gate)
        yield connection
        await connection.close(WITHIN)


async def goodbye(broker: Broker) -> None:
    """Close in order, as the client asks."""
    await broker.expect(spec.Connection.Close)
    broker.send(0, spec.Connection.CloseOk())


def answering(data: bytes, *, close: bool) -> Callable[[Broker], Awaitable[None]]:
    """A peer that says this and closes, or waits."""

    async def play(broker: Broker) -> None:
        broker.writer.write(data)
        if not close:
            with suppress(ConnectionError):
                await broker.reader.read()

    return play


@pytest.mark.parametrize(
    ("data", "close", "words"),
    [
        (b"", True, "the broker cut the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "does not speak AMQP: it sent b'HTTP/1.1"),
        (b"AMQP\0\0\x09\x00", True, "speaks another protocol"),
        (b"\x15\x03\x03\0\x02\x02\x46", False, "amqps://"),
        (b"\x01\0\0\xff\xff\xff\xff", False, "a frame of 4294967303 bytes"),
        (b"\x08\0\0\0\0\0\0\xce" * 20_000, False, "has not opened the connection"),
    ],
    ids=["closes", "http", "version", "tls", "long", "endless"],
)
async def test_a_peer_that_is_no_broker_is_away(data: bytes, close: bool, words: str) -> None:  # noqa: FBT001
    """At once, in words; the next trial may find a broker."""
    async with listening(answering(data, close=close)) as url:
        with pytest.raises(OSError, match=words) as caught:
            await dial(url, "test", 10, WITHIN)
    assert PASSWORD not in repr(caught.value)


async def test_a_mute_peer_is_away_after_the_time_to_connect() -> None:
    """A load balancer that accepts and is silent."""
    async with listening(answering(b"", close=False)) as url:
        with pytest.raises(OSError, match=r"no answer within 0\.1 s \(fetch\.connect_timeout\)"):
            await dial(url, "test", 10, 0.1)


async def test_a_broker_where_nobody_listens_is_away() -> None:
    """The next trial may find one."""
    with pytest.raises(OSError, match="Connect call failed"):
        await dial("amqp://127.0.0.1:1/", "test", 10, WITHIN)


async def test_a_url_that_leads_to_no_broker_is_refused_when_it_is_dialled() -> None:
    """It is not taken for a broker that is away."""
    with pytest.raises(WrongUrl, match="auth=magic of broker_url is unknown"):
        await dial("amqp://127.0.0.1:1/?auth=magic", "test", 10, WITHIN)


async def test_a_refused_login_is_told_without_the_password() -> None:
    """ACCESS_REFUSED while logging in: waiting does not help."""

    async def play(broker: Broker) -> None:
        await broker.reader.readexactly(8)
        broker.send(0, spec.Connection.Start(mechanisms="PLAIN"))
        said = await broker.expect(spec.Connection.StartOk)
        assert said.response == f"\0user\0{PASSWORD}"
        assert said.client_properties["connection_name"] == "test"
        broker.send(0, spec.Connection.Close(403, "ACCESS_REFUSED - no", 10, 11))
        await broker.expect(spec.Connection.CloseOk)

    async with listening(play) as url:
        with pytest.raises(BrokerRefused, match="refused the user name or the password") as caught:
            await dial(url, "test", 10, WITHIN)
    assert PASSWORD not in repr(caught.value)


async def test_the_broker_s_own_words_about_a_vhost_are_told() -> None:
    """A vhost that may still be starting: the broker is away."""

    async def play(broker: Broker) -> None:
        await broker.reader.readexactly(8)
        broker.send(0, spec.Connection.Start(mechanisms="PLAIN"))
        await broker.expect(spec.Connection.StartOk)
        broker.send(0, spec.Connection.Tune(0, 0, 0))
        await broker.expect(spec.Connection.TuneOk)
        assert (await broker.expect(spec.Connection.Open)).virtual_host == "/"
        broker.send(0, spec.Connection.Close(530, "NOT_ALLOWED - vhost / not found", 10, 40))
        await broker.expect(spec.Connection.CloseOk)

    async with listening(play) as url:
        with pytest.raises(OSError, match="vhost / not found; does the vhost of broker_url exist"):
            await dial(url, "test", 10, WITHIN)


async def test_a_cut_during_the_login_hints_at_the_password() -> None:
    """Brokers of old cut the connection instead of saying no."""

    async def play(broker: Broker) -> None:
        await broker.reader.readexactly(8)
        broker.send(0, spec.Connection.Start(mechanisms="PLAIN"))
        await broker.expect(spec.Connection.StartOk)

    async with listening(play) as url:
        with pytest.raises(OSError, match="are user name and password of broker_url right"):
            await dial(url, "test", 10, WITHIN)


async def test_tls_is_by_the_options_of_the_url(tmp_path: Path) -> None:
    """With the authority's file, with the same as data, and by a certificate of the client; a
    large body comes whole, and without the authority the broker is away.
    """
    certificates = Certificates(tmp_path)
    server = certificates.good
    server.load_verify_locations(certificates.authority)
    server.verify_mode = ssl.CERT_OPTIONAL
    logins: list[str] = []

    async def play(broker: Broker) -> None:
        await broker.greet()
        subject = broker.writer.get_extra_info("peercert")
        logins.append("certificate" if subject else "password")
        await broker.open(confirms=True)
        left = 2 * SLICE
        while left:
            _, found = await broker.read()
            left -= len(found.value) if isinstance(found, ContentBody) else 0
        broker.send(1, spec.Basic.Ack(1))
        await goodbye(broker)

    data = quote(b64encode(ssl.PEM_cert_to_DER_cert(certificates.authority.read_text())))
    for options in (
        f"cafile={certificates.authority}",
        f"cadata={data}",
        f"cafile={certificates.authority}&certfile={certificates.pem}&auth=external",
        "no_verify_ssl=1",
        "no_verify_ssl=true",
    ):
        async with listening(play, server) as url:
            connection = await dial(f"{url}?{options}", "test", 10, WITHIN)
            channel = await connection.channel(confirms=True)
            await channel.publish("", "q", b"x" * 2 * SLICE, Properties(message_id="m"))
            await connection.close(WITHIN)
    assert logins == ["password", "password", "certificate", "password", "password"]


async def test_a_broker_that_cannot_be_trusted_is_away(tmp_path: Path) -> None:
    """Its certificate is of an authority that nobody named; and a port without TLS."""

    async def play(_: Broker) -> None:
        raise AssertionError("nothing is said to such a peer")

    for option in ("", "?no_verify_ssl=false", "?no_verify_ssl=0"):
        async with listening(play, Certificates(tmp_path).good) as url:
            with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED") as caught:
                await dial(url + option, "test", 10, WITHIN)
        assert PASSWORD not in repr(caught.value)
    async with listening(answering(b"AMQP\0\0\x09\x01", close=False)) as url:
        with pytest.raises(OSError, match=r"SSL|TLS"):
            await dial(url.replace("amqp:", "amqps:"), "test", 10, WITHIN)


async def test_all_of_a_turn_is_one_write() -> None:
    """Publishes and acks of one turn of the loop arrive together, the acks as runs."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        for tag in range(1, 8):
            broker.deliver(tag, b"x")
        found = [(await broker.read())[1] for _ in range(3 * 3 + 3)]
        acks = [(f.delivery_tag, f.multiple) for f in found if isinstance(f, spec.Basic.Ack)]
        assert acks == [(3, True), (5, False), (7, False)]
        broker.send(1, spec.Basic.Ack(3, multiple=True))
        found = [(await broker.read())[1] for _ in range(2)]
        assert [(f.delivery_tag, f.multiple) for f in found] == [(4, False), (6, False)]
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        taken: list[Delivered] = []
        await channel.consume("q", taken.append)
        await until(lambda: len(taken) == 7)
        publishes = [channel.publish("", "q", b"b", Properties(message_id=m)) for m in "abc"]
        for tag in (7, 3, 1, 2, 5):
            channel.ack(tag)
        assert not connection._transport.get_write_buffer_size()  # type: ignore[union-attr]
        await asyncio.gather(*publishes)
        channel.ack(4)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        channel.ack(6)
        await asyncio.sleep(0)


async def test_an_ack_goes_out_before_what_is_read_in_the_same_turn() -> None:
    """A confirm and a delivery are read in one turn: the ack that the confirm leads to is written
    before a task for the delivery begins, which may be the last thing that the process does.
    """

    async def play(broker: Broker) -> None:
        await broker.open()
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        broker.deliver(1, b"x")
        assert (await broker.expect(spec.Basic.Ack)).delivery_tag == 1
        await goodbye(broker)

    gate = Gate(MAX_ROOM)
    async with connected(play, gate=gate) as connection:
        channel = await connection.channel()
        loop = asyncio.get_running_loop()
        settled: list[tuple[int, bool]] = []

        def start() -> None:
            settled.append((channel._first_unsettled - 1, bool(connection.outbox)))

        def take(_: Delivered) -> None:
            loop.call_soon(start)  # as a task begins

        await channel.consume("q", take)
        await until(lambda: settled)
        copy = [
            spec.Basic.Deliver("c", 2, redelivered=False, exchange="", routing_key="q"),
            ContentHeader(body_size=0, properties=spec.Basic.Properties()),
        ]
        connection.data_received(b"".join(frame.marshal(part, 1) for part in copy))
        loop.call_soon(channel.ack, 1)  # as a confirm does that is read next
        await until(lambda: len(settled) > 1)
        assert settled == [(0, False), (1, False)]


async def test_each_publish_has_its_own_outcome() -> None:
    """Returned, rejected, confirmed one by one and in a run, whatever the order."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        for _ in range(6):
            await broker.expect(spec.Basic.Publish)
            await broker.expect(ContentHeader)
            await broker.expect(ContentBody)
        for ident in ("b", "f"):
            header = ContentHeader(body_size=1, properties=spec.Basic.Properties(message_id=ident))
            broker.send(1, spec.Basic.Return(312, "NO_ROUTE", "", "q"), header, ContentBody(b"b"))
        broker.send(1, spec.Basic.Nack(3))
        broker.send(1, spec.Basic.Ack(5))
        broker.send(1, spec.Basic.Ack(0, multiple=True))
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        idents = ["a", "b", "c", "d", "e", "f"]
        ends = await asyncio.gather(
            *(channel.publish("", "q", b"b", Properties(message_id=one)) for one in idents),
            return_exceptions=True,
        )
    kinds = [type(end) for end in ends]
    assert kinds == [type(None), Returned, Nacked, type(None), type(None), Returned]


async def test_equal_message_ids_get_an_outcome_each() -> None:
    """Two publishes of one id, of which one is returned: one is told so, the other confirmed."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        for _ in range(6):
            await broker.read()
        header = ContentHeader(body_size=0, properties=spec.Basic.Properties(message_id="same"))
        broker.send(1, spec.Basic.Return(312, "NO_ROUTE", "", "q"), header)
        broker.send(1, spec.Basic.Ack(2, multiple=True))
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        ends = await asyncio.gather(
            *(channel.publish("", "q", b"b", Properties(message_id="same")) for _ in "ab"),
            return_exceptions=True,
        )
    assert [type(end) for end in ends] == [Returned, type(None)]


@pytest.mark.parametrize(
    "parts",
    [
        [spec.Basic.Ack(1)],
        [spec.Basic.QosOk()],
        [spec.Channel.OpenOk()],
        [
            spec.Basic.Deliver("nobody", 1, redelivered=False, exchange="", routing_key="q"),
            ContentHeader(body_size=0, properties=spec.Basic.Properties()),
        ],
        [
            spec.Basic.Return(312, "NO_ROUTE", "", "q"),
            ContentHeader(body_size=0, properties=spec.Basic.Properties(message_id="x")),
        ],
    ],
    ids=["confirm", "answer", "opened", "delivery", "return"],
)
async def test_what_nobody_asked_for_ends_the_connection(parts: list[Any]) -> None:
    """A confirm or a return of no publish, an answer to no call, a delivery for no consumer: told
    with 503.
    """

    async def play(broker: Broker) -> None:
        await broker.open()
        broker.send(1, *parts)
        assert (await broker.expect(spec.Connection.Close)).reply_code == 503

    async with connected(play) as connection:
        channel = await connection.channel()
        end = await connection.closed
        assert end.code == 0, "these are no words of the broker"
        with pytest.raises(Closed):
            channel.ack(1)
        with pytest.raises(Closed):
            await connection.channel()


async def test_an_error_of_a_channel_is_its_own() -> None:
    """404 and 406 end the channel and what waits on it, by their words; the others go on."""

    async def play(broker: Broker) -> None:
        await broker.open()
        await broker.open()
        await broker.expect(spec.Queue.Declare)
        broker.send(1, spec.Channel.Close(404, "NOT_FOUND - no queue 'q'", 50, 10))
        await broker.expect(spec.Channel.CloseOk)
        await broker.expect(spec.Queue.Declare)
        broker.send(2, spec.Queue.DeclareOk("q", 5, 2))
        await broker.open()
        await broker.expect(spec.Queue.Declare)
        broker.send(1, spec.Channel.Close(406, "PRECONDITION_FAILED - no", 50, 10))
        await broker.expect(spec.Channel.CloseOk)
        await goodbye(broker)

    async with connected(play) as connection:
        first, second = await connection.channel(), await connection.channel()
        with pytest.raises(NotFound, match="no queue 'q'"):
            await first.declare_queue("q", passive=True)
        assert (first.is_closed, first.closed.result().code) == (True, 404)
        assert await second.declare_queue("q", passive=True) == (5, 2)
        third = await connection.channel()  # under the number of the first
        with pytest.raises(PreconditionFailed):
            await third.declare_queue("q", passive=False)


async def test_a_cancelled_call_takes_no_other_s_answer() -> None:
    """Its answer still comes, and belongs to nobody."""

    async def play(broker: Broker) -> None:
        await broker.open()
        for number in (1, 2):
            await broker.expect(spec.Queue.Declare)
            broker.send(1, spec.Queue.DeclareOk("q", number, 0))
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel()
        forgotten = channel.declare_queue("a", passive=True)
        forgotten.cancel()
        assert await channel.declare_queue("b", passive=True) == (2, 0)


async def test_a_large_body_lets_others_pass() -> None:
    """Small messages of other channels go between its slices; what its own channel sends meanwhile
    comes behind it, in order, and a publish that was cancelled before its turn is not sent.
    """
    order: list[str] = []
    size = 40 * SLICE

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await broker.open(confirms=True)
        left = [0, 0, 0]
        while "closed" not in order:
            channel, found = await broker.read()
            if isinstance(found, ContentHeader):
                left[channel] = found.body_size
            elif isinstance(found, ContentBody):
                left[channel] -= len(found.value)
                if not left[channel]:
                    order.append(f"{channel}: {found.value[-1:].decode()}")
            elif isinstance(found, spec.Channel.Close):
                assert not left[channel]
                broker.send(channel, spec.Channel.CloseOk())
                order.append("closed")
        await goodbye(broker)

    async with connected(play) as connection:
        first = await connection.channel(confirms=True)
        second = await connection.channel(confirms=True)
        first.publish("", "q", b"L" * size, Properties(message_id="l"))
        behind = first.publish("", "q", b"m", Properties(message_id="m"))
        dropped = first.publish("", "q", b"n", Properties(message_id="n"))
        dropped.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.publish("", "q", b"s", Properties(message_id="s"))
        closing = asyncio.ensure_future(first.close(WITHIN))
        with pytest.raises(ChannelClosed):
            await behind
        await closing
    assert order == ["2: s", "1: L", "closed"]


async def test_memory_of_a_slow_broker_is_bounded() -> None:
    """A broker that does not read gets a few slices, not a copy of all that waits."""
    go = asyncio.Event()

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await go.wait()
        await broker.reader.read(100)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        body = b"x" * (64 * SLICE)
        publish = channel.publish("", "q", body, Properties(message_id="m"))
        transport = connection._transport
        assert transport is not None
        await until(lambda: connection._paused)
        for _ in range(50):
            await asyncio.sleep(0)
        assert transport.get_write_buffer_size() < 3 * SLICE
        assert connection.waiting() > 32 * SLICE
        go.set()
        with pytest.raises(Closed):
            await publish


async def test_an_alarm_is_told() -> None:
    """connection.blocked and connection.unblocked, with the broker's reason."""

    async def play(broker: Broker) -> None:
        broker.send(0, spec.Connection.Blocked("low on memory"))
        await broker.open()
        await seen.wait()
        broker.send(0, spec.Connection.Unblocked())
        await broker.open()
        await goodbye(broker)

    seen = asyncio.Event()

    async with connected(play) as connection:
        await connection.channel()
        assert connection.blocked == "low on memory"
        seen.set()
        await connection.channel()
        assert connection.blocked == ""


async def test_a_stopped_flow_holds_publishes_and_nothing_else() -> None:
    """channel.flow: publishes wait, calls go on, and the answers are flow-ok."""
    seen: list[str] = []

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        broker.send(1, spec.Channel.Flow(active=False))
        assert not (await broker.expect(spec.Channel.FlowOk)).active
        await broker.expect(spec.Basic.Qos)
        broker.send(1, spec.Basic.QosOk())
        broker.send(1, spec.Channel.Flow(active=True))
        assert (await broker.expect(spec.Channel.FlowOk)).active
        await broker.expect(spec.Basic.Publish)
        await broker.expect(ContentHeader)
        broker.send(1, spec.Basic.Ack(1))
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        await until(lambda: not channel._flowing)
        publish = channel.publish("", "q", b"", Properties(message_id="m"))
        publish.add_done_callback(lambda _: seen.append("confirmed"))
        await channel.qos(1)
        assert seen == []
        await publish


async def test_heartbeats_go_both_ways() -> None:
    """Ours are sent while nothing else is; without any of the broker's it is given up."""
    heard = asyncio.Event()

    async def play(broker: Broker) -> None:
        with pytest.raises(asyncio.IncompleteReadError):
            await broker.read()
        assert broker.beats >= 6  # two in each second, and none came back for six
        heard.set()

    async with connected(play, heartbeat=1) as connection:
        end = await connection.closed
        assert str(end) == "nothing came from the broker for 6 s"
        await heard.wait()


async def test_a_body_without_room_is_left_on_the_wire() -> None:
    """The transport is not read until there is room, and then all comes, in order."""
    size = 100_000

    async def play(broker: Broker) -> None:
        await broker.open()
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        for tag in range(1, 9):
            broker.deliver(tag, bytes([tag]) * size)
        await goodbye(broker)

    gate = Gate(2 * size)
    async with connected(play, gate=gate) as connection:
        channel = await connection.channel()
        taken: list[Delivered] = []
        await channel.consume("q", taken.append)
        for done in range(8):
            await until(lambda: len(taken) > done)  # noqa: B023 - it is run here
            assert len(taken) - done <= 3
            if len(taken) < 8:
                await until(lambda: connection.machine.held)
            gate.leave(size)
        assert [event.body for event in taken] == [bytes([tag]) * size for tag in range(1, 9)]


async def test_closing_reads_past_a_body_that_waits() -> None:
    """The answer to a close comes behind it."""

    async def play(broker: Broker) -> None:
        await broker.open()
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        for tag in (1, 2):
            broker.deliver(tag, b"x" * 100_000)
        await goodbye(broker)

    gate = Gate(1)
    async with connected(play, gate=gate) as connection:
        channel = await connection.channel()
        await channel.consume("q", lambda _: None)
        await until(lambda: connection.machine.held)
        await connection.close(WITHIN)
        assert str(connection.closed.result()) == "closed"


async def test_a_handler_that_fails_ends_the_connection() -> None:
    """A mistake of ours is not swallowed by the loop."""

    def fail(_: object) -> None:
        raise ZeroDivisionError

    async def play(broker: Broker) -> None:
        await broker.open()
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        broker.deliver(1, b"x")
        assert (await broker.expect(spec.Connection.Close)).reply_code == 541

    async with connected(play) as connection:
        channel = await connection.channel()
        await channel.consume("q", fail)
        assert "ZeroDivisionError" in str(await connection.closed)


@pytest.mark.parametrize("how", ["cut", "closed", "given up"])
async def test_all_that_waits_ends_with_the_connection(how: str) -> None:
    """Calls, publishes, channels: each with the reason, once, and nothing is left behind."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        for _ in range(4):
            await broker.read()
        if how == "closed":
            broker.send(0, spec.Connection.Close(320, "CONNECTION_FORCED - bye", 0, 0))
            await broker.expect(spec.Connection.CloseOk)
        elif how == "given up":
            await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        publish = channel.publish("", "q", b"x", Properties(message_id="m"))
        call = channel.qos(1)
        if how == "given up":
            connection.give_up(Closed("enough"))
        ends = await asyncio.gather(publish, call, return_exceptions=True)
        words = {"cut": "cut the connection", "closed": "bye", "given up": "enough"}[how]
        assert [isinstance(end, Closed) and words in str(end) for end in ends] == [True, True]
        assert words in str(channel.closed.result())
        await asyncio.wait([connection.closed])
        assert connection.closed.result().code == (320 if how == "closed" else 0)


async def test_a_peer_that_reads_nothing_is_cut() -> None:
    """Closing takes no longer than it may, and leaves no connection open."""
    go = asyncio.Event()

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await go.wait()

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        publish = channel.publish("", "q", b"x" * (64 * SLICE), Properties(message_id="m"))
        await until(lambda: connection._paused)
        await connection.close(MAX_GOODBYE / 10)
        with pytest.raises(Closed):
            await publish
        assert connection._transport.is_closing()  # type: ignore[union-attr]
        go.set()


async def test_frames_keep_to_the_agreed_size() -> None:
    """A broker that asks for small frames gets them, and headers that do not fit are refused."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await broker.expect(spec.Basic.Publish)
        await broker.expect(ContentHeader)
        sizes = [len((await broker.expect(ContentBody)).value) for _ in range(3)]
        assert sizes == [4088, 4088, 1824]
        broker.send(1, spec.Basic.Ack(1))
        await goodbye(broker)

    async with connected(play, frame_max=4096) as connection:
        channel = await connection.channel(confirms=True)
        with pytest.raises(ValueError, match="frame_max is 4096"):
            channel.publish("", "q", b"", Properties(headers={"a": "x" * 5000}))
        await channel.publish("", "q", b"x" * 10_000, Properties(message_id="m"))


async def test_nothing_holds_a_body_after_its_delivery() -> None:
    """Neither the connection nor the channel keeps what was delivered or published."""

    async def play(broker: Broker) -> None:
        await broker.open(confirms=True)
        await broker.expect(spec.Basic.Consume)
        broker.send(1, spec.Basic.ConsumeOk("c"))
        broker.deliver(1, b"x" * 3_000_000)
        for _ in range(5):
            await broker.read()
        broker.send(1, spec.Basic.Ack(1))
        await goodbye(broker)

    async with connected(play) as connection:
        channel = await connection.channel(confirms=True)
        sizes: list[int] = []
        await channel.consume("q", lambda event: sizes.append(len(event.body)))
        await until(lambda: sizes)
        await channel.publish("", "q", b"y" * 300_000, Properties(message_id="m"))
        gc.collect()
        kept = [one for one in gc.get_objects() if isinstance(one, bytearray | memoryview)]
        assert not [one for one in kept if len(one) > 100_000]
        assert connection.machine._have == 0
