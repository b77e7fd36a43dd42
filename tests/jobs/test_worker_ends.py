"""What each delivery ends as, to the field: its result, its letter, its record, and when.

May touch: the worker with its real settler, on a clock that jumps; values for its neighbours.
Must never: wait, or judge by what the code under test says of itself.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec import UNSET, Raw, UnsetType

from scraperd.base.clocks import Clocks
from scraperd.base.fd_limits import OutOfDescriptors
from scraperd.broker.ports import (
    Callbacks,
    Delay,
    Delivery,
    GivenUp,
    Into,
    Limits,
    Lost,
    Message,
    Refused,
    Reply,
    Results,
    Source,
)
from scraperd.contract import Failure, Peeked
from scraperd.fetch.memory import Budget, Claim
from scraperd.jobs.callback.note import Note
from scraperd.jobs.settle import Settler
from scraperd.jobs.signing import RUN, STRIKES, TURN, Keys
from scraperd.jobs.verdict import Dead, Done, Requeue, Retry, Snooze
from scraperd.jobs.worker import CROWDED_FOR, REFUSED_FOR, SETTLE_GRACE
from scraperd.politeness.admission import NotYet, Reservation
from scraperd.sandbox.extractor import Crowded, Unchecked
from scraperd.scrape.result import Facts, Failed, Scraped
from scraperd.wiring import callbacks_of, worker_of
from tests.rig.clocks import hours
from tests.rig.deliveries import Owner, acked
from tests.rig.settings import configured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scraperd.broker.ports import Destination, Epoch
    from scraperd.jobs.received import Received
    from scraperd.jobs.record import Record

NOW = 1_800_000_000.0  # seconds since 1970, where the loop's clock begins
ROLL = 0.25
FAILURE = Failure("connect", "refused", retryable=True)
ID, ATTEMPT = "x-scraperd-job-id", "x-scraperd-attempt"


@dataclass
class Scrapes:
    """A scraper whose answers the test gives, by the job's path; each takes some seconds."""

    ends: dict[str, Scraped | Failed | NotYet | BaseException] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    waiting: set[str] = field(default_factory=set)  # paths that nothing is fetched of meanwhile
    compiled: Any = None
    compiling: float = 0.0
    peeked: Peeked = field(default_factory=Peeked)
    asked: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lacks: list[tuple[str, object]] = field(default_factory=list)
    budget: Budget = field(default_factory=lambda: Budget(2**20))

    def claim(self) -> Claim:
        return self.budget.open()

    def limited(self, _job: object, *, max_retries: float) -> UnsetType:
        """No limit of a job's is looser."""
        assert max_retries >= 0
        return UNSET

    async def peek(self, body: bytes) -> Peeked:
        self.bodies.append(body)
        return self.peeked

    def known_rules(self, _raw: bytes) -> None:
        """None are compiled before a job asks for them."""

    async def rules(self, _raw: bytes) -> object:
        await asyncio.sleep(self.compiling)
        if isinstance(self.compiled, Exception):
            raise self.compiled
        return self.compiled

    def snooze(self, host: str, lack: object) -> NotYet:
        self.lacks.append((host, lack))
        return NotYet(host, 7.0)

    async def scrape(
        self, target: Any, rules: object, claim: Claim, **more: Any
    ) -> Scraped | Failed | NotYet:
        path = target.job.url.split("/")[3]
        self.asked.append({"path": path, "rules": rules, **more})
        claim.resize(1000)
        if path not in self.waiting:
            more["on_fetch"]()
        await asyncio.sleep(self.seconds.get(path, 0.0))
        end = self.ends.get(path, Scraped(Facts()))
        if isinstance(end, BaseException):
            raise end
        return end


@dataclass
class Sent:
    """A publisher that remembers. It takes some seconds, and can raise first."""

    budget: Budget
    messages: list[tuple[Destination, Message]] = field(default_factory=list)
    claimed: list[int] = field(default_factory=list)  # bytes, as each message was published
    raises: list[BaseException] = field(default_factory=list)
    latency: float = 0.0
    stuck: set[bytes] = field(default_factory=set)  # ids whose publish takes for ever

    async def publish(
        self, _epoch: Epoch, destination: Destination, message: Message, _until: float
    ) -> None:
        self.claimed.append(self.budget.used)
        if self.raises:
            raise self.raises.pop(0)
        if any(ident in message.body for ident in self.stuck):
            await asyncio.Event().wait()
        await asyncio.sleep(self.latency)
        self.messages.append((destination, message))

    def wait_within(self, seconds: float) -> float:
        return seconds

    def wait_at_least(self, seconds: float) -> float:
        return seconds

    def let_go(self) -> None:
        """Nothing waits for a queue here."""


@dataclass
class Told:
    """An observer that keeps what it is told."""

    records: list[Record] = field(default_factory=list)
    alone: list[str] = field(default_factory=list)
    troubles: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    forged: int = 0
    raises: bool = False

    def event(self, event: str, **fields: Any) -> None:
        raise AssertionError((event, fields))

    def record(self, record: Record) -> None:
        self.records.append(record)
        if self.raises:
            raise ZeroDivisionError

    def solo(self, received: Received) -> None:
        self.alone.append(received.name)

    def unverified(self) -> None:
        self.forged += 1

    def trouble(self, event: str, error: BaseException, **fields: Any) -> None:
        self.troubles.append((event, type(error).__name__, fields))


