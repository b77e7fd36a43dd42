"""Publishes to the destinations of the ports: confirmed, mandatory, in the current generation.

May touch: a generation's publishing channel.
Must never: ack, drop a message, or treat a timeout as an outcome.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from scraperd.base.backoff import backoff
from scraperd.base.text import printable
from scraperd.broker.ports import (
    UNROUTABLE_REPLY,
    Batches,
    Callbacks,
    DeadCallbacks,
    Delay,
    Into,
    Lost,
    Refused,
    Reply,
    Results,
)
from scraperd.broker.rabbitmq.codec import properties_of
from scraperd.broker.rabbitmq.generation import Generation
from scraperd.broker.rabbitmq.protocols.addresses import route_of
from scraperd.broker.rabbitmq.replies import Replies, Unconfirmed
from scraperd.broker.rabbitmq.topology import TopologyError, declare, wait_at_least, wait_within
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, Nacked, NotFound, NotTaken, Returned
from scraperd.broker.rabbitmq.wire.refusals import is_about_topic, no_publish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Destination, Epoch, Message
    from scraperd.broker.rabbitmq.generation import Events
    from scraperd.broker.rabbitmq.reply_patterns import Addresses

MIN_RETRY_PAUSE: Final = 0.5  # seconds; the queue is full or missing, and an operator must act
MAX_RETRY_PAUSE: Final = 30.0
MAX_REFUSED_LOGGED: Final = 100  # refused reply queues that are named in the log
MAX_ASK_PAUSE: Final = 10.0  # seconds between two questions whether a publish is allowed now
MAX_HELD: Final = 1000  # routing keys that are remembered as refused
# Seconds for a question to be asked and answered once it is due. If no waiting job is left to ask
# it, jobs are consumed again after this time, and the next job asks.
ANSWERED_WITHIN: Final = 2.0


@dataclass(eq=False, slots=True)
class Held:
    """What the broker refuses now: when it is asked again (monotonic clock), and how it was."""

    problem: str
    since: float
    pauses: Iterator[float]
    due: float = 0.0


class Refusals:
    """What the broker refuses to take: an exchange, or one routing key of an exchange.

    Each is told once, and told again once it is over.
    """

    def __init__(self, prefix: str, events: Events, clocks: Clocks, *, passive: bool) -> None:
        self.turn = asyncio.Lock()
        """Held by the one publish that asks whether it is allowed."""
        self._prefix = prefix
        self._passive = passive
        self._events = events
        self._clocks = clocks
        self._held: dict[tuple[str, str | None], Held] = {}
        self._told = 0
        self._told_replies: set[str] = set()  # exchanges

    def of(self, to: tuple[str, str]) -> Held | None:
        """What holds a publish to this exchange and routing key up, if anything does."""
        if not self._held:
            return None
        return self._held.get((to[0], None)) or self._held.get(to)

    def hold(
        self, to: tuple[str, str], error: AccessRefused | NotFound, generation: Generation
    ) -> None:
        """Note that the broker refused this, when nothing else was on the channel."""
        now = self._clocks.monotonic()
        exchange, key = to
        whole = not is_about_topic(error)
        place = (exchange, None if whole else key)
        held = self._held.get(place)
        if held is None:
            problem, words = no_publish(error, *to, self._prefix, passive=self._passive)
            jitter = partial(self._clocks.between, 0.5, 1.0)
            held = Held(problem, now, backoff(MIN_RETRY_PAUSE, MAX_ASK_PAUSE, jitter))
            if len(self._held) >= MAX_HELD:
                del self._held[next(iter(self._held))]
            self._held[place] = held
            self._tell(problem, to, words, whole=whole)
        held.due = now + next(held.pauses)
        if whole:
            generation.refused_until = held.due + ANSWERED_WITHIN

    def _tell(self, problem: str, to: tuple[str, str], words: str, *, whole: bool) -> None:
        """Say that it is refused; of routing keys MAX_REFUSED_LOGGED in all."""
        self._told += not whole
        if whole or self._told <= MAX_REFUSED_LOGGED:
            shown = printable(to[1], 255)
            self._events(
                "publish_refused", problem=problem, exchange=to[0], routing_key=shown, error=words
            )

    def tell_reply(self, address: str, error: AccessRefused) -> None:
        """Say once that no reply queue gets results, or no topic. They go to the results queue."""
        to = route_of(address)
        if to[0] not in self._told_replies:
            self._told_replies.add(to[0])
            problem, words = no_publish(error, *to, self._prefix, passive=self._passive)
            self._tell(problem, to, words, whole=True)

    def lift(self, to: tuple[str, str], generation: Generation) -> None:
        """Note that the broker takes this."""
        for place in ((to[0], None), to):
            if (held := self._held.pop(place, None)) is not None:
                seconds = round(self._clocks.monotonic() - held.since, 1)
                self._events("publish_allowed", exchange=to[0], seconds=seconds)
        generation.refused_until = 0.0


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
        self.addresses = addresses
        self._refused: set[str] = set()
        self._confirm_timeout = confirm_timeout
        self._replies: Replies | None = None
        self._events = events
        self._passive = passive
        self._clocks = clocks
        self._jitter = partial(clocks.between, 0.5, 1.0)
        self._refusals = Refusals(addresses.topology.prefix, events, clocks, passive=passive)
        self._leaving = asyncio.Event()
        self.sent = 0
        """Messages that it was given to publish."""
        self.sent_bytes = 0
        """Bytes of their bodies."""

    async def publish(
        self, epoch: Epoch, destination: Destination, message: Message, until: float
    ) -> None:
        """Publish `message`; see ports.Publisher."""
        assert isinstance(epoch, Generation), "a delivery of another transport"
        self.sent += 1
        self.sent_bytes += len(message.body)
        match destination:
            case Reply(address, key):
                await self._reply(epoch, message, address, key, until)
            case Results(key):
                await self._send(epoch, (self._topology.results, key), message, until)
            case Delay(seconds):
                await self._send(epoch, ("", self._topology.delay(seconds)), message, until)
            case Into(source):
                await self._send(epoch, ("", self._topology.queue(source)), message, until)
            case Callbacks(seconds):
                names = self._topology
                queue = names.callbacks if seconds is None else names.callback_delay(seconds)
                await self._send(epoch, ("", queue), message, until)
            case DeadCallbacks():
                await self._send(epoch, ("", self._topology.dead_callbacks), message, until)
            case Batches():
                await self._send(epoch, ("", self._topology.batches), message, until)

    def wait_within(self, seconds: float) -> float:
        """The longest delay tier of at most `seconds`; see ports.Publisher."""
        return wait_within(seconds)

    def wait_at_least(self, seconds: float) -> float:
        """The wait of the delay tier that is used for `seconds`; see ports.Publisher."""
        return wait_at_least(seconds)

    async def _send(
        self, generation: Generation, to: tuple[str, str], message: Message, until: float
    ) -> None:
        """Publish until it is confirmed: a full queue is waited for, a missing one declared again.

        The wait holds the job's prefetch slot, so a results queue that is full slows the daemon
        down and loses nothing.
        """
        exchange, key = to
        suspected = False
        for wait in backoff(MIN_RETRY_PAUSE, MAX_RETRY_PAUSE, self._jitter):
            try:
                if suspected or self._refusals.of(to):
                    await self._alone(generation, to, message, until)
                else:
                    properties = properties_of(message, frame_max=generation.frame_max)
                    await generation.publish(exchange, key, message.body, properties)
            except (AccessRefused, NotFound):  # of this message, or of another that was under way
                suspected = True
                continue
            except Returned:
                problem = "unroutable"
                await self._redeclare(generation)
            except Nacked:
                problem = "rejected"
                if to == ("", self._topology.jobs):  # it is full: others put jobs in as well
                    exchange, key = to = ("", self._topology.delay(0))
                    continue
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
            await self._wait(generation, wait, until, problem)

    async def _alone(
        self, generation: Generation, to: tuple[str, str], message: Message, until: float
    ) -> None:
        """Publish on a channel of its own; as long as the broker refuses that, wait and ask again.

        One message at a time asks for all that go the same way. Nothing is held against any.
        """
        refusals = self._refusals
        while True:
            if held := refusals.of(to):
                wait = max(0.0, held.due - self._clocks.monotonic())
                await self._wait(generation, wait, until, held.problem)
            async with refusals.turn:
                held = refusals.of(to)
                if held and held.due > self._clocks.monotonic():
                    continue  # another has just asked
                properties = properties_of(message, frame_max=generation.frame_max)
                try:
                    await generation.publish_alone(*to, message.body, properties)
                except (AccessRefused, NotFound) as error:
                    refusals.hold(to, error, generation)
                    missing = isinstance(error, NotFound)
                except NotTaken:
                    refusals.lift(to, generation)  # a matter of the queue: it may be published
                    raise
                else:
                    refusals.lift(to, generation)
                    return
            if missing:
                await self._redeclare(generation)

    async def _wait(
        self, generation: Generation, seconds: float, until: float, problem: str
    ) -> None:
        """Wait before the next trial. Raises Refused if that comes after `until`, or at a drain."""
        patient = until == math.inf
        now = self._clocks.monotonic()
        if not patient and (self._leaving.is_set() or now + seconds > until):
            raise Refused(problem)
        ends: list[asyncio.Future[Any]] = [generation.lost]
        leaving = asyncio.ensure_future(self._leaving.wait())
        if not patient:
            ends.append(leaving)
        try:
            await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()

    def let_go(self) -> None:
        """Wait no more for a queue; see ports.Publisher."""
        self._leaving.set()

    async def _reply(
        self, generation: Generation, message: Message, address: str, key: str, until: float
    ) -> None:
        """Publish a result to a queue or a topic, which `address` names.

        One that is not confirmed there, or may not go there, goes to the results queue, with a
        header that says so.
        """
        if generation.lost.done():
            raise Lost
        if self._replies is None or self._replies.generation is not generation:
            self._replies = Replies(generation, self._confirm_timeout)
        if self.addresses.refuses(address):
            self._say_refused(address)
        else:
            try:
                properties = properties_of(message, frame_max=generation.frame_max)
                await self._replies.publish(address, message.body, properties)
            except (NotTaken, Unconfirmed) as error:  # the queue is missing, full or silent
                if isinstance(error.__cause__, AccessRefused):
                    self._refusals.tell_reply(address, error.__cause__)
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
                "a queue of ours" if self.addresses.never(queue) else "not in broker.allow_reply_to"
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
