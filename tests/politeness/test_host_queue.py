"""One host's queue by values alone: who goes first, who waits, who is sent away, what is forgotten.

May touch: host_queue, throttle and addresses; times and jitter are handed in.
Must never: read a clock, or run a loop.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scraperd.politeness import host_queue
from scraperd.politeness.addresses import EARLY_RETURN, Address
from scraperd.politeness.host_queue import (
    MAX_CATCH_UP,
    MAX_JITTER,
    MIN_JITTER,
    HostQueue,
    State,
    Wait,
)
from scraperd.politeness.host_rules import HostRules
from scraperd.politeness.throttle import ASSUMED_LATENCY, CUT_TTL, Throttle

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1000.0
MIDDLE = 0.5  # jitter that makes a pause as long as the delay


def make(limit: int = 4, delay: float = 0.0, address: Address | None = None) -> HostQueue:
    """A queue of a host that nothing is known of."""
    rules = HostRules(limit, delay, obey_robots=False, proxy="")
    return HostQueue("h", rules, Throttle(limit, max_delay=30.0), address=address)


def filled(queue: HostQueue, ordinary: int = 0, priority: int = 0) -> HostQueue:
    """The same queue, with so many that wait; each future is its kind and number."""
    for n in range(ordinary):
        queue.join(Wait(), NOW, future=f"ordinary {n}")
    for n in range(priority):
        queue.join(Wait(urgent=True), NOW, priority=True, future=f"priority {n}")
    return queue


def started(queue: HostQueue, fetches: int = 1, now: float = NOW) -> HostQueue:
    """The same queue, with so many more fetches that run."""
    for _ in range(fetches):
        queue.start(now, MIDDLE)
    return queue


def drained(queue: HostQueue) -> list[Any]:
    """The futures of all who wait, in the order in which they start."""
    order = []
    while queue.waiting:
        waiter = queue.pop_next()
        queue.start(NOW, MIDDLE, priority=waiter.priority)
        queue.finish(NOW)
        order.append(waiter.future)
    return order


# --- the states


def table() -> dict[State, set[str]]:
    """What leaves each state, by the table at the head of the file."""
    rows = re.findall(r"^\| ([A-Z_]+) \| .+ \| (.+) \|$", host_queue.__doc__ or "", re.MULTILINE)
    return {State[name]: {cell.strip("`") for cell in left.split(", ")} for name, left in rows}


def full_by_a_cut() -> HostQueue:
    """One fetch runs, and the window was cut from two to one."""
    queue = started(filled(make(limit=2), 1))
    queue.throttle.overloaded(NOW, NOW)
    return queue


def at_a_full_address(ordinary: int = 1) -> HostQueue:
    """The one place at the address is another host's."""
    address = Address(1)
    address.start(NOW)
    return filled(make(limit=1, address=address), ordinary)


def at_an_address() -> HostQueue:
    """The one place at the address is free."""
    return filled(make(limit=1, address=Address(1)), 1)


def full_address() -> Address:
    """An address that has no place."""
    address = Address(4)
    for _ in range(4):
        address.start(NOW)
    return address


def start_next(queue: HostQueue) -> None:
    """As the scheduler does it."""
    queue.start(NOW, MIDDLE, priority=queue.pop_next().priority)


def grow(queue: HostQueue) -> None:
    """Good answers, until the window is as it was."""
    for _ in range(4):
        queue.throttle.answered(NOW, NOW + 0.1)


def other_starts(queue: HostQueue) -> None:
    """A fetch of another host takes a place at the address."""
    assert queue.address is not None
    queue.address.start(NOW)


def other_ends(queue: HostQueue) -> None:
    """The fetch of another host leaves its place at the address."""
    assert queue.address is not None
    queue.address.finish(NOW, NOW)


def nothing(_queue: HostQueue) -> None:
    """Only time passes."""


