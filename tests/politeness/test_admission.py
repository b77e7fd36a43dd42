"""What becomes of a fetch that asks: by the host's queue, its wait and the capacity alone.

May touch: admission, over a host queue; times are handed in.
Must never: read a clock, or run a loop.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scraperd.politeness.addresses import Address
from scraperd.politeness.admission import (
    MAX_UNSEARCHED,
    Capacity,
    Postpone,
    Queue,
    Start,
    admit,
    postponed,
    too_early,
)
from scraperd.politeness.host_queue import MAX_JITTER, NO_EXPIRY, HostQueue, Wait
from scraperd.politeness.host_rules import HostRules
from scraperd.politeness.throttle import Throttle

NOW = 1000.0
URGENT = Wait(urgent=True)
POST = Wait(never_expires=True)
MAX_WAIT = 5.0
LONGER = MAX_JITTER * 2.0  # seconds that a wait may last longer at a host of two seconds' delay


def host(limit: int = 4, delay: float = 2.0, *, opens_in: float = 0.0) -> HostQueue:
    """A host of two seconds' delay, whose next start is so far away."""
    rules = HostRules(limit, delay, obey_robots=False, proxy="")
    queue = HostQueue("h", rules, Throttle(limit, max_delay=30.0))
    queue.next_start_at = NOW + opens_in
    return queue


def room(free_slots: int = 3, **counts: int) -> Capacity:
    """Four ordinary jobs may wait here, and eight priority jobs."""
    return Capacity(free_slots, 4, MAX_WAIT, job_timeout=60.0, unsearched=int, **counts)


def waiting(queue: HostQueue, ordinary: int = 0, priority: int = 0) -> HostQueue:
    """The same queue with so many that wait."""
    for n in range(ordinary + priority):
        queue.join(Wait(), NOW, priority=n >= ordinary)
    return queue


def test_a_free_host_and_a_free_slot_are_a_start() -> None:
    """For every kind of job, however far its reservation."""
    for wait in (Wait(), URGENT, POST, Wait(reserved_in=100.0), Wait(reserved_in=-1.0)):
        assert admit(host(), wait, room(), NOW) == Start()


def test_who_waits_goes_before_who_comes() -> None:
    """A free host with others in its queue is no start."""
    answer = admit(waiting(host(limit=1), 1), Wait(), room(), NOW)
    assert isinstance(answer, Queue)


def test_without_a_slot_a_job_waits_for_one_and_takes_no_place() -> None:
    """However many wait: it holds up nobody's host."""
    full = room(free_slots=0, ordinary_waiting=99, priority_waiting=99)
    for wait in (Wait(), Wait(reserved_in=9.0)):
        assert admit(host(), wait, full, NOW) == Queue(NOW, NO_EXPIRY, counted=False)
    for wait in (URGENT, POST):
        want = Queue(NOW, NO_EXPIRY, priority=True, counted=False)
        assert admit(host(), wait, full, NOW) == want


def test_a_paused_route_is_told_first() -> None:
    """Nothing else counts, for no kind of job."""
    queue = host()
    queue.pause(NOW + 7, "8080 ")
    for urgent, never_expires in [(False, False), (True, False), (False, True)]:
        wait = Wait(urgent, never_expires, reserved_in=1.0, route="8080 ")
        assert admit(queue, wait, room(), NOW) == Postpone(7.0)
        assert admit(queue, wait, room(), NOW + 7) == Start()
    assert admit(queue, Wait(), room(), NOW) == Start()


# --- priority jobs


def test_a_priority_job_waits_a_delay_longer_than_others() -> None:
    """Its patience is `max_wait` and the longest pause between two starts."""
    for opens_in, priority in [(MAX_WAIT + LONGER, True), (MAX_WAIT + LONGER + 0.1, False)]:
        answer = admit(host(opens_in=opens_in), URGENT, room(), NOW)
        assert isinstance(answer, Queue) is priority
        if isinstance(answer, Queue):
            due_at = NOW + opens_in
            assert answer == Queue(due_at, due_at + MAX_WAIT + LONGER, priority=True)


def test_it_is_due_after_the_other_priority_jobs() -> None:
    """Ordinary ones do not push it back."""
    queue = waiting(host(opens_in=1.0), ordinary=3, priority=2)
    answer = admit(queue, URGENT, room(), NOW)
    assert isinstance(answer, Queue)
    assert answer.due_at == NOW + 1 + 2 * 2.0


def test_a_job_that_never_expires_waits_as_long_as_a_job_may_take() -> None:
    """Or it is told when it could have started; it makes no reservation, as it does not return."""
    assert admit(host(opens_in=60.0), POST, room(), NOW) == Queue(
        NOW + 60.0, NO_EXPIRY, priority=True
    )
    assert admit(host(opens_in=60.1), POST, room(), NOW) == Postpone(pytest.approx(60.1))
    crowded = waiting(host(opens_in=10.0), ordinary=2, priority=4)
    assert admit(crowded, POST, room(), NOW) == Postpone(10.0 + 5 * 2.0)


