"""One host's line: who may start when, who waits here, and who had better come back later.

May touch: the host's rules, throttle and address; times are handed in. Pure.
Must never: start two fetches closer together than the host's delay, jitter aside.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from scraperd.politeness.addresses import EARLY
from scraperd.politeness.throttle import Throttle

if TYPE_CHECKING:
    from scraperd.politeness.addresses import Address
    from scraperd.politeness.host_rules import HostRules

JITTER: Final = (0.5, 1.5)  # of the delay, so that no pattern shows (Scrapy does the same)
CATCH_UP: Final = 0.25  # of a delay: a start this late pushes back none but the very next
BRISK: Final = 0.01  # seconds; a line that moves this fast is not worth leaving
FOREVER: Final = float("inf")
WAYS: Final = 16  # of one host, whose wish for no fetch is kept
_serial = itertools.count()


@dataclass(eq=False, slots=True)
class Waiter:
    """One that waits here. `key` is told of its turn; past `until` it is not to wait any more.

    One that has `begun` may go before the others. A `patient` one is never sent away, but
    where its `way` is barred.
    """

    key: Any
    until: float
    begun: bool
    patient: bool
    way: str = ""
    gone: bool = False


@dataclass(eq=False, slots=True)
class Line:
    """Times are seconds of one monotonic clock. `tail` is when the next new place falls due.

    A place in the line is a promise of when to come back, not a right: who is
    here when the host is free goes first. So a place whose owner is late, or
    never comes, costs the host nothing.

    What is at a port of its own, or behind a proxy that the host is not usually
    asked through, is another `way` to it: another user of the machine may be at
    home there, or the proxy be what is refused. What is said there holds there;
    of the host it counts only as long as nothing is known of the usual way, "".

    Those that have begun go first, but not twice in a row while others wait: what
    makes a job one of them can be had for nothing (a redirect, a robots.txt), and
    those who have it must not be able to take all of the host.
    """

    host: str
    rules: HostRules
    throttle: Throttle
    crawl_delay: float = 0.0
    at_home: bool = False  # it has been asked by the usual way, which alone counts since
    barred: dict[str, float] = field(default_factory=dict)  # until when, by other ways
    active: int = 0
    next_start: float = 0.0
    penalty: float = 0.0
    tail: float = 0.0
    address: Address | None = None  # None if it is not known, or has no limit
    begun: list[tuple[float, int, Waiter]] = field(default_factory=list)  # heaps, and in them
    others: list[tuple[float, int, Waiter]] = field(default_factory=list)  # some that have left
    waiting: int = 0
    begun_waiting: int = 0  # of them, those that have begun already
    was_begun: bool = False  # the last to start had begun already
    progress: float = 0.0  # when a fetch ended last, or the first of those that run was started
    offered: bool = False  # stands among those that only want for a slot
    held_up: bool = False  # stands among those that only want for a place at their address

    @property
    def delay(self) -> float:
        """Seconds between two starts: the longest that the config, robots.txt or the host asks."""
        return max(self.rules.delay, self.crawl_delay, self.throttle.delay)

    def latency(self, now: float) -> float:
        """Seconds a fetch may be expected to last; as long as a silent host has been silent."""
        return max(self.throttle.usual, now - self.progress if self.active else 0.0)

    def interval(self, now: float) -> float:
        """Seconds a place in the line is worth. Rather too few: who comes early keeps it busy."""
        own = max(self.delay, EARLY * self.latency(now) / self.throttle.window)
        if self.address is None or not self.crowded_out:
            return own
        lines = max(1, len(self.address.lines))  # which get its places in turn
        return max(own, lines * self.address.interval(now, self.throttle.usual))

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

    @property
    def crowded_out(self) -> bool:
        """Whether as many fetches run as may at its address, of whichever hosts."""
        return self.address is not None and self.address.full(self.rules.concurrency)

    def may_start(self, now: float) -> bool:
        """Whether a fetch may start this moment."""
        return not self.full and self.opens <= now and not self.crowded_out

    def could_start(self, now: float) -> bool:
        """Whether nothing but a slot is wanting: no delay, and nobody before who is enough."""
        if self.opens > now or self.active + self.waiting >= int(self.throttle.window):
            return False
        at = self.address
        return at is None or at.active + at.waiting < max(at.limit, self.rules.concurrency)

    def ask(self, delay: float, way: str = "") -> None:
        """Keep what the robots.txt by this way asks, in seconds, if it counts."""
        if not way and not self.at_home:
            old = self.throttle
            self.throttle = Throttle(old.limit, old.longest, old.enabled)
        if self.judged(way):
            self.crawl_delay, self.at_home = delay, not way

    def bar(self, way: str, now: float) -> float:
        """For how many seconds no fetch may start by this way, whatever the line is like."""
        return max(0.0, self.barred.get(way, now) - now)

    def judged(self, way: str) -> bool:
        """Whether what comes back by this way says how the host itself is."""
        return not way or not self.at_home

    def locate(self, address: Address | None) -> None:
        """Its fetches will be from this address: what the name was found to be."""
        if address is self.address:
            return
        if self.address is not None:
            self.address.waiting -= self.waiting
        if address is not None:
            address.waiting += self.waiting
        self.address = address

    def start(self, now: float, roll: float, *, begun: bool = False) -> None:
        """A fetch starts, of a job that had `begun`. `roll` is a random number in [0, 1)."""
        self.was_begun = begun
        if not self.active:
            self.progress = now
        self.active += 1
        if self.address is not None:
            self.address.start(now)
        if delay := self.delay:
            low, high = JITTER
            planned = max(self.next_start, now - CATCH_UP * delay)
            after = planned + delay * (low + (high - low) * roll)
            self.next_start = max(after, now + delay * low)

    def end(self, now: float) -> None:
        """A fetch has ended."""
        self.active -= 1
        self.progress = now

    def ahead(self) -> int:
        """How many start before one that joins now and has not begun."""
        others = self.waiting - self.begun_waiting
        return others + self._between(others, self.begun_waiting)

    def _between(self, others: int, begun: int) -> int:
        """How many of those that have begun start before the one behind so many others."""
        return min(begun, others + (not self.was_begun))

    def expect(self, now: float, ahead: int) -> float:
        """When the one behind `ahead` others will start, by all that is known."""
        behind = self.full or self.crowded_out
        return max(now, self.opens) + self.interval(now) * (ahead + behind)

    def place(self, now: float) -> float:
        """A new place at the end of the line: when it falls due."""
        at = max(self.tail, self.expect(now, self.ahead()))
        if self.address is not None and self.crowded_out:
            at = max(at, self.address.place(now, self.throttle.usual))
        self.tail = at + self.interval(now)
        return at

    def punish(self, until: float, way: str = "") -> None:
        """Start nothing before `until`, and promise nothing before it; or nothing by this way."""
        if way:
            self.barred.pop(way, None)
            self.barred[way] = until
            if len(self.barred) > WAYS:
                del self.barred[min(self.barred, key=self.barred.__getitem__)]
            return
        self.penalty = max(self.penalty, until)
        self.tail = max(self.tail, self.penalty)

    def join(
        self,
        at: float,
        key: Any,
        *,
        begun: bool,
        patient: bool = False,
        until: float = FOREVER,
        way: str = "",
    ) -> Waiter:
        """Wait here, among those that have begun or the others, by the time that was promised."""
        waiter = Waiter(key, until, begun, patient, way)
        heapq.heappush(self.begun if begun else self.others, (at, next(_serial), waiter))
        self._count(1, begun=begun)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        if not waiter.gone:
            waiter.gone = True
            self._count(-1, begun=waiter.begun)

    def _count(self, change: int, *, begun: bool) -> None:
        self.waiting += change
        self.begun_waiting += change * begun
        if self.address is not None:
            self.address.waiting += change

    def first(self) -> Waiter:
        """The next to start, no longer waiting. There must be one."""
        others = self.waiting > self.begun_waiting
        begun = self.begun_waiting > 0 and not (others and self.was_begun)
        heap = self.begun if begun else self.others
        while (waiter := heapq.heappop(heap)[2]).gone:
            pass
        self.leave(waiter)
        return waiter

    def impatient(self, now: float, patience: float) -> list[Waiter]:
        """Those who have waited too long or would have to, no longer waiting."""
        go = [w for w in (*_still(self.begun), *_still(self.others)) if self.bar(w.way, now)]
        for waiter in go:
            self.leave(waiter)
        return go + self._impatient(now, patience)

    def _impatient(self, now: float, patience: float) -> list[Waiter]:
        begun, others = _still(self.begun), _still(self.others)
        if self.expect(now, self.waiting) - now <= patience:
            go = [waiter for waiter in (*begun, *others) if waiter.until <= now]
        else:
            far = patience + self.delay * JITTER[1]
            go = [w for n, w in enumerate(begun) if self._late(w, n, now, far)]
            stay = len(begun) - len(go)
            for n, waiter in enumerate(others):
                if self._late(waiter, n + self._between(n, stay), now, patience):
                    go.append(waiter)
        for waiter in go:
            self.leave(waiter)
        self.begun, self.others = _compact(self.begun), _compact(self.others)
        return go

    def _late(self, waiter: Waiter, ahead: int, now: float, patience: float) -> bool:
        late = waiter.until <= now or self.expect(now, ahead) - now > patience
        return late and not waiter.patient

    def idle(self, now: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        quiet = not self.active and not self.waiting
        over = max(self.opens, self.tail, *self.barred.values()) <= now
        return quiet and over and self.throttle.calm(now)


def _compact(heap: list[tuple[float, int, Waiter]]) -> list[tuple[float, int, Waiter]]:
    """Those that have not left; sorted, which makes it a heap too."""
    return sorted(entry for entry in heap if not entry[2].gone)


def _still(heap: list[tuple[float, int, Waiter]]) -> list[Waiter]:
    return [entry[2] for entry in _compact(heap)]