ARROWS: list[tuple[State, str, Callable[[], HostQueue], Callable[[HostQueue], object], State]] = [
    (State.EMPTY, "join", make, lambda q: filled(q, 1), State.READY),
    (
        State.FULL,
        "finish",
        lambda: started(filled(make(1), 1)),
        lambda q: q.finish(NOW),
        State.READY,
    ),
    (State.FULL, "a window that grows", full_by_a_cut, grow, State.READY),
    (State.DELAYED, "time", lambda: started(filled(make(delay=2.0), 1)), nothing, State.READY),
    (State.ADDRESS_FULL, "address.finish", at_a_full_address, other_ends, State.READY),
    (
        State.ADDRESS_FULL,
        "set_address",
        at_a_full_address,
        lambda q: q.set_address(None),
        State.READY,
    ),
    (State.READY, "start", lambda: filled(make(limit=1), 2), start_next, State.FULL),
    (State.READY, "address.start", at_an_address, other_starts, State.ADDRESS_FULL),
    (
        State.READY,
        "set_address",
        lambda: filled(make(), 1),
        lambda q: q.set_address(full_address()),
        State.ADDRESS_FULL,
    ),
]


@pytest.mark.parametrize(("before", "event", "begin", "act", "after"), ARROWS)
def test_what_the_table_says_leaves_a_state_leaves_it(
    before: State,
    event: str,
    begin: Callable[[], HostQueue],
    act: Callable[[HostQueue], object],
    after: State,
) -> None:
    """Each cell of the table's last column is an arrow that exists."""
    queue = begin()
    assert event in table()[before]
    assert queue.state(NOW) is before
    act(queue)
    assert queue.state(NOW + 2 * (event == "time")) is after


def test_the_table_has_every_state_in_order_and_every_arrow_is_tried() -> None:
    """The rows are the states, in the order in which they are looked for."""
    assert list(table()) == list(State)
    tried = {(before, event) for before, event, *_ in ARROWS}
    assert tried == {(state, event) for state, events in table().items() for event in events}


EVENTS: list[tuple[str, Callable[[HostQueue, float], object]]] = [
    ("join", lambda q, now: q.join(Wait(), now)),
    ("join", lambda q, now: q.join(Wait(urgent=True), now, priority=True)),
    ("leave", lambda q, now: q.pop_expired(now, 0.5)),
    ("leave", lambda q, _: q.waiting and q.pop_next()),
    ("start", lambda q, now: q.state(now) is State.READY and start_at(q, now)),
    ("finish", lambda q, now: q.active and q.finish(now)),
    ("address.start", lambda q, now: q.address and q.address.start(now)),
    (
        "address.finish",
        lambda q, now: q.address and q.address.active and q.address.finish(now, now),
    ),
    ("set_address", lambda q, _: q.set_address(Address(2))),
    ("set_address", lambda q, _: q.set_address(None)),
    ("pause", lambda q, now: q.pause(now + 1)),
    ("pause", lambda q, now: q.pause(now + 1, "8080 ")),
    ("a window that shrinks", lambda q, now: q.throttle.overloaded(now, now)),
    ("a window that grows", lambda q, now: q.throttle.answered(now, now + 0.1)),
    ("time", lambda _q, _now: None),
]
ANYWAY = {
    ("leave", State.EMPTY),
    ("start", State.EMPTY),  # its job was the last that waited
    ("a window that shrinks", State.FULL),
    ("pause", State.DELAYED),
}


def start_at(queue: HostQueue, now: float) -> None:
    """As the scheduler does it, at `now`."""
    queue.start(now, MIDDLE, priority=queue.pop_next().priority)


@given(st.lists(st.integers(0, len(EVENTS) - 1), max_size=60), st.sampled_from([0.0, 0.7]))
@settings(max_examples=300, deadline=None)
def test_nothing_else_leaves_a_state(steps: list[int], delay: float) -> None:
    """Whatever happens in whatever order: a state is left only by what the table says."""
    queue, now, rows = make(limit=2, delay=delay), NOW, table()
    for step in steps:
        name, act = EVENTS[step]
        before = queue.state(now)
        act(queue, now)
        now += 0.4 * (name == "time")
        after = queue.state(now)
        assert after is before or name in rows[before] or (name, after) in ANYWAY


