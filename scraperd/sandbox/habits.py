"""What is known of how long pages take, by what is asked of them; and how many may be sent away.

May touch: numbers. Pure.
Must never: let one page speak for all of its kind, or remember more than so many kinds.
"""

from __future__ import annotations

from typing import Final

from scraperd.base.cache import Cache

LONG: Final = 4  # what a long page counts; a short one takes back 1
OFTEN: Final = 6  # from here on its kind is known to be long: two pages
MOST: Final = 40  # and more is not counted
KNOWN: Final = 1024  # kinds


class Habits:
    """In which lane the pages of a kind end, if a fifth of them or more do not in the first."""

    def __init__(self) -> None:
        self._long: Cache[int, tuple[int, int]] = Cache(KNOWN)  # the count, the last lane

    def __bool__(self) -> bool:
        """Whether any page was long."""
        return bool(self._long)

    def note(self, kind: int, lane: int) -> None:
        """A page of this kind ended in this lane."""
        count, last = self._long.pop(kind) or (0, 0)
        count = min(MOST, count + LONG) if lane else count - 1
        if count > 0:
            self._long.put(kind, (count, lane or last))

    def lane(self, kind: int) -> int:
        """The lane in which the last long page of this kind ended, if many were long; else 0."""
        count, lane = self._long.get(kind) or (0, 0)
        return lane if count >= OFTEN else 0


class Leave:
    """So many a second at most, and as many at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._left = rate
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether another one may be; `now` in seconds of any clock that does not go back."""
        self._left = min(self._rate, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
