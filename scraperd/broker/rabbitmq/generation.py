"""A *generation*: two connections with their channels, from connect to the first sign of trouble.

May touch: the connections of `wire`, the clocks that it is handed.
Must never: reconnect, or settle a delivery of another generation.

The states of a generation. It never goes back, and only the first reason of its end counts:

| state  | `lost`  | what can be done                       | ends by                      |
| ------ | ------- | -------------------------------------- | ---------------------------- |
| new    | pending | connect                                | `connect`, `end`, `close`    |
| live   | pending | consume, count, ack, publish, renew    | any sign of trouble, `close` |
| lost   | done    | an ack is False, a publish raises Lost | `close`                      |
| closed | done    | the same                               |                              |

With `lost` all calls and publishes that wait end at once (`Connection.give_up`).
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

from msgspec import Struct

from scraperd.broker.ports import Delivery, Lost, Source
from scraperd.broker.rabbitmq.codec import delivery_of
from scraperd.broker.rabbitmq.limits import blames_a_publish
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT
from scraperd.broker.rabbitmq.wire.dial import dial, endpoint
from scraperd.broker.rabbitmq.wire.errors import INTERNAL_ERROR, AccessRefused, Closed, NotFound
from scraperd.broker.rabbitmq.wire.gate import Gate
from scraperd.broker.rabbitmq.wire.machine import MAX_FRAME_BYTES
from scraperd.broker.rabbitmq.wire.outbox import SLICE

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.base.clocks import Clocks
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.codec.properties import Properties
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered
    from scraperd.config.tables import BrokerSettings

T = TypeVar("T")
RENEW_INTERVAL: Final = 5.0  # seconds; a queue that is full rejects on any channel
ANSWER_TIMEOUT: Final = 10.0  # seconds
COUNT_TIMEOUT: Final = 4.0  # seconds; a queue that takes longer to be counted has no leader
MAX_KEPT_SENT: Final = 30  # acks at a time: RabbitMQ passes 32 on at once (`keep_acks`)


class Events(Protocol):
    """What this room tells its owner. Fields are plain values, fit for a log."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Something happened."""


class Settings(Struct, frozen=True):
    """How to reach the broker: one of `urls`, tried in turn. Times in seconds."""

    urls: tuple[str, ...]
    name: str
    heartbeat: int
    connect_timeout: float
    reconnect_min: float
    reconnect_max: float
    confirm_timeout: float
    passive: bool
    compares: bool = False
    """Whether queues that others made are compared by declaring them again."""

    @classmethod
    def of(
        cls, table: BrokerSettings, urls: tuple[str, ...], name: str, connect_timeout: float
    ) -> Self:
        """Return the settings of the table `broker`, with what stands elsewhere."""
        return cls(
            urls=urls,
            name=name,
            heartbeat=table.heartbeat,
            connect_timeout=connect_timeout,
            reconnect_min=table.reconnect_min,
            reconnect_max=table.reconnect_max,
            confirm_timeout=table.confirm_timeout,
            passive=table.passive_declare,
            compares=table.passive_declare and not table.management_api,
        )


@dataclass(slots=True)
class Consumer:
    """One registration as a consumer: what it was given, and how much of that is not acked."""

    queue: str
    source: Source
    prefetch: int
    fed_at: float  # last seen with something, or no room
    idle_from: float  # last seen with any delivery
    tag: str = ""
    delivered: int = 0
    unacked: int = 0
    seen: int = 0  # of those delivered, when it was last looked at