def test_a_fresh_queue_holds_nobody_up() -> None:
    """Not even where the clock has just begun."""
    queue = make()
    assert queue.may_start(0.0)
    assert queue.lacks_only_a_slot(0.0)
    assert queue.reservation(0.0) == 0.0
    assert queue.evictable(0.0)
    assert (queue.crawl_delay, queue.active, queue.waiting, queue.priority_waiting) == (0, 0, 0, 0)
    flags = ("usual_route_known", "last_was_priority", "in_ready_queue", "in_address_queue")
    assert not any(getattr(queue, flag) for flag in flags)


# --- who goes first


def test_ordinary_jobs_start_by_due_time_then_by_who_came_first() -> None:
    """A job that was promised an earlier time goes before those that came before it."""
    queue = make()
    for name, due_at in [("c", 3.0), ("a", 1.0), ("d", 3.0), ("b", 2.0), ("e", 3.0)]:
        queue.join(Wait(), due_at, future=name)
    assert drained(queue) == ["a", "b", "c", "d", "e"]


def test_a_priority_job_goes_first_but_not_twice_in_a_row() -> None:
    """Every second start is an ordinary job's while one waits, then the rest follow."""
    queue = filled(make(), ordinary=2, priority=4)
    assert [name[0] for name in drained(queue)] == ["p", "o", "p", "o", "p", "p"]
    queue = filled(make(), ordinary=1, priority=1)
    queue.start(NOW, MIDDLE, priority=True)
    assert drained(queue) == ["ordinary 0", "priority 0"]


def test_who_left_is_passed_over() -> None:
    """A job that left is not started, is counted once, and leaves nobody else behind."""
    queue = make()
    first, second = (queue.join(Wait(), NOW, future=name) for name in "ab")
    queue.join(Wait(urgent=True), NOW, priority=True, future="c")
    queue.leave(first)
    queue.leave(first)
    assert (queue.waiting, queue.priority_waiting) == (2, 1)
    assert drained(queue) == ["c", "b"]
    assert second.gone
    assert (queue.waiting, queue.priority_waiting) == (0, 0)


def test_how_many_start_before_a_new_ordinary_job() -> None:
    """All ordinary ones, and one priority job before each of them and before itself."""
    assert make().ahead() == 0
    assert filled(make(), ordinary=3).ahead() == 3
    assert filled(make(), priority=3).ahead() == 1
    assert filled(make(), ordinary=2, priority=9).ahead() == 2 + 3
    assert filled(make(), ordinary=2, priority=2).ahead() == 2 + 2
    queue = filled(make(), ordinary=2, priority=9)
    queue.start(NOW, MIDDLE, priority=True)
    assert queue.ahead() == 2 + 2


@given(st.integers(0, 6), st.integers(0, 6), st.booleans())
def test_the_new_job_starts_as_far_back_as_was_said(
    ordinary: int,
    priority: int,
    last: bool,  # noqa: FBT001
) -> None:
    """`ahead` counts what `pop_next` does."""
    queue = filled(make(), ordinary, priority)
    queue.start(NOW, MIDDLE, priority=last)
    queue.finish(NOW)
    ahead = queue.ahead()
    queue.join(Wait(), NOW + 1, future="new")
    assert drained(queue).index("new") == ahead


# --- the delay


@pytest.mark.parametrize("jitter", [0.0, 0.25, 0.5, 0.999])
def test_a_start_pushes_the_next_one_back_by_the_jittered_delay(jitter: float) -> None:
    """From half the delay to one and a half, evenly."""
    queue = make(delay=2.0)
    queue.start(NOW, jitter)
    assert queue.opens_at == pytest.approx(
        NOW - MAX_CATCH_UP * 2.0 + 2.0 * (0.5 + jitter), abs=0.51
    )
    assert queue.opens_at >= NOW + 1.0
    planned = queue.opens_at
    queue.start(planned, jitter)
    assert queue.opens_at == pytest.approx(planned + 2.0 * (0.5 + jitter))


def test_a_late_start_is_made_up_for_by_a_quarter_of_the_delay() -> None:
    """The mean pace is kept where a start is a bit late, but no burst follows a long pause."""
    for late, behind in [(0.0, 0.0), (0.3, 0.3), (0.5, 0.5), (0.6, 0.5), (9.0, 0.5)]:
        queue = make(delay=2.0)
        queue.next_start_at = NOW
        queue.start(NOW + late, MIDDLE)
        assert queue.opens_at == pytest.approx(NOW + late - behind + 2.0)
    assert MAX_CATCH_UP * 2.0 == 0.5


