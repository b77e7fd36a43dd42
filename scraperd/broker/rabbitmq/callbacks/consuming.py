"""Consumes the queue of callbacks, on a connection of its own; what becomes of each is asked.

May touch: that connection, the publisher of the daemon; the clocks that it is handed.
Must never: ack before the confirm of what a callback became, or end the daemon.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from scraperd.base.backoff import Pauses
from scraperd.base.tasks import reraise_own_cancel
from scraperd.broker.ports import Callbacks as Queue
from scraperd.broker.ports import DeadCallbacks, Lost
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, TopologyError
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.errors import ChannelClosed, Closed
from scraperd.broker.rabbitmq.wire.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Epoch, Move, Publisher
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

    Connect = Callable[[Gate], Awaitable[tuple[Connection, Epoch]]]
    Declare = Callable[[Callable[[], Awaitable[Channel]]], Awaitable[object]]
    Handle = Callable[[bytes, Mapping[str, Any]], Awaitable[Move | None]]
    Bury = Callable[[bytes, Mapping[str, Any], BaseException], Move]

MIN_PAUSE: Final = 1.0  # seconds between two connections
MAX_PAUSE: Final = 60.0
MAX_HELD: Final = 16 * 1024 * 1024  # bytes of callbacks that are read and not settled
CANCEL_TIMEOUT: Final = 5.0  # seconds


class Interrupted(Closed):
    """The queue of callbacks is gone, or one of them could not be moved."""


class Callbacks:
    """Hands out the callbacks of `queue`, `prefetch` at a time. `run` is a service of the daemon.

    `connect` opens a connection with such a gate, and says in which epoch of `publisher`. `ready`
    waits until the daemon consumes. `declare` is called on a connection after one that ended over
    its queue. `handle` returns where a callback goes; None if its receiver
    has it. `bury` says the same of a callback over which `handle` raised, and `trouble` logs that
    error.
    """

    def __init__(  # noqa: PLR0917 - as the daemon names its parts
        self,
        queue: str,
        publisher: Publisher,
        connect: Connect,
        ready: Callable[[], Awaitable[object]],
        declare: Declare,
        handle: Handle,
        bury: Bury,
        *,
        prefetch: int,
        events: Events,
        trouble: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        self._queue = queue
        self._publisher = publisher
        self._connect = connect
        self._ready = ready
        self._declare = declare
        self._handle = handle
        self._bury = bury
        self._prefetch = prefetch
        self._events = events
        self._trouble = trouble
        self._clocks = clocks
        self._interrupted = False  # the queue may be gone
        self._stopping = asyncio.Event()
        self._grace = 0.0
        self._over: asyncio.Future[str] | None = None  # of the connection: why it is to end
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self, within: float) -> None:
        """Take no more; what is on its way has `within` seconds. Then `run` returns."""
        self._grace = within
        self._stopping.set()

    async def run(self) -> None:
        """Hand callbacks out until `stop`. Whatever ends the connection, the daemon goes on."""
        pauses = Pauses(MIN_PAUSE, MAX_PAUSE, self._clocks.between)
        while not self._stopping.is_set():
            await self._until_stop(self._ready())
            if self._stopping.is_set():
                return
            began = self._clocks.monotonic()
            try:
                await self._live()
            except (OSError, BrokerRefused, TopologyError) as error:
                # The daemon's own connections say what is wrong with the broker.
                refused = isinstance(error, ChannelClosed) and error.code != 0
                if refused or isinstance(error, Interrupted | TopologyError):
                    self._interrupted = True
                    self._events("callbacks_interrupted", error=str(error))
            pause = pauses.after(self._clocks.monotonic() - began)
            await self._until_stop(asyncio.sleep(pause))

    async def _until_stop(self, waited: Awaitable[object]) -> None:
        """Wait for something, or for `stop`."""
        both = [asyncio.ensure_future(waited), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    async def _live(self) -> None:
        """One connection from begin to end. Raises OSError, BrokerRefused, TopologyError."""
        gate = Gate(MAX_HELD)
        connection, epoch = await self._connect(gate)
        try:
            if self._interrupted:
                await self._declare(connection.channel)
                self._interrupted = False
            channel = await connection.channel()
            self._over = over = asyncio.get_running_loop().create_future()
            channel.on_cancel = lambda _: self._end(f"{self._queue!r} is gone")
            await channel.qos(self._prefetch)

            def take(message: Delivered) -> None:
                """Take a delivery over."""
                gate.arrived(len(message.body))
                task = asyncio.ensure_future(self._settle(channel, epoch, gate, message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            tag = await channel.consume(self._queue, take)
            stopping = asyncio.ensure_future(self._stopping.wait())
            ends = (channel.closed, connection.closed, over, stopping)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if over.done():
                raise Interrupted(over.result())
            if channel.is_closed:
                raise channel.closed.result()
            await self._land(channel, tag)
        finally:
            await self._drop()
            gate.close()
            await connection.close(CLOSE_TIMEOUT)

    def _end(self, why: str) -> None:
        """End the connection: what is not acked is delivered again, after a pause."""
        if self._over is not None and not self._over.done():
            self._over.set_result(why)

    async def _land(self, channel: Channel, tag: str) -> None:
        """End the consumer, and wait for what is on its way."""
        with suppress(TimeoutError, Closed):
            async with asyncio.timeout(CANCEL_TIMEOUT):
                await channel.cancel(tag)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._grace)

    async def _drop(self) -> None:
        """Stop working on what will be delivered again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _settle(self, channel: Channel, epoch: Epoch, gate: Gate, message: Delivered) -> None:
        """Have it handled, publish what it became, confirmed, and then ack."""
        try:
            move = await self._moved(message)
            if move is not None:
                to = DeadCallbacks() if move.seconds is None else Queue(move.seconds)
                await self._publisher.publish(epoch, to, move.message, math.inf)
            channel.ack(message.tag)
        except (Closed, Lost):
            pass  # the connection ends too, and it will be delivered again
        except Exception as error:  # noqa: BLE001 - else it stays unacked, and keeps its place
            self._trouble("internal_error", error, id=None)
            self._end(f"a callback could not be moved: {type(error).__name__}")
        finally:
            gate.leave(len(message.body))

    async def _moved(self, message: Delivered) -> Move | None:
        """Where a callback goes. An error of ours ends this callback only."""
        headers = message.properties.headers or {}
        try:
            return await self._handle(message.body, headers)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - it must reach no other
            reraise_own_cancel(error)
            self._trouble("internal_error", error, id=None)
            return self._bury(message.body, headers, error)
