"""WHEN a page may be fetched: each host's permits, and the bound on fetches at once.

May touch: futures and timers of the running loop; the clock and the jitter it is given.
Must never: let one host's jobs hold the place of another's, or remember a host for ever.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from scraperd.politeness.addresses import Addresses
from scraperd.politeness.admission import (
    Capacity,
    NotYet,
    Postpone,
    Queue,
    Start,
    admit,
    postponed,
    too_early,
)
from scraperd.politeness.host_queue import HostQueue, State, Wait
from scraperd.politeness.throttle import Throttle
from scraperd.politeness.view import view, waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.config.tables import PolitenessSettings
    from scraperd.politeness.addresses import Address
    from scraperd.politeness.host_rules import HostRules, HostTable
    from scraperd.politeness.view import HostView

T = TypeVar("T")
Load: TypeAlias = Literal["fine", "hung", "busy"]
DEFAULT_PAUSE: Final = 5.0  # seconds for an unusual route that is busy and names no time
MAX_CROWDED_WAIT: Final = 0.25  # seconds without a place to wait in; most robots.txt take less
MAX_IDLE_HOSTS: Final = 20_000  # hosts remembered though no job of theirs is here
EVICTION_SAMPLE: Final = 8  # idle hosts of which one is forgotten
MIN_CHECK_INTERVAL: Final = 0.1  # seconds between two looks at those who wait for a host
ORDINARY: Final = Wait()


@dataclass(slots=True)
class Permit:
    """Leave to fetch from a host now. It must be released.

    `addresses` are those it counts at; `address_refused` says that it was not let to a full one.
    """

    queue: HostQueue
    started_at: float
    addresses: list[Address]
    route: str = ""
    released: bool = False
    address_refused: bool = False


class HostScheduler:
    """Gives each fetch its permit. One for the process.

    It holds a host only while that matters: in use, paced, slowed or paused. Who may start
    or wait is decided in politeness/admission.py, who is next by the host's queue; the
    scheduler carries it out. `clock` gives seconds; `jitter` gives random numbers in [0, 1).
    `unsearched` tells how many pages wait to be searched; call `searched` after each.
    """

    def __init__(
        self,
        settings: PolitenessSettings,
        table: HostTable,
        clock: Callable[[], float],
        jitter: Callable[[], float],
        *,
        concurrency: int,
        waiting_room: int,
        job_timeout: float,
        unsearched: Callable[[], int],
    ) -> None:
        self._table = table
        self._clock = clock
        self._jitter = jitter
        self._queues: dict[str, HostQueue] = {}
        self._idle: OrderedDict[str, HostQueue] = OrderedDict()  # the one used last comes last
        self._ready: deque[HostQueue] = deque()  # could start a fetch, if a slot were free
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._checks: dict[str, asyncio.TimerHandle] = {}
        self._addresses = Addresses(settings)
        self._capacity = Capacity(
            concurrency, waiting_room, settings.snooze_after, job_timeout, unsearched
        )
        self._settings = settings

    def configure(
        self,
        settings: PolitenessSettings,
        *,
        concurrency: int,
        waiting_room: int,
        job_timeout: float,
    ) -> None:
        """Take other settings, and from `table` other rules, also for hosts that are in use.

        Fetches that run and jobs that wait stay. More may start at once, where more may run now.
        """
        capacity = self._capacity
        capacity.slots, capacity.max_waiting = concurrency, waiting_room
        capacity.max_wait, capacity.job_timeout = settings.snooze_after, job_timeout
        self._settings = settings
        self._addresses.configure(settings)
        self.look_up()

    def look_up(self) -> None:
        """Take from `table` the rules of now, also for hosts that are in use."""
        now, settings = self._clock(), self._settings
        for queue in list(self._queues.values()):
            rules = self._table.of(queue.host)
            queue.configure(
                rules, self._max_delay(rules), autothrottle=settings.autothrottle, now=now
            )
            if timer := self._timers.pop(queue.host, None):
                timer.cancel()
            self._offer(queue, now)
            if queue.address is not None:
                self._offer_address(queue.address, now)
        self._dispatch(now)

    async def acquire(
        self,
        host: str,
        wait: Wait = ORDINARY,
        *,
        crawl_delay: float | None = None,
        address: str = "",
    ) -> Permit | NotYet:
        """Wait for a permit; NotYet if that would take longer than `snooze_after`.

        `crawl_delay` is what robots.txt asks by the route of `wait`, in seconds. `address`
        is what will be dialled, empty if that is not known. To a job that never expires,
        NotYet means that no place is free to wait in, or that its start is not expected
        within `job_timeout`.
        """
        now = self._clock()
        queue = self._queue_of(host)
        if crawl_delay is not None:
            queue.set_crawl_delay(crawl_delay, wait.route)
        if not queue.route_pause(wait.route, now):  # else those who wait may have another address
            queue.set_address(self._addresses.of(address))
        match admit(queue, wait, self._capacity, now):
            case Start():
                return self._start(queue, now, wait.route, priority=wait.priority)
            case Queue() as place:
                if place.reserves:
                    queue.reserve(now)
                return await self._wait(queue, wait, place)
            case Postpone() as answer:
                not_yet = _not_yet(queue, answer, now)
                self._settle(queue, now)
                return not_yet

    def add_address(self, permit: Permit, address: str) -> bool:
        """Count the permit's fetch at this address too; False if that is full: don't connect."""
        found = self._addresses.of(address)
        if found is None or permit.released or found in permit.addresses:
            return True
        if found.full(permit.queue.rules.concurrency):
            permit.address_refused = True
            return False
        found.start(self._clock())
        permit.addresses.append(found)
        return True

    def too_early(self, host: str, wait: Wait) -> NotYet | None:
        """Say when to come back, if it is too early even to look at robots.txt."""
        queue, now = self._queues.get(host), self._clock()
        if queue is None or (answer := too_early(queue, wait, self._capacity, now)) is None:
            return None
        return _not_yet(queue, answer, now)

    def release(
        self, permit: Permit, *, load: Load | None = "fine", penalty: float | None = None
    ) -> None:
        """The fetch has ended.

        `load` is how the host bears it, None if that can't be told; `penalty` is for
        how many seconds it wants no other fetch.
        """
        now, queue = self._clock(), permit.queue
        match load if queue.speaks_for_host(permit.route) else None:
            case "fine":
                queue.throttle.answered(permit.started_at, now)
            case "hung":
                queue.throttle.hung(permit.started_at, now)
            case "busy":
                queue.throttle.overloaded(permit.started_at, now)
            case None if load == "busy" and not penalty:
                penalty = DEFAULT_PAUSE
        if penalty:
            queue.pause(now + penalty, permit.route)
        self._finish(permit, now, send_away=load != "fine")

    def searched(self) -> None:
        """A page has been searched: a fetch may start that had no slot for its sake."""
        if self._ready:
            self._dispatch(self._clock())

    async def prepare(
        self, host: str, work: Callable[[], Awaitable[T]], wait: Wait = ORDINARY
    ) -> T | NotYet:
        """Wait for work that must come before the permit, no longer than for the permit itself.

        `work` is begun in any case, and must go on by itself when it is cancelled here. For a
        job that never expires it is not begun where no place is free to wait in.
        """
        if wait.never_expires:
            return await self._prepare_unlimited(host, work)
        capacity = self._capacity
        crowded = capacity.free_slots and capacity.full
        patience = min(MAX_CROWDED_WAIT, capacity.max_wait) if crowded else capacity.max_wait
        capacity.count(1, priority=False)
        try:
            async with asyncio.timeout(patience):
                return await work()
        except TimeoutError:
            pass
        finally:
            capacity.count(-1, priority=False)
        if wait.reserved_in is not None and wait.reserved_in > 0:
            return NotYet(host, wait.reserved_in)
        now = self._clock()
        queue = self._queue_of(host)
        not_yet = _not_yet(queue, postponed(queue, now), now)
        self._settle(queue, now)
        return not_yet

    async def _prepare_unlimited(self, host: str, work: Callable[[], Awaitable[T]]) -> T | NotYet:
        if self._capacity.priority_full:
            return NotYet(host, self._capacity.max_wait)
        self._capacity.count(1, priority=True)
        try:
            return await work()
        finally:
            self._capacity.count(-1, priority=True)

    @property
    def busy(self) -> int:
        """How many fetches run."""
        return self._capacity.busy

    @property
    def slots(self) -> int:
        """How many fetches may run at once."""
        return self._capacity.slots

    @property
    def ordinary_waiting(self) -> int:
        """How many ordinary jobs wait here in places of the waiting room."""
        return self._capacity.ordinary_waiting

    @property
    def priority_waiting(self) -> int:
        """How many priority jobs wait here in places of their own."""
        return self._capacity.priority_waiting

    def seen(self, host: str) -> HostView | None:
        """Return what is known of a host, for an operator; None if it is not remembered."""
        queue = self._queues.get(host)
        return None if queue is None else view(queue, self._clock())

    def waiting_hosts(self, most: int) -> tuple[list[HostView], int]:
        """Return the hosts that jobs wait for, `most` at most, and how many there are."""
        return waiting(self._queues.values(), self._clock(), most)

    def __len__(self) -> int:
        """How many hosts are remembered."""
        return len(self._queues)

    def _queue_of(self, host: str) -> HostQueue:
        queue = self._queues.get(host)
        if queue is None:
            rules = self._table.of(host)
            limits = (rules.concurrency, self._max_delay(rules), self._settings.autothrottle)
            queue = self._queues[host] = HostQueue(host, rules, Throttle(*limits))
        return queue

    def _max_delay(self, rules: HostRules) -> float:
        """Seconds between two fetches that a host gets at most, whatever it asks for."""
        return max(self._settings.max_crawl_delay, rules.delay)

    async def _wait(self, queue: HostQueue, wait: Wait, place: Queue) -> Permit | NotYet:
        """Wait in the host's queue, until a slot comes or the job is sent away."""
        future: asyncio.Future[Permit | NotYet] = asyncio.get_running_loop().create_future()
        self._idle.pop(queue.host, None)
        waiter = queue.join(
            wait,
            place.due_at,
            priority=place.priority,
            expires_at=place.expires_at,
            future=future,
        )
        self._capacity.count(place.counted, priority=place.priority)
        now = self._clock()
        self._offer(queue, now)
        self._dispatch(now)
        if queue.host not in self._checks and not future.done():
            self._check_later(queue)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                if isinstance(permit := future.result(), Permit):
                    self._finish(permit, self._clock())
            elif not waiter.gone:
                queue.leave(waiter)
                self._settle(queue, self._clock())
            raise
        finally:
            self._capacity.count(-place.counted, priority=place.priority)

    def _check_later(self, queue: HostQueue) -> None:
        """Look now and then whether jobs wait in vain: the host may have fallen silent."""
        every = max(MIN_CHECK_INTERVAL, self._settings.snooze_after / 2)
        loop = asyncio.get_running_loop()
        self._checks[queue.host] = loop.call_later(every, self._check, queue)

    def _check(self, queue: HostQueue) -> None:
        del self._checks[queue.host]
        now = self._clock()
        self._send_away(queue, now)
        if queue.waiting:
            self._check_later(queue)
            self._offer(queue, now)
            self._dispatch(now)
        self._settle(queue, now)

    def _start(self, queue: HostQueue, now: float, route: str, *, priority: bool) -> Permit:
        self._capacity.busy += 1
        queue.start(now, self._jitter(), priority=priority)
        self._idle.pop(queue.host, None)
        addresses = [] if queue.address is None else [queue.address]
        return Permit(queue, now, addresses, route)

    def _finish(self, permit: Permit, now: float, *, send_away: bool = False) -> None:
        """Give the permit's slot, its host's place and its addresses' to whoever is next."""
        queue = permit.queue
        queue.finish(now)
        self._capacity.busy -= 1
        permit.released = True
        if send_away and queue.waiting:
            self._send_away(queue, now)
        for address in permit.addresses:
            address.finish(permit.started_at, now)
            self._offer_address(address, now)
        self._offer(queue, now)
        self._dispatch(now)
        self._settle(queue, now)

    def _offer_address(self, address: Address, now: float) -> None:
        """Offer a free place at the address to the queue that has waited longest for it."""
        while address.queues and not address.full(address.queues[0].rules.concurrency):
            queue = address.queues.popleft()
            queue.in_address_queue = False
            if self._queues.get(queue.host) is queue:
                self._offer(queue, now)
                if queue.in_ready_queue:
                    return

    def _offer(self, queue: HostQueue, now: float) -> None:
        """See to it that the queue's next job starts as soon as it may."""
        if queue.in_ready_queue:
            return
        match queue.state(now):
            case State.EMPTY | State.FULL:
                pass  # the next to join, or the next fetch that ends, offers it again
            case State.DELAYED:
                if queue.host not in self._timers:
                    self._timers[queue.host] = asyncio.get_running_loop().call_later(
                        queue.opens_at - now, self._on_time, queue
                    )
            case State.ADDRESS_FULL:
                if not queue.in_address_queue and queue.address is not None:
                    queue.in_address_queue = True
                    queue.address.queues.append(queue)
            case State.READY:
                queue.in_ready_queue = True
                if queue.paced_by_delay(now):  # it takes few slots; a start it misses is lost
                    self._ready.appendleft(queue)
                else:
                    self._ready.append(queue)

    def _on_time(self, queue: HostQueue) -> None:
        del self._timers[queue.host]
        now = self._clock()
        self._offer(queue, now)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        """Give the free slots to the queues that are ready, one each in turn."""
        while self._capacity.free_slots and self._ready:
            queue = self._ready.popleft()
            queue.in_ready_queue = False
            waiter = queue.pop_next() if queue.state(now) is State.READY else None
            if waiter is not None and not waiter.future.done():  # else cancelled this very moment
                permit = self._start(queue, now, waiter.wait.route, priority=waiter.priority)
                waiter.future.set_result(permit)
            elif queue.address is not None:
                self._offer_address(queue.address, now)  # another may have the place it left
            self._offer(queue, now)
            self._settle(queue, now)

    def _send_away(self, queue: HostQueue, now: float) -> None:
        """Tell those who have waited too long, or would have to, when to come back."""
        for waiter in queue.pop_expired(now, self._capacity.max_wait):
            if not waiter.future.done():
                answer = postponed(queue, now, waiter.wait.route)
                waiter.future.set_result(_not_yet(queue, answer, now))

    def _settle(self, queue: HostQueue, now: float) -> None:
        """Forget the host of a queue that is not in use, now or once too many are remembered."""
        if queue.active or queue.waiting or self._queues.get(queue.host) is not queue:
            return  # the last: it was forgotten, and its host has another queue by now
        if queue.evictable(now):
            self._forget(queue.host)
        else:
            self._idle[queue.host] = queue
            self._idle.move_to_end(queue.host)
        for host, other in list(itertools.islice(self._idle.items(), 2)):
            if other.evictable(now):
                self._forget(host)
            elif len(self._idle) > MAX_IDLE_HOSTS:
                self._evict(now)

    def _evict(self, now: float) -> None:
        """Forget one idle host: of the least recently used few, the one that opens first."""
        oldest = list(itertools.islice(self._idle.items(), EVICTION_SAMPLE))
        soonest = min(oldest, key=lambda item: max(item[1].opens_at, now))
        self._forget(soonest[0])
        for host, _ in oldest:
            if host in self._idle:
                self._idle.move_to_end(host)

    def _forget(self, host: str) -> None:
        self._idle.pop(host, None)
        self._queues.pop(host, None)
        for timers in (self._timers, self._checks):
            if timer := timers.pop(host, None):
                timer.cancel()


def _not_yet(queue: HostQueue, answer: Postpone, now: float) -> NotYet:
    """Carry out `answer`: the reservation is made, if it is a new one."""
    if answer.reserves:
        queue.reserve(now)
    return NotYet(queue.host, answer.seconds)
