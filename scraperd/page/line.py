"""One host's line: who may start when, who waits here, and who had better come back later.

May touch: the host's rules and throttle; times are handed in. Pure.
Must never: start two fetches closer together than the host's delay, jitter aside.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scraperd.page.hosts import HostRules
    from scraperd.page.throttle import Throttle

JITTER: Final = (0.5, 1.5)  # of the delay, so that no pattern shows (Scrapy does the same)
CATCH_UP: Final = 0.25  # of a delay: a start this late pushes back none but the very next
EARLY: Final = 0.8  # of the time a fetch is expected to take
BRISK: Final = 0.01  # seconds; a line that moves this fast is not worth leaving
_serial = itertools.count()


@dataclass(order=True, slots=True)
class Waiter:
    """One that waits here. `key` is told of its turn; `at` is the time it was promised."""

    rank: int  # 0, who has begun already, goes before 1
    at: float
    serial: int = field(default_factory=lambda: next(_serial))
    key: Any = field(default=None, compare=False)
    gone: bool = field(default=False, compare=False)


@dataclass(eq=False, slots=True)
class Line:
    """Times are seconds of one monotonic clock. `end` is when the next new place falls due.

    A place in the line is a promise of when to come back, not a right: who is
    here when the host is free goes first. So a place whose owner is late, or
    never comes, costs the host nothing.
    """

    host: str
    rules: HostRules
    throttle: Throttle
    crawl_delay: float = 0.0
    active: int = 0
    next_start: float = 0.0
    penalty: float = 0.0
    end: float = 0.0
    waiters: list[Waiter] = field(default_factory=list)
    waiting: int = 0
    offered: bool = False  # stands among those that only want for a slot

    @property
    def delay(self) -> float:
        """Seconds between two starts: the longest that the config, robots.txt or the host asks."""
        return max(self.rules.delay, self.crawl_delay, self.throttle.delay)

    @property
    def interval(self) -> float:
        """Seconds a place in the line is worth. Rather too few: who comes early keeps it busy."""
        return max(self.delay, EARLY * self.throttle.usual / self.throttle.window)

    @property
    def opens(self) -> float:
        """When the next fetch may start, as far as the clock decides."""
        return max(self.next_start, self.penalty)

    @property
    def full(self) -> bool:
        """Whether as many fetches run as may at once."""
        return self.active >= int(self.throttle.window)

    def may_start(self, now: float) -> bool:
        """Whether a fetch may start this moment."""
        return not self.full and self.opens <= now

    def could_start(self, now: float) -> bool:
        """Whether nothing but a slot is wanting: no delay, and nobody before who is enough."""
        return self.opens <= now and self.active + self.waiting < int(self.throttle.window)

    def start(self, now: float, roll: float) -> None:
        """A fetch starts. `roll` is a random number in [0, 1)."""
        self.active += 1
        if delay := self.delay:
            low, high = JITTER
            planned = max(self.next_start, now - CATCH_UP * delay)
            after = planned + delay * (low + (high - low) * roll)
            self.next_start = max(after, now + delay * low)

    def expect(self, now: float, ahead: int) -> float:
        """When the one behind `ahead` others will start, by all that is known."""
        interval = self.interval
        return max(now, self.opens) + interval * (ahead + self.full)

    def place(self, now: float) -> float:
        """A new place at the end of the line: when it falls due."""
        at = max(self.end, self.expect(now, self.waiting))
        self.end = at + self.interval
        return at

    def punish(self, until: float) -> None:
        """Start nothing before `until`, and promise nothing before it."""
        self.penalty = max(self.penalty, until)
        self.end = max(self.end, self.penalty)

    def join(self, at: float, key: Any, *, urgent: bool) -> Waiter:
        """Wait here."""
        waiter = Waiter(0 if urgent else 1, at, key=key)
        heapq.heappush(self.waiters, waiter)
        self.waiting += 1
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        if not waiter.gone:
            waiter.gone = True
            self.waiting -= 1

    def first(self) -> Waiter:
        """The next to start, no longer waiting. There must be one."""
        while (waiter := heapq.heappop(self.waiters)).gone:
            pass
        self.leave(waiter)
        return waiter

    def impatient(self, now: float, patience: float) -> list[Waiter]:
        """Those whose turn has moved too far off, no longer waiting, first come first."""
        if self.expect(now, self.waiting) - now <= patience:
            return []
        stay: list[Waiter] = []
        go: list[Waiter] = []
        for waiter in sorted(waiter for waiter in self.waiters if not waiter.gone):
            within = patience + (self.delay * JITTER[1] if waiter.rank == 0 else 0.0)
            late = self.expect(now, len(stay)) - now > within
            (go if late else stay).append(waiter)
        for waiter in go:
            self.leave(waiter)
        self.waiters = stay  # sorted is a heap
        return go

    def idle(self, now: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        quiet = not self.active and not self.waiting
        return quiet and max(self.opens, self.end) <= now and self.throttle.calm(now)
