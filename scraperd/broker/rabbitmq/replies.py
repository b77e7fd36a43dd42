"""Publishes to queues that are not ours, on a channel that nothing else needs.

May touch: a channel of its generation.
Must never: end the generation, or hold up a publish to our own queues.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.reply_patterns import is_direct
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused
from scraperd.broker.rabbitmq.wire.direct_reply import DirectReplies
from scraperd.broker.rabbitmq.wire.errors import Closed

if TYPE_CHECKING:
    from scraperd.broker.rabbitmq.generation import Generation
    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.codec.properties import Properties


MAX_DIRECT_TIMEOUT: Final = 5.0  # seconds; direct replies are sent one after the other


class Unconfirmed(Exception):  # noqa: N818 - a state of the world, not a mistake
    """No confirm came in time: it is unknown whether the queue took the message."""


class Replies:
    """Publishes to reply queues, on a channel of their own.

    The sender of a job names the queue, and the queue may never answer. RabbitMQ then holds back
    all confirms behind it on the same channel.
    """

    def __init__(self, generation: Generation, within: float) -> None:
        self.generation: Final = generation
        self._within = within
        self._direct = DirectReplies(generation.beside, min(within, MAX_DIRECT_TIMEOUT))
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def publish(self, queue: str, body: bytes, properties: Properties) -> None:
        """Publish, mandatory, and wait for the confirm `within` seconds.

        If there is an alarm then, wait as long again.

        Raises NotTaken (returned, rejected), Unconfirmed, or Lost.
        """
        try:
            if is_direct(queue):
                await self._directly(queue, body, properties)
                return
            channel = await self._open()
            try:
                await self._confirmed(channel.publish("", queue, body, properties))
            except (Closed, Unconfirmed):
                await self._leave(channel)
                raise
        except Closed as error:
            if self.generation.lost.done():
                raise Lost from error
            raise Unconfirmed from error  # only this channel was closed

    async def _directly(self, address: str, body: bytes, properties: Properties) -> None:
        """Publish to a client itself. Raises NotTaken, Unconfirmed, or Lost."""
        try:
            await self._direct.publish(address, body, properties)
        except (OSError, BrokerRefused) as error:
            if self.generation.lost.done():
                raise Lost from error
            raise Unconfirmed from error

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self.generation.channel(confirms=True)
            return self._channel

    async def _confirmed(self, publish: asyncio.Future[None]) -> None:
        try:
            while not (await asyncio.wait([publish], timeout=self._within))[0]:
                if not self.generation.blocked:
                    raise Unconfirmed
            publish.result()
        finally:
            publish.cancel()

    async def _leave(self, channel: Channel) -> None:
        """Use a new channel from now on; the other publishes on this one are unconfirmed too."""
        if self._channel is not channel:
            return
        self._channel = None
        with suppress(OSError):
            await channel.close(CLOSE_TIMEOUT)
