"""Permits of hosts, on a clock that jumps: hours of a host's queue, exact to the millisecond.

May touch: HostScheduler, on a loop of the rig's own that never waits.
Must never: use a real clock or a socket.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import random
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scraperd.broker.rabbitmq.topology import DELAYS
from scraperd.config.settings import Config
from scraperd.config.tables import HostSettings
from scraperd.politeness.admission import MAX_UNSEARCHED, NotYet
from scraperd.politeness.host_queue import Wait
from scraperd.politeness.scheduler import MAX_IDLE_HOSTS, HostScheduler, Load, Permit
from scraperd.wiring import scheduler_of, table_of
from tests.rig.clocks.hours import run
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

MOVE = 0.003  # seconds that a confirmed publish takes
HANDLING = 0.0003  # seconds of the processor for a delivery, and again for a publish


def now() -> float:
    return asyncio.get_running_loop().time()


THROTTLED = {"politeness__autothrottle": True, "politeness__per_host_concurrency": 4}


def host_scheduler(
    jitter: Callable[[], float] | None = None,
    unsearched: Callable[[], int] = int,
    **settings_: Any,
) -> HostScheduler:
    """As the daemon makes it, on the running loop's clock; jitter as from a fixed die."""
    config = configured(**settings_)
    clock, roll = asyncio.get_running_loop().time, jitter or random.Random(7).random
    return scheduler_of(config, table_of(config), clock, roll, unsearched=unsearched)


def slow(delay: float, **more: Any) -> dict[str, HostSettings]:
    """The table `hosts` with one host called slow."""
    return {"slow": HostSettings(per_host_delay=delay, **more)}


def test_the_slots_are_the_bound() -> None:
    """With three slots and twenty hosts, three fetches run at once, never more, and all get one."""

    async def main() -> int:
        scheduler = host_scheduler(concurrency=3)
        running = most = 0

        async def fetch(n: int) -> None:
            nonlocal running, most
            permit = await scheduler.acquire(f"h{n}")
            assert isinstance(permit, Permit)
            running += 1
            most = max(most, running)
            await asyncio.sleep(1)
            running -= 1
            scheduler.release(permit)

        await asyncio.gather(*(fetch(n) for n in range(20)))
        assert now() == pytest.approx(7, abs=0.01)
        assert len(scheduler) == 0
        return most

    assert run(main()) == 3


def test_pages_that_are_not_searched_yet_hold_slots_if_they_are_many() -> None:
    """Up to the 128th they take none; those beyond take one each, until they are searched."""

    async def main() -> None:
        backlog = MAX_UNSEARCHED + 2
        scheduler = host_scheduler(
            unsearched=lambda: backlog, concurrency=3, politeness__snooze_after=60
        )
        waiting = [asyncio.create_task(scheduler.acquire(f"h{n}")) for n in range(4)]
        await asyncio.sleep(1)
        assert scheduler.busy == 1
        scheduler.searched()
        assert scheduler.busy == 1
        for left, busy in (MAX_UNSEARCHED + 1, 2), (MAX_UNSEARCHED, 3), (0, 3):
            backlog = left
            scheduler.searched()
            assert scheduler.busy == busy
        await asyncio.sleep(0)
        for task in waiting[:3]:
            permit = task.result()
            assert isinstance(permit, Permit)
            scheduler.release(permit)
        assert isinstance(await waiting[3], Permit)
        assert scheduler.busy == 1

    run(main())


def test_one_host_has_its_own_bound() -> None:
    """Two at once for one host, though ten slots are free; the other host is served meanwhile."""

    async def main() -> list[str]:
        scheduler = host_scheduler(
            concurrency=10,
            broker__prefetch=100,
            politeness__per_host_concurrency=2,
            politeness__snooze_after=60,
        )
        ended: list[str] = []

        async def fetch(host: str) -> None:
            permit = await scheduler.acquire(host)
            assert isinstance(permit, Permit)
            assert permit.queue.active <= 2
            await asyncio.sleep(1)
            ended.append(host)
            scheduler.release(permit)

        await asyncio.gather(*(fetch(host) for host in [*"aaaaaa", "b"]))
        return ended

    assert run(main()).index("b") <= 2


