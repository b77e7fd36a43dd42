"""Ends a daemon that was told to end by itself: its queues are empty, or it has begun enough jobs.

May touch: the services, to read; the broker's counts; the loop's time.
Must never: end while a job is in flight here, or while the broker cannot be asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from scraperd.jobs.worker import Worker
    from scraperd.wiring import Services

BEGUN_INTERVAL: Final = 0.05  # seconds between two looks whether the last jobs have begun
LOOK_INTERVAL: Final = 1.0  # seconds between two looks at the queues, at most


class Until(Struct, frozen=True):
    """What ends the daemon besides a signal; None is never.

    `idle`: seconds for which no job is here and none is ready. `jobs`: how many are begun.
    """

    idle: float | None = None
    jobs: int | None = None


class Ending(Struct, frozen=True):
    """Waits for what ends the daemon: `stop`, which a signal sets with its name, or `until`."""

    stop: asyncio.Future[str]
    until: Until

    async def wait(self, services: Services, group: asyncio.TaskGroup) -> str:
        """Return why the daemon is to end."""
        if self.until.jobs is not None:
            services.worker.stop_after(
                self.until.jobs, lambda: group.create_task(self._enough(services.worker))
            )
        if self.until.idle is None:
            return await self.stop
        idle = group.create_task(wait_idle(services, self.until.idle), name="idle")
        idle.add_done_callback(lambda _: self._say("idle"))
        why = await self.stop
        idle.cancel()
        return why

    async def _enough(self, worker: Worker) -> None:
        """End once the last jobs have begun: what still waits at a drain is given back."""
        while worker.waiting:  # noqa: ASYNC110 - each job would have to tell of its first fetch
            await asyncio.sleep(BEGUN_INTERVAL)
        self._say("max_jobs")

    def _say(self, why: str) -> None:
        if not self.stop.done():
            self.stop.set_result(why)


async def wait_idle(services: Services, seconds: float) -> None:
    """Return once the queues that jobs come from were empty for so long, with nothing in flight.

    Jobs in delay queues count once they are back: one that comes back within `seconds` is waited
    for, one that comes later is for the next process.
    """
    loop, interval = asyncio.get_running_loop(), min(LOOK_INTERVAL, seconds / 4)
    topology = services.publisher.addresses.topology
    queues = (topology.jobs, topology.quarantine, topology.solo, topology.undelivered)
    since, done = loop.time(), -1
    while loop.time() - since < seconds:
        counts = [await services.link.count(queue) for queue in queues]
        empty = all(count is not None and not count[0] for count in counts)
        moved = services.observer.tally.ended != done
        if services.worker.in_flight or not empty or moved:
            since, done = loop.time(), services.observer.tally.ended
        await asyncio.sleep(interval)
