"""A *generation*: two connections with their channels, from connect to the first sign of trouble.

May touch: aio_pika and aiormq, the loop's clock.
Must never: reconnect, or settle a delivery of another generation.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import aio_pika
from aiormq import exceptions as amqp
from yarl import URL

from scraperd.broker.message import Delivery, delivery_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aio_pika.abc import AbstractConnection
    from aiormq.abc import AbstractConnection as Wire
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp import commands as spec

CLOSE_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 10.0  # seconds; a broker that takes longer to count a queue has no leader
# What a library call raises once its connection is gone: a closed channel is a RuntimeError, and
# calls that were pending when a heartbeat was missed end with a CancelledError of the library's.
LOST: Final = (amqp.AMQPError, OSError, RuntimeError, asyncio.CancelledError)
NOT_ALLOWED: Final = 530  # AMQP 0-9-1 reply code: no such vhost, or no right to it


class Events(Protocol):
    """What this room tells its owner. Fields are plain values, fit for a log."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Something happened."""


class BrokerLost(ConnectionError):  # noqa: N818 - a state of the world, not a mistake
    """The generation ended: what is unacked in it will be delivered again."""


class BrokerRefused(Exception):  # noqa: N818 - the same
    """The broker answers and says no: credentials or vhost. Waiting will not help."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the broker: one of `urls`, tried in turn. Times in seconds."""

    urls: tuple[str, ...]
    name: str
    heartbeat: int
    connect_timeout: float
    reconnect_min: float
    reconnect_max: float
    confirm_timeout: float
    passive: bool


@dataclass(slots=True)
class Consumer:
    """One registration as a consumer: what it was given, and how much of that is not acked."""

    queue: str
    prefetch: int
    tag: str = ""
    delivered: int = 0
    unacked: int = 0
    seen: int = 0  # of those delivered, when it was last looked at
    fed_at: float = field(default_factory=time.monotonic)  # last seen with something, or no room