@pytest.mark.parametrize(("delay", "count"), [(0.1, 200), (1.0, 50), (7.0, 8)])
def test_a_delay_is_kept(delay: float, count: int) -> None:
    """Starts are half a delay apart at least and one and a half at most, a delay in the mean."""

    async def main() -> list[float]:
        scheduler = host_scheduler(
            hosts=slow(delay), broker__prefetch=2000, politeness__snooze_after=60
        )
        starts: list[float] = []

        async def fetch() -> None:
            permit = await scheduler.acquire("slow")
            assert isinstance(permit, Permit)
            starts.append(now())
            await asyncio.sleep(0.05)
            scheduler.release(permit)

        await asyncio.gather(*(fetch() for _ in range(count)))
        return starts

    starts = run(main())
    gaps = [b - a for a, b in itertools.pairwise(starts)]
    assert min(gaps) >= 0.5 * delay - 1e-6
    assert max(gaps) <= 1.5 * delay + 0.01
    assert sum(gaps) / len(gaps) == pytest.approx(delay, rel=0.25)


def test_a_crawl_delay_counts_like_a_delay_of_the_config() -> None:
    """The longer one of the two holds."""

    async def main() -> float:
        scheduler = host_scheduler(hosts=slow(0.5), politeness__snooze_after=60)
        for _ in range(11):
            permit = await scheduler.acquire("slow", crawl_delay=2.0)
            assert isinstance(permit, Permit)
            scheduler.release(permit)
        return now()

    assert 15 < run(main()) < 25


def test_another_port_does_not_set_the_pace_of_a_host() -> None:
    """The site at a usual port is asked how fast; the one beside it can neither slow it down nor
    speed it up. Where there is no other, what an odd port asks holds.
    """

    async def main() -> None:
        scheduler = host_scheduler(politeness__snooze_after=60)

        async def take(delay: float, route: str) -> float:
            permit = await scheduler.acquire("shared", Wait(route=route), crawl_delay=delay)
            assert isinstance(permit, Permit)
            scheduler.release(permit)
            return permit.queue.crawl_delay

        assert await take(5.0, "8080 ") == 5.0
        assert await take(2.0, "") == 2.0
        assert await take(30.0, "8080 ") == 2.0
        assert await take(0.0, "8080 ") == 2.0

    run(main())


def test_what_another_route_to_a_host_says_holds_for_that_route_only() -> None:
    """At another port another user of the machine may be at home, and what a proxy brings back may
    be meant for the proxy: neither pauses the host nor slows it down once it is known by the usual
    route, nor before; a job that waits by that route is told, one that must not begin again too.
    """

    async def main() -> None:
        scheduler = host_scheduler(**THROTTLED)

        async def take(route: str = "", *, never_expires: bool = False) -> Permit | NotYet:
            wait = Wait(route=route, never_expires=never_expires)
            return await scheduler.acquire("shared", wait, crawl_delay=0.0)

        before = await take("9090 ")
        assert isinstance(before, Permit)
        scheduler.release(before, load="busy", penalty=3600)
        assert before.queue.throttle.window == 2
        ours = [await take()]
        held = [await take("8080 ") for _ in range(3)]
        waiting = [asyncio.create_task(take("8080 ", never_expires=n > 2)) for n in range(4)]
        await asyncio.sleep(0.01)
        for permit in held:
            assert isinstance(permit, Permit)
            scheduler.release(permit, load="busy", penalty=3600)
        told = [await task for task in waiting]
        assert [type(answer) for answer in told] == [NotYet] * 4
        assert all(3599 < answer.seconds <= 3600 for answer in told if isinstance(answer, NotYet))
        assert scheduler.too_early("shared", Wait(route="8080 ")) == told[0]
        assert scheduler.too_early("shared", Wait()) is None
        for permit in (*ours, *[await take() for _ in range(3)]):
            assert isinstance(permit, Permit)
            scheduler.release(permit)
        for route in ("", "8443 ", "80 proxy"):
            for load in ("hung", "busy"):
                permit = await take(route)
                assert isinstance(permit, Permit)
                if route:
                    scheduler.release(permit, load=load)
                    assert permit.queue.throttle.window == 4
                    assert permit.queue.delay == 0
                else:
                    scheduler.release(permit)
            assert isinstance(await take(route), NotYet if route else Permit)

    run(main())


def test_who_would_wait_too_long_is_sent_away_with_a_reservation() -> None:
    """At one page a second, those whose start is over two seconds off hear when it is: each a
    second after the one before, which is what they come back for.
    """

    async def main() -> list[float]:
        scheduler = host_scheduler(hosts=slow(1.0), concurrency=10)
        asked = [asyncio.create_task(scheduler.acquire("slow")) for _ in range(30)]
        await asyncio.sleep(20)
        return [task.result().seconds for task in asked if isinstance(task.result(), NotYet)]

    later = run(main())
    assert len(later) >= 25
    assert later == pytest.approx([later[0] + n for n in range(len(later))])
    assert later[0] > 2