class House:
    """A running worker named `w`, and what it has told."""

    def __init__(self, max_message: int = 2**20, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.now = loop.time
        clocks = Clocks(loop.time, lambda: NOW + loop.time(), lambda: ROLL)
        self.scrapes, self.told = Scrapes(), Told()
        self.sent = Sent(self.scrapes.budget)
        self.keys = Keys([b"k"], "team", clocks.wall)
        config, limits = configured(**settings), Limits(max_message, 1800)
        settler = Settler(self.sent, limits, self.keys, clocks, config.callbacks.max_payload)
        scraper: Any = self.scrapes
        self.worker = worker_of(
            config, scraper, settler, self.told, "w", clocks, callbacks=callbacks_of(config)
        )
        self.epoch = Owner(on_end=self.worker.abandon)
        self.running = asyncio.create_task(self.worker.run())

    def deliver(
        self,
        path: str,
        headers: dict[str, Any] | None = None,
        *,
        body: bytes | None = None,
        epoch: Owner | None = None,
        ack: Callable[[Delivery], Awaitable[bool]] | None = None,
        **more: Any,
    ) -> Delivery:
        """Deliver a job with this path and id. Of `more`, what a delivery has is given to it."""
        own = {name: more.pop(name) for name in tuple(more) if name not in _PROPERTIES}
        whole = json.dumps({"url": f"http://x/{path}", "id": path, **own}).encode()
        body = whole if body is None else body
        delivery = Delivery(
            body,
            headers if type(headers) is Bad else self.keys.sign(body, headers) if headers else {},
            more.pop("source", Source.JOBS),
            epoch or self.epoch,
            ack or acked,
            arrived=more.pop("arrived", self.now()),
            **more,
        )
        self.worker.accept(delivery)
        return delivery

    async def idle(self) -> None:
        """Wait until nothing is in flight; an hour is too long."""
        async with asyncio.timeout(3600):
            while self.worker.in_flight:  # noqa: ASYNC110 - on this clock a look costs nothing
                await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Wait until the worker has nothing left to do, and end it."""
        await self.idle()
        assert await self.worker.drain(1) == 0
        await asyncio.wait_for(self.running, 1)
        assert self.scrapes.budget.used == 0, "a claim was not closed"

    def results(self) -> list[dict[str, Any]]:
        sent = [message for to, message in self.sent.messages if isinstance(to, Results | Reply)]
        return [json.loads(message.body) for message in sent]

    def callbacks(self) -> list[tuple[str, dict[str, Any]]]:
        """The `webhook-id` of each callback, and the result in it."""
        sent = [message for to, message in self.sent.messages if to == Callbacks()]
        notes = [Note.of(message.headers, message.body, self.keys) for message in sent]
        told = [json.loads(message.body)["data"] for message in sent]
        return [(note.ident, data) for note, data in zip(notes, told, strict=True) if note]

    @property
    def record(self) -> Record:
        """The only one."""
        [record] = self.told.records
        return record

    @property
    def letters(self) -> list[Message]:
        return [message for to, message in self.sent.messages if to == Into(Source.DEAD)]


_PROPERTIES = frozenset(
    "arrived source reply_to message_id correlation_id redeliveries given_up crowded tag".split()
)


class Bad(dict[str, Any]):
    """Headers that raise when ours are read from them (`get`), or `times` times when copied."""

    get_raises = False
    times = 0

    def get(self, name: str, default: Any = None) -> Any:
        if self.get_raises:
            raise ZeroDivisionError
        return super().get(name, default)

    def items(self) -> Any:
        self.times -= 1
        if 0 <= self.times < 2:
            raise ZeroDivisionError
        return super().items()


def play(life: Callable[[], Awaitable[None]]) -> None:
    """Run it on a clock that jumps."""

    async def whole() -> None:
        await life()

    hours.run(whole())


def in_house(**settings: Any) -> Callable[[Callable[[House], Awaitable[None]]], None]:
    """Run a life in a house with these settings, to the end of its worker."""

    def run(life: Callable[[House], Awaitable[None]]) -> None:
        async def whole() -> None:
            house = House(**settings)
            await asyncio.sleep(0)
            await life(house)
            await house.end()

        hours.run(whole())

    return run


# --- a job that is run


def test_a_page_is_told_with_its_times_and_what_named_it() -> None:
    """The result has the job's id, URL, meta and attempt, the worker's name, and how long it took;
    the record says the same, and how long the publish took.
    """

    @in_house()
    async def life(house: House) -> None:
        house.sent.latency = 0.5
        house.scrapes.seconds["a"] = 4.0
        house.scrapes.ends["a"] = Scraped(Facts(fetch_time=3.0))
        await asyncio.sleep(10)
        house.deliver("a", {ATTEMPT: 2}, meta=[1])
        await house.idle()
        assert house.results() == [
            {
                "id": "a",
                "run": 1,
                "url": "http://x/a",
                "status": "ok",
                "attempt": 2,
                "timings": {"total": 4.0, "wait": 1.0, "fetch": 3.0, "extract": 0.0},
                "worker": "w",
                "contract_version": "1.0",
                "meta": [1],
            }
        ]
        record = house.record
        assert (record.ident, record.url, record.host) == ("a", "http://x/a", "x")
        assert (record.attempt, record.verdict, record.settled) == (2, Done(), True)
        assert record.result is not None
        assert record.result.id == "a"
        assert record.publish_time == pytest.approx(0.5)


def test_a_job_that_comes_again_has_the_same_webhook_id() -> None:
    """Killed before its ack, a job runs again, from quarantine too, and perhaps to another end: its
    receiver knows the callback again. Another run, job or body is another callback.
    """

    @in_house(callbacks__allow_urls=True)
    async def life(house: House) -> None:
        to = {"callback_url": "https://x.example/"}
        house.deliver("a", **to)
        house.deliver("a", {ID: "a", STRIKES: 1}, **to, source=Source.QUARANTINE)
        await house.idle()
        house.scrapes.ends["a"] = Failed(Failure("http_status", "404"))
        house.deliver("a", {ID: "a", STRIKES: 2, ATTEMPT: 3}, **to, source=Source.SOLO)
        await house.idle()
        again = house.callbacks()
        assert [data["status"] for _, data in again] == ["ok", "ok", "failed"]
        assert len({ident for ident, _ in again}) == 1
        house.deliver("a", {RUN: 2}, **to)
        house.deliver("b", **to)
        house.deliver("a", **to, meta=1)
        await house.idle()
        others = house.callbacks()[len(again) :]
        assert len({ident for ident, _ in [*again, *others]}) == 1 + len(others) == 4


def test_a_callback_is_no_larger_than_a_result_may_be() -> None:
    """The broker would end the connection over it, although its result was taken."""
    job = {"callback_url": "https://x.example/", "meta": "m" * 10_000}
    whole: list[int] = []

    @in_house(callbacks__allow_urls=True)
    async def life(house: House) -> None:
        house.deliver("a", **job)
        await house.idle()
        assert house.callbacks()[0][1] == house.results()[0]
        whole.append(len(house.sent.messages[0][1].body))

    @in_house(callbacks__allow_urls=True, max_message=whole[0])
    async def tight(house: House) -> None:
        house.deliver("a", **job)
        await house.idle()
        assert house.results()[0]["status"] == "ok"
        assert "meta" not in house.callbacks()[0][1]


def test_a_failed_job_is_told_with_its_failure() -> None:
    """An end that is not retried is a result like any other, with its error."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.ends["a"] = Failed(Failure("http_status", "404"), Facts(http_status=404))
        house.deliver("a")
        await house.idle()
        [result] = house.results()
        assert (result["status"], result["http_status"]) == ("failed", 404)
        assert result["error"]["message"] == "404"
        assert house.record.verdict == Done()


def test_the_scraper_is_asked_as_the_job_wants() -> None:
    """It gets the compiled rules, and the rest of the job's time: compiling, and the wait in our
    hands, are a part of it.
    """

    @in_house(jobs__timeout=60)
    async def life(house: House) -> None:
        house.scrapes.compiled, house.scrapes.compiling = "compiled", 2.0
        await asyncio.sleep(10)
        house.deliver("a", extract={"a": "h1"}, arrived=house.now() - 5)
        await house.idle()
        [asked] = house.scrapes.asked
        assert (asked["rules"], asked["reservation"]) == ("compiled", None)
        assert asked["within"] == pytest.approx(60 - 5 - 2)


def test_a_job_that_is_late_has_no_time_left() -> None:
    """It is not less than none."""

    @in_house(jobs__timeout=60)
    async def life(house: House) -> None:
        house.deliver("a", arrived=-61.0)
        house.deliver("b", arrived=-59.0)
        await house.idle()
        assert [asked["within"] for asked in house.scrapes.asked] == [0.0, 1.0]


def test_rules_have_no_more_than_the_jobs_time() -> None:
    """Time that the delivery was in our hands before is no time to compile in."""

    @in_house(jobs__timeout=60)
    async def life(house: House) -> None:
        house.scrapes.compiling = 10.0
        house.deliver("a", extract={"a": "h1"}, arrived=-55.0)
        await house.idle()
        assert house.results() == []
        assert isinstance(house.record.verdict, Retry)
        assert house.record.result is not None
        assert house.record.result.error is not UNSET
        assert house.record.result.error.message.startswith("extract took over 5 s")
        assert house.scrapes.asked == []


def test_a_claim_holds_what_is_being_published() -> None:
    """The page's bytes are given back before the result is published, and the result's after."""

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a")
        await house.idle()
        [(_, message)] = house.sent.messages
        assert house.sent.claimed == [len(message.body)]
        assert house.scrapes.budget.used == 0


def test_a_snoozed_job_holds_nothing() -> None:
    """What its pages took of the budget is given back before it is published."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.ends["a"] = NotYet("y", 100.0)
        house.deliver("a")
        await house.idle()
        assert house.sent.claimed == [0]
        assert house.record.verdict == Snooze("y", 100.0)
        assert house.record.result is None


@pytest.mark.parametrize(("expires", "wait"), [(40, 30.0), (4, 0.0), (200, 100.0)])
def test_a_snoozed_job_comes_back_when_it_expires(expires: int, wait: float) -> None:
    """At its moment, if that is before its turn; at once, if that has passed meanwhile."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.ends["a"], house.scrapes.seconds["a"] = NotYet("y", 100.0), 10.0
        moment = datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=expires)
        house.deliver("a", expires_at=moment.isoformat())
        await house.idle()
        assert isinstance(house.record.verdict, Snooze)
        assert house.record.verdict == Snooze("y", pytest.approx(wait, abs=0.01))


