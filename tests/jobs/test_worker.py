"""The worker with its neighbours' places taken: what a real site or broker can't be made to do.

May touch: the worker, an in-memory settler and scraper of these tests.
Must never: repeat what tests/e2e/life/test_daemon.py sees from outside.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest
from msgspec import UNSET, UnsetType

from scraperd.base.clocks import Clocks
from scraperd.broker.ports import Delay, Delivery, Into, Limits, Lost, Refused, Source
from scraperd.broker.rabbitmq.limits import learn
from scraperd.config.tables import JobsSettings
from scraperd.contract import Failure, Peeked
from scraperd.fetch.memory import Budget, Claim
from scraperd.jobs.signing import Keys
from scraperd.jobs.unrun import MAX_SNOOZES
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze, Verdict
from scraperd.jobs.worker import FURTHEST
from scraperd.ops.telemetry import Observer
from scraperd.politeness.admission import NotYet, Reservation
from scraperd.scrape.result import Facts, Failed, Scraped
from scraperd.wiring import worker_of
from tests.rig.clocks.lived import lived
from tests.rig.deliveries import Owner, acked
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Callable

    from scraperd.jobs.outcome import Outcome
    from scraperd.jobs.received import Received
    from scraperd.jobs.verdict import Verdict
    from scraperd.scrape.request import Target


NOW = 1_800_000_000.0  # seconds since 1970: what the worker's wall clock shows all the time
ROLL = 0.25
CLOCKS = Clocks(time.monotonic, lambda: NOW, lambda: ROLL)


@dataclass
class Scrapes:
    """A scraper that does what the job's path says: nothing, raise, wait, or come back later."""

    slots: asyncio.Semaphore
    started: list[str] = field(default_factory=list)
    reservations: list[Reservation | None] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def claim(self) -> Claim:
        return Budget(2**20).open()

    def limited(self, _job: object, *, max_retries: float) -> UnsetType:
        """No limit of a job's is looser."""
        assert max_retries >= 0
        return UNSET

    async def peek(self, _body: bytes) -> Peeked:
        return Peeked("peeked", meta=msgspec.Raw(b"7"))

    def known_rules(self, _raw: bytes) -> None:
        """None are compiled before a job asks for them."""

    async def rules(self, _raw: bytes) -> object:
        """Rules whose turn to be compiled never comes."""
        return await asyncio.Future[object]()

    async def scrape(
        self,
        target: Target,
        _rules: object,
        _claim: Claim,
        *,
        reservation: Reservation | None,
        within: float,
        on_fetch: Callable[[], object],
    ) -> Scraped | Failed | NotYet:
        self.reservations.append(reservation)
        url = target.job.url
        if "later" in url:
            return NotYet("x", 100.0)
        try:
            async with asyncio.timeout(within), self.slots:
                on_fetch()
                self.started.append(url)
                if "boom" in url:
                    raise ZeroDivisionError
                if "wait" in url:
                    await self.release.wait()
        except TimeoutError:
            return Failed(Failure("timeout", f"within {within:.3g} s", retryable=True))
        return Scraped(Facts())


@dataclass
class Settles:
    """A settler that remembers, and can lose its broker."""

    settled: list[tuple[Outcome | None, Verdict]] = field(default_factory=list)
    lost: bool = False
    refused: list[str] = field(default_factory=list)
    keys: Keys = field(default_factory=lambda: Keys([b"k"], "team", CLOCKS.wall))
    limits: Limits = field(default_factory=lambda: Limits(2**20, 1800))

    async def settle(self, _job: Received, outcome: Outcome | None, verdict: Verdict) -> bool:
        if self.lost:
            raise Lost
        if self.refused:
            raise Refused(self.refused.pop())
        self.settled.append((outcome, verdict))
        return True

    def carried_out(self, verdict: Verdict) -> Verdict:
        return verdict

    def let_go(self) -> None:
        """Nothing waits for a queue here."""


@dataclass
class Log:
    """A structlog logger's shape; keeps the lines."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    error = debug = info

    def is_enabled_for(self, _level: int) -> bool:
        return True


async def turns_until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds; ten seconds of its life are too long for that."""
    async with lived() as seconds:
        while not condition():
            assert seconds() < 10
            await asyncio.sleep(0)