class Generation:
    """One pair of connections with their channels, from connect to the first sign of trouble.

    Two connections, because a broker under a memory or disk alarm stops reading from one that
    publishes, and acks on it would not be applied (docs/architecture.md).
    """

    def __init__(
        self, settings: Settings, url: str, clocks: Clocks, gate: Gate | None = None
    ) -> None:
        self._settings = settings
        self._url = url
        self._gate = gate or Gate(math.inf)
        self._clocks = clocks
        self._connections: list[Connection] = []
        self._beside: list[Connection] = []
        self._consume: Channel | None = None
        self._publishing: list[Channel] = []  # for small messages, and for those sent in slices
        self._ask: Channel | None = None
        self._held: dict[int, tuple[Consumer, int]] = {}  # and the bytes of the body
        self._queues: dict[str, str] = {}  # by their consumers' tags
        self._last_acks: list[int] | None = None
        self._pending: dict[object, tuple[float, Channel | None]] = {}
        self._reopening = asyncio.Lock()
        self._renewed = 0.0
        self._renewing = False
        self._replaced: set[object] = set()
        self._arrived = 0
        self._moved = 0.0
        self.close_reason = ""
        """The broker's own words, if it closed a channel or a connection with some."""
        self._blamed = ""
        self.undeliverable = False
        """Whether the broker failed (541) on the connection that it delivers by."""
        self.refused_until = 0.0
        """Monotonic clock: until then the broker refuses all publishes to an exchange of ours."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """Open both connections and the publishing channel. Raises BrokerRefused or OSError."""
        settings = self._settings
        for purpose in ("consume", "publish"):
            name = f"{settings.name} {purpose}"
            gate = self._gate if purpose == "consume" else None
            connection = await dial(
                self._url, name, settings.heartbeat, settings.connect_timeout, gate
            )
            self._connections.append(connection)
        consuming, publishing = self._connections
        self._consume = await consuming.channel()
        self._consume.on_cancel = self._on_cancelled
        self._publishing = await self._open_publishing()
        self._watch(consuming)
        self._watch(publishing)
        for channel in (self._consume, *self._publishing):
            self._watch(channel)

    @property
    def blames_a_publish(self) -> bool:
        """See ports.Epoch."""
        return blames_a_publish(self._blamed)

    async def _open_publishing(self) -> list[Channel]:
        """Two channels: the frames of a large message would hold up all others on its own."""
        connection = self._connections[1]
        return [await connection.channel(confirms=True), await connection.channel(confirms=True)]

    @property
    def broker(self) -> str:
        """Return the broker's URL without credentials."""
        return endpoint(self._url)

    @property
    def server(self) -> dict[str, Any]:
        """Product, version and more, as the broker says (AMQP 0-9-1 section 1.4.2.1)."""
        said = self._connections[0].opened.result()
        return said if isinstance(said, dict) else {}

    @property
    def frame_max(self) -> int:
        """Bytes of the largest frame that may be sent, as agreed on the connection that publishes.

        Before that connection is open, the largest that is asked for.
        """
        if len(self._connections) < 2:  # noqa: PLR2004 - a pair
            return MAX_FRAME_BYTES
        return self._connections[1].machine.frame_max

    async def channel(self, *, confirms: bool = False) -> Channel:
        """A fresh channel: an error there closes it and nothing else. Raises Closed, Lost."""
        self._check()
        return await self._connections[1].channel(confirms=confirms)

    async def another(self, purpose: str = "trial", gate: Gate | None = None) -> Connection:
        """A further connection to the same broker, for what may end it. Raises as `connect`."""
        settings = self._settings
        name = f"{settings.name} {purpose}"
        return await dial(self._url, name, settings.heartbeat, settings.connect_timeout, gate)

    async def beside(self, purpose: str = "trial", gate: Gate | None = None) -> Connection:
        """A further connection that may end alone, and is closed with this generation.

        Raises as `connect`, and Lost.
        """
        connection = await self.another(purpose, gate)
        if self.lost.done():
            await connection.close(CLOSE_TIMEOUT)
            raise self._gone()
        self._beside = [one for one in self._beside if not one.closed.done()]
        self._beside.append(connection)
        return connection

    async def reading(self) -> Channel:
        """A fresh channel for deliveries: what waits for the gate holds up no other channel's."""
        self._check()
        return await self._connections[0].channel()

    async def consume(
        self, queue: str, source: Source, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> Consumer:
        """Register as a consumer.

        `on_delivery` only takes over; it must not wait, and may be given what was on its way when
        the generation ended. The prefetch count holds for this consumer alone (RabbitMQ's reading
        of basic.qos).
        """
        channel = self._consume
        assert channel is not None
        now = self._clocks.monotonic()
        consumer = Consumer(queue, source, prefetch, fed_at=now, idle_from=now)

        def hand_over(message: Delivered) -> None:
            try:
                delivery = delivery_of(message, self, source, self.ack)
                consumer.delivered += 1
                consumer.unacked += 1
                size = len(message.body)  # as the gate saw it on the wire
                self._held[delivery.tag] = consumer, size
                delivery.crowded = self._gate.arrived(size)
                on_delivery(delivery)
            except Exception as error:  # noqa: BLE001 - whatever it is, the delivery is unacked
                self.end(f"taking a delivery over failed: {error!r}")

        await self._answer(channel.qos(prefetch), ANSWER_TIMEOUT)
        consumer.tag = await self._answer(channel.consume(queue, hand_over), ANSWER_TIMEOUT)
        self._queues[consumer.tag] = queue
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        """Stop the flow of deliveries; what was delivered can still be acked."""
        if self._consume is not None and not self.lost.done():
            try:
                await self._answer(self._consume.cancel(consumer.tag), CLOSE_TIMEOUT)
            except OSError as error:
                self.end(f"cancelling the consumer failed: {error!r}")

    async def _answer(self, asked: asyncio.Future[T], within: float) -> T:
        """The answer to a call on the channel that consumes. Raises TimeoutError, Closed.

        It comes behind all that was delivered before: as long as that moves, or waits for the gate,
        the time does not count.
        """
        try:
            while True:
                passed = self._gate.passed
                if (await asyncio.wait([asked], timeout=within))[0]:
                    return asked.result()
                if self._gate.passed == passed and not self._gate.crowded:
                    raise TimeoutError
        finally:
            asked.cancel()

    @property
    def unacked(self) -> int:
        """Deliveries that the broker waits for."""
        return len(self._held)

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for the broker's confirm."""
        return len(self._pending)

    @property
    def retiring(self) -> int:
        """Publishing channels that `renew` replaced and that are not closed yet."""
        return len(self._replaced)

    async def count(self, queue: str) -> tuple[int, int] | None:
        """Ready messages and consumers, by the broker's own count; None if it does not say."""
        if self.lost.done():
            return None
        try:
            async with asyncio.timeout(COUNT_TIMEOUT):
                if self._ask is None or self._ask.is_closed:
                    self._ask = await self._connections[0].channel()
                return await self._ask.count(queue)
        except OSError:  # also TimeoutError: a queue without a leader is not counted
            asked, self._ask = self._ask, None
            if asked is not None:
                asked.leave()  # RabbitMQ answers nothing else on it meanwhile
            return None

    async def ack(self, delivery: Delivery) -> bool:
        """Ack one delivery; False if this generation has ended."""
        if self.lost.done() or self._consume is None:
            return False
        tag = delivery.tag
        if self._last_acks is not None:
            self._last_acks.append(tag)
        elif not self._send_ack(tag):
            return False
        if (held := self._held.pop(tag, None)) is not None:
            consumer, size = held
            consumer.unacked -= 1
            self._gate.leave(size)
        return True

    def _send_ack(self, tag: int) -> bool:
        assert self._consume is not None
        try:
            self._consume.ack(tag)
        except Closed as error:
            self.end(f"ack failed: {error!r}")
            return False
        return True

    def keep_acks(self) -> None:
        """Send all further acks by `send_acks`, many as one; nothing is consumed any more.

        RabbitMQ passes 32 acks of a channel on to a quorum queue at a time, and forgets those that
        wait when the channel is closed (measured with 3.10.8: 30 of 500). A cancel-ok comes when
        all before it are applied, and acks with `multiple` are passed on as one.
        """
        if self._last_acks is None:
            self._last_acks = []

    def send_acks(self, most: int = MAX_KEPT_SENT) -> None:
        """Send the kept acks of the `most` oldest deliveries.

        The channel makes one ack of all before what is unsettled. The others go one by one: so few
        of them that none still waits in the broker if the channel is closed next.
        """
        if not self._last_acks or self._consume is None or self.lost.done():
            return
        tags = sorted(self._last_acks)
        self._last_acks = tags[most:]
        for tag in tags[:most]:
            if not self._send_ack(tag):
                return

    async def publish(self, exchange: str, key: str, body: bytes, properties: Properties) -> None:
        """Publish, mandatory, and wait for the confirm.

        Raises Returned, Nacked, UnsendableError, or Lost; AccessRefused or NotFound if the broker
        closed the channel with that. This message may have provoked it, or any other of that
        channel: `publish_alone` tells. There is no timeout here: a late confirm has an unknown
        outcome, so `overdue` ends the generation.
        """
        if self.lost.done() or not self._publishing:
            raise self._gone()
        place = len(body) > SLICE
        channel = self._publishing[place]
        key_of_wait = object()
        self._pending[key_of_wait] = self._clocks.monotonic(), channel
        try:
            if channel.is_closed:
                channel = await self._reopened(place)
            await channel.publish(exchange, key, body, properties)
        except (AccessRefused, NotFound):
            raise
        except Closed as error:
            self.end(f"publish failed: {error!r}")
            raise self._gone() from error
        finally:
            del self._pending[key_of_wait]
            if channel not in self._publishing:
                await self._retire(channel)

    async def publish_alone(
        self, exchange: str, key: str, body: bytes, properties: Properties
    ) -> None:
        """Publish like `publish`, on a channel that nothing else uses.

        So AccessRefused and NotFound are about this message.
        """
        self._check()
        key_of_wait = object()
        self._pending[key_of_wait] = self._clocks.monotonic(), None
        try:
            channel = await self._connections[1].channel(confirms=True)
            try:
                await channel.publish(exchange, key, body, properties)
            finally:
                channel.leave()
        except (AccessRefused, NotFound):
            raise
        except Closed as error:
            self._on_closed(None, error)
            raise self._gone() from error
        finally:
            del self._pending[key_of_wait]

    async def _reopened(self, place: int) -> Channel:
        """A new channel for one that the broker closed over a publish. Raises Closed, Lost."""
        async with self._reopening:
            self._check()
            channel = self._publishing[place]
            if channel.is_closed:
                channel = await self._connections[1].channel(confirms=True)
                self._watch(channel)
                self._publishing[place] = channel
            return channel

    async def renew(self) -> None:
        """Publish on new channels from now on; at most every RENEW_INTERVAL seconds.

        RabbitMQ 3.10 rejects everything from a channel that first published to a queue
        while that had no leader, also when it has one.
        """
        now, old = self._clocks.monotonic(), self._publishing
        soon = self._renewing or now - self._renewed < RENEW_INTERVAL
        if soon or self.lost.done() or not old:
            return
        self._renewed, self._renewing = now, True
        try:
            new = await self._open_publishing()
        except Closed as error:
            self.end(f"opening a channel failed: {error!r}")
            return
        finally:
            self._renewing = False
        for channel in new:
            self._watch(channel)
        self._replaced.update(old)
        self._publishing = new
        for channel in old:
            await self._retire(channel)

    async def _retire(self, channel: Channel) -> None:
        """Close a channel that was replaced, once nothing waits for a confirm on it."""
        if channel.is_closed or any(channel is other for _, other in self._pending.values()):
            return
        with suppress(OSError):
            await channel.close(CLOSE_TIMEOUT)

    @property
    def blocked(self) -> bool:
        """Whether the broker holds back publishers (memory or disk alarm)."""
        return bool(self._connections[1].blocked)

    @property
    def refused(self) -> bool:
        """Whether the broker refuses what is published to an exchange of ours."""
        return self._clocks.monotonic() < self.refused_until

    def overdue(self) -> float:
        """Seconds that the oldest publish has waited for its confirm; 0 without one.

        On a slow line it does not wait for a confirm while it is still on its way.
        """
        now = self._clocks.monotonic()
        oldest, _ = next(iter(self._pending.values()), (None, None))
        if oldest is None or self.lost.done():
            return 0.0
        connection = self._connections[1]
        if (arrived := connection.arrived()) != self._arrived and connection.waiting():
            self._moved = now
        self._arrived = arrived
        return now - max(oldest, self._moved)

    def excuse(self) -> None:
        """No publish is overdue for what it waited so far: the broker took none."""
        self._moved = self._clocks.monotonic()

    def end(self, reason: str) -> None:
        """Declare this generation over. Only the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)
            for connection in (*self._connections, *self._beside):
                connection.give_up(Closed(reason))

    def _check(self) -> None:
        if self.lost.done() or len(self._connections) < 2:  # noqa: PLR2004 - a pair
            raise self._gone()

    def _gone(self) -> Lost:
        why = self.lost.result() if self.lost.done() else "connection closed"
        return Lost(f"lost the broker: {why}")

    async def close(self) -> None:
        """Tear both connections down; the broker requeues whatever was unacked.

        A healthy channel is closed first: its close-ok tells that every ack before it arrived.
        """
        if self._consume is not None and not self.lost.done():
            self.send_acks(len(self._last_acks or ()))
            with suppress(OSError):
                await self._consume.close(CLOSE_TIMEOUT)
        self.end("closed")
        self._gate.close()
        ends = (*self._connections, *self._beside)
        await asyncio.gather(*(one.close(CLOSE_TIMEOUT) for one in ends))

    def _watch(self, end: Connection | Channel) -> None:
        end.closed.add_done_callback(lambda closed: self._on_closed(end, closed.result()))

    def _on_closed(self, end: object, error: Closed) -> None:
        if end in self._publishing and isinstance(error, AccessRefused | NotFound):
            return  # over one message of many: `publish` opens a new channel
        delivers = end is self._consume or end is self._connections[0]
        if error.code:
            self.close_reason = self.close_reason or str(error)
            if delivers:
                self.undeliverable = error.code == INTERNAL_ERROR
            else:
                self._blamed = self._blamed or str(error)
        if end in self._replaced:
            self._replaced.discard(end)
            return
        self.end(f"connection closed: {error!r}")

    def _on_cancelled(self, tag: str) -> None:
        queue = self._queues.get(tag, "a queue")
        why = "deleted, or its leader moved or crashed"
        self.end(f"the broker cancelled the consumer of {queue} ({why})")