def test_no_start_follows_within_half_a_delay() -> None:
    """Not even where a late start and the shortest jitter come together."""
    queue = make(delay=2.0)
    queue.start(NOW, 0.0)
    assert queue.opens_at == NOW + MIN_JITTER * 2.0


def test_without_a_delay_the_next_may_start_at_once() -> None:
    """The window alone bounds it."""
    queue = started(make(limit=2))
    assert queue.may_start(NOW)
    assert not queue.last_was_priority
    assert not started(queue).may_start(NOW)


def test_the_longest_delay_holds() -> None:
    """Of what the configuration, robots.txt and the host itself ask."""
    queue = make(delay=2.0)
    assert queue.delay == 2.0
    queue.set_crawl_delay(3.0)
    assert queue.delay == 3.0
    queue.throttle.delay = 4.0
    assert queue.delay == 4.0


def test_it_may_start_at_the_very_moment_the_delay_is_over() -> None:
    """Not before it."""
    queue = make(delay=1.0)
    queue.next_start_at = NOW
    assert queue.may_start(NOW)
    assert not queue.may_start(NOW - 0.001)
    filled(queue, 1)
    assert queue.state(NOW) is State.READY
    assert queue.state(NOW - 0.001) is State.DELAYED
    queue.pause(NOW + 1)
    assert not queue.may_start(NOW)
    assert queue.may_start(NOW + 1)
    assert queue.opens_at == NOW + 1


# --- the usual route and others


def test_robots_txt_of_an_unusual_route_counts_until_the_usual_one_is_known() -> None:
    """What is learned by the usual route replaces it, and nothing else does after that."""
    queue = make()
    queue.set_crawl_delay(5.0, "8080 ")
    assert queue.crawl_delay == 5.0
    assert queue.speaks_for_host("8080 ")
    queue.set_crawl_delay(2.0)
    assert queue.crawl_delay == 2.0
    assert not queue.speaks_for_host("8080 ")
    assert queue.speaks_for_host("")
    queue.set_crawl_delay(9.0, "8080 ")
    assert queue.crawl_delay == 2.0
    queue.set_crawl_delay(0.0)
    assert queue.crawl_delay == 0.0


def test_the_usual_route_begins_with_a_fresh_throttle_once() -> None:
    """What an unusual route taught does not hold there; what the usual one taught is kept."""
    queue = make()
    queue.throttle.overloaded(NOW, NOW)
    queue.throttle.max_delay = 7.0
    queue.set_crawl_delay(0.0, "8080 ")
    assert queue.throttle.window == 2
    queue.throttle.enabled = False
    queue.set_crawl_delay(0.0)
    assert queue.throttle == Throttle(4, max_delay=7.0, enabled=False)
    queue.throttle.enabled = True
    queue.throttle.overloaded(NOW, NOW)
    queue.set_crawl_delay(0.0)
    assert queue.throttle.window == 2


def test_a_pause_of_a_route_holds_there_alone() -> None:
    """The host may be asked by any other, and the pause ends by itself."""
    queue = make()
    queue.pause(NOW + 10, "8080 ")
    assert queue.route_pause("8080 ", NOW + 4) == 6.0
    assert queue.route_pause("8080 ", NOW + 11) == 0.0
    assert queue.route_pause("", NOW) == queue.route_pause("8443 ", NOW) == 0.0
    assert queue.may_start(NOW)
    assert queue.next_reservation_at == 0.0
    queue.pause(NOW + 3, "8080 ")
    assert queue.route_pause("8080 ", NOW) == 3.0


def test_a_bounded_number_of_paused_routes_is_remembered() -> None:
    """Of too many, the pause that is over soonest is dropped."""
    queue = make()
    for n in range(16):
        queue.pause(NOW + 100 - n, str(n))
    assert len(queue.route_pauses) == 16
    queue.pause(NOW + 200, "new")
    assert len(queue.route_pauses) == 16
    assert queue.route_pause("15", NOW) == 0.0
    assert queue.route_pause("0", NOW) == 100.0
    assert queue.route_pause("new", NOW) == 200.0


