"""Consumes the queue of batches as one of many, of which RabbitMQ chooses one at a time.

May touch: a connection of its own; the clocks that it is handed.
Must never: ack by itself, or end the daemon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from scraperd.base.backoff import Pauses
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.errors import ChannelClosed, Closed, NotTaken
from scraperd.broker.rabbitmq.wire.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Message
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

PREFETCH: Final = 5000  # messages that are read and not acked; all are written down long before
MIN_PAUSE: Final = 1.0  # seconds between two connections
MAX_PAUSE: Final = 60.0
MAX_HELD: Final = 64 * 1024 * 1024  # bytes of large messages that are read at a time


class Interrupted(Closed):
    """The queue of batches is gone, or it takes nothing."""


class Holder(Protocol):
    """Who keeps the tally: see batches/keeper.py."""

    def begin(self) -> None:
        """Forget what deliveries of another channel said."""

    def take(self, tag: int, body: bytes, headers: Mapping[str, Any]) -> None:
        """Take a delivery over, at once."""

    async def hold(self, shelf: Shelf) -> None:
        """Keep the tally until cancelled, or until a method of `shelf` raises."""


class Shelf:
    """What a holder may do while there is a channel."""

    def __init__(self, channel: Channel, topology: Topology) -> None:
        self._channel = channel
        self._topology = topology
        self._acked = 0

    async def keep(self, message: Message) -> None:
        """Put a message into the queue of batches, confirmed. Raises Closed."""
        queue = self._topology.batches
        try:
            await self._channel.publish("", queue, message.body, properties_of(message))
        except NotTaken as error:
            raise Interrupted(f"{queue!r} takes nothing: {error!r}") from error

    async def tell(self, key: str, message: Message, ident: str) -> bool:
        """Publish to the readers of results, with this message id; False if it is not taken."""
        return await self._taken(self._topology.results, key, message, ident)

    async def post(self, message: Message) -> bool:
        """Put a message into the queue of callbacks; False if it is not taken."""
        return await self._taken("", self._topology.callbacks, message)

    async def _taken(
        self, exchange: str, key: str, message: Message, ident: str | None = None
    ) -> bool:
        try:
            await self._channel.publish(exchange, key, message.body, properties_of(message, ident))
        except NotTaken:
            return False
        return True

    def ack(self, tag: int) -> None:
        """Ack all deliveries up to this one. Raises Closed."""
        for one in range(self._acked + 1, tag + 1):
            self._channel.ack(one)
        self._acked = max(self._acked, tag)


class BatchQueue:
    """Hands the queue of batches to `holder`, when RabbitMQ gives it to this process.

    `run` is a service of the daemon. `connect` opens a connection with such a gate, `ready` waits
    until the daemon consumes, and `trouble` logs an error of ours.
    """

    def __init__(
        self,
        topology: Topology,
        connect: Callable[[Gate], Awaitable[Connection]],
        ready: Callable[[], Awaitable[object]],
        holder: Holder,
        *,
        events: Events,
        trouble: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        self._topology = topology
        self._connect = connect
        self._ready = ready
        self._holder = holder
        self._events = events
        self._trouble = trouble
        self._clocks = clocks

    async def run(self) -> None:
        """Consume until cancelled. Whatever ends the connection, the daemon goes on."""
        pauses = Pauses(MIN_PAUSE, MAX_PAUSE, self._clocks.between)
        while True:
            await self._ready()
            began = self._clocks.monotonic()
            try:
                await self._live()
            except (OSError, BrokerRefused) as error:
                # The daemon's own connections say what is wrong with the broker.
                refused = isinstance(error, ChannelClosed) and error.code != 0
                if refused or isinstance(error, Interrupted):
                    self._events("batches_interrupted", error=str(error))
            except Exception as error:  # noqa: BLE001 - an error of ours must not end the daemon
                self._trouble("internal_error", error, id=None)
            pause = pauses.after(self._clocks.monotonic() - began)
            await asyncio.sleep(pause)

    async def _live(self) -> None:
        """One connection from begin to end. Raises OSError, BrokerRefused."""
        gate, tasks = Gate(MAX_HELD), list[asyncio.Future[Any]]()
        connection = await self._connect(gate)
        try:
            channel = await connection.channel(confirms=True)
            gone = asyncio.Event()
            channel.on_cancel = lambda _: gone.set()
            await channel.qos(PREFETCH)
            self._holder.begin()
            await channel.consume(self._topology.batches, lambda it: self._take(gate, it))
            held = asyncio.ensure_future(self._holder.hold(Shelf(channel, self._topology)))
            tasks += (held, asyncio.ensure_future(gone.wait()))
            ends = (channel.closed, connection.closed, *tasks)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if held.done():
                held.result()
            if gone.is_set():
                raise Interrupted(f"the broker ended the consumer of {self._topology.batches!r}")
            if channel.is_closed:
                raise channel.closed.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            gate.close()
            await connection.close(CLOSE_TIMEOUT)

    def _take(self, gate: Gate, message: Delivered) -> None:
        """Hand a delivery over. What is large is not held after that."""
        size = len(message.body)
        gate.arrived(size)
        try:
            self._holder.take(message.tag, message.body, message.properties.headers or {})
        except Exception as error:  # noqa: BLE001 - one message's error must not end the connection
            self._trouble("internal_error", error, id=None)
        gate.leave(size)
