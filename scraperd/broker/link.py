"""Connections: connect, declare, consume, watch, tear down, again. One *generation* at a time.

May touch: aio_pika and aiormq, the loop's clock.
Must never: reconnect inside a generation, or settle a delivery of an older one.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import aio_pika
from aiormq import exceptions as amqp
from yarl import URL

from scraperd.broker.message import Delivery, delivery_of
from scraperd.broker.topology import Topology, TopologyError, declare

if TYPE_CHECKING:
    from collections.abc import Callable

    from aio_pika.abc import AbstractConnection
    from aiormq.abc import AbstractConnection as Wire
    from aiormq.abc import DeliveredMessage
    from aiormq.channel import Channel
    from pamqp import commands as spec

SAY_EVERY: Final = 30.0  # seconds between two log lines about a broker that stays away
CLOSE_TIMEOUT: Final = 5.0
# What a library call raises once its connection is gone: a closed channel is a RuntimeError, and
# calls that were pending when a heartbeat was missed end with a CancelledError of the library's.
LOST: Final = (amqp.AMQPError, OSError, RuntimeError, asyncio.CancelledError)
NOT_ALLOWED: Final = 530  # AMQP 0-9-1 reply code: no such vhost, or no right to it


class BrokerLost(ConnectionError):  # noqa: N818 - a state of the world, not a mistake
    """The generation ended: what is unacked in it will be delivered again."""


class BrokerRefused(Exception):  # noqa: N818 - the same
    """The broker answers and says no: credentials or vhost. Waiting will not help."""


class Events(Protocol):
    """What the link tells its owner. Fields are plain values, fit for a log."""

    def __call__(self, event: str, **fields: Any) -> None:
        """Something happened."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach the broker. Times in seconds."""

    url: str
    name: str
    heartbeat: int
    connect_timeout: float
    reconnect_min: float
    reconnect_max: float
    confirm_timeout: float
    passive: bool