def test_a_penalty_sends_those_away_who_wait() -> None:
    """Retry-After: nothing starts before its end, and who waits here is told so at once."""

    async def main() -> None:
        scheduler = host_scheduler(hosts=slow(0.5), broker__prefetch=200)
        first = await scheduler.acquire("slow")
        assert isinstance(first, Permit)
        waiting = [asyncio.create_task(scheduler.acquire("slow")) for _ in range(3)]
        await asyncio.sleep(0.01)
        scheduler.release(first, load="busy", penalty=60)
        told = await asyncio.gather(*waiting)
        assert now() < 0.1
        assert [type(answer) for answer in told] == [NotYet] * 3
        assert all(59 < answer.seconds < 65 for answer in told if isinstance(answer, NotYet))
        another = await scheduler.acquire("slow")
        assert isinstance(another, NotYet)
        assert isinstance(await scheduler.acquire("other"), Permit)
        await asyncio.sleep(61)
        assert isinstance(await scheduler.acquire("slow", Wait(reserved_in=-1.0)), Permit)

    run(main())


def test_a_penalty_reaches_those_who_want_only_a_slot() -> None:
    """All slots are taken by others when the host says Retry-After: who waits for one is told."""

    async def main() -> None:
        scheduler = host_scheduler(concurrency=2)
        first, busy = await scheduler.acquire("slow"), await scheduler.acquire("other")
        assert isinstance(first, Permit)
        assert isinstance(busy, Permit)
        waiting = asyncio.create_task(scheduler.acquire("slow"))
        post = asyncio.create_task(scheduler.acquire("slow", Wait(urgent=True, never_expires=True)))
        await asyncio.sleep(0)
        scheduler.release(first, load="busy", penalty=60)
        told = await waiting
        assert isinstance(told, NotYet)
        assert told.seconds > 59
        await asyncio.sleep(61)
        assert isinstance(post.result(), Permit)

    run(main())


def test_a_job_that_has_begun_goes_first() -> None:
    """The next hop of a redirect starts before all who wait for the same host."""

    async def main() -> list[str]:
        scheduler = host_scheduler(hosts=slow(1.0), politeness__snooze_after=10)
        order: list[str] = []

        async def fetch(name: str, *, urgent: bool = False) -> None:
            permit = await scheduler.acquire("slow", Wait(urgent=urgent))
            assert isinstance(permit, Permit)
            order.append(name)
            scheduler.release(permit)

        waiting = [asyncio.create_task(fetch(str(n))) for n in range(4)]
        await asyncio.sleep(0.01)
        await fetch("hop", urgent=True)
        await asyncio.gather(*waiting)
        return order

    assert run(main()) == ["0", "hop", "1", "2", "3"]


def test_a_begun_job_waits_out_the_hosts_delay() -> None:
    """A redirect within a host of thirty seconds' delay is no reason to begin the job anew."""

    async def main() -> float:
        scheduler = host_scheduler(hosts=slow(30.0))
        permit = await scheduler.acquire("slow")
        assert isinstance(permit, Permit)
        scheduler.release(permit)
        assert isinstance(await scheduler.acquire("slow", Wait(urgent=True)), Permit)
        return now()

    assert 15 <= run(main()) <= 45


def test_nobody_waits_for_a_host_where_others_should() -> None:
    """Once the waiting room is full, even those whose start is near are sent away; jobs of another
    host start at once.
    """

    async def main() -> None:
        scheduler = host_scheduler(concurrency=10, broker__prefetch=18, hosts=slow(0.2))
        asked = [asyncio.create_task(scheduler.acquire("slow")) for _ in range(10)]
        await asyncio.sleep(0)
        assert scheduler.ordinary_waiting == 2
        await asyncio.sleep(0.01)
        assert sum(task.done() for task in asked) == 8
        assert isinstance(await scheduler.acquire("fast"), Permit)
        await asyncio.gather(*asked)

    run(main())


def test_a_host_that_falls_silent_keeps_nobody() -> None:
    """Ten pages come fast, then none: those who wait for the host are sent away within seconds,
    and however many of its jobs come, those of another host are served.
    """

    async def main() -> None:
        scheduler = host_scheduler()
        for _ in range(10):
            permit = await scheduler.acquire("silent")
            assert isinstance(permit, Permit)
            await asyncio.sleep(0.005)
            scheduler.release(permit)
        asked = [asyncio.create_task(scheduler.acquire("silent")) for _ in range(150)]
        await asyncio.sleep(6)
        ends = Counter(type(task.result()).__name__ for task in asked if task.done())
        assert ends == {"Permit": 8, "NotYet": 142}
        assert scheduler.ordinary_waiting == 0
        assert isinstance(await scheduler.acquire("other"), Permit)
        late = [task.result().seconds for task in asked if isinstance(task.result(), NotYet)]
        assert max(late) - min(late) > 3  # they do not come back all at once

    run(main())


