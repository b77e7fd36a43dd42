"""The clocks and the die of a process, as one value: who needs the time is handed it.

May touch: the machine's clocks and random numbers, for SYSTEM alone.
Must never: be read at the head of a room: the composition roots hand SYSTEM in, tests their own.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable


class Clocks(Struct, frozen=True):
    """What tells the time, and what makes a moment random.

    `monotonic` gives seconds that no correction of the time of day moves, `wall` gives
    seconds since 1970, `roll` gives random numbers in [0, 1).
    """

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    roll: Callable[[], float]

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def between(self, low: float, high: float) -> float:
        """Return a random number from `low` to `high`: jitter."""
        return low + (high - low) * self.roll()


SYSTEM: Final = Clocks(time.monotonic, time.time, random.random)
