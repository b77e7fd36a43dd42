"""Which lines of failures are written: some of each cause in a minute, and then a count.

May touch: a clock it is given.
Must never: grow with the number of hosts, or forget what it counted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPEAT_INTERVAL: Final = 60.0  # seconds
MAX_CAUSES: Final = 1000  # hosts and kinds that are remembered


class Cause(NamedTuple):
    """What failures have in common."""

    host: str | None
    kind: str


@dataclass(slots=True)
class _Seen:
    since: float
    written: int = 0
    hidden: int = 0


@dataclass(slots=True)
class Repeats:
    """Counts the failures of each cause since the first one, for a minute at most."""

    clock: Callable[[], float] = time.monotonic
    _seen: dict[Cause, _Seen] = field(default_factory=dict)  # from the oldest

    def take(self, cause: Cause, most: int) -> bool:
        """Count a failure; True if its line is among the first `most` of its minute."""
        seen = self._seen.setdefault(cause, _Seen(self.clock()))
        if seen.written < most:
            seen.written += 1
            return True
        seen.hidden += 1
        return False

    def over(self, *, all_of_them: bool = False) -> Iterator[tuple[Cause, int]]:
        """Forget causes whose minute is over; yield those with lines that were not written."""
        before = self.clock() - REPEAT_INTERVAL
        while self._seen:
            cause, seen = next(iter(self._seen.items()))
            if seen.since > before and len(self._seen) <= MAX_CAUSES and not all_of_them:
                return
            del self._seen[cause]
            if seen.hidden:
                yield cause, seen.hidden
