"""What becomes of a delivery: decide(...) -> Done | Retry | Snooze | Requeue | Dead. Pure.

May touch: the contract's values.
Must never: read a clock, draw a random number, or do anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import UNSET, Struct

from scraperd.base.backoff import pause_after
from scraperd.contract import Failure
from scraperd.politeness.admission import NotYet

if TYPE_CHECKING:
    from scraperd.broker.ports import Destination


class Done(Struct, frozen=True):
    """Publish the result. Also for what the site itself decided, like a 404."""


class Retry(Struct, frozen=True):
    """Publish the job to the delay tier that waits at least `delay` seconds, attempt + 1."""

    delay: float


class Snooze(Struct, frozen=True):
    """Publish the job to a delay tier, same attempt: `host` has its turn in `delay` seconds."""

    host: str
    delay: float


class Requeue(Struct, frozen=True):
    """Publish the job as it came, same attempt: it can't be worked on from here."""

    to: Destination


class Dead(Struct, frozen=True):
    """Publish the failed result, if there is anyone to `tell`, and the job to the dead queue."""

    reason: str
    tell: bool = True


Verdict: TypeAlias = Done | Retry | Snooze | Requeue | Dead


class Misplaced(Struct, frozen=True):
    """The job was not looked at, or its outcome could not be published: it belongs elsewhere."""

    to: Destination


class Unrun(Struct, frozen=True):
    """The job is not run any more, and `failure` says why. There is someone to `tell`, or not."""

    failure: Failure
    tell: bool


Ended: TypeAlias = Failure | NotYet | Misplaced | Unrun | None
"""How the work on a delivery ended: with a failure, in one of these ways, or (None) well."""


class Policy(Struct, frozen=True):
    """How failures are retried. Times in seconds."""

    max_retries: int
    backoff: float
    backoff_max: float
    retry_after_max: float


def decide(
    ended: Ended, attempt: int, policy: Policy, roll: float, *, anonymous: bool = False
) -> Verdict:
    """Decide what becomes of a delivery whose attempt number `attempt` (from 1) ended so.

    `roll` is a random number in [0, 1): full jitter, so that jobs that failed
    together do not come back together (AWS architecture blog, "Exponential
    Backoff And Jitter"). An `anonymous` job has no id and no address that a
    dispatcher would know its result by. A site's Retry-After is a lower bound, up to its cap.
    """
    match ended:
        case None:
            return Done()
        case NotYet(host, seconds):
            return Snooze(host, seconds)
        case Misplaced(to):
            return Requeue(to)
        case Unrun(failure, tell):
            return Dead(failure.kind, tell=tell)
        case Failure():
            return _of_failure(ended, attempt, policy, roll, anonymous=anonymous)


def _of_failure(
    failure: Failure, attempt: int, policy: Policy, roll: float, *, anonymous: bool
) -> Verdict:
    if failure.kind == "invalid_job":
        return Dead(failure.kind, tell=not anonymous)
    if failure.kind == "internal":
        return Dead(failure.kind)
    if not failure.retryable:
        return Done()
    if attempt > policy.max_retries:
        return Dead(failure.kind)
    delay = roll * pause_after(attempt, policy.backoff, policy.backoff_max)
    if failure.retry_after is not UNSET:
        delay = max(delay, min(failure.retry_after, policy.retry_after_max))
    return Retry(delay)