def test_a_pause_of_the_host_is_never_shortened() -> None:
    """Nothing is promised before its end either."""
    queue = make()
    queue.pause(NOW + 10)
    queue.pause(NOW + 5)
    assert queue.paused_until == queue.opens_at == queue.next_reservation_at == NOW + 10
    assert queue.reservation(NOW) == NOW + 10


# --- what is expected


def test_how_long_a_fetch_is_expected_to_last() -> None:
    """As the last ones did, or as long as the host has been silent while fetches run."""
    queue = make()
    assert queue.latency(NOW) == ASSUMED_LATENCY
    started(queue, 2)
    assert queue.latency(NOW + 0.05) == ASSUMED_LATENCY
    assert queue.latency(NOW + 3) == 3.0
    queue.finish(NOW + 2)
    assert queue.latency(NOW + 3) == 1.0
    queue.finish(NOW + 3)
    assert queue.latency(NOW + 9) == ASSUMED_LATENCY
    started(queue, 1, NOW + 20)
    assert queue.latency(NOW + 21) == 1.0
    started(queue, 1, NOW + 22)
    assert queue.latency(NOW + 24) == 4.0


def test_the_interval_is_the_delay_or_a_share_of_the_latency() -> None:
    """The window's fetches run side by side; rather a bit too short than too long."""
    queue = make(limit=4)
    queue.throttle.latency = queue.throttle.lowest_latency = 2.0
    assert queue.interval(NOW) == pytest.approx(EARLY_RETURN * 2.0 / 4)
    queue.crawl_delay = 3.0
    assert queue.interval(NOW) == 3.0


def test_at_a_full_address_the_queues_share_its_places() -> None:
    """Each of three names gets every third place; a queue that is not listed yet counts as one."""
    address = full_address()
    queue = make(limit=4, address=address)
    own = EARLY_RETURN * ASSUMED_LATENCY / 4
    assert queue.interval(NOW) == pytest.approx(own)
    address.latency = 2.0
    assert queue.interval(NOW) == pytest.approx(EARLY_RETURN * 2.0 / 4)
    address.queues.extend([queue, make(), make()])
    assert queue.interval(NOW) == pytest.approx(3 * EARLY_RETURN * 2.0 / 4)
    queue.crawl_delay = 5.0
    assert queue.interval(NOW) == 5.0
    queue.crawl_delay = 0.0
    address.finish(NOW, NOW)
    assert queue.interval(NOW) == pytest.approx(own)


def test_when_the_delay_sets_the_pace() -> None:
    """A delay as long as the window's fetches take, or longer."""
    for delay, paced in [(0.4, False), (0.5, True), (0.6, True)]:
        queue = make(limit=4, delay=delay)
        queue.throttle.latency = queue.throttle.lowest_latency = 2.0
        assert queue.paced_by_delay(NOW) is paced


def test_when_a_job_is_expected_to_start() -> None:
    """An interval after each before it; and one more where it has to wait for a fetch to end."""
    queue = make(limit=2, delay=3.0)
    assert queue.expected_start(NOW, 0) == NOW
    assert queue.expected_start(NOW, 2) == NOW + 6
    queue.pause(NOW + 10)
    assert queue.expected_start(NOW, 2) == NOW + 16
    assert queue.expected_start(NOW + 20, 0) == NOW + 20
    started(queue, 2, NOW + 10)
    assert queue.expected_start(NOW + 20, 0) == pytest.approx(max(NOW + 20, queue.opens_at) + 4.0)
    elsewhere = make(limit=4, delay=3.0, address=full_address())
    assert elsewhere.expected_start(NOW, 1) == NOW + 6


def test_reservations_follow_one_another() -> None:
    """Each an interval after the one before, and none before those who wait."""
    queue = make(delay=2.0)
    due = []
    for _ in range(3):
        due.append(queue.reservation(NOW))
        assert queue.reservation(NOW) == due[-1]  # to look is not to make it
        queue.reserve(NOW)
    assert due == [NOW, NOW + 2, NOW + 4]
    filled(queue, ordinary=5)
    assert queue.reservation(NOW) == NOW + 10
    assert queue.reservation(NOW + 50) == NOW + 60


