"""Copies of the newest messages of an exchange, a few at each look, for who only looks.

May touch: a channel of a connection that is not the daemon's.
Must never: have the broker keep more than a few copies, or take more of them than are looked at.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from scraperd.base.text import printable
from scraperd.broker.rabbitmq.inquiry.names import reply_queue
from scraperd.broker.rabbitmq.topology import TopologyError
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, NotFound

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.topology import Topology
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.machine import Delivered

AT_ONCE: Final = 5  # copies that come between two looks; the broker drops the rest, oldest first
MAX_WAITING: Final = 5  # copies at the broker: a look sees messages that are this old at most
MAX_WORDS: Final = 300  # characters of the broker's own text
COPIES: Final = "copies-"  # begins the last part of the queue's name; no daemon answers to it


class Copies:
    """Messages that come on a channel. The queue is gone when the connection is."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._arrived: list[Delivered] = []

    async def open(self, queue: str, exchange: str, pattern: str) -> None:
        """Make the queue, and consume. Raises Closed."""
        await self._channel.call(
            "queue.declare",
            "queue.declare-ok",
            queue=queue,
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": MAX_WAITING, "x-overflow": "drop-head"},
        )
        await self._channel.bind_queue(queue, exchange, pattern)
        await self._channel.qos(AT_ONCE)
        await self._channel.consume(queue, self._arrived.append)

    def take(self) -> list[bytes]:
        """Return the bodies of what came since the last look, and let more come. Raises Closed."""
        arrived, self._arrived[:] = self._arrived.copy(), []
        for message in arrived:
            self._channel.ack(message.tag)
        return [message.body for message in arrived]


async def copies(connection: Connection, url: str, topology: Topology, pattern: str) -> Copies:
    """Return copies of the results that are routed by `pattern`, from now on.

    `url` is that of the connection. Raises TopologyError, Closed.
    """
    found = Copies(await connection.channel())
    queue = reply_queue(url, topology.prefix, COPIES + secrets.token_hex(8))
    try:
        await found.open(queue, topology.results, pattern)
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