def test_a_promised_turn_is_what_is_left_of_it() -> None:
    """By our clock, and no more than could be left when the job came back."""

    @in_house()
    async def life(house: House) -> None:
        for turn in (f"{NOW + 60:.3f} y", f"{NOW + 60:.3f} y 20.000", f"{NOW + 9:.3f} y 20.000"):
            house.deliver("a", {"x-scraperd-turn": turn})
        await house.idle()
        found = [asked["reservation"] for asked in house.scrapes.asked]
        assert found == [Reservation("y", 60.0), Reservation("y", 20.0), Reservation("y", 9.0)]


@pytest.mark.parametrize("lack", [OutOfDescriptors(), Crowded()])
def test_a_job_whose_rules_cannot_be_compiled_now_comes_back(lack: Exception) -> None:
    """The scraper says when; the page is not asked for."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.compiled = lack
        house.deliver("a", extract={"a": "h1"})
        await house.idle()
        assert house.scrapes.lacks == [("x", lack)]
        assert house.record.verdict == Snooze("x", 7.0)
        assert house.scrapes.asked == []


def test_a_job_whose_rules_could_not_be_checked_fails() -> None:
    """As the helper's failure says; the page is not asked for."""

    @in_house()
    async def life(house: House) -> None:
        failure = Failure("extract", "the helper ended")
        house.scrapes.compiled = Unchecked(failure)
        house.deliver("a", extract={"a": "h1"})
        await house.idle()
        [result] = house.results()
        assert (result["error"]["kind"], result["url"]) == ("extract", "http://x/a")
        assert house.scrapes.asked == []


