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
FOREVER: Final = float("inf")
_serial = itertools.count()


@dataclass(eq=False, slots=True)
class Waiter:
    """One that waits here. `key` is told of its turn; past `until` it is not to wait any more.

    A `patient` one is never sent away.
    """

    key: Any
    until: float
    begun: bool
    patient: bool
    gone: bool = False


@dataclass(eq=False, slots=True)
class Line:
    """Times are seconds of one monotonic clock. `tail` is when the next new place falls due.

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
    tail: float = 0.0
    waiters: list[tuple[bool, float, int, Waiter]] = field(default_factory=list)
    waiting: int = 0
    begun_waiting: int = 0  # of them, those that have begun already
    progress: float = 0.0  # when a fetch ended last, or the first of those that run was started
    offered: bool = False  # stands among those that only want for a slot

    @property
    def delay(self) -> float:
        """Seconds between two starts: the longest that the config, robots.txt or the host asks."""
        return max(self.rules.delay, self.crawl_delay, self.throttle.delay)

    def latency(self, now: float) -> float:
        """Seconds a fetch may be expected to last; as long as a silent host has been silent."""
        return max(self.throttle.usual, now - self.progress if self.active else 0.0)

    def interval(self, now: float) -> float:
        """Seconds a place in the line is worth. Rather too few: who comes early keeps it busy."""
        return max(self.delay, EARLY * self.latency(now) / self.throttle.window)

    def paced(self, now: float) -> bool:
        """Whether the delay sets its pace, rather than how many fetches may run at once."""
        return self.delay >= self.latency(now) / self.throttle.window

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
        if not self.active:
            self.progress = now
        self.active += 1
        if delay := self.delay:
            low, high = JITTER
            planned = max(self.next_start, now - CATCH_UP * delay)
            after = planned + delay * (low + (high - low) * roll)
            self.next_start = max(after, now + delay * low)

    def end(self, now: float) -> None:
        """A fetch has ended."""
        self.active -= 1
        self.progress = now

    def expect(self, now: float, ahead: int) -> float:
        """When the one behind `ahead` others will start, by all that is known."""
        return max(now, self.opens) + self.interval(now) * (ahead + self.full)

    def place(self, now: float) -> float:
        """A new place at the end of the line: when it falls due."""
        at = max(self.tail, self.expect(now, self.waiting))
        self.tail = at + self.interval(now)
        return at

    def punish(self, until: float) -> None:
        """Start nothing before `until`, and promise nothing before it."""
        self.penalty = max(self.penalty, until)
        self.tail = max(self.tail, self.penalty)

    def join(
        self, at: float, key: Any, *, urgent: bool, patient: bool = False, until: float = FOREVER
    ) -> Waiter:
        """Wait here: after those that have begun, and by the time that was promised."""
        waiter = Waiter(key, until, urgent, patient)
        heapq.heappush(self.waiters, (not urgent, at, next(_serial), waiter))
        self.waiting += 1
        self.begun_waiting += urgent
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        if not waiter.gone:
            waiter.gone = True
            self.waiting -= 1
            self.begun_waiting -= waiter.begun

    def first(self) -> Waiter:
        """The next to start, no longer waiting. There must be one."""
        while (waiter := heapq.heappop(self.waiters)[3]).gone:
            pass
        self.leave(waiter)
        return waiter

    def impatient(self, now: float, patience: float) -> list[Waiter]:
        """Those who have waited too long or would have to, no longer waiting; the first first."""
        stay = [entry for entry in sorted(self.waiters) if not entry[3].gone]
        if self.expect(now, self.waiting) - now <= patience:
            go = [entry[3] for entry in stay if entry[3].until <= now]
        else:
            go = [
                entry[3]
                for place, entry in enumerate(stay)
                if self._late(entry[3], place, now, patience)
            ]
        for waiter in go:
            self.leave(waiter)
        self.waiters = [entry for entry in stay if not entry[3].gone]  # sorted: a heap
        return go

    def _late(self, waiter: Waiter, place: int, now: float, patience: float) -> bool:
        within = patience + (self.delay * JITTER[1] if waiter.begun else 0.0)
        late = waiter.until <= now or self.expect(now, place) - now > within
        return late and not waiter.patient

    def idle(self, now: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        quiet = not self.active and not self.waiting
        return quiet and max(self.opens, self.tail) <= now and self.throttle.calm(now)