def test_reservations_at_a_full_address_follow_those_of_its_other_hosts() -> None:
    """Names share what gets free there, and each promise moves the address's next one back."""
    address = full_address()
    address.latency, address.progress_at = 4.0, NOW
    one, other = make(limit=1, address=address), make(limit=1, address=address)
    every = EARLY_RETURN * 4.0 / 4
    assert one.reservation(NOW) == pytest.approx(NOW + every)  # it waits for a place itself
    one.reserve(NOW)
    assert address.next_reservation_at == pytest.approx(NOW + every)
    for n in range(1, 4):
        other.next_reservation_at = 0.0
        assert other.reservation(NOW) == pytest.approx(NOW + every * n)
        other.reserve(NOW)
        assert address.next_reservation_at == pytest.approx(NOW + every * (n + 1))
    address.finish(NOW, NOW)
    other.next_reservation_at = 0.0
    assert other.reservation(NOW) == NOW  # a place is free: no promise of another's counts
    other.reserve(NOW)
    assert address.next_reservation_at == pytest.approx(NOW + every * 4)


# --- its address


def test_an_address_counts_all_who_wait_for_its_hosts() -> None:
    """A queue takes those who wait along to another address."""
    first, second = Address(4), Address(4)
    one, other = filled(make(address=None), 2), make()
    one.set_address(first)
    other.set_address(first)
    filled(other, 1, 1)
    assert first.waiting == 4
    one.set_address(second)
    one.set_address(second)
    assert (first.waiting, second.waiting) == (2, 2)
    other.pop_next()
    assert first.waiting == 1
    one.set_address(None)
    assert second.waiting == 0


def test_a_start_counts_at_the_address() -> None:
    """The scheduler ends it there, as a fetch may count at several."""
    address = Address(4)
    queue = started(make(address=address), 3)
    assert (queue.active, address.active) == (3, 3)
    queue.finish(NOW)
    assert (queue.active, address.active) == (2, 3)


def test_who_lacks_only_a_slot() -> None:
    """The window and the address have room for it and all before it, and no delay is on."""
    assert make(limit=1).lacks_only_a_slot(NOW)
    assert not filled(make(limit=1), 1).lacks_only_a_slot(NOW)
    assert filled(started(make(limit=3)), 1).lacks_only_a_slot(NOW)
    assert not filled(started(make(limit=3)), 2).lacks_only_a_slot(NOW)
    paused = make()
    paused.pause(NOW + 1)
    assert not paused.lacks_only_a_slot(NOW)
    assert paused.lacks_only_a_slot(NOW + 1)


@pytest.mark.parametrize(
    ("running", "waiting", "room"), [(1, 0, True), (1, 1, False), (2, 0, False)]
)
def test_the_address_needs_room_for_those_before_too(
    running: int,
    waiting: int,
    room: bool,  # noqa: FBT001
) -> None:
    """Other hosts' fetches and jobs that wait there count; what the host itself may have, too."""
    for limit, own in [(2, 1), (1, 2)]:
        address = Address(limit)
        address.active, address.waiting = running, waiting
        assert make(limit=own, address=address).lacks_only_a_slot(NOW) is room


# --- who is sent away


def expired(queue: HostQueue, now: float, max_wait: float) -> list[Any]:
    """The futures of those who are sent away."""
    return [waiter.future for waiter in queue.pop_expired(now, max_wait)]


def test_who_would_wait_too_long_is_sent_away() -> None:
    """At a page in two seconds and a patience of five, the third of those who wait is the last."""
    queue = filled(make(delay=2.0), ordinary=5)
    assert expired(queue, NOW, 5.0) == ["ordinary 3", "ordinary 4"]
    assert queue.waiting == 3
    assert expired(queue, NOW, 5.0) == []
    assert drained(queue) == [f"ordinary {n}" for n in range(3)]