def test_an_error_of_ours_is_told_without_details() -> None:
    """The result keeps what names the job and how long it took; the log has the error by its id."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.ends["a"] = ZeroDivisionError("secret")
        house.scrapes.seconds["a"] = 4.0
        house.deliver("a", meta=1)
        await house.idle()
        [result] = house.results()
        assert result["error"] == {
            "kind": "internal",
            "message": "ZeroDivisionError in w; see its log",
        }
        assert (result["url"], result["meta"]) == ("http://x/a", 1)
        assert result["timings"]["total"] == 4.0
        assert house.told.troubles == [("internal_error", "ZeroDivisionError", {"id": "a"})]
        assert house.record.verdict == Dead("internal")


def test_a_result_larger_than_the_broker_takes_fails() -> None:
    """The limit is the broker's, to the byte."""
    for less in (0, 1):

        async def life(less: int = less) -> None:
            content = {"body": "x" * 3000}
            sizes = []
            for limit in (2**20, None):
                house = House(2**20 if limit else sizes[0] - less)
                await asyncio.sleep(0)
                house.scrapes.ends["a"] = Scraped(Facts(content=content))
                house.deliver("a")
                await house.end()
                sizes.append(len(house.sent.messages[0][1].body))
            [result] = house.results()
            assert result["status"] == ("failed" if less else "ok")

        play(life)


# --- a job that is no job


def test_what_is_no_job_is_told_to_whom_it_names() -> None:
    """By what could be read of it; no time is told, as it was not run, and it has a dead letter."""

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a", method="BREW", meta=1)
        await house.idle()
        [result] = house.results()
        assert (result["id"], result["url"], result["meta"]) == ("a", "http://x/a", 1)
        assert (result["error"]["kind"], result["error"]["field"]) == ("invalid_job", "method")
        assert "timings" not in result
        record = house.record
        assert (record.host, record.verdict) == ("x", Dead("invalid_job"))
        assert len(house.letters) == 1


@pytest.mark.parametrize(
    ("properties", "told"), [({}, 0), ({"message_id": "m"}, 1), ({"reply_to": "me"}, 1)]
)
def test_what_nothing_names_is_told_to_nobody(properties: dict[str, str], told: int) -> None:
    """Without an id and an address it has its dead letter alone."""

    @in_house()
    async def life(house: House) -> None:
        house.deliver("", body=b"[", **properties)
        await house.idle()
        assert (len(house.results()), len(house.letters)) == (told, 1)
        assert house.record.verdict == Dead("invalid_job", tell=bool(told))


# --- retries


@pytest.mark.parametrize(
    ("ours", "theirs", "attempt", "retried"),
    [
        (3, None, 3, True),
        (3, None, 4, False),
        (3, 1, 1, True),
        (3, 1, 2, False),
        (1, 3, 2, False),
    ],
)
def test_the_smaller_number_of_retries_holds(
    ours: int,
    theirs: int | None,
    attempt: int,
    retried: bool,  # noqa: FBT001 - a column
) -> None:
    """The configured one, or the job's own."""

    @in_house(jobs__max_retries=ours)
    async def life(house: House) -> None:
        house.scrapes.ends["a"] = Failed(FAILURE)
        own = {} if theirs is None else {"max_retries": theirs}
        house.deliver("a", {ATTEMPT: attempt}, **own)
        await house.idle()
        assert isinstance(house.record.verdict, Retry if retried else Dead)


