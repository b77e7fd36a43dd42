"""What an attempt of a callback comes to: every status, the ladder of days, and Retry-After.

May touch: the pure functions.
Must never: depend on a random number: the roll is passed in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from scraperd.callbacks.ladder import (
    ATTEMPTS,
    JITTER,
    LADDER,
    MAX_AGE,
    MAX_RETRY_AFTER,
    Again,
    Delivered,
    Ended,
    is_trouble,
    outcome_of,
)
from scraperd.contract import Failure
from scraperd.fetch.message import Response

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
ALMOST = 1 - 2**-53  # the largest roll


def answer(status: int, **headers: str) -> Response:
    """A receiver's answer."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status, URL("http://x/"), CIMultiDictProxy(CIMultiDict(named)), b"")


def after(what: Any, attempt: int = 1, roll: float = 0.0) -> Any:
    return outcome_of(what, attempt, roll, NOW)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_each_2xx_is_success(status: int) -> None:
    """Whatever its body says."""
    assert after(answer(status)) == Delivered(status)


@pytest.mark.parametrize(
    "status", [300, 301, 302, 304, 307, 308, 400, 401, 404, 413, 429, 500, 503]
)
def test_each_other_status_is_tried_again(status: int) -> None:
    """A redirect too: it is never followed."""
    found = after(answer(status, Location="https://elsewhere.example/"))
    assert found == Again(f"the receiver answered {status}", 5, status)


def test_410_ends_at_once() -> None:
    """Also with a Retry-After."""
    found = after(answer(410, Retry_After="5"))
    assert (found.reason, found.status) == ("gone", 410)


def test_an_address_that_is_not_allowed_ends_at_once() -> None:
    """Days do not change it, and an operator who opens the address can replay the callback."""
    found = after(Failure("blocked_address", "no"))
    assert found == Ended("blocked", "no")


def test_the_ladder_climbs_for_days_and_ends() -> None:
    """Each wait is the ladder's or up to a tenth longer; after the tenth attempt it is over."""
    lost = Failure("connect", "refused", retryable=True)
    for attempt, wait in enumerate(LADDER, 1):
        assert after(lost, attempt) == Again("connect: refused", wait)
        longest = after(lost, attempt, ALMOST)
        assert wait < longest.wait <= wait * (1 + JITTER)
    end = after(lost, ATTEMPTS)
    assert end == Ended("exhausted", "10 attempts failed; the last: connect: refused")
    assert LADDER == (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
    assert sum(LADDER) * (1 + JITTER) < MAX_AGE


@pytest.mark.parametrize(
    ("asked", "wait"),
    [
        ("1", 5),  # the ladder is longer
        ("120", 120),
        ("Sat, 28 Nov 2026 12:10:00 GMT", 600),
        ("999999999", MAX_RETRY_AFTER),
        ("soon", 5),
    ],
)
def test_retry_after_is_obeyed_within_a_bound(asked: str, wait: float) -> None:
    """Never earlier than asked, and at most a day later than now."""
    assert after(answer(503, Retry_After=asked)).wait == wait
    assert after(answer(429, Retry_After=asked), roll=ALMOST).wait >= wait


@pytest.mark.parametrize(
    ("what", "trouble"),
    [
        (Failure("timeout", "15 s"), True),
        (Failure("dns", "no such name"), True),
        (answer(429), True),
        (answer(500), True),
        (answer(599), True),
        (answer(200), False),
        (answer(302), False),
        (answer(404), False),
        (answer(410), False),
    ],
)
def test_what_says_that_the_receiver_is_in_trouble(what: Any, trouble: bool) -> None:  # noqa: FBT001 - a column
    """No answer, 429 and 5xx count for the breaker; a 404 is about the one callback."""
    assert is_trouble(what) is trouble
