"""How many callbacks one destination gets at once, and when it gets none: bounds and breakers.

May touch: futures of the running loop, the clocks it is handed.
Must never: let one destination hold more than its share of what this process may hold.

The states of a destination:

| state   | what a callback does                                  | ends by                       |
| ------- | ----------------------------------------------------- | ----------------------------- |
| closed  | goes, waits here, or comes back when a place is free  | FAILURES failures in a row    |
| open    | comes back when the pause is over                     | the end of the pause          |
| trial   | one goes; the others come back a little later         | an answer: closed, or open    |
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from scraperd.base.backoff import pause_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.base.clocks import Clocks

FAILURES: Final = 5  # in a row, after which a destination gets none for a while
MIN_PAUSE: Final = 15.0  # seconds
MAX_PAUSE: Final = 300.0
TRIAL: Final = 15.0  # seconds after which others look whether a trial has ended
FIRST_GUESS: Final = 0.5  # seconds that an attempt takes, before one was made
LEARNING: Final = 0.2  # the share of the last attempt in what the next one is expected to take
FURTHEST: Final = 1800.0  # seconds; no free place is promised beyond that
SPREAD: Final = 0.25  # of a wait, on top of it: those that leave together come back apart
MAX_KNOWN: Final = 10_000  # destinations that are remembered


class Destination:
    """One scheme, host and port. `most` callbacks may be on their way to it, and as many wait."""

    def __init__(self, most: int, clocks: Clocks) -> None:
        self._most = most
        self._clocks = clocks
        self._took = FIRST_GUESS
        self._promised = 0.0  # the moment of the last place that was promised
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._open_until = 0.0
        self._trial = False
        self.running = 0
        self.failures = 0
        """How many attempts failed in a row."""

    @property
    def idle(self) -> bool:
        """True if nothing is on its way to it, and nothing is remembered against it."""
        return not self.running and not self._waiting and not self.failures

    @property
    def paused(self) -> bool:
        """True if its failures forbid all but a trial."""
        return self.failures >= FAILURES

    async def enter(self) -> float | None:
        """Take a place, or return the seconds after which there may be one. Then `leave` it.

        None: the place is taken.
        """
        now = self._clocks.monotonic()
        if self.paused:
            if self._trial or now < self._open_until:
                return self._spread(max(self._open_until - now, TRIAL if self._trial else 1.0))
            self._trial = True
            self.running += 1
            return None
        if self.running < self._most:
            self.running += 1
            return None
        if len(self._waiting) >= self._most:
            return self._promise(now)
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place  # who leaves hands its place over
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._free()
            with suppress(ValueError):
                self._waiting.remove(place)
            raise
        if self.failures < FAILURES:
            return None
        self._free()  # it began to fail meanwhile
        return self._spread(max(self._open_until - self._clocks.monotonic(), 1.0))

    def _promise(self, now: float) -> float:
        """The seconds to the next free place, at the pace that the destination has shown."""
        gap = self._took / self._most
        behind = now + self._took * (1 + len(self._waiting) / self._most)
        self._promised = min(max(self._promised + gap, behind), now + FURTHEST)
        return self._spread(self._promised - now)

    def _spread(self, seconds: float) -> float:
        return seconds * (1 + SPREAD * self._clocks.roll())

    def leave(self, took: float | None, *, failed: bool) -> float | None:
        """Give the place back after `took` seconds; None if nothing was learnt.

        Returns the seconds of the pause that begins now, if one does.
        """
        self._trial = False
        pause = None
        if took is not None:
            self._took += LEARNING * (took - self._took)
            self.failures = self.failures + 1 if failed else 0
            if self.paused:
                pause = pause_after(self.failures - FAILURES + 1, MIN_PAUSE, MAX_PAUSE)
                self._open_until = self._clocks.monotonic() + pause
        self._free()
        return pause

    def _free(self) -> None:
        """Hand a place over to who waits; those that may not go any more see that themselves."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return
        self.running -= 1


class Destinations:
    """The destinations that are known, by their origins. The idle ones used longest ago go.

    `paused` is how many of them get none but trials.
    """

    def __init__(self, most: int, clocks: Clocks) -> None:
        self._make: Callable[[], Destination] = lambda: Destination(most, clocks)
        self._known: OrderedDict[tuple[str, bool], Destination] = OrderedDict()
        self.paused = 0

    def of(self, name: str, *, chosen: bool = False) -> Destination:
        """Return the destination of an origin.

        That of URLs which publishers have `chosen` is another than that of endpoints, or a
        publisher could have an endpoint paused by a URL there that fails.
        """
        origin = name, chosen
        found = self._known.get(origin)
        if found is None:
            if len(self._known) >= MAX_KNOWN:
                self._forget()
            found = self._known[origin] = self._make()
        self._known.move_to_end(origin)
        return found

    def _forget(self) -> None:
        """Forget the one used longest ago that is not in use, be it a failing one."""
        for origin, one in self._known.items():
            if not one.running:
                self.paused -= one.paused
                del self._known[origin]
                return

    def leave(self, one: Destination, took: float | None, *, failed: bool) -> float | None:
        """Give a place at a destination back; see Destination.leave."""
        before = one.paused
        pause = one.leave(took, failed=failed)
        self.paused += one.paused - before
        return pause
