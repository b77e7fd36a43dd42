"""Publishes to queues and topics that are not ours, on channels that nothing else needs.

May touch: channels of its generation.
Must never: end the generation, or hold up a publish to our own queues.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.protocols.addresses import route_of
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
    """Publishes to reply queues and topics, on channels of their own.

    The sender of a job names the queue, and the queue may never answer. RabbitMQ then holds back
    all confirms behind it on the same channel.
    """

    def __init__(self, generation: Generation, within: float) -> None:
        self.generation: Final = generation
        self._within = within
        self._direct = DirectReplies(generation.beside, min(within, MAX_DIRECT_TIMEOUT))
        # By exchange, as a refusal closes the channel: the broker may refuse a topic and no queue.
        self._channels: dict[str, Channel] = {}
        self._opening = asyncio.Lock()

    async def publish(self, address: str, body: bytes, properties: Properties) -> None:
        """Publish, mandatory, and wait for the confirm `within` seconds.

        If there is an alarm then, wait as long again. `address` is a queue or a topic.

        Raises NotTaken (returned, rejected), Unconfirmed, or Lost.
        """
        try:
            if is_direct(address):
                await self._directly(address, body, properties)
                return
            exchange, key = route_of(address)
            channel = await self._open(exchange)
            try:
                await self._confirmed(channel.publish(exchange, key, body, properties))
            except (Closed, Unconfirmed):
                await self._leave(exchange, channel)
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

    async def _open(self, exchange: str) -> Channel:
        async with self._opening:
            channel = self._channels.get(exchange)
            if channel is None or channel.is_closed:
                channel = await self.generation.channel(confirms=True)
                self._channels[exchange] = channel
            return channel

    async def _confirmed(self, publish: asyncio.Future[None]) -> None:
        try:
            while not (await asyncio.wait([publish], timeout=self._within))[0]:
                if not self.generation.blocked:
                    raise Unconfirmed
            publish.result()
        finally:
            publish.cancel()

    async def _leave(self, exchange: str, channel: Channel) -> None:
        """Use a new channel from now on; the other publishes on this one are unconfirmed too."""
        if self._channels.get(exchange) is not channel:
            return
        del self._channels[exchange]
        with suppress(OSError):
            await channel.close(CLOSE_TIMEOUT)
