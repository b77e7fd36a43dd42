"""One host's queue: who may start when, who waits, and who has to come back later. Pure.

May touch: the host's rules, throttle and address; times and jitter are handed in.
Must never: start two fetches closer together than half the host's delay.

The first row that holds is the queue's state:

| state | while | left by |
| --- | --- | --- |
| EMPTY | no job waits | `join` |
| FULL | as many fetches run as the throttle's window allows | `finish`, a window that grows |
| DELAYED | the host's delay or its pause is not over | time |
| ADDRESS_FULL | as many fetches run as the address allows | `address.finish`, `set_address` |
| READY | only a slot is missing | `start`, `address.start`, `set_address` |

From every state, the last waiter that leaves makes the queue EMPTY, a window that shrinks FULL,
and `pause` DELAYED.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

from scraperd.politeness.addresses import EARLY_RETURN
from scraperd.politeness.throttle import Throttle

if TYPE_CHECKING:
    from scraperd.politeness.addresses import Address
    from scraperd.politeness.host_rules import HostRules

MIN_JITTER: Final = 0.5  # of the delay, at least, between two starts,
MAX_JITTER: Final = 1.5  # and at most: no pattern shows (Scrapy does the same)
MAX_CATCH_UP: Final = 0.25  # of the delay: a start this late pushes back only the next one
MAX_PAUSED_ROUTES: Final = 16  # unusual routes to one host whose pauses are remembered
NO_EXPIRY: Final = float("inf")  # seconds of the clock


class State(Enum):
    """What a queue's next start waits for; the table above says what ends each state."""

    EMPTY = auto()
    FULL = auto()
    DELAYED = auto()
    ADDRESS_FULL = auto()
    READY = auto()


class Wait(Struct, frozen=True):
    """What one fetch asks of its host's queue.

    `urgent`: the job had a permit of this host before. `never_expires`: the job must not
    begin again, so it waits as long as it takes. `reserved_in` is in how many seconds the
    job's reservation falls due, negative once that is past; None without a reservation.
    `route` is how the host is reached, empty for the usual route.
    """

    urgent: bool = False
    never_expires: bool = False
    reserved_in: float | None = None
    route: str = ""

    @property
    def priority(self) -> bool:
        """True if the job may go before the ordinary ones, where a place for that is free."""
        return self.urgent or self.never_expires


@dataclass(eq=False, slots=True)
class Waiter:
    """A job in the queue, to be sent away after `expires_at`; `future` is its owner's own.

    `priority`: it goes before the ordinary jobs.
    """

    wait: Wait
    priority: bool
    expires_at: float
    future: Any
    gone: bool = False