def test_few_begun_jobs_wait_for_a_slow_host() -> None:
    """Jobs that a redirect leads to a host of one page in ten seconds do not pile up here; one that
    must not begin again stays.
    """

    async def main() -> None:
        scheduler = host_scheduler(hosts=slow(10.0))
        hops = [
            asyncio.create_task(scheduler.acquire("slow", Wait(urgent=True))) for _ in range(20)
        ]
        await asyncio.sleep(0.1)
        assert sum(isinstance(hop.result(), NotYet) for hop in hops if hop.done()) >= 17
        post = asyncio.create_task(scheduler.acquire("slow", Wait(urgent=True, never_expires=True)))
        await asyncio.sleep(200)
        assert isinstance(post.result(), Permit)

    run(main())


def test_those_that_have_begun_take_no_more_than_half() -> None:
    """However many hops, robots.txt files and jobs that must not begin again come for a host, every
    second start is of a job that waits its turn, and none of both kinds is left out.
    """

    async def main() -> Counter[str]:
        scheduler = host_scheduler(hosts=slow(1.0), politeness__snooze_after=10)
        served: Counter[str] = Counter()

        async def again(name: str, first: Wait) -> None:
            wait = first
            while True:
                permit = await scheduler.acquire("slow", wait)
                wait = first
                if isinstance(permit, Permit):
                    served[name] += 1
                    scheduler.release(permit)
                else:
                    await asyncio.sleep(0.8 * permit.seconds)
                    wait = replace(first, reserved_in=0.2 * permit.seconds)

        tasks = [asyncio.create_task(again("hop", Wait(urgent=True))) for _ in range(3)]
        tasks += [asyncio.create_task(again("post", Wait(never_expires=True))) for _ in range(3)]
        tasks += [asyncio.create_task(again("job", Wait())) for _ in range(3)]
        await asyncio.sleep(1000)
        for task in tasks:
            task.cancel()
        return served

    served = run(main())
    assert served["job"] == pytest.approx(served.total() / 2, rel=0.05)
    assert min(served["hop"], served["post"]) > served.total() / 20


def test_a_strict_hosts_next_permit_is_for_an_ordinary_job() -> None:
    """At a page in ten seconds, with priority jobs always here: one that comes back for its
    reservation finds a permit, as often as they do.
    """

    async def main() -> Counter[str]:
        scheduler = host_scheduler(hosts=slow(10.0))
        moves = random.Random(11)
        served: Counter[str] = Counter()

        async def post() -> None:
            while True:
                permit = await scheduler.acquire("slow", Wait(never_expires=True))
                assert isinstance(permit, Permit)
                served["post"] += 1
                scheduler.release(permit)

        async def job() -> None:
            wait = Wait()
            while True:
                permit = await scheduler.acquire("slow", wait)
                wait = Wait()
                if isinstance(permit, Permit):
                    served["job"] += 1
                    scheduler.release(permit)
                else:  # to a delay queue, which may be too short
                    await asyncio.sleep(min(permit.seconds, moves.uniform(1, 10)))
                    wait = Wait(reserved_in=0.0)

        tasks = [asyncio.create_task(work()) for work in (post, post, post, job, job, job)]
        await asyncio.sleep(10_000)
        for task in tasks:
            task.cancel()
        return served

    served = run(main())
    assert served["job"] > served.total() / 4


def test_those_that_must_not_begin_again_leave_places() -> None:
    """They wait in places of their own; one host has half, and who finds none is told."""

    async def main() -> None:
        scheduler = host_scheduler(hosts={"*": HostSettings(per_host_delay=30.0)})
        for host in ("a", "b", "c"):
            assert isinstance(await scheduler.acquire(host), Permit)
        room = Config().waiting_room
        posts = [
            asyncio.create_task(scheduler.acquire(host, Wait(never_expires=True)))
            for host in "abc"
            for _ in range(100)
        ]
        await asyncio.sleep(0.01)
        assert sum(not post.done() for post in posts) <= 2 * room
        assert sum(not post.done() for post in posts[:100]) <= room
        assert scheduler.ordinary_waiting == 0
        assert all(isinstance(post.result(), NotYet) for post in posts if post.done())
        for post in posts:
            post.cancel()

    run(main())


