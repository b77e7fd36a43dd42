"""What holds the daemon back, as a share of time: CPU, slots, hosts, memory, the broker, no jobs.

May touch: the services, to read; the loop's time and its thread's CPU time.
Must never: change what happens, or take more than a thousandth of the CPU.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scraperd.wiring import Services

INTERVAL: Final = 0.25  # seconds between two looks
RECENT: Final = 240  # looks that the status line tells of: a minute
BUSY: Final = 0.9  # of a look's time on the processor: the loop has nothing left to give
SHOWN: Final = 0.1  # of the time; what holds it back for less is not in the status line
NOTHING: Final = "nothing"  # it keeps up with what comes

# In this order: the first that holds is what would have to be changed first.
LIMITS: Final = {
    "broker": "no consumer: the broker is away, or blocks",
    "cpu": "the event loop takes all of a processor: run another process",
    "empty": "no job is here: the queue has no more",
    "concurrency": "as many pages are fetched as may be: raise concurrency",
    "memory": "bodies wait for fetch.memory_budget",
    "sandbox": "pages wait for a helper process: raise sandbox.processes, or look at the rules",
    "confirms": "most jobs wait for the broker's confirm",
    "hosts": "jobs wait for their hosts' turns",
    NOTHING: "it keeps up",
}


class Bottleneck:
    """Looks four times a second. `run` is a service of the daemon.

    `seconds` has the time for which each of LIMITS held since the start.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._recent: deque[str] = deque(maxlen=RECENT)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    async def run(self) -> None:
        """Look until cancelled."""
        at, used = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(INTERVAL)
            then, spent = at, used
            at, used = time.monotonic(), time.thread_time()
            limit = self.look((used - spent) / max(at - then, 1e-6))
            self._recent.append(limit)
            self.seconds[limit] += at - then

    def look(self, load: float) -> str:
        """Return what holds the daemon back now; `load` is the loop's share of a processor."""
        services, pages = self._services, self._services.pages
        worker, scheduler = services.worker, pages.hops.scheduler
        holds = {
            "broker": services.link.not_ready,
            "cpu": load >= BUSY,
            "empty": not worker.in_flight,
            "concurrency": scheduler.busy >= scheduler.slots,
            "memory": pages.budget.waiting,
            "sandbox": pages.extractor.crowded,
            "confirms": worker.settling * 2 > worker.in_flight,
            "hosts": scheduler.ordinary_waiting,
        }
        return next((limit for limit in LIMITS if holds.get(limit)), NOTHING)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the last minute for which each of LIMITS held, the largest first."""
        found = Counter(self._recent).most_common()
        return {limit: round(count / len(self._recent), 3) for limit, count in found}

    @property
    def state(self) -> str:
        """What held it back in the last minute, in words for the status line; perhaps empty."""
        found = Counter(self._recent)
        shares = [
            f"{limit} {round(100 * count / len(self._recent))} %"
            for limit, count in found.most_common()
            if limit != NOTHING and count >= SHOWN * len(self._recent)
        ]
        return f"limited by {', '.join(shares)}" if shares else ""