@dataclass(eq=False, slots=True)
class HostQueue:
    """The jobs that wait for one host. Times are seconds of one monotonic clock.

    A reservation is a promise of when to come back, not a right: who is here when
    the host is free goes first. So a reservation whose owner is late, or never
    comes, costs the host nothing.

    A port of its own, or a proxy that the host is not usually asked through, is another
    `route` to it: another user of the machine may be at home there, or the proxy be what
    is refused. A pause that is asked for there holds there. The pace that is asked for
    there counts for the host only until something is known of the usual route, "".

    Priority jobs go first, but not twice in a row while ordinary ones wait: what makes
    a job one of them can be had for nothing (a redirect, a robots.txt), and those who
    have it must not be able to take all of the host.
    """

    host: str
    rules: HostRules
    throttle: Throttle
    crawl_delay: float = 0.0  # seconds that robots.txt asks for
    usual_route_known: bool = False  # asked by the usual route, which alone counts since
    route_pauses: dict[str, float] = field(default_factory=dict)  # until when, by unusual routes
    active: int = 0  # fetches that run
    next_start_at: float = 0.0  # the delay is over
    paused_until: float = 0.0
    next_reservation_at: float = 0.0  # when the next new reservation falls due, at the earliest
    address: Address | None = None  # None if it is not known, or has no limit
    priority_heap: list[tuple[float, int, Waiter]] = field(default_factory=list)  # by due time;
    ordinary_heap: list[tuple[float, int, Waiter]] = field(default_factory=list)  # some are gone
    waiting: int = 0
    priority_waiting: int = 0  # of them
    joined: int = 0  # jobs so far; of two that are due at once, the first to join goes first
    last_was_priority: bool = False  # the last to start was a priority job
    progress_at: float = 0.0  # when a fetch ended last, or the first of those that run started
    in_ready_queue: bool = False  # the scheduler gives it a slot when one is free
    in_address_queue: bool = False  # stands among those that lack only a place at their address

    def configure(
        self, rules: HostRules, max_delay: float, *, autothrottle: bool, now: float
    ) -> None:
        """Take other rules. What was to come after an interval comes after one of now.

        A pause that the host asked for is kept. So is each reservation that was made.
        """
        before = self.interval(now)
        self.rules = rules
        self.crawl_delay = min(self.crawl_delay, max_delay)
        self.throttle.configure(rules.concurrency, max_delay, enabled=autothrottle)
        self.next_start_at = min(self.next_start_at, now + MAX_JITTER * self.delay)
        ahead = self.next_reservation_at - max(now, self.paused_until)
        if ahead > 0 and (after := self.interval(now)) < before:
            self.next_reservation_at -= ahead * (1 - after / before)

    def state(self, now: float) -> State:
        """Say what the next start waits for."""
        if not self.waiting:
            return State.EMPTY
        if self.full:
            return State.FULL
        if self.opens_at > now:
            return State.DELAYED
        return State.ADDRESS_FULL if self.address_full else State.READY

    @property
    def delay(self) -> float:
        """Seconds between two starts: the longest that the config, robots.txt or the host asks."""
        return max(self.rules.delay, self.crawl_delay, self.throttle.delay)

    @property
    def opens_at(self) -> float:
        """When the next fetch may start, as far as the clock decides."""
        return max(self.next_start_at, self.paused_until)

    @property
    def full(self) -> bool:
        """True if as many fetches run as the throttle's window allows."""
        return self.active >= int(self.throttle.window)

    @property
    def address_full(self) -> bool:
        """True if as many fetches run as the address allows, of whichever hosts."""
        return self.address is not None and self.address.full(self.rules.concurrency)

    def may_start(self, now: float) -> bool:
        """True if a fetch may start this moment."""
        return not self.full and self.opens_at <= now and not self.address_full

    def lacks_only_a_slot(self, now: float) -> bool:
        """True if a new job could start at once with those before it, were there slots for all."""
        if self.opens_at > now or self.active + self.waiting >= int(self.throttle.window):
            return False
        at = self.address
        return at is None or at.active + at.waiting < max(at.limit, self.rules.concurrency)

    def latency(self, now: float) -> float:
        """Seconds a fetch may be expected to last: as long as a silent host has been silent."""
        silence = now - self.progress_at if self.active else 0.0
        return max(self.throttle.expected_latency, silence)

    def interval(self, now: float) -> float:
        """Seconds between two reservations. Too few rather than too many: early jobs do no harm."""
        own = max(self.delay, EARLY_RETURN * self.latency(now) / self.throttle.window)
        if self.address is None or not self.address_full:
            return own
        queues = max(1, len(self.address.queues))  # which get its places in turn
        return max(own, queues * self.address.interval(now, self.throttle.expected_latency))

    def paced_by_delay(self, now: float) -> bool:
        """True if the delay sets the pace, rather than how many fetches may run at once."""
        return self.delay >= self.latency(now) / self.throttle.window

    def set_crawl_delay(self, seconds: float, route: str = "") -> None:
        """Keep what the robots.txt by this route asks, if it counts."""
        if not route and not self.usual_route_known:
            old = self.throttle
            self.throttle = Throttle(old.limit, old.max_delay, old.enabled)
        if self.speaks_for_host(route):
            self.crawl_delay, self.usual_route_known = seconds, not route

    def speaks_for_host(self, route: str) -> bool:
        """True if answers by this route say how the host itself is."""
        return not route or not self.usual_route_known

    def set_address(self, address: Address | None) -> None:
        """Keep the address that the next fetches will be from: what the name was found to be."""
        if address is self.address:
            return
        if self.address is not None:
            self.address.waiting -= self.waiting
        if address is not None:
            address.waiting += self.waiting
        self.address = address

    def pause(self, until: float, route: str = "") -> None:
        """Start nothing before `until`, and promise nothing before it; or nothing by this route."""
        if route:
            self.route_pauses[route] = until
            if len(self.route_pauses) > MAX_PAUSED_ROUTES:
                del self.route_pauses[min(self.route_pauses, key=self.route_pauses.__getitem__)]
            return
        self.paused_until = max(self.paused_until, until)
        self.next_reservation_at = max(self.next_reservation_at, self.paused_until)

    def route_pause(self, route: str, now: float) -> float:
        """Seconds for which no fetch may start by this route, whatever the state; 0 if any may."""
        return max(0.0, self.route_pauses.get(route, now) - now)

    def start(self, now: float, jitter: float, *, priority: bool = False) -> None:
        """A fetch starts. `jitter` is a random number in [0, 1)."""
        self.last_was_priority = priority
        if not self.active:
            self.progress_at = now
        self.active += 1
        if self.address is not None:
            self.address.start(now)
        if delay := self.delay:
            planned = max(self.next_start_at, now - MAX_CATCH_UP * delay)
            after = planned + delay * (MIN_JITTER + (MAX_JITTER - MIN_JITTER) * jitter)
            self.next_start_at = max(after, now + delay * MIN_JITTER)

    def finish(self, now: float) -> None:
        """A fetch has ended."""
        self.active -= 1
        self.progress_at = now

    def ahead(self) -> int:
        """How many start before an ordinary job that joins now."""
        ordinary = self.waiting - self.priority_waiting
        return ordinary + self._priority_ahead(ordinary, self.priority_waiting)

    def _priority_ahead(self, ordinary: int, priority: int) -> int:
        """How many priority jobs start before the one behind so many ordinary ones."""
        return min(priority, ordinary + (not self.last_was_priority))

    def expected_start(self, now: float, ahead: int) -> float:
        """When the job behind `ahead` others will start, by all that is known."""
        behind = self.full or self.address_full
        return max(now, self.opens_at) + self.interval(now) * (ahead + behind)

    def reservation(self, now: float) -> float:
        """When a new reservation falls due: behind all that were made, and all who wait."""
        due_at = max(self.next_reservation_at, self.expected_start(now, self.ahead()))
        if self.address is not None and self.address_full:
            due_at = max(due_at, self.address.reservation(now))
        return due_at

    def reserve(self, now: float) -> None:
        """Promise that reservation to a job: the next one falls due an interval later."""
        due_at = self.reservation(now)
        if self.address is not None and self.address_full:
            self.address.reserve(now, self.throttle.expected_latency)
        self.next_reservation_at = due_at + self.interval(now)

    def join(
        self,
        wait: Wait,
        due_at: float,
        *,
        priority: bool = False,
        expires_at: float = NO_EXPIRY,
        future: Any = None,
    ) -> Waiter:
        """Wait here, among the priority jobs or the ordinary ones, by the time that is due."""
        waiter = Waiter(wait, priority, expires_at, future)
        self.joined += 1
        heap = self.priority_heap if priority else self.ordinary_heap
        heapq.heappush(heap, (due_at, self.joined, waiter))
        self._count(1, priority=priority)
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no longer."""
        if not waiter.gone:
            waiter.gone = True
            self._count(-1, priority=waiter.priority)

    def _count(self, change: int, *, priority: bool) -> None:
        self.waiting += change
        self.priority_waiting += change * priority
        if self.address is not None:
            self.address.waiting += change

    def pop_next(self) -> Waiter:
        """Take out the job that starts next. There must be one."""
        ordinary = self.waiting > self.priority_waiting
        priority = self.priority_waiting > 0 and not (ordinary and self.last_was_priority)
        heap = self.priority_heap if priority else self.ordinary_heap
        while (waiter := heapq.heappop(heap)[2]).gone:
            pass
        self.leave(waiter)
        return waiter

    def pop_expired(self, now: float, max_wait: float) -> list[Waiter]:
        """Take out those whose route is paused, or who wait too long or would have to.

        A job waits too long after its `expires_at`; it would have to if its start is more
        than `max_wait` seconds away, for a priority job a delay more.
        """
        waiters = (*_remaining(self.priority_heap), *_remaining(self.ordinary_heap))
        paused = [waiter for waiter in waiters if self.route_pause(waiter.wait.route, now)]
        for waiter in paused:
            self.leave(waiter)
        late = self._late(now, max_wait)
        for waiter in late:
            self.leave(waiter)
        self.priority_heap = _compact(self.priority_heap)
        self.ordinary_heap = _compact(self.ordinary_heap)
        return paused + late

    def _late(self, now: float, max_wait: float) -> list[Waiter]:
        priority, ordinary = _remaining(self.priority_heap), _remaining(self.ordinary_heap)
        if self.expected_start(now, self.waiting) - now <= max_wait:
            return [waiter for waiter in (*priority, *ordinary) if waiter.expires_at <= now]
        longer = max_wait + self.delay * MAX_JITTER
        late = [w for n, w in enumerate(priority) if self._is_late(w, n, now, longer)]
        stay = len(priority) - len(late)
        for n, waiter in enumerate(ordinary):
            if self._is_late(waiter, n + self._priority_ahead(n, stay), now, max_wait):
                late.append(waiter)
        return late

    def _is_late(self, waiter: Waiter, ahead: int, now: float, max_wait: float) -> bool:
        late = waiter.expires_at <= now or self.expected_start(now, ahead) - now > max_wait
        return late and not waiter.wait.never_expires

    def evictable(self, now: float) -> bool:
        """True if a fresh queue would do as well, so that this one can be forgotten."""
        unused = not self.active and not self.waiting
        over = max(self.opens_at, self.next_reservation_at, *self.route_pauses.values()) <= now
        return unused and over and self.throttle.evictable(now)


def _compact(heap: list[tuple[float, int, Waiter]]) -> list[tuple[float, int, Waiter]]:
    """Drop those that are gone; the rest is sorted, which makes it a heap too."""
    return sorted(entry for entry in heap if not entry[2].gone)


def _remaining(heap: list[tuple[float, int, Waiter]]) -> list[Waiter]:
    """List those that still wait, by due time."""
    return [entry[2] for entry in _compact(heap)]
