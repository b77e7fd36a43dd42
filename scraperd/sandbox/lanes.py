"""Who goes next: to a lane of helpers, or on the event loop.

May touch: futures of the running loop, a clock.
Must never: know what it is that waits, or let one host have a whole lane while others wait.
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


class Share:
    """The loop's time for one kind of work: after `slice` seconds of it others come first.

    One at a time, in the order in which they came. An async context manager around work that
    does not wait.
    """

    def __init__(self, slice_: float) -> None:
        self._slice = slice_
        self._lock = asyncio.Lock()
        self._began = 0.0
        self._spent = 0.0

    async def __aenter__(self) -> None:
        await self._lock.acquire()
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


class Slices:
    """The loop's time for pieces of work that each take several slices: one slice at a time.

    Next is who has had the fewest, and of those who came first: what is small does not wait for
    what is large. After a whole slice of work the loop does other things for as long, so that it
    never has this work alone, however much of it comes.
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
                self._end()  # the turn came just before
            raise

    def _serve(self) -> None:
        while self._waiting and not self._busy:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                self._busy = True
                future.set_result(None)


class Lanes:
    """Turns in lanes, of which each is for work that takes longer than the one before.

    `most[n]` is how many turns there are at a time in lane n and all behind it. So what is short
    always has some to itself, and all of them if nothing else waits. A host has all but one, and
    hosts that wait go round. What is short goes first, but each lane has a turn.

    `seats[n]` is how many should wait for one; who comes is asked to look (`crowded`).
    """

    def __init__(self, most: list[int], seats: list[float]) -> None:
        self._most = most
        self._seats = seats
        self._sitting = [0] * len(most)
        self._running = [0] * len(most)
        self._held: list[Counter[str]] = [Counter() for _ in most]
        self._waiting: list[dict[str, deque[asyncio.Future[None]]]] = [{} for _ in most]

    @asynccontextmanager
    async def turn(self, lane: int, host: str) -> AsyncIterator[None]:
        """Hold a turn of `host` in a lane."""
        if self.ready(lane, host):
            self._give(lane, host)
        else:
            self._sitting[lane] += 1
            try:
                await self._wait(lane, host)
            finally:
                self._sitting[lane] -= 1
        try:
            yield
        finally:
            self._give_back(lane, host)

    def crowded(self, lane: int, host: str = "", times: int = 1) -> bool:
        """Whether as many wait there as should, or so many times that many.

        Of a host that has none there yet one may wait where twice as many do.
        """
        if host and host not in self._waiting[lane]:
            times *= 2
        return self._sitting[lane] >= times * self._seats[lane]

    def ready(self, lane: int, host: str) -> bool:
        """Whether `host` has a turn there without waiting."""
        return self._free(lane) and self._may(lane, host)

    def _free(self, lane: int) -> bool:
        """Whether there is a turn in each lane up to this one: it counts in all of them."""
        return all(sum(self._running[n:]) < self._most[n] for n in range(lane + 1))

    def _may(self, lane: int, host: str) -> bool:
        """Whether the host has not all but one there already."""
        return all(
            sum(held[host] for held in self._held[n:]) < max(1, self._most[n] - 1)
            for n in range(lane + 1)
        )

    def _give(self, lane: int, host: str) -> None:
        self._running[lane] += 1
        self._held[lane][host] += 1

    async def _wait(self, lane: int, host: str) -> None:
        future = asyncio.get_running_loop().create_future()
        line = self._waiting[lane].setdefault(host, deque())
        line.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self._give_back(lane, host)  # the turn came just before
            elif future in line:
                line.remove(future)
            raise

    def _give_back(self, lane: int, host: str) -> None:
        self._running[lane] -= 1
        self._held[lane][host] -= 1
        if not self._held[lane][host]:
            del self._held[lane][host]
        while any(self._serve(n) for n in self._order()):
            pass

    def _order(self) -> list[int]:
        """The lanes by who is next: those without a turn, the last first; then the first."""
        lanes = range(len(self._most))
        return [*(n for n in reversed(lanes) if not self._running[n]), *lanes]

    def _serve(self, lane: int) -> bool:
        """Give a turn to the host that was served before the others; it is the last then."""
        waiting = self._waiting[lane]
        if not self._free(lane):
            return False
        host = next((host for host in waiting if self._may(lane, host)), None)
        if host is None:
            return False
        line = waiting.pop(host)
        if line and not (future := line.popleft()).done():
            self._give(lane, host)
            future.set_result(None)
        if line:
            waiting[host] = line
        return True
