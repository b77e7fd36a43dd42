"""The memory budget: who gets bytes, who waits, and that nobody waits for ever.

May touch: tasks of the test's own loop.
Must never: sleep; a task runs until it waits, and that is all the time there is.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scraperd.fetch.memory import Budget, Claim

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine


class Tasks:
    """Starts coroutines and lets them run until each has ended or waits."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.append(task)
        await settle()
        return task


async def settle() -> None:
    """Long enough for a wake-up, what it does, and the wake-up that follows from that."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def tasks(no_loose_ends: None) -> AsyncIterator[Tasks]:
    """No task of a test is left."""
    tasks = Tasks()
    yield tasks
    for task in tasks.tasks:
        task.cancel()
    await asyncio.gather(*tasks.tasks, return_exceptions=True)


def held(budget: Budget, *sizes: int) -> list[Claim]:
    """Claims of these sizes, the senior first."""
    claims = [budget.open() for _ in sizes]
    for claim, size in zip(claims, sizes, strict=True):
        assert claim.try_grow(size)
    return claims


def test_counts_what_is_claimed() -> None:
    """`used` is the sum of the claims, to the byte, and the limit itself can be used."""
    budget = Budget(100)
    one, other = held(budget, 60, 40)
    assert budget.used == 100
    assert not one.try_grow(1)
    one.resize(10)
    assert budget.used == 50
    assert other.try_grow(50)
    other.close()
    assert budget.used == 10


def test_closing_twice_gives_back_once() -> None:
    """A second close of a claim does not take from what others hold."""
    budget = Budget(100)
    one, _ = held(budget, 60, 40)
    one.close()
    one.close()
    assert budget.used == 40


def test_a_closed_claim_takes_nothing_more() -> None:
    """What is claimed after the end would never be given back."""
    claim = Budget(100).open()
    claim.close()
    for late in (claim.try_grow, claim.resize):
        with pytest.raises(AssertionError):
            late(1)


def test_a_result_may_grow_past_the_limit_without_waiting() -> None:
    """A body that became a larger result is counted as it is, and others then have to wait."""
    budget = Budget(100)
    (one,) = held(budget, 90)
    one.resize(120)
    assert budget.used == 120
    assert not one.try_grow(1)


async def test_a_body_larger_than_the_whole_budget_still_comes_in(tasks: Tasks) -> None:
    """Alone it is the senior of those who wait, so it never waits for itself."""
    budget = Budget(100)
    claim = budget.open()
    assert (await tasks.start(claim.grow(300))).done()
    assert (await tasks.start(claim.grow(300))).done()
    assert budget.used == 600


async def test_waits_until_another_has_closed(tasks: Tasks) -> None:
    """The second who is past the limit waits, and a close that makes room wakes it."""
    budget = Budget(100)
    senior, junior = held(budget, 50, 50)
    assert (await tasks.start(senior.grow(10))).done()
    waiting = await tasks.start(junior.grow(10))
    assert not waiting.done()
    senior.close()
    await settle()
    assert waiting.done()
    assert budget.used == 60


async def test_the_senior_may_go_on_beyond_the_limit_and_nobody_else(tasks: Tasks) -> None:
    """All hold memory and all want more: the senior gets every piece it asks for, and finishes."""
    budget = Budget(90)
    claims = held(budget, 30, 30, 30)
    waits = [await tasks.start(claim.grow(5)) for claim in claims]
    assert [wait.done() for wait in waits] == [True, False, False]
    assert claims[0].try_grow(5)
    assert not claims[1].try_grow(5)
    assert budget.used == 100


async def test_the_next_in_seniority_is_next(tasks: Tasks) -> None:
    """Though the junior asked before it, the more senior one is served first."""
    budget = Budget(90)
    first, second, third = held(budget, 30, 30, 30)
    await tasks.start(first.grow(100))
    juniors = await tasks.start(third.grow(50))
    seniors = await tasks.start(second.grow(50))
    first.close()
    await settle()
    assert (seniors.done(), juniors.done()) == (True, False)


async def test_results_that_wait_for_the_broker_do_not_stop_the_senior(tasks: Tasks) -> None:
    """Claims that hold all the memory and want nothing more leave the senior its way."""
    budget = Budget(90)
    result, claim = held(budget, 80, 10)
    result.resize(95)
    assert (await tasks.start(claim.grow(20))).done()
    assert budget.used == 125


async def test_the_right_to_go_beyond_passes_on_though_the_limit_is_still_passed(
    tasks: Tasks,
) -> None:
    """Results alone are past the limit: when the senior closes, the next may take its place."""
    budget = Budget(100)
    result, first, second = held(budget, 80, 10, 10)
    result.resize(200)
    await tasks.start(first.grow(20))
    waiting = await tasks.start(second.grow(20))
    assert not waiting.done()
    first.close()
    await settle()
    assert waiting.done()


async def test_a_cancelled_wait_leaves_no_trace(tasks: Tasks) -> None:
    """Its bytes are not taken, its turn goes to the next, and others may begin again."""
    budget = Budget(90)
    first, second, third = held(budget, 30, 30, 30)
    await tasks.start(first.grow(20))
    gone = await tasks.start(second.grow(25))
    waiting = await tasks.start(third.grow(25))
    beginner = await tasks.start(budget.room())
    gone.cancel()
    first.resize(20)  # in the same turn of the loop: the cancelled one has not run yet
    await settle()
    assert gone.cancelled()
    assert (waiting.done(), beginner.done()) == (True, False)
    first.close()
    await settle()
    assert beginner.done()
    assert (second.size, third.size, budget.used) == (30, 55, 85)


async def test_cancelled_just_after_it_was_granted(tasks: Tasks) -> None:
    """The bytes came, but the task never saw them: they go back, and wake the next."""
    budget = Budget(90)
    first, second, third = held(budget, 30, 30, 30)
    await tasks.start(first.grow(20))
    granted = await tasks.start(second.grow(45))
    waiting = await tasks.start(third.grow(20))
    first.close()  # grants the second
    assert budget.used == 105
    granted.cancel()
    await settle()
    assert granted.cancelled()
    assert waiting.done()
    assert (second.size, third.size, budget.used) == (30, 50, 80)


async def test_a_full_budget_lets_nobody_begin(tasks: Tasks) -> None:
    """Beginners wait for the first byte that is free, and then go in the order they came."""
    budget = Budget(100)
    begun: list[int] = []

    async def begin(number: int) -> None:
        await budget.room()
        begun.append(number)

    await tasks.start(begin(0))
    (claim,) = held(budget, 100)
    for number in (1, 2, 3):
        await tasks.start(begin(number))
    assert begun == [0]
    tasks.tasks[2].cancel()
    claim.resize(99)
    await settle()
    assert begun == [0, 1, 3]


async def test_large_bodies_leave_half_to_small_ones(tasks: Tasks) -> None:
    """While the large wait for each other, one of which goes on, small ones begin and grow."""
    budget = Budget(100, small=10)
    first, second = held(budget, 30, 30)
    assert (await tasks.start(first.grow(20))).done()  # the senior, beyond the half
    waiting = await tasks.start(second.grow(5))
    assert not waiting.done()
    (small,) = held(budget, 10)
    assert (await tasks.start(budget.room())).done()
    assert not small.try_grow(5)
    first.close()
    await settle()
    assert waiting.done()
    assert small.try_grow(5)


async def test_deliveries_leave_less_for_bodies(tasks: Tasks) -> None:
    """Four times their bytes are taken off the limit, and given back when they are settled."""
    budget = Budget(100)
    budget.hold(10)
    claim, other = held(budget, 60, 0)
    assert not other.try_grow(1)
    await tasks.start(claim.grow(1))  # the senior
    waiting = await tasks.start(other.grow(20))
    assert not waiting.done()
    budget.hold(0)
    await settle()
    assert waiting.done()
    assert budget.used == 81


async def test_deliveries_alone_keep_nobody_from_beginning(tasks: Tasks) -> None:
    """However many there are, half of the budget is left, or each would wait for the others."""
    budget = Budget(100)
    budget.hold(1000)
    assert (await tasks.start(budget.room())).done()
    held(budget, 50)
    beginner = await tasks.start(budget.room())
    assert not beginner.done()
    budget.hold(0)
    await settle()
    assert beginner.done()


class Load(RuleBasedStateMachine):
    """Any order of opening, growing, waiting, cancelling, resizing and closing."""

    LIMIT = 100
    SMALL = 10**6

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.budget = Budget(self.LIMIT, self.SMALL)
        self.claims: list[Claim] = []  # open ones, the senior first
        self.results: set[Claim] = set()  # those that were resized
        self.waits: dict[Claim, asyncio.Task[None]] = {}
        self.wanted: dict[Claim, int] = {}
        self.beginners: list[asyncio.Task[None]] = []

    def free(self, data: st.DataObject) -> Claim:
        """A claim whose task does not wait."""
        return data.draw(st.sampled_from([c for c in self.claims if c not in self.waits]))

    def run(self) -> None:
        """Let every task run; those who waited and are served must be the most senior."""
        self.loop.run_until_complete(settle())
        served = [claim for claim, task in self.waits.items() if task.done()]
        for claim in served:
            self.loop.run_until_complete(self.waits.pop(claim))
        for large in (False, True):
            came = [c.number for c in served if (c.size > self.SMALL) is large]
            left = [c.number for c in self.waits if self.is_large(c) is large]
            assert max(came, default=0) < min(left, default=10**9)
        self.beginners = [task for task in self.beginners if not task.done()]

    def is_large(self, claim: Claim) -> bool:
        """Whether what it waits for makes it large."""
        return claim.size + self.wanted[claim] > self.SMALL

    def beyond(self, size: int) -> int:
        """What of a claim of this size counts as large."""
        return max(0, size - self.SMALL)

    @rule()
    def open(self) -> None:
        self.claims.append(self.budget.open())

    @precondition(lambda self: len(self.claims) > len(self.waits))
    @rule(data=st.data(), n=st.integers(1, 60))
    def grow(self, data: st.DataObject, n: int) -> None:
        claim, before = self.free(data), self.budget.used
        more = self.beyond(claim.size + n) - self.beyond(claim.size)
        large = sum(self.beyond(claim.size) for claim in self.claims)
        fits = before + n <= self.LIMIT and (not more or large + more <= self.LIMIT // 2)
        took = claim.try_grow(n)
        assert took or not fits
        if not took:
            task = self.loop.create_task(claim.grow(n))
            self.loop.run_until_complete(settle())
            if not task.done():
                self.waits[claim], self.wanted[claim] = task, n
        self.run()

    @precondition(lambda self: self.waits)
    @rule(data=st.data(), at_once=st.booleans())
    def cancel(self, data: st.DataObject, *, at_once: bool) -> None:
        """Alone, or in the same turn of the loop as a close that may have served it."""
        claim = data.draw(st.sampled_from(list(self.waits)))
        others = [c for c in self.claims if c not in self.waits]
        size = claim.size
        if at_once and others:
            others[0].close()
            self.claims.remove(others[0])
        task = self.waits.pop(claim)
        task.cancel()
        self.loop.run_until_complete(settle())
        assert task.cancelled()
        assert claim.size == size
        self.run()

    @precondition(lambda self: len(self.claims) > len(self.waits))
    @rule(data=st.data(), n=st.integers(0, 150))
    def resize(self, data: st.DataObject, n: int) -> None:
        claim = self.free(data)
        claim.resize(n)
        self.results.add(claim)
        self.run()

    @precondition(lambda self: len(self.claims) > len(self.waits))
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        claim = self.free(data)
        claim.close()
        self.claims.remove(claim)
        self.run()

    @rule()
    def begin(self) -> None:
        self.beginners.append(self.loop.create_task(self.budget.room()))
        self.run()

    @invariant()
    def the_sum_is_right(self) -> None:
        assert self.budget.used == sum(claim.size for claim in self.claims)

    @invariant()
    def only_results_and_one_senior_are_past_the_limit(self) -> None:
        bodies = [claim.size for claim in self.claims if claim not in self.results]
        results = sum(claim.size for claim in self.claims if claim in self.results)
        assert self.budget.used <= self.LIMIT + max(bodies, default=0) + results

    @invariant()
    def somebody_can_go_on(self) -> None:
        assert not self.waits or len(self.waits) < len(self.claims)
        assert not self.beginners or self.budget.used >= self.LIMIT

    def teardown(self) -> None:
        """Those who do not wait finish, one after the other: so must everybody."""
        while self.claims:
            claim = next(claim for claim in self.claims if claim not in self.waits)
            claim.close()
            self.claims.remove(claim)
            self.run()
        assert self.budget.used == 0
        assert self.waits == {}
        assert self.beginners == []
        self.loop.close()


class LargeLoad(Load):
    """The same with claims that count as large."""

    SMALL = 15

    @invariant()
    def the_large_leave_half_to_the_small(self) -> None:
        """But for one that may go beyond the limit, and what results grew by."""
        bodies = [self.beyond(c.size) for c in self.claims if c not in self.results]
        results = sum(self.beyond(c.size) for c in self.claims if c in self.results)
        large = sum(bodies) + results
        assert large <= self.LIMIT // 2 + max(bodies, default=0) + results


Load.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestLoad = Load.TestCase
LargeLoad.TestCase.settings = Load.TestCase.settings
TestLargeLoad = LargeLoad.TestCase
