"""Exponential backoff: how long to wait before each next trial. Pure.

May touch: nothing; who waits, and where the random numbers come from, is the caller's business.
Must never: sleep, or draw a random number of its own.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALM: Final = 30.0  # seconds that a connection lasts, after which the next pause is the first
_MAX_DOUBLINGS: Final = 32  # 2**32 seconds are a century; a float could hold 1023


def pause_after(failures: int, first: float, longest: float) -> float:
    """Return the exact pause in seconds after that many failures (from 1), without jitter."""
    return min(longest, first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))


def backoff(
    first: float, longest: float, jitter: Callable[[], float] | None = None
) -> Iterator[float]:
    """Yield pauses in seconds, without end: `first`, twice that, and so on up to `longest`.

    Each is multiplied by what `jitter()` returns, which is asked once a pause. Without
    `jitter` the pauses are exact. `random.random` makes it full jitter.
    """
    for failures in count(1):
        pause = pause_after(failures, first, longest)
        yield pause if jitter is None else pause * jitter()


def within(patience: float, pauses: Iterator[float]) -> Iterator[float]:
    """Yield from `pauses` until they add up to `patience` seconds; the last may go beyond it.

    So there is one trial before the first pause, and one after the last.
    """
    waited = 0.0
    while waited < patience:
        pause = next(pauses)
        yield pause
        waited += pause


class Pauses:
    """The pauses before a connection that is made again and again, in seconds.

    `first`, twice that, and so on up to `longest`; `between` draws each from its upper half.
    """

    def __init__(
        self, first: float, longest: float, between: Callable[[float, float], float]
    ) -> None:
        self._first = first
        self._longest = longest
        self._between = between
        self._pause = first

    def refused(self) -> None:
        """Have the next pause be the longest one."""
        self._pause = self._longest

    def after(self, lasted: float) -> float:
        """Return the next pause, after a connection that lasted so many seconds."""
        pause = self._first if lasted >= CALM else self._pause
        self._pause = min(2 * pause, self._longest)
        return self._between(pause / 2, pause)
