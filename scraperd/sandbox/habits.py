"""How long pages of each kind take, as observed; and a token bucket for jobs that are sent away.

May touch: numbers. Pure.
Must never: let one page speak for all of its kind, or remember more than MAX_KINDS kinds.
"""

from __future__ import annotations

from typing import Final

from scraperd.base.cache import Cache

LONG: Final = 4  # what a long page counts; a short one takes back 1
OFTEN: Final = 6  # from here on its kind is known to be long: two pages
MAX_COUNT: Final = 40  # and more is not counted
MAX_KINDS: Final = 1024  # kinds


class Habits:
    """The level in which the pages of a kind end, if a fifth of them or more pass the first."""

    def __init__(self) -> None:
        self._long: Cache[int, tuple[int, int]] = Cache(MAX_KINDS)  # the count, the last level

    def __len__(self) -> int:
        """The number of kinds of which a page was long lately: at most MAX_KINDS."""
        return len(self._long)

    def note(self, kind: int, level: int) -> None:
        """Note that a page of this kind ended in this level."""
        count, last = self._long.pop(kind) or (0, 0)
        count = min(MAX_COUNT, count + LONG) if level else count - 1
        if count > 0:
            self._long.put(kind, (count, level or last))

    def level(self, kind: int) -> int:
        """The level in which the last long page of this kind ended, or 0 if few were long."""
        count, level = self._long.get(kind) or (0, 0)
        return level if count >= OFTEN else 0


class TokenBucket:
    """A token bucket: `rate` events a second at most, and as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Take a token; False if there is none. `now` is in seconds of a monotonic clock."""
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
