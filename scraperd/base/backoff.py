"""Exponential backoff: how long to wait before each next trial. Pure.

May touch: nothing; who waits, and where the random numbers come from, is the caller's business.
Must never: sleep, or draw a random number of its own.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