def test_just_in_time_is_not_too_late() -> None:
    """A start exactly as far away as may be waited is waited for; one past the limit is not."""
    assert expired(filled(make(delay=2.0), ordinary=2), NOW, 2.0) == []
    assert expired(filled(make(delay=2.0), ordinary=3), NOW, 2.0) == ["ordinary 2"]
    queue = make(delay=2.0)
    queue.join(Wait(), NOW, expires_at=NOW + 1, future="a")
    assert expired(queue, NOW + 0.9, 5.0) == []
    assert expired(queue, NOW + 1, 5.0) == ["a"]


def test_a_priority_job_is_given_a_delay_more() -> None:
    """It has begun: to wait out a jittered delay costs less than to begin anew."""
    for beyond, gone in [(-0.1, []), (0.1, ["priority 0"])]:
        queue = filled(make(delay=2.0), priority=1)
        queue.pause(NOW + 5.0 + MAX_JITTER * 2.0 + beyond)
        assert expired(queue, NOW, 5.0) == gone


def test_priority_jobs_count_as_they_start_before_ordinary_ones() -> None:
    """Those who stay push the ordinary ones back, one each; those who go do not."""
    queue = filled(make(delay=2.0), ordinary=2, priority=2)
    assert expired(queue, NOW, 3.0) == ["ordinary 1"]  # p at 0, o at 2, p at 4, o at 6
    queue = filled(make(delay=2.0), ordinary=2, priority=2)
    assert expired(queue, NOW, 1.9) == ["ordinary 0", "ordinary 1"]
    queue = make(delay=2.0)
    for n in range(2):
        queue.join(Wait(), NOW, future=n)
        queue.join(Wait(urgent=True), NOW, priority=True, expires_at=NOW, future="gone")
    assert expired(queue, NOW, 2.0) == ["gone", "gone"]
    assert drained(queue) == [0, 1]


def test_who_never_expires_is_not_sent_away() -> None:
    """However far its start: only the pause of its route does that."""
    queue = make(delay=2.0)
    wait = Wait(never_expires=True, route="8080 ")
    queue.join(wait, NOW, priority=True, future="post")
    queue.pause(NOW + 10_000)
    assert expired(queue, NOW, 5.0) == []
    queue.pause(NOW + 10, "8080 ")
    assert expired(queue, NOW, 5.0) == ["post"]
    assert (queue.waiting, queue.priority_waiting) == (0, 0)


def test_a_paused_route_sends_away_those_who_came_by_it() -> None:
    """Of both kinds; the others stay, and those who had left are not named again."""
    queue = make()
    for wait in (Wait(), Wait(route="x"), Wait(urgent=True), Wait(urgent=True, route="x")):
        queue.join(wait, NOW, priority=wait.priority, future=wait)
    queue.leave(queue.join(Wait(route="x"), NOW))
    queue.pause(NOW + 1, "x")
    assert expired(queue, NOW, 5.0) == [Wait(urgent=True, route="x"), Wait(route="x")]
    assert (queue.waiting, queue.priority_waiting) == (2, 1)
    assert len(queue.ordinary_heap) == len(queue.priority_heap) == 1


@given(
    st.lists(st.tuples(st.floats(0, 20), st.booleans(), st.floats(0, 30)), max_size=12),
    st.floats(0, 10),
    st.sampled_from([0.0, 0.5, 3.0]),
)
def test_who_stays_is_in_time(
    jobs: list[tuple[float, bool, float]], max_wait: float, delay: float
) -> None:
    """After those who are late were sent away, each ordinary one that is left is expected to start
    within what it may wait, counted by the order in which they do start.
    """
    queue = make(limit=2, delay=delay)
    for due, priority, lasts in jobs:
        queue.join(Wait(), NOW + due, priority=priority, expires_at=NOW + lasts)
    queue.pop_expired(NOW, max_wait)
    for ahead in itertools.count():
        if not queue.waiting:
            break
        waiter = queue.pop_next()
        queue.last_was_priority = waiter.priority
        assert waiter.expires_at > NOW
        extra = MAX_JITTER * delay if waiter.priority else 0.0
        if not waiter.priority:
            assert queue.expected_start(NOW, ahead) - NOW <= max_wait + extra + 1e-9


