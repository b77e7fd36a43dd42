"""Intake: from which queues a process takes jobs, how many of each, and when from none.

May touch: a generation's consumers and counts, the loop's clock.
Must never: look into a delivery, or settle one.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from scraperd.base.tasks import reraise_own_cancel
from scraperd.broker.ports import Source
from scraperd.broker.rabbitmq.generation import CLOSE_TIMEOUT, LOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.broker.ports import Delivery
    from scraperd.broker.rabbitmq.generation import Consumer, Events, Generation
    from scraperd.broker.rabbitmq.topology import Topology

SETTLING: Final = 10  # undelivered jobs at a time: each is only published, twice, and acked
LOOK_EVERY: Final = 5.0  # seconds between two comparisons with the broker's own counts
STARVED_AFTER: Final = 10.0  # seconds in which jobs were ready, there was room, and none came
IDLE_AT_MOST: Final = 60.0  # seconds without any delivery, whatever is ready
SOLO_AT_MOST: Final = 60.0  # seconds; then no further one is taken. Other jobs get as long as all
# of it took, so that whoever sends such jobs has half of the time at most

Mode: TypeAlias = Literal["consuming", "paused", "emptying", "solo", "leaving", "closed"]


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many unacked deliveries a process holds of the jobs queue, and of the quarantine."""

    prefetch: int
    few: int


