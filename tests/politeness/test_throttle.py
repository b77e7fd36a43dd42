"""How a host's pace follows its answers.

May touch: the one module; times are handed in.
Must never: read a clock.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.politeness.throttle import (
    CUT_TTL,
    FIRST_DELAY,
    LOWEST_DRIFT,
    Throttle,
    smoothed,
)


def after(throttle: Throttle, *latencies: float) -> float:
    """Fetches one after the other; returns when the last one ended."""
    now = 1000.0
    for latency in latencies:
        throttle.answered(now, now + latency)
        now += latency
    return now


def test_too_busy_halves_the_window_and_then_doubles_the_delay() -> None:
    """Eight at once become four, two, one; then fetches are spaced out, up to the longest delay."""
    throttle = Throttle(limit=8, max_delay=3.0)
    steps = []
    for now in range(8):
        throttle.overloaded(float(now), float(now))
        steps.append((throttle.window, throttle.delay))
    assert steps == [
        (4, 0),
        (2, 0),
        (1, 0),
        (1, FIRST_DELAY),
        (1, 2 * FIRST_DELAY),
        (1, 4 * FIRST_DELAY),
        (1, 3.0),
        (1, 3.0),
    ]


def test_silence_leads_to_one_at_a_time_and_no_pause() -> None:
    """A host that does not answer in time holds fewer slots; waiting between would help nobody."""
    throttle = Throttle(limit=8, max_delay=30.0)
    for now in range(10):
        throttle.hung(float(now), float(now))
    assert (throttle.window, throttle.delay) == (1, 0)


def test_one_burst_counts_once() -> None:
    """Eight answers of 429 to fetches that ran side by side are one sign, not eight."""
    throttle = Throttle(limit=8, max_delay=30.0)
    for _ in range(8):
        throttle.overloaded(started_at=10.0, now=11.0)
    assert throttle.window == 4


def test_it_recovers() -> None:
    """With good answers the delay goes first, then the window grows back to its limit."""
    throttle = Throttle(limit=8, max_delay=30.0)
    for now in range(6):
        throttle.overloaded(float(now), float(now))
    assert throttle.delay > 0
    after(throttle, *[0.1] * 100)
    assert (throttle.window, throttle.delay) == (8, 0)
    assert throttle.evictable(0)


def test_ever_slower_is_too_fast() -> None:
    """A host whose answers take longer and longer gets fewer fetches at once, down to one."""
    throttle = Throttle(limit=8, max_delay=30.0)
    after(throttle, *[0.2] * 20)
    assert throttle.window == 8
    after(throttle, *[0.2 * 1.1**n for n in range(1, 60)])
    assert throttle.window == 1


@pytest.mark.parametrize("latency", [0.01, 0.2, 3.0])
def test_a_steady_host_is_left_alone(latency: float) -> None:
    """However slow it is: what counts is that it becomes slower."""
    throttle = Throttle(limit=8, max_delay=30.0)
    after(throttle, *[latency * (0.6 + 0.8 * (n % 7) / 7) for n in range(500)])
    assert throttle.window == 8


def test_switched_off_it_only_measures() -> None:
    """`autothrottle = false`: nothing is slowed down."""
    throttle = Throttle(limit=8, max_delay=30.0, enabled=False)
    for now in range(8):
        throttle.overloaded(float(now), float(now))
    after(throttle, 0.1, 10.0, 10.0, 10.0)
    assert (throttle.window, throttle.delay) == (8, 0)
    assert throttle.latency > 1


def test_an_old_fault_is_forgiven() -> None:
    """After ten quiet minutes the host may be forgotten, and begins anew."""
    throttle = Throttle(limit=8, max_delay=30.0)
    throttle.overloaded(100.0, 100.0)
    assert not throttle.evictable(100.0 + CUT_TTL - 1)
    assert throttle.evictable(100.0 + CUT_TTL)


def test_the_latency_is_smoothed_and_the_lowest_one_drifts() -> None:
    """The first answer sets both; a lower one counts at once, a higher one slowly."""
    throttle = Throttle(limit=8, max_delay=30.0)
    assert throttle.expected_latency == 0.1
    after(throttle, 0.2)
    assert (throttle.latency, throttle.lowest_latency) == pytest.approx((0.2, 0.2))
    after(throttle, 0.4)
    assert throttle.latency == pytest.approx(0.2 + 0.3 * 0.2)
    assert throttle.lowest_latency == pytest.approx(0.2 * 1.002)
    after(throttle, 0.1)
    assert throttle.lowest_latency == pytest.approx(0.1)
    assert smoothed(1.0, 2.0) == 1.3


def test_what_a_fetch_is_expected_to_last_is_bounded_by_the_lowest() -> None:
    """A smoothed latency of more than twice the lowest one is our own loop's."""
    throttle = Throttle(limit=8, max_delay=30.0)
    throttle.latency, throttle.lowest_latency = 0.3, 0.2
    assert throttle.expected_latency == 0.3
    throttle.latency = 0.5
    assert throttle.expected_latency == 0.4


