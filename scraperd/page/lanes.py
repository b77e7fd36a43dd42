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


class Slices:
    """The loop's time for pieces of work that each take several slices: one slice at a time.

    Next is who has had the fewest, and of those who came first: what is small does not wait for
    what is large. After a whole slice of work the loop does other things for as long, so that it
    never has this work alone, however much of it comes.
    """

    def __init__(self, slice_: float) -> None:
        self._slice = slice_
        self._busy = False
        self._spent = 0.0
        self._came = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    async def run(self, steps: Generator[None, None, T]) -> T:
        """Take all `steps`, which do not wait, and return what they return."""
        self._came += 1
        number, had = self._came, 0
        while True:
            await self._turn(had, number)
            began = time.monotonic()
            try:
                while time.monotonic() < began + self._slice:
                    next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._rest(time.monotonic() - began)
            had += 1

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


class Lane:
    """`limit` turns at a time; a host may have all but one, and those that wait go round."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._each = max(1, limit - 1)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Hold a turn of `host`."""
        if not (self._free and self._held[host] < self._each):
            await self._wait(host)
        else:
            self._free -= 1
            self._held[host] += 1
        try:
            yield
        finally:
            self._give_back(host)

    async def _wait(self, host: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(host, deque()).append(future)
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():
                self._give_back(host)  # the turn came just before
            raise

    def _give_back(self, host: str) -> None:
        self._free += 1
        self._held[host] -= 1
        if not self._held[host]:
            del self._held[host]
        self._serve()

    def _serve(self) -> None:
        """Give free turns to the hosts that wait, the one that was served last coming last."""
        for host in list(self._waiting):
            line = self._waiting.pop(host)
            while line and self._free and self._held[host] < self._each:
                future = line.popleft()
                if not future.done():
                    self._free -= 1
                    self._held[host] += 1
                    future.set_result(None)
                    break
            if line:
                self._waiting[host] = line
