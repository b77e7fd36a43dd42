"""The daemon's side: the stream of rules is read to its end, and then followed.

May touch: a connection of its own, where there is a stream; the clocks that it is handed.
Must never: write, hold up a job, or end the daemon.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from scraperd.base.backoff import Pauses
from scraperd.broker.rabbitmq.rules.stream import (
    MAX_RECORD_BYTES,
    follow,
    headers_of,
    last_offset,
    offset_of,
    stream_of,
)
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, ChannelClosed, Closed
from scraperd.broker.rabbitmq.wire.gate import SmallOnly

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Epoch
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.gate import Gate
    from scraperd.broker.rabbitmq.wire.machine import Delivered

MIN_PAUSE: Final = 0.2  # seconds between two connections
MAX_PAUSE: Final = 10.0
ASK_INTERVAL: Final = 0.5  # seconds between two looks for a stream that is not there


class Holder(Protocol):
    """Who keeps the rules: see control/force.py."""

    def take(self, body: bytes, headers: Mapping[str, Any]) -> None:
        """Take a record, at once."""

    def settle(self) -> None:
        """There is no later record now."""

    def nothing(self) -> None:
        """There is no stream."""


class Following:
    """Hands the records of the stream to `holder`. `run` is a service of the daemon.

    `exists` says whether there is such a queue, and in which epoch. `connect` opens a connection
    with such a gate, and `ready` waits until the daemon consumes.
    """

    def __init__(
        self,
        prefix: str,
        exists: Callable[[str], Awaitable[tuple[bool, Epoch]]],
        connect: Callable[[Gate], Awaitable[Connection]],
        ready: Callable[[], Awaitable[object]],
        holder: Holder,
        *,
        events: Events,
        trouble: Callable[..., None],
        clocks: Clocks,
    ) -> None:
        self._queue = stream_of(prefix)
        self._exists = exists
        self._connect = connect
        self._ready = ready
        self._holder = holder
        self._events = events
        self._trouble = trouble
        self._clocks = clocks
        self._asked = asyncio.Event()
        self._told = ""

    def look(self) -> None:
        """See whether there is a stream by now."""
        self._asked.set()

    async def run(self) -> None:
        """Follow until cancelled. Whatever ends the connection, the daemon goes on."""
        pauses = Pauses(MIN_PAUSE, MAX_PAUSE, self._clocks.between)
        while True:
            await self._ready()
            began = self._clocks.monotonic()
            try:
                if await self._missing():
                    continue
                await self._live()
            except AccessRefused as error:
                pauses.refused()
                self._tell(error)
            except ChannelClosed as error:
                self._tell(error)
            except (OSError, BrokerRefused):
                pass  # the daemon's own connections say what is wrong with the broker
            except Exception as error:  # noqa: BLE001 - an error of ours must not end the daemon
                self._trouble("internal_error", error, id=None)
            await asyncio.sleep(pauses.after(self._clocks.monotonic() - began))

    async def _missing(self) -> bool:
        """Return False if there is a stream. Else wait until it is time to look again, and True.

        That is when someone asks for the rules, or with the next connection.
        """
        there, epoch = await self._exists(self._queue)
        if there:
            return False
        self._holder.nothing()
        pause: asyncio.Future[Any] = asyncio.ensure_future(asyncio.sleep(ASK_INTERVAL))
        asked: asyncio.Future[Any] = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((epoch.lost, asked), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((epoch.lost, pause), return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            asked.cancel()
        self._asked.clear()
        return True

    async def _live(self) -> None:
        """One connection from begin to end. Raises OSError, BrokerRefused."""
        gate, loop = SmallOnly(MAX_RECORD_BYTES), asyncio.get_running_loop()
        connection = await self._connect(gate)

        def cut(size: int) -> None:
            # Not at once: the machine is in the middle of what it received.
            what = f"a message of {size} bytes in {self._queue!r}, more than {MAX_RECORD_BYTES}"
            loop.call_soon(connection.abort, ChannelClosed(what))

        gate.on_large = cut
        try:
            looking = await connection.channel()
            end = await last_offset(looking, self._queue)
            looking.leave()
            channel = await connection.channel()
            gone = asyncio.Event()
            channel.on_cancel = lambda _: gone.set()
            if end is None:
                self._holder.settle()
            await follow(channel, self._queue, "first", lambda it: self._take(it, end))
            lost: asyncio.Future[Any] = asyncio.ensure_future(gone.wait())
            ends = (channel.closed, connection.closed, lost)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            if channel.is_closed:
                raise channel.closed.result()
            if connection.closed.done():
                raise connection.closed.result()
        finally:
            await connection.close(CLOSE_TIMEOUT)

    def _take(self, message: Delivered, end: int | None) -> None:
        """Hand a record over; from the last one on that there was, each is in force at once."""
        try:
            self._holder.take(message.body, headers_of(message))
            if end is None or offset_of(message) >= end:
                self._holder.settle()
        except Exception as error:  # noqa: BLE001 - one record's error must not end the connection
            self._trouble("internal_error", error, id=None)

    def _tell(self, error: Closed) -> None:
        """Say once why the rules cannot be read."""
        if (words := str(error)) != self._told:
            self._told = words
            self._events("rules_unread", queue=self._queue, error=words)
