"""Publishes to queues that are not ours, on a channel that nothing else needs.

May touch: a channel of its generation.
Must never: end the generation, or hold up a publish to our own queues.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from aiormq import exceptions as amqp

from scraperd.base.tasks import reraise_own_cancel
from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.generation import CLOSE_TIMEOUT, LOST
from scraperd.broker.rabbitmq.wire import slices

if TYPE_CHECKING:
    from aiormq.channel import Channel
    from pamqp import commands as spec

    from scraperd.broker.rabbitmq.generation import Generation


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
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def publish(self, queue: str, body: bytes, properties: spec.Basic.Properties) -> None:
        """Publish, mandatory, and wait for the confirm `within` seconds.

        If there is an alarm then, wait as long again.

        Raises aiormq's DeliveryError (returned, rejected), Unconfirmed, or Lost.
        """
        try:
            channel = await self._open()
            try:
                await self._confirmed(channel, queue, body, properties)
            except amqp.DeliveryError:
                raise
            except (*LOST, Unconfirmed):
                await self._leave(channel)
                raise
        except amqp.DeliveryError:
            raise
        except LOST as error:
            reraise_own_cancel(error)
            if self.generation.lost.done():
                raise Lost from error
            raise Unconfirmed from error  # only this channel was closed

    async def _open(self) -> Channel:
        async with self._opening:
            if self._channel is None or self._channel.is_closed:
                self._channel = await self.generation.channel(confirms=True)
            return self._channel

    async def _confirmed(
        self, channel: Channel, queue: str, body: bytes, properties: spec.Basic.Properties
    ) -> None:
        publish = asyncio.ensure_future(slices.publish(channel, "", queue, body, properties))
        try:
            with self.generation.calling():
                while not (await asyncio.wait([publish], timeout=self._within))[0]:
                    if not await self.generation.blocked():
                        raise Unconfirmed
                await publish
        finally:
            publish.cancel()

    async def _leave(self, channel: Channel) -> None:
        """Use a new channel from now on; the other publishes on this one are unconfirmed too."""
        if self._channel is not channel:
            return
        self._channel = None
        try:
            with self.generation.calling():
                await channel.close(timeout=CLOSE_TIMEOUT)
        except LOST as error:
            reraise_own_cancel(error)
