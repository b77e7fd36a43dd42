"""Consumes the queue of callbacks, on a connection of its own; what becomes of each is asked.

May touch: that connection; the clocks that it is handed.
Must never: ack before the confirm of what a callback became, or end the daemon.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.errors import (
    ChannelClosed,
    Closed,
    NotTaken,
    UnsendableError,
)
from scraperd.broker.rabbitmq.wire.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Move
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

    Handle = Callable[[bytes, Mapping[str, Any]], Awaitable[Move | None]]
    Bury = Callable[[bytes, Mapping[str, Any], Exception], Move]

MIN_PAUSE: Final = 1.0  # seconds between two connections
MAX_PAUSE: Final = 60.0
CALM: Final = 30.0  # seconds that a connection lasts, after which the next pause is MIN_PAUSE
MAX_HELD: Final = 16 * 1024 * 1024  # bytes of callbacks that are read and not settled
CANCEL_TIMEOUT: Final = 5.0  # seconds


class Interrupted(Closed):
    """The queue of callbacks is gone, or one of them could not be moved."""


class Callbacks:
    """Hands out callbacks, `prefetch` at a time. `run` is a service of the daemon.

    `connect` opens a connection with such a gate, `ready` waits until the daemon consumes, and
    `handle` returns where a callback goes; None if its receiver has it. `bury` says the same of a
    callback over which `handle` raised, and `trouble` logs that error.
    """

    def __init__(
        self,
        topology: Topology,
        connect: Callable[[Gate], Awaitable[Connection]],
        ready: Callable[[], Awaitable[object]],
        handle: Handle,
        bury: Bury,
        *,
        prefetch: int,
        events: Events,
        trouble: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        self._topology = topology
        self._connect = connect
        self._ready = ready
        self._handle = handle
        self._bury = bury
        self._prefetch = prefetch
        self._events = events
        self._trouble = trouble
        self._clocks = clocks
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
        pause = MIN_PAUSE
        while not self._stopping.is_set():
            await self._until_stop(self._ready())
            if self._stopping.is_set():
                return
            began = self._clocks.monotonic()
            try:
                await self._live()
            except (OSError, BrokerRefused) as error:
                # The daemon's own connections say what is wrong with the broker.
                refused = isinstance(error, ChannelClosed) and error.code != 0
                if refused or isinstance(error, Interrupted):
                    self._events("callbacks_interrupted", error=str(error))
            if self._clocks.monotonic() - began >= CALM:
                pause = MIN_PAUSE
            await self._until_stop(asyncio.sleep(self._clocks.between(pause / 2, pause)))
            pause = min(2 * pause, MAX_PAUSE)

    async def _until_stop(self, waited: Awaitable[object]) -> None:
        """Wait for something, or for `stop`."""
        both = [asyncio.ensure_future(waited), asyncio.ensure_future(self._stopping.wait())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    async def _live(self) -> None:
        """One connection from begin to end. Raises OSError, BrokerRefused."""
        gate = Gate(MAX_HELD)
        connection = await self._connect(gate)
        try:
            channel = await connection.channel(confirms=True)
            self._over = over = asyncio.get_running_loop().create_future()
            channel.on_cancel = lambda _: self._end(f"{self._topology.callbacks!r} is gone")
            await channel.qos(self._prefetch)
            tag = await channel.consume(
                self._topology.callbacks, lambda message: self._take(channel, gate, message)
            )
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
        """Have the connection ended: what is not acked is delivered again, after a pause."""
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

    def _take(self, channel: Channel, gate: Gate, message: Delivered) -> None:
        """Take a delivery over."""
        gate.arrived(len(message.body))
        task = asyncio.ensure_future(self._settle(channel, gate, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _settle(self, channel: Channel, gate: Gate, message: Delivered) -> None:
        """Have it handled, publish what it became, confirmed, and then ack."""
        try:
            move = await self._moved(message)
            if move is not None:
                await self._publish(channel, move)
            channel.ack(message.tag)
        except (Closed, NotTaken, UnsendableError) as error:
            self._end(f"a callback could not be moved: {error!r}")
        finally:
            gate.leave(len(message.body))

    async def _moved(self, message: Delivered) -> Move | None:
        """Where a callback goes. An error of ours ends this callback only."""
        headers = message.properties.headers or {}
        try:
            return await self._handle(message.body, headers)
        except Exception as error:  # noqa: BLE001 - one callback's error must reach no other
            self._trouble("internal_error", error, id=None)
            return self._bury(message.body, headers, error)

    async def _publish(self, channel: Channel, move: Move) -> None:
        """Publish to a tier, or to the dead callbacks. Raises NotTaken, Closed."""
        topology = self._topology
        queue = (
            topology.dead_callbacks
            if move.seconds is None
            else topology.callback_delay(move.seconds)
        )
        await channel.publish("", queue, move.message.body, properties_of(move.message))