def test_priority_jobs_have_so_many_places() -> None:
    """Twice as many as the others, of which one host has half. Without one an urgent job is like
    any other, and one that never expires is told so.
    """
    for taken, priority in [(7, True), (8, False)]:
        answer = admit(host(opens_in=1.0), URGENT, room(priority_waiting=taken), NOW)
        assert isinstance(answer, Queue)
        assert answer.priority is priority
        post = admit(host(opens_in=1.0), POST, room(priority_waiting=taken), NOW)
        assert isinstance(post, Queue) is priority
    for here, priority in [(3, True), (4, False)]:
        queue = waiting(host(delay=0.5, opens_in=1.0), priority=here)
        answer = admit(queue, URGENT, room(), NOW)
        assert isinstance(answer, Queue)
        assert answer.priority is priority


# --- ordinary jobs


def test_a_job_whose_start_is_near_waits_here_and_makes_a_reservation() -> None:
    """The next of the host is its own."""
    answer = admit(host(opens_in=MAX_WAIT), Wait(), room(), NOW)
    due_at = NOW + MAX_WAIT
    expires_at = due_at + MAX_WAIT + LONGER
    assert answer == Queue(due_at, expires_at, priority=False, counted=True, reserves=True)


def test_a_job_whose_start_is_far_is_sent_away_with_a_reservation() -> None:
    """Counted behind all that were promised before."""
    assert admit(host(opens_in=5.5), Wait(), room(), NOW) == Postpone(5.5, reserves=True)
    promised = host(opens_in=1.0)
    promised.next_reservation_at = NOW + 300
    assert admit(promised, Wait(), room(), NOW) == Postpone(300.0, reserves=True)


def test_a_reservation_that_is_not_due_is_kept() -> None:
    """No new one is made; near, it is waited for here, unless the host's start is not near."""
    want = Queue(NOW + 4.0, NOW + 4.0 + MAX_WAIT + LONGER, reserves=False)
    assert admit(host(opens_in=1.0), Wait(reserved_in=4.0), room(), NOW) == want
    far = admit(host(opens_in=1.0), Wait(reserved_in=5.5), room(), NOW)
    assert far == Postpone(5.5, reserves=False)
    assert admit(host(opens_in=9.0), Wait(reserved_in=4.0), room(), NOW) == Postpone(4.0)
    paused = host()
    paused.pause(NOW + 30)
    assert admit(paused, Wait(reserved_in=4.0), room(), NOW) == Postpone(30.0)


@pytest.mark.parametrize("reserved_in", [0.0, -9.0])
def test_an_overdue_reservation_waits_here_where_it_may(reserved_in: float) -> None:
    """As its start is expected, without a new reservation; else it gets one like any other."""
    wait = Wait(reserved_in=reserved_in)
    queue = host(opens_in=MAX_WAIT)
    queue.next_reservation_at = NOW + 300
    want = Queue(NOW + MAX_WAIT, NOW + 2 * MAX_WAIT + LONGER)
    assert admit(queue, wait, room(), NOW) == want
    queue.next_start_at = NOW + MAX_WAIT + 0.5
    assert admit(queue, wait, room(), NOW) == Postpone(300.0, reserves=True)
    crowded = room(ordinary_waiting=4)
    queue.next_start_at = NOW + 1
    assert admit(queue, wait, crowded, NOW) == Postpone(300.0, reserves=True)


def test_where_all_places_are_taken_a_job_is_sent_away() -> None:
    """Even if its start is near; but not where nobody could be served instead: all slots are taken
    and only they, or the fetches that run, hold it up.
    """
    near = host(opens_in=1.0)
    for taken, stays in [(3, True), (4, False), (5, False)]:
        answer = admit(near, Wait(), room(ordinary_waiting=taken), NOW)
        assert isinstance(answer, Queue) is stays
    answer = admit(near, Wait(), room(free_slots=0, ordinary_waiting=4), NOW)
    assert answer == Postpone(1.0, reserves=True)
    promised = Wait(reserved_in=0.5)
    assert admit(near, promised, room(ordinary_waiting=4), NOW) == Postpone(0.5)
    busy = host(limit=1)
    busy.active, busy.progress_at = 1, NOW
    assert isinstance(admit(busy, Wait(), room(free_slots=0, ordinary_waiting=4), NOW), Queue)
    assert isinstance(admit(busy, Wait(), room(free_slots=1, ordinary_waiting=4), NOW), Postpone)
    at = host(limit=1, opens_in=0.001)
    assert isinstance(admit(at, Wait(), room(free_slots=0, ordinary_waiting=4), NOW), Postpone)


