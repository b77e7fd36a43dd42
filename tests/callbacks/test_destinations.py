"""Bounds and breakers of destinations: who goes, who waits here, who comes back, and when.

May touch: the loop whose clock jumps.
Must never: depend on a random number: the roll is passed in.
"""

from __future__ import annotations

import asyncio
import itertools

from scraperd.base.clocks import Clocks
from scraperd.callbacks import destinations
from scraperd.callbacks.destinations import (
    FAILURES,
    FURTHEST,
    MAX_PAUSE,
    MIN_PAUSE,
    Destination,
    Destinations,
)
from tests.rig.clocks import hours


class Time:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.clocks = Clocks(lambda: self.now, lambda: self.now, lambda: 0.0)


def failing(destination: Destination, times: int) -> float | None:
    """So many attempts that fail; the pause that begins with the last."""
    pause = None
    for _ in range(times):
        assert hours.run(destination.enter()) is None
        pause = destination.leave(0.1, failed=True)
    return pause


def test_a_few_go_at_once_as_many_wait_and_the_others_come_back() -> None:
    """Who leaves hands its place over; nothing beyond twice the bound is held here."""
    time = Time()

    async def life() -> None:
        one = Destination(2, time.clocks)
        assert [await one.enter(), await one.enter()] == [None, None]
        waiting = [asyncio.ensure_future(one.enter()) for _ in range(2)]
        await asyncio.sleep(0)
        later = await one.enter()
        assert later is not None
        assert later > 0
        assert one.running == 2
        for place in waiting:
            one.leave(0.1, failed=False)
            assert await place is None
            assert one.running == 2
        one.leave(0.1, failed=False)
        one.leave(0.1, failed=False)
        assert one.idle

    hours.run(life())


def test_who_is_cancelled_while_it_waits_takes_no_place_along() -> None:
    """Before its place came, and in the moment in which it came."""
    time = Time()

    async def life() -> None:
        one = Destination(1, time.clocks)
        await one.enter()
        first = asyncio.ensure_future(one.enter())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(one.enter())
        await asyncio.sleep(0)
        one.leave(0.1, failed=False)  # hands over
        second.cancel()
        await asyncio.wait([second])
        assert one.running == 0
        assert one.idle

    hours.run(life())


def test_a_slow_destination_is_paced_by_what_it_has_shown() -> None:
    """Each that finds no room is promised a later place, none beyond half an hour."""
    time = Time()

    async def life() -> None:
        one = Destination(1, time.clocks)
        for _ in range(50):
            assert await one.enter() is None
            one.leave(10.0, failed=False)
        await one.enter()
        waiting = asyncio.ensure_future(one.enter())
        await asyncio.sleep(0)
        waits = [await one.enter() for _ in range(400)]
        promised = [wait for wait in waits if wait is not None]
        assert len(promised) == 400
        assert promised == sorted(promised)
        gaps = [b - a for a, b in itertools.pairwise(promised[:100])]
        assert all(9 < gap < 11 for gap in gaps)
        assert max(promised) == FURTHEST
        waiting.cancel()

    hours.run(life())


def test_five_failures_in_a_row_open_the_breaker_and_a_trial_closes_it() -> None:
    """While it is open, one goes after each pause; a failed trial makes the next pause longer."""
    time = Time()
    one = Destination(4, time.clocks)
    assert failing(one, FAILURES - 1) is None
    assert hours.run(one.enter()) is None
    one.leave(0.1, failed=False)  # a success between: they are counted again
    assert failing(one, FAILURES) == MIN_PAUSE
    assert one.paused
    wait = hours.run(one.enter())
    assert wait == MIN_PAUSE
    time.now += MIN_PAUSE
    assert hours.run(one.enter()) is None  # the trial
    assert hours.run(one.enter()) == destinations.TRIAL
    assert one.leave(15.0, failed=True) == 2 * MIN_PAUSE
    time.now += 2 * MIN_PAUSE
    assert hours.run(one.enter()) is None
    assert one.leave(0.1, failed=False) is None
    assert not one.paused
    assert one.idle


def test_the_pause_has_a_bound() -> None:
    """A receiver that comes back after days is found within minutes."""
    time = Time()
    one = Destination(4, time.clocks)
    failing(one, FAILURES)
    for _ in range(50):
        time.now += MAX_PAUSE
        assert hours.run(one.enter()) is None
        last = one.leave(0.1, failed=True)
    assert last == MAX_PAUSE


def test_a_trial_that_could_not_be_made_lets_the_next_one_go() -> None:
    """This process lacked something: that says nothing of the receiver."""
    time = Time()
    one = Destination(4, time.clocks)
    failing(one, FAILURES)
    time.now += MIN_PAUSE
    assert hours.run(one.enter()) is None
    assert one.leave(None, failed=False) is None
    assert one.paused
    assert hours.run(one.enter()) is None


def test_few_destinations_are_remembered() -> None:
    """The one used longest ago goes first, but not while something is on its way to it."""
    known = Destinations(2, Time().clocks)
    busy = known.of("busy")
    assert hours.run(busy.enter()) is None
    for number in range(destinations.MAX_KNOWN + 10):
        known.of(str(number))
    assert known.of("busy") is busy
    assert known.paused == 0


def test_a_publisher_s_urls_do_not_pause_an_endpoint() -> None:
    """What a publisher has chosen counts apart, also at the same server."""
    known = Destinations(2, Time().clocks)
    chosen = known.of("https://x.example", chosen=True)
    for _ in range(FAILURES):
        assert hours.run(chosen.enter()) is None
        known.leave(chosen, 0.1, failed=True)
    assert (chosen.paused, known.paused) == (True, 1)
    assert not known.of("https://x.example").paused
    for number in range(destinations.MAX_KNOWN):
        known.of(str(number))
    assert known.paused == 0  # it is forgotten, and not counted any more
