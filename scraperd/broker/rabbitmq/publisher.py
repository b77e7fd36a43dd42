"""Publishes to the destinations of the ports: confirmed, mandatory, in the current generation.

May touch: a generation's publishing channel.
Must never: ack, drop a message, or treat a timeout as an outcome.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from scraperd.base.backoff import backoff
from scraperd.base.text import printable
from scraperd.broker.ports import UNROUTABLE_REPLY, Delay, Into, Lost, Refused, Reply, Results
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.generation import Generation
from scraperd.broker.rabbitmq.replies import Replies, Unconfirmed
from scraperd.broker.rabbitmq.topology import TopologyError, declare, wait_within
from scraperd.broker.rabbitmq.wire.errors import Nacked, NotTaken, Returned

if TYPE_CHECKING:
    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Destination, Epoch, Message
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.reply_patterns import Addresses

MIN_RETRY_PAUSE: Final = 0.5  # seconds; the queue is full or missing, and an operator must act
MAX_RETRY_PAUSE: Final = 30.0
MAX_REFUSED_LOGGED: Final = 100  # refused reply queues that are named in the log


class RabbitPublisher:
    """Publishes, and returns once the broker has confirmed. See ports.Publisher."""

    def __init__(
        self,
        addresses: Addresses,
        events: Events,
        *,
        passive: bool,
        confirm_timeout: float,
        clocks: Clocks,
    ) -> None:
        self._topology = addresses.topology
        self._addresses = addresses
        self._refused: set[str] = set()
        self._confirm_timeout = confirm_timeout
        self._replies: Replies | None = None
        self._events = events
        self._passive = passive
        self._clocks = clocks
        self._jitter = partial(clocks.between, 0.5, 1.0)

    async def publish(
        self, epoch: Epoch, destination: Destination, message: Message, until: float
    ) -> None:
        """Publish `message`; see ports.Publisher."""
        assert isinstance(epoch, Generation), "a delivery of another transport"
        match destination:
            case Reply(address, key):
                await self._reply(epoch, message, address, key, until)
            case Results(key):
                await self._send(epoch, (self._topology.results, key), message, until)
            case Delay(seconds):
                await self._send(epoch, ("", self._topology.delay(seconds)), message, until)
            case Into(source):
                await self._send(epoch, ("", self._topology.queue(source)), message, until)

    def wait_within(self, seconds: float) -> float:
        """The longest delay tier of at most `seconds`; see ports.Publisher."""
        return wait_within(seconds)

    async def _send(
        self, generation: Generation, to: tuple[str, str], message: Message, until: float
    ) -> None:
        """Publish until it is confirmed: a full queue is waited for, a missing one declared again.

        The wait holds the job's prefetch slot, so a results queue that is full slows the daemon
        down and loses nothing.
        """
        exchange, key = to
        for wait in backoff(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE, self._jitter):
            try:
                await generation.publish(exchange, key, message.body, properties_of(message))
            except Returned:
                problem = "unroutable"
                await self._redeclare(generation)
            except Nacked:
                problem = "rejected"
                await generation.renew()
            else:
                return
            self._events(
                "publish_refused",
                problem=problem,
                exchange=exchange,
                routing_key=key,
                retry_in=round(wait, 1),
            )
            if self._clocks.monotonic() + wait > until:
                raise Refused(problem)
            await asyncio.wait([generation.lost], timeout=wait)

    async def _reply(
        self, generation: Generation, message: Message, address: str, key: str, until: float
    ) -> None:
        """Publish a result to the queue `address`.

        One that is not confirmed there, or may not go there, goes to the results queue, with a
        header that says so.
        """
        if generation.lost.done():
            raise Lost
        if self._replies is None or self._replies.generation is not generation:
            self._replies = Replies(generation, self._confirm_timeout)
        if self._addresses.refuses(address):
            self._say_refused(address)
        else:
            try:
                await self._replies.publish(address, message.body, properties_of(message))
            except (NotTaken, Unconfirmed):  # the queue is missing, full or silent
                pass
            else:
                return
        headers = {**message.headers, UNROUTABLE_REPLY: address}
        message = replace(message, headers=headers)
        await self._send(generation, (self._topology.results, key), message, until)

    def _say_refused(self, queue: str) -> None:
        """Log a refusal once for each queue, up to a limit: publishers choose the names."""
        if queue not in self._refused and len(self._refused) < MAX_REFUSED_LOGGED:
            self._refused.add(queue)
            why = (
                "a queue of ours"
                if self._addresses.never(queue)
                else "not in broker.allow_reply_to"
            )
            self._events("reply_refused", queue=printable(queue, 255), why=why)

    async def _redeclare(self, generation: Generation) -> None:
        """A queue of ours may have been deleted; put it back, unless someone else declares."""
        if self._passive or generation.lost.done():
            return
        try:
            await declare(self._topology, generation.channel, passive=False)
        except (OSError, TopologyError) as error:
            generation.end(f"declaring again failed: {error!r}")
