"""What an attempt came to, and when the next one is: the ladder of days. Pure.

May touch: an answer's status and headers, as values.
Must never: draw a random number of its own, or know who waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from msgspec import Struct

from scraperd.contract import Failure
from scraperd.fetch.message import retry_after

if TYPE_CHECKING:
    from datetime import datetime

    from scraperd.fetch.message import Response

MINUTE: Final = 60
HOUR: Final = 3600
# Seconds after each attempt that failed; the standard's example schedule.
LADDER: Final = (5, 5 * MINUTE, 30 * MINUTE, *(HOUR * n for n in (2, 5, 10, 14, 20, 24)))
ATTEMPTS: Final = len(LADDER) + 1
JITTER: Final = 0.1  # of a wait, at most, on top of it
MAX_RETRY_AFTER: Final = 24 * HOUR  # seconds; a longer Retry-After counts as this
MAX_AGE: Final = 4 * 24 * HOUR  # seconds; the ladder with all its jitter takes 3.5 days
_GONE: Final = 410
_OK: Final = range(200, 300)
_TOO_MANY: Final = 429  # RFC 6585
_SERVER_ERROR: Final = 500


class Delivered(Struct, frozen=True):
    """The receiver has it."""

    status: int


class Again(Struct, frozen=True):
    """It failed: the next attempt is in `wait` seconds at the earliest."""

    why: str
    wait: float
    status: int | None = None


class Ended(Struct, frozen=True):
    """It is not tried again: the reason in a word, and in words."""

    reason: str
    why: str
    status: int | None = None


Outcome: TypeAlias = Delivered | Again | Ended


def outcome_of(answer: Response | Failure, attempt: int, roll: float, now: datetime) -> Outcome:
    """Return what becomes of a callback after its attempt number `attempt`, from 1.

    `roll` is a random number in [0, 1).
    """
    if isinstance(answer, Failure):
        if answer.kind == "blocked_address":
            return Ended("blocked", answer.message)
        return _again(f"{answer.kind}: {answer.message}", attempt, roll)
    status = answer.status
    if status in _OK:
        return Delivered(status)
    if status == _GONE:
        return Ended("gone", "the receiver answered 410: it wants no more callbacks", status)
    asked = min(retry_after(answer.headers, now) or 0.0, MAX_RETRY_AFTER)
    return _again(f"the receiver answered {status}", attempt, roll, asked, status)


def _again(
    why: str, attempt: int, roll: float, asked: float = 0.0, status: int | None = None
) -> Outcome:
    if attempt >= ATTEMPTS:
        return Ended("exhausted", f"{attempt} attempts failed; the last: {why}", status)
    wait = max(asked, LADDER[attempt - 1]) * (1 + JITTER * roll)
    return Again(why, wait, status)


def is_trouble(answer: Response | Failure) -> bool:
    """Whether the receiver as a whole is in trouble: no answer, 429, or a 5xx.

    Another status is about the one callback.
    """
    if isinstance(answer, Failure):
        return True
    return answer.status == _TOO_MANY or answer.status >= _SERVER_ERROR
