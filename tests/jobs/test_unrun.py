"""Why a job is not run: when it has expired, goes in circles, or was given up, to the very bound.

May touch: values.
Must never: need a worker, a broker or a clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from scraperd.contract import Failure, Job
from scraperd.jobs.envelope import Envelope
from scraperd.jobs.unrun import (
    MAX_SNOOZES,
    SPARE_TRIES,
    at_its_limit,
    given_up,
    reason_not_to,
)

if TYPE_CHECKING:
    from scraperd.contract import Kind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = Job(url="http://x/")
MAX_RETRIES = 3
LOST = 2 * MAX_RETRIES + SPARE_TRIES  # tries that a job may have forgotten


@pytest.mark.parametrize(
    ("reason", "times", "kind", "said"),
    [
        ("expired", None, "expired", "its time to live passed before a worker took it"),
        ("delivery_limit", 20, "internal", "given out 20 times and more, and without"),
        ("delivery_limit", None, "internal", "given out too often, and without an outcome"),
        ("maxlen", 20, "internal", "took it from its queue, the reason is 'maxlen'"),
        ("unknown", None, "internal", "took it from its queue, the reason is 'unknown'"),
    ],
)
def test_what_the_broker_gave_up(reason: str, times: int | None, kind: Kind, said: str) -> None:
    """The failure says that the broker did it, why, and how often; it is never retried."""
    failure = given_up(reason, times)
    assert failure == Failure(kind, failure.message)
    assert failure.message.startswith("the broker")
    assert said in failure.message


def test_a_job_at_its_limit_is_told_of_its_strikes() -> None:
    """The failure is `internal`, and says how often the job was delivered."""
    failure = at_its_limit(4)
    assert failure == Failure("internal", failure.message)
    assert failure.message.startswith("delivered 4 times before")


@pytest.mark.parametrize(("seconds", "ends"), [(-1, True), (0, True), (1, False)])
def test_a_job_expires_at_its_moment(seconds: int, ends: bool) -> None:  # noqa: FBT001 - a column
    """At `expires_at` the job is not run any more; before, it is."""
    moment = NOW + timedelta(seconds=seconds)
    failure = reason_not_to(Job(url="http://x/", expires_at=moment), Envelope(), MAX_RETRIES, NOW)
    said = Failure("expired", f"expires_at was {moment.isoformat()}")
    assert failure == (said if ends else None)


def test_a_job_that_was_snoozed_too_often_ends() -> None:
    """At MAX_SNOOZES, with their number; one fewer is no reason."""
    often = Envelope(snoozes=MAX_SNOOZES, waits=MAX_SNOOZES)
    failure = reason_not_to(JOB, often, MAX_RETRIES, NOW)
    assert failure is not None
    assert failure == Failure("timeout", failure.message)
    assert failure.message.startswith(f"it was snoozed {MAX_SNOOZES} times")
    fewer = Envelope(snoozes=MAX_SNOOZES - 1, waits=MAX_SNOOZES - 1)
    assert reason_not_to(JOB, fewer, MAX_RETRIES, NOW) is None


@pytest.mark.parametrize(
    ("envelope", "ends"),
    [
        (Envelope(tries=1 + LOST), False),
        (Envelope(tries=2 + LOST), True),
        (Envelope(attempt=2, tries=2 + LOST), False),
        (Envelope(waits=2 * MAX_SNOOZES), False),
        (Envelope(waits=2 * MAX_SNOOZES + 1), True),
        (Envelope(snoozes=1, waits=2 * MAX_SNOOZES + 1), False),
        (Envelope(snoozes=1, waits=2 * MAX_SNOOZES + 2), True),
    ],
)
def test_a_job_whose_envelope_gets_lost_ends(
    envelope: Envelope,
    ends: bool,  # noqa: FBT001 - a column
) -> None:
    """Only what the envelope has forgotten counts, up to twice what a job may have, and a spare."""
    failure = reason_not_to(JOB, envelope, MAX_RETRIES, NOW)
    assert (failure is not None) == ends
    if failure is not None:
        assert failure == Failure("internal", failure.message)
        counts = f"it was tried {envelope.tries} times and waited {envelope.waits} times, and the"
        assert failure.message.startswith(counts)
        assert failure.message.endswith("the same jobs.signing_key_file")
