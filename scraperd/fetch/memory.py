"""A budget for the bytes of all bodies and results in flight: past it, fetches wait.

May touch: futures of the running loop.
Must never: look at every claim to decide on one, or let those who hold memory wait for each other.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Final, NamedTuple

SMALL: Final = 1024 * 1024  # bytes
COPIES: Final = 4  # times its bytes a job takes: as delivered, decoded, encoded, on its way out


class Budget:
    """`limit` bytes for the whole process; `used` is the sum of the open claims.

    One claim at a time may go beyond the limit: the senior (the first opened) of
    those who wait. It finishes and closes, and so frees what the others wait for.
    So `used` stays under the limit, and one body, and what results grew by.

    What claims have beyond `small` bytes takes half of the limit at most: large bodies, however
    slowly they come, leave the rest to others.
    """

    def __init__(self, limit: int, small: int = SMALL) -> None:
        self._whole = self._limit = limit
        self._deliveries = 0
        self._used = 0
        self._small = small
        self._large = 0  # of what is used, what claims have beyond that
        self._opened = 0
        self._beyond: Claim | None = None  # who may go beyond the limit, while we are past it
        self._waiting: dict[int, _Wait] = {}  # by the claim's number
        # Heaps of their numbers, of the small and the large, and of some that have left.
        self._seniority: tuple[list[int], list[int]] = [], []
        self._beginners: dict[asyncio.Future[None], None] = {}  # in the order in which they came

    @property
    def limit(self) -> int:
        """Bytes that may be claimed now: less, the more jobs are held as they were delivered."""
        return self._limit

    @property
    def waiting(self) -> int:
        """How many claims and fetches wait for bytes."""
        return len(self._waiting) + len(self._beginners)

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
        """Note the bytes of all jobs as they were delivered. They are not claims, so none waits.

        They leave less for those that do, but never less than half, or jobs could fill all of it
        and wait for memory to begin.
        """
        self._deliveries = deliveries
        self._limit = self._whole - min(COPIES * deliveries, self._whole // 2)
        self._serve()

    def configure(self, limit: int) -> None:
        """Take another limit. What is claimed already stays."""
        self._whole = limit
        self.hold(self._deliveries)

    def take(self, claim: Claim, n: int) -> bool:
        """Give the claim `n` bytes if they are there, or if it may go beyond the limit."""
        if claim is not self._beyond and not self._fits(claim, n):
            return False
        self._add(claim, n)
        return True

    def _fits(self, claim: Claim, n: int) -> bool:
        if self._is_large(claim, n) and self._large + self._more(claim, n) > self._limit // 2:
            return False
        return self._used + n <= self._limit

    def _is_large(self, claim: Claim, n: int) -> bool:
        return claim.size + n > self._small

    def _more(self, claim: Claim, n: int) -> int:
        """How much more it has beyond what is small, with `n` more bytes."""
        return max(0, claim.size + n - self._small) - max(0, claim.size - self._small)

    def _add(self, claim: Claim, n: int) -> None:
        self._large += self._more(claim, n)
        self._used += n
        claim.size += n

    async def wait(self, claim: Claim, n: int) -> None:
        """Give the claim `n` bytes once it is its turn; none if it is cancelled meanwhile."""
        future = asyncio.get_running_loop().create_future()
        self._waiting[claim.number] = _Wait(claim, n, future)
        heapq.heappush(self._seniority[self._is_large(claim, n)], claim.number)
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            if future.cancelled():
                self._waiting.pop(claim.number, None)
            else:
                self._add(claim, -n)  # they came just before the cancellation
            self._serve()
            raise

    def put(self, claim: Claim, n: int, *, last: bool = False) -> None:
        """Set the claim to `n` bytes, without a look at what is left."""
        self._add(claim, n - claim.size)
        if last and claim is self._beyond:
            self._beyond = None
        self._serve()

    def _serve(self) -> None:
        """Give to those who wait, by seniority; then let others begin."""
        if self._used <= self._limit and self._large <= self._limit // 2:
            self._beyond = None
        if not self._waiting and not self._beginners:
            return
        self._grant()
        if self._beyond is None and (first := self._first()) is not None:
            self._beyond = first.claim
            self._grant()
        if self._used < self._limit:
            for future in self._beginners:  # each leaves by itself
                if not future.done():
                    future.set_result(None)

    def _grant(self) -> None:
        """To the small by seniority, and to the large, as long as it fits."""
        for heap in self._seniority:
            while (wait := self._head(heap)) is not None and self.take(wait.claim, wait.n):
                wait.granted.set_result(None)
                del self._waiting[heapq.heappop(heap)]

    def _first(self) -> _Wait | None:
        """The senior of those who wait."""
        heads = [wait for heap in self._seniority if (wait := self._head(heap)) is not None]
        return min(heads, key=lambda wait: wait.claim.number, default=None)

    def _head(self, heap: list[int]) -> _Wait | None:
        while heap:
            wait = self._waiting.get(heap[0])
            if wait is not None and not wait.granted.done():
                return wait
            heapq.heappop(heap)
        return None


class Claim:
    """What one job holds of the budget, in bytes. It belongs to one task."""

    __slots__ = ("_budget", "_closed", "number", "size")

    def __init__(self, budget: Budget, number: int) -> None:
        self._budget = budget
        self._closed = False
        self.number = number  # the smaller, the more senior
        self.size = 0

    def try_grow(self, n: int) -> bool:
        """Take `n` more bytes if they are free now; cheap, for every piece of a body."""
        assert not self._closed
        return self._budget.take(self, n)

    async def grow(self, n: int) -> None:
        """Take `n` more bytes, and wait for them if needed. A cancelled call has taken none."""
        if not self.try_grow(n):
            await self._budget.wait(self, n)

    def resize(self, n: int) -> None:
        """The body became something of `n` bytes (a result); never waits."""
        assert not self._closed
        self._budget.put(self, n)

    def close(self) -> None:
        """Release all bytes, and wake claims that fit now. May be called again."""
        if not self._closed:
            self._closed = True
            self._budget.put(self, 0, last=True)


class _Wait(NamedTuple):
    """A claim that waits for `n` bytes."""

    claim: Claim
    n: int
    granted: asyncio.Future[None]