def test_a_fast_queue_is_not_worth_leaving() -> None:
    """Though all places are taken: a move through the broker costs more than such a start."""
    for delay, stays in [(0.009, True), (0.01, False)]:
        queue = host(limit=1000, delay=delay, opens_in=1.0)
        answer = admit(queue, Wait(reserved_in=400.0), room(ordinary_waiting=4), NOW)
        if stays:
            assert answer == Queue(NOW + 1, NOW + 1 + MAX_WAIT + MAX_JITTER * delay)
        else:
            assert answer == Postpone(400.0)
    far = host(limit=1000, delay=0.0, opens_in=MAX_WAIT + 1)
    assert isinstance(admit(far, Wait(), room(), NOW), Postpone)
    edge = host(limit=1000, delay=0.0, opens_in=MAX_WAIT)
    assert isinstance(admit(edge, Wait(), room(ordinary_waiting=4), NOW), Queue)


# --- before robots.txt is looked at, and after


def test_who_is_too_early_to_ask() -> None:
    """The reservation is far and the host not free, or it is paused for long."""
    assert too_early(host(), Wait(reserved_in=60.0), room(), NOW) is None
    busy = host(opens_in=1.0)
    assert too_early(busy, Wait(), room(), NOW) is None
    assert too_early(busy, Wait(reserved_in=MAX_WAIT), room(), NOW) is None
    assert too_early(busy, Wait(reserved_in=5.1), room(), NOW) == Postpone(5.1)
    assert too_early(waiting(host(), 1), Wait(reserved_in=60.0), room(), NOW) == Postpone(60.0)
    busy.pause(NOW + MAX_WAIT)
    assert too_early(busy, Wait(), room(), NOW) is None
    busy.pause(NOW + 5.1)
    assert too_early(busy, Wait(), room(), NOW) == Postpone(pytest.approx(5.1), reserves=True)
    for wait in (URGENT, POST):
        assert too_early(busy, wait, room(), NOW) is None
    busy.pause(NOW + 9, "8080 ")
    assert too_early(busy, Wait(route="8080 "), room(), NOW) == Postpone(9.0)


def test_who_waited_in_vain_is_the_last_or_waits_for_its_route() -> None:
    """A new reservation, behind all who wait; of a paused route, none."""
    queue = waiting(host(opens_in=1.0), 3)
    queue.pause(NOW + 9, "8080 ")
    assert postponed(queue, NOW) == Postpone(1.0 + 3 * 2.0, reserves=True)
    assert postponed(queue, NOW, "8080 ") == Postpone(9.0)
    assert postponed(queue, NOW + 9, "8080 ") == Postpone(3 * 2.0, reserves=True)


def test_capacity_counts_both_kinds_apart() -> None:
    """Each has so many places."""
    capacity = room()
    for _ in range(4):
        assert not capacity.full
        capacity.count(1, priority=False)
    assert (capacity.full, capacity.priority_full) == (True, False)
    for _ in range(8):
        assert not capacity.priority_full
        capacity.count(1, priority=True)
    assert (capacity.ordinary_waiting, capacity.priority_waiting) == (4, 8)
    capacity.count(-1, priority=True)
    capacity.count(-1, priority=False)
    assert (capacity.full, capacity.priority_full) == (False, False)


def seen(queue: HostQueue, address: Address) -> tuple[Any, ...]:
    """All that a decision could have changed."""
    fields = {name: getattr(queue, name) for name in HostQueue.__slots__ if name != "address"}
    return copy.deepcopy(fields["throttle"]), *map(repr, fields.values()), repr(address)


@given(
    st.builds(
        Wait,
        st.booleans(),
        st.booleans(),
        st.none() | st.floats(-10, 100),
        st.sampled_from(["", "8080 "]),
    ),
    st.builds(
        Capacity,
        st.integers(0, 2),
        st.integers(2, 4),
        st.just(MAX_WAIT),
        st.just(60.0),
        st.sampled_from([0, MAX_UNSEARCHED, MAX_UNSEARCHED + 2]).map(lambda many: lambda: many),
        st.integers(0, 5),
        st.integers(0, 9),
    ),
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)),
    st.sampled_from([0.0, 0.001, 2.0]),
    st.floats(0, 20),
)
def test_a_decision_changes_nothing_and_promises_nothing_past(
    wait: Wait,
    capacity: Capacity,
    counts: tuple[int, int, int, int],
    delay: float,
    opens_in: float,
) -> None:
    """Whatever is asked of whatever queue: it is only read, a job is never told to come back in
    the past, waits for no longer than it may, and starts only where host, address and slots do.
    """
    ordinary, priority, own, others = counts
    queue, address = host(delay=delay, opens_in=opens_in), Address(3)
    queue.set_address(address)
    waiting(queue, ordinary, priority)
    queue.active, address.active = own, own + others
    queue.progress_at = address.progress_at = NOW - 1
    before = seen(queue, address)
    answer = admit(queue, wait, capacity, NOW)
    early = too_early(queue, wait, capacity, NOW)
    assert seen(queue, address) == before
    assert early is None or early.seconds >= 0
    match answer:
        case Start():
            assert capacity.free_slots
            assert queue.may_start(NOW)
            assert not queue.waiting
        case Queue():
            assert NOW <= answer.due_at <= answer.expires_at
            assert answer.due_at - NOW <= 60 + 1e-9
            assert wait.priority or not answer.priority
        case Postpone():
            assert answer.seconds >= 0
