"""Who goes next: a fair queue for the helper processes, and shares of the event loop's time.

May touch: futures of the running loop, a clock.
Must never: know what it is that waits, or let one host have a whole level while others wait.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

T = TypeVar("T")


class TimeSlice:
    """A time slice of the event loop for one kind of work: after `slice_` seconds the loop yields.

    An async context manager around work that does not wait. One caller at a time is inside, in the
    order of arrival. `waiting` is how many wait to be let in.
    """

    def __init__(self, slice_: float) -> None:
        self.waiting = 0
        self._slice = slice_
        self._lock = asyncio.Lock()
        self._began = 0.0
        self._spent = 0.0

    async def __aenter__(self) -> None:
        self.waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self.waiting -= 1
        self._began = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        try:
            self._spent += time.monotonic() - self._began
            if self._spent >= self._slice:
                self._spent = 0.0
                await asyncio.sleep(0)
        finally:
            self._lock.release()


class TooLong(Exception):  # noqa: N818 - not an error: there is another way
    """A piece of work took as much time as it may."""


class TimeSharing:
    """Time-sharing of the event loop between pieces of work that each take several slices.

    The next slice goes to the work that has had the fewest; of several, to the one that came first.
    So small work does not wait for large work. After a slice the loop does other things for as
    long, so this work never fills the loop, however much of it comes.
    """

    def __init__(self, slice_: float, most: float) -> None:
        self._slice = slice_
        self._most = most
        self._busy = False
        self._spent = 0.0
        self._came = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Take all `steps`, which do not wait, and return what they return.

        Raises TooLong if that takes more than `most` seconds of the loop's time.
        """
        self._came += 1
        number, had, took = self._came, 0, 0.0
        while took < self._most:
            await self._turn(had, number)
            began, used = time.monotonic(), time.thread_time()
            try:
                while time.monotonic() < began + self._slice:
                    next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                took += time.thread_time() - used
                self._rest(time.monotonic() - began)
            had += 1
        raise TooLong

    def _rest(self, took: float) -> None:
        """Let the loop do something else: for a moment, or if it is due for longer."""
        self._spent += took
        pause = self._spent if self._spent >= self._slice else 0.0
        if pause:
            self._spent = 0.0
        asyncio.get_running_loop().call_later(pause, self._end)

    def _end(self) -> None:
        self._busy = False
        self._serve()

    async def _turn(self, had: int, number: int) -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        heapq.heappush(self._waiting, (had, number, future))
        loop.call_soon(self._serve)  # not at once: one that has had less may come
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self._end()  # the slot came just before
            raise

    def _serve(self) -> None:
        while self._waiting and not self._busy:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                self._busy = True
                future.set_result(None)


class HostFairQueue:
    """A queue with levels, fair between hosts: each level is for longer work than the one before.

    `most[n]` is how many slots there are for level n and all levels behind it. So short work
    always has some slots to itself, and has all of them if nothing else waits. One host gets all
    slots but one, and hosts that wait take turns. Short work goes first, but no level starves.

    `max_waiting[n]` is how many should wait in level n. Callers ask `crowded` before they wait.
    """

    def __init__(self, most: list[int], max_waiting: list[float]) -> None:
        self._most = most
        self._max_waiting = max_waiting
        self._number_waiting = [0] * len(most)
        self._running = [0] * len(most)
        self._held: list[Counter[str]] = [Counter() for _ in most]
        self._waiting: list[dict[str, deque[asyncio.Future[None]]]] = [{} for _ in most]

    def configure(self, max_waiting: list[float]) -> None:
        """Take other bounds. Those who wait stay."""
        self._max_waiting = max_waiting

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that hold a slot or wait for one, in any level."""
        return frozenset[str]().union(*self._held, *self._waiting)

    @asynccontextmanager
    async def slot(self, level: int, host: str) -> AsyncIterator[None]:
        """Hold a slot of a level for `host`."""
        if self.ready(level, host):
            self._acquire(level, host)
        else:
            self._number_waiting[level] += 1
            try:
                await self._wait(level, host)
            finally:
                self._number_waiting[level] -= 1
        try:
            yield
        finally:
            self._release(level, host)

    def crowded(self, level: int, host: str = "", times: int = 1) -> bool:
        """Whether `times` as many wait in this level as should.

        The first of a host may wait where twice as many do.
        """
        if host and host not in self._waiting[level]:
            times *= 2
        return self._number_waiting[level] >= times * self._max_waiting[level]

    def ready(self, level: int, host: str) -> bool:
        """Whether `host` gets a slot of this level without waiting."""
        return self._free(level) and self._may(level, host)

    def _free(self, level: int) -> bool:
        """Whether there is a slot in each level up to this one: a slot counts in all of them."""
        return all(sum(self._running[n:]) < self._most[n] for n in range(level + 1))

    def _may(self, level: int, host: str) -> bool:
        """Whether the host has fewer slots than all but one."""
        return all(
            sum(held[host] for held in self._held[n:]) < max(1, self._most[n] - 1)
            for n in range(level + 1)
        )

    def _acquire(self, level: int, host: str) -> None:
        self._running[level] += 1
        self._held[level][host] += 1

    async def _wait(self, level: int, host: str) -> None:
        future = asyncio.get_running_loop().create_future()
        line = self._waiting[level].setdefault(host, deque())
        line.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self._release(level, host)  # the slot came just before
            elif future in line:
                line.remove(future)
            raise

    def _release(self, level: int, host: str) -> None:
        self._running[level] -= 1
        self._held[level][host] -= 1
        if not self._held[level][host]:
            del self._held[level][host]
        while any(self._serve(n) for n in self._order()):
            pass

    def _order(self) -> list[int]:
        """The levels in the order of service: first those that hold no slot, the last one first."""
        levels = range(len(self._most))
        return [*(n for n in reversed(levels) if not self._running[n]), *levels]

    def _serve(self, level: int) -> bool:
        """Give a slot to the host that was served longest ago; the host is then the last."""
        waiting = self._waiting[level]
        if not self._free(level):
            return False
        host = next((host for host in waiting if self._may(level, host)), None)
        if host is None:
            return False
        line = waiting.pop(host)
        if line and not (future := line.popleft()).done():
            self._acquire(level, host)
            future.set_result(None)
        if line:
            waiting[host] = line
        return True
