"""The consumers of a generation: from which queues jobs come, how many of each, and when none.

May touch: a generation's consumers and counts, the clocks that it is handed.
Must never: look into a delivery, or settle one.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq.modes import CONSUMES, NEXT, PAUSED
from scraperd.broker.rabbitmq.topology import CLOSE_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.base.clocks import Clocks
    from scraperd.broker.ports import Delivery
    from scraperd.broker.rabbitmq.generation import Consumer, Events, Generation
    from scraperd.broker.rabbitmq.modes import Event, Mode
    from scraperd.broker.rabbitmq.topology import Topology

MAX_SETTLING: Final = 10  # undelivered jobs at a time: each is only published, twice, and acked
COUNT_INTERVAL: Final = 5.0  # seconds between two comparisons with the broker's own counts
MAX_STARVED: Final = 10.0  # seconds in which jobs were ready, there was room, and none came
MAX_IDLE: Final = 60.0  # seconds without any delivery, however many jobs are ready
# Seconds; then no further solo job is taken. Other jobs get as long as all of it took, so a sender
# of solo jobs gets half of the time at most.
MAX_SOLO: Final = 60.0


class Prefetch(Struct, frozen=True):
    """How many unacked deliveries a process holds of the jobs queue, and of the quarantine."""

    jobs: int
    quarantine: int
    undelivered: int = MAX_SETTLING

    @property
    def total(self) -> int:
        """How many a process holds at most."""
        return self.jobs + self.quarantine + self.undelivered

    def shrunk(self, faults: int) -> Prefetch:
        """What is left after so many generations that the broker ended as it delivered.

        A tenth, then one of each queue: a loss counts against all that is unacked.
        """
        if not faults:
            return self
        share = 10 if faults == 1 else math.inf
        counts = (self.jobs, self.quarantine, self.undelivered)
        return Prefetch(*(max(1, int(count / share)) for count in counts))

    def of(self, source: Source) -> int:
        """Return the prefetch count of the consumer of a queue."""
        counts = {
            Source.JOBS: self.jobs,
            Source.QUARANTINE: self.quarantine,
            Source.UNDELIVERED: self.undelivered,
            Source.SOLO: 1,
        }
        return counts[source]


class Consumers:
    """The consumers of one generation, in one of the modes of `modes`.

    `tick` is called about once a second: it finds out which event has happened and enters the mode
    that the table names.
    """

    def __init__(
        self,
        generation: Generation,
        topology: Topology,
        prefetch: Prefetch,
        on_delivery: Callable[[Delivery], None],
        events: Events,
        *,
        clocks: Clocks,
    ) -> None:
        self._generation = generation
        self._topology = topology
        self._prefetch = prefetch
        self._on_delivery = on_delivery
        self._events = events
        self._clocks = clocks
        self._consumers: list[Consumer] = []
        self._changing = asyncio.Lock()
        self._entered_at = self._counted_at = clocks.monotonic()
        self._emptied_at = 0.0  # when this process last stopped taking other jobs
        self._solo_from = 0.0  # no solo job is taken before this time
        self._closing = False
        self._blocked_since = ""
        self.mode: Mode = "consuming"

    async def open(self) -> None:
        """Start consuming, unless the consumers are closed."""
        async with self._changing:
            if self.mode != "closed":
                await self._enter("consuming")

    async def close(self) -> None:
        """Consume nothing more; what was delivered can still be acked.

        If a change that is under way gets no answer, the generation ends.
        """
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._changing.acquire()
        except TimeoutError:
            self.mode = "closed"
            self._generation.end(f"no answer for {CLOSE_TIMEOUT:g} s while consuming should end")
            return
        self._generation.keep_acks()  # also those that come while the broker cancels
        try:
            await self._enter("closed")
        finally:
            self._changing.release()

    async def tick(self, *, blocked: bool) -> None:
        """Look for an event, and enter the next mode if there is one."""
        async with self._changing:
            if self.mode == "closed" or self._generation.lost.done():
                return
            try:
                event = await self._event(blocked=blocked)
                if event is not None:
                    await self._enter(NEXT[self.mode, event])
            except OSError as error:
                self._generation.end(f"changing what is consumed failed: {error!r}")

    async def change(self, prefetch: Prefetch) -> None:
        """Consume with other prefetch counts, which takes new consumers; not now, if it must wait.

        The new consumers get their counts of jobs, whatever the old ones have not acked. So it
        waits until no more is unacked than one of both may have: changes one after the other would
        fill the process.
        """
        async with self._changing:
            most = max(self._prefetch.total, prefetch.total)
            if prefetch == self._prefetch or self._generation.unacked > most:
                return
            self._prefetch = prefetch
            if self.mode == "closed" or self._generation.lost.done():
                return
            try:
                await self._enter(self.mode)
            except OSError as error:
                self._generation.end(f"changing what is consumed failed: {error!r}")

    async def _event(self, *, blocked: bool) -> Event | None:
        """Return what has happened that ends the present mode."""
        if blocked != (self.mode in PAUSED):
            return "blocked" if blocked else "unblocked"
        match self.mode:
            case "consuming" if self._clocks.monotonic() - self._counted_at >= COUNT_INTERVAL:
                return "solo due" if await self._count() else None
            case "emptying" | "leaving" if not self._generation.unacked:
                return "empty"
            case "solo":
                return "solo over" if await self._is_solo_over() else None
        return None

    async def _enter(self, mode: Mode) -> None:
        """Change the mode: cancel all consumers, and register those that the mode has."""
        now, before = self._clocks.monotonic(), self.mode
        self.mode, self._entered_at = mode, now
        if mode in PAUSED:
            since = self._clocks.now().isoformat(timespec="seconds")
            self._blocked_since = since.replace("+00:00", "Z")
        if mode == "emptying":
            self._emptied_at = self._counted_at
        if mode == "consuming":
            self._counted_at = now - COUNT_INTERVAL  # the first count comes soon
            if before == "leaving":
                self._solo_from = now + (now - self._emptied_at)
                self._events("solo_ended")
        while self._consumers:
            await self._generation.cancel(self._consumers.pop())
        for source in CONSUMES[mode]:
            self._consumers.append(await self._register(source))

    async def _count(self) -> bool:
        """Compare the broker's counts with what came here; True if a solo job is due here."""
        self._counted_at = self._clocks.monotonic()
        processes = 1
        for place, consumer in enumerate(self._consumers):
            if self._closing:
                return False
            if (count := await self._generation.count(consumer.queue)) is not None:
                self._compare(consumer, count[0])
                processes = max(processes, count[1])
                if self._counted_at - consumer.idle_from >= MAX_IDLE:
                    self._consumers[place] = await self._again(consumer)
        count = await self._generation.count(self._topology.solo)
        waiting = 0 if count is None else count[0]
        # Each process that takes a solo job empties itself, so of many processes about as many take
        # one as there are solo jobs.
        due = self._counted_at >= self._solo_from and self._clocks.roll() * processes < waiting
        if due:
            self._events("solo_begun", jobs=waiting, unacked=self._generation.unacked)
        return due

    def _compare(self, consumer: Consumer, ready: int) -> None:
        """End the generation if a consumer with free prefetch gets nothing while jobs are ready."""
        hungry = ready and consumer.unacked < consumer.prefetch
        fed = consumer.delivered != consumer.seen
        if fed or consumer.unacked:
            consumer.idle_from = self._counted_at
        if fed or not hungry:
            consumer.seen, consumer.fed_at = consumer.delivered, self._counted_at
        elif (seconds := self._counted_at - consumer.fed_at) >= MAX_STARVED:
            seconds = round(seconds, 1)
            self._events("consumer_starved", queue=consumer.queue, ready=ready, seconds=seconds)
            self._generation.end(f"{ready} jobs are ready and none came for {seconds:g} s")

    async def _again(self, consumer: Consumer) -> Consumer:
        """Register an idle consumer again.

        If the queue dropped only ours, other processes keep it empty, so its count never shows the
        loss. What is on its way is taken as before, until the cancel-ok.
        """
        await self._generation.cancel(consumer)
        return await self._register(consumer.source)

    async def _is_solo_over(self) -> bool:
        """Whether the queue of solo jobs is empty, or other jobs have waited for long enough."""
        count = None
        if not self._generation.unacked:
            count = await self._generation.count(self._topology.solo)
        lasted = self._clocks.monotonic() - self._entered_at
        return lasted > MAX_SOLO or (count is not None and not count[0])

    async def _register(self, source: Source) -> Consumer:
        queue, prefetch = self._topology.queue(source), self._prefetch.of(source)
        return await self._generation.consume(queue, source, prefetch, self._on_delivery)

    @property
    def feeds(self) -> bool:
        """Whether jobs of some queue may come."""
        return self.mode != "closed" and self.mode not in PAUSED

    @property
    def starved(self) -> bool:
        """Whether a consumer with room has got nothing for a while, though jobs were ready."""
        now = self._counted_at
        return any(now - one.fed_at >= MAX_STARVED / 2 for one in self._consumers)

    @property
    def untouched(self) -> tuple[Source, ...]:
        """The queues of this mode from which nothing has come yet."""
        fed = {consumer.source for consumer in self._consumers if consumer.delivered}
        return tuple(source for source in CONSUMES[self.mode] if source not in fed)

    @property
    def tags(self) -> dict[str, str]:
        """The tag of each consumer, by its queue: the broker's own lists name it so."""
        return {consumer.queue: consumer.tag for consumer in self._consumers}

    @property
    def state(self) -> str:
        """What this process consumes, for the status line."""
        match self.mode:
            case "paused" | "solo paused":
                what = "refused" if self._generation.refused else "blocked"
                return f"{what} by the broker since {self._blocked_since}, not consuming"
            case "emptying" | "solo" | "leaving":
                return "consuming jobs that came back, one at a time"
            case "closed":
                return "not consuming"
        return "consuming"