class Generation:
    """One pair of connections with their channels, from connect to the first sign of trouble.

    Two connections, because a broker under a memory or disk alarm stops reading from one that
    publishes, and acks on it would not be applied (docs/architecture.md).
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._connections: list[AbstractConnection] = []
        self._consume: Channel | None = None
        self._publish: Channel | None = None
        self._tag = ""
        self._pending: dict[object, float] = {}
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """Open both connections and the publishing channel. Raises BrokerRefused or OSError."""
        for purpose in ("consume", "publish"):
            self._connections.append(await self._dial(purpose))
        consuming, publishing = (_wire(connection) for connection in self._connections)
        self._consume = await _open(consuming)
        self._publish = await _open(publishing, confirms=True)
        for end in (consuming, publishing, self._consume, self._publish):
            end.closing.add_done_callback(self._on_closed)

    async def _dial(self, purpose: str) -> AbstractConnection:
        settings = self._settings
        try:
            return await aio_pika.connect(
                URL(settings.url),
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
    ) -> None:
        """Register as a consumer. `on_delivery` only takes over; it must not wait."""
        channel = self._consume
        assert channel is not None
        channel.on_consumer_cancel_callbacks.add(self._on_cancelled)
        await channel.basic_qos(prefetch_count=prefetch)

        async def hand_over(message: DeliveredMessage) -> None:
            on_delivery(delivery_of(message, self))

        answer = await channel.basic_consume(queue, hand_over)
        self._tag = answer.consumer_tag or ""

    async def cancel(self) -> None:
        """Stop the flow of deliveries; what was delivered can still be acked."""
        if self._tag and self._consume is not None and not self.lost.done():
            try:
                await self._consume.basic_cancel(self._tag, timeout=CLOSE_TIMEOUT)
            except LOST as error:
                reraise_own_cancel(error)
                self.end(f"cancelling the consumer failed: {error!r}")

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
        self.end(f"connection closed: {error!r}" if error else "connection closed")

    def _on_cancelled(self, _: object) -> None:
        self.end("the broker cancelled the consumer (queue deleted, or its leader moved)")


class Link:
    """Keeps one generation alive until told to stop. `run` is a service of the daemon."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        *,
        prefetch: int,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[Generation], None],
        events: Events,
    ) -> None:
        self._settings = settings
        self._topology = topology
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._events = events
        self._stopping = False
        self.generation: Generation | None = None
        self.consuming = asyncio.Event()

    async def run(self) -> None:
        """Connect, consume, wait for the end, tear down; again with jittered backoff, for ever.

        Raises BrokerRefused and TopologyError if the very first generation meets them: then the
        configuration is wrong, and an operator is looking.
        """
        failures, said, first = 0, -math.inf, True
        while not self._stopping:
            generation = Generation(self._settings)
            started = time.monotonic()
            try:
                await self._live(generation)
                first = False
                lasted = time.monotonic() - started >= self._settings.reconnect_max
                failures = 0 if lasted else failures + 1  # one that ends at once is no success
            except OSError as error:
                failures += 1
                if time.monotonic() - said >= SAY_EVERY:
                    said = time.monotonic()
                    self._events("broker_unreachable", broker=self.where, error=str(error))
            except (BrokerRefused, TopologyError) as error:
                if first:
                    raise
                self._events("broker_refused", broker=self.where, error=str(error))
                failures += 1
            finally:
                await generation.close()
            if not self._stopping:
                await asyncio.sleep(self._backoff(failures))

    async def _live(self, generation: Generation) -> None:
        """One generation from connect to loss."""
        try:
            await generation.connect()
            await declare(self._topology, generation.channel, passive=self._settings.passive)
            await generation.consume(self._topology.jobs, self._prefetch, self._on_delivery)
        except LOST as error:
            reraise_own_cancel(error)
            if isinstance(error, OSError):
                raise
            raise OSError(f"lost while starting: {error!r}") from error
        self.generation = generation
        self.consuming.set()
        self._events("ready", broker=self.where, queue=self._topology.jobs, prefetch=self._prefetch)
        try:
            reason = await self._watch(generation)
        finally:
            self.consuming.clear()
            self._on_lost(generation)
        if not self._stopping:
            self._events("broker_lost", broker=self.where, reason=reason)

    async def _watch(self, generation: Generation) -> str:
        """Wait for the generation's end; end it if a confirm is overdue and nothing excuses it."""
        blocked_since: float | None = None
        while not generation.lost.done():
            await asyncio.wait([generation.lost], timeout=1.0)
            if not generation.lost.done() and await generation.blocked():
                if blocked_since is None:
                    blocked_since = time.monotonic()
                    self._events("broker_blocked", broker=self.where)
            elif blocked_since is not None:
                self._events("broker_unblocked", seconds=round(time.monotonic() - blocked_since, 1))
                blocked_since = None
            elif generation.overdue() > self._settings.confirm_timeout:
                generation.end(f"no confirm within {self._settings.confirm_timeout:g} s")
        return generation.lost.result()

    def _backoff(self, failures: int) -> float:
        settings = self._settings
        bound = min(settings.reconnect_max, settings.reconnect_min * 2 ** min(failures, 16))
        return random.uniform(settings.reconnect_min / 2, bound)  # noqa: S311 - jitter

    async def cancel(self) -> None:
        """Stop consuming and do not reconnect; in-flight deliveries can still be settled."""
        self._stopping = True
        self.consuming.clear()
        if self.generation is not None:
            await self.generation.cancel()

    @property
    def where(self) -> str:
        """The broker's URL without its credentials."""
        return censored(self._settings.url)


def censored(url: str) -> str:
    """`url` without user name and password."""
    try:
        parsed = URL(url)
        return str(parsed.with_user(None).with_query(None))
    except ValueError:
        return "(not a URL)"


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
