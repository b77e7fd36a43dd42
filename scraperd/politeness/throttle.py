"""How fast one host can be fetched from: fewer at once, or slower, as it answers.

May touch: nothing; times are handed in. Pure.
Must never: go beyond the limits it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GUESS: Final = 0.1  # seconds a fetch is taken to last before the first one has
FIRST_DELAY: Final = 0.5  # seconds between fetches once one at a time is too fast
GROWTH: Final = 1.002  # of the best latency with each fetch: what is usual may change
SLACK: Final = 0.5  # seconds above twice the best latency: our own loop may have been busy
SMOOTHING: Final = 0.3  # weight of the newest latency
SLOWER: Final = 0.7  # of the window is kept when a host gets slower
CALM: Final = 0.9  # of the delay is kept with each good answer
NO_DELAY: Final = 0.05  # seconds; a smaller delay is none
FORGIVEN: Final = 600.0  # seconds after which a slowing down no longer counts


@dataclass(slots=True)
class Throttle:
    """Additive increase, multiplicative decrease, as TCP does it (RFC 5681); latency as in Vegas.

    `limit` is the most at once, `longest` the longest delay in seconds. The
    window shrinks to one fetch at a time first; then the delay doubles.
    """

    limit: int
    longest: float
    enabled: bool = True
    window: float = 0.0
    delay: float = 0.0
    latency: float = 0.0
    best: float = 0.0
    _cut: float = -FORGIVEN

    def __post_init__(self) -> None:
        self.window = float(self.limit)

    @property
    def usual(self) -> float:
        """Seconds a fetch may be expected to last; what only we were slow at is cut off."""
        return min(self.latency, 2 * self.best) or GUESS

    def answered(self, began: float, now: float) -> None:
        """A fetch that began at `began` came to a good end."""
        took = now - began
        self.latency = took if self.best == 0.0 else _mix(self.latency, took)
        self.best = min(took, self.best * GROWTH) if self.best else took
        if not self.enabled:
            return
        if self.latency > 2 * self.best + SLACK:
            self._shrink(SLOWER, began, now)
        elif self.delay:
            self.delay = self.delay * CALM if self.delay * CALM > NO_DELAY else 0.0
        else:
            self.window = min(self.limit, self.window + 1 / self.window)

    def hung(self, began: float, now: float) -> None:
        """The host did not answer in time: fewer at once. A pause would help nobody."""
        self._shrink(0.5, began, now)

    def overloaded(self, began: float, now: float) -> None:
        """The host said that it is too much (429, 503)."""
        single = self.window == 1
        if self._shrink(0.5, began, now) and single:
            self.delay = min(self.longest, max(FIRST_DELAY, self.delay * 2))

    def _shrink(self, factor: float, began: float, now: float) -> bool:
        """Cut the window; False if the fetch began before the last cut, which it can't judge."""
        if not self.enabled or began < self._cut:
            return False
        self.window, self._cut = max(1.0, self.window * factor), now
        return True

    def calm(self, now: float) -> bool:
        """Whether nothing is lost by forgetting it."""
        return now - self._cut >= FORGIVEN or (not self.delay and self.window == self.limit)


def _mix(old: float, new: float) -> float:
    return old + SMOOTHING * (new - old)
