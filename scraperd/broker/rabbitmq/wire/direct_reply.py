"""Publishes to direct reply-to: to a client's channel itself, by a name that the broker made up.

May touch: one connection of its own, as a name may end the connection.
Must never: take a confirm for the proof that a client got something.

Direct reply-to is not a queue. RabbitMQ confirms what is published to it whether or not the client
is there, and returns a mandatory message that it delivers (measured with 3.10.8 and 4.0.5). But a
passive declare of the name tells whether the client is there. So that is asked before. It is not
asked after: most clients leave as soon as they have their result.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from scraperd.broker.rabbitmq.wire.errors import Closed, NotFound, Returned

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.codec.properties import Properties
    from scraperd.broker.rabbitmq.wire.connection import Connection


class DirectReplies:
    """Publishes to clients, one message at a time: what one name provokes ends no other's reply."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], within: float) -> None:
        self._connect = connect
        self._within = within
        self._connection: Connection | None = None
        self._asking: Channel | None = None
        self._publishing: Channel | None = None
        self._turn = asyncio.Lock()

    async def publish(self, address: str, body: bytes, properties: Properties) -> None:
        """Publish; return if the client was there just before, and the broker has confirmed.

        Raises Returned if it was gone, or if the broker failed over the name or does not answer
        `within` seconds: then the client may have got the message all the same. Raises OSError
        or BrokerRefused if no connection can be opened.
        """
        async with self._turn:
            if self._connection is None or self._connection.closed.done():
                self._connection = await self._connect()
            try:
                async with asyncio.timeout(self._within):
                    await self._find(self._connection, address)
                    await self._publish(self._connection, address, body, properties)
            except (Closed, TimeoutError) as error:
                broken, self._connection = self._connection, None
                broken.abort(Closed("given up"))
                raise Returned(f"no answer about a direct reply-to: {error!r}") from error

    async def _find(self, connection: Connection, address: str) -> None:
        """Ask whether the client is there. Raises Returned if it is not."""
        if self._asking is None or self._asking.is_closed:
            self._asking = await connection.channel()
        try:
            await self._asking.declare_queue(address, passive=True)
        except NotFound:
            raise Returned("the client of a direct reply-to is gone") from None

    async def _publish(
        self, connection: Connection, address: str, body: bytes, properties: Properties
    ) -> None:
        if self._publishing is None or self._publishing.is_closed:
            self._publishing = await connection.channel(confirms=True)
        with suppress(Returned):  # also if the client gets it
            await self._publishing.publish("", address, body, properties)
