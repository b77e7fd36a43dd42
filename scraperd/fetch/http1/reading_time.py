"""How long all connections together may parse what sites sent, in one turn of the loop.

May touch: the running loop, a clock.
Must never: know HTTP, drop a connection, or serve one out of its order.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

SLICE: Final = 0.005  # seconds


class Waiting(Protocol):
    """A connection that holds data."""

    def go_on(self) -> None:
        """Parse what it holds."""


class ReadingTime:
    """The time of one turn of the loop for parsing; who comes when it is spent waits.

    When thousands of answers come in one moment, the loop calls thousands of connections
    before anything else. Each takes a fraction of a millisecond, all together took a second.
    """

    def __init__(
        self, slice_: float = SLICE, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._slice = slice_
        self._clock = clock
        self._spent = 0.0
        self._due = False
        self._waiting: deque[Waiting] = deque()

    @property
    def over(self) -> bool:
        """Whether the time of this turn is spent, or others wait already."""
        return self._spent >= self._slice or bool(self._waiting)

    @property
    def waiting(self) -> int:
        """How many connections wait for a later turn."""
        return len(self._waiting)

    def spend(self, work: Callable[[], None]) -> None:
        """Call `work`, and count the time it takes."""
        began = self._clock()
        try:
            work()
        finally:
            self._spent += self._clock() - began
            self._call_next()

    def wait(self, connection: Waiting) -> None:
        """Let `connection` go on in a later turn, behind those that wait already."""
        self._waiting.append(connection)
        self._call_next()

    def _call_next(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """Begin a turn: those that wait go on while there is time."""
        self._due, self._spent = False, 0.0
        while self._waiting and self._spent < self._slice:
            self.spend(self._waiting.popleft().go_on)