def test_a_host_is_slower_past_twice_its_best_and_a_tolerance() -> None:
    """Below that the window grows, by one after a window's worth of answers."""
    for latency, window in [(0.89, 4.25), (0.91, 4 * 0.7)]:
        throttle = Throttle(limit=8, max_delay=30.0)
        throttle.window = 4.0
        throttle.latency, throttle.lowest_latency = latency, 0.2 / LOWEST_DRIFT
        throttle.answered(1000.0, 1000.0 + latency)
        assert throttle.window == pytest.approx(window)
    edge = 2 * (0.2 * LOWEST_DRIFT) + 0.5
    throttle.latency, throttle.lowest_latency, throttle.window = edge, 0.2, 4.0
    throttle.answered(0.0, edge)
    assert throttle.window == 4.25
    throttle.latency, throttle.window = 0.2, 7.99
    throttle.answered(3000.0, 3000.2)
    assert throttle.window == 8


def test_the_delay_goes_before_the_window_grows() -> None:
    """It decays with each answer, and ends once it is below the least one."""
    throttle = Throttle(limit=8, max_delay=30.0)
    throttle.window, throttle.delay = 1.0, 1.0
    after(throttle, 0.1)
    assert (throttle.window, throttle.delay) == (1.0, 0.9)
    throttle.delay = 0.0505 / 0.9
    after(throttle, 0.1)
    assert throttle.delay == pytest.approx(0.0505)
    after(throttle, 0.1)
    assert (throttle.window, throttle.delay) == (1.0, 0.0)
    throttle.delay = 0.05 / 0.9
    after(throttle, 0.1)
    assert throttle.delay == 0.0  # not above the least one
    after(throttle, 0.1)
    assert throttle.window == 2.0


def test_a_fetch_judges_only_if_it_started_after_the_last_cut() -> None:
    """At the very moment counts as after; each kind of cut holds off the others."""
    throttle = Throttle(limit=8, max_delay=30.0)
    throttle.hung(10.0, 20.0)
    assert throttle.window == 4
    throttle.overloaded(19.9, 21.0)
    assert throttle.window == 4
    throttle.hung(20.0, 25.0)
    assert throttle.window == 2
    throttle.latency, throttle.lowest_latency = 50.0, 0.1
    throttle.answered(24.0, 74.0)
    assert throttle.window == 2
    throttle.answered(25.0, 75.0)
    assert throttle.window == pytest.approx(2 * 0.7)


def test_the_delay_starts_only_where_the_window_was_one_before() -> None:
    """What cuts the window to one does not start it; a fetch from before does not double it."""
    throttle = Throttle(limit=2, max_delay=30.0)
    throttle.overloaded(0.0, 1.0)
    assert (throttle.window, throttle.delay) == (1, 0)
    throttle.overloaded(0.5, 2.0)
    assert throttle.delay == 0
    throttle.overloaded(2.0, 3.0)
    assert throttle.delay == FIRST_DELAY
    throttle.delay = FIRST_DELAY / 4
    throttle.overloaded(4.0, 5.0)
    assert throttle.delay == FIRST_DELAY
    assert Throttle(limit=8, max_delay=30.0).window == 8


def test_what_may_be_forgotten() -> None:
    """A throttle as good as a fresh one, at once; one with a delay or a smaller window, later."""
    throttle = Throttle(limit=8, max_delay=30.0)
    assert throttle.evictable(0.0)
    throttle.hung(100.0, 100.0)
    throttle.window = 8.0
    assert throttle.evictable(100.0)
    throttle.delay = 1.0
    assert not throttle.evictable(100.0)
    throttle.delay, throttle.window = 0.0, 7.5
    assert not throttle.evictable(699.9)
    assert throttle.evictable(700.0)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(0, 100), st.floats(0, 100)), max_size=60),
    st.integers(1, 50),
)
@settings(max_examples=200, deadline=None)
def test_it_keeps_its_bounds(answers: list[tuple[bool, float, float]], limit: int) -> None:
    """Whatever a host answers: one at least, `limit` at most, no delay beyond the longest."""
    throttle = Throttle(limit=limit, max_delay=30.0)
    now = 0.0
    for busy, took, pause in answers:
        started_at, now = now, now + took
        (throttle.overloaded if busy else throttle.answered)(started_at, now)
        now += pause
        assert 1 <= throttle.window <= limit
        assert 0 <= throttle.delay <= 30
        assert throttle.expected_latency > 0
