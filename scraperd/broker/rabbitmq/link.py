"""Keeps one generation alive: connect, declare, consume, watch, tear down, again.

May touch: the clocks that it is handed.
Must never: reconnect inside a generation.
"""

from __future__ import annotations

import asyncio
import math
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from scraperd.base.backoff import backoff
from scraperd.broker.ports import Lost, Source
from scraperd.broker.rabbitmq.codec import delivery_of
from scraperd.broker.rabbitmq.consumers import Consumers, Prefetch
from scraperd.broker.rabbitmq.generation import Generation
from scraperd.broker.rabbitmq.inspection.redeclare import compare
from scraperd.broker.rabbitmq.limits import learn
from scraperd.broker.rabbitmq.modes import CONSUMES
from scraperd.broker.rabbitmq.rules.stream import exists
from scraperd.broker.rabbitmq.topology import Topology, TopologyError, declare
from scraperd.broker.rabbitmq.wire.dial import BrokerRefused, check, endpoint
from scraperd.broker.rabbitmq.wire.errors import AccessRefused, ChannelClosed, Closed
from scraperd.broker.rabbitmq.wire.refusals import no_access
from scraperd.broker.rabbitmq.wire.undeliverable import reject_head, try_head
from scraperd.broker.rabbitmq.wire.versions import ignores_priority, weakness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery, Epoch, Limits
    from scraperd.broker.rabbitmq.generation import Events, Settings
    from scraperd.broker.rabbitmq.wire.connection import Connection
    from scraperd.broker.rabbitmq.wire.gate import Gate
    from scraperd.broker.rabbitmq.wire.machine import Delivered

LOG_INTERVAL: Final = 30.0  # seconds between two log lines about a broker that stays away
TICK_INTERVAL: Final = 1.0  # seconds between two looks at a generation
CALM_INTERVAL: Final = 10.0  # seconds without a fault, after which more is taken
HEALTHY: Final = 10.0  # seconds of a connection, after which the broker is dialled at once
AT_ONCE: Final = 0.1  # seconds at most before that dial: a broker's end is all its clients' end
MAX_SET_ASIDE: Final = 100  # undeliverable messages of one queue, before jobs are consumed again


class Faults:
    """Generations that ended because the broker failed (541) as it delivered.

    A message that the broker cannot deliver ends each connection, and each end counts a return for
    all that is unacked. So after the first end a tenth is taken, and after the second one message
    of each queue. RabbitMQ puts what comes back behind all else that came back, and before the
    rest (measured with 3.10.8). So what came back before that message is done first, and then it is
    the first of its queue: the next generation ends before anything comes from there.
    """

    def __init__(self) -> None:
        self.count = 0
        self.sources: tuple[Source, ...] = ()
        """The queues from which nothing had come at the last end: one of them has the message."""
        self._generation: Generation | None = None
        self._since = 0.0

    @property
    def alone(self) -> bool:
        """Whether no more than one message of each queue was unacked at the last end."""
        return self.count > 1

    def add(self, generation: Generation, sources: tuple[Source, ...], now: float) -> None:
        """Note such an end, at a time of the monotonic clock."""
        self.count, self._since = self.count + 1, now
        self._generation = generation
        # What is set aside goes to UNDELIVERED, and is found there next.
        self.sources = tuple(sorted(sources, key=lambda source: source is Source.UNDELIVERED))

    def found(self) -> None:
        """Note that the message is gone. There may be more: the next end finds it at once."""
        self.count = 1

    def returned(self, message: Delivered, source: Source) -> Delivery:
        """A message that could be delivered, as one of the generation that has ended.

        So its return is not held against it.
        """
        assert self._generation is not None, "a trial comes after an end"
        return delivery_of(message, self._generation, source, self._generation.ack)

    def calm(self, now: float) -> bool:
        """Whether more may be taken from now on, as nothing happened for CALM_INTERVAL."""
        if not self.count or now - self._since < CALM_INTERVAL:
            return False
        self.count, self._since = min(self.count, 2) - 1, now
        return True