@pytest.mark.parametrize("limit", [2_000, 2**20])
def test_a_result_says_that_its_job_is_a_dead_letter_only_if_it_is(limit: int) -> None:
    """The last attempt failed. A result that is too large ends the job without a dead letter."""

    @in_house(max_message=limit, jobs__max_retries=0)
    async def life(house: House) -> None:
        facts = Facts(http_status=503, content={"body": "b" * 3_000})
        house.scrapes.ends["a"] = Failed(FAILURE, facts)
        house.deliver("a")
        await house.idle()
        [result] = house.results()
        assert result["error"]["kind"] == ("connect" if limit == 2**20 else "too_large")
        assert result.get("dead_letter", False) is bool(house.letters) is (limit == 2**20)


@pytest.mark.parametrize(
    ("attempt", "asked", "delay"),
    [
        (1, UNSET, ROLL * 2),
        (2, UNSET, ROLL * 4),
        (3, UNSET, ROLL * 5),
        (1, 7.0, 7.0),
        (1, 100.0, 9.0),
    ],
)
def test_the_wait_before_a_retry(attempt: int, asked: Any, delay: float) -> None:
    """A share of the backoff up to its bound, or what the site asks for up to its own.

    The job's headers say when that wait ends.
    """

    @in_house(jobs__retry_backoff=2, jobs__retry_backoff_max=5, jobs__retry_after_max=9)
    async def life(house: House) -> None:
        failure = msgspec.structs.replace(FAILURE, retry_after=asked)
        house.scrapes.ends["a"], began = Failed(failure), house.now()
        house.deliver("a", {ATTEMPT: attempt})
        await house.idle()
        assert house.record.verdict == Retry(delay)
        [(to, message)] = house.sent.messages
        assert to == Delay(delay)
        assert float(message.headers[TURN]) - NOW - delay == pytest.approx(began, abs=0.001)


@pytest.mark.parametrize(
    ("turn", "more", "late"),
    [
        (f"{NOW - 7:.3f}", {}, 7.0),
        (f"{NOW - 7:.3f} x", {}, 7.0),
        (f"{NOW + 90:.3f}", {}, 0.0),
        (f"{NOW - 7:.3f}", {"redeliveries": 1}, None),
        (f"{NOW - 7:.3f}", {"source": Source.QUARANTINE}, None),
        (f"{NOW - 7:.3f} x", {"source": Source.SOLO}, None),
        ("soon", {}, None),
        (None, {}, None),
    ],
)
def test_how_late_a_job_came_back(turn: Any, more: dict[str, Any], late: float | None) -> None:
    """From its turn, or when its retry was due, to its first delivery; unknown of all others."""

    @in_house()
    async def life(house: House) -> None:
        began = house.now()
        house.deliver("a", {ATTEMPT: 2} | ({TURN: turn} if turn else {}), **more)
        await house.idle()
        [found] = {record.lateness for record in house.told.records}
        assert found == (pytest.approx(began + late, abs=0.001) if late else late)


def test_a_retry_that_came_back_is_not_due_again() -> None:
    """Sent on to a delay queue as it came, it is not late when it returns from there."""

    @in_house()
    async def life(house: House) -> None:
        for turn in (f"{NOW:.3f}", f"{NOW:.3f} x"):
            house.deliver("a", {ATTEMPT: 2, TURN: turn}, crowded=True)
        await house.idle()
        turns = [message.headers.get(TURN) for _, message in house.sent.messages]
        assert turns == [None, f"{NOW:.3f} x"]


# --- a job that is not run any more


GIVEN_UP = GivenUp("delivery_limit", times=20)


@pytest.mark.parametrize(
    ("given_up", "kind", "said"),
    [
        (GivenUp("expired"), "expired", "its time to live passed"),
        (GIVEN_UP, "internal", "given out 20 times and more"),
        (None, "internal", "the reason is 'unknown'"),
    ],
)
def test_what_the_broker_gave_up_is_not_run(given_up: GivenUp | None, kind: str, said: str) -> None:
    """It ends with the broker's reason, and with what a helper finds that names it."""

    @in_house()
    async def life(house: House) -> None:
        house.scrapes.peeked = Peeked("p", "http://Y/p", Raw(b"1"))
        delivery = house.deliver("a", source=Source.UNDELIVERED, given_up=given_up)
        await house.idle()
        assert house.scrapes.bodies == [delivery.body]
        assert house.scrapes.asked == []
        [result] = house.results()
        assert (result["id"], result["url"], result["meta"]) == ("p", "http://Y/p", 1)
        assert result["error"]["kind"] == kind
        assert said in result["error"]["message"]
        assert "timings" not in result
        record = house.record
        assert (record.ident, record.url, record.host) == ("p", "http://Y/p", "y")
        assert record.verdict == Dead(kind)


@pytest.mark.parametrize(("noted", "runs"), [(0, True), (1, True), (2, False)])
def test_what_was_rejected_runs_again_in_quarantine(noted: int, *, runs: bool) -> None:
    """A process may have taken it for a message that cannot be delivered. That counts as a return,
    so that it has an end.
    """

    @in_house(jobs__delivery_limit=3)
    async def life(house: House) -> None:
        notes = {STRIKES: noted} if noted else None
        given_up = GivenUp("rejected")
        house.deliver("a", notes, source=Source.UNDELIVERED, given_up=given_up)
        await house.idle()
        end = Dead("internal", tell=False)  # nothing names it
        wanted = Requeue(Into(Source.QUARANTINE)) if runs else end
        assert house.record.verdict == wanted
        assert house.record.strikes == noted + runs
        assert house.scrapes.asked == []
        if runs:
            [(_, message)] = house.sent.messages
            assert message.headers[STRIKES] == noted + 1