class Generation:
    """One pair of connections with their channels, from connect to the first sign of trouble.

    Two connections, because a broker under a memory or disk alarm stops reading from one that
    publishes, and acks on it would not be applied (docs/architecture.md).
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._connections: list[AbstractConnection] = []
        self._consume: Channel | None = None
        self._publish: Channel | None = None
        self._ask: Channel | None = None
        self._consumers: dict[str, Consumer] = {}
        self._held: dict[int, Consumer] = {}
        self._pending: dict[object, float] = {}
        self.words = ""
        """The broker's own words, if it closed a channel or a connection with some."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """Open both connections and the publishing channel. Raises BrokerRefused or OSError."""
        for purpose in ("consume", "publish"):
            self._connections.append(await self._dial(purpose))
        consuming, publishing = (_wire(connection) for connection in self._connections)
        self._consume = await _open(consuming)
        self._consume.on_consumer_cancel_callbacks.add(self._on_cancelled)
        self._publish = await _open(publishing, confirms=True)
        for end in (consuming, publishing, self._consume, self._publish):
            end.closing.add_done_callback(self._on_closed)

    async def _dial(self, purpose: str) -> AbstractConnection:
        settings = self._settings
        try:
            return await aio_pika.connect(
                URL(self._url),
                heartbeat=settings.heartbeat,
                timeout=settings.connect_timeout,
                client_properties={"connection_name": f"{settings.name} {purpose}"},
            )
        except (amqp.AuthenticationError, amqp.ProbableAuthenticationError) as error:
            raise BrokerRefused(
                "the broker refused the user name or the password of broker_url"
            ) from error
        except (amqp.AMQPError, TimeoutError) as error:
            if getattr(error, "reply_code", None) == NOT_ALLOWED:
                raise BrokerRefused(
                    f"the broker refused the vhost of broker_url: {error}"
                ) from error
            if "Connection.OpenOk" in str(error):  # the library loses the broker's own words here
                raise OSError(
                    "the broker closed the connection when the vhost was opened; does the vhost of "
                    "broker_url exist, and may this user enter it?"
                ) from error
            raise OSError(str(error) or "no answer") from error

    async def channel(self) -> Channel:
        """A fresh channel for declarations: an error there closes it and nothing else."""
        return await _open(_wire(self._connections[1]))

    async def consume(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> Consumer:
        """Register as a consumer. `on_delivery` only takes over; it must not wait.

        The prefetch count holds for this consumer alone (RabbitMQ's reading of basic.qos).
        """
        channel = self._consume
        assert channel is not None
        await channel.basic_qos(prefetch_count=prefetch)
        consumer = Consumer(queue, prefetch)

        async def hand_over(message: DeliveredMessage) -> None:
            delivery = delivery_of(message, self, queue)
            consumer.delivered += 1
            consumer.unacked += 1
            self._held[delivery.tag] = consumer
            on_delivery(delivery)

        answer = await channel.basic_consume(queue, hand_over)
        consumer.tag = answer.consumer_tag or ""
        return consumer

    async def cancel(self, consumer: Consumer) -> None:
        """Stop the flow of deliveries; what was delivered can still be acked."""
        if self._consume is not None and not self.lost.done():
            try:
                await self._consume.basic_cancel(consumer.tag, timeout=CLOSE_TIMEOUT)
            except LOST as error:
                reraise_own_cancel(error)
                self.end(f"cancelling the consumer failed: {error!r}")

    @property
    def unacked(self) -> int:
        """Deliveries that the broker waits for."""
        return len(self._held)

    async def count(self, queue: str) -> tuple[int, int] | None:
        """Ready messages and consumers, by the broker's own count; None if it does not say."""
        try:
            if self._ask is None or self._ask.is_closed:
                self._ask = await _open(_wire(self._connections[0]))
            answer = await self._ask.queue_declare(queue, passive=True, timeout=ANSWER_TIMEOUT)
        except LOST as error:  # also TimeoutError: a queue without a leader is not counted
            reraise_own_cancel(error)
            self._ask = None
            return None
        return answer.message_count or 0, answer.consumer_count or 0

    async def ack(self, tag: int) -> bool:
        """Ack one delivery; False if this generation has ended."""
        if self.lost.done() or self._consume is None:
            return False
        try:
            await self._consume.basic_ack(tag, wait=False)
        except LOST as error:
            reraise_own_cancel(error)
            self.end(f"ack failed: {error!r}")
            return False
        if (consumer := self._held.pop(tag, None)) is not None:
            consumer.unacked -= 1
        return True

    async def publish(
        self, exchange: str, key: str, body: bytes, properties: spec.Basic.Properties
    ) -> None:
        """Publish, mandatory, and wait for the confirm.

        Raises aiormq's PublishError (returned), DeliveryError (nacked), or BrokerLost. There is no
        timeout here: a late confirm has an unknown outcome, so `overdue` ends the generation.
        """
        if self.lost.done() or self._publish is None:
            raise BrokerLost
        key_of_wait = object()
        self._pending[key_of_wait] = time.monotonic()
        try:
            await self._publish.basic_publish(
                body,
                exchange=exchange,
                routing_key=key,
                properties=properties,
                mandatory=True,
                wait=False,
            )
        except amqp.DeliveryError:
            raise
        except LOST as error:
            reraise_own_cancel(error)
            self.end(f"publish failed: {error!r}")
            raise BrokerLost from error
        finally:
            del self._pending[key_of_wait]

    async def blocked(self) -> bool:
        """Whether the broker holds back publishers (memory or disk alarm)."""
        try:
            async with asyncio.timeout(0.01):
                await _wire(self._connections[1]).ready()
        except TimeoutError:
            return True
        return False

    def overdue(self) -> float:
        """Age in seconds of the oldest publish that still waits for its confirm; 0 without one."""
        oldest = next(iter(self._pending.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    def end(self, reason: str) -> None:
        """Declare this generation over. Only the first reason counts."""
        if not self.lost.done():
            self.lost.set_result(reason)

    async def close(self) -> None:
        """Tear both connections down; the broker requeues whatever was unacked.

        A healthy channel is closed first: its close-ok tells that every ack before it arrived.
        """
        if self._consume is not None and not self.lost.done():
            try:
                await self._consume.close(timeout=CLOSE_TIMEOUT)
            except LOST as error:
                reraise_own_cancel(error)
        self.end("closed")
        closing = [asyncio.ensure_future(connection.close()) for connection in self._connections]
        if closing:
            _, slow = await asyncio.wait(closing, timeout=CLOSE_TIMEOUT)
            for task in slow:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)

    def _on_closed(self, future: asyncio.Future[Any]) -> None:
        error = None if future.cancelled() else future.exception()
        self.words = self.words or str(error or "")
        self.end(f"connection closed: {error!r}" if error else "connection closed")

    def _on_cancelled(self, _: object) -> None:
        self.end("the broker cancelled the consumer (queue deleted, or its leader moved)")


def _wire(connection: AbstractConnection) -> Wire:
    """The connection beneath aio-pika's.

    Its channels raise on a returned publish, cost less, and let us own the tasks.
    """
    transport = connection.transport
    if transport is None:
        raise BrokerLost
    return transport.connection


async def _open(wire: Wire, *, confirms: bool = False) -> Channel:
    """A channel; with `confirms` a returned publish raises instead of passing for a success."""
    return cast("Channel", await wire.channel(publisher_confirms=confirms, on_return_raises=True))


def reraise_own_cancel(error: BaseException) -> None:
    """A CancelledError is ours only if someone cancelled this task; else the library lost a broker.

    Under a frozen broker aiormq ends pending calls with a CancelledError of its own.
    """
    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error
