"""Who goes next: to a lane of helpers, or on the event loop.

May touch: futures of the running loop, a clock.
Must never: know what it is that waits, or let one host have a whole lane while others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


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