@pytest.mark.parametrize(
    ("peeked", "properties", "tell"),
    [
        (Peeked(), {}, False),
        (Peeked("p"), {}, True),
        (Peeked(url="http://x/"), {}, True),
        (Peeked(), {"reply_to": "me"}, True),
        (Peeked(), {"message_id": "m"}, True),
        (Peeked(), {"redeliveries": 9, "source": Source.SOLO}, True),
    ],
)
def test_an_end_that_nothing_names_is_told_to_nobody(
    peeked: Peeked,
    properties: dict[str, Any],
    tell: bool,  # noqa: FBT001 - a column
) -> None:
    """But for a job at its limit, which ended processes: that one is told in any case."""

    @in_house(jobs__delivery_limit=3)
    async def life(house: House) -> None:
        house.scrapes.peeked = peeked
        given_up = {"source": Source.UNDELIVERED, "given_up": GIVEN_UP}
        house.deliver("", body=b"[", **given_up | properties)
        await house.idle()
        assert house.record.verdict == Dead("internal", tell=tell)
        assert (len(house.results()), len(house.letters)) == (tell, 1)


@pytest.mark.parametrize(("more", "looked_at"), [(0, True), (1, False)])
def test_a_body_over_its_size_is_not_looked_at(more: int, looked_at: bool) -> None:  # noqa: FBT001
    """Not even by a helper: the end is told without what it would say."""

    @in_house(jobs__delivery_limit=3, jobs__max_size=1024)
    async def life(house: House) -> None:
        house.scrapes.peeked = Peeked("p", "http://x/p", Raw(b"1"))
        body = b"[".ljust(1024 + more)
        house.deliver("", body=body, redeliveries=9, source=Source.SOLO, message_id="m")
        await house.idle()
        [result] = house.results()
        assert (result["id"], "url" in result) == ("p" if looked_at else "m", looked_at)
        assert result["error"]["message"].startswith("delivered 11 times before")
        assert bool(house.scrapes.bodies) is looked_at


# --- a job that is moved


@pytest.mark.parametrize(
    ("properties", "name"), [({"message_id": "m"}, "m"), ({"correlation_id": "c"}, "c"), ({}, "")]
)
def test_a_job_that_is_moved_keeps_its_name(properties: dict[str, str], name: str) -> None:
    """What its properties call it travels in a header: its new message id is ours. Nobody knows its
    own id yet, so an empty one says that there was none.
    """

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a", redeliveries=1, **properties)
        await house.idle()
        [(to, message)] = house.sent.messages
        assert to == Into(Source.QUARANTINE)
        assert message.headers[ID] == name
        record = house.record
        assert (record.ident, record.verdict) == (name, Requeue(Into(Source.QUARANTINE)))
        assert (record.strikes, record.result) == (1, None)


@pytest.mark.parametrize(("more", "waits"), [(0, True), (1, False)])
def test_a_crowded_out_job_that_is_too_large_does_not_wait(
    more: int,
    waits: bool,  # noqa: FBT001 - a column
) -> None:
    """At jobs.max_size it waits for room; beyond, it can't become a job, and ends at once."""

    @in_house(jobs__max_size=1024)
    async def life(house: House) -> None:
        body = b'{"url": "http://x/a"}'.ljust(1024 + more)
        house.deliver("a", body=body, crowded=True)
        await house.idle()
        low, high = CROWDED_FOR
        delay = Delay(low + ROLL * (high - low))
        end = Requeue(delay) if waits else Dead("invalid_job", tell=False)
        assert house.record.verdict == end


def test_a_large_job_that_is_not_crowded_out_is_run() -> None:
    """Whatever its size is, as long as it is allowed."""

    @in_house(jobs__max_size=1024)
    async def life(house: House) -> None:
        house.deliver("a", body=b'{"url": "http://x/a"}'.ljust(1024))
        await house.idle()
        assert house.record.verdict == Done()


def test_only_jobs_of_the_solo_queue_are_told_to_run_alone() -> None:
    """By their names, before anything is asked of a site."""

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a")
        house.deliver("b", source=Source.QUARANTINE)
        house.deliver("c", source=Source.SOLO)
        await house.idle()
        assert house.told.alone == ["c"]


def test_a_forged_header_is_told_of() -> None:
    """One that is signed is not, nor a job without any of ours."""

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a", {ATTEMPT: 2})
        house.deliver("b")
        assert house.told.forged == 0
        house.deliver("c", Bad({ATTEMPT: 2}))
        assert house.told.forged == 1
        await house.idle()
        assert [record.attempt for record in house.told.records] == [2, 1, 1]


# --- an outcome that cannot be published


@pytest.mark.parametrize(
    ("properties", "to"),
    [
        ({}, Delay(REFUSED_FOR)),
        ({"source": Source.SOLO}, Delay(REFUSED_FOR)),
        (
            {"source": Source.UNDELIVERED, "given_up": GIVEN_UP, "message_id": "a"},
            Into(Source.UNDELIVERED),
        ),
    ],
)
def test_an_outcome_that_no_queue_takes(properties: dict[str, Any], to: Destination) -> None:
    """The job waits in the same attempt; one that was given up goes where it is not run."""

    @in_house()
    async def life(house: House) -> None:
        house.sent.raises = [Refused("rejected")]
        house.deliver("a", {ATTEMPT: 2}, **properties)
        await house.idle()
        [(where, message)] = house.sent.messages
        assert where == to
        assert (message.headers[ATTEMPT], message.headers[ID]) == (2, "a")
        record = house.record
        assert (record.verdict, record.result, record.settled) == (Requeue(to), None, True)


