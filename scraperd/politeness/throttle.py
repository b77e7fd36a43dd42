"""How fast one host can be fetched from: fewer at once, or slower, as it answers. Pure.

May touch: nothing; times are handed in.
Must never: go beyond the limits it was given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ASSUMED_LATENCY: Final = 0.1  # seconds; of a host that has answered nothing yet
FIRST_DELAY: Final = 0.5  # seconds between fetches once one at a time is too fast
LOWEST_DRIFT: Final = 1.002  # of the lowest latency with each answer: a host may become slower
TOLERANCE: Final = 0.5  # seconds above twice the lowest latency: our own loop may have been busy
LATENCY_WEIGHT: Final = 0.3  # of the newest latency in the smoothed one
SLOWER: Final = 0.7  # of the window is kept when a host gets slower
OVERLOADED: Final = 0.5  # of the window is kept when a host hangs or says that it is too much
DELAY_DECAY: Final = 0.9  # of the delay is kept with each good answer
MIN_DELAY: Final = 0.05  # seconds; a delay that decays below this ends
CUT_TTL: Final = 600.0  # seconds after which a cut of the window no longer counts


@dataclass(slots=True)
class Throttle:
    """Additive increase, multiplicative decrease, as TCP does it (RFC 5681); latency as in Vegas.

    `limit` is the most fetches at once, `max_delay` the longest delay in seconds. The
    `window`, how many fetches may run at once, shrinks to one first; then the delay doubles.
    """

    limit: int
    max_delay: float
    enabled: bool = True
    window: float = 0.0
    delay: float = 0.0
    latency: float = 0.0
    lowest_latency: float = 0.0
    _cut_at: float = -CUT_TTL

    def __post_init__(self) -> None:
        self.window = float(self.limit)

    @property
    def expected_latency(self) -> float:
        """Seconds a fetch may be expected to last; a delay of our own loop is cut off."""
        return min(self.latency, 2 * self.lowest_latency) or ASSUMED_LATENCY

    def configure(self, limit: int, max_delay: float, *, enabled: bool) -> None:
        """Take other limits. What was learned of the host is kept, as far as they allow it."""
        if not enabled or self.window == self.limit:
            self.window = float(limit)
        self.window = min(self.window, float(limit))
        self.delay = min(self.delay, max_delay) if enabled else 0.0
        self.limit, self.max_delay, self.enabled = limit, max_delay, enabled

    def answered(self, started_at: float, now: float) -> None:
        """Learn from a fetch that came to a good end."""
        took = now - started_at
        if self.lowest_latency:
            self.latency = smoothed(self.latency, took)
            self.lowest_latency = min(took, self.lowest_latency * LOWEST_DRIFT)
        else:
            self.latency = self.lowest_latency = took
        if not self.enabled:
            return
        if self.latency > 2 * self.lowest_latency + TOLERANCE:
            self._cut(SLOWER, started_at, now)
        elif self.delay:
            self.delay = self.delay * DELAY_DECAY if self.delay * DELAY_DECAY > MIN_DELAY else 0.0
        else:
            self.window = min(self.limit, self.window + 1 / self.window)

    def hung(self, started_at: float, now: float) -> None:
        """The host did not answer in time: fewer at once. A pause would help nobody."""
        self._cut(OVERLOADED, started_at, now)

    def overloaded(self, started_at: float, now: float) -> None:
        """The host said that it is too much (429, 503)."""
        single = self.window == 1
        if self._cut(OVERLOADED, started_at, now) and single:
            self.delay = min(self.max_delay, max(FIRST_DELAY, self.delay * 2))

    def _cut(self, factor: float, started_at: float, now: float) -> bool:
        """Shrink the window. False if the fetch started before the last cut: it can't judge it."""
        if not self.enabled or started_at < self._cut_at:
            return False
        self.window, self._cut_at = max(1.0, self.window * factor), now
        return True

    def evictable(self, now: float) -> bool:
        """True if a fresh throttle would do as well, so that this one can be forgotten."""
        unlimited = not self.delay and self.window == self.limit
        return unlimited or now - self._cut_at >= CUT_TTL


def smoothed(old: float, new: float) -> float:
    """Mix the newest latency into the smoothed one."""
    return old + LATENCY_WEIGHT * (new - old)
