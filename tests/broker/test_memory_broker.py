"""The life of jobs over the transport in memory: nothing is lost, nothing ends twice for nothing.

May touch: the worker and settler as they are; a scraper of these tests, and a clock that jumps.
Must never: need a broker, or judge by what the code under test says of itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import UNSET, UnsetType

from scraperd.base.clocks import SYSTEM
from scraperd.broker.memory import MemoryBroker
from scraperd.broker.ports import Delivery, Limits, Message, Source
from scraperd.contract import Failure, Peeked
from scraperd.fetch.memory import Budget, Claim
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import Keys
from scraperd.jobs.verdict import Dead, Done, Verdict
from scraperd.ops.telemetry import Observer
from scraperd.politeness.admission import NotYet, Reservation
from scraperd.scrape.result import Facts, Failed, Scraped
from scraperd.wiring import worker_of
from tests.rig.clocks import hours
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.memory import MemoryEpoch
    from scraperd.broker.ports import Epoch
    from scraperd.jobs.outcome import Outcome
    from scraperd.jobs.received import Received
    from scraperd.scrape.request import Target

JOBS = 10_000
SORTS = ("ok", "gone", "flaky", "down", "snooze", "boom", "invalid", "reply", "slow")


class Quiet:
    """A logger that keeps nothing."""

    def info(self, event: str, **fields: Any) -> None:
        pass

    error = debug = warning = info

    def is_enabled_for(self, _level: int) -> bool:
        return False


@dataclass
class Scrapes:
    """A scraper that does what the job's path says, after some of the loop's time."""

    tries: Counter[str] = field(default_factory=Counter)

    def claim(self) -> Claim:
        return Budget(2**20).open()

    def limited(self, _job: object, *, max_retries: float) -> UnsetType:
        """No limit of a job's is looser."""
        assert max_retries >= 0
        return UNSET

    async def peek(self, body: bytes) -> Peeked:
        return Peeked(json.loads(body)["id"])

    async def scrape(
        self,
        target: Target,
        _rules: object,
        _claim: Claim,
        *,
        reservation: Reservation | None,
        on_fetch: Callable[[], object],
        **_: Any,
    ) -> Scraped | Failed | NotYet:
        sort, ident = target.job.url.split("/")[3:5]
        self.tries[ident] += 1
        if sort == "snooze" and reservation is None:
            return NotYet("x", 90.0)
        on_fetch()
        await asyncio.sleep(30 if sort == "slow" else 0.2)
        if sort == "gone":
            return Failed(Failure("http_status", "410"))
        if sort == "down" or (sort == "flaky" and self.tries[ident] < 3):
            return Failed(Failure("connect", "refused", retryable=True))
        if sort == "boom":
            raise ZeroDivisionError
        return Scraped(Facts())


class House:
    """A worker over a broker in memory, and what becomes of its jobs."""

    def __init__(
        self, settler: type[Settler] = Settler, broker: type[MemoryBroker] = MemoryBroker
    ) -> None:
        self.broker = broker(prefetch=200, latency=0.2)
        self.broker.replies["mine"] = deque()
        keys = Keys([b"k"], "team", time.time)
        made = settler(self.broker, Limits(2**20, 1800), keys, SYSTEM)
        config = configured(jobs__max_retries=3, jobs__retry_backoff=1)
        scraper: Any = Scrapes()
        self.worker = worker_of(config, scraper, made, Observer(log=Quiet()), "w", SYSTEM)

    def publish(self, count: int) -> dict[str, str]:
        """Jobs of all sorts; their ids, with the sort of each."""
        jobs = {f"j{n}": SORTS[n % len(SORTS)] for n in range(count)}
        for ident, sort in jobs.items():
            url = "ftp://x" if sort == "invalid" else f"http://x/{sort}/{ident}"
            body = json.dumps({"url": url, "id": ident}).encode()
            self.broker.put(Message(body, reply_to="mine" if sort == "reply" else None))
        return jobs

    async def run(self, faults: Callable[[MemoryBroker], Awaitable[None]] | None = None) -> None:
        """Work until nothing is left, with the faults beside it; a day is too long for that."""
        running = asyncio.create_task(self.worker.run())
        await asyncio.sleep(0)
        self.broker.begin(self.worker.accept, self.worker.abandon)
        if faults is not None:
            await faults(self.broker)
        async with asyncio.timeout(86400):
            while self.busy:  # noqa: ASYNC110 - a clock that jumps makes a look cost nothing
                await asyncio.sleep(1)
        self.broker.stop()
        await self.worker.drain(1)
        await running

    @property
    def busy(self) -> int:
        waiting = [self.broker.depth(one) for one in Source if one is not Source.DEAD]
        return sum(waiting) + self.broker.unacked + self.broker.delayed

    def results(self) -> Counter[tuple[str, str]]:
        """How many results there are of each id and end."""
        found: Counter[tuple[str, str]] = Counter()
        for message in [m for _, m in self.broker.results] + list(self.broker.replies["mine"]):
            result = json.loads(message.body)
            end = result["status"] if result["status"] == "ok" else result["error"]["kind"]
            found[result["id"], end] += 1
        return found