# --- what is forgotten


def test_a_queue_is_kept_only_while_it_matters() -> None:
    """In use, paced, paused, promised or slowed down; else a fresh one would do as well."""
    assert make().evictable(NOW)
    queue = started(make())
    assert not queue.evictable(NOW)
    queue.finish(NOW)
    assert queue.evictable(NOW)
    waiter = queue.join(Wait(), NOW)
    assert not queue.evictable(NOW)
    queue.leave(waiter)
    assert queue.evictable(NOW)


@pytest.mark.parametrize(
    "matter",
    [
        lambda q: q.pause(NOW + 5),
        lambda q: q.pause(NOW + 5, "8080 "),
        lambda q: setattr(q, "next_start_at", NOW + 5),
        lambda q: setattr(q, "next_reservation_at", NOW + 5),
    ],
)
def test_what_is_over_is_forgotten_when_it_is_over(matter: Callable[[HostQueue], object]) -> None:
    """Not a moment sooner."""
    queue = make()
    matter(queue)
    assert not queue.evictable(NOW + 4.9)
    assert queue.evictable(NOW + 5)


def test_a_throttle_that_is_cut_is_remembered() -> None:
    """Until its cut no longer counts."""
    queue = make()
    queue.throttle.overloaded(NOW, NOW)
    assert not queue.evictable(NOW + CUT_TTL - 1)
    assert queue.evictable(NOW + CUT_TTL)


# --- whatever happens


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["join", "priority", "start", "start", "finish", "leave", "busy"]),
            st.floats(0, 1.5),
            st.floats(0, 1, exclude_max=True),
        ),
        max_size=80,
    ),
    st.integers(1, 3),
    st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=300, deadline=None)
def test_the_bounds_hold_whatever_happens(
    steps: list[tuple[str, float, float]], limit: int, delay: float
) -> None:
    """Never more fetches than the window, the delay is kept, each kind starts in its order, no two
    priority jobs in a row while an ordinary one waits, and the counts agree.
    """
    address = Address(2)
    queue, now = make(limit, delay, address), NOW
    waiting: dict[bool, list[tuple[float, int, Any]]] = {True: [], False: []}
    starts: list[tuple[float, float]] = []
    last = False
    for number, (step, pause, jitter) in enumerate(steps):
        now += pause
        if step in ("join", "priority"):
            entry = queue.join(Wait(), now + jitter, priority=step == "priority")
            waiting[step == "priority"].append((now + jitter, number, entry))
        elif step == "start" and queue.state(now) is State.READY:
            waiter = queue.pop_next()
            assert waiter is min(waiting[waiter.priority])[2]
            assert not (waiter.priority and last and waiting[False])
            waiting[waiter.priority].remove(min(waiting[waiter.priority]))
            assert not starts or now - starts[-1][0] >= MIN_JITTER * starts[-1][1] - 1e-9
            starts.append((now, queue.delay))
            last = waiter.priority
            queue.start(now, jitter, priority=last)
        elif step == "finish" and queue.active:
            queue.finish(now)
            address.finish(now, now)
        elif step == "leave" and waiting[False]:
            queue.leave(waiting[False].pop()[2])
        elif step == "busy":
            queue.throttle.overloaded(now, now)
        assert queue.active == address.active <= limit
        assert queue.waiting == address.waiting == len(waiting[True]) + len(waiting[False])
        assert queue.priority_waiting == len(waiting[True])


@given(st.lists(st.booleans(), max_size=30), st.integers(0, 5))
def test_nobody_starves(arrivals: list[bool], before: int) -> None:
    """However many priority jobs keep coming, an ordinary job starts after two starts for each
    that was before it, and two for itself.
    """
    queue = filled(make(), ordinary=before)
    queue.join(Wait(), NOW + 1, future="mine")
    for _ in range(2 * before + 2):
        for priority in arrivals:
            queue.join(Wait(), NOW + 2, priority=priority)
        waiter = queue.pop_next()
        queue.start(NOW, MIDDLE, priority=waiter.priority)
        queue.finish(NOW)
        if waiter.future == "mine":
            return
    raise AssertionError("it still waits")
