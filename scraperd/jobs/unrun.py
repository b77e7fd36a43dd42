"""Why a job is not run, or not any more, in the words of a failure. Pure.

May touch: a job, its envelope, counts, times that are handed in.
Must never: look into a body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from scraperd.contract import Failure

if TYPE_CHECKING:
    from datetime import datetime

    from scraperd.contract import Job
    from scraperd.jobs.envelope import Envelope

MAX_SNOOZES: Final = 1000  # a job that was snoozed this often goes in circles
SPARE_TRIES: Final = 100  # forgotten ones, beyond twice max_retries, that end a job


def given_up(reason: str, times: int | None) -> Failure:
    """Return what the dispatcher of a job is told that the broker gave up for `reason`.

    `times` is how often the broker gave it out at least, if that is known.
    """
    if reason == "expired":
        return Failure("expired", "the broker: its time to live passed before a worker took it")
    if reason == "delivery_limit":
        often = f"{times} times and more" if times else "too often"
        why = f"the broker: given out {often}, and without an outcome each time"
        return Failure("internal", why)
    return Failure("internal", f"the broker took it from its queue, the reason is {reason!r}")


def at_its_limit(strikes: int) -> Failure:
    """Return what is told of a job at its `delivery_limit`."""
    return Failure("internal", f"delivered {strikes} times before, and no outcome each time")


def reason_not_to(job: Job, envelope: Envelope, max_retries: int, now: datetime) -> Failure | None:
    """Return why the job is not run: it has expired, or it goes in circles; None if it is run."""
    if job.expires_at is not UNSET and job.expires_at <= now:
        return Failure("expired", f"expires_at was {job.expires_at.isoformat()}")
    if (snoozes := envelope.snoozes) >= MAX_SNOOZES:
        why = f"it was snoozed {snoozes} times, for its host's turn or for a helper"
        return Failure("timeout", why)
    return _forgotten(envelope, max_retries)


def _forgotten(envelope: Envelope, max_retries: int) -> Failure | None:
    """Return the failure of a job whose envelope gets lost each time, so that it never ends.

    So it is where processes have different keys. A change of the key costs a job no more than what
    it had by then: there is room for two of them.
    """
    tries, waits = envelope.tries - envelope.attempt, envelope.waits - envelope.snoozes
    if tries <= 2 * max_retries + SPARE_TRIES and waits <= 2 * MAX_SNOOZES:
        return None
    return Failure(
        "internal",
        f"it was tried {envelope.tries} times and waited {envelope.waits} times, and the "
        "signature of its headers was not valid; give all processes the same jobs.signing_key_file",
    )
