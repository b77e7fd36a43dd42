"""The command's side: the rules are read, and written by one at a time.

May touch: a connection of its own.
Must never: write without the lock, or keep the lock longer than its connection lives.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.inquiry.asking import reached
from scraperd.broker.rabbitmq.rules.stream import (
    ARGUMENTS,
    exists,
    follow,
    headers_of,
    last_offset,
    lock_of,
    offset_of,
    stream_of,
)
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, TopologyError
from scraperd.broker.rabbitmq.wire.dial import endpoint
from scraperd.broker.rabbitmq.wire.errors import (
    AccessRefused,
    Closed,
    Locked,
    NotFound,
    NotTaken,
    PreconditionFailed,
)
from scraperd.broker.rabbitmq.wire.refusals import no_access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from scraperd.broker.ports import Message
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

LOCK_WAIT: Final = 10.0  # seconds; RabbitMQ ends the lock of a writer that is silent within 20
LOCK_INTERVAL: Final = 0.05  # seconds between two trials
READ_TIMEOUT: Final = 10.0  # seconds
CONFIRM_TIMEOUT: Final = 10.0  # seconds


class RulesBook:
    """The stream of rules on one connection: see control/desk.py."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._queue = stream_of(prefix)
        self._lock = lock_of(prefix)

    async def lock(self, patience: float = LOCK_WAIT) -> None:
        """Keep all others from writing as long as the connection lives. Raises Lost, Closed.

        A queue of this connection alone is the lock: the broker removes it with the connection,
        however that ends, and takes no publish of a connection that it has given up.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience
        while True:
            channel = await self._connection.channel()
            try:
                await channel.call(
                    "queue.declare", "queue.declare-ok", queue=self._lock, exclusive=True
                )
            except Locked:
                if clock() >= deadline:
                    raise Lost(
                        f"another program has been changing the rules for {patience:g} s (the "
                        f"queue {self._lock!r} is locked); try again"
                    ) from None
                await asyncio.sleep(LOCK_INTERVAL)
            else:
                return

    async def records(self) -> list[tuple[bytes, Mapping[str, Any]]]:
        """Return bodies and headers of the records that the broker keeps. Raises Lost, Closed."""
        if not await exists(await self._connection.channel(), self._queue):
            return []
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                return await self._records()
        except TimeoutError:
            raise Lost(f"{self._queue!r} could not be read within {READ_TIMEOUT:g} s") from None

    async def _records(self) -> list[tuple[bytes, Mapping[str, Any]]]:
        channel = await self._connection.channel()
        end = await last_offset(channel, self._queue)
        found: list[tuple[bytes, Mapping[str, Any]]] = []
        if end is None:
            return found
        done = asyncio.Event()

        def take(message: Delivered) -> None:
            found.append((message.body, headers_of(message)))
            if offset_of(message) >= end:
                done.set()

        await follow(channel, self._queue, "first", take)
        waits: asyncio.Future[Any] = asyncio.ensure_future(done.wait())
        await asyncio.wait((waits, channel.closed), return_when=asyncio.FIRST_COMPLETED)
        waits.cancel()
        if channel.is_closed:
            raise channel.closed.result()
        channel.leave()
        return found

    async def write(self, message: Message) -> None:
        """Add a record, confirmed; the first one makes the stream. Raises Lost, Closed."""
        if not await exists(await self._connection.channel(), self._queue):
            channel = await self._connection.channel()
            await channel.declare_queue(self._queue, ARGUMENTS, passive=False)
        channel = await self._connection.channel(confirms=True)
        publish = channel.publish("", self._queue, message.body, properties_of(message))
        done, _ = await asyncio.wait([publish], timeout=CONFIRM_TIMEOUT)
        if not done:
            raise Lost(
                f"no confirm within {CONFIRM_TIMEOUT:g} s, so the change may be in force or not "
                f"({self._connection.blocked or 'the broker is slow'}); look at `scraperd rules`"
            )
        try:
            publish.result()
        except NotTaken as error:
            raise Lost(f"{self._queue!r} takes nothing: {error!r}") from error


@contextmanager
def _in_words(prefix: str, url: str) -> Iterator[None]:
    """Around all that is done with the broker at `url`. Raises Lost, TopologyError."""
    queue = stream_of(prefix)
    try:
        yield
    except AccessRefused as error:
        lack = f"a permission on {queue!r}, on {lock_of(prefix)!r} or on the default exchange"
        raise TopologyError(no_access(error, lack, prefix, passive=False)) from error
    except PreconditionFailed as error:
        raise TopologyError(
            f"{queue!r} is not as scraperd makes it; delete it if no rule in it matters: {error}"
        ) from error
    except NotFound as error:
        raise Lost(f"{queue!r} is not up yet; try again: {error}") from error
    except Lost:
        raise
    except Closed as error:
        raise Lost(f"lost the broker at {endpoint(url)}: {error}") from error


@asynccontextmanager
async def book(
    urls: tuple[str, ...], prefix: str, within: float, *, writes: bool = True
) -> AsyncIterator[RulesBook]:
    """Yield the book of rules, at the first broker that answers; locked, if it is to be written.

    Raises Lost, WrongUrl, TopologyError.
    """
    url, connection = await reached(urls, within, "scraperd rules")
    try:
        with _in_words(prefix, url):
            found = RulesBook(connection, prefix)
            if writes:
                await found.lock()
            yield found
    finally:
        await connection.close(CLOSE_TIMEOUT)
