"""The command's side: one question to all daemons of a prefix, and what they answer.

May touch: a connection of its own.
Must never: believe an answer whose id is another's, or keep more than a bounded number of them.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.inquiry.copies import Copies, copies
from scraperd.broker.rabbitmq.inquiry.names import ANSWERS, exchange_of, reply_queue
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT, Topology, TopologyError
from scraperd.broker.rabbitmq.wire.codec.properties import Properties
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused, check, dial, endpoint
from scraperd.broker.rabbitmq.wire.errors import (
    AccessRefused,
    ChannelClosed,
    Closed,
    NotFound,
    NotTaken,
)
from scraperd.broker.rabbitmq.wire.refusals import no_access

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

T = TypeVar("T")

HEARTBEAT: Final = 10  # seconds
MAX_ANSWERS: Final = 1000  # processes of a fleet
MAX_ANSWER_BYTES: Final = 256 * 1024  # of one answer; a longer one is left out


@dataclass(slots=True)
class Round:
    """One question that was asked, and its answers so far."""

    ident: str
    answers: list[bytes] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def first(self, read: Callable[[bytes], T | None], within: float) -> T | None:
        """Return the first answer that `read` takes, or None after so many seconds."""
        taken = 0
        try:
            async with asyncio.timeout(within):
                while True:
                    self.news.clear()
                    for body in self.answers[taken:]:
                        if (found := read(body)) is not None:
                            return found
                    taken = len(self.answers)
                    await self.news.wait()
        except TimeoutError:
            return None


class Asker:
    """Asks questions on one connection, one after the other."""

    def __init__(self, connection: Connection, url: str, prefix: str) -> None:
        self._connection = connection
        self._url = url
        self._prefix = prefix
        self._queue = reply_queue(url, prefix, ANSWERS + secrets.token_hex(8))
        self._channel: Channel | None = None
        self._round = Round("")

    @property
    def broker(self) -> str:
        """Return the broker's URL without credentials."""
        return endpoint(self._url)

    async def copies(self, pattern: str) -> Copies:
        """Return copies of results, as `inquiry.copies` does. Raises TopologyError, Closed."""
        return await copies(self._connection, self._url, Topology(self._prefix), pattern)

    async def open(self) -> None:
        """Make the queue for the answers. Raises TopologyError, Closed."""
        self._channel = channel = await self._connection.channel()
        try:
            await channel.call(
                "queue.declare",
                "queue.declare-ok",
                queue=self._queue,
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": MAX_ANSWERS},
            )
            await channel.consume(self._queue, self._take)
        except AccessRefused as error:
            raise self._lack(error, f"configure or read on {self._queue!r}") from error

    def _take(self, message: Delivered) -> None:
        assert self._channel is not None
        self._channel.ack(message.tag)
        asked = self._round
        if message.properties.correlation_id != asked.ident:
            return  # of an earlier question, or from another program
        if len(message.body) <= MAX_ANSWER_BYTES and len(asked.answers) < MAX_ANSWERS:
            asked.answers.append(message.body)
            asked.news.set()

    async def ask(self, body: bytes) -> Round:
        """Ask all daemons; the answers come into what is returned.

        Raises TopologyError without the permission, Lost if the broker takes no message now.
        """
        if self._connection.blocked:
            raise self._blocked()
        self._round = asked = Round(secrets.token_hex(8))
        properties = Properties(
            content_type="application/json",
            correlation_id=asked.ident,
            reply_to=self._queue,
            message_id=asked.ident,
        )
        channel = await self._connection.channel(confirms=True)
        try:
            publish = channel.publish(exchange_of(self._prefix), "", body, properties)
            await self._confirmed(publish)
        except AccessRefused as error:
            lack = f"write on the exchange {exchange_of(self._prefix)!r}"
            raise self._lack(error, lack) from error
        except (NotFound, NotTaken):
            pass  # no daemon takes questions now
        finally:
            if not channel.is_closed:
                channel.leave()
        return asked

    async def _confirmed(self, publish: asyncio.Future[None]) -> None:
        """Wait for the confirm. Under an alarm it does not come, and the broker says so."""
        for _ in range(100):
            if (await asyncio.wait([publish], timeout=0.1))[0]:
                publish.result()
                return
            if self._connection.blocked:
                raise self._blocked()
        raise Lost(f"broker {self.broker}: no confirm within 10 s")

    def _blocked(self) -> Lost:
        why = self._connection.blocked
        return Lost(
            f"broker {self.broker} takes no message now ({why}), so no process can be asked; "
            "`rabbitmq-diagnostics alarms` says more"
        )

    async def counts(self, queues: Sequence[str]) -> list[tuple[int, int] | None]:
        """Ready messages and consumers of each queue; None if it is missing or may not be seen.

        All are asked for on one channel, which the first missing queue closes; the queues behind
        that are then asked for again, each on a channel of its own. Raises Closed.
        """
        found: list[tuple[int, int] | None] = []
        async with self._counting() as channel:
            asked = [channel.declare_queue(queue, passive=True) for queue in queues]
            for answer in await asyncio.gather(*asked, return_exceptions=True):
                if isinstance(answer, ChannelClosed):
                    break
                if isinstance(answer, BaseException):
                    raise answer
                found.append(answer)
        if len(found) == len(queues):
            return found
        rest = queues[len(found) + 1 :]
        return [*found, None, *await asyncio.gather(*map(self._count, rest))]

    async def _count(self, queue: str) -> tuple[int, int] | None:
        async with self._counting() as channel:
            try:
                return await channel.declare_queue(queue, passive=True)
            except ChannelClosed:
                return None

    @asynccontextmanager
    async def _counting(self) -> AsyncIterator[Channel]:
        channel = await self._connection.channel()
        try:
            yield channel
        finally:
            if not channel.is_closed:
                channel.leave()

    def _lack(self, error: AccessRefused, lack: str) -> TopologyError:
        return TopologyError(no_access(error, lack, self._prefix, passive=False))


@asynccontextmanager
async def asking(urls: tuple[str, ...], prefix: str, within: float) -> AsyncIterator[Asker]:
    """Yield what asks, at the first broker that answers. Raises Lost, WrongUrl, TopologyError."""
    url, connection = await reached(urls, within, "scraperd status")
    try:
        asker = Asker(connection, url, prefix)
        await asker.open()
        yield asker
    except Closed as error:
        raise Lost(f"lost the broker at {endpoint(url)}: {error}") from error
    finally:
        await connection.close(CLOSE_TIMEOUT)


async def reached(urls: tuple[str, ...], within: float, name: str) -> tuple[str, Connection]:
    """Connect as `name` to the first broker that answers; return its URL too. Raises Lost."""
    await asyncio.to_thread(check, urls)  # files are read
    faults = []
    for url in urls:
        try:
            return url, await dial(url, name, HEARTBEAT, within)
        except (OSError, BrokerRefused) as error:
            faults.append(f"no broker at {endpoint(url)}: {error}")
    raise Lost("\n".join(faults))
