"""Whether one fetch may start now, waits here, or has to come back later. Pure.

May touch: a host's queue and the process's capacity, to read; times are handed in.
Must never: change what it reads: the scheduler carries out what it returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from scraperd.politeness.host_queue import MAX_JITTER, NO_EXPIRY

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.politeness.host_queue import HostQueue, Wait

MAX_UNSEARCHED: Final = 128  # pages that are here but not searched yet, before they count
MIN_SNOOZE_INTERVAL: Final = 0.01  # seconds between starts; a faster queue is not worth leaving


@dataclass(slots=True)
class Capacity:
    """What the process has room for. The scheduler keeps the counts.

    `slots` fetches may run at once, and `busy` run; more, if there were more slots a moment ago.
    `unsearched` tells how many pages wait to be searched on the event loop. Where they are many,
    sites answer faster than this process can search, and each holds a slot as if it were still
    being fetched: else bodies would fill the memory, up to the prefetch.

    Ordinary jobs that wait for their hosts may be `max_waiting`, so that those of other hosts
    can be delivered. Priority jobs have places of their own: `max_priority`, of which one
    host has half at most. A job may wait for `max_wait` seconds, one that never expires
    for `job_timeout` seconds.
    """

    slots: int
    max_waiting: int
    max_wait: float
    job_timeout: float
    unsearched: Callable[[], int]
    ordinary_waiting: int = 0
    priority_waiting: int = 0
    busy: int = 0

    @property
    def free_slots(self) -> int:
        """How many more fetches may run."""
        return max(0, self.slots - self.busy - max(0, self.unsearched() - MAX_UNSEARCHED))

    @property
    def full(self) -> bool:
        """True if as many ordinary jobs wait as may."""
        return self.ordinary_waiting >= self.max_waiting

    @property
    def max_priority(self) -> int:
        """How many priority jobs may wait."""
        return 2 * self.max_waiting

    @property
    def priority_full(self) -> bool:
        """True if as many priority jobs wait as may."""
        return self.priority_waiting >= self.max_priority

    def count(self, change: int, *, priority: bool) -> None:
        """A job takes a place to wait in (1), or leaves it (-1)."""
        if priority:
            self.priority_waiting += change
        else:
            self.ordinary_waiting += change


class Start(Struct, frozen=True):
    """The fetch may start now."""


class Queue(Struct, frozen=True):
    """The job waits in its host's queue, ordered by `due_at`, until `expires_at` at most.

    `priority`: it goes before the ordinary jobs. `counted`: it takes one of the places for
    those that wait; False for a job that lacks only a slot. `reserves`: the host's next
    reservation is its own.
    """

    due_at: float
    expires_at: float
    priority: bool = False
    counted: bool = True
    reserves: bool = False


class Postpone(Struct, frozen=True):
    """The job has to come back in `seconds`. `reserves`: that is the host's next reservation."""

    seconds: float
    reserves: bool = False


class NotYet(Struct, frozen=True):
    """What a job is answered that can't go on now: it has to come back in `seconds` for `host`."""

    host: str
    seconds: float


class Reservation(Struct, frozen=True):
    """The turn of `host` that a job was promised by an earlier NotYet, `seconds` from now."""

    host: str
    seconds: float


def admit(queue: HostQueue, wait: Wait, capacity: Capacity, now: float) -> Start | Queue | Postpone:
    """Decide what becomes of a fetch that asks now."""
    if pause := queue.route_pause(wait.route, now):
        return Postpone(pause)
    if capacity.free_slots and not queue.waiting and queue.may_start(now):
        return Start()
    if queue.lacks_only_a_slot(now):
        return Queue(now, NO_EXPIRY, wait.priority, counted=False)
    if wait.priority and (place := _priority_place(queue, wait, capacity, now)) is not None:
        return place
    if wait.never_expires:
        return Postpone(queue.expected_start(now, queue.ahead()) - now)
    return _ordinary_place(queue, wait, capacity, now)


def _priority_place(queue: HostQueue, wait: Wait, capacity: Capacity, now: float) -> Queue | None:
    """A place among the priority jobs, if one is free and the start is near enough."""
    if capacity.priority_full or queue.priority_waiting >= capacity.max_priority // 2:
        return None
    due_at = queue.expected_start(now, queue.priority_waiting)
    if wait.never_expires:
        near = due_at - now <= capacity.job_timeout
        return Queue(due_at, NO_EXPIRY, priority=True) if near else None
    near = due_at - now <= capacity.max_wait + MAX_JITTER * queue.delay
    return Queue(due_at, _expiry(queue, due_at, capacity), priority=True) if near else None


def _ordinary_place(
    queue: HostQueue, wait: Wait, capacity: Capacity, now: float
) -> Queue | Postpone:
    """A place here, if the start is near and a place is free; else when to come back."""
    expected = queue.expected_start(now, queue.ahead())
    soon = expected - now <= capacity.max_wait
    no_place = capacity.full and (capacity.free_slots > 0 or queue.opens_at > now)
    if soon and queue.interval(now) < MIN_SNOOZE_INTERVAL:
        return Queue(expected, _expiry(queue, expected, capacity))
    reserves = False
    if wait.reserved_in is not None and wait.reserved_in > 0:
        due_at = max(now + wait.reserved_in, queue.paused_until)
    elif wait.reserved_in is not None and soon and not no_place:
        due_at = expected  # overdue, and welcome
    else:
        due_at, reserves = queue.reservation(now), True
    if no_place or max(due_at, expected) - now > capacity.max_wait:
        return Postpone(due_at - now, reserves)
    return Queue(due_at, _expiry(queue, due_at, capacity), reserves=reserves)


def _expiry(queue: HostQueue, due_at: float, capacity: Capacity) -> float:
    return due_at + capacity.max_wait + MAX_JITTER * queue.delay


def too_early(queue: HostQueue, wait: Wait, capacity: Capacity, now: float) -> Postpone | None:
    """Say when to come back, if it is too early to ask; None if the fetch may ask.

    It is too early where the route is paused; or where the host is not free, and the
    reservation is not near or the host is paused for long.
    """
    if wait.priority:
        return None
    if pause := queue.route_pause(wait.route, now):
        return Postpone(pause)
    if queue.may_start(now) and not queue.waiting:
        return None
    if wait.reserved_in is not None and wait.reserved_in > capacity.max_wait:
        return Postpone(wait.reserved_in)
    if queue.paused_until - now > capacity.max_wait:
        return postponed(queue, now)
    return None


def postponed(queue: HostQueue, now: float, route: str = "") -> Postpone:
    """Say when a job comes back that waited in vain: after its route's pause, or as the last."""
    if pause := queue.route_pause(route, now):
        return Postpone(pause)
    return Postpone(queue.reservation(now) - now, reserves=True)