class Intake:
    """The consumers of one generation. `tick` is called about once a second.

    Jobs of the quarantine run a few at a time beside all others. Those of `solo` run alone: the
    process first empties itself of all it holds, because a crash counts against every delivery that
    is unacked (docs/decisions/0016-quarantine.md).
    """

    def __init__(
        self,
        generation: Generation,
        topology: Topology,
        lanes: Lanes,
        on_delivery: Callable[[Delivery], None],
        events: Events,
    ) -> None:
        self._generation = generation
        self._topology = topology
        self._lanes = lanes
        self._on_delivery = on_delivery
        self._events = events
        self._consumers: list[Consumer] = []
        self._changing = asyncio.Lock()
        self._since = self._looked = time.monotonic()
        self._emptied_from = 0.0  # when it last stopped to take all others
        self._solo_from = 0.0  # not before this
        self._paused: Mode = "consuming"  # what it was doing before
        self._closing = False
        self.paused_at: datetime | None = None
        self.mode: Mode = "consuming"

    async def open(self) -> None:
        """Consume jobs, a few of the quarantine, and what was dead-lettered, unless closed."""
        async with self._changing:
            if self.mode != "closed":
                await self._open()

    async def _open(self) -> None:
        self._enter("consuming")
        self._looked = time.monotonic() - LOOK_EVERY  # the first time soon
        # In this order: answers to the second come behind all that the first is delivered.
        await self._consume(Source.QUARANTINE, self._lanes.few)
        await self._consume(Source.UNDELIVERED, SETTLING)
        await self._consume(Source.JOBS, self._lanes.prefetch)

    async def close(self) -> None:
        """Take nothing more; what was delivered can still be acked.

        If a change that is under way gets no answer, the generation ends.
        """
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._changing.acquire()
        except TimeoutError:
            self._enter("closed")
            self._generation.end(f"no answer for {CLOSE_TIMEOUT:g} s while consuming should end")
            return
        try:
            self._enter("closed")
            await self._stop()
            self._generation.keep_acks()
        finally:
            self._changing.release()

    async def tick(self, *, blocked: bool) -> None:
        """Look at how things are, and change what is consumed accordingly."""
        async with self._changing:
            if self.mode == "closed" or self._generation.lost.done():
                return
            try:
                if blocked != (self.mode == "paused"):
                    await (self._pause() if blocked else self._resume())
                else:
                    await self._go_on()
            except LOST as error:
                reraise_own_cancel(error)
                self._generation.end(f"changing what is consumed failed: {error!r}")

    async def _go_on(self) -> None:
        """The next step of the mode it is in, if it is time."""
        match self.mode:
            case "consuming" if time.monotonic() - self._looked >= LOOK_EVERY:
                await self._look()
            case "emptying" if not self._generation.unacked:
                self._enter("solo")
                await self._consume(Source.SOLO, 1)
            case "solo":
                await self._leave_solo()
            case "leaving" if not self._generation.unacked:
                self._solo_from = time.monotonic() + (time.monotonic() - self._emptied_from)
                self._events("solo_ended")
                await self._open()

    async def _pause(self) -> None:
        """A job that is taken now could not be settled."""
        self._paused = self.mode
        self._enter("paused")
        self.paused_at = datetime.now(UTC)
        await self._stop()

    async def _resume(self) -> None:
        """What ran alone still does: nothing may be put beside it."""
        if self._paused in ("solo", "leaving"):
            self._enter("leaving")
        else:
            await self._open()

    async def _look(self) -> None:
        """Compare the broker's counts with what came here, and see if a job is to be alone."""
        self._looked = time.monotonic()
        processes = 1
        for place, consumer in enumerate(self._consumers):
            if self._closing:
                return
            if (count := await self._generation.count(consumer.queue)) is not None:
                self._compare(consumer, count[0])
                processes = max(processes, count[1])
                if self._looked - consumer.idle_from >= IDLE_AT_MOST:
                    self._consumers[place] = await self._again(consumer)
        solo = await self._generation.count(self._topology.solo)
        waiting = 0 if solo is None else solo[0]
        # Of many processes about as many as there are such jobs: each empties itself for it.
        if self._looked >= self._solo_from and random.random() * processes < waiting:  # noqa: S311
            self._events("solo_begun", jobs=waiting, unacked=self._generation.unacked)
            self._emptied_from = self._looked
            self._enter("emptying")
            await self._stop()

    def _compare(self, consumer: Consumer, ready: int) -> None:
        """A consumer that has room and gets nothing while jobs are ready is none any more."""
        hungry = ready and consumer.unacked < consumer.prefetch
        fed = consumer.delivered != consumer.seen
        if fed or consumer.unacked:
            consumer.idle_from = self._looked
        if fed or not hungry:
            consumer.seen, consumer.fed_at = consumer.delivered, self._looked
        elif (seconds := self._looked - consumer.fed_at) >= STARVED_AFTER:
            seconds = round(seconds, 1)
            self._events("consumer_starved", queue=consumer.queue, ready=ready, seconds=seconds)
            self._generation.end(f"{ready} jobs are ready and none came for {seconds:g} s")

    async def _again(self, consumer: Consumer) -> Consumer:
        """Register anew: a queue that forgot one of many consumers leaves no job ready to tell it.

        What may be on its way is taken as before, until the cancel-ok.
        """
        await self._generation.cancel(consumer)
        return await self._register(consumer.source, consumer.prefetch)

    async def _leave_solo(self) -> None:
        """End it once the queue is empty, or other jobs have waited for long enough."""
        count = None
        if not self._generation.unacked:
            count = await self._generation.count(self._topology.solo)
        if self._lasted() > SOLO_AT_MOST or (count is not None and not count[0]):
            self.mode = "leaving"  # it still counts as time alone
            await self._stop()

    def _enter(self, mode: Mode) -> None:
        self.mode, self._since = mode, time.monotonic()

    def _lasted(self) -> float:
        return time.monotonic() - self._since

    async def _consume(self, source: Source, prefetch: int) -> None:
        self._consumers.append(await self._register(source, prefetch))

    async def _register(self, source: Source, prefetch: int) -> Consumer:
        queue = self._topology.queue(source)
        return await self._generation.consume(queue, source, prefetch, self._on_delivery)

    async def _stop(self) -> None:
        while self._consumers:
            await self._generation.cancel(self._consumers.pop())

    @property
    def state(self) -> str:
        """What it does, for the status line."""
        match self.mode:
            case "paused" if self.paused_at is not None:
                since = self.paused_at.isoformat(timespec="seconds").replace("+00:00", "Z")
                return f"blocked by the broker since {since}, not consuming"
            case "emptying" | "solo" | "leaving":
                return "consuming jobs that came back, one at a time"
            case "closed":
                return "not consuming"
        return "consuming"