ENDS = {
    "ok": "ok",
    "gone": "http_status",
    "flaky": "ok",
    "down": "connect",
    "snooze": "ok",
    "boom": "internal",
    "invalid": "invalid_job",
    "reply": "ok",
    "slow": "ok",
}
DEAD = {"down", "boom", "invalid"}


def judge(house: House, jobs: dict[str, str], *, duplicates: int = 0) -> None:
    """Each job has the end that its sort has, and only that one; so many results more at most."""
    results = house.results()
    assert set(results) == {(ident, ENDS[sort]) for ident, sort in jobs.items()}
    assert results.total() <= len(jobs) + duplicates
    letters = Counter(json.loads(letter.body)["id"] for letter in house.broker.dead)
    assert set(letters) == {ident for ident, sort in jobs.items() if sort in DEAD}
    assert letters.total() <= len(letters) + duplicates


def test_ten_thousand_jobs_end_as_they_must() -> None:
    """Retries, snoozes, replies, dead letters: each job has its one result, in simulated hours."""

    async def life() -> None:
        house = House()
        jobs = house.publish(JOBS)
        await house.run()
        judge(house, jobs)
        assert len(house.broker.replies["mine"]) == sum(sort == "reply" for sort in jobs.values())

    hours.run(life())


async def losses(broker: MemoryBroker) -> None:
    """The connection is lost thirty times, at any moment of a job's life."""
    chance = random.Random(11)
    for _ in range(30):
        await asyncio.sleep(chance.random() * 3)
        assert broker.epoch is not None
        broker.epoch.end("cut")


async def full(broker: MemoryBroker) -> None:
    """The queues of results and dead letters are full for a minute, and then read."""
    broker.full = {None: 50, Source.DEAD: 5}
    await asyncio.sleep(60)
    broker.full = {}


@pytest.mark.parametrize("faults", [losses, full])
def test_faults_lose_nothing(faults: Callable[[MemoryBroker], Awaitable[None]]) -> None:
    """Duplicates come only of what was unacked when a connection was lost."""

    async def life() -> None:
        house = House()
        jobs = house.publish(2000)
        await house.run(faults)
        judge(house, jobs, duplicates=30 * 200 if faults is losses else 0)

    hours.run(life())


class AcksFirst(Settler):
    """A mutant: it acks before the outcome is stored."""

    async def settle(self, job: Received, outcome: Outcome, verdict: Verdict) -> bool:
        await job.delivery.ack()
        job.delivery.settled = False
        return await super().settle(job, outcome, verdict)


class TellsTwice(Settler):
    """A mutant: it publishes each good result twice."""

    async def settle(self, job: Received, outcome: Outcome, verdict: Verdict) -> bool:
        if isinstance(verdict, Done):
            await super().settle(job, outcome, verdict)
            job.delivery.settled = False
        return await super().settle(job, outcome, verdict)


class BuriesNothing(Settler):
    """A mutant: what is dead has its result, and no dead letter."""

    async def settle(self, job: Received, outcome: Outcome, verdict: Verdict) -> bool:
        return await super().settle(job, outcome, Done() if isinstance(verdict, Dead) else verdict)


@dataclass
class Forgets(MemoryBroker):
    """A mutant: what is unacked when a connection is lost does not come back."""

    thrown: list[asyncio.Future[bool]] = field(default_factory=list)

    def begin(
        self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[Epoch], None]
    ) -> MemoryEpoch:
        def first_only(delivery: Delivery) -> None:
            if delivery.redeliveries:
                self.thrown.append(asyncio.ensure_future(delivery.ack()))
            else:
                on_delivery(delivery)

        return super().begin(first_only, on_lost)


@pytest.mark.parametrize("mutant", [AcksFirst, TellsTwice, BuriesNothing, Forgets])
def test_a_broken_rule_is_seen(mutant: Any) -> None:
    """The oracle of these tests finds each of them: it is no test that can't fail."""

    async def life() -> None:
        broker = issubclass(mutant, MemoryBroker)
        house = House(broker=mutant) if broker else House(settler=mutant)
        jobs = house.publish(2000)
        await house.run(losses if mutant in (AcksFirst, Forgets) else None)
        with pytest.raises(AssertionError):
            judge(house, jobs, duplicates=30 * 200 if mutant in (AcksFirst, Forgets) else 0)

    hours.run(life())


def test_a_message_that_is_given_back_too_often_is_given_up() -> None:
    """The broker's own limit: the job ends with a result and a dead letter, and is not run."""

    async def life() -> None:
        house = House()
        house.broker.put(Message(b'{"url": "http://x/slow/a", "id": "a"}'))
        taken: list[Delivery] = []
        house.broker.begin(taken.append, lambda _: None)
        while not taken or taken[-1].source is Source.JOBS:
            for delivery in taken[-1:]:
                delivery.epoch.end("cut")
            await asyncio.sleep(0)
        assert taken[-1].source is Source.UNDELIVERED
        assert taken[-1].given_up is not None
        assert (taken[-1].given_up.reason, taken[-1].given_up.times) == ("delivery_limit", 100)
        assert [delivery.redeliveries for delivery in taken[:-1]] == list(range(101))

    hours.run(life())