def test_a_lost_broker_is_recorded() -> None:
    """The record has the verdict and the result, says that it is not settled, and nothing is told
    twice.
    """

    @in_house()
    async def life(house: House) -> None:
        house.sent.raises = [Lost("cut")]
        house.deliver("a")
        await house.idle()
        record = house.record
        assert (record.verdict, record.settled) == (Done(), False)
        assert record.result is not None
        assert house.sent.messages == []
        assert house.told.troubles == []


def test_an_ack_that_came_too_late_is_recorded() -> None:
    """The outcome is out, but the job will come again."""

    async def late(_delivery: Delivery) -> bool:
        return False

    @in_house()
    async def life(house: House) -> None:
        house.deliver("a", ack=late)
        await house.idle()
        assert house.record.settled is False
        assert len(house.results()) == 1


# --- errors of ours on the way out


def test_a_publish_that_raises_ends_its_job_with_what_names_it() -> None:
    """The second trial is the end as `internal`; of the job only its id is told there."""

    @in_house()
    async def life(house: House) -> None:
        house.sent.raises = [ZeroDivisionError()]
        house.deliver("a", Bad({"own": 1}), meta=1)
        await house.idle()
        [result] = house.results()
        assert result == {
            "id": "a",
            "run": 1,
            "status": "failed",
            "error": result["error"],
            "attempt": 1,
            "dead_letter": True,
            "worker": "w",
            "contract_version": "1.0",
        }
        assert result["error"]["message"] == "ZeroDivisionError in w; see its log"
        [letter] = house.letters
        assert letter.headers["own"] == 1
        record = house.record
        assert (record.ident, record.url, record.host) == ("a", "http://x/a", "x")
        assert record.verdict == Dead("internal")
        assert house.told.troubles == [("internal_error", "ZeroDivisionError", {"id": "a"})]


def test_a_job_that_raises_twice_ends_bare() -> None:
    """Its letter has the body and a name that is new; the log tells both errors, and the record
    still where the page is.
    """

    @in_house()
    async def life(house: House) -> None:
        house.sent.raises = [ZeroDivisionError(), KeyError()]
        house.deliver("a", Bad({"own": 1}), reply_to="me")
        await house.idle()
        [letter] = house.letters
        assert "own" not in letter.headers
        assert (letter.body, letter.reply_to) == (house.letters[0].body, None)
        record = house.record
        assert record.ident == letter.headers[ID]
        assert len(record.ident) == 32
        assert (record.url, record.host) == ("http://x/a", "x")
        [result] = house.results()
        assert result["error"]["message"] == "KeyError in w; see its log"
        assert house.told.troubles == [
            ("internal_error", "ZeroDivisionError", {"id": "a"}),
            ("internal_error", "KeyError", {"id": None}),
        ]


def test_a_job_that_cannot_be_read_ends_bare() -> None:
    """Of headers that raise nothing travels on."""

    @in_house()
    async def life(house: House) -> None:
        headers = Bad({"own": 1, "x-scraperd-attempt": 2})
        headers.get_raises = True
        house.deliver("a", headers)
        await house.idle()
        [letter] = house.letters
        assert "own" not in letter.headers
        assert house.record.verdict == Dead("internal")
        assert house.told.troubles == [("internal_error", "ZeroDivisionError", {"id": None})]


@pytest.mark.parametrize("raises", ["publish", "ack"])
def test_a_job_that_cannot_be_settled_at_all_ends_its_epoch(raises: str) -> None:
    """The reason names the error; the redelivery is held against the job, and an ack that failed is
    not tried again.
    """
    acks = []

    async def ack(delivery: Delivery) -> bool:
        acks.append(delivery)
        raise ZeroDivisionError

    @in_house()
    async def life(house: House) -> None:
        if raises == "publish":
            house.sent.raises = [KeyError(), KeyError(), ZeroDivisionError()]
        house.deliver("a", ack=None if raises == "publish" else ack)
        await house.idle()
        assert house.epoch.lost.result() == "a job could not be settled: ZeroDivisionError"
        assert len(house.sent.messages) == (raises == "ack")
        assert len(acks) == (raises == "ack")
        assert house.told.records == []
        house.deliver("a", redeliveries=1, epoch=Owner(on_end=house.worker.abandon))
        await house.idle()
        assert house.record.strikes == 1


@pytest.mark.parametrize("lost", [True, False])
def test_an_error_in_the_telling_changes_nothing(lost: bool) -> None:  # noqa: FBT001 - a column
    """What is settled, or lost, is not settled again; its epoch goes on, and the log has it."""

    @in_house()
    async def life(house: House) -> None:
        house.told.raises = True
        house.sent.raises = [Lost("cut")] if lost else []
        house.deliver("a")
        await house.idle()
        assert [result["status"] for result in house.results()] == ([] if lost else ["ok"])
        assert len(house.told.records) == 1
        assert not house.epoch.lost.done()
        assert house.told.troubles == [("internal_error", "ZeroDivisionError", {"id": "a"})]


