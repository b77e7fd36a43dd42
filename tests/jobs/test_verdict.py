"""What becomes of a job: every kind of failure, and the bounds of every delay.

May touch: the one pure function.
Must never: depend on a random number: the roll is passed in.
"""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

from scraperd.broker.ports import Delay, Into, Source
from scraperd.contract import Failure, Kind
from scraperd.jobs.verdict import (
    Dead,
    Done,
    Misplaced,
    Policy,
    Requeue,
    Retry,
    Snooze,
    Unrun,
    Verdict,
    decide,
)
from scraperd.politeness.admission import NotYet

POLICY = Policy(max_retries=3, backoff=5.0, backoff_max=600.0, retry_after_max=3600.0)
NEVER_RETRIED = ("invalid_job", "internal")
OTHERS = [kind for kind in get_args(Kind) if kind not in NEVER_RETRIED]


def busy(retry_after: float) -> Failure:
    """A site that says when to come back."""
    return Failure("http_status", "503", retryable=True, retry_after=retry_after)


@pytest.mark.parametrize("attempt", [1, 4, 1_000_000])
def test_what_was_not_tried_moves_or_ends(attempt: int) -> None:
    """Whatever the attempt: a job that waits keeps it, and one that is not run has no other."""
    assert decide(NotYet("a.b", 12.5), attempt, POLICY, 0.5) == Snooze("a.b", 12.5)
    for to in (Into(Source.SOLO), Delay(60.0)):
        assert decide(Misplaced(to), attempt, POLICY, 0.5) == Requeue(to)
    for tell in (True, False):
        unrun = Unrun(Failure("expired", "", retryable=True), tell)
        assert decide(unrun, attempt, POLICY, 0.5) == Dead("expired", tell=tell)


@pytest.mark.parametrize("attempt", [1, 3, 4, 1_000_000])
def test_success_is_done(attempt: int) -> None:
    """A job that ended well is done, whichever attempt it was."""
    assert decide(None, attempt, POLICY, 0.5) == Done()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_the_site_decided_is_done(kind: Kind) -> None:
    """A failure that will not pass is a result for the dispatcher, not a dead letter."""
    assert decide(Failure(kind, ""), 1, POLICY, 0.5) == Done()
    assert decide(Failure(kind, ""), 9, POLICY, 0.5) == Done()


@pytest.mark.parametrize("kind", OTHERS)
def test_what_may_pass_is_tried_again_and_then_dead(kind: Kind) -> None:
    """A failure that may pass gets `max_retries` further attempts, and then a dead letter."""
    failure = Failure(kind, "", retryable=True)
    verdicts = [decide(failure, attempt, POLICY, 0.5) for attempt in range(1, 6)]
    assert [type(verdict) for verdict in verdicts] == [Retry, Retry, Retry, Dead, Dead]
    assert verdicts[3] == Dead(kind)


@pytest.mark.parametrize("retryable", [True, False])
def test_our_own_errors_are_dead_at_once(retryable: bool) -> None:  # noqa: FBT001 - a column
    """An invalid job and an error of ours would fail again: kept at once, never retried."""
    for kind in NEVER_RETRIED:
        failure = Failure(kind, "", retryable=retryable)
        assert decide(failure, 1, POLICY, 0.5) == Dead(kind)


def test_only_an_unreadable_job_of_nobody_is_told_to_nobody() -> None:
    """A body without any id or address is kept without a result; no other job is."""
    assert decide(Failure("invalid_job", ""), 1, POLICY, 0.5, anonymous=True) == Dead(
        "invalid_job", tell=False
    )
    assert decide(Failure("internal", ""), 1, POLICY, 0.5, anonymous=True) == Dead("internal")
    assert decide(None, 1, POLICY, 0.5, anonymous=True) == Done()


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 5), (2, 10), (3, 20), (7, 320), (8, 600), (99, 600)]
)
def test_the_bound_doubles_up_to_its_cap(attempt: int, bound: float) -> None:
    """Full jitter: the delay is the roll's share of a bound that doubles with each attempt."""
    policy = Policy(1000, 5.0, 600.0, 3600.0)
    for roll in (0.0, 0.25, 0.999):
        verdict = decide(Failure("dns", "", retryable=True), attempt, policy, roll)
        assert verdict == Retry(bound * roll)


@pytest.mark.parametrize(
    ("retry_after", "roll", "delay"),
    [
        (0.0, 0.5, 2.5),
        (2.0, 0.5, 2.5),
        (120.0, 0.5, 120.0),
        (3600.0, 0.5, 3600.0),
        (3601.0, 0.5, 3600.0),
        (999_999_999.0, 0.0, 3600.0),
    ],
)
def test_a_site_s_retry_after_is_a_lower_bound(
    retry_after: float, roll: float, delay: float
) -> None:
    """What the site asks for is waited for, up to its cap, and never shortens the backoff."""
    assert decide(busy(retry_after), 1, POLICY, roll) == Retry(delay)


def test_a_retry_after_does_not_outlive_the_retries() -> None:
    """A site that is always busy does not keep a job for ever."""
    assert decide(busy(60.0), POLICY.max_retries + 1, POLICY, 0.5) == Dead("http_status")


def test_without_retries_the_first_failure_is_the_last() -> None:
    """`max_retries` 0 means one attempt."""
    failure = Failure("timeout", "", retryable=True)
    assert decide(failure, 1, Policy(0, 5.0, 600.0, 3600.0), 0.5) == Dead("timeout")


SECONDS = st.floats(0.001, 3600.0)
FAILURES = st.none() | st.builds(
    Failure,
    kind=st.sampled_from(get_args(Kind)),
    message=st.just(""),
    retryable=st.booleans(),
    retry_after=st.just(UNSET) | st.floats(0.0, allow_nan=False),
)


@given(
    failure=FAILURES,
    attempt=st.integers(1, 1_000_001),
    policy=st.builds(Policy, st.integers(0, 10**30), SECONDS, SECONDS, SECONDS),
    roll=st.floats(0.0, 1.0, exclude_max=True),
    anonymous=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_every_verdict_is_within_its_bounds(
    failure: Failure | None,
    attempt: int,
    policy: Policy,
    roll: float,
    anonymous: bool,  # noqa: FBT001 - one of the inputs
) -> None:
    """Any failure, attempt, policy and roll give one verdict, and a delay that is capped."""
    verdict: Verdict = decide(failure, attempt, policy, roll, anonymous=anonymous)
    assert verdict == decide(failure, attempt, policy, roll, anonymous=anonymous)
    if isinstance(verdict, Retry):
        assert 0.0 <= verdict.delay <= max(policy.backoff_max, policy.retry_after_max)
        assert attempt <= policy.max_retries
        assert failure is not None
        assert failure.retryable
    else:
        assert isinstance(verdict, Done | Dead)
