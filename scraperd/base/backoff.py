"""Exponential backoff: how long to wait before each next trial. Pure.

May touch: nothing; who waits, and where the random numbers come from, is the caller's business.
Must never: sleep, or draw a random number of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def backoff(
    first: float, longest: float, jitter: Callable[[], float] | None = None
) -> Iterator[float]:
    """Yield pauses in seconds, without end: `first`, twice that, and so on up to `longest`.

    Each is multiplied by what `jitter()` returns, which is asked once a pause. Without
    `jitter` the pauses are exact. `random.random` makes it full jitter.
    """
    pause = min(first, longest)
    while True:
        yield pause if jitter is None else pause * jitter()
        pause = min(2 * pause, longest)


def within(patience: float, pauses: Iterator[float]) -> Iterator[float]:
    """Yield from `pauses` until they add up to `patience` seconds; the last may go beyond it.

    So there is one trial before the first pause, and one after the last.
    """
    waited = 0.0
    while waited < patience:
        pause = next(pauses)
        yield pause
        waited += pause
