"""Copies of the newest messages of an exchange, a few at each look, for who only looks.

May touch: a channel of a connection that is not the daemon's.
Must never: have the broker keep more than a few copies, or take more of them than are looked at.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.inquiry.names import reply_queue
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, NotFound

if TYPE_CHECKING:
    import asyncio

    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

AT_ONCE: Final = 5  # copies that come between two looks; the broker drops the rest, oldest first
MAX_WAITING: Final = 5  # copies at the broker: a look sees messages that are this old at most
MAX_WORDS: Final = 300  # characters of the broker's own text
COPIES: Final = "copies-"  # begins the last part of the queue's name; no daemon answers to it


class Copies:
    """Messages of an exchange by a pattern. The queue is gone when the connection is.

    It is bound until AT_ONCE copies have come, and then again after the next look: so of a fast
    exchange the broker copies few messages.
    """

    def __init__(self, channel: Channel, queue: str, exchange: str, pattern: str) -> None:
        self._channel = channel
        self._queue = queue
        self._exchange = exchange
        self._pattern = pattern
        self._bound = True
        self._arrived: list[Delivered] = []

    async def open(self) -> None:
        """Make the queue, and consume. Raises Closed."""
        await self._channel.call(
            "queue.declare",
            "queue.declare-ok",
            queue=self._queue,
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": MAX_WAITING, "x-overflow": "drop-head"},
        )
        await self._route("queue.bind")
        await self._channel.qos(AT_ONCE)
        await self._channel.consume(self._queue, self._take)

    def _take(self, message: Delivered) -> None:
        self._arrived.append(message)
        if self._bound and len(self._arrived) >= AT_ONCE:
            self._bound = False
            self._ask("queue.unbind")

    def _route(self, name: str) -> asyncio.Future[Any]:
        return self._channel.call(
            name,
            f"{name}-ok",
            queue=self._queue,
            exchange=self._exchange,
            routing_key=self._pattern,
        )

    def _ask(self, name: str) -> None:
        """Bind or unbind. What is wrong with the channel is told by `take`."""
        self._route(name).add_done_callback(lambda it: it.cancelled() or it.exception())

    def take(self) -> list[bytes]:
        """Return the bodies of what came since the last look, and let more come. Raises Closed."""
        if self._channel.is_closed:
            raise self._channel.closed.result()
        arrived, self._arrived = self._arrived, []
        for message in arrived:
            self._channel.ack(message.tag)
        if not self._bound:
            self._bound = True
            self._ask("queue.bind")
        return [message.body for message in arrived]


async def copies(connection: Connection, url: str, topology: Topology, pattern: str) -> Copies:
    """Return copies of the results that are routed by `pattern`, from now on.

    `url` is that of the connection. Raises TopologyError, Closed.
    """
    queue = reply_queue(url, topology.prefix, COPIES + secrets.token_hex(8))
    found = Copies(await connection.channel(), queue, topology.results, pattern)
    try:
        await found.open()
    except AccessRefused as error:
        raise TopologyError(
            "the gateway's user may not copy results (docs/operations/queues.md#permissions): "
            f"{printable(str(error), MAX_WORDS)}"
        ) from error
    except NotFound:
        raise TopologyError(
            f"exchange {topology.results!r} does not exist; start the daemon once"
        ) from None
    return found
