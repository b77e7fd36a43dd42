"""Asks whether a user may do something, by requests that the broker refuses for another reason.

May touch: channels of the connection that it is handed.
Must never: create, change, publish or take anything.

RabbitMQ looks at the permissions first, and then at the request itself. Each request here is wrong
in itself, so a user who has the permission gets another refusal (measured with RabbitMQ
3.10.8 and 4.0.5):

| permission            | request                                       | refusal     |
| --------------------- | --------------------------------------------- | ----------- |
| configure a queue     | declare it with `x-expires` = 0               | 406         |
| configure an exchange | declare it with an `alternate-exchange` of 0  | 406         |
| read a queue          | consume it with a text as `x-priority`        | 406 or 404  |
| write to an exchange  | publish with a text as `expiration`           | 406 or 404  |
| bind a queue          | take away a binding that does not exist       | none or 404 |
"""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, TypeVar

from scraperd.broker.ports import Lost
from scraperd.broker.rabbitmq.wire.codec.properties import Properties
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, ChannelClosed, Closed, NotTaken
from scraperd.broker.rabbitmq.wire.refusals import is_about_topic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.rabbitmq.wire.channel import Channel
    from scraperd.broker.rabbitmq.wire.connection import Connection

T = TypeVar("T")

ALARM_INTERVAL: Final = 0.05  # seconds between two looks whether the broker takes publishes
_NAME: Final = "scraperd-check"  # of a consumer, a routing key and a message that never come to be


class Asker:
    """Asks each question on a channel of its own, as a refusal closes the channel."""

    def __init__(self, connection: Connection, within: float) -> None:
        self._connection = connection
        self._within = within

    async def ask(self, request: Callable[[Channel], Awaitable[T]], *, confirms: bool = False) -> T:
        """Return the answer. Raises ChannelClosed for a refusal, Lost without an answer."""
        try:
            async with asyncio.timeout(self._within):
                channel = await self._connection.channel(confirms=confirms)
                answer = await request(channel)
        except TimeoutError:
            raise Lost(f"no answer within {self._within:g} s (fetch.connect_timeout)") from None
        except ChannelClosed:
            raise
        except Closed as error:
            raise Lost(f"lost the broker: {error}") from error
        channel.leave()
        return answer

    async def refusal(
        self, request: Callable[[Channel], Awaitable[object]], *, confirms: bool = False
    ) -> AccessRefused | None:
        """Return how the broker refuses this user, or None if a permission is not what lacks."""
        try:
            await self.ask(request, confirms=confirms)
        except AccessRefused as error:
            return None if is_about_topic(error) else error
        except (ChannelClosed, NotTaken):
            return None
        return None

    async def configure_exchange(self, name: str, kind: str) -> AccessRefused | None:
        """Return how the broker refuses to declare an exchange, or None."""
        return await self.refusal(
            lambda channel: channel.call(
                "exchange.declare",
                "exchange.declare-ok",
                exchange=name,
                exchange_type=kind,
                durable=True,
                arguments={"alternate-exchange": 0},
            )
        )

    async def configure_queue(self, name: str) -> AccessRefused | None:
        """Return how the broker refuses to declare a queue, or None."""
        wrong = {"x-queue-type": "quorum", "x-expires": 0}
        return await self.refusal(lambda channel: channel.declare_queue(name, wrong, passive=False))

    async def read_queue(self, name: str) -> AccessRefused | None:
        """Return how the broker refuses to let a queue be read, or None."""

        async def request(channel: Channel) -> None:
            await channel.qos(1)  # were it taken, no more than one message would come
            await channel.call(
                "basic.consume",
                "basic.consume-ok",
                queue=name,
                consumer_tag=_NAME,
                arguments={"x-priority": "none"},
            )

        return await self.refusal(request)

    async def bind(self, queue: str, exchange: str) -> AccessRefused | None:
        """Return how the broker refuses a binding, or None."""
        key = f"{_NAME}.{secrets.token_hex(8)}"
        return await self.refusal(
            lambda channel: channel.call(
                "queue.unbind", "queue.unbind-ok", queue=queue, exchange=exchange, routing_key=key
            )
        )

    async def write_exchange(self, name: str) -> AccessRefused | None:
        """Return how the broker refuses a publish to an exchange; "" is the default exchange.

        None under an alarm too: the broker answers no publish then.
        """
        wrong = Properties(expiration="none", message_id=_NAME)
        asked = asyncio.ensure_future(
            self.refusal(lambda channel: channel.publish(name, _NAME, b"", wrong), confirms=True)
        )
        try:
            while not (await asyncio.wait([asked], timeout=ALARM_INTERVAL))[0]:
                if self._connection.blocked:
                    return None
            return asked.result()
        finally:
            asked.cancel()