class House:
    """A running worker with its neighbours."""

    def __init__(self, **settings: Any) -> None:
        config = configured(**settings)
        self.scrapes = Scrapes(asyncio.Semaphore(config.concurrency))
        self.settles, self.log = Settles(), Log()
        self.worker = worker_of(
            config,
            self.scrapes,  # type: ignore[arg-type]
            self.settles,  # type: ignore[arg-type]
            Observer(log=self.log),
            "w",
            clocks=CLOCKS,
        )
        self.running: asyncio.Task[None] | None = None
        self.epoch = Owner()

    async def __aenter__(self) -> Self:
        self.running = asyncio.create_task(self.worker.run())
        await asyncio.sleep(0)  # one turn of the loop: the worker owns its group now
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.worker.drain(1)
        assert self.running is not None
        await self.running

    def deliver(
        self,
        *paths: str,
        epoch: Any = None,
        source: Source = Source.JOBS,
        redeliveries: int = 0,
        signed_at: float | None = None,
        **more: Any,
    ) -> None:
        """Deliver a job a path; of `more`, `x-...` are headers and the rest fields of the job.

        Its headers are signed now, or at `signed_at`.
        """
        headers = {name: value for name, value in more.items() if name.startswith("x-")}
        fields = {name: value for name, value in more.items() if name not in headers}
        keys = Keys([b"k"], "team", lambda: NOW if signed_at is None else signed_at)
        for path in paths:
            body = json.dumps({"url": f"http://x/{path}", "id": path, **fields}).encode()
            signed = keys.sign(body, headers) if headers else {}
            self.worker.accept(
                Delivery(
                    body, signed, source, epoch or self.epoch, acked, redeliveries=redeliveries
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


async def test_a_job_that_has_to_wait_for_its_turn_is_snoozed() -> None:
    """It is settled as Snooze with the host and the time, whatever its attempt, and logged as such
    without a status, for it has no result yet.
    """
    async with House() as house:
        house.deliver("later", **{"x-scraperd-attempt": 3})
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == Snooze("x", 100.0)
    assert outcome is None
    [fields] = [fields for event, fields in house.log.lines if event == "job"]
    assert fields["attempt"] == 3
    assert (fields["verdict"], fields["turn_of"], fields["turn_in"]) == ("snooze", "x", 100.0)
    assert "status" not in fields


async def test_a_snoozed_job_that_expires_first_comes_back_to_say_so() -> None:
    """It is snoozed until its `expires_at` and no longer."""
    async with House() as house:
        soon = (CLOCKS.now() + timedelta(seconds=10)).isoformat()
        house.deliver("later", expires_at=soon)
        await house.idle()
    [(_, verdict)] = house.settles.settled
    assert verdict == Snooze("x", 10.0)


@pytest.mark.parametrize(
    ("wait", "waited", "more", "ends"),
    [
        (0, 0, {"later_field": 1}, Dead("invalid_job")),
        (60, 0, {"later_field": 1}, Snooze("x", 30.0)),
        (60, 1, {"later_field": 1}, Snooze("x", 30.0)),
        (60, 2, {"later_field": 1}, Dead("invalid_job")),
        (60, 0, {"include": ["screenshot"]}, Snooze("x", 30.0)),
        (60, 0, {"cookies": [{"name": "a", "value": "b", "later": 1}]}, Snooze("x", 30.0)),
        (60, 0, {"timeout": "long"}, Dead("invalid_job")),
        (60, 0, {"later_field": 1, "timeout": -1}, Snooze("x", 30.0)),
    ],
)
async def test_a_job_with_an_unknown_field_may_wait_for_a_newer_process(
    wait: float, waited: int, more: dict[str, Any], ends: Verdict
) -> None:
    """For jobs.unknown_field_wait seconds, 30 at a time; what no version can mean does not wait."""
    async with House(jobs__unknown_field_wait=wait) as house:
        house.deliver("good", **{"x-scraperd-snoozes": waited}, **more)
        await house.idle()
    [(_, verdict)] = house.settles.settled
    assert verdict == ends


async def test_a_promised_turn_is_read_from_the_header() -> None:
    """The scraper gets the host and the seconds left; what is no such header is no promise, and
    one that is too far off to be ours is cut.
    """
    async with House() as house:
        for turn in (f"{NOW + 60:.3f} x", "soon x", f"{NOW:.3f}", 7, "9999999999.000 x"):
            house.deliver("good", **{"x-scraperd-turn": turn})
        await house.idle()
    first, *others, far = house.scrapes.reservations
    assert first == Reservation("x", 60.0)
    assert others == [None, None, None]
    assert far == Reservation("x", FURTHEST)


async def test_a_job_that_goes_in_circles_ends() -> None:
    """Snoozed a thousand times, it is a failure and not fetched; a strange count is none."""
    async with House() as house:
        house.deliver("circles", **{"x-scraperd-snoozes": MAX_SNOOZES})
        house.deliver("good", **{"x-scraperd-snoozes": "many"})
        await house.idle()
    ends = {outcome.result.id: outcome.result for outcome, _ in house.settles.settled}
    assert ends["circles"].error.kind == "timeout"
    assert ends["good"].status == "ok"
    assert house.scrapes.started == ["http://x/good"]


async def test_a_proxy_that_is_not_configured_is_refused() -> None:
    """The job is invalid by its field `proxy`, before any fetch."""
    async with House() as house:
        house.deliver("good", proxy="nowhere")
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == Dead("invalid_job")
    assert outcome.result.error.field == "proxy"
    assert house.scrapes.started == []


async def test_too_many_headers_are_refused() -> None:
    """A job whose message has more headers than the transport takes is invalid, and not fetched."""
    async with House() as house:
        body = b'{"url": "http://x/good", "id": "good"}'
        house.worker.accept(Delivery(body, {}, Source.JOBS, house.epoch, acked, overfull=100))
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == Dead("invalid_job")
    assert outcome.result.id == "good"
    assert outcome.result.error.message == "the message has more than 100 headers"
    assert house.scrapes.started == []


async def test_a_lost_generation_abandons_its_own_jobs_only() -> None:
    """Jobs of the generation that ended are cancelled unsettled; the next one's go on."""
    old, new = Owner(), Owner()
    async with House() as house:
        house.deliver("wait-old", epoch=old)
        house.deliver("wait-new", epoch=new)
        await turns_until(lambda: len(house.scrapes.started) == 2)
        house.worker.abandon(old)
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
    """After close running jobs end; waiting ones and new deliveries go back as they came."""
    async with House(concurrency=1) as house:
        house.deliver("wait1", "wait2")
        await turns_until(lambda: house.scrapes.started)
        house.worker.close()
        house.deliver("late")
        house.scrapes.release.set()
        await turns_until(lambda: house.worker.in_flight == 2)
    back = Requeue(Into(Source.JOBS))
    assert [verdict for _, verdict in house.settles.settled] == [Done(), back, back]
    assert house.scrapes.started == ["http://x/wait1"]


async def test_what_does_not_end_in_time_is_left() -> None:
    """Drain reports how many jobs it had to leave, and gives them back as they came; but not to a
    broker that has gone.
    """
    async with House() as house:
        gone = Owner()
        house.deliver("wait1")
        house.deliver("wait2", epoch=gone)
        await turns_until(lambda: len(house.scrapes.started) == 2)
        gone.lost.set_result("cut")
        assert await house.worker.drain(0.01) == 2
    assert [verdict for _, verdict in house.settles.settled] == [Requeue(Into(Source.JOBS))]


async def test_what_waits_is_given_back_once() -> None:
    """Though it is closed and drained in one turn of the loop."""
    async with House(concurrency=1) as house:
        house.deliver("wait1", "wait2", "wait3")
        await turns_until(lambda: house.scrapes.started)
        house.scrapes.release.set()
        house.worker.close()
        await house.worker.drain(1)
    back = Requeue(Into(Source.JOBS))
    verdicts = [verdict for _, verdict in house.settles.settled]
    assert sorted(verdicts, key=str) == [Done(), back, back]


async def test_what_comes_after_the_end_of_its_generation_is_not_begun() -> None:
    """It will be delivered again, and is blamed for no more than its queue stands for."""
    async with House() as house:
        late = Owner()
        late.lost.set_result("no confirm")
        for count in (0, 1):
            house.deliver("good", epoch=late, source=Source.SOLO, redeliveries=count)
        assert not house.worker.in_flight
        house.deliver("good", source=Source.SOLO, redeliveries=2)
        await house.idle()
    [line] = [fields for event, fields in house.log.lines if event == "job"]
    assert line["strikes"] == 2


async def test_a_second_loss_does_not_blame_for_the_first() -> None:
    """A generation that ends before it gave a job back takes no excuse away."""
    async with House() as house:
        lost = Owner()
        house.deliver("wait", epoch=lost, source=Source.SOLO)
        await turns_until(lambda: house.scrapes.started)
        house.worker.abandon(lost)
        house.worker.abandon(Owner())
        await house.idle()
        house.scrapes.release.set()
        notes = {"x-scraperd-strikes": 2}
        house.deliver("wait", source=Source.SOLO, redeliveries=1, **notes)
        await house.idle()
    [line] = [fields for event, fields in house.log.lines if event == "job"]
    assert line["strikes"] == 2


async def test_a_job_past_its_delivery_limit_is_not_tried_again() -> None:
    """A job that has been delivered too often is dead without a scrape, or a look at its body."""
    async with House(jobs__delivery_limit=3) as house:
        house.deliver("good", redeliveries=7, **{"x-scraperd-strikes": 2})
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == Dead("internal")
    assert (outcome.result.id, bytes(outcome.result.meta)) == ("peeked", b"7")
    assert "delivered 3 times before" in outcome.result.error.message
    assert house.scrapes.started == []


@pytest.mark.parametrize(
    ("source", "strikes", "moved_to"),
    [
        (Source.JOBS, 0, None),
        (Source.JOBS, 1, Source.QUARANTINE),
        (Source.JOBS, 2, Source.SOLO),
        (Source.QUARANTINE, 0, None),
        (Source.QUARANTINE, 1, Source.SOLO),
        (Source.QUARANTINE, 2, Source.SOLO),
        (Source.SOLO, 1, None),
        (Source.SOLO, 4, None),
    ],
)
async def test_a_redelivered_job_runs_among_few_then_alone(
    source: Source, strikes: int, moved_to: Source | None
) -> None:
    """Wherever it comes from, it is moved untouched, and runs only where few others do."""
    async with House() as house:
        noted, count = strikes // 2, strikes - strikes // 2
        notes = {"x-scraperd-strikes": noted} if noted else {}
        house.deliver("good", source=source, redeliveries=count, **notes)
        await house.idle()
    [(_, verdict)] = house.settles.settled
    assert verdict == (Done() if moved_to is None else Requeue(Into(moved_to)))
    assert len(house.scrapes.started) == (moved_to is None)


async def test_an_old_mark_alone_puts_no_job_beside_nothing() -> None:
    """To run alone stops all others. For that the broker has to have counted a redelivery itself,
    or the header must be fresh: what someone kept a copy of is not. Else few others are beside it.
    """
    few, solo = Source.QUARANTINE, Source.SOLO
    for age, place in ((60, solo), (86400, few), (-86400, few)):
        async with House() as house:
            house.deliver("good", signed_at=NOW - age, **{"x-scraperd-strikes": 2})
            await house.idle()
        [(_, verdict)] = house.settles.settled
        assert verdict == Requeue(Into(place)), age


@pytest.mark.parametrize(
    ("notes", "ends"),
    [
        ({"x-scraperd-total-retries": 106}, False),
        ({"x-scraperd-total-retries": 108}, True),
        ({"x-scraperd-total-retries": 108, "x-scraperd-attempt": 4}, False),
        ({"x-scraperd-total-snoozes": 2 * MAX_SNOOZES}, False),
        ({"x-scraperd-total-snoozes": 2 * MAX_SNOOZES + 1}, True),
        ({"x-scraperd-total-snoozes": 2 * MAX_SNOOZES + 1, "x-scraperd-snoozes": 5}, False),
    ],
)
async def test_a_job_whose_marks_get_lost_each_time_ends(
    notes: dict[str, int],
    ends: bool,  # noqa: FBT001 - a column
) -> None:
    """Between processes that don't believe each other it would begin its first attempt for ever.
    What it lived in all is no header that needs a signature: too high it ends its own job.
    """
    async with House() as house:
        house.deliver("good", **notes)
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert verdict == (Dead("internal") if ends else Done())
    assert not ends or "the same jobs.signing_key_file" in outcome.result.error.message


async def test_a_process_that_lives_suspects_none_of_its_jobs() -> None:
    """A lost connection brings jobs back, which is not held against them where they were; but for
    those that were being published: that can end a connection.
    """
    async with House() as house:
        lost = Owner(blames_a_publish=True)
        house.deliver("wait", epoch=lost)
        await turns_until(lambda: house.scrapes.started)
        house.worker.abandon(lost)
        await house.idle()
        house.scrapes.release.set()
        house.deliver("wait", redeliveries=1)
        await house.idle()
        house.deliver("wait", redeliveries=2)
        await house.idle()
    assert [verdict for _, verdict in house.settles.settled] == [
        Done(),
        Requeue(Into(Source.QUARANTINE)),
    ]


async def test_a_job_whose_outcome_no_queue_takes_is_let_go() -> None:
    """It waits in a delay queue, in the same attempt, instead of in the process without an ack."""
    async with House() as house:
        house.settles.refused.append("rejected")
        house.deliver("good")
        await house.idle()
    assert [verdict for _, verdict in house.settles.settled] == [Requeue(Delay(60))]


async def test_a_job_ends_before_the_broker_takes_it_back() -> None:
    """What the broker said of its ack timeout bounds the job, whatever jobs.timeout is."""
    async with House() as house:
        learn(house.settles.limits, "timed out. Timeout value used: 20 ms. This")
        house.deliver("wait")
        await house.idle()
    [(outcome, _)] = house.settles.settled
    assert outcome.result.error.message.startswith("within 0.01")


async def test_compiling_rules_is_a_part_of_a_jobs_time() -> None:
    """Rules that are not compiled within `jobs.timeout`: a timeout that says so, and a retry."""
    async with House(jobs__timeout=0.05) as house:
        house.deliver("dear", extract={"a": "b"})
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert outcome.result.error.kind == "timeout"
    assert outcome.result.error.message.startswith("extract took over 0.0")
    assert "to be compiled (jobs.timeout)" in outcome.result.error.message
    assert verdict == Retry(verdict.delay)
    assert house.scrapes.started == []


async def test_a_crowded_out_job_waits_by_the_die() -> None:
    """A large job without room waits in a delay queue for 15 to 60 s, as the die falls."""
    async with House() as house:
        body = b'{"url": "http://x/good", "id": "good"}'
        house.worker.accept(Delivery(body, {}, Source.JOBS, house.epoch, acked, crowded=True))
        await house.idle()
    [(outcome, verdict)] = house.settles.settled
    assert (outcome, verdict) == (None, Requeue(Delay(15 + ROLL * 45)))


async def test_the_backoff_is_jittered_by_the_die() -> None:
    """The wait before a retry is a share of the backoff, as the die falls: jobs that failed
    together do not come back together.
    """
    async with House(
        jobs__timeout=0.01, fetch__download_timeout=0.01, fetch__connect_timeout=0.01
    ) as house:
        house.deliver("wait", **{"x-scraperd-attempt": 2})
        await house.idle()
    [(_, verdict)] = house.settles.settled
    assert verdict == Retry(ROLL * 2 * JobsSettings().retry_backoff)


async def test_a_job_over_its_time_is_retried() -> None:
    """The scraper is given `job_timeout`; a timeout that it reports is retried."""
    async with House(
        jobs__timeout=0.01, fetch__download_timeout=0.01, fetch__connect_timeout=0.01
    ) as house:
        house.deliver("wait")
        await house.idle()
    [(outcome, _)] = house.settles.settled
    assert (outcome.result.error.kind, outcome.result.error.retryable) == ("timeout", True)
