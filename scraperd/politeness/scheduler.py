"""WHEN a page may be fetched: each host's turns, and the bound on fetches at once.

May touch: futures and timers of the running loop; the clock it is given.
Must never: let one host's jobs hold the place of another's, or remember a host for ever.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from scraperd.politeness.addresses import Addresses
from scraperd.politeness.host_queue import BRISK, FOREVER, JITTER, Line
from scraperd.politeness.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.config.settings import Config
    from scraperd.politeness.addresses import Address
    from scraperd.politeness.host_rules import HostTable

T = TypeVar("T")
Load: TypeAlias = Literal["fine", "hung", "busy"]
CONSIDERED: Final = 8  # of which one is forgotten
REST: Final = 5.0  # seconds for what is busy, and has no pace of its own
RESTING: Final = 20_000  # hosts remembered though no job of theirs is here


@dataclass(slots=True)
class Turn:
    """Leave to fetch from a host now. It must be given back.

    `addresses` are those it counts at; `refused` says that it was not let to a full one.
    """

    line: Line
    began: float
    addresses: list[Address]
    way: str = ""
    over: bool = False
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Later:
    """No leave yet: come back in `seconds`, with this place in the host's line."""

    host: str
    seconds: float


class Turns:
    """One for the process. Holds a host only while it matters: in use, paced, slowed or punished.

    So many jobs may wait here for a host's turn as the waiting room has seats;
    more are sent away, so that those of other hosts can be delivered. Jobs that
    have begun have seats of their own, twice as many, of which one host has half
    at most. Who waits only for one of the `concurrency` slots needs no seat.
    """

    def __init__(
        self, config: Config, table: HostTable, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._table = table
        self._clock = clock
        self._lines: dict[str, Line] = {}
        self._resting: OrderedDict[str, Line] = OrderedDict()
        self._ready: deque[Line] = deque()  # lines that could start one, if a slot were free
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watches: dict[str, asyncio.TimerHandle] = {}
        self._free = config.concurrency
        self._room = config.waiting_room
        self._addresses = Addresses(config)
        self.waiting = 0
        self.begun = 0  # wait for a turn, too; they have begun, and have seats of their own

    async def take(
        self,
        host: str,
        *,
        crawl_delay: float | None = None,
        way: str = "",
        place: float | None = None,
        urgent: bool = False,
        patient: bool = False,
        address: str = "",
    ) -> Turn | Later:
        """Wait for the host's turn and a slot; Later if that would take longer than `park_after`.

        `crawl_delay` is what robots.txt asks by this `way` to the host (politeness/host_queue.py).
        `place` is in how many seconds an earlier Later said the turn would come,
        negative once it is overdue. `urgent` may go first: a job that has had a turn
        of this host. One that must not begin again is `patient`: it waits as long
        as it takes; for it, Later means that there is no seat, or no hope within
        `job_timeout`. `address` is what will be dialled, empty if that is not known.
        """
        now = self._clock()
        line = self._line(host)
        if crawl_delay is not None:
            line.ask(crawl_delay, way)
        if seconds := line.bar(way, now):
            self._rest(line, now)
            return Later(host, seconds)
        line.locate(self._addresses.of(address))
        turn = await self._turn(line, now, place, way, urgent=urgent, patient=patient)
        if isinstance(turn, Turn):
            turn.way = way
        return turn

    async def _turn(
        self,
        line: Line,
        now: float,
        place: float | None,
        way: str,
        *,
        urgent: bool,
        patient: bool,
    ) -> Turn | Later:
        begun = urgent or patient
        if self._free and not line.waiting and line.may_start(now):
            return self._start(line, now, begun=begun)
        if line.could_start(now):
            return await self._wait(line, now, way, begun=begun, seated=False, patient=patient)
        if begun and (at := self._begun_place(line, now, patient=patient)) is not None:
            until = FOREVER if patient else at + self._config.park_after + JITTER[1] * line.delay
            return await self._wait(line, at, way, begun=True, patient=patient, until=until)
        if patient:
            at, stay = line.expect(now, line.ahead()), False
        else:
            at, stay = self._place(line, now, place)
        if not stay:
            self._rest(line, now)
            return Later(line.host, max(0.0, at - now))
        until = at + self._config.park_after + JITTER[1] * line.delay
        return await self._wait(line, at, way, begun=False, until=until)

    def reach(self, turn: Turn, address: str) -> bool:
        """Whether the turn's fetch may connect to this address too, or instead; if so it counts."""
        found = self._addresses.of(address)
        if found is None or turn.over or found in turn.addresses:
            return True
        if found.full(turn.line.rules.concurrency):
            turn.refused = True
            return False
        found.start(self._clock())
        turn.addresses.append(found)
        return True

    def far(self, host: str, place: float | None, way: str = "") -> Later | None:
        """Whether it is too early to ask for a turn: it is not near, and the host not free."""
        line, now = self._lines.get(host), self._clock()
        if line is not None and (seconds := line.bar(way, now)):
            return Later(host, seconds)
        if line is None or (line.may_start(now) and not line.waiting):
            return None
        if place is not None and place > self._config.park_after:
            return Later(host, place)
        if line.penalty - now > self._config.park_after:
            return _later(line, now)
        return None

    def give_back(
        self, turn: Turn, *, load: Load | None = "fine", penalty: float | None = None
    ) -> None:
        """The fetch has ended.

        `load` is how the host bears it, None if that can't be told; `penalty` is for
        how many seconds it wants no other fetch.
        """
        now, line = self._clock(), turn.line
        match load if line.judged(turn.way) else None:
            case "fine":
                line.throttle.answered(turn.began, now)
            case "hung":
                line.throttle.hung(turn.began, now)
            case "busy":
                line.throttle.overloaded(turn.began, now)
            case None if load == "busy" and not penalty:
                penalty = REST
        if penalty:
            line.punish(now + penalty, turn.way)
        self._end(turn, now, sent_away=load != "fine")

    async def meanwhile(
        self,
        host: str,
        work: Callable[[], Awaitable[T]],
        place: float | None = None,
        *,
        patient: bool = False,
    ) -> T | Later:
        """Wait for what must come before the host's turn, as for the turn itself.

        `work` is begun in any case, and must go on by itself when it is cancelled here;
        but for a `patient` one that finds no seat: as with `take`.
        """
        if patient:
            return await self._patiently(host, work)
        patience = 0.0 if self._free and self.crowded else self._config.park_after
        self.waiting += 1
        try:
            async with asyncio.timeout(patience):
                return await work()
        except TimeoutError:
            pass
        finally:
            self.waiting -= 1
        if place is not None and place > 0:
            return Later(host, place)
        now = self._clock()
        line = self._line(host)
        later = _later(line, now)
        self._rest(line, now)
        return later

    async def _patiently(self, host: str, work: Callable[[], Awaitable[T]]) -> T | Later:
        if self.begun >= self._seats:
            return Later(host, self._config.park_after)
        self.begun += 1
        try:
            return await work()
        finally:
            self.begun -= 1

    @property
    def crowded(self) -> bool:
        """Whether as many wait here as may."""
        return self.waiting >= self._room

    @property
    def _seats(self) -> int:
        """How many that have begun may wait here."""
        return 2 * self._room

    def __len__(self) -> int:
        """How many hosts are remembered."""
        return len(self._lines)

    def _line(self, host: str) -> Line:
        line = self._lines.get(host)
        if line is None:
            rules = self._table.of(host)
            longest = max(self._config.max_crawl_delay, rules.delay)
            throttle = Throttle(rules.concurrency, longest, self._config.autothrottle)
            line = self._lines[host] = Line(host, rules, throttle)
        return line

    def _begun_place(self, line: Line, now: float, *, patient: bool) -> float | None:
        """When one that has begun can go on, if it may wait here for that."""
        if self.begun >= self._seats or line.begun_waiting >= self._seats // 2:
            return None
        at = line.expect(now, line.begun_waiting)
        patience = self._config.park_after + line.delay * JITTER[1]
        if patient:
            patience = self._config.job_timeout
        return at if at - now <= patience else None

    def _place(self, line: Line, now: float, place: float | None) -> tuple[float, bool]:
        """When the turn falls due, and whether to wait for it here."""
        patience = self._config.park_after
        expected = line.expect(now, line.ahead())
        crowd = self.crowded and (self._free > 0 or line.opens > now)
        if expected - now <= patience and line.interval(now) < BRISK:
            return expected, True
        if place is not None and place > 0:
            at = max(now + place, line.penalty)
        elif place is not None and expected - now <= patience and not crowd:
            at = expected  # overdue, and welcome
        else:
            at = line.place(now)
        return at, max(at, expected) - now <= patience and not crowd

    async def _wait(
        self,
        line: Line,
        at: float,
        way: str,
        *,
        begun: bool,
        seated: bool = True,
        patient: bool = False,
        until: float = FOREVER,
    ) -> Turn | Later:
        """Wait here: `seated` in the waiting room, or only for the next free slot."""
        future: asyncio.Future[Turn | Later] = asyncio.get_running_loop().create_future()
        self._resting.pop(line.host, None)
        waiter = line.join(at, future, begun=begun, patient=patient, until=until, way=way)
        self._sit(seated, begun=begun)
        now = self._clock()
        self._offer(line, now)
        self._dispatch(now)
        if line.host not in self._watches and not future.done():
            self._watch(line)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                if isinstance(turn := future.result(), Turn):
                    self._end(turn, self._clock())
            elif not waiter.gone:
                line.leave(waiter)
                self._rest(line, self._clock())
            raise
        finally:
            self._sit(-seated, begun=begun)

    def _sit(self, change: int, *, begun: bool) -> None:
        if begun:
            self.begun += change
        else:
            self.waiting += change

    def _watch(self, line: Line) -> None:
        """Look now and then whether somebody waits in vain: the host may have fallen silent."""
        every = max(0.1, self._config.park_after / 2)
        loop = asyncio.get_running_loop()
        self._watches[line.host] = loop.call_later(every, self._look, line)

    def _look(self, line: Line) -> None:
        del self._watches[line.host]
        now = self._clock()
        self._send_away(line, now)
        if line.waiting:
            self._watch(line)
            self._offer(line, now)
            self._dispatch(now)
        self._rest(line, now)

    def _end(self, turn: Turn, now: float, *, sent_away: bool = False) -> None:
        """A turn is over: its slot, its host's place and its address's go to whoever is next."""
        line = turn.line
        line.end(now)
        self._free += 1
        turn.over = True
        if sent_away and line.waiting:
            self._send_away(line, now)
        for address in turn.addresses:
            address.end(turn.began, now)
            self._reopen(address, now)
        self._offer(line, now)
        self._dispatch(now)
        self._rest(line, now)

    def _reopen(self, address: Address, now: float) -> None:
        """Something is free at the address: offer it to the line that has waited longest for it."""
        while address.lines and not address.full(address.lines[0].rules.concurrency):
            line = address.lines.popleft()
            line.held_up = False
            if self._lines.get(line.host) is line:
                self._offer(line, now)
                if line.offered:
                    return

    def _start(self, line: Line, now: float, *, begun: bool) -> Turn:
        self._free -= 1
        line.start(now, random.random(), begun=begun)  # noqa: S311 - jitter
        self._resting.pop(line.host, None)
        return Turn(line, now, [] if line.address is None else [line.address])

    def _offer(self, line: Line, now: float) -> None:
        """See to it that the line's next one starts as soon as it may."""
        if not line.waiting or line.full or line.offered:
            return
        if line.opens <= now and line.address is not None and line.crowded_out:
            if not line.held_up:
                line.held_up = True
                line.address.lines.append(line)
        elif line.opens <= now:
            line.offered = True
            if line.paced(now):  # it can't take many slots, and a turn that is missed is lost
                self._ready.appendleft(line)
            else:
                self._ready.append(line)
        elif line.host not in self._timers:
            self._timers[line.host] = asyncio.get_running_loop().call_later(
                line.opens - now, self._on_time, line
            )

    def _on_time(self, line: Line) -> None:
        del self._timers[line.host]
        now = self._clock()
        self._offer(line, now)
        self._dispatch(now)

    def _dispatch(self, now: float) -> None:
        """Give the free slots to the lines that are ready, one each in turn."""
        while self._free and self._ready:
            line = self._ready.popleft()
            line.offered = False
            waiter = line.first() if line.waiting and line.may_start(now) else None
            if waiter is not None and not waiter.key.done():  # else cancelled this very moment
                waiter.key.set_result(self._start(line, now, begun=waiter.begun))
            elif line.address is not None:
                self._reopen(line.address, now)  # what it was offered is for another
            self._offer(line, now)
            self._rest(line, now)

    def _send_away(self, line: Line, now: float) -> None:
        """Those who have waited too long, or would have to, get a new place."""
        for waiter in line.impatient(now, self._config.park_after):
            if not waiter.key.done():
                seconds = line.bar(waiter.way, now)
                waiter.key.set_result(Later(line.host, seconds) if seconds else _later(line, now))

    def _rest(self, line: Line, now: float) -> None:
        """Forget the host, now or once too many are remembered."""
        if line.active or line.waiting or self._lines.get(line.host) is not line:
            return  # the last: it was forgotten, and its host has another line by now
        if line.idle(now):
            self._forget(line.host)
        else:
            self._resting[line.host] = line
            self._resting.move_to_end(line.host)
        for host, other in list(itertools.islice(self._resting.items(), 2)):
            if other.idle(now):
                self._forget(host)
            elif len(self._resting) > RESTING:
                self._make_room(now)

    def _make_room(self, now: float) -> None:
        """Forget one that is remembered, of some that have rested long the one over soonest."""
        oldest = list(itertools.islice(self._resting.items(), CONSIDERED))
        soonest = min(oldest, key=lambda item: max(item[1].opens, now))
        self._forget(soonest[0])
        for host, _ in oldest:
            if host in self._resting:
                self._resting.move_to_end(host)

    def _forget(self, host: str) -> None:
        self._resting.pop(host, None)
        self._lines.pop(host, None)
        for timers in (self._timers, self._watches):
            if timer := timers.pop(host, None):
                timer.cancel()


def _later(line: Line, now: float) -> Later:
    """A new place at the end of the line."""
    return Later(line.host, line.place(now) - now)
