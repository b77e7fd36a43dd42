"""A budget for the bytes of all bodies and results in flight: past it, fetches wait.

May touch: futures of the running loop.
Must never: look at every claim to decide on one, or let those who hold memory wait for each other.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Final, NamedTuple

COPIES: Final = 4  # times its bytes a job takes: as delivered, decoded, encoded, on its way out


class Budget:
    """`limit` bytes for the whole process; `used` is the sum of the open claims.

    One claim at a time may go beyond the limit: the senior (the first opened) of
    those who wait. It finishes and closes, and so frees what the others wait for.
    So `used` stays under the limit, and one body, and what results grew by.
    """

    def __init__(self, limit: int) -> None:
        self._whole = self._limit = limit
        self._used = 0
        self._opened = 0
        self._beyond: Claim | None = None  # who may go beyond the limit, while we are past it
        self._waiting: dict[int, _Wait] = {}  # by the claim's number
        self._seniority: list[int] = []  # a heap of their numbers, and of some that have left
        self._beginners: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    @property
    def used(self) -> int:
        """Bytes claimed now."""
        return self._used

    def open(self) -> Claim:
        """A claim of no bytes yet. Close it in a `finally`."""
        self._opened += 1
        return Claim(self, self._opened)

    async def room(self) -> None:
        """Wait until another fetch may begin: until bytes are left. First come, first served.

        To be called outside of the fetch's own timeouts.
        """
        if self._used < self._limit:
            return
        future = asyncio.get_running_loop().create_future()
        self._beginners[future] = None
        try:
            await future
        finally:
            self._beginners.pop(future, None)

    def hold(self, deliveries: int) -> None:
        """So many bytes of jobs are held as they were delivered. They are no claims: none waits.

        They leave less for those that do, but never less than half, or jobs could fill all of it
        and wait for memory to begin.
        """
        self._limit = self._whole - min(COPIES * deliveries, self._whole // 2)
        self._serve()

    def take(self, claim: Claim, n: int) -> bool:
        """Give the claim `n` bytes if they are there, or if it may go beyond the limit."""
        if self._used + n > self._limit and claim is not self._beyond:
            return False
        self._used += n
        claim.size += n
        return True

    async def wait(self, claim: Claim, n: int) -> None:
        """Give the claim `n` bytes once it is its turn; none if it is cancelled meanwhile."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[claim.number] = _Wait(claim, n, future)
        heapq.heappush(self._seniority, claim.number)
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting.pop(claim.number, None)
            else:
                self._used -= n  # they came just before the cancellation
                claim.size -= n
            self._serve()
            raise

    def put(self, claim: Claim, n: int, *, last: bool = False) -> None:
        """Make it a claim of `n` bytes, whatever it was and whatever is left."""
        self._used += n - claim.size
        claim.size = n
        if last and claim is self._beyond:
            self._beyond = None
        self._serve()

    def _serve(self) -> None:
        """Give to those who wait, by seniority; then let others begin."""
        if self._used <= self._limit:
            self._beyond = None
        while self._seniority:
            wait = self._waiting.get(self._seniority[0])
            if wait is not None and not wait.granted.done():
                if self._beyond is None and self._used + wait.n > self._limit:
                    self._beyond = wait.claim
                if not self.take(wait.claim, wait.n):
                    return
                wait.granted.set_result(None)
                del self._waiting[wait.claim.number]
            heapq.heappop(self._seniority)
        if self._used < self._limit:
            for future in self._beginners:  # each leaves by itself
                if not future.done():
                    future.set_result(None)


class Claim:
    """What one job holds of the budget, in bytes. It belongs to one task."""

    __slots__ = ("_budget", "_closed", "number", "size")

    def __init__(self, budget: Budget, number: int) -> None:
        self._budget = budget
        self._closed = False
        self.number = number  # the smaller, the more senior
        self.size = 0

    def try_grow(self, n: int) -> bool:
        """Take `n` more bytes if they can be had at once; cheap, for every piece of a body."""
        assert not self._closed
        return self._budget.take(self, n)

    async def grow(self, n: int) -> None:
        """Take `n` more bytes, waiting for them if need be. Cancelled, it has taken none."""
        if not self.try_grow(n):
            await self._budget.wait(self, n)

    def resize(self, n: int) -> None:
        """The body became something of `n` bytes (a result); never waits."""
        assert not self._closed
        self._budget.put(self, n)

    def close(self) -> None:
        """Give everything back and wake those who now fit. May be called again."""
        if not self._closed:
            self._closed = True
            self._budget.put(self, 0, last=True)


class _Wait(NamedTuple):
    """A claim that waits for `n` bytes."""

    claim: Claim
    n: int
    granted: asyncio.Future[None]