# --- an epoch that ends


@pytest.mark.parametrize("phase", ["waiting", "scraping", "settling"])
@pytest.mark.parametrize("blamed", [True, False])
@pytest.mark.parametrize("proven", [True, False])
def test_whose_return_is_held_against_them(phase: str, *, blamed: bool, proven: bool) -> None:
    """Only that of jobs being published when the broker closed the connection over a publish, and
    only if the broker takes other outcomes: it may refuse them all. What is being published goes
    on; all else is cut off and not heard of again.
    """

    @in_house()
    async def life(house: House) -> None:
        epoch = Owner(blamed, house.worker.abandon)
        if proven:
            house.deliver("good")
            await house.idle()
            house.told.records.clear()
        house.scrapes.seconds["a"] = 0.0 if phase == "settling" else 50.0
        house.scrapes.waiting = {"a"} if phase == "waiting" else set()
        house.sent.latency = 50.0
        house.deliver("a", source=Source.SOLO, epoch=epoch)
        await asyncio.sleep(1)
        epoch.end("cut")
        await house.idle()
        assert len(house.told.records) == (phase == "settling")
        house.told.records.clear()
        house.scrapes.seconds["a"] = 0.0
        house.deliver("a", source=Source.SOLO, redeliveries=1)
        await house.idle()
        assert house.record.strikes == 2 + (blamed and proven and phase == "settling")


# --- the end of the process


def test_each_phase_has_its_own_way_to_end() -> None:
    """What waits goes back at once, what is fetched after the time that is given, what is being
    published after the grace on top; the last two are counted as left, what goes back is not.
    """

    async def life() -> None:
        house = House()
        await asyncio.sleep(0)
        house.scrapes.seconds = {"waits": 99, "quick": 5, "slow": 99, "stuck": 8, "late": 8}
        house.scrapes.waiting = {"waits"}
        house.sent.stuck = {b'"stuck"'}
        house.sent.latency = 4.0
        for path in house.scrapes.seconds:
            house.deliver(path)
        await asyncio.sleep(1)
        assert house.worker.draining is False
        assert house.worker.in_flight == 5
        began = house.now()
        assert await house.worker.drain(10) == 2
        assert house.now() == pytest.approx(began + 10 + SETTLE_GRACE)
        assert house.worker.draining is True
        await asyncio.wait_for(house.running, 1)
        ends = {record.ident: record.verdict for record in house.told.records}
        back = Requeue(Into(Source.JOBS))
        assert ends == {"waits": back, "quick": Done(), "slow": back, "late": Done()}
        assert house.worker.in_flight == 0

    play(life)


def test_the_end_comes_with_the_last_job() -> None:
    """Not later; and at once where there is none."""

    async def life() -> None:
        for seconds, left in ((5.0, 0), (0.0, 0)):
            house = House()
            await asyncio.sleep(0)
            if seconds:
                house.scrapes.seconds["a"] = seconds
                house.deliver("a")
                await asyncio.sleep(1)
            began = house.now()
            assert await house.worker.drain(100) == left
            assert house.now() == pytest.approx(began + max(0.0, seconds - 1))
            await asyncio.wait_for(house.running, 1)

    play(life)


def test_what_goes_back_is_not_cut_off() -> None:
    """It is being published: closing again, or the end of its epoch, does not stop it."""

    async def life() -> None:
        house = House()
        await asyncio.sleep(0)
        house.sent.latency = 3.0
        house.worker.close()
        house.deliver("a", message_id="a")
        assert house.worker.in_flight == 1
        draining = asyncio.create_task(house.worker.drain(10))
        await asyncio.sleep(1)
        house.worker.close()
        house.epoch.end("cut")
        assert await draining == 0
        assert house.record.verdict == Requeue(Into(Source.JOBS))
        assert [to for to, _ in house.sent.messages] == [Into(Source.JOBS)]
        await asyncio.wait_for(house.running, 1)

    play(life)


def test_what_goes_back_counts_as_being_published_at_once() -> None:
    """Also where its epoch ends in the turn of the loop in which the drain begins."""

    async def life() -> None:
        house = House()
        await asyncio.sleep(0)
        house.worker.close()
        house.deliver("a", message_id="a")
        draining = asyncio.create_task(house.worker.drain(10))
        asyncio.get_running_loop().call_soon(house.epoch.end, "cut")
        assert await draining == 0
        assert house.record.verdict == Requeue(Into(Source.JOBS))
        await asyncio.wait_for(house.running, 1)

    play(life)


def test_a_job_that_was_read_goes_back_by_its_own_name() -> None:
    """Its body said it; and a lost epoch gets nothing back."""

    async def life() -> None:
        house = House()
        await asyncio.sleep(0)
        gone = Owner(on_end=house.worker.abandon)
        house.scrapes.seconds, house.scrapes.waiting = {"a": 99, "b": 99}, {"a", "b"}
        house.deliver("a", message_id="m")
        house.deliver("b", epoch=gone)
        await asyncio.sleep(1)
        house.worker.close()
        gone.lost.set_result("cut")
        assert await house.worker.drain(10) == 0
        [(_, message)] = house.sent.messages
        assert message.headers[ID] == "a"
        await asyncio.wait_for(house.running, 1)

    play(life)