def test_names_of_one_address_share_its_places() -> None:
    """Ninety names, of two jobs each, at one address that may have four at once: never more, each
    name in its turn, and no place stays empty. A job of another address starts at once.
    """

    async def main() -> list[str]:
        scheduler = host_scheduler(
            politeness__per_address_concurrency=4,
            politeness__per_host_concurrency=2,
            broker__prefetch=2000,
            politeness__snooze_after=60,
        )
        order: list[str] = []
        running = 0

        async def fetch(host: str) -> None:
            nonlocal running
            permit = await scheduler.acquire(host, address="192.0.2.1")
            assert isinstance(permit, Permit)
            order.append(host)
            running += 1
            assert running <= 4
            await asyncio.sleep(1)
            running -= 1
            scheduler.release(permit)

        jobs = [asyncio.create_task(fetch(f"h{n % 90}")) for n in range(180)]
        await asyncio.sleep(0.5)
        assert isinstance(await scheduler.acquire("other", address="192.0.2.2"), Permit)
        await asyncio.gather(*jobs)
        assert now() == pytest.approx(45, abs=0.1)
        return order

    order = run(main())
    assert len(set(order[:90])) > 80


def test_a_full_address_keeps_nobody_here() -> None:
    """Names of an address that has fallen silent: their jobs are told to come back, and those of
    other addresses are served.
    """

    async def main() -> None:
        scheduler = host_scheduler(politeness__per_address_concurrency=10)
        jobs = [
            asyncio.create_task(scheduler.acquire(f"h{n}", address="2001:db8::1:0"))
            for n in range(90)
        ]
        await asyncio.sleep(10)
        ends = Counter(type(job.result()).__name__ for job in jobs if job.done())
        assert ends == {"Permit": 10, "NotYet": 80}
        same = await scheduler.acquire("h90", address="2001:db8::2:0")  # the same /64
        assert isinstance(same, NotYet)
        assert isinstance(await scheduler.acquire("other", address="2001:db8:0:1::1"), Permit)

    run(main())


def test_a_host_that_may_have_more_than_an_address() -> None:
    """What the configuration allows one host, the limit of its address does not take away; jobs
    of other names that wait there go on once it leaves room.
    """

    async def main() -> None:
        hosts = {"big": HostSettings(per_host_concurrency=20)}
        scheduler = host_scheduler(
            politeness__per_address_concurrency=4, hosts=hosts, politeness__snooze_after=60
        )
        big = [await scheduler.acquire("big", address="192.0.2.1") for _ in range(20)]
        small = asyncio.create_task(scheduler.acquire("small", address="192.0.2.1"))
        await asyncio.sleep(1)
        assert not small.done()
        for permit in big:
            assert isinstance(permit, Permit)
            scheduler.release(permit)
        assert isinstance(await small, Permit)

    run(main())


def test_what_a_fetch_connects_to_is_counted_too() -> None:
    """A name of several addresses: the second is no way round the limit of it, and is free again
    when the permit is released.
    """

    async def main() -> None:
        scheduler = host_scheduler(politeness__per_address_concurrency=8)
        got = [await scheduler.acquire(f"h{n}", address=f"192.0.2.{n + 10}") for n in range(9)]
        held = [permit for permit in got if isinstance(permit, Permit)]
        assert [scheduler.add_address(permit, "192.0.2.1") for permit in held] == [True] * 8 + [
            False
        ]
        assert [permit.address_refused for permit in held] == [False] * 8 + [True]
        assert scheduler.add_address(held[0], "::ffff:192.0.2.1")  # the same, which counts already
        scheduler.release(held[0])
        assert scheduler.add_address(held[8], "192.0.2.1")

    run(main())


def test_who_is_too_early_is_told_so_before_anything_else() -> None:
    """Without a look at robots.txt: the start is far and the host busy, or it wants nobody now."""

    async def main() -> None:
        scheduler = host_scheduler(hosts=slow(5.0))
        assert (
            scheduler.too_early("slow", Wait(reserved_in=60.0)) is None
        )  # nothing is known of the host: it may go first
        permit = await scheduler.acquire("slow")
        assert isinstance(permit, Permit)
        assert scheduler.too_early("slow", Wait(reserved_in=60.0)) == NotYet("slow", 60.0)
        assert scheduler.too_early("slow", Wait(reserved_in=1.0)) is None
        scheduler.release(permit, load="busy", penalty=100)
        punished = scheduler.too_early("slow", Wait())
        assert punished is not None
        assert punished.seconds > 90

    run(main())


