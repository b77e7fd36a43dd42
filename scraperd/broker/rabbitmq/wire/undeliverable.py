"""Finds a message that the broker cannot deliver, and has the broker dead-letter it unread.

May touch: connections of its own, one for each trial, as the trial may end the connection.
Must never: guess; a message is named only if the broker failed over it when nothing else was asked.

RabbitMQ 3 fails over a message that came by AMQP 1.0 with a number as its message id or correlation
id, or with a text of more than 255 bytes there: 0-9-1 has no form for that. RabbitMQ 4.0 fails over
a UUID as an application property. It ends the connection with 541 each time the message is
delivered (measured with 3.10.8 and 4.0.5).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, NamedTuple

from scraperd.broker.rabbitmq.wire.errors import INTERNAL_ERROR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

    Connect = Callable[[], Awaitable[Connection]]

ANSWER_TIMEOUT: Final = 5.0  # seconds
CLOSE_TIMEOUT: Final = 5.0  # seconds
MAX_NACK_GROUP: Final = 32  # messages of one nack: RabbitMQ does not keep the order of more


class Head(NamedTuple):
    """The first message of a queue: whether the broker failed over it; else what was delivered."""

    fails: bool
    delivered: Delivered | None = None
    ready: int = 0  # messages of the queue, this one included


async def try_head(connect: Connect, queue: str) -> Head:
    """Have the first message of a queue delivered. It goes back, and the broker counts a return.

    Raises OSError, BrokerRefused.
    """
    connection = await connect()
    try:
        channel = await connection.channel()
        ready, _ = await channel.count(queue)
        if not ready:
            return Head(fails=False)
        await channel.qos(1)
        if (message := await _next(connection, channel, queue)) is not None:
            return Head(fails=False, delivered=message, ready=ready)
        return Head(fails=_failed(connection), ready=ready)
    finally:
        await connection.close(CLOSE_TIMEOUT)


async def search(connect: Connect, queue: str, most: int, *, remove: bool) -> bool:
    """Whether the broker fails over one of the first `most` messages of a queue.

    With `remove` that message is rejected, unread. All others go back; those that came with it lose
    their order. Raises OSError, BrokerRefused.

    What was taken is held by connections of few messages each, so that the one that ends gives
    back little. What comes back stands behind all else that came back: only a message over which
    two connections end in a row is the first of its queue.
    """
    scouts: list[Scout] = []
    held, size, failed = 0, MAX_NACK_GROUP, False
    try:
        ready = await _count(connect, queue)
        while held < min(ready, most):
            scout = Scout(await connect())
            scouts.append(scout)
            taken = await scout.take(queue, min(size, ready - held))
            if not _failed(scout.connection):
                if not taken:
                    return False
                held, failed = held + taken, False
            elif size > 1:
                size = 1
            elif not failed:
                failed = True
            else:
                return not remove or await reject_head(connect, queue)
        return False
    finally:
        for scout in scouts:
            await scout.leave()


class Scout:
    """A connection that takes some messages and holds them."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channel: Channel | None = None
        self._taken = 0

    async def take(self, queue: str, count: int) -> int:
        """Take `count` messages, or as many as come; how many."""
        self._channel = channel = await self.connection.channel()
        full: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def take(_message: Delivered) -> None:
            self._taken += 1
            if self._taken == count and not full.done():
                full.set_result(None)

        await channel.qos(count)
        asked = channel.consume(queue, take)
        ends = (self.connection.closed, full)
        await asyncio.wait(ends, timeout=ANSWER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        return self._taken

    async def leave(self) -> None:
        """Give what was taken back, in its order, and close."""
        try:
            if self._channel is not None and not self._channel.is_closed:
                if self._taken:
                    self._channel.nack(self._taken)
                await self._channel.close(CLOSE_TIMEOUT)
        finally:
            await self.connection.close(CLOSE_TIMEOUT)


async def _count(connect: Connect, queue: str) -> int:
    """How many messages are ready."""
    connection = await connect()
    try:
        channel = await connection.channel()
        return (await channel.count(queue))[0]
    finally:
        await connection.close(CLOSE_TIMEOUT)


async def _next(connection: Connection, channel: Channel, queue: str) -> Delivered | None:
    """The next message, by a consumer of its own; None if the connection ends, or none comes."""
    arrived: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()

    def take(message: Delivered) -> None:
        if not arrived.done():
            arrived.set_result(message)

    asked = channel.consume(queue, take)
    ends = (connection.closed, arrived)
    await asyncio.wait(ends, timeout=ANSWER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    return arrived.result() if arrived.done() else None


async def reject_head(connect: Connect, queue: str) -> bool:
    """Have the first message of a queue rejected by the broker, unread: it is dead-lettered.

    basic.get and the reject of what it gets go out in one write. RabbitMQ's channel has applied
    both before it hears that its writer has failed (measured with 3.10.8: 400 of 400). False if the
    broker did not fail: then it had another message there, and that one is dead-lettered.
    Raises OSError, BrokerRefused.
    """
    connection = await connect()
    try:
        channel = await connection.channel()
        channel.reject_first(queue)
        ends = (connection.closed, channel.closed)
        await asyncio.wait(ends, timeout=ANSWER_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        return _failed(connection)
    finally:
        await connection.close(CLOSE_TIMEOUT)


def _failed(connection: Connection) -> bool:
    """Whether the broker ended a connection over an error of its own."""
    return connection.closed.done() and connection.closed.result().code == INTERNAL_ERROR
