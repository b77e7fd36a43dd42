"""The worker with its neighbours' places taken: what a real site or broker can't be made to do.

May touch: the worker, an in-memory settler and scraper of these tests.
Must never: repeat what tests/test_daemon.py sees from outside.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import pytest

from scraperd.broker.link import BrokerLost
from scraperd.broker.message import Delivery
from scraperd.config import Config
from scraperd.jobs.observe import Observer
from scraperd.jobs.verdict import Dead, Done
from scraperd.jobs.worker import Worker
from scraperd.page.scrape import Page

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.contract import Job
    from scraperd.jobs.settle import Outcome
    from scraperd.jobs.verdict import Verdict


@dataclass
class Scrapes:
    """A scraper that does what the job's path says: nothing, raise, or wait."""

    started: list[str] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def scrape(self, job: Job, _rules: object) -> Page:
        self.started.append(job.url)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if "boom" in job.url:
                raise ZeroDivisionError
            if "wait" in job.url:
                await self.release.wait()
        finally:
            self.at_once -= 1
        return Page(job)


@dataclass
class Settles:
    """A settler that remembers, and can lose its broker."""

    settled: list[tuple[Outcome, Verdict]] = field(default_factory=list)
    lost: bool = False

    async def settle(self, _delivery: Delivery, outcome: Outcome, verdict: Verdict) -> bool:
        if self.lost:
            raise BrokerLost
        self.settled.append((outcome, verdict))
        return True


@dataclass
class Log:
    """A structlog logger's shape; keeps the lines."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    error = info

    def is_enabled_for(self, _level: int) -> bool:
        return True


async def turns_until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds; the test's own timeout bounds it."""
    while not condition():  # noqa: ASYNC110 - nothing signals what another object has come to
        await asyncio.sleep(0)


class House:
    """A running worker with its neighbours."""

    def __init__(self, **settings: Any) -> None:
        self.scrapes, self.settles, self.log = Scrapes(), Settles(), Log()
        self.worker = Worker(
            Config(**settings),
            self.scrapes,  # type: ignore[arg-type]
            self.settles,  # type: ignore[arg-type]
            Observer(log=self.log),
            "w",
        )
        self.running: asyncio.Task[None] | None = None
        self.generation: Any = object()

    async def __aenter__(self) -> Self:
        self.running = asyncio.create_task(self.worker.run())
        await asyncio.sleep(0)  # one turn of the loop: the worker owns its group now
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.drain(1)
        assert self.running is not None
        await self.running

    def deliver(self, *paths: str, generation: Any = None, **headers: Any) -> None:
        for path in paths:
            body = json.dumps({"url": f"http://x/{path}", "id": path}).encode()
            self.worker.accept(
                Delivery(
                    body, headers, None, None, None, None, None, 1, generation or self.generation
                )
            )

    async def idle(self) -> None:
        await turns_until(lambda: not self.worker.in_flight)


async def test_an_error_of_ours_ends_one_job_only() -> None:
    """An exception in the scraper: that job is dead as `internal`, with a logged error and no
    details in its result; the job beside it is done.
    """
    async with House() as house:
        house.deliver("boom", "good")
        await house.idle()
    ends = {outcome.result.id: (outcome, verdict) for outcome, verdict in house.settles.settled}
    outcome, verdict = ends["boom"]
    assert verdict == Dead("internal")
    assert outcome.result.error.message == "ZeroDivisionError in w; see its log"
    assert ends["good"][1] == Done()
    assert ("internal_error", "boom") in [(e, f.get("id")) for e, f in house.log.lines]


async def test_concurrency_is_the_bound() -> None:
    """With ten deliveries and three slots, three are scraped at once, never more."""
    async with House(concurrency=3) as house:
        house.deliver(*(f"wait{n}" for n in range(10)))
        await turns_until(lambda: len(house.scrapes.started) == 3)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(house.scrapes.started) == 3
        house.scrapes.release.set()
        await house.idle()
    assert house.scrapes.most_at_once == 3
    assert len(house.settles.settled) == 10


async def test_a_lost_generation_abandons_its_own_jobs_only() -> None:
    """Jobs of the generation that ended are cancelled unsettled; the next one's go on."""
    old, new = object(), object()
    async with House() as house:
        house.deliver("wait-old", generation=old)
        house.deliver("wait-new", generation=new)
        await turns_until(lambda: len(house.scrapes.started) == 2)
        house.worker.abandon(old)  # type: ignore[arg-type]
        house.scrapes.release.set()
        await house.idle()
    assert [outcome.result.id for outcome, _ in house.settles.settled] == ["wait-new"]


async def test_a_broker_lost_while_settling_is_recorded_as_unsettled() -> None:
    """The log line of a job whose outcome could not be published says so."""
    async with House() as house:
        house.settles.lost = True
        house.deliver("good")
        await house.idle()
    [fields] = [fields for event, fields in house.log.lines if event == "job"]
    assert fields["settled"] is False


async def test_nothing_starts_once_closed() -> None:
    """After close, waiting jobs are let go, new deliveries left unacked; running ones end."""
    async with House(concurrency=1) as house:
        house.deliver("wait1", "wait2")
        await turns_until(lambda: house.scrapes.started)
        house.worker.close()
        house.deliver("late")
        house.scrapes.release.set()
        await house.idle()
    assert [outcome.result.id for outcome, _ in house.settles.settled] == ["wait1"]


@pytest.mark.parametrize("within", [0.01])
async def test_what_does_not_end_in_time_is_left(within: float) -> None:
    """Drain reports how many jobs it had to leave unacked."""
    async with House() as house:
        house.deliver("wait")
        await turns_until(lambda: house.scrapes.started)
        assert await house.worker.drain(within) == 1
    assert house.settles.settled == []


async def test_a_job_past_its_delivery_limit_is_not_tried_again() -> None:
    """A job that has been delivered too often is dead without a scrape."""
    async with House(delivery_limit=2) as house:
        house.deliver("good", **{"x-delivery-count": 2})
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == Dead("internal")
    assert "delivered 2 times before" in outcome.result.error.message
    assert house.scrapes.started == []


async def test_a_job_over_its_time_is_retried() -> None:
    """job_timeout ends a scrape as a retryable timeout."""
    async with House(job_timeout=0.01, download_timeout=0.01, connect_timeout=0.01) as house:
        house.deliver("wait")
        await house.idle()
    [(outcome, _)] = house.settles.settled
    assert (outcome.result.error.kind, outcome.result.error.retryable) == ("timeout", True)