def test_a_paced_host_does_not_go_before_others_by_hanging() -> None:
    """A delay of a millisecond is none that could be missed: slots are given out in turn."""

    async def main() -> list[str]:
        scheduler = host_scheduler(
            concurrency=2,
            broker__prefetch=400,
            politeness__snooze_after=60,
            hosts={"tiny": HostSettings(per_host_delay=0.001)},
        )
        order: list[str] = []

        async def fetch(host: str) -> None:
            permit = await scheduler.acquire(host)
            assert isinstance(permit, Permit)
            order.append(host)
            await asyncio.sleep(1)
            scheduler.release(permit)

        await asyncio.gather(*(fetch(host) for host in ["tiny"] * 8 + [f"h{n}" for n in range(8)]))
        return order

    assert run(main())[:10].count("tiny") <= 6


def test_jobs_cancelled_together_leave_no_line_behind() -> None:
    """A lost broker cancels all of them at once, some the very moment their permit comes."""

    async def main() -> int:
        scheduler = host_scheduler(concurrency=5)
        for n in range(20):
            tasks = [asyncio.create_task(scheduler.acquire(f"h{n}-{k % 20}")) for k in range(100)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            for permit in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(permit, Permit):
                    scheduler.release(permit)
        await asyncio.sleep(100)
        got = [await scheduler.acquire(f"free{n}") for n in range(5)]
        assert all(isinstance(permit, Permit) for permit in got)
        return len(scheduler)

    assert run(main()) == 5


def test_a_forgotten_line_does_not_take_its_successor_along() -> None:
    """A host whose only job was cancelled is forgotten, though it stood among those that want for a
    slot; the queue its next jobs make keeps its timer.
    """

    async def main() -> None:
        scheduler = host_scheduler(
            concurrency=1, politeness__per_host_concurrency=2, hosts=slow(0.3)
        )
        busy = await scheduler.acquire("other")
        assert isinstance(busy, Permit)
        gone = asyncio.create_task(scheduler.acquire("slow"))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        first, second = (asyncio.create_task(scheduler.acquire("slow")) for _ in range(2))
        await asyncio.sleep(0.1)
        scheduler.release(busy)
        permit = await first
        assert isinstance(permit, Permit)
        scheduler.release(permit)
        assert isinstance(await second, Permit)

    run(main())


def test_a_punished_host_is_not_forgotten_for_the_sake_of_many_names() -> None:
    """Its Retry-After of an hour outlives thirty thousand hosts that are slowed down meanwhile."""

    async def main() -> None:
        scheduler = host_scheduler()
        permit = await scheduler.acquire("victim")
        assert isinstance(permit, Permit)
        scheduler.release(permit, load="busy", penalty=3600)
        for n in range(MAX_IDLE_HOSTS + 10_000):
            permit = await scheduler.acquire(f"host-{n}.example")
            assert isinstance(permit, Permit)
            scheduler.release(permit, load="busy")
        assert isinstance(await scheduler.acquire("victim"), NotYet)
        assert len(scheduler) <= MAX_IDLE_HOSTS + 1

    run(main())


@pytest.mark.parametrize("moment", ["waiting", "granted"])
def test_a_cancelled_wait_leaves_no_trace(moment: str) -> None:
    """Its permit goes to the next one, even if it had just come."""

    async def main() -> None:
        scheduler = host_scheduler(concurrency=1)
        first = await scheduler.acquire("a")
        assert isinstance(first, Permit)
        second, third = (asyncio.create_task(scheduler.acquire("a")) for _ in range(2))
        await asyncio.sleep(0)
        if moment == "granted":
            scheduler.release(first)
            second.cancel()
        else:
            second.cancel()
            await asyncio.sleep(0)
            scheduler.release(first)
        permit = await third
        assert isinstance(permit, Permit)
        assert second.cancelled()
        scheduler.release(permit)
        assert scheduler.ordinary_waiting == 0
        assert isinstance(await scheduler.acquire("b"), Permit)

    run(main())


def test_what_comes_before_the_turn_is_waited_for_no_longer_than_the_turn() -> None:
    """A robots.txt that takes long: its jobs come back later, and it goes on being fetched."""

    async def main() -> None:
        scheduler = host_scheduler()
        gate = asyncio.Event()

        async def quick() -> str:
            return "rules"

        async def endless() -> str:
            await gate.wait()
            return "rules"

        assert await scheduler.prepare("a", quick) == "rules"
        later = await scheduler.prepare("a", endless)
        assert isinstance(later, NotYet)
        assert now() == pytest.approx(2.0)
        assert scheduler.ordinary_waiting == 0

    run(main())


def test_many_jobs_of_one_host_wait_for_its_robots_txt_together() -> None:
    """Two hundred come at once, before their host's robots.txt is here: they wait for it a moment,
    though few may wait for long, and none has to come back. For one that takes longer, all but a
    waiting room of them come back at once after that moment.
    """

    async def main() -> None:
        scheduler = host_scheduler()  # a waiting room of 25
        gate = asyncio.Event()

        async def file() -> str:
            await gate.wait()
            return "rules"

        together = [asyncio.create_task(scheduler.prepare("a", file)) for _ in range(200)]
        await asyncio.sleep(0.2)
        gate.set()
        assert await asyncio.gather(*together) == ["rules"] * 200
        gate.clear()
        began = now()
        together = [asyncio.create_task(scheduler.prepare("b", file)) for _ in range(200)]
        _, waiting = await asyncio.wait(together, timeout=1)
        assert (len(waiting), now() - began) == (25, pytest.approx(1.0))
        assert {type(it) for it in await asyncio.gather(*together)} == {NotYet}
        assert now() - began == pytest.approx(2.0)

    run(main())


def test_many_hosts_pass_through() -> None:
    """Each asked once, a hundredth of them answering 429, at ten thousand a second: what is
    remembered stays bounded, and nearly nothing is once all is quiet.
    """

    async def main() -> tuple[int, int]:
        scheduler = host_scheduler()
        most = 0
        for n in range(200_000):
            permit = await scheduler.acquire(f"host-{n}.example")
            assert isinstance(permit, Permit)
            scheduler.release(permit, load="busy" if n % 100 == 0 else "fine")
            if n % 10_000 == 0:
                await asyncio.sleep(1)
                most = max(most, len(scheduler))
        await asyncio.sleep(3600)
        for n in range(50_000):
            permit = await scheduler.acquire(f"late-{n}.example")
            assert isinstance(permit, Permit)
            scheduler.release(permit)
        return most, len(scheduler)

    most, left = run(main())
    assert most <= 10_001
    assert left == 0


def test_the_bound_holds_though_every_host_is_worth_remembering() -> None:
    """More punished hosts than are remembered: the oldest are forgotten, memory does not grow."""

    async def main() -> int:
        scheduler = host_scheduler()
        for n in range(MAX_IDLE_HOSTS + 5000):
            permit = await scheduler.acquire(f"host-{n}.example")
            assert isinstance(permit, Permit)
            scheduler.release(permit, load="busy", penalty=3600)
        return len(scheduler)

    assert run(main()) == MAX_IDLE_HOSTS


@dataclass
class Broker:
    """A queue, its delay tiers and a daemon's prefetch, as far as permits have to do with them."""

    config: Config
    fetch: Callable[[str], Awaitable[None]]
    queue: deque[tuple[str, float | None, int]] = field(default_factory=deque)
    held: int = 0
    processor: float = 0.0
    done: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    snoozes: Counter[int] = field(default_factory=Counter)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, hosts: list[str]) -> None:
        """Run one job for each of `hosts` to its end."""
        jitter = random.Random(7).random
        scheduler = scheduler_of(self.config, table_of(self.config), now, jitter)
        self.queue.extend((host, None, 0) for host in hosts)
        tasks: set[asyncio.Task[None]] = set()
        while sum(map(len, self.done.values())) < len(hosts):
            while self.queue and self.held < self.config.prefetch_count:
                self.held += 1
                task = asyncio.create_task(self.job(scheduler, *self.queue.popleft()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            self.news.clear()
            await self.news.wait()
        assert (len(scheduler), scheduler.ordinary_waiting) == (0, 0) or now() < 3600

    async def job(
        self, scheduler: HostScheduler, host: str, at: float | None, snoozes: int
    ) -> None:
        """One delivery: decoded, its permit asked for, fetched or snoozed, published, acked."""
        await self.busy(HANDLING)
        permit = await scheduler.acquire(host, Wait(reserved_in=None if at is None else at - now()))
        if isinstance(permit, Permit):
            await self.fetch(host)
            await self.busy(2 * HANDLING)
            scheduler.release(permit)
            await asyncio.sleep(MOVE)
            self.done[host].append(now())
            self.snoozes[snoozes] += 1
        else:
            await self.busy(HANDLING)
            await asyncio.sleep(MOVE)
            tier = DELAYS[max(0, bisect.bisect_right(DELAYS, permit.seconds) - 1)]
            again = (host, now() + permit.seconds, snoozes + 1)
            asyncio.get_running_loop().call_later(tier, self.back, again)
        self.held -= 1
        self.news.set()

    def back(self, job: tuple[str, float, int]) -> None:
        self.queue.append(job)
        self.news.set()

    async def busy(self, seconds: float) -> None:
        """The one processor, taken in turn."""
        self.processor = max(self.processor, now()) + seconds
        await asyncio.sleep(self.processor - now())


def simulated(
    jobs: list[str], fetch: Callable[[str], Coroutine[Any, Any, None]], **more: Any
) -> Broker:
    """A daemon's work on a shuffled queue of jobs, each named by its host."""
    random.Random(3).shuffle(jobs)
    brokers: list[Broker] = []

    async def main() -> None:
        brokers.append(Broker(configured(**more), fetch))
        await brokers[0].work(jobs)

    run(main())
    return brokers[0]


def a_second() -> Callable[[str], Coroutine[Any, Any, None]]:
    """A fetch of half a second to one and a half, as from a fixed die; of a slow host, shorter."""
    die = random.Random(5)

    async def fetch(host: str) -> None:
        await asyncio.sleep(0.05 if host == "slow" else die.uniform(0.5, 1.5))

    return fetch


def test_a_strict_host_starves_nobody() -> None:
    """Nine jobs of ten aim at a host of ten pages a second. The others are done nearly as soon as
    without it, it is served at its rate, and no job is moved more than a handful of times.
    """
    fast = [f"fast{n % 50}" for n in range(800)]
    alone = simulated(list(fast), a_second())
    both = simulated(fast + ["slow"] * 7200, a_second(), hosts=slow(0.1))
    ends = [at for host, times in both.done.items() if host != "slow" for at in times]
    assert max(ends) < 1.25 * max(at for times in alone.done.values() for at in times)
    assert len(both.done["slow"]) / max(both.done["slow"]) > 9.5
    snoozes = sorted(both.snoozes.elements())
    assert snoozes[len(snoozes) // 2] <= 5
    assert snoozes[-1] <= 15


def test_a_single_host_is_not_slowed_down_by_fairness() -> None:
    """A queue of one host's jobs, twenty milliseconds each, runs at the host's own bound."""

    async def fetch(_host: str) -> None:
        await asyncio.sleep(0.02)

    broker = simulated(["one"] * 8000, fetch)
    assert 8000 / max(broker.done["one"]) > 0.9 * 8 / 0.02


def test_a_slow_host_without_a_delay_is_kept_busy() -> None:
    """Eight at once of a second each: eight pages a second, from a queue that is only estimated."""
    broker = simulated(["one"] * 3000, a_second())
    assert 3000 / max(broker.done["one"]) > 0.9 * 8


ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.1", "c": "192.0.2.2"}


async def chaos(jobs: list[tuple[str, float, str]], concurrency: int, at_once: int) -> None:
    """Run the jobs on host a, which has a delay, b, which shares its address, and c; each of
    (host, seconds, end), and as many from one address as may be `at_once`, or two.
    """
    scheduler = host_scheduler(
        concurrency=concurrency,
        politeness__per_host_concurrency=2,
        politeness__per_address_concurrency=at_once,
        hosts={"a": HostSettings(per_host_delay=0.3)},
    )
    running: Counter[str] = Counter()

    async def one(host: str, took: float, end: str) -> None:
        permit = await scheduler.acquire(host, Wait(urgent=end == "urgent"), address=ADDRESS[host])
        if isinstance(permit, NotYet):
            return
        running[host] += 1
        assert running.total() <= concurrency
        assert running[host] <= 2
        assert not at_once or running["a"] + running["b"] <= max(at_once, 2)
        try:
            await asyncio.sleep(took)
        finally:
            running[host] -= 1
            penalty = 2.0 if end == "penalty" else None
            load: Load = "fine" if end in ("ok", "urgent") else "busy"
            scheduler.release(permit, load=load, penalty=penalty)

    tasks = []
    for host, took, end in jobs:
        tasks.append(asyncio.create_task(one(host, took, end)))
        await asyncio.sleep(took / 10)
        if end == "cancel":
            tasks[-1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(1000)
    for task in tasks:
        if not task.cancelled():
            task.result()
    assert scheduler.ordinary_waiting == scheduler.priority_waiting == 0
    got = [
        await scheduler.acquire(f"free{n}", address=f"192.0.2.{n + 1}") for n in range(concurrency)
    ]
    assert all(isinstance(permit, Permit) for permit in got)


ENDS = st.sampled_from(["ok", "busy", "penalty", "cancel", "urgent"])


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 3), ENDS), max_size=60),
    st.integers(1, 4),
    st.integers(0, 3),
)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_no_turn_is_lost(
    jobs: list[tuple[str, float, str]], concurrency: int, at_once: int
) -> None:
    """Any mix of answers, penalties and cancellations: the bounds hold, everybody is answered, and
    in the end the slots are all free again.
    """
    run(chaos(jobs, concurrency, at_once))