class Link:
    """Keeps one generation alive until told to stop. `run` is a service of the daemon."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        limits: Limits,
        gate: Callable[[], Gate],
        *,
        prefetch: Prefetch,
        on_delivery: Callable[[Delivery], None],
        on_lost: Callable[[Generation], None],
        events: Events,
        clocks: Clocks,
    ) -> None:
        self._settings = settings
        self._clocks = clocks
        self._topology = topology
        self._limits = limits
        self._gate = gate
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._on_lost = on_lost
        self._events = events
        self._stopping = False
        self._dials = 0
        self._said: dict[tuple[str, str], float] = {}
        self._warned: set[str] = set()
        self._compared = False
        self._no_priorities = ""  # what that means, until it was said
        self._consumers: Consumers | None = None
        self._faults = Faults()
        self._reconfigured = asyncio.Event()
        self._generation: Generation | None = None
        self._blocked_since: float | None = None
        self._blocked_time = 0.0
        self.connections = 0
        """How often it came to consume."""
        self.taken = 0
        """Deliveries so far."""
        self.taken_bytes = 0
        """Bytes of their bodies."""
        self.consuming = asyncio.Event()

    def configure(self, settings: Settings, prefetch: Prefetch) -> None:
        """Take other prefetch counts at once, and other settings for the next connection."""
        self._settings, self._prefetch = settings, prefetch
        self._reconfigured.set()

    async def run(self) -> None:
        """Connect, consume, wait for the end, tear down; again with jittered backoff.

        A connection that was HEALTHY is replaced at once: it may be the only one that ended. If
        that fails, or the next one ends early, the backoff begins. It ends after `cancel`.

        Raises BrokerRefused and TopologyError if the very first generation meets them: then the
        configuration is wrong, and an operator is looking.
        """
        await asyncio.to_thread(check, self._settings.urls)  # files are read
        failures, first, pauses = 0, True, self._pauses()
        while not self._stopping:
            generation = Generation(self._settings, self._url, self._clocks, self._gate())
            started = self._clocks.monotonic()
            wait = True
            self._generation = generation
            try:
                await self._live(generation)
                first = False
                if self._clocks.monotonic() - started >= HEALTHY:
                    failures = 0
                    pauses = chain((AT_ONCE * self._clocks.roll(),), self._pauses())
                else:
                    failures += 1  # a generation that ends at once is not a success
            except OSError as error:
                failures += 1
                wait = failures % len(self._settings.urls) == 0  # each is tried before that
                if self._is_due("unreachable"):
                    self._events("broker_unreachable", broker=self.endpoint, error=str(error))
            except (BrokerRefused, TopologyError) as error:
                if first:
                    raise type(error)(f"{self.endpoint}: {error}") from error
                if self._is_due("refused"):
                    self._events("broker_refused", broker=self.endpoint, error=str(error))
                failures += 1
            finally:
                await generation.close()
            self._dials += 1
            if wait and not self._stopping:
                await asyncio.sleep(next(pauses))

    async def _live(self, generation: Generation) -> None:
        """One generation from connect to loss. Raises OSError if it is lost before it is ready."""
        consumers = Consumers(
            generation,
            self._topology,
            self._prefetch.shrunk(self._faults.count),
            self._take,
            self._events,
            clocks=self._clocks,
        )
        try:
            await self._begin(generation, consumers)
            if self._stopping and self._consumers is None:  # it never consumed
                return
            reason = await self._watch(generation, consumers)
        finally:
            self.consuming.clear()
            self._unblocked()
            self._consumers = None
            if not self._stopping:  # after a drain the acks must arrive before it ends
                generation.end("abandoned")  # what is still on its way must not be worked on
            self._on_lost(generation)
            if generation.undeliverable:
                self._faults.add(generation, consumers.untouched, self._clocks.monotonic())
        if learned := learn(self._limits, generation.close_reason):
            setting, value = learned
            self._events("broker_limit", setting=setting, broker_takes=value)
        if not self._stopping:
            self._events("broker_lost", broker=self.endpoint, reason=reason)

    async def _begin(self, generation: Generation, consumers: Consumers) -> None:
        """Connect, declare, consume."""
        try:
            await generation.connect()
            words = weakness(generation.server, self._topology.prefix)
            if words and self._is_news(f"{self.endpoint}: {words}"):
                self._events("broker_vulnerable", broker=self.endpoint, error=words)
            self._no_priorities = ignores_priority(generation.server)
            passive = self._settings.passive
            differs = await declare(self._topology, generation.channel, passive=passive)
            if self._settings.compares and not self._compared:
                differs += await compare(self._topology, generation.channel)
                self._compared = True
            for words in differs:
                if self._is_news(words):
                    self._events("queue_differs", error=words)
            if self._faults.alone:
                await self._set_aside(generation)
            if self._stopping:  # meanwhile
                return
            self._consumers = consumers
            await consumers.open()
        except AccessRefused as error:
            prefix, passive = self._topology.prefix, self._settings.passive
            words = no_access(error, "read on a queue of ours", prefix, passive=passive)
            raise TopologyError(words) from error
        except ChannelClosed as error:
            raise OSError(f"lost while starting: {error!r}") from error
        if not self._stopping:
            self.connections += 1
            self.consuming.set()
            name, prefetch = self._topology.jobs, self._prefetch.jobs
            self._events("ready", broker=self.endpoint, queue=name, prefetch=prefetch)

    def _take(self, delivery: Delivery) -> None:
        """Hand a delivery over. Say at the first job with a priority that the broker ignores it."""
        if delivery.priority and self._no_priorities:
            if self._is_news(self._no_priorities):
                self._events("priority_ignored", broker=self.endpoint, error=self._no_priorities)
            self._no_priorities = ""
        self.taken += 1
        self.taken_bytes += len(delivery.body)
        self._on_delivery(delivery)

    async def _watch(self, generation: Generation, consumers: Consumers) -> str:
        """Wait for the generation's end; end it if a confirm is overdue and nothing excuses it."""
        while not generation.lost.done():
            await self._rest(generation)
            blocked = not generation.lost.done() and generation.blocked
            if blocked and self._blocked_since is None:
                self._blocked_since = self._clocks.monotonic()
                self._events("broker_blocked", broker=self.endpoint)
            elif self._blocked_since is not None and not blocked:
                seconds = round(self._unblocked(), 1)
                self._events("broker_unblocked", seconds=seconds)
                generation.excuse()
            elif not blocked and generation.overdue() > self._settings.confirm_timeout:
                generation.end(f"no confirm within {self._settings.confirm_timeout:g} s")
            await consumers.tick(blocked=blocked or generation.refused)
            self._faults.calm(self._clocks.monotonic())
            await consumers.change(self._prefetch.shrunk(self._faults.count))
            generation.send_acks()
        return generation.lost.result()

    def _unblocked(self) -> float:
        """Note the end of a block. Return how many seconds it lasted."""
        since, self._blocked_since = self._blocked_since, None
        seconds = 0.0 if since is None else self._clocks.monotonic() - since
        self._blocked_time += seconds
        return seconds

    async def _rest(self, generation: Generation) -> None:
        """Wait for the next look at the generation: for a tick, its end or other settings."""
        news = asyncio.ensure_future(self._reconfigured.wait())
        ends: list[asyncio.Future[Any]] = [generation.lost, news]
        first = asyncio.FIRST_COMPLETED
        await asyncio.wait(ends, timeout=TICK_INTERVAL, return_when=first)
        news.cancel()
        self._reconfigured.clear()

    async def _set_aside(self, generation: Generation) -> None:
        """Find the message that the broker cannot deliver, first in its queue by now.

        The broker dead-letters that message unread: from a queue of jobs to `undelivered`, and from
        there to the dead queue.
        """
        topology = self._topology
        for source in self._faults.sources:
            queue = topology.queue(source)
            for _ in range(MAX_SET_ASIDE):
                head = await try_head(generation.another, queue)
                if head.delivered is not None:
                    self._take(self._faults.returned(head.delivered, source))
                if not head.fails:
                    break
                if await reject_head(generation.another, queue):
                    target = topology.dead if source is Source.UNDELIVERED else topology.undelivered
                    self._faults.found()
                    self._events("undeliverable", queue=queue, ready=head.ready, moved_to=target)

    def _is_news(self, words: str) -> bool:
        """Whether this was not said before: what the broker is like is said once."""
        news = words not in self._warned
        self._warned.add(words)
        return news

    def _is_due(self, why: str) -> bool:
        """Whether to say why there is no connection: once in a while for each broker."""
        now, what = self._clocks.monotonic(), (why, self._url)
        due = now - self._said.get(what, -math.inf) >= LOG_INTERVAL
        if due:
            self._said[what] = now
        return due

    def _pauses(self) -> Iterator[float]:
        """Yield the pauses before the next connections, with full jitter but never quite none."""
        settings = self._settings
        for pause in backoff(settings.reconnect_min, settings.reconnect_max, self._clocks.roll):
            yield max(settings.reconnect_min / 2, pause)

    async def cancel(self) -> None:
        """Stop consuming and do not reconnect; in-flight deliveries can still be settled."""
        self._stopping = True
        self.consuming.clear()
        if self._consumers is not None:
            await self._consumers.close()

    @property
    def state(self) -> str:
        """What it does, in words for the status line."""
        if self._consumers is None or not self.consuming.is_set():
            return f"{'no broker' if self._dials else 'not connected yet'} at {self.endpoint}"
        return self._consumers.state

    @property
    def not_ready(self) -> str:
        """Why it is not fed, in words; empty if it is: it consumes, and nothing holds jobs back."""
        consumers = self._consumers
        if consumers is None or not self.consuming.is_set():
            return self.state
        if self.starved:
            return "jobs are ready and there is room, but none comes"
        return "" if consumers.feeds else self.state

    @property
    def starved(self) -> bool:
        """Whether jobs are ready and there is room, but none comes. It should end in seconds."""
        return self._consumers is not None and self._consumers.starved

    @property
    def registered(self) -> bool:
        """Whether the broker counts a consumer of the jobs queue for this process."""
        consumers = self._consumers
        return consumers is not None and self.consuming.is_set() and consumers.mode == "consuming"

    @property
    def consumers(self) -> int:
        """How many consumers are registered."""
        return len(CONSUMES[self._consumers.mode]) if self._consumers is not None else 0

    async def beside(self, gate: Gate, purpose: str = "answer") -> Connection:
        """A connection for what must not touch the jobs; it ends with the present generation.

        Raises OSError, BrokerRefused.
        """
        return (await self.beside_epoch(gate, purpose))[0]

    async def beside_epoch(self, gate: Gate, purpose: str) -> tuple[Connection, Epoch]:
        """Such a connection, and the epoch that it ends with: who reads there can publish in it."""
        generation = self._generation
        if generation is None or not self.consuming.is_set():
            raise Closed("not connected")
        try:
            return await generation.beside(purpose, gate), generation
        except Lost as error:
            raise Closed(str(error)) from error

    async def exists(self, queue: str) -> tuple[bool, Epoch]:
        """Whether a queue exists, and the epoch in which the broker said so. Raises Closed."""
        generation = self._generation
        if generation is None or not self.consuming.is_set():
            raise Closed("not connected")
        try:
            channel = await generation.reading()
            found = await exists(channel, queue)
        except Lost as error:
            raise Closed(str(error)) from error
        if found:
            channel.leave()
        return found, generation

    @property
    def blocked_time(self) -> float:
        """Seconds in all for which the broker blocked publishes."""
        since = self._blocked_since
        return self._blocked_time + (0.0 if since is None else self._clocks.monotonic() - since)

    @property
    def unacked(self) -> int:
        """Deliveries that the broker waits for."""
        return self._generation.unacked if self._generation is not None else 0

    @property
    def unconfirmed(self) -> int:
        """Publishes that wait for the broker's confirm."""
        return self._generation.unconfirmed if self._generation is not None else 0

    async def count(self, queue: str) -> tuple[int, int] | None:
        """Ready messages and consumers of a queue, by the broker's count; None if unknown."""
        if self._generation is None or not self.consuming.is_set():
            return None
        return await self._generation.count(queue)

    @property
    def endpoint(self) -> str:
        """The endpoint of the broker that it is connected to, or tries to reach."""
        return endpoint(self._url)

    @property
    def _url(self) -> str:
        return self._settings.urls[self._dials % len(self._settings.urls)]
